"""Convolution of one image, its lanes neighbouring pixels of a row, for any window.

It rests on `products`: sums over taps of weight times vector, in register tiles of 4 outputs by 3
vectors.  12 accumulators, 3 vectors and a weight are the 16 registers that most processors have, and 12
chains keep two multiply-add units with a latency of 4 cycles busy.
"""

from __future__ import annotations

from tinynet.kernels.numba.compile import inlined
from tinynet.kernels.numba.pixels import (
    LANES,
    add,
    even_lanes,
    first_lanes,
    larger,
    limited,
    load,
    multiply_add,
    odd_lanes,
    repeat,
    store,
    zero,
)
from tinynet.kernels.numba.single_plan import (
    CHANNELS,
    FINISH,
    OPTION,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUTPUTS,
    POOLED,
    POSITIONS,
    ROWS,
    SOURCE,
    SOURCE_PLANE,
    TAP_COUNT,
    TAPS,
    TARGET,
    TARGET_PLANE,
    TARGET_ROW,
    WEIGHTS,
    WORK,
    WORK_PLANE,
)

# Register tiles.


@inlined
def _tile_of_3(scratch, p0, p1, p2, plan, taps, count, numbers, w, target, plane):
    """4 outputs at 3 positions; the vectors go to `target` on, `plane` apart for the outputs."""
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = zero()
    for t in range(taps, taps + count):
        tap = plan[t]
        x0, x1, x2 = load(scratch, p0 + tap), load(scratch, p1 + tap), load(scratch, p2 + tap)
        weight = repeat(numbers, w)
        a0, a1, a2 = multiply_add(weight, x0, a0), multiply_add(weight, x1, a1), multiply_add(weight, x2, a2)
        weight = repeat(numbers, w + 1)
        b0, b1, b2 = multiply_add(weight, x0, b0), multiply_add(weight, x1, b1), multiply_add(weight, x2, b2)
        weight = repeat(numbers, w + 2)
        c0, c1, c2 = multiply_add(weight, x0, c0), multiply_add(weight, x1, c1), multiply_add(weight, x2, c2)
        weight = repeat(numbers, w + 3)
        d0, d1, d2 = multiply_add(weight, x0, d0), multiply_add(weight, x1, d1), multiply_add(weight, x2, d2)
        w += 4
    _store_3(scratch, target, a0, a1, a2)
    _store_3(scratch, target + plane, b0, b1, b2)
    _store_3(scratch, target + 2 * plane, c0, c1, c2)
    _store_3(scratch, target + 3 * plane, d0, d1, d2)


@inlined
def _store_3(scratch, target, x0, x1, x2):
    store(scratch, target, x0)
    store(scratch, target + LANES, x1)
    store(scratch, target + 2 * LANES, x2)


@inlined
def _tile_of_2(scratch, p0, p1, plan, taps, count, numbers, w, target, plane):
    """4 outputs at 2 positions."""
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = zero()
    for t in range(taps, taps + count):
        tap = plan[t]
        x0, x1 = load(scratch, p0 + tap), load(scratch, p1 + tap)
        weight = repeat(numbers, w)
        a0, a1 = multiply_add(weight, x0, a0), multiply_add(weight, x1, a1)
        weight = repeat(numbers, w + 1)
        b0, b1 = multiply_add(weight, x0, b0), multiply_add(weight, x1, b1)
        weight = repeat(numbers, w + 2)
        c0, c1 = multiply_add(weight, x0, c0), multiply_add(weight, x1, c1)
        weight = repeat(numbers, w + 3)
        d0, d1 = multiply_add(weight, x0, d0), multiply_add(weight, x1, d1)
        w += 4
    store(scratch, target, a0)
    store(scratch, target + LANES, a1)
    store(scratch, target + plane, b0)
    store(scratch, target + plane + LANES, b1)
    store(scratch, target + 2 * plane, c0)
    store(scratch, target + 2 * plane + LANES, c1)
    store(scratch, target + 3 * plane, d0)
    store(scratch, target + 3 * plane + LANES, d1)


