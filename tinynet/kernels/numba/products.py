"""The two loops that all convolutions come down to, on register tiles, for one block of 16 images.

    weighted sums    y[o, p]   =  bias[o] + sum over t of  w[t, o] * x[position[p] + tap[t]]
    outer products   dw[o, t] +=  sum over p of  dy[o, target[p]] * x[position[p] + tap[t]]

convolution.py says what taps, positions and targets are; all arrays are pointers here.  Outputs are
taken in tiles of ROWS rows, then 2, then 1 (`tile_edges`), so that no row is wasted; each sum has the
same order of additions whatever tile it is in.  Taps are taken in passes of at most TAPS: what one
position reads of x then stays in the first-level cache (32 kB) for all outputs.  Without passes,
64 -> 64 channels ran at 0.65 of the speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinynet.kernels.numba.compile import inlined
from tinynet.kernels.numba.simd import LANES
from tinynet.kernels.numba.tiles import (
    COLUMNS,
    ROWS,
    WIDTH,
    tile_add_outer,
    tile_add_weighted,
    tile_keep,
    tile_lane_sums,
    tile_load,
    tile_pool_store,
    tile_rectify,
    tile_rows,
    tile_store,
    tile_zero,
)

TAPS = 160  # of a pass
KEPT = COLUMNS * LANES  # numbers that an output's sums take between passes


@inlined
def tile_edges(outputs):
    """How many outputs come in tiles of ROWS rows, and how many in those and in tiles of 2 rows."""
    tall = outputs // ROWS * ROWS
    if ROWS == 3 and outputs - tall == 1 and tall > 0:
        tall -= 3  # the last four as 2 + 2: a tile of one row is the slowest
    return tall, tall + (outputs - tall) // 2 * 2


def row_tiles(outputs: int) -> list[tuple[int, int]]:
    """(first output, rows) of every tile, as the loops below take them."""
    tall, two = tile_edges.py_func(outputs)
    edges = ((0, tall, ROWS), (tall, two, 2), (two, outputs, 1))
    return [(o, rows) for first, last, rows in edges for o in range(first, last, rows)]


def kept_numbers(count: int, outputs: int) -> int:
    """Numbers that `weighted_sums` wants to keep sums in between passes over `count` taps."""
    return outputs * KEPT if count > TAPS else 0


def tile_weights(taps: int, outputs: int) -> np.ndarray:
    """Indices into a matrix (taps, outputs) that lay it out as the loops read it: tile, tap, row."""
    matrix = np.arange(taps * outputs).reshape(taps, outputs)
    return np.concatenate([matrix[:, o : o + rows].ravel() for o, rows in row_tiles(outputs)])


def _weighted_tiles(rows: int) -> Callable[..., Any]:
    """weighted_sums for the outputs low..high, in tiles of `rows` rows, a constant to the compiler."""

    @inlined
    def run(
        x, weights, bias, taps, count, positions, targets, begin, end, low, high, y, plane, code, relu, pool,
        kept, lanes,
    ):  # fmt: skip
        passes = max(1, (count + TAPS - 1) // TAPS)  # no tap at all leaves the bias
        for p in range(begin, end, COLUMNS):
            columns = (positions[p], positions[p + 1], positions[p + 2], positions[p + 3])
            stored = (targets[p], targets[p + 1], targets[p + 2], targets[p + 3])
            for number in range(passes):
                first, last = count * number // passes, count * (number + 1) // passes
                for o in range(low, high, rows):
                    for part in range(0, lanes, WIDTH):
                        tile = tile_rows(bias, o, rows, COLUMNS)
                        keep = o * KEPT + part * rows * COLUMNS
                        if number > 0:
                            tile = tile_load(tile, kept, keep)
                        w = o * count + first * rows
                        for t in range(first, last):
                            tile = tile_add_weighted(tile, weights, w, x, part + taps[t], columns)
                            w += rows
                        if number < passes - 1:
                            tile_keep(tile, kept, keep)
                        elif pool:  # the four positions of a tile are one window
                            tile_pool_store(tile, y, code, o * plane + part + stored[0], plane)
                        else:
                            if relu:
                                tile = tile_rectify(tile)
                            tile_store(tile, y, o * plane + part, plane, stored)

    return run


_weighted_tall, _weighted_two, _weighted_one = _weighted_tiles(ROWS), _weighted_tiles(2), _weighted_tiles(1)


@inlined
def weighted_sums(
    x, weights, bias, taps, count, positions, targets, begin, end, outputs, y, plane, code, relu, pool, kept,
    lanes=LANES,
):  # fmt: skip
    """y[o * plane + targets[p]] for positions begin..end and all outputs.

    relu, pool  whether they are rectified, and then pooled: four positions are one window
    weights  (outputs, count), as tile_weights lays them out
    kept     scratch of kept_numbers(count, outputs)
    lanes    16, or WIDTH for sums of one part
    """
    tall, two = tile_edges(outputs)
    if tall > 0:
        _weighted_tall(
            x, weights, bias, taps, count, positions, targets, begin, end, 0, tall, y, plane, code, relu,
            pool, kept, lanes,
        )  # fmt: skip
    if two > tall:
        _weighted_two(
            x, weights, bias, taps, count, positions, targets, begin, end, tall, two, y, plane, code, relu,
            pool, kept, lanes,
        )  # fmt: skip
    if outputs > two:
        _weighted_one(
            x, weights, bias, taps, count, positions, targets, begin, end, two, outputs, y, plane, code,
            relu, pool, kept, lanes,
        )  # fmt: skip


@inlined
def _one_row(start, plane):
    return (start,)


@inlined
def _two_rows(start, plane):
    return (start, start + plane)


@inlined
def _three_rows(start, plane):
    return (start, start + plane, start + 2 * plane)


@inlined
def _four_rows(start, plane):
    return (start, start + plane, start + 2 * plane, start + 3 * plane)


def _outer_tiles(rows: int, rows_of: Callable[..., Any]) -> Callable[..., Any]:
    """outer_products for the outputs low..high, in tiles of `rows` rows."""

    @inlined
    def run(x, dy, plane, low, high, taps, count, positions, targets, size, dw):
        for o in range(low, high, rows):
            outputs = rows_of(o * plane, plane)
            for t in range(0, count, COLUMNS):
                columns = (taps[t], taps[t + 1], taps[t + 2], taps[t + 3])
                tile = tile_zero(x, rows, COLUMNS)
                for p in range(size):
                    for part in range(0, LANES, WIDTH):
                        tile = tile_add_outer(
                            tile, dy, targets[p] + part, outputs, x, positions[p] + part, columns
                        )
                tile_lane_sums(tile, dw, o * count + t, count)

    return run


_outer_tall = _outer_tiles(ROWS, _four_rows if ROWS == 4 else _three_rows)
_outer_two, _outer_one = _outer_tiles(2, _two_rows), _outer_tiles(1, _one_row)


@inlined
def outer_products(x, dy, plane, first, last, taps, count, positions, targets, size, dw):
    """dw[o * count + t] += sums over `size` positions and the lanes; outputs first..last.

    count  of taps, a multiple of 4
    """
    tall, two = tile_edges(last - first)
    tall, two = first + tall, first + two
    if tall > first:
        _outer_tall(x, dy, plane, first, tall, taps, count, positions, targets, size, dw)
    if two > tall:
        _outer_two(x, dy, plane, tall, two, taps, count, positions, targets, size, dw)
    if last > two:
        _outer_one(x, dy, plane, two, last, taps, count, positions, targets, size, dw)
