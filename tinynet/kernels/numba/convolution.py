"""Convolution on 16 lanes: one loop over table entries serves every kernel, stride and padding.

With the input padded, tap t of the window at output position p reads x[position[p] + tap[t]],
two small tables of offsets.  So for every shape

    y[o, p]  =  bias[o] + sum over t of  w[t, o] * x[position[p] + tap[t]]

and the three kernels a convolution needs are this loop with other tables:

    forward           as it stands
    input gradient    x is the padded dy, the weights are transposed; a stride of s makes s * s
                      interleaved sets of positions, each with the taps that reach it
    weight gradient   dw[t, o] = sum over p of dy[o, p] * x[position[p] + tap[t]], lanes summed last

A Tile of 4 outputs x 4 positions (or taps) stays in registers through the sum: 16 multiply-adds
for 8 loads.  A dense layer is a convolution whose window is the whole image; there the positions
are those of several blocks.  numpy/convolution.py says the same with matrices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty
from tinynet.kernels.numba.padding import pad
from tinynet.kernels.numba.parallel import groups_of, over_groups, over_ranges
from tinynet.kernels.numba.simd import LANES, add, lane_sum, load, zero
from tinynet.kernels.numba.tiles import (
    tile_add_outer,
    tile_add_weighted,
    tile_lane_sums,
    tile_rows,
    tile_store,
    tile_zero,
)
from tinynet.kernels.window import Padding, Window

ROWS = COLUMNS = 4  # of a tile


class Tables(NamedTuple):
    """Offsets, in numbers, into one padded image block and one output block."""

    taps: np.ndarray  # int64 (T,), in (channel, row, column) order
    positions: np.ndarray  # int64 (P,), where each output position's window starts; P a multiple of 4
    targets: np.ndarray  # int64 (P,), where each output position is stored


# Kernels.


@kernel
def _accumulate(x, start, weights, bias, taps, positions, targets, y, y_start, plane, outputs):
    """y[o, p] = bias[o] + sum_t w[t, o] * x[position[p] + tap[t]] for one block.

    weights: (outputs / 4, taps, 4): the four outputs of a tile lie together.
    """
    count = taps.size
    for o in range(0, outputs, 4):
        rows = min(4, outputs - o)
        for p in range(0, positions.size, 4):
            columns = (positions[p], positions[p + 1], positions[p + 2], positions[p + 3])
            tile = tile_rows(bias, o, 4, 4)
            w = o * count
            for t in range(count):
                tile = tile_add_weighted(tile, weights, w, x, start + taps[t], columns)
                w += 4
            stored = (targets[p], targets[p + 1], targets[p + 2], targets[p + 3])
            tile_store(tile, y, y_start + o * plane, plane, stored, rows)


@kernel
def _correlate(x, start, dy, dy_start, plane, outputs, taps, positions, targets, count, total):
    """total[o, t, row, column] += sum_p dy[o, p] * x[position[p] + tap[t]], summed over lanes; one block."""
    for o in range(0, outputs, 4):
        last = outputs - 1
        rows = (
            dy_start + o * plane,
            dy_start + min(o + 1, last) * plane,
            dy_start + min(o + 2, last) * plane,
            dy_start + min(o + 3, last) * plane,
        )
        for t in range(0, taps.size, 4):
            columns = (start + taps[t], start + taps[t + 1], start + taps[t + 2], start + taps[t + 3])
            tile = tile_zero(x, 4, 4)
            for p in range(count):
                tile = tile_add_outer(tile, dy, targets[p], rows, x, positions[p], columns)
            tile_lane_sums(tile, total, o * taps.size + t * 4)


@kernel
def _channel_sum(dy, first, last, channels, pixels, total):
    """total[c] += the sum of dy over blocks first..last, pixels and lanes."""
    for block in range(first, last):
        for c in range(channels):
            start = (block * channels + c) * pixels * 16
            lanes = zero(dy)
            for at in range(start, start + pixels * 16, 16):
                lanes = add(lanes, load(dy, at))
            total[c] += lane_sum(lanes)


# The same signatures as numpy/convolution.py.


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """(B, C, H, W, 16) * (kh, kw, C / groups, O) + (O,) -> (B, O, H', W', 16)."""
    blocks, channels, height, width, _ = x.shape
    out_height, out_width = window.output_size(height, width)
    y = empty((blocks, weight.shape[3], out_height, out_width, LANES), x.dtype)
    packed, packed_bias = _pack(weight, bias, groups)
    tables = forward_tables(channels // groups, height, width, window)
    _convolve(x, packed, packed_bias, window.padding, tables, y, groups, weight.shape[3] // groups)
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
    # (kh, kw, C / G, O) -> (kh, kw, O / G, C): each group's weights transposed
    kh, kw = window.size
    split = weight.reshape(kh, kw, channels // groups, groups, outputs // groups)
    transposed = split.transpose(0, 1, 4, 3, 2).reshape(kh, kw, outputs // groups, channels)
    zeros = np.zeros(channels, dy.dtype)
    for rows, columns, tables in phases:  # each phase writes its own pixels of dx
        packed, bias = _pack(transposed[np.ix_(rows, columns)], zeros, groups)
        _convolve(dy, packed, bias, padding, tables, dx, groups, channels // groups)
    return dx


def conv2d_weight_gradient(x: np.ndarray, dy: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """(B, C, H, W, 16), (B, O, H', W', 16) -> (kh, kw, C / groups, O), summed over images and positions."""
    blocks, channels, height, width, _ = x.shape
    outputs, out_height, out_width = dy.shape[1:4]
    channels_each, outputs_each = channels // groups, outputs // groups
    tables = forward_tables(channels_each, height, width, window)
    taps = _whole_tiles(tables.taps)
    rows = -(-outputs_each // ROWS) * ROWS
    padded_height, padded_width = padded_size(height, width, window.padding)
    padded = (padded_height, padded_width) != (height, width)
    image, plane = channels * height * width * LANES, out_height * out_width * LANES
    padded_plane = padded_height * padded_width * LANES
    flat, flat_dy = x.ravel(), dy.ravel()
    work = float(dy.size) * tables.taps.size

    if padded_plane == LANES and plane == LANES:  # a dense layer: its positions are the blocks
        partial = np.zeros((1, groups, rows * taps.size), x.dtype)
        positions, targets = np.arange(blocks) * image, np.arange(blocks) * outputs * LANES

        def dense_task(first: int, last: int) -> None:
            first, last = first * ROWS, min(last * ROWS, outputs_each)
            for g in range(groups):
                _correlate(
                    flat, g * channels_each * LANES, flat_dy, (g * outputs_each + first) * LANES, LANES,
                    last - first, taps, positions, targets, blocks, partial[0, g, first * taps.size :],
                )  # fmt: skip

        over_ranges(dense_task, rows // ROWS, work)
    else:
        partial = np.zeros((len(groups_of(blocks)), groups, rows * taps.size), x.dtype)

        def task(group: int, first: int, last: int) -> None:
            scratch = np.empty(channels * padded_plane if padded else 0, x.dtype)
            for block in range(first, last):
                source, start = flat, block * image
                if padded:
                    pad(
                    flat, block * image, channels, height, width,
                    (window.padding[0][0], window.padding[1][0], padded_height, padded_width), scratch,
                )  # fmt: skip
                    source, start = scratch, 0
                for g in range(groups):
                    _correlate(
                        source, start + g * channels_each * padded_plane,
                        flat_dy, (block * outputs + g * outputs_each) * plane, plane, outputs_each,
                        taps, tables.positions, tables.targets, out_height * out_width, partial[group, g],
                    )  # fmt: skip

        over_groups(task, blocks, work)

    total = partial[0]
    for more in partial[1:]:  # in order, whatever the number of threads
        total = total + more
    # (G, rows / 4, taps / 4, 4 rows, 4 taps) -> (G, rows, taps), less the padding of both
    tiles = total.reshape(groups, rows // ROWS, taps.size // COLUMNS, ROWS, COLUMNS).transpose(0, 1, 3, 2, 4)
    matrix = tiles.reshape(groups, rows, -1)[:, :outputs_each, : tables.taps.size]
    # (G, O / G, C / G, kh, kw) -> (kh, kw, C / G, O)
    split = matrix.reshape(groups, outputs_each, channels_each, *window.size).transpose(3, 4, 2, 0, 1)
    return np.ascontiguousarray(split.reshape(*window.size, channels_each, outputs))


def channel_sum(dy: np.ndarray) -> np.ndarray:
    """(B, O, H, W, 16) -> (O,): the bias gradient."""
    blocks, channels = dy.shape[:2]
    total = np.zeros((len(groups_of(blocks)), channels), dy.dtype)
    flat, pixels = dy.ravel(), dy.shape[2] * dy.shape[3]
    over_groups(
        lambda group, first, last: _channel_sum(flat, first, last, channels, pixels, total[group]),
        blocks,
        work=float(dy.size),
    )
    return total.sum(axis=0)  # in order: a sum over the first axis adds one row after another


def _convolve(
    x: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    padding: Padding,
    tables: Tables,
    y: np.ndarray,
    groups: int,
    outputs: int,
) -> None:
    """Pad each block and accumulate into y at the tables' targets; `outputs` channels a group."""
    blocks, channels, height, width, _ = x.shape
    padded_height, padded_width = padded_size(height, width, padding)
    padded = (padded_height, padded_width) != (height, width)
    channels_each = channels // groups
    image, plane = channels * height * width * LANES, y.shape[2] * y.shape[3] * LANES
    padded_plane = padded_height * padded_width * LANES
    flat, flat_y = x.ravel(), y.reshape(-1)

    def task(first: int, last: int) -> None:
        if padded_plane == LANES and plane == LANES:  # a dense layer: its positions are the blocks
            positions = _whole_tiles(np.arange(first, last) * image)
            targets = _whole_tiles(np.arange(first, last) * y.shape[1] * LANES)
            for g in range(groups):
                _accumulate(
                    flat, g * channels_each * LANES, weights[g], bias[g], tables.taps,
                    positions, targets, flat_y, g * outputs * LANES, LANES, outputs,
                )  # fmt: skip
            return
        scratch = np.empty(channels * padded_plane if padded else 0, x.dtype)
        for block in range(first, last):
            source, start = flat, block * image
            if padded:
                pad(
                    flat, block * image, channels, height, width,
                    (padding[0][0], padding[1][0], padded_height, padded_width), scratch,
                )  # fmt: skip
                source, start = scratch, 0
            for g in range(groups):
                _accumulate(
                    source, start + g * channels_each * padded_plane, weights[g], bias[g],
                    tables.taps, tables.positions, tables.targets,
                    flat_y, (block * y.shape[1] + g * outputs) * plane, plane, outputs,
                )  # fmt: skip

    over_ranges(task, blocks, float(tables.positions.size) * blocks * LANES * weights.size)


