"""3x3 convolution of one image by Winograd's method F(2x2, 3x3): 16 multiplications instead of 36.

Source: Lavin and Gray, Fast algorithms for convolutional neural networks (arXiv:1509.09308), section 4.1.
A tile is 2x2 outputs of 4x4 inputs, and lanes are neighbouring tiles.  With the 4x4 inputs d, the weights g
and the matrices of the paper,

    outputs = A' [ sum over channels of (G g G') * (B' d B) ] A

where * multiplies elements.  G g G' is computed when weights are packed.  A tile's outputs are just what
a 2x2 max-pool takes together.  A NaN or infinity reaches all four outputs of its tiles.
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
    load,
    odd_lanes,
    store,
    subtract,
)
from tinynet.kernels.numba.single_convolution import finish_of, finished, products, store_row_end
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
    TAPS,
    TARGET,
    TARGET_PLANE,
    TARGET_ROW,
    WEIGHTS,
    WORK,
    WORK_PLANE,
)


@inlined
def winograd(plan, at, numbers, scratch):
    """Some rows of tiles at a time: inputs transformed, a matrix product for each element, outputs."""
    channels, outputs = plan[at + CHANNELS], plan[at + OUTPUTS]
    transformed, results, plane = plan[at + WORK], plan[at + PRODUCTS], plan[at + WORK_PLANE]
    target, target_plane, target_row = plan[at + TARGET], plan[at + TARGET_PLANE], plan[at + TARGET_ROW]
    height, width, pooled = plan[at + OUT_HEIGHT], plan[at + OUT_WIDTH], plan[at + POOLED]
    across = (width + 1) // 2
    rounded = -(-outputs // OUTPUTS_OF_TILE) * OUTPUTS_OF_TILE
    input_step, step = channels * plane + APART, rounded * plane + APART
    for y in range(0, (height + 1) // 2, plan[at + ROWS]):
        rows = _transform_rows(plan, at, scratch, y)
        vectors = -(-rows * across // LANES)
        for element in range(16):
            for o in range(0, outputs, OUTPUTS_OF_TILE):
                products(
                    scratch, transformed + element * input_step, plan, plan[at + POSITIONS], vectors,
                    plan[at + TAPS], channels, numbers,
                    plan[at + WEIGHTS] + (element * rounded + o) * channels,
                    results + element * step + o * plane, plane,
                )  # fmt: skip
        for o in range(outputs):
            finish = _finish(plan, at, numbers, o)
            for r in range(rows):
                for x in range(0, across, LANES):
                    place = results + o * plane + r * across + x
                    a0, b0 = _output_column(scratch, place, step)
                    a1, b1 = _output_column(scratch, place + step, step)
                    a2, b2 = _output_column(scratch, place + 2 * step, step)
                    a3, b3 = _output_column(scratch, place + 3 * step, step)
                    _store_tiles(
                        scratch, target + o * target_plane, target_row, height, width, pooled, y + r, x,
                        a0, a1, a2, a3, b0, b1, b2, b3, finish,
                    )  # fmt: skip


@inlined
def _finish(plan, at, numbers, output):
    """finish_of this convolution's output."""
    return finish_of(numbers, plan[at + FINISH], output, -(-plan[at + OUTPUTS] // LANES) * LANES)


# Inputs.


@inlined
def _transform_rows(plan, at, scratch, y):
    """B' d B of every channel, for as many rows of tiles as are done at once, from y on; how many."""
    channels, plane = plan[at + CHANNELS], plan[at + WORK_PLANE]
    rows = min(plan[at + ROWS], (plan[at + OUT_HEIGHT] + 1) // 2 - y)
    vectors = rows * -(-((plan[at + OUT_WIDTH] + 1) // 2) // LANES)
    # From one of a tile's 16 elements to the next; APART keeps them apart in the cache.
    step = channels * plane + APART
    for c in range(channels):
        source = plan[at + SOURCE] + c * plan[at + SOURCE_PLANE] + 2 * y * plan[at + SOURCE_ROW]
        place = plan[at + WORK] + c * plane
        # Where vectors of tiles are read and stored.  A row's last one reaches into the next row's
        # first, which is stored after it.
        for i in range(plan[at + OPTION], plan[at + OPTION] + 2 * vectors, 2):
            _transform_inputs(scratch, source + plan[i], plan[at + SOURCE_ROW], place + plan[i + 1], step)
    return rows


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


# Outputs.


@inlined
def _output_column(scratch, at, step):
    """One column of A' m, where m's first row is at `at`: rows 0 + 1 + 2, and rows 1 - 2 - 3."""
    m1, m2 = load(scratch, at + 4 * step), load(scratch, at + 8 * step)
    upper = add(add(load(scratch, at), m1), m2)
    return upper, subtract(subtract(m1, m2), load(scratch, at + 12 * step))


@inlined
def _store_tiles(
    scratch, target, row, height, width, pooled, y, x, a0, a1, a2, a3, b0, b1, b2, b3, finish
):  # fmt: skip
    """From A' m, its rows a and b, to (A' m) A; finished, and stored at tile (y, x) and its neighbours."""
    upper_left, upper_right = add(add(a0, a1), a2), subtract(subtract(a1, a2), a3)
    lower_left, lower_right = add(add(b0, b1), b2), subtract(subtract(b1, b2), b3)
    if pooled:
        value = larger(larger(upper_left, upper_right), larger(lower_left, lower_right))
        store_row_end(scratch, target + y * row + x, finished(value, finish), width // 2 - x)
        return
    place, remaining = target + 2 * y * row + 2 * x, width - 2 * x
    _store_pairs(scratch, place, finished(upper_left, finish), finished(upper_right, finish), remaining)
    if 2 * y + 1 < height:
        lower_left, lower_right = finished(lower_left, finish), finished(lower_right, finish)
        _store_pairs(scratch, place + row, lower_left, lower_right, remaining)


@inlined
def _store_pairs(scratch, place, even, odd, remaining):
    """Two vectors' pixels in turn, zeros where fewer pixels than that remain in the row."""
    if remaining < 2 * LANES:
        even, odd = first_lanes(even, (remaining + 1) // 2), first_lanes(odd, remaining // 2)
    left, right = alternating(even, odd)
    store(scratch, place, left)
    store(scratch, place + LANES, right)
