"""Rectifiers.  The comparisons are written so that a NaN falls through to the side that keeps it."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.parallel import over_ranges

ELEMENT = 8.0  # what an element of such a pass costs, in multiply-adds


@kernel
def _relu(x, first, last, y):
    for i in range(first, last):
        y[i] = 0 if x[i] <= 0 else x[i]


@kernel
def _relu_backward(dy, y, first, last, dx):
    for i in range(first, last):
        dx[i] = 0 if y[i] <= 0 else dy[i]


@kernel
def _relu6(x, first, last, y):
    for i in range(first, last):
        value = x[i]
        y[i] = 0 if value <= 0 else (6 if value >= 6 else value)


@kernel
def _relu6_backward(dy, y, first, last, dx):
    for i in range(first, last):
        dx[i] = 0 if (y[i] <= 0 or y[i] >= 6) else dy[i]


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return _elementwise(_relu, x)


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy where the result was positive (or NaN), else 0."""
    return _elementwise(_relu_backward, dy, y)


def relu6(x: np.ndarray) -> np.ndarray:
    """min(max(x, 0), 6)."""
    return _elementwise(_relu6, x)


def relu6_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy where the result was between 0 and 6 (or NaN), else 0."""
    return _elementwise(_relu6_backward, dy, y)


def _elementwise(function, *arrays: np.ndarray) -> np.ndarray:
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    result = np.empty(arrays[0].shape, arrays[0].dtype)
    target = result.reshape(-1)
    over_ranges(lambda first, last: function(*flat, first, last, target), target.size, target.size * ELEMENT)
    return result
