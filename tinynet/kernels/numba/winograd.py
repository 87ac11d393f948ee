"""Winograd's convolution F(2x2, 3x3): four outputs of a 3x3 kernel for 16 multiplications instead of 36.

With d a 4x4 piece of the padded input, g a 3x3 kernel, and o, c the channels,

    y = A^T [ sum over c of (G g G^T) * (B^T d B) ] A        (* is entry by entry)

    B^T = 1  0 -1  0      G = 1    0   0       A^T = 1 1  1  0
          0  1  1  0          1/2  1/2 1/2           0 1 -1 -1
          0 -1  1  0          1/2 -1/2 1/2
          0  1  0 -1          0    0   1

so that each of the 16 entries is a 1x1 convolution of its own: the weighted sums of products.py.  Four
pieces, a tile's part of the lanes and CHUNK outputs are done at a time: with the kernels' transforms they
fit the second-level cache (for 64 -> 64 channels in parts of 8 lanes 262 + 131 + 25 kB).  Below MANY
channels the transforms cost what the multiplications save.

Rounding differs from direct sums by a few units in the last place, and a NaN or an infinity reaches all
four outputs of the pieces it is in, not only those whose window holds it.

Source: Lavin and Gray, Fast algorithms for convolutional neural networks (arXiv:1509.09308), section 4.1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinynet.kernels.block import Block
from tinynet.kernels.numba.compile import inlined
from tinynet.kernels.numba.convolution_tables import whole_tiles
from tinynet.kernels.numba.products import KEPT, tile_weights, weighted_sums
from tinynet.kernels.numba.simd import LANES, load_vector, offset, splat_scalar, store_vector
from tinynet.kernels.numba.tiles import (
    ROWS,
    WIDTH,
    Tile,
    load_scalar,
    tile_pool_store,
    tile_rectify,
    tile_store,
    tile_vector,
)

MANY = 32  # channels, in and out, from which on it is faster: by a fifth there, at 64 by half
ENTRIES = 16
CHUNK = 12  # outputs, a multiple of every tile's rows

KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G


def suits(block: Block, channels: int, outputs: int, height: int, width: int) -> bool:
    """Whether a block is done so, forward and for its input's gradient: 3x3, many channels, even sizes."""
    window = block.window
    sizes = (height, width, *block.convolved_size(height, width))
    return (
        min(channels, outputs) >= MANY
        and (window.size, window.dilation, block.factor) == ((3, 3), (1, 1), (1, 1))
        and window.padding == ((1, 1), (1, 1))
        and not any(size % 2 for size in sizes)
    )


class Tables(NamedTuple):
    """Of one direction: from (channels, height + 2, width + 2) to (outputs, height, width)."""

    corners: np.ndarray  # int64, where each 4x4 piece begins on the padded input; a multiple of 4 of them
    targets: np.ndarray  # int64, four a piece: where its outputs are stored, or with pooling its maximum
    taps: np.ndarray  # int64 (channels,): where each channel's four pieces lie among the transformed ones
    square: np.ndarray  # int64 (4,): the four pieces
    transform: np.ndarray  # (16, 9): G g G^T as a matrix
    order: np.ndarray  # of the transformed weights (16, C, O): entry, tile of outputs, channel, output

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """(3, 3, C, O) -> transformed, in `order`."""
        return (self.transform.astype(weight.dtype) @ weight.reshape(9, -1)).ravel()[self.order]


