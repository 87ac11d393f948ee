"""Convolution on 16 lanes: one loop over table entries serves every kernel, stride and padding.

With the input padded, tap t of the window at output position p reads x[position[p] + tap[t]],
two small tables of offsets.  So for every shape

    y[o, p]  =  bias[o] + sum over t of  w[t, o] * x[position[p] + tap[t]]

and the three kernels a convolution needs are this loop with other tables:

    forward           as it stands
    input gradient    x is the padded dy, the weights are transposed; a stride of s makes s * s
                      interleaved sets of positions, each with the taps that reach it
    weight gradient   dw[t, o] = sum over p of dy[o, p] * x[position[p] + tap[t]], lanes summed last

products.py has the loops, convolution_tables.py the tables.  A dense layer is a convolution whose
window is the whole image; there the positions are those of several blocks.  numpy/convolution.py
says the same with matrices.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.convolution_tables import (
    Tables,
    backward_order,
    backward_tables,
    forward_order,
    forward_tables,
    gradient_order,
    of_blocks,
    padded_size,
    tiles_of_blocks,
)
from tinynet.kernels.numba.memory import empty, flat, scratch
from tinynet.kernels.numba.padding import copy_inside, fill
from tinynet.kernels.numba.parallel import group_edges, over_blocks, over_ranges, over_some_groups
from tinynet.kernels.numba.products import kept_numbers, outer_products, weighted_sums
from tinynet.kernels.numba.rearranging import added_up, rearranged
from tinynet.kernels.numba.simd import LANES, add, lane_sum, load, offset, pointer, zero
from tinynet.kernels.numba.tiles import COLUMNS
from tinynet.kernels.recording import after, before
from tinynet.kernels.window import Padding, Window

# Kernels.


@kernel
def weighted_sums_of_blocks(
    x, weights, bias, taps, positions, targets, count, begin, end, shape, padding, groups, outputs, plane,
    y_block, relu, pool, first, last, padded, kept, y, code,
):  # fmt: skip
    """Blocks first..last: pad, and for every phase and group of channels the sums at positions begin..end.

    weights  phase, group, then as products.tile_weights lays them out; bias (groups * outputs,)
    taps, targets   (phases, ...); count taps of each phase are used
    outputs  of a group; plane and y_block are the numbers of an output channel and of a block of y
    """
    channels, height, width = shape
    each, x_plane = channels // groups, padding[2] * padding[3] * 16
    fill(padded, 0, padded.size)
    for block in range(first, last):
        source = offset(x, block * channels * height * width * 16)
        if padded.size > 0:
            copy_inside(source, channels, height, width, padding, padded)
            source = pointer(padded)
        for phase in range(taps.shape[0]):
            for g in range(groups):
                weighted_sums(
                    offset(source, g * each * x_plane),
                    offset(weights, (phase * groups + g) * outputs * count), offset(bias, g * outputs),
                    offset(taps, phase * taps.shape[1]), count,
                    pointer(positions), offset(targets, phase * targets.shape[1]), begin, end, outputs,
                    offset(y, block * y_block + g * outputs * plane), plane,
                    offset(code, block * y_block + g * outputs * plane), relu, pool, pointer(kept),
                )  # fmt: skip


@kernel
def _weight_gradient(
    x, dy, taps, positions, targets, size, shape, padding, groups, outputs, plane, edges, first, last, low,
    high, padded, dw,
):  # fmt: skip
    """Groups first..last of blocks, each with its own sums dw[group]: (convolution groups, outputs, taps).

    Of every group of channels the outputs low..high.
    """
    channels, height, width = shape
    each, x_plane = channels // groups, padding[2] * padding[3] * 16
    fill(padded, 0, padded.size)
    for group in range(first, last):
        for block in range(edges[group], edges[group + 1]):
            source = offset(x, block * channels * height * width * 16)
            if padded.size > 0:
                copy_inside(source, channels, height, width, padding, padded)
                source = pointer(padded)
            for g in range(groups):
                outer_products(
                    offset(source, g * each * x_plane), offset(dy, (block * groups + g) * outputs * plane),
                    plane, low, high, pointer(taps), taps.size, pointer(positions), pointer(targets), size,
                    offset(dw, (group * groups + g) * outputs * taps.size),
                )  # fmt: skip


@kernel
def _channel_sum(dy, edges, first, last, channels, pixels, total):
    """total[group, c] = the sum of dy over the group's blocks, pixels and lanes; groups first..last."""
    for group in range(first, last):
        for block in range(edges[group], edges[group + 1]):
            for c in range(channels):
                start = (block * channels + c) * pixels * 16
                lanes = zero(dy)
                for at in range(start, start + pixels * 16, 16):
                    lanes = add(lanes, load(dy, at))
                total[group, c] += lane_sum(lanes)


