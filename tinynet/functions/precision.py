"""One floating-point precision for all operands of a network function.

A kernel reads its arrays in one dtype: float32 or float64.  Arguments that come in others are
converted where they enter, differentiably, so that the gradient of each has its own dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.tensor import Function, Lanes, Tensor, as_tensor


class Cast(Function):
    """y = x in another dtype; dx = dy in the dtype of x."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def result_lanes(self, *lanes: Lanes | None) -> Lanes | None:
        return lanes[0]

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.original = x.dtype
        return x.astype(self.dtype)

    def backward(self, cotangent: np.ndarray) -> tuple[np.ndarray]:
        return (cotangent.astype(self.original),)


def same_precision(*values: Any) -> tuple[Tensor, ...]:
    """The values as Tensors of one dtype: float64 if any of them is, otherwise float32 (integers too)."""
    tensors = tuple(as_tensor(value) for value in values)
    wide = any(tensor.dtype.kind == "f" and tensor.dtype.itemsize > 4 for tensor in tensors)
    dtype = np.dtype(np.float64 if wide else np.float32)
    return tuple(tensor if tensor.dtype == dtype else Cast(dtype)(tensor) for tensor in tensors)
