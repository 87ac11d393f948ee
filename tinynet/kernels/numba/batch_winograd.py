"""Winograd's convolution (winograd.py) of a batch in use: the same sums, on one tile's part of the lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinynet.kernels.numba.batch_plan import (
    CHANNELS,
    FINISH,
    OPTION,
    OUTPUTS,
    POOLED,
    POSITION_COUNT,
    POSITIONS,
    SOURCE,
    SOURCE_PLANE,
    TARGET,
    TARGET_PLANE,
    TARGETS,
    WEIGHTS,
    WORK,
)
from tinynet.kernels.numba.batch_tiles import tile_finish, tile_window_maximum
from tinynet.kernels.numba.compile import inlined
from tinynet.kernels.numba.products import tile_edges
from tinynet.kernels.numba.simd import offset
from tinynet.kernels.numba.tiles import ROWS, WIDTH, tile_add_weighted, tile_store, tile_zero
from tinynet.kernels.numba.winograd import ENTRIES, outputs_of_piece, transform_piece

OUTPUTS_AT_ONCE = 24  # a multiple of every tile's rows; with the pieces they fit the second-level cache
PIECE = 4 * WIDTH  # numbers of an entry of four pieces
APART = 16  # numbers, a cache line: what lies a multiple of 4096 bytes apart competes for the same places


def room(channels: int, outputs: int) -> int:
    """Numbers of scratch: transformed pieces and their sums."""
    return ENTRIES * ((channels + min(outputs, OUTPUTS_AT_ONCE)) * PIECE + 2 * APART)


def output_parts(outputs: int) -> list[tuple[int, int]]:
    """(first, last) of the outputs that are summed together; their weights lie as tile_weights has them."""
    return [(o, min(o + OUTPUTS_AT_ONCE, outputs)) for o in range(0, outputs, OUTPUTS_AT_ONCE)]


def _product_tiles(rows: int) -> Callable[..., Any]:
    """sums[o] = sum over c of weights[c, o] * pieces[c], for the outputs low..high."""

    @inlined
    def run(pieces, weights, channels, low, high, sums):
        columns = (0, WIDTH, 2 * WIDTH, 3 * WIDTH)
        whole = channels // 4 * 4
        for o in range(low, high, rows):
            tile = tile_zero(pieces, rows, 4)
            w = o * channels
            for c in range(0, whole, 4):
                x = c * PIECE
                tile = tile_add_weighted(tile, weights, w, pieces, x, columns)
                tile = tile_add_weighted(tile, weights, w + rows, pieces, x + PIECE, columns)
                tile = tile_add_weighted(tile, weights, w + 2 * rows, pieces, x + 2 * PIECE, columns)
                tile = tile_add_weighted(tile, weights, w + 3 * rows, pieces, x + 3 * PIECE, columns)
                w += 4 * rows
            for c in range(whole, channels):
                tile = tile_add_weighted(tile, weights, w, pieces, c * PIECE, columns)
                w += rows
            tile_store(tile, sums, o * PIECE, PIECE, columns)

    return run


_tall, _two, _one = _product_tiles(ROWS), _product_tiles(2), _product_tiles(1)


@inlined
def winograd(plan, at, numbers, scratch):
    """Four pieces at a time: transform them, sum over channels entry by entry, transform back and finish."""
    channels, outputs, row = plan[at + CHANNELS], plan[at + OUTPUTS], plan[at + OPTION]
    plane, finish, pooled = plan[at + TARGET_PLANE], plan[at + FINISH], plan[at + POOLED] != 0
    corners, targets = offset(plan, plan[at + POSITIONS]), offset(plan, plan[at + TARGETS])
    y, pieces = offset(scratch, plan[at + TARGET]), offset(scratch, plan[at + WORK])
    step = channels * PIECE + APART
    sums = offset(pieces, ENTRIES * step)
    for p in range(0, plan[at + POSITION_COUNT], 4):
        for c in range(channels):
            source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE]
            for k in range(4):
                target = c * PIECE + k * WIDTH
                transform_piece(scratch, source + corners[p + k], row, WIDTH, pieces, target, step)
        for low in range(0, outputs, OUTPUTS_AT_ONCE):
            several = min(OUTPUTS_AT_ONCE, outputs - low)
            stride = several * PIECE + APART
            tall, two = tile_edges(several)
            for entry in range(ENTRIES):
                weights = offset(numbers, plan[at + WEIGHTS] + (low * ENTRIES + entry * several) * channels)
                of_entry, to = offset(pieces, entry * step), offset(sums, entry * stride)
                _tall(of_entry, weights, channels, 0, tall, to)
                _two(of_entry, weights, channels, tall, two, to)
                _one(of_entry, weights, channels, two, several, to)
            for o in range(several):
                place = (low + o) * plane
                for k in range(4):
                    tile = outputs_of_piece(sums, (o * 4 + k) * WIDTH, stride, numbers, finish + 2 + low + o)
                    if pooled:
                        tile = tile_finish(tile_window_maximum(tile), numbers, finish, low + o, outputs)
                        tile_store(tile, y, place, plane, (targets[(p + k) * 4],))
                    else:
                        t = (p + k) * 4
                        stored = (targets[t], targets[t + 1], targets[t + 2], targets[t + 3])
                        tile = tile_finish(tile, numbers, finish, low + o, outputs)
                        tile_store(tile, y, place, plane, stored)
