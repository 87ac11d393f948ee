"""The arithmetic of docs/int8.md: one rounding rule, and multiplying by a real number in integers."""

from __future__ import annotations

import math

import numpy as np

from tinynet.errors import ArgumentError

LOWEST, HIGHEST = -128, 127  # of a value
LARGEST_WEIGHT = 127  # weights are symmetric: -127 to 127
MULTIPLIER_BITS = 31
LARGEST_SHIFT = 62
LARGEST_SUM = 2**31 - 1  # of products and bias, int32


def round_half_up(x: np.ndarray | float) -> np.ndarray:
    """floor(x + 1/2): the only rounding there is; float64."""
    return np.floor(np.asarray(x, np.float64) + 0.5)


def rescale(sums: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """floor((sums * multiplier + 2**(shift - 1)) / 2**shift), int64 of the broadcast shape.

    sums: integers of at most 2**31 in magnitude; multiplier: 0 to 2**31 - 1; shift: 1 to 62.  Nothing
    overflows: the product and the half stay below 2**62 + 2**61.
    """
    shift = np.asarray(shift, np.int64)
    product = np.asarray(sums, np.int64) * np.asarray(multiplier, np.int64)
    return (product + (np.int64(1) << (shift - 1))) >> shift


def multiplier_and_shift(factor: float) -> tuple[int, int]:
    """The multiplier and shift whose multiplier / 2**shift is nearest to `factor`, a number of at least 0.

    The multiplier has 31 bits unless the factor is below 2**-32; a factor of which not even the largest
    sum makes 1/2 is 0.  Raises ArgumentError for 2**30 and more, which no shift of at least 1 can express.
    """
    if not 0 <= factor < 2**30:
        raise ArgumentError(f"a factor of {factor:g} between two scales cannot be expressed in int8")
    exponent = math.frexp(factor)[1]  # factor = mantissa * 2**exponent, 1/2 <= mantissa < 1
    shift = min(MULTIPLIER_BITS - exponent, LARGEST_SHIFT)
    multiplier = int(round_half_up(math.ldexp(factor, shift)))
    if multiplier == 2**MULTIPLIER_BITS:  # rounded up to the next power of two
        multiplier, shift = 2 ** (MULTIPLIER_BITS - 1), shift - 1
    if shift < 1:
        raise ArgumentError(f"a factor of {factor:g} between two scales cannot be expressed in int8")
    return multiplier, shift


def multipliers_and_shifts(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers, int32, and shifts, uint8, of a vector of factors."""
    pairs = [multiplier_and_shift(float(factor)) for factor in np.asarray(factors).ravel()]
    return np.array([pair[0] for pair in pairs], np.int32), np.array([pair[1] for pair in pairs], np.uint8)


def shared_shift(factors: np.ndarray) -> tuple[np.ndarray, int]:
    """Multipliers, int32, of a vector of factors at one shift: that of the largest."""
    shift = multiplier_and_shift(float(np.max(factors)))[1]
    multipliers = round_half_up(np.ldexp(np.asarray(factors, np.float64), shift))
    return np.minimum(multipliers, 2**MULTIPLIER_BITS - 1).astype(np.int32), shift


def quantize(real: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """int8 of real numbers: zero + round(real / scale), clamped to -128 .. 127."""
    return np.clip(round_half_up(real / scale) + zero, LOWEST, HIGHEST).astype(np.int8)


def dequantize(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """The real numbers that int8 values stand for, float32."""
    return ((values.astype(np.int32) - zero) * np.float64(scale)).astype(np.float32)


def range_of(lowest: float, highest: float) -> tuple[float, int]:
    """Scale and zero point with which int8 covers lowest .. highest and 0, and 0 is exact.

    A value that is always 0, or as good as 0, gets the scale 1.
    """
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if highest - lowest < 1e-25:
        return 1.0, LOWEST
    scale = (highest - lowest) / (HIGHEST - LOWEST)
    zero = int(np.clip(round_half_up(LOWEST - lowest / scale), LOWEST, HIGHEST))
    return scale, zero