@inlined
def products(scratch, source, plan, positions, vectors, taps, count, numbers, w, target, plane):
    """4 outputs at `vectors` positions, one after another: by threes, the last four or two by twos.

    An odd last one is computed twice; what comes after its place in `target` is overwritten.
    """
    triples = vectors // 3 - (1 if vectors % 3 == 1 and vectors > 1 else 0)
    last = positions + vectors - 1
    for i in range(positions, positions + 3 * triples, 3):
        p0, p1, p2 = source + plan[i], source + plan[i + 1], source + plan[i + 2]
        _tile_of_3(scratch, p0, p1, p2, plan, taps, count, numbers, w, target, plane)
        target += 3 * LANES
    for i in range(positions + 3 * triples, last + 1, 2):
        p0, p1 = source + plan[i], source + plan[min(i + 1, last)]
        _tile_of_2(scratch, p0, p1, plan, taps, count, numbers, w, target, plane)
        target += 2 * LANES


# What happens to sums before they are stored.


@inlined
def finish_of(numbers, finish, output, padded):
    """Bias, limits, scale and shift of one output: what `finished` wants."""
    bias = finish + 2 + output
    return (
        repeat(numbers, bias),
        repeat(numbers, finish),
        repeat(numbers, finish + 1),
        repeat(numbers, bias + padded),
        repeat(numbers, bias + 2 * padded),
    )


@inlined
def finished(value, finish):
    """value + bias within limits, times scale, plus shift: bias, activation and batch-norm."""
    bias, low, high, scale, shift = finish
    return multiply_add(limited(add(value, bias), low, high), scale, shift)


@inlined
def store_row_end(scratch, target, value, remaining):
    """Store a vector of a row with `remaining` pixels to come; zeros beyond them, as padding wants."""
    if remaining < LANES:
        value = first_lanes(value, remaining)
    store(scratch, target, value)


@inlined
def _finish_rows(scratch, work, per_row, rows, width, target, target_row, finish):
    """From sums, whole vectors a row, to `rows` rows of the activation."""
    for y in range(rows):
        for v in range(per_row):
            value = finished(load(scratch, work + (y * per_row + v) * LANES), finish)
            at = target + y * target_row + v * LANES
            store_row_end(scratch, at, value, width - v * LANES)


@inlined
def _finish_pooled(scratch, work, per_row, rows, width, target, target_row, finish):
    """The same, keeping the largest of each 2x2 sums."""
    row, half = per_row * LANES, width // 2
    for y in range(rows // 2):
        for x in range(0, half, LANES):
            at = work + 2 * y * row + 2 * x
            left = larger(load(scratch, at), load(scratch, at + row))
            right = larger(load(scratch, at + LANES), load(scratch, at + row + LANES))
            value = finished(larger(even_lanes(left, right), odd_lanes(left, right)), finish)
            store_row_end(scratch, target + y * target_row + x, value, half - x)


# Direct convolution.


@inlined
def convolution(plan, at, numbers, scratch):
    """A convolution with any window: taps and positions are tables, as in README.md."""
    height, width = plan[at + OUT_HEIGHT], plan[at + OUT_WIDTH]
    outputs, groups, pooled = plan[at + OUTPUTS], plan[at + OPTION], plan[at + POOLED]
    count, work, plane = plan[at + TAP_COUNT], plan[at + WORK], plan[at + WORK_PLANE]
    target_plane, target_row = plan[at + TARGET_PLANE], plan[at + TARGET_ROW]
    padded = -(-outputs // LANES) * LANES
    per_row, each = -(-width // LANES), outputs // groups
    for y in range(0, height, plan[at + ROWS]):
        rows = min(plan[at + ROWS], height - y)
        w = plan[at + WEIGHTS]
        for group in range(groups):
            source = plan[at + SOURCE] + group * plan[at + CHANNELS] * plan[at + SOURCE_PLANE]
            for first in range(0, each, 4):
                products(
                    scratch, source, plan, plan[at + POSITIONS] + y * per_row, rows * per_row,
                    plan[at + TAPS], count, numbers, w, work, plane,
                )  # fmt: skip
                w += 4 * count
                for o in range(min(4, each - first)):
                    output = group * each + first + o
                    target = plan[at + TARGET] + output * target_plane
                    finish = finish_of(numbers, plan[at + FINISH], output, padded)
                    sums = work + o * plane
                    if pooled:
                        target += y // 2 * target_row
                        _finish_pooled(scratch, sums, per_row, rows, width, target, target_row, finish)
                    else:
                        target += y * target_row
                        _finish_rows(scratch, sums, per_row, rows, width, target, target_row, finish)
