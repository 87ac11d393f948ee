"""The squared error over whole images, which is too large to leave lane layout for."""

from __future__ import annotations

import numpy as np


def squared_error(x: np.ndarray, target: np.ndarray, count: int) -> float:
    """The float64 sum of (x - target)**2 over the `count` real images."""
    difference = x - target
    _zero_padding(difference, count)
    return float(np.square(difference, dtype=np.float64).sum())


def squared_error_gradient(x: np.ndarray, target: np.ndarray, factor: float, count: int) -> np.ndarray:
    """factor * (x - target); padding lanes zero."""
    gradient = (x - target) * x.dtype.type(factor)
    _zero_padding(gradient, count)
    return gradient


def _zero_padding(x: np.ndarray, count: int) -> None:
    x[-1, ..., count - (x.shape[0] - 1) * x.shape[4] :] = 0
