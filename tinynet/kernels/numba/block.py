"""The fused block on 16 lanes: upsampling, convolution, ReLU and pooling while 16 images are in cache.

Nothing between the steps is written to memory.  Forward keeps the pooled value and one byte that
says where it came from; backward spreads the cotangent from these into a padded scratch image and
runs both convolutions of backward on it while it is in cache.  The inner loops are those of
products.py, on tables of taps and positions.

Upsampling by f before the convolution costs nothing and saves much: output row f n + q reads input
rows n + floor((q + u - p) / f) for kernel rows u and padding p.  Kernel rows that read the same
input row are added up first, so 3x3 after doubling is four 2x2 convolutions, at 4/9 of the
arithmetic.  Each q (of rows and of columns) is a phase with its own weights and targets; without
upsampling there is one phase.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.block import Block
from tinynet.kernels.numba import winograd
from tinynet.kernels.numba.block_tables import Tables, mix_weights, tables_for, unmix_weights
from tinynet.kernels.numba.compile import inlined, kernel
from tinynet.kernels.numba.convolution import weighted_sums_of_blocks
from tinynet.kernels.numba.memory import empty, flat, scratch
from tinynet.kernels.numba.padding import copy_inside, fill
from tinynet.kernels.numba.parallel import group_edges, over_blocks, over_some_groups
from tinynet.kernels.numba.products import kept_numbers, outer_products, tile_edges, weighted_sums
from tinynet.kernels.numba.rearranging import added_up, rearranged
from tinynet.kernels.numba.simd import (
    LANES,
    add,
    lane_sum,
    load,
    load_places,
    offset,
    pointer,
    store,
    where_above,
    where_not_place,
    where_place,
    zero,
)
from tinynet.kernels.numba.tiles import ROWS
from tinynet.kernels.numba.winograd import winograd_sums
from tinynet.kernels.recording import after, before


@inlined
def _spread(dy, y, code, block, outputs, low, high, size, image, relu, pool, spread, db):
    """The gradient of the convolution's result into the middle of an image of zeros; its sums into db.

    Of the outputs low..high, which become the image's first planes.
    """
    height, width = size
    top, left, image_height, image_width = image
    step = 2 if pool else 1
    for o in range(low, high):
        total = zero(dy)
        for i in range(height):
            source = ((block * outputs + o) * height + i) * width * 16
            target = (((o - low) * image_height + i * step + top) * image_width + left) * 16
            for _ in range(width):
                cotangent = load(dy, source)
                if pool:
                    # Four comparisons of bytes would each be widened to numbers; this widens them once.
                    places = load_places(code, source, dy)
                    below = target + image_width * 16
                    store(spread, target, where_place(places, 0, cotangent))
                    store(spread, target + 16, where_place(places, 1, cotangent))
                    store(spread, below, where_place(places, 2, cotangent))
                    store(spread, below + 16, where_place(places, 3, cotangent))
                    total = add(total, where_not_place(places, 4, cotangent))
                else:
                    if relu:
                        cotangent = where_above(load(y, source), y.dtype.type(0), cotangent)
                    total = add(total, cotangent)
                    store(spread, target, cotangent)
                source += 16
                target += step * 16
        db[o] += lane_sum(total)


@kernel
def _winograd_forward(
    x, weights, bias, nothing, taps, square, corners, targets, shape, padding, outputs, plane, relu, pool,
    first, last, padded, between, y, code,
):  # fmt: skip
    """Blocks first..last by winograd.py: pad, sum, and rectify or pool on the way out."""
    channels, height, width = shape
    row, x_plane = padding[3] * 16, padding[2] * padding[3] * 16
    fill(padded, 0, padded.size)
    for block in range(first, last):
        copy_inside(
            offset(x, block * channels * height * width * 16), channels, height, width, padding, padded
        )
        winograd_sums(
            pointer(padded), row, x_plane, channels, pointer(weights), pointer(bias), pointer(nothing),
            pointer(taps), pointer(square), pointer(corners), corners.size, pointer(targets), outputs,
            offset(y, block * outputs * plane), plane, offset(code, block * outputs * plane), relu, pool,
            pointer(between),
        )  # fmt: skip


@kernel
def _backward(
    dy, x, y, code, weights, taps, sources, dy_targets, dx_taps, dx_positions, dx_targets, shape, padding,
    outputs, size, image, relu, pool, needs_input, winograd, taps_of_pieces, square, edges, first, last,
    padded, spread, kept, nothing, dw, db, dx,
):  # fmt: skip
    """Groups first..last of blocks, each with its own sums; group g is the blocks edges[g]..edges[g + 1].

    For every block: spread the cotangent, add to dw and db, write dx.  Where dx is not wanted, the
    cotangent is spread for one tile of outputs after another: 16 planes of 32x32 would not stay in the
    second-level cache.
    """
    channels, height, width = shape
    phases, count = taps.shape
    plane, image_plane = height * width * 16, image[2] * image[3] * 16
    tall, two = tile_edges(outputs)
    fill(spread, 0, spread.size)  # what lies around and between what is spread stays zero
    fill(padded, 0, padded.size)
    for group in range(first, last):
        for block in range(edges[group], edges[group + 1]):
            source = offset(x, block * channels * plane)
            if padded.size > 0:
                copy_inside(source, channels, height, width, padding, padded)
                source = pointer(padded)
            low = 0
            while low < outputs:
                high = outputs if needs_input else low + (ROWS if low < tall else 2 if low < two else 1)
                _spread(dy, y, code, block, outputs, low, high, size, image, relu, pool, spread, db[group])
                for phase in range(phases):
                    outer_products(
                        source, pointer(spread), image_plane, 0, high - low, offset(taps, phase * count),
                        count, pointer(sources), offset(dy_targets, phase * sources.size), sources.size,
                        offset(dw, ((group * phases + phase) * outputs + low) * count),
                    )  # fmt: skip
                low = high
            if not needs_input:
                continue
            # The same sums of the cotangent image, with transposed weights.
            if winograd:
                winograd_sums(
                    pointer(spread), image[3] * 16, image_plane, outputs, pointer(weights), pointer(nothing),
                    pointer(nothing), pointer(taps_of_pieces), pointer(square), pointer(dx_positions),
                    dx_positions.size, pointer(dx_targets), channels, offset(dx, block * channels * plane),
                    plane, pointer(code), False, False, pointer(kept),
                )  # fmt: skip
            else:
                weighted_sums(
                    pointer(spread), pointer(weights), pointer(nothing), pointer(dx_taps), dx_taps.size,
                    pointer(dx_positions), pointer(dx_targets), 0, dx_positions.size, channels,
                    offset(dx, block * channels * plane), plane, pointer(code), False, False, pointer(kept),
                )  # fmt: skip


# The same signatures as numpy/block.py.


def conv_block(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, block: Block
) -> tuple[np.ndarray, np.ndarray | None]:
    """(B, C, H, W, 16) * (kh, kw, C, O) + (O,) -> (B, O, H', W', 16), and with pooling codes."""
    blocks, channels, height, width, _ = x.shape
    outputs = weight.shape[3]
    tables = tables_for(block, channels, outputs, height, width)
    size = block.output_size(height, width)
    plane = size[0] * size[1] * LANES
    y = empty((blocks, outputs, *size, LANES), x.dtype)
    code = empty(y.shape if block.pool else (0,), np.uint8)
    flat_x, flat_y, flat_code, bias = flat(x), y.reshape(-1), code.reshape(-1), flat(bias)
    work = _work(tables, blocks, outputs)
    if winograd.suits(block, channels, outputs, height, width):
        w = winograd.tables_for(
            channels, outputs, *block.convolved_size(height, width), block.pool, backward=False
        )
        packed, nothing = before(lambda: w.pack(weight)), np.zeros(outputs, x.dtype)

        def winograd_task(first: int, last: int) -> None:
            padded = scratch("padded", tables.padded_size(channels), x.dtype)
            between = scratch("winograd", winograd.room(channels, outputs), x.dtype)
            _winograd_forward(
                flat_x, packed, bias, nothing, w.taps, w.square, w.corners, w.targets,
                (channels, height, width), tables.padding, outputs, plane, block.relu, block.pool, first,
                last, padded, between, flat_y, flat_code,
            )  # fmt: skip

        over_blocks(winograd_task, blocks, work)
        return y, code if block.pool else None
    packed = rearranged(_mixed(weight, tables), tables.forward_order)

    def task(first: int, last: int) -> None:
        padded = scratch("padded", tables.padded_size(channels), x.dtype)
        kept = scratch("kept", kept_numbers(tables.tap_count, outputs), x.dtype)
        weighted_sums_of_blocks(
            flat_x, packed, bias, tables.taps, tables.positions, tables.targets, tables.tap_count,
            0, tables.positions.size, (channels, height, width), tables.padding, 1, outputs, plane,
            outputs * plane, block.relu, block.pool, first, last, padded, kept, flat_y, flat_code,
        )  # fmt: skip

    over_blocks(task, blocks, work)
    return y, code if block.pool else None


def conv_block_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    y: np.ndarray,
    code: np.ndarray | None,
    block: Block,
    needs_input: bool,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """The gradients for x (None unless needed), weight and bias; y and code as conv_block returned them."""
    blocks, channels, height, width, _ = x.shape
    outputs = weight.shape[3]
    tables = tables_for(block, channels, outputs, height, width)
    by_winograd = needs_input and winograd.suits(block, channels, outputs, height, width)
    if by_winograd:
        w = winograd.tables_for(outputs, channels, height, width, pool=False, backward=True)
        packed, room = before(lambda: w.pack(weight)), winograd.room(outputs, channels)
        back = w.taps, w.corners, w.targets
        pieces = w.taps, w.square
    else:
        packed = np.empty(0, x.dtype)
        if needs_input:
            packed = rearranged(_mixed(weight, tables), tables.backward_order)
        room = kept_numbers(tables.dx_taps.size, channels)
        back = tables.dx_taps, tables.dx_positions, tables.dx_targets
        pieces = tables.dx_taps, tables.dx_taps
    edges = group_edges(blocks)
    groups = len(edges) - 1
    dw = np.empty((groups, outputs * tables.taps.size), x.dtype)
    db, nothing = np.empty((groups, outputs), x.dtype), np.zeros(channels, x.dtype)
    before(lambda: dw.fill(0))
    before(lambda: db.fill(0))
    dx = empty(x.shape if needs_input else (0,), x.dtype)
    flat_dy, flat_x, flat_y = flat(dy), flat(x), flat(y)
    flat_code = np.empty(0, np.uint8) if code is None else flat(code)
    flat_dx = dx.reshape(-1)

    planes = outputs if needs_input else min(outputs, ROWS)

    def task(first: int, last: int) -> None:
        padded = scratch("padded", tables.padded_size(channels), x.dtype)
        spread = scratch("spread", planes * tables.image[2] * tables.image[3] * LANES, x.dtype)
        kept = scratch("winograd" if by_winograd else "kept", room, x.dtype)
        _backward(
            flat_dy, flat_x, flat_y, flat_code, packed, tables.taps, tables.sources, tables.dy_targets,
            *back, (channels, height, width), tables.padding, outputs, block.output_size(height, width),
            tables.image, block.relu, block.pool, needs_input, by_winograd, *pieces, edges, first, last,
            padded, spread, kept, nothing, dw, db, flat_dx,
        )  # fmt: skip

    over_some_groups(task, blocks, 2 * _work(tables, blocks, outputs))
    gradient = added_up(dw, tables.gradient_order)
    if tables.mixing is None:
        unmixed = gradient.reshape(weight.shape)
    else:
        unmixed = after(lambda: unmix_weights(gradient, weight.shape, tables))
    return dx if needs_input else None, unmixed, added_up(db, np.arange(outputs))


def _mixed(weight: np.ndarray, tables: Tables) -> np.ndarray:
    return weight if tables.mixing is None else before(lambda: mix_weights(weight, tables))


def _work(tables: Tables, blocks: int, outputs: int) -> float:
    return float(blocks) * LANES * tables.positions.size * tables.tap_count * len(tables.taps) * outputs
