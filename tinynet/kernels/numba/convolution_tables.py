"""The tables of a convolution: what its kernels read, where they write, and how weights are laid out.

An order is an array of indices: `weight.ravel()[order]` are the weights as the loops in products.py
read them.  Everything here depends on shapes alone and is made once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinynet.kernels.numba.products import tile_weights
from tinynet.kernels.numba.simd import LANES
from tinynet.kernels.numba.tiles import COLUMNS
from tinynet.kernels.window import Padding, Window


class Tables(NamedTuple):
    """Offsets, in numbers, into one padded image block and one output block."""

    taps: np.ndarray  # int64 (T,), in (channel, row, column) order
    positions: np.ndarray  # int64 (P,), where each output position's window starts; P a multiple of 4
    targets: np.ndarray  # int64 (P,), where each output position is stored
    tiled_taps: np.ndarray  # the taps, repeated up to a multiple of 4, for the weight gradient


def whole_tiles(offsets: np.ndarray) -> np.ndarray:
    """Repeat the last offset up to a multiple of 4: what is computed twice is stored twice, the same."""
    missing = -len(offsets) % COLUMNS
    return np.concatenate([offsets, np.repeat(offsets[-1:], missing)]).astype(np.int64)


@lru_cache(maxsize=256)
def of_blocks(blocks: int, channels: int) -> np.ndarray:
    """Where each block of single pixels begins: int64 (blocks,)."""
    return np.arange(blocks, dtype=np.int64) * (channels * LANES)


@lru_cache(maxsize=256)
def tiles_of_blocks(blocks: int, channels: int) -> np.ndarray:
    """The same in whole tiles."""
    return whole_tiles(of_blocks(blocks, channels))


@lru_cache(maxsize=256)
def forward_order(shape: tuple[int, ...], groups: int) -> np.ndarray:
    """Of weights (kh, kw, C / G, O): group, tile of outputs, tap, output."""
    kh, kw, channels, outputs = shape
    # (kh, kw, C / G, O) -> (C / G, kh, kw, G, O / G)
    matrix = np.arange(np.prod(shape)).reshape(kh, kw, channels, groups, -1).transpose(2, 0, 1, 3, 4)
    tiles = tile_weights(channels * kh * kw, outputs // groups)
    return np.concatenate([matrix[:, :, :, g].ravel()[tiles] for g in range(groups)])


@lru_cache(maxsize=256)
def backward_order(
    shape: tuple[int, ...], groups: int, rows: tuple[int, ...], columns: tuple[int, ...]
) -> np.ndarray:
    """Of the same, transposed, for one phase's kernel rows and columns: group, tile, tap, channel."""
    kh, kw, channels, outputs = shape
    # (kh, kw, C / G, O) -> (O / G, rows, columns, G, C / G)
    matrix = np.arange(np.prod(shape)).reshape(kh, kw, channels, groups, -1)
    matrix = matrix[np.ix_(np.array(rows, int), np.array(columns, int))].transpose(4, 0, 1, 3, 2)
    tiles = tile_weights(outputs // groups * len(rows) * len(columns), channels)
    return np.concatenate([matrix[:, :, :, g].ravel()[tiles] for g in range(groups)])


@lru_cache(maxsize=256)
def gradient_order(shape: tuple[int, ...], taps: int) -> np.ndarray:
    """Where in (O, taps) each weight's gradient is: (kh, kw, C / G, O); `taps` may be more than there are."""
    kh, kw, channels, outputs = shape
    matrix = np.arange(outputs * taps).reshape(outputs, taps)[:, : channels * kh * kw]
    # (O, C / G, kh, kw) -> (kh, kw, C / G, O)
    return np.ascontiguousarray(matrix.reshape(outputs, channels, kh, kw).transpose(2, 3, 1, 0))


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
    taps = taps.astype(np.int64)
    return Tables(taps, whole_tiles(positions), whole_tiles(targets), whole_tiles(taps))


@lru_cache(maxsize=256)
def backward_tables(
    outputs: int, out_height: int, out_width: int, height: int, width: int, window: Window
) -> tuple[Padding, list[tuple[tuple[int, ...], tuple[int, ...], Tables]]]:
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
            taps = taps.astype(np.int64) * LANES
            tables = Tables(
                taps,
                whole_tiles(starts.ravel() * LANES),
                whole_tiles((i * width + j).ravel() * LANES),
                whole_tiles(taps),
            )
            result.append((tuple(rows), tuple(columns), tables))
    return (padding_y, padding_x), result
