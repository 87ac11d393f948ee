"""The fused block on 16 lanes: upsampling, convolution, ReLU and pooling while 16 images are in cache.

Nothing between the steps is written to memory.  Forward keeps the pooled value and one byte that
says where it came from; backward spreads the cotangent from these into a padded scratch image and
runs both convolutions of backward on it while it is in cache.  The inner loops are those of
convolution.py, on tables of taps and positions.

Upsampling by f before the convolution costs nothing and saves much: output row f n + q reads input
rows n + floor((q + u - p) / f) for kernel rows u and padding p.  Kernel rows that read the same
input row are added up first, so 3x3 after doubling is four 2x2 convolutions, at 4/9 of the
arithmetic.  Each q (of rows and of columns) is a phase with its own weights and targets; without
upsampling there is one phase.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.block import Block
from tinynet.kernels.numba.block_tables import Tables, mix_weights, pack_tiles, tables_for, unmix_weights
from tinynet.kernels.numba.compile import inlined, kernel
from tinynet.kernels.numba.memory import empty
from tinynet.kernels.numba.padding import copy_padded
from tinynet.kernels.numba.parallel import group_edges, over_ranges
from tinynet.kernels.numba.simd import LANES, add, lane_sum, load, store, where_above, where_code, zero
from tinynet.kernels.numba.tiles import (
    tile_add_outer,
    tile_add_weighted,
    tile_lane_sums,
    tile_pool_store,
    tile_rectify,
    tile_rows,
    tile_store,
    tile_zero,
)


@kernel
def _forward(
    x, weights, bias, taps, positions, targets, shape, padding, count, outputs, plane, relu, pool, stretch,
    first, last, scratch, y, code,
):  # fmt: skip
    """Blocks first..last: pad; for every phase and tile accumulate, and rectify or pool on the way out."""
    channels, height, width = shape
    phases = taps.shape[0]
    tiled = (outputs + 3) // 4 * 4
    for block in range(first, last):
        source, start = x, block * channels * height * width * 16
        if scratch.size > 0:
            copy_padded(x, start, channels, height, width, padding, scratch)
            source, start = scratch, 0
        for phase in range(phases):
            for begin in range(0, positions.size, stretch):  # so that what is read stays in cache
                end = min(begin + stretch, positions.size)
                for o in range(0, outputs, 4):
                    rows = min(4, outputs - o)
                    out = (block * outputs + o) * plane
                    for p in range(begin, end, 4):
                        columns = (positions[p], positions[p + 1], positions[p + 2], positions[p + 3])
                        tile = tile_rows(bias, o, 4, 4)
                        w = (phase * tiled + o) * count
                        for t in range(count):
                            tile = tile_add_weighted(
                                tile, weights, w, source, start + taps[phase, t], columns
                            )
                            w += 4
                        if pool:  # the four positions of a tile are one window
                            tile_pool_store(tile, y, code, out + targets[phase, p], plane, rows, relu)
                            continue
                        if relu:
                            tile = tile_rectify(tile)
                        stored = (
                            targets[phase, p], targets[phase, p + 1],
                            targets[phase, p + 2], targets[phase, p + 3],
                        )  # fmt: skip
                        tile_store(tile, y, out, plane, stored, rows)


@inlined
def _spread(dy, y, code, block, outputs, size, image, relu, pool, scratch, db):
    """The gradient of the convolution's result into a zeroed image with room around it; its sums into db."""
    height, width = size
    top, left, image_height, image_width = image
    nothing = zero(dy)
    for at in range(0, outputs * image_height * image_width * 16, 16):
        store(scratch, at, nothing)
    step = 2 if pool else 1
    for o in range(outputs):
        total = zero(dy)
        for i in range(height):
            for j in range(width):
                source = (((block * outputs + o) * height + i) * width + j) * 16
                target = ((o * image_height + i * step + top) * image_width + j * step + left) * 16
                cotangent = load(dy, source)
                if pool:
                    for place in range(4):
                        share = where_code(code, source, place, cotangent)
                        total = add(total, share)
                        store(scratch, target + ((place >> 1) * image_width + (place & 1)) * 16, share)
                    continue
                if relu:
                    cotangent = where_above(load(y, source), y.dtype.type(0), cotangent)
                total = add(total, cotangent)
                store(scratch, target, cotangent)
        db[o] += lane_sum(total)


