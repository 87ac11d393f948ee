"""Convolutions and dense layers of a batch in use, in tiles whose sums never leave the registers.

The loops are those of products.py, on one tile's part of the lanes at a time, with another end: limits,
scale and shift instead of a rectifier, and no record of where a maximum came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinynet.kernels.numba.batch_plan import (
    CHANNELS,
    FINISH,
    FINISHED,
    GROUPS,
    OUTPUTS,
    PHASES,
    POOLED,
    POSITION_COUNT,
    POSITIONS,
    SOURCE,
    SOURCE_PLANE,
    TAP_COUNT,
    TAPS,
    TARGET,
    TARGET_PLANE,
    TARGETS,
    WEIGHTS,
    WORK,
)
from tinynet.kernels.numba.batch_tiles import tile_finish, tile_window_maximum
from tinynet.kernels.numba.compile import inlined
from tinynet.kernels.numba.products import TAPS as MOST_TAPS
from tinynet.kernels.numba.products import tile_edges
from tinynet.kernels.numba.simd import offset
from tinynet.kernels.numba.tiles import (
    COLUMNS,
    ROWS,
    WIDTH,
    tile_add_weighted,
    tile_keep,
    tile_load,
    tile_rows,
    tile_store,
)

KEPT = COLUMNS * WIDTH  # numbers that an output's sums take between passes
TALL = 12  # rows of a dense layer's tile, which is one column wide


def _weighted_tiles(rows: int, columns: int) -> Callable[..., Any]:
    """The sums of the outputs low..high in tiles of rows x columns, constants to the compiler."""

    if columns == 1:

        @inlined
        def dense(x, weights, numbers, finish, finished, taps, count, low, high, y, plane):
            for o in range(low, high, rows):
                tile = tile_rows(numbers, finish + 2 + o, rows, 1)
                w = o * count
                for t in range(count):
                    tile = tile_add_weighted(tile, weights, w, x, taps[t], (0,))
                    w += rows
                tile_store(tile_finish(tile, numbers, finish, o, finished), y, o * plane, plane, (0,))

        return dense

    @inlined
    def run(
        x, weights, numbers, finish, finished, base, taps, count, positions, targets, size, low, high, y,
        plane, pooled, kept,
    ):  # fmt: skip
        passes = max(1, (count + MOST_TAPS - 1) // MOST_TAPS)
        for p in range(0, size, COLUMNS):
            where = (positions[p], positions[p + 1], positions[p + 2], positions[p + 3])
            for number in range(passes):
                first, last = count * number // passes, count * (number + 1) // passes
                for o in range(low, high, rows):
                    tile = tile_rows(numbers, finish + 2 + base + o, rows, COLUMNS)
                    if number > 0:
                        tile = tile_load(tile, kept, o * KEPT)
                    w, whole = o * count + first * rows, first + (last - first) // 3 * 3
                    for t in range(first, whole, 3):  # three at a time: the jump costs as much as a tap
                        tile = tile_add_weighted(tile, weights, w, x, taps[t], where)
                        tile = tile_add_weighted(tile, weights, w + rows, x, taps[t + 1], where)
                        tile = tile_add_weighted(tile, weights, w + 2 * rows, x, taps[t + 2], where)
                        w += 3 * rows
                    for t in range(whole, last):
                        tile = tile_add_weighted(tile, weights, w, x, taps[t], where)
                        w += rows
                    if number < passes - 1:
                        tile_keep(tile, kept, o * KEPT)
                    elif pooled:
                        largest = tile_finish(tile_window_maximum(tile), numbers, finish, base + o, finished)
                        tile_store(largest, y, o * plane, plane, (targets[p],))
                    else:
                        stored = (targets[p], targets[p + 1], targets[p + 2], targets[p + 3])
                        tile = tile_finish(tile, numbers, finish, base + o, finished)
                        tile_store(tile, y, o * plane, plane, stored)

    return run


_tall, _two, _one = (_weighted_tiles(rows, COLUMNS) for rows in (ROWS, 2, 1))
_dense_tall, _dense_four, _dense_one = (_weighted_tiles(rows, 1) for rows in (TALL, 4, 1))


@inlined
def convolution(plan, at, numbers, scratch):
    """For every phase and group the sums at all positions, finished, into the target."""
    outputs, count, size = plan[at + OUTPUTS], plan[at + TAP_COUNT], plan[at + POSITION_COUNT]
    groups, pooled, plane = plan[at + GROUPS], plan[at + POOLED] != 0, plan[at + TARGET_PLANE]
    finish, finished = plan[at + FINISH], plan[at + FINISHED]
    positions, kept = offset(plan, plan[at + POSITIONS]), offset(scratch, plan[at + WORK])
    tall, two = tile_edges(outputs)
    for phase in range(plan[at + PHASES]):
        taps = offset(plan, plan[at + TAPS] + phase * count)
        targets = offset(plan, plan[at + TARGETS] + phase * size)
        for g in range(groups):
            x = offset(scratch, plan[at + SOURCE] + g * plan[at + CHANNELS] * plan[at + SOURCE_PLANE])
            y = offset(scratch, plan[at + TARGET] + g * outputs * plane)
            weights = offset(numbers, plan[at + WEIGHTS] + (phase * groups + g) * outputs * count)
            base = g * outputs
            _tall(
                x, weights, numbers, finish, finished, base, taps, count, positions, targets, size, 0, tall,
                y, plane, pooled, kept,
            )  # fmt: skip
            if two > tall:
                _two(
                    x, weights, numbers, finish, finished, base, taps, count, positions, targets, size, tall,
                    two, y, plane, pooled, kept,
                )  # fmt: skip
            if outputs > two:
                _one(
                    x, weights, numbers, finish, finished, base, taps, count, positions, targets, size, two,
                    outputs, y, plane, pooled, kept,
                )  # fmt: skip


def dense_tiles(outputs: int) -> list[tuple[int, int]]:
    """(first output, rows) of every tile of a dense layer, as `dense` takes them."""
    tall, four = outputs // TALL * TALL, outputs // 4 * 4
    edges = ((0, tall, TALL), (tall, four, 4), (four, outputs, 1))
    return [(o, rows) for first, last, rows in edges for o in range(first, last, rows)]


@inlined
def dense(plan, at, numbers, scratch):
    """Twelve outputs and one vector of lanes at a time: each feature is loaded once for all of them."""
    outputs, count = plan[at + OUTPUTS], plan[at + TAP_COUNT]
    finish, finished, plane = plan[at + FINISH], plan[at + FINISHED], plan[at + TARGET_PLANE]
    x, y = offset(scratch, plan[at + SOURCE]), offset(scratch, plan[at + TARGET])
    weights, taps = offset(numbers, plan[at + WEIGHTS]), offset(plan, plan[at + TAPS])
    tall, four = outputs // TALL * TALL, outputs // 4 * 4
    _dense_tall(x, weights, numbers, finish, finished, taps, count, 0, tall, y, plane)
    _dense_four(x, weights, numbers, finish, finished, taps, count, tall, four, y, plane)
    _dense_one(x, weights, numbers, finish, finished, taps, count, four, outputs, y, plane)
