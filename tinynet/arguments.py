"""What users pass, checked: each function returns its value in the form we want, or raises ArgumentError."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.errors import ArgumentError
from tinynet.tensor import Tensor


def as_array(where: str, value: Any) -> np.ndarray:
    """An array of at least one axis, from an array, a Tensor or a list of things of one shape."""
    try:
        array = np.asarray(value.numpy() if isinstance(value, Tensor) else value)
    except ValueError:  # lists of different lengths
        raise ArgumentError(f"{where}: wanted one array, got a list of things of different shapes") from None
    if array.ndim == 0:
        raise ArgumentError(f"{where}: wanted an array with one entry an image, got {value!r:.60}")
    return array


def whole_number(where: str, value: Any, lowest: int) -> int:
    """A whole number of at least `lowest`; True and 2.0 are none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < lowest:
        raise ArgumentError(f"{where} must be a whole number of at least {lowest}, got {value!r}")
    return int(value)


def number(where: str, value: Any, lowest: float, highest: float) -> float:
    """A number from `lowest` to `highest`."""
    kind = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not kind or not lowest <= value <= highest:
        raise ArgumentError(f"{where} must be a number from {lowest:g} to {highest:g}, got {value!r}")
    return float(value)


def names(where: str, value: Any) -> list[str]:
    """A list of names that differ."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise ArgumentError(f"{where} must be a list of names, got {value!r:.80}")
    if len(set(value)) != len(value):
        raise ArgumentError(f"{where} has a name twice: {', '.join(value)}")
    return list(value)