# The same signatures as numpy/convolution.py.


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """(B, C, H, W, 16) * (kh, kw, C / groups, O) + (O,) -> (B, O, H', W', 16)."""
    blocks, channels, height, width, _ = x.shape
    out_height, out_width = window.output_size(height, width)
    y = empty((blocks, weight.shape[3], out_height, out_width, LANES), x.dtype)
    order = forward_order(weight.shape, groups)
    packed = rearranged(weight, order)
    tables = forward_tables(channels // groups, height, width, window)
    _run(x, packed, bias, window.padding, tables, y, groups)
    return y


def conv2d_input_gradient(
    dy: np.ndarray, weight: np.ndarray, window: Window, groups: int, height: int, width: int
) -> np.ndarray:
    """(B, O, H', W', 16) * (kh, kw, C / groups, O) -> (B, C, H, W, 16).

    A convolution of dy with the transposed weights for each phase of the stride.
    """
    blocks, outputs, out_height, out_width, _ = dy.shape
    channels = weight.shape[2] * groups
    dx = empty((blocks, channels, height, width, LANES), dy.dtype)
    padding, phases = backward_tables(outputs // groups, out_height, out_width, height, width, window)
    zeros = np.zeros(channels, dy.dtype)
    for rows, columns, tables in phases:  # each phase writes its own pixels of dx
        order = backward_order(weight.shape, groups, rows, columns)
        packed = rearranged(weight, order)
        _run(dy, packed, zeros, padding, tables, dx, groups)
    return dx


def conv2d_weight_gradient(x: np.ndarray, dy: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """(B, C, H, W, 16), (B, O, H', W', 16) -> (kh, kw, C / groups, O), summed over images and positions."""
    blocks, channels, height, width, _ = x.shape
    outputs, out_height, out_width = dy.shape[1:4]
    tables = forward_tables(channels // groups, height, width, window)
    taps = tables.tiled_taps
    (top, _), (left, _) = window.padding
    padded_height, padded_width = padded_size(height, width, window.padding)
    flat_x, flat_dy = flat(x), flat(dy)
    work = float(dy.size) * tables.taps.size
    shape, around = (channels, height, width), (top, left, padded_height, padded_width)
    plane = out_height * out_width * LANES

    if padded_height * padded_width == 1 and groups == 1:  # a dense layer: its positions are the blocks
        sums = np.empty((1, outputs * taps.size), x.dtype)
        positions, targets, edges = of_blocks(blocks, channels), of_blocks(blocks, outputs), group_edges(1)
        none = np.empty(0, x.dtype)
        before(lambda: sums.fill(0))
        over_ranges(
            lambda low, high: _weight_gradient(
                flat_x, flat_dy, taps, positions, targets, blocks, shape, around, 1, outputs, plane, edges,
                0, 1, low, high, none, sums,
            ),
            outputs,
            work,
        )  # fmt: skip
    else:
        edges = group_edges(blocks)
        sums = np.empty((len(edges) - 1, outputs * taps.size), x.dtype)
        each, room = outputs // groups, _room(channels, (height, width), around)
        before(lambda: sums.fill(0))

        def task(first: int, last: int) -> None:
            inside = scratch("padded", room, x.dtype)
            _weight_gradient(
                flat_x, flat_dy, taps, tables.positions, tables.targets, out_height * out_width, shape,
                around, groups, each, plane, edges, first, last, 0, each, inside, sums,
            )  # fmt: skip

        over_some_groups(task, blocks, work)
    order = gradient_order((*window.size, channels // groups, outputs), taps.size)
    return added_up(sums, order)


def channel_sum(dy: np.ndarray) -> np.ndarray:
    """(B, O, H, W, 16) -> (O,): the bias gradient."""
    blocks, channels = dy.shape[:2]
    edges = group_edges(blocks)
    total = np.empty((len(edges) - 1, channels), dy.dtype)
    flat_dy, pixels = flat(dy), dy.shape[2] * dy.shape[3]
    before(lambda: total.fill(0))
    over_some_groups(
        lambda first, last: _channel_sum(flat_dy, edges, first, last, channels, pixels, total),
        blocks,
        work=float(dy.size),
    )
    # In order: a sum over the first axis adds one row after another.
    return after(lambda: np.add.reduce(total, axis=0))


def _run(
    x: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    padding: Padding,
    tables: Tables,
    y: np.ndarray,
    groups: int,
) -> None:
    """Pad each block and sum into y at the tables' targets."""
    blocks, channels, height, width, _ = x.shape
    outputs, plane = y.shape[1], y.shape[2] * y.shape[3] * LANES
    (top, _), (left, _) = padding
    padded_height, padded_width = padded_size(height, width, padding)
    flat_x, flat_y, bias = flat(x), y.reshape(-1), flat(bias)
    no_code, each, shape = np.empty(0, np.uint8), outputs // groups, (channels, height, width)
    around, count = (top, left, padded_height, padded_width), tables.taps.size
    taps, work = tables.taps[None], float(min(plane, tables.positions.size * LANES)) * blocks * weights.size

    if padded_height * padded_width == 1 and plane == LANES and groups == 1:
        # A dense layer: its positions are the blocks.
        positions, targets = tiles_of_blocks(blocks, channels), tiles_of_blocks(blocks, outputs)

        no_scratch = np.empty(0, x.dtype)

        def dense_task(first: int, last: int) -> None:
            kept = scratch("kept", kept_numbers(count, outputs), x.dtype)
            weighted_sums_of_blocks(
                flat_x, weights, bias, taps, positions, targets[None], count, first * COLUMNS, last * COLUMNS,
                shape, around, 1, outputs, plane, 0, False, False, 0, 1, no_scratch, kept, flat_y, no_code,
            )  # fmt: skip

        over_ranges(dense_task, len(positions) // COLUMNS, work)
        return

    room = _room(channels, (height, width), around)

    def task(first: int, last: int) -> None:
        inside = scratch("padded", room, x.dtype)
        kept = scratch("kept", kept_numbers(count, each), x.dtype)
        weighted_sums_of_blocks(
            flat_x, weights, bias, taps, tables.positions, tables.targets[None], count, 0,
            tables.positions.size, shape, around, groups, each, plane, outputs * plane, False, False, first,
            last, inside, kept, flat_y, no_code,
        )  # fmt: skip

    over_blocks(task, blocks, work)


def _room(channels: int, size: tuple[int, int], around: tuple[int, int, int, int]) -> int:
    """Numbers in a padded block, 0 where nothing is padded; around: top, left, padded height, width."""
    return 0 if around[2:] == size else channels * around[2] * around[3] * LANES
