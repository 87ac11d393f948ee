"""Convolution of one image, its lanes neighbouring pixels of a row: directly, and by Winograd's method.

Both rest on `_products`: sums over taps of weight times vector, in register tiles of 4 outputs by 3
vectors.  12 accumulators, 3 vectors and a weight are the 16 registers that most processors have, and 12
chains keep two multiply-add units with a latency of 4 cycles busy.
"""

from __future__ import annotations

from tinynet.kernels.numba.compile import inlined
from tinynet.kernels.numba.pixels import (
    LANES,
    add,
    alternating,
    even_lanes,
    first_lanes,
    larger,
    limited,
    load,
    multiply_add,
    odd_lanes,
    repeat,
    store,
    subtract,
    zero,
)
from tinynet.kernels.numba.single_plan import (
    APART,
    CHANNELS,
    FINISH,
    OPTION,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUTPUTS,
    OUTPUTS_OF_TILE,
    POOLED,
    POSITIONS,
    PRODUCTS,
    ROWS,
    SOURCE,
    SOURCE_PLANE,
    SOURCE_ROW,
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
def _products(scratch, source, plan, positions, vectors, taps, count, numbers, w, target, plane):
    """4 outputs at `vectors` positions, one after another: by threes, the last four or two by twos.

    An odd last one is computed twice; what comes after its place in `target` is overwritten.
    """
    i = 0
    while i < vectors:
        p0 = source + plan[positions + i]
        p1 = source + plan[positions + min(i + 1, vectors - 1)]
        if vectors - i == 3 or vectors - i > 4:
            p2 = source + plan[positions + i + 2]
            _tile_of_3(scratch, p0, p1, p2, plan, taps, count, numbers, w, target + i * LANES, plane)
            i += 3
        else:
            _tile_of_2(scratch, p0, p1, plan, taps, count, numbers, w, target + i * LANES, plane)
            i += 2


# What happens to sums before they are stored.


@inlined
def _finish_of(numbers, finish, output, padded):
    """Bias, limits, scale and shift of one output: what `_finished` wants."""
    bias = finish + 2 + output
    return (
        repeat(numbers, bias),
        repeat(numbers, finish),
        repeat(numbers, finish + 1),
        repeat(numbers, bias + padded),
        repeat(numbers, bias + 2 * padded),
    )


@inlined
def _finished(value, finish):
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
            value = _finished(load(scratch, work + (y * per_row + v) * LANES), finish)
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
            value = _finished(larger(even_lanes(left, right), odd_lanes(left, right)), finish)
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
                _products(
                    scratch, source, plan, plan[at + POSITIONS] + y * per_row, rows * per_row,
                    plan[at + TAPS], count, numbers, w, work, plane,
                )  # fmt: skip
                w += 4 * count
                for o in range(min(4, each - first)):
                    output = group * each + first + o
                    target = plan[at + TARGET] + output * target_plane
                    finish = _finish_of(numbers, plan[at + FINISH], output, padded)
                    sums = work + o * plane
                    if pooled:
                        target += y // 2 * target_row
                        _finish_pooled(scratch, sums, per_row, rows, width, target, target_row, finish)
                    else:
                        target += y * target_row
                        _finish_rows(scratch, sums, per_row, rows, width, target, target_row, finish)


# Winograd's method F(2x2, 3x3): Lavin and Gray, Fast algorithms for convolutional neural networks
# (arXiv:1509.09308), section 4.1.  A tile is 2x2 outputs of 4x4 inputs, and lanes are tiles.  With the
# 4x4 inputs d, the weights g and the matrices of the paper,
#
#     outputs = A' [ sum over channels of (G g G') * (B' d B) ] A
#
# where * multiplies elements: 16 multiplications instead of 36.  G g G' is computed when weights are packed.
# A NaN or infinity reaches all four outputs of its tiles.


@inlined
def _input_row(scratch, at):
    """One row of d B, where d begins at `at`: pixel 0 - pixel 2, 1 + 2, 2 - 1, and 1 - 3, of each tile."""
    left, right = load(scratch, at), load(scratch, at + LANES)
    d0, d1 = even_lanes(left, right), odd_lanes(left, right)
    left, right = load(scratch, at + 2), load(scratch, at + 2 + LANES)
    d2, d3 = even_lanes(left, right), odd_lanes(left, right)
    return subtract(d0, d2), add(d1, d2), subtract(d2, d1), subtract(d1, d3)


@inlined
def _transform_inputs(scratch, at, row, target, step):
    """B' d B of LANES tiles whose first number is at `at`; its 16 vectors are stored `step` apart."""
    a0, a1, a2, a3 = _input_row(scratch, at)
    b0, b1, b2, b3 = _input_row(scratch, at + row)
    c0, c1, c2, c3 = _input_row(scratch, at + 2 * row)
    d0, d1, d2, d3 = _input_row(scratch, at + 3 * row)
    _store_4(scratch, target, step, subtract(a0, c0), subtract(a1, c1), subtract(a2, c2), subtract(a3, c3))
    target += 4 * step
    _store_4(scratch, target, step, add(b0, c0), add(b1, c1), add(b2, c2), add(b3, c3))
    target += 4 * step
    _store_4(scratch, target, step, subtract(c0, b0), subtract(c1, b1), subtract(c2, b2), subtract(c3, b3))
    target += 4 * step
    _store_4(scratch, target, step, subtract(b0, d0), subtract(b1, d1), subtract(b2, d2), subtract(b3, d3))


@inlined
def _store_4(scratch, target, step, x0, x1, x2, x3):
    store(scratch, target, x0)
    store(scratch, target + step, x1)
    store(scratch, target + 2 * step, x2)
    store(scratch, target + 3 * step, x3)


@inlined
def _output_column(scratch, at, step):
    """One column of A' m, where m's first row is at `at`: rows 0 + 1 + 2, and rows 1 - 2 - 3."""
    m1, m2 = load(scratch, at + 4 * step), load(scratch, at + 8 * step)
    upper = add(add(load(scratch, at), m1), m2)
    return upper, subtract(subtract(m1, m2), load(scratch, at + 12 * step))


@inlined
def _transform_outputs(scratch, at, step):
    """A' m A of LANES tiles, whose 16 vectors are `step` apart: four vectors, the pixels of each tile."""
    a0, b0 = _output_column(scratch, at, step)
    a1, b1 = _output_column(scratch, at + step, step)
    a2, b2 = _output_column(scratch, at + 2 * step, step)
    a3, b3 = _output_column(scratch, at + 3 * step, step)
    upper_left, upper_right = add(add(a0, a1), a2), subtract(subtract(a1, a2), a3)
    return upper_left, upper_right, add(add(b0, b1), b2), subtract(subtract(b1, b2), b3)


@inlined
def winograd(plan, at, numbers, scratch):
    """A 3x3 convolution with stride 1, some rows of tiles at a time."""
    height, width = plan[at + OUT_HEIGHT], plan[at + OUT_WIDTH]
    channels, outputs, pooled = plan[at + CHANNELS], plan[at + OUTPUTS], plan[at + POOLED]
    transformed, products, plane = plan[at + WORK], plan[at + PRODUCTS], plan[at + WORK_PLANE]
    source_row, target_row = plan[at + SOURCE_ROW], plan[at + TARGET_ROW]
    padded = -(-outputs // LANES) * LANES
    rounded = -(-outputs // OUTPUTS_OF_TILE) * OUTPUTS_OF_TILE
    # From one of a tile's 16 elements to the next; the distance keeps them apart in the cache.
    input_step, step = channels * plane + APART, rounded * plane + APART
    tile_rows, across = (height + 1) // 2, (width + 1) // 2
    tiles, per_row = plan[at + OPTION], -(-across // LANES)
    for y in range(0, tile_rows, plan[at + ROWS]):
        rows = min(plan[at + ROWS], tile_rows - y)
        vectors = -(-rows * across // LANES)
        for c in range(channels):
            source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE] + 2 * y * source_row
            place = transformed + c * plane
            # Where vectors of tiles are read and stored.  A row's last one reaches into the next row's
            # first, which is stored after it.
            for i in range(tiles, tiles + 2 * rows * per_row, 2):
                _transform_inputs(scratch, source + plan[i], source_row, place + plan[i + 1], input_step)
        for element in range(16):
            for o in range(0, outputs, 4):
                _products(
                    scratch, transformed + element * input_step, plan, plan[at + POSITIONS], vectors,
                    plan[at + TAPS], channels, numbers,
                    plan[at + WEIGHTS] + (element * rounded + o) * channels,
                    products + element * step + o * plane, plane,
                )  # fmt: skip
        for o in range(outputs):
            target = plan[at + TARGET] + o * plan[at + TARGET_PLANE]
            finish = _finish_of(numbers, plan[at + FINISH], o, padded)
            for r in range(rows):
                for x in range(0, across, LANES):
                    m = products + o * plane + r * across + x
                    y00, y01, y10, y11 = _transform_outputs(scratch, m, step)
                    if pooled:
                        value = larger(larger(y00, y01), larger(y10, y11))
                        place = target + (y + r) * target_row + x
                        store_row_end(scratch, place, _finished(value, finish), across - x)
                        continue
                    y00, y01 = _finished(y00, finish), _finished(y01, finish)
                    place = target + 2 * (y + r) * target_row + 2 * x
                    _store_pairs(scratch, place, y00, y01, width - 2 * x)
                    if 2 * (y + r) + 1 < height:
                        y10, y11 = _finished(y10, finish), _finished(y11, finish)
                        _store_pairs(scratch, place + target_row, y10, y11, width - 2 * x)


@inlined
def _store_pairs(scratch, place, even, odd, remaining):
    """Two vectors' pixels in turn, zeros where fewer pixels than that remain in the row."""
    if remaining < 2 * LANES:
        even, odd = first_lanes(even, (remaining + 1) // 2), first_lanes(odd, remaining // 2)
    left, right = alternating(even, odd)
    store(scratch, place, left)
    store(scratch, place + LANES, right)