@lru_cache(maxsize=64)
def tables_for(channels: int, outputs: int, height: int, width: int, pool: bool, backward: bool) -> Tables:
    """Forward, or backward: then height and width are the input's, and the kernel is turned round.

    Backward, `channels` are those of the cotangent and `outputs` those of the gradient.
    """
    i, j = np.divmod(np.arange(height // 2 * (width // 2)), width // 2)
    corners = (2 * i * (width + 2) + 2 * j) * LANES
    if pool:
        targets = np.repeat((i * (width // 2) + j) * LANES, 4)
    else:
        rows, columns = 2 * i[:, None] + [0, 0, 1, 1], 2 * j[:, None] + [0, 1, 0, 1]
        targets = ((rows * width + columns) * LANES).ravel()
    whole = whole_tiles(corners)
    missing = len(whole) - len(corners)
    transform = np.einsum("iu,jv->ijuv", KERNEL_TRANSFORM, KERNEL_TRANSFORM).reshape(ENTRIES, 9)
    weights = np.arange(ENTRIES * channels * outputs)
    if backward:  # the weights come as (3, 3, outputs, channels)
        transform = transform[:, ::-1]
        weights = weights.reshape(ENTRIES, outputs, channels).transpose(0, 2, 1)
    order = weights.reshape(ENTRIES, channels * outputs)[:, tile_weights(channels, outputs)]
    return Tables(
        whole,
        np.concatenate([targets, *[targets[-4:]] * missing]).astype(np.int64),
        np.arange(channels, dtype=np.int64) * 4 * WIDTH,
        np.arange(4, dtype=np.int64) * WIDTH,
        np.ascontiguousarray(transform),
        order.ravel(),
    )


def room(channels: int, outputs: int) -> int:
    """Numbers of scratch: transformed pieces, their sums, and what weighted_sums may want."""
    return (channels + CHUNK + ROWS) * ENTRIES * 4 * WIDTH + outputs * KEPT


@intrinsic
def transform_piece(typing, x, index, row, pixel, pieces, target, stride):
    """pieces[target + e * stride] = entry e of B^T d B, in WIDTH lanes.

    d begins at x[index]; row and pixel are the steps of x from there.
    """

    def generate(context, builder, signature, arguments):
        x, index, row, pixel, pieces, target, stride = arguments

        def number(i, j):
            at = builder.add(index, builder.mul(row, context.get_constant(types.intp, i)))
            at = builder.add(at, builder.mul(pixel, context.get_constant(types.intp, j)))
            return load_vector(context, builder, signature.args[0], x, at, WIDTH)

        def along(d):  # B^T on four vectors
            return (
                builder.fsub(d[0], d[2]),
                builder.fadd(d[1], d[2]),
                builder.fsub(d[2], d[1]),
                builder.fsub(d[1], d[3]),
            )

        columns = [along([number(i, j) for i in range(4)]) for j in range(4)]
        for i in range(4):
            for entry in along([columns[j][i] for j in range(4)]):
                store_vector(context, builder, signature.args[4], pieces, target, entry)
                target = builder.add(target, stride)
        return context.get_dummy_value()

    step = types.intp
    return types.void(x, types.intp, step, step, pieces, types.intp, step), generate


@intrinsic
def outputs_of_piece(typing, sums, index, stride, bias, o):
    """The Tile of one row and four columns  bias[o] + A^T m A,  m[e] = sums[index + e * stride]."""
    tile = Tile(sums.dtype, 1, 4)

    def generate(context, builder, signature, arguments):
        sums, index, stride, bias, o = arguments
        entries = []
        for _ in range(ENTRIES):
            entries.append(load_vector(context, builder, signature.args[0], sums, index, WIDTH))
            index = builder.add(index, stride)

        def along(m):  # A^T on four vectors
            middle, difference = builder.fadd(m[1], m[2]), builder.fsub(m[1], m[2])
            return builder.fadd(m[0], middle), builder.fsub(difference, m[3])

        columns = [along([entries[4 * i + j] for i in range(4)]) for j in range(4)]
        scalar = load_scalar(context, builder, signature.args[3], bias, o, 0)
        added = splat_scalar(builder, tile_vector(tile.scalar), scalar)
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for i in range(2):
            for j, output in enumerate(along([columns[j][i] for j in range(4)])):
                value = builder.insert_value(value, builder.fadd(output, added), 2 * i + j)
        return value

    return tile(sums, types.intp, types.intp, bias, types.intp), generate


@inlined
def winograd_sums(
    x, row, x_plane, channels, weights, bias, nothing, taps, square, corners, count, targets, outputs, y,
    plane, code, relu, pool, scratch,
):  # fmt: skip
    """The convolution of one padded block x: channels planes, rows of `row` numbers.  Arrays are pointers.

    weights  as Tables.pack gives them; nothing: `outputs` zeros; count: corners
    y        outputs planes, rectified, and pooled, if asked
    scratch  of room(channels, outputs)
    """
    step, most = channels * 4 * WIDTH, CHUNK + ROWS
    sums = offset(scratch, ENTRIES * step)
    kept = offset(sums, ENTRIES * most * 4 * WIDTH)
    for p in range(0, count, 4):
        for part in range(0, LANES, WIDTH):
            for c in range(channels):
                for k in range(4):
                    source, target = c * x_plane + corners[p + k] + part, (c * 4 + k) * WIDTH
                    transform_piece(x, source, row, LANES, scratch, target, step)
            o = 0
            while o < outputs:
                # What is left over goes with the last chunk: so tiles begin where those of all outputs do.
                several = CHUNK if outputs - o > most else outputs - o
                stride = several * 4 * WIDTH
                for entry in range(ENTRIES):
                    weighted_sums(
                        offset(scratch, entry * step), offset(weights, (entry * outputs + o) * channels),
                        nothing, taps, channels, square, square, 0, 4, several, offset(sums, entry * stride),
                        4 * WIDTH, code, False, False, kept, WIDTH,
                    )  # fmt: skip
                for more in range(several):
                    to = (o + more) * plane + part
                    for k in range(4):
                        at = (p + k) * 4
                        tile = outputs_of_piece(sums, (more * 4 + k) * WIDTH, stride, bias, o + more)
                        if pool:
                            tile_pool_store(tile, y, code, to + targets[at], plane)
                            continue
                        if relu:
                            tile = tile_rectify(tile)
                        stored = (targets[at], targets[at + 1], targets[at + 2], targets[at + 3])
                        tile_store(tile, y, to, plane, stored)
                o += several