def _pack(weight: np.ndarray, bias: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """(kh, kw, C / G, O) -> (G, O / G / 4 * taps * 4): the four outputs of a tile together."""
    kh, kw, channels, outputs = weight.shape
    per_group = outputs // groups
    tiles = -(-per_group // ROWS)
    matrix = np.zeros((groups, tiles * ROWS, channels * kh * kw), weight.dtype)
    # (kh, kw, C / G, O) -> (O, C / G, kh, kw) -> (G, O / G, taps)
    matrix[:, :per_group] = weight.transpose(3, 2, 0, 1).reshape(groups, per_group, -1)
    packed = matrix.reshape(groups, tiles, ROWS, -1).transpose(0, 1, 3, 2).reshape(groups, -1)
    packed_bias = np.zeros((groups, tiles * ROWS), weight.dtype)
    packed_bias[:, :per_group] = bias.reshape(groups, per_group)
    return np.ascontiguousarray(packed), packed_bias


# Tables.


def padded_size(height: int, width: int, padding: Padding) -> tuple[int, int]:
    return height + sum(padding[0]), width + sum(padding[1])


@lru_cache(maxsize=256)
def forward_tables(channels: int, height: int, width: int, window: Window) -> Tables:
    """Taps in (channel, row, column) order and positions in row-major order, for a padded input."""
    padded_height, padded_width = padded_size(height, width, window.padding)
    out_height, out_width = window.output_size(height, width)
    c, u, v = np.meshgrid(np.arange(channels), *map(np.arange, window.size), indexing="ij")
    rows, columns = u * window.dilation[0], v * window.dilation[1]
    taps = ((c * padded_height + rows) * padded_width + columns).ravel() * LANES
    i, j = np.meshgrid(np.arange(out_height), np.arange(out_width), indexing="ij")
    positions = (i * window.stride[0] * padded_width + j * window.stride[1]).ravel() * LANES
    targets = np.arange(out_height * out_width) * LANES
    return Tables(taps.astype(np.int64), _whole_tiles(positions), _whole_tiles(targets))


@lru_cache(maxsize=256)
def backward_tables(
    outputs: int, out_height: int, out_width: int, height: int, width: int, window: Window
) -> tuple[Padding, list[tuple[list[int], list[int], Tables]]]:
    """The padding that dy needs, and for each phase of the stride: kernel rows, kernel columns, tables.

    Input row i is read by tap u at output row (i + before - u * dilation) / stride, where that is whole.
    """
    axes = []
    for axis, (length, positions) in enumerate(((height, out_height), (width, out_width))):
        step, spread, before = window.stride[axis], window.dilation[axis], window.padding[axis][0]
        phases = []  # (first input position, taps, output position read by (first, tap))
        for first in range(min(step, length)):
            taps = [u for u in range(window.size[axis]) if (first + before - u * spread) % step == 0]
            phases.append((first, taps, [(first + before - u * spread) // step for u in taps]))
        reached = [(length - 1 - f) // step + o for f, _, outs in phases for o in outs]
        lowest = [o for _, _, outs in phases for o in outs]
        padding = (max(0, -min(lowest, default=0)), max(0, max(reached, default=0) - (positions - 1)))
        axes.append((length, step, padding, phases))
    (_, step_y, padding_y, phases_y), (_, step_x, padding_x, phases_x) = axes
    padded_height, padded_width = padded_size(out_height, out_width, (padding_y, padding_x))
    result = []
    for first_y, rows, outs_y in phases_y:
        for first_x, columns, outs_x in phases_x:
            o, u, v = np.meshgrid(np.arange(outputs), np.array(outs_y), np.array(outs_x), indexing="ij")
            taps = ((o * padded_height + u + padding_y[0]) * padded_width + v + padding_x[0]).ravel()
            i, j = np.meshgrid(
                np.arange(first_y, height, step_y), np.arange(first_x, width, step_x), indexing="ij"
            )
            starts = (i // step_y) * padded_width + j // step_x
            tables = Tables(
                taps.astype(np.int64) * LANES,
                _whole_tiles(starts.ravel() * LANES),
                _whole_tiles((i * width + j).ravel() * LANES),
            )
            result.append((rows, columns, tables))
    return (padding_y, padding_x), result


def _whole_tiles(offsets: np.ndarray) -> np.ndarray:
    """Repeat the last offset up to a multiple of 4: what is computed twice is stored twice, the same."""
    missing = -len(offsets) % COLUMNS
    return np.concatenate([offsets, np.repeat(offsets[-1:], missing)]).astype(np.int64)
