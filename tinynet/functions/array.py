"""The base of the general operations: they see ordinary arrays of one precision, broadcast like NumPy's.

What every such operation needs before its own arithmetic is here, once: leaving lane layout,
bringing the operands to one dtype, checking that shapes broadcast, and undoing a broadcast
in the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.lanes import unpack
from tinynet.functions.precision import Cast
from tinynet.tensor import Function, Tensor, as_tensor


class ArrayFunction(Function):
    """A function on ordinary arrays, which knows nothing of lane layout.

    Tensors in lane layout are unpacked first.  Numbers (Python's and NumPy's) and lists of them
    take the dtype of the other operands.  Where any operand is floating-point, all are brought
    to the widest floating dtype among them, so that float32 combined with integers stays
    float32 (NumPy would answer float64), whatever the version of NumPy.
    """

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        arrays = [unpack(value) if isinstance(value, Tensor | np.ndarray) else None for value in inputs]
        known = [array.dtype for array in arrays if array is not None]
        floating = [dtype for dtype in known if dtype.kind == "f"]
        common = np.result_type(*floating) if floating else None
        return tuple(
            _from_numbers(value, common, bool(known)) if array is None else _cast(array, common)
            for value, array in zip(inputs, arrays, strict=True)
        )


def _cast(tensor: Tensor, dtype: np.dtype | None) -> Tensor:
    return tensor if dtype is None or tensor.dtype == dtype else Cast(dtype)(tensor)


def _from_numbers(value: Any, dtype: np.dtype | None, beside_integers: bool) -> Tensor:
    # With nothing but numbers, a Tensor's own default holds; beside integer arrays, NumPy's rule.
    return Tensor(np.asarray(value, dtype)) if dtype is not None or beside_integers else as_tensor(value)


def constant(value: int | float, like: np.ndarray) -> np.generic:
    """A number in the dtype of `like`.

    Before version 2 NumPy let a Python number turn a float32 scalar into float64.
    """
    return like.dtype.type(value)


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient for an operand of `shape` that was broadcast to `gradient.shape`.

    A value used at several places receives the sum of the gradients at those places, so the
    transpose of a broadcast is a sum over the axes that the broadcast added or stretched.
    """
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = [added + i for i, size in enumerate(shape) if size == 1 and gradient.shape[added + i] != 1]
    return gradient.sum(axis=(*range(added), *stretched), keepdims=True).reshape(shape)


def broadcast_shape(operation: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `shapes` broadcast to.  Raises ShapeError naming `operation` where they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(shape) for shape in shapes)
        raise ShapeError(f"{operation}: shapes {listed} do not broadcast together") from None


def positive_axis(operation: str, axis: int, ndim: int) -> int:
    """`axis` counted from the front.  Raises ArgumentError for one that an array of `ndim` axes lacks."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise ArgumentError(f"{operation}: axis must be an integer, got {axis!r}")
    if not -ndim <= axis < ndim:
        raise ArgumentError(f"{operation}: axis {axis} does not exist in an array of {ndim} axes")
    return int(axis) % ndim


def positive_axes(operation: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """`axis` (None: all) as a tuple counted from the front, in the order given.

    Raises ArgumentError for an axis that does not exist or is named twice.
    """
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, Sequence) else (axis,)
    axes = tuple(positive_axis(operation, one, ndim) for one in given)
    if len(set(axes)) != len(axes):
        raise ArgumentError(f"{operation}: axis {axis} names an axis twice")
    return axes
