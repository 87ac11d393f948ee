"""The rounding rule and rescaling of docs/int8.md, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinynet.deploy.int8 import arithmetic
from tinynet.errors import ArgumentError

SUMS = st.integers(-(2**31), 2**31)
MULTIPLIERS = st.integers(0, 2**31 - 1)
SHIFTS = st.integers(1, 62)


@given(st.integers(-(2**40), 2**40))
def test_halves_go_up(twice):
    assert arithmetic.round_half_up(twice / 2) == (twice + 1) // 2


def test_the_rounding_of_the_page():
    assert arithmetic.round_half_up(np.array([-2.5, 2.5, -0.5, 0.5])).tolist() == [-2, 3, 0, 1]


@given(SUMS, MULTIPLIERS, SHIFTS)
@example(-(2**31), 2**31 - 1, 62)
@example(2**31, 2**31 - 1, 62)
@example(-1, 2**30, 31)  # exactly -1/2: up
def test_rescaling_is_the_exact_product_rounded_half_up(a, multiplier, shift):
    exact = Fraction(a * multiplier, 2**shift) + Fraction(1, 2)
    assert arithmetic.rescale(np.array([a]), multiplier, shift)[0] == math.floor(exact)


@given(SUMS, MULTIPLIERS, SHIFTS)
def test_the_portable_shift_of_the_page_is_the_floor(a, multiplier, shift):
    t = a * multiplier + 2 ** (shift - 1)
    # As C does it: >> of numbers that are not negative only.
    assert (t >> shift if t >= 0 else -1 - ((-1 - t) >> shift)) == t // 2**shift


@given(st.lists(SUMS, min_size=2, max_size=20), MULTIPLIERS, SHIFTS)
def test_rescaling_never_decreases_so_that_maxima_may_be_taken_first(sums, multiplier, shift):
    rescaled = arithmetic.rescale(np.sort(np.array(sums)), multiplier, shift)
    assert (np.diff(rescaled) >= 0).all()


@given(st.floats(2.0**-32, 2.0**29))
def test_a_factor_becomes_31_bits(factor):
    multiplier, shift = arithmetic.multiplier_and_shift(factor)
    assert 2**30 <= multiplier < 2**31 and 1 <= shift <= 62
    assert abs(Fraction(multiplier, 2**shift) / Fraction(factor) - 1) <= Fraction(1, 2**31)


@given(st.floats(0, 2.0**-32))
def test_a_factor_too_small_for_31_bits_is_as_near_as_62_shifts_allow(factor):
    multiplier, shift = arithmetic.multiplier_and_shift(factor)
    assert abs(Fraction(multiplier, 2**shift) - Fraction(factor)) <= Fraction(1, 2**63)
    # So that no int32 sum is off by a step.
    assert 2**31 * abs(Fraction(multiplier, 2**shift) - Fraction(factor)) < Fraction(1, 2**31)


def test_a_factor_that_rounds_up_to_a_power_of_two_keeps_its_31_bits():
    assert arithmetic.multiplier_and_shift(1 - 2.0**-40) == (2**30, 30)


@pytest.mark.parametrize("factor", [2.0**30, 2.0**30 - 2**-3, math.inf, math.nan, -1.0])
def test_a_factor_beyond_the_form_is_refused(factor):
    with pytest.raises(ArgumentError, match="cannot be expressed in int8"):
        arithmetic.multiplier_and_shift(factor)


@given(st.lists(st.floats(1e-9, 1e6), min_size=2, max_size=6))
def test_factors_at_one_shift_are_exact_to_the_last_bit_of_the_largest(factors):
    multipliers, shift = arithmetic.shared_shift(np.array(factors))
    assert multipliers.dtype == np.int32 and 1 <= shift <= 62
    for multiplier, factor in zip(multipliers.tolist(), factors, strict=True):
        assert abs(Fraction(multiplier, 2**shift) - Fraction(factor)) <= Fraction(1, 2**shift)


FINITE = st.floats(-1e20, 1e20)


@given(FINITE, FINITE, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_zero_is_exact_and_what_lies_in_the_range_is_off_by_at_most_a_step(low, high, places):
    low, high = min(low, high), max(low, high)
    scale, zero = arithmetic.range_of(low, high)
    assert scale > 0 and -128 <= zero <= 127
    assert arithmetic.quantize(np.array([0.0]), scale, zero)[0] == zero
    low, high = min(low, 0.0), max(high, 0.0)
    real = np.array([low + place * (high - low) for place in places])
    back = arithmetic.dequantize(arithmetic.quantize(real, scale, zero), scale, zero)
    # Half a step of rounding; at the very ends up to another half, for the zero point is rounded too.
    assert np.abs(back - real).max() <= scale * 1.0001 + 1e-25


@given(st.floats(1e-20, 1e20), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_after_a_rectifier_the_error_is_half_a_step(high, places):
    scale, zero = arithmetic.range_of(0.0, high)
    assert zero == -128
    real = np.array(places) * high
    back = arithmetic.dequantize(arithmetic.quantize(real, scale, zero), scale, zero)
    assert np.abs(back - real).max() <= scale * 0.5001


def test_every_int8_comes_back_from_its_real_number():
    every = np.arange(-128, 128).astype(np.int8)
    for scale, zero in ((0.037, -128), (1e-9, 5), (3e7, 127)):
        real = arithmetic.dequantize(every, scale, zero).astype(np.float64)
        assert np.array_equal(arithmetic.quantize(real, scale, zero), every)


def test_a_value_that_is_always_zero_has_a_scale():
    assert arithmetic.range_of(0.0, 0.0) == (1.0, -128)
