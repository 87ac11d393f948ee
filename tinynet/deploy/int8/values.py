"""What is known of a value, how sums become int8, and the checks that both need: docs/int8.md, "Numbers"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet.deploy.int8.arithmetic import HIGHEST, LARGEST_SHIFT, LOWEST, rescale
from tinynet.errors import ArgumentError, ShapeError

Shape = tuple[int, ...]  # of one image's value


@dataclass(frozen=True)
class Value:
    """What is known of a value before it is computed.

    shape  for one image: (height, width, channels) or (features,)
    scale  the real number is scale * (integer - zero)
    zero   -128 to 127; None for int32 sums, whose zero is 0
    """

    shape: Shape
    scale: float
    zero: int | None


@dataclass(frozen=True, eq=False)
class Store:
    """How sums become int8: clamped between low and high, zero + rescale(sum, multiplier, shift).

    multiplier (int32) and shift (uint8) are vectors: one entry a channel, an input or a number of pixels,
    as the operation says.
    """

    scale: float
    zero: int
    low: int
    high: int
    multiplier: np.ndarray
    shift: np.ndarray

    def check(self, where: str, count: int, shifts: int | None = None) -> None:
        """Raise ArgumentError unless everything is in its range and there are `count` multipliers."""
        check_scale(where, self.scale)
        for name in ("zero", "low", "high"):
            check_integer(f"{where}: {name}", getattr(self, name), LOWEST, HIGHEST)
        if self.low > self.high:
            raise ArgumentError(f"{where}: low {self.low} is above high {self.high}")
        check_array(where, "multiplier", self.multiplier, np.int32, (count,))
        check_array(where, "shift", self.shift, np.uint8, (count if shifts is None else shifts,))
        if self.multiplier.min() < 0:
            raise ArgumentError(f"{where}: a multiplier is {self.multiplier.min()}, below 0")
        if self.shift.min() < 1 or self.shift.max() > LARGEST_SHIFT:
            raise ArgumentError(f"{where}: a shift is not from 1 to {LARGEST_SHIFT}")

    def __call__(self, sums: np.ndarray, multiplier: Any = None, shift: Any = None) -> np.ndarray:
        """int8 of integers; `multiplier` and `shift` where they are not one a channel."""
        multiplier = self.multiplier if multiplier is None else multiplier
        return self.clamp(rescale(sums, multiplier, self.shift if shift is None else shift))

    def clamp(self, rescaled: np.ndarray) -> np.ndarray:
        """zero + rescaled, between low and high, as int8."""
        rescaled += self.zero
        return np.clip(rescaled, self.low, self.high, out=rescaled).astype(np.int8)


def check_array(where: str, name: str, array: np.ndarray, dtype: Any, shape: Shape) -> None:
    """Raise ArgumentError or ShapeError unless the array has this dtype and shape."""
    if array.dtype != dtype:
        raise ArgumentError(f"{where}: {name} has dtype {array.dtype}, wanted {np.dtype(dtype)}")
    if array.shape != shape:
        raise ShapeError(f"{where}: {name} has shape {array.shape}, wanted {shape}")


def check_scale(where: str, scale: Any) -> None:
    """Raise ArgumentError unless a scale is a number from 1e-30 to 1e30."""
    kind = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not kind or not 1e-30 <= scale <= 1e30:
        raise ArgumentError(f"{where}: the scale is {scale!r:.40}, wanted a number from 1e-30 to 1e30")


def check_integer(where: str, value: Any, lowest: int, highest: int) -> None:
    """Raise ArgumentError unless a value is a whole number in the range."""
    if type(value) is not int or not lowest <= value <= highest:
        raise ArgumentError(f"{where} is {value!r:.40}, wanted a whole number from {lowest} to {highest}")