@inlined
def _backward_blocks(
    dy, x, y, code, weights, taps, sources, dy_targets, dx_taps, dx_positions, dx_targets, shape, padding,
    outputs, size, image, relu, pool, needs_input, stretch, first, last, x_scratch, dy_scratch, nothing,
    dw, db, dx,
):  # fmt: skip
    """Blocks first..last: spread the cotangent, add to dw and db, write dx."""
    channels, height, width = shape
    phases, count = taps.shape
    plane, image_plane = height * width * 16, image[2] * image[3] * 16
    tiled = (outputs + 3) // 4 * 4
    for block in range(first, last):
        _spread(dy, y, code, block, outputs, size, image, relu, pool, dy_scratch, db)
        source, start = x, block * channels * plane
        if x_scratch.size > 0:
            copy_padded(x, start, channels, height, width, padding, x_scratch)
            source, start = x_scratch, 0
        # dw[phase, o, t] += sum over positions of dy[o] * x[tap t], summed over lanes
        for phase in range(phases):
            for o in range(0, outputs, 4):
                last_output = outputs - 1
                rows = (
                    o * image_plane, min(o + 1, last_output) * image_plane,
                    min(o + 2, last_output) * image_plane, min(o + 3, last_output) * image_plane,
                )  # fmt: skip
                for t in range(0, count, 4):
                    columns = (
                        start + taps[phase, t], start + taps[phase, t + 1],
                        start + taps[phase, t + 2], start + taps[phase, t + 3],
                    )  # fmt: skip
                    tile = tile_zero(x, 4, 4)
                    for p in range(sources.size):
                        tile = tile_add_outer(
                            tile, dy_scratch, dy_targets[phase, p], rows, source, sources[p], columns
                        )
                    tile_lane_sums(tile, dw, (phase * tiled + o) * count + t * 4)
        # dx[c] = sum over the taps of the cotangent image, with transposed weights
        if needs_input:
            for begin in range(0, dx_positions.size, stretch):
                end = min(begin + stretch, dx_positions.size)
                for c in range(0, channels, 4):
                    for p in range(begin, end, 4):
                        columns = (
                            dx_positions[p], dx_positions[p + 1], dx_positions[p + 2], dx_positions[p + 3],
                        )  # fmt: skip
                        tile = tile_rows(nothing, c, 4, 4)
                        w = c * dx_taps.size
                        for t in range(dx_taps.size):
                            tile = tile_add_weighted(tile, weights, w, dy_scratch, dx_taps[t], columns)
                            w += 4
                        stored = (dx_targets[p], dx_targets[p + 1], dx_targets[p + 2], dx_targets[p + 3])
                        here = (block * channels + c) * plane
                        tile_store(tile, dx, here, plane, stored, min(4, channels - c))


@kernel
def _backward(
    dy, x, y, code, weights, taps, sources, dy_targets, dx_taps, dx_positions, dx_targets, shape, padding,
    outputs, size, image, relu, pool, needs_input, stretch, edges, first, last, x_scratch, dy_scratch,
    nothing, dw, db, dx,
):  # fmt: skip
    """Groups first..last of blocks, each with its own sums; group g is the blocks edges[g]..edges[g + 1]."""
    for group in range(first, last):
        _backward_blocks(
            dy, x, y, code, weights, taps, sources, dy_targets, dx_taps, dx_positions, dx_targets, shape,
            padding, outputs, size, image, relu, pool, needs_input, stretch, edges[group], edges[group + 1],
            x_scratch, dy_scratch, nothing, dw[group], db[group], dx,
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
    y = empty((blocks, outputs, *size, LANES), x.dtype)
    code = empty(y.shape if block.pool else (0,), np.uint8)
    packed, packed_bias = pack_tiles(mix_weights(weight, tables), bias)
    flat, flat_y, flat_code = x.ravel(), y.reshape(-1), code.reshape(-1)

    def task(first: int, last: int) -> None:
        scratch = empty((tables.padded_size(channels),), x.dtype)
        _forward(
            flat, packed, packed_bias, tables.taps, tables.positions, tables.targets,
            (channels, height, width), tables.padding, tables.tap_count, outputs, size[0] * size[1] * LANES,
            block.relu, block.pool, tables.stretch, first, last, scratch, flat_y, flat_code,
        )  # fmt: skip

    over_ranges(task, blocks, _work(tables, blocks, outputs))
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
    mixed = mix_weights(weight, tables)  # (phases, taps_y, taps_x, C, O)
    # The taps of the cotangent image are counted phase, tap, output: (C, phases * taps * O)
    transposed = mixed.transpose(3, 0, 1, 2, 4).reshape(channels, 1, 1, -1).transpose(1, 2, 3, 0)[None]
    packed, nothing = pack_tiles(transposed, np.zeros(channels, x.dtype))
    edges = group_edges(blocks)
    groups = len(edges) - 1
    tiled = -(-outputs // 4) * 4
    dw = np.zeros((groups, len(tables.taps) * tiled * tables.taps.shape[1]), x.dtype)
    db = np.zeros((groups, outputs), x.dtype)
    dx = empty(x.shape if needs_input else (0,), x.dtype)
    flat_dy, flat, flat_y = dy.ravel(), x.ravel(), y.ravel()
    flat_code = np.empty(0, np.uint8) if code is None else code.ravel()
    flat_dx = dx.reshape(-1)

    def task(first: int, last: int) -> None:
        x_scratch = empty((tables.padded_size(channels),), x.dtype)
        dy_scratch = empty((outputs * tables.image[2] * tables.image[3] * LANES,), x.dtype)
        _backward(
            flat_dy, flat, flat_y, flat_code, packed, tables.taps, tables.sources, tables.dy_targets,
            tables.dx_taps, tables.dx_positions, tables.dx_targets, (channels, height, width), tables.padding,
            outputs, block.output_size(height, width), tables.image, block.relu, block.pool, needs_input,
            tables.stretch, edges, first, last, x_scratch, dy_scratch, nothing, dw, db, flat_dx,
        )  # fmt: skip

    over_ranges(task, groups, 2 * _work(tables, blocks, outputs))
    total = dw[0]
    for partial in dw[1:]:  # in order, whatever the number of threads
        total = total + partial
    # (phases, O / 4, taps / 4, 4 outputs, 4 taps) -> (phases, O, taps)
    tiles = total.reshape(len(tables.taps), tiled // 4, -1, 4, 4).transpose(0, 1, 3, 2, 4)
    by_tap = tiles.reshape(len(tables.taps), tiled, -1)[:, :outputs, : tables.tap_count]
    return dx if needs_input else None, unmix_weights(by_tap, weight.shape, tables), db.sum(axis=0)


def _work(tables: Tables, blocks: int, outputs: int) -> float:
    return float(blocks) * LANES * tables.positions.size * tables.tap_count * len(tables.taps) * outputs
