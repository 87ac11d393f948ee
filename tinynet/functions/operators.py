"""Gives Tensor its operators and methods: x + y, x[i], x.sum(), ...

They are attached here, and not written in the class, so that imports point one way: the
functions are built on Tensor, and tensor.py knows none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions import arithmetic, reductions, shaping
from tinynet.tensor import Tensor


def _reflected(function: Any) -> Any:
    """For 2 - x, which Python asks x about as x.__rsub__(2)."""

    def operator(self: Tensor, other: Any) -> Tensor:
        return function(other, self)

    operator.__doc__ = function.__doc__
    return operator


def _iterate(self: Tensor) -> Iterator[Tensor]:
    """The slices along the first axis."""
    return (shaping.getitem(self, i) for i in range(len(self)))


def _as_array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """For np.asarray(x).  Raises ArgumentError where that would silently lose the gradient of x."""
    if self.requires_grad:
        raise ArgumentError(
            f"a Tensor of shape {self.shape} that requires a gradient does not turn into an array by itself; "
            "ask for x.numpy()"
        )
    array = self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)
    return array.copy() if copy else array


def _bool(self: Tensor) -> bool:
    """For `if x:`, which means something for one element only."""
    if self.size != 1:
        raise ShapeError(f"the truth of a Tensor of shape {self.shape} is not defined; it needs one element")
    return bool(self.item())


OPERATORS: dict[str, Any] = {
    "__add__": arithmetic.add,
    "__radd__": _reflected(arithmetic.add),
    "__sub__": arithmetic.subtract,
    "__rsub__": _reflected(arithmetic.subtract),
    "__mul__": arithmetic.multiply,
    "__rmul__": _reflected(arithmetic.multiply),
    "__truediv__": arithmetic.divide,
    "__rtruediv__": _reflected(arithmetic.divide),
    "__pow__": arithmetic.power,
    "__rpow__": _reflected(arithmetic.power),
    "__matmul__": arithmetic.matmul,
    "__rmatmul__": _reflected(arithmetic.matmul),
    "__neg__": arithmetic.negative,
    "__abs__": arithmetic.absolute,
    "__getitem__": shaping.getitem,
    "__iter__": _iterate,
    "__bool__": _bool,
    "__float__": Tensor.item,
    "__array__": _as_array,
    # None: NumPy leaves `array + tensor` to the Tensor, and np.exp(tensor) is a TypeError
    # rather than an array of objects.
    "__array_ufunc__": None,
}

METHODS: dict[str, Any] = {
    "exp": arithmetic.exp,
    "log": arithmetic.log,
    "sqrt": arithmetic.sqrt,
    "clip": arithmetic.clip,
    "sum": reductions.sum,
    "mean": reductions.mean,
    "var": reductions.var,
    "max": reductions.max,
    "min": reductions.min,
    "logsumexp": reductions.logsumexp,
    "reshape": shaping.reshape,
    "transpose": shaping.transpose,
    "swapaxes": shaping.swapaxes,
    "squeeze": shaping.squeeze,
    "T": property(shaping.transpose, doc="x with its axes reversed"),
}

for _name, _value in (OPERATORS | METHODS).items():
    setattr(Tensor, _name, _value)
