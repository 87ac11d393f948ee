"""Rectifiers, elementwise on arrays of any shape.  A NaN stays a NaN."""

from __future__ import annotations

import numpy as np


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(x, x.dtype.type(0))  # a bare 0 makes a float32 scalar float64 before NumPy 2


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy where the result was positive (or NaN), else 0."""
    return np.where(y <= 0, 0, dy).astype(dy.dtype, copy=False)


def relu6(x: np.ndarray) -> np.ndarray:
    """min(max(x, 0), 6)."""
    return np.minimum(np.maximum(x, 0), 6).astype(x.dtype, copy=False)


def relu6_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy where the result was between 0 and 6 (or NaN), else 0."""
    return np.where((y <= 0) | (y >= 6), 0, dy).astype(dy.dtype, copy=False)
