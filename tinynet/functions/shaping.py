"""Moving elements about, differentiable: reshape, transpose, indexing, joining, padding, where.

None of these computes anything: each result element is a copy of one input element (or a
constant).  The gradient of such a map sends every cotangent element back to where its value
came from, and adds up where one value was copied to several places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.array import (
    ArrayFunction,
    broadcast_shape,
    constant,
    positive_axes,
    positive_axis,
    unbroadcast,
)
from tinynet.functions.lanes import unpack
from tinynet.tensor import Tensor, as_tensor

Gradients = tuple[np.ndarray | None, ...]


class Reshape(ArrayFunction):
    """The same elements in the same row-major order under another shape;  dx = dy reshaped back."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.original = x.shape
        return x.reshape(self.shape)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent.reshape(self.original),)


class Transpose(ArrayFunction):
    """Axis i of y is axis axes[i] of x;  dx = dy under the inverse permutation."""

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(self.axes)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent.transpose(np.argsort(self.axes)),)


class GetItem(ArrayFunction):
    """y = x[index];  dx = 0, then dx[index] += dy, an element taken twice receiving both."""

    def __init__(self, index: Any):
        self.index = index
        parts = index if isinstance(index, tuple) else (index,)
        self.once = all(_takes_once(part) for part in parts)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.shape = x.shape
        try:
            return x[self.index]
        except IndexError as error:
            raise ShapeError(f"getitem: {error} (the array has shape {x.shape})") from None

    def backward(self, cotangent: np.ndarray) -> Gradients:
        dx = np.zeros(self.shape, cotangent.dtype)
        if self.once:
            dx[self.index] = cotangent
        else:  # dx[index] += would count a repeated element once only
            np.add.at(dx, self.index, cotangent)
        return (dx,)


class Concatenate(ArrayFunction):
    """The inputs one after another along `axis`;  each dx is its own stretch of dy."""

    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, *arrays: np.ndarray) -> np.ndarray:
        self.ends = np.cumsum([array.shape[self.axis] for array in arrays])
        return np.concatenate(arrays, axis=self.axis)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return tuple(np.split(cotangent, self.ends[:-1], axis=self.axis))


class Stack(ArrayFunction):
    """The inputs side by side along a new axis;  each dx is its own slice of dy."""

    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, *arrays: np.ndarray) -> np.ndarray:
        return np.stack(arrays, axis=self.axis)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return tuple(np.moveaxis(cotangent, self.axis, 0))


class Pad(ArrayFunction):
    """x with a border of a constant;  dx = dy without the border."""

    def __init__(self, widths: list[tuple[int, int]], value: float):
        self.widths, self.value = widths, value

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.inside = tuple(
            slice(before, before + size) for (before, _), size in zip(self.widths, x.shape, strict=True)
        )
        return np.pad(x, self.widths, constant_values=self.value) if x.ndim else x

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent[self.inside],)


class BroadcastTo(ArrayFunction):
    """x repeated along added and stretched axes;  dx = the sum of dy over the repetitions."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.original = x.shape
        return np.broadcast_to(x, self.shape)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (unbroadcast(cotangent, self.original),)


class Flip(ArrayFunction):
    """The elements along the axes in reverse;  dx = dy in reverse."""

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.flip(x, self.axes)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (np.flip(cotangent, self.axes),)


class Where(ArrayFunction):
    """y = a where the condition holds, else b;  da = dy where it holds,  db = dy where it does not."""

    def __init__(self, condition: np.ndarray):
        self.condition = condition

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        return np.where(self.condition, a, b)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        # Chosen, not multiplied by 0 or 1: a NaN or infinity must not reach the operand not taken.
        da = db = None
        zero = constant(0, cotangent)
        if self.needs[0]:
            da = unbroadcast(np.where(self.condition, cotangent, zero), self.shapes[0])
        if self.needs[1]:
            db = unbroadcast(np.where(self.condition, zero, cotangent), self.shapes[1])
        return da, db


def reshape(x: Any, *shape: Any) -> Tensor:
    """The same elements, in row-major order, under `shape` (a tuple, or one argument an axis).

    One length may be -1: what remains.  Raises ShapeError where the number of elements differs.
    """
    x = as_tensor(x)
    wanted = _sizes("reshape", shape)
    known = math.prod(size for size in wanted if size != -1)
    fits = x.size == known if -1 not in wanted else known > 0 and x.size % known == 0
    if not fits or wanted.count(-1) > 1 or any(size < -1 for size in wanted):
        raise ShapeError(f"reshape: shape {x.shape} ({x.size} elements) cannot become {wanted}")
    return Reshape(wanted)(x)


def transpose(x: Any, *axes: Any) -> Tensor:
    """x with its axes in the order `axes` (a tuple, or one argument an axis); none: reversed.

    Raises ArgumentError where `axes` is not a permutation of the axes of x.
    """
    x = as_tensor(x)
    if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], Sequence)):
        axes = tuple(axes[0] or ())
    order = positive_axes("transpose", axes, x.ndim) if axes else tuple(reversed(range(x.ndim)))
    if len(order) != x.ndim:
        raise ArgumentError(f"transpose: axes {axes} do not name each of the {x.ndim} axes of {x.shape} once")
    return Transpose(order)(x)


def swapaxes(x: Any, first: int, second: int) -> Tensor:
    """x with two axes exchanged.  Raises ArgumentError for an axis x does not have."""
    x = as_tensor(x)
    order = list(range(x.ndim))
    a, b = positive_axis("swapaxes", first, x.ndim), positive_axis("swapaxes", second, x.ndim)
    order[a], order[b] = b, a
    return Transpose(tuple(order))(x)


def moveaxis(x: Any, source: int, destination: int) -> Tensor:
    """x with axis `source` moved to `destination`, the others in their order.

    Raises ArgumentError for an axis x does not have.
    """
    x = as_tensor(x)
    order = list(range(x.ndim))
    moved = order.pop(positive_axis("moveaxis", source, x.ndim))
    order.insert(positive_axis("moveaxis", destination, x.ndim), moved)
    return Transpose(tuple(order))(x)


def getitem(x: Any, index: Any) -> Tensor:
    """x[index], with all of NumPy's indexing: integers, slices, None, ..., index arrays and masks.

    Gradients of elements taken more than once add up.  Raises ShapeError for an index that
    does not fit the shape of x.
    """
    parts = index if isinstance(index, tuple) else (index,)
    copied = tuple(_frozen_index(part) for part in parts)
    return GetItem(copied if isinstance(index, tuple) else copied[0])(x)


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """The tensors one after another along an existing axis; the other lengths must agree.

    Raises ShapeError for none, for scalars and for lengths that differ.
    """
    inputs = [as_tensor(tensor) for tensor in tensors]
    shapes = [tensor.shape for tensor in inputs]
    if not inputs or not shapes[0]:
        raise ShapeError(f"concatenate: wanted arrays of at least one axis, got shapes {shapes}")
    axis = positive_axis("concatenate", axis, len(shapes[0]))
    if len({(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ShapeError(f"concatenate: shapes {shapes} differ elsewhere than along axis {axis}")
    return Concatenate(axis)(*inputs)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis.

    Raises ShapeError for none and where shapes differ.
    """
    inputs = [as_tensor(tensor) for tensor in tensors]
    shapes = [tensor.shape for tensor in inputs]
    if not inputs or len(set(shapes)) > 1:
        raise ShapeError(f"stack: wanted one or more arrays of one shape, got shapes {shapes}")
    return Stack(positive_axis("stack", axis, len(shapes[0]) + 1))(*inputs)


def pad(x: Any, widths: Any, value: float = 0.0) -> Tensor:
    """x with a border of `value`.

    widths  as in numpy.pad: one number, (before, after), or (before, after) for each axis

    Raises ArgumentError for widths that are negative or do not fit the axes of x.
    """
    x = as_tensor(x)
    array = np.asarray(widths)
    try:
        pairs = np.broadcast_to(array, (x.ndim, 2))
    except ValueError:
        pairs = None
    if pairs is None or array.dtype.kind not in "iu" or (array < 0).any():
        raise ArgumentError(
            f"pad: widths must be one number, (before, after), or such a pair for each of the {x.ndim} axes, "
            f"none negative; got {widths!r}"
        )
    return Pad([(int(before), int(after)) for before, after in pairs], value)(x)


def broadcast_to(x: Any, shape: Sequence[int]) -> Tensor:
    """x repeated to `shape`.  Raises ShapeError where it does not broadcast to that."""
    x = as_tensor(x)
    wanted = _sizes("broadcast_to", (shape,))
    if broadcast_shape("broadcast_to", x.shape, wanted) != wanted:
        raise ShapeError(f"broadcast_to: shape {x.shape} does not broadcast to {wanted}")
    return BroadcastTo(wanted)(x)


def expand_dims(x: Any, axis: int) -> Tensor:
    """x with a new axis of length 1, which is axis `axis` of the result.

    Raises ArgumentError for an axis that the result does not have.
    """
    x = as_tensor(x)
    axis = positive_axis("expand_dims", axis, x.ndim + 1)
    return Reshape((*x.shape[:axis], 1, *x.shape[axis:]))(x)


def squeeze(x: Any, axis: int | Sequence[int] | None = None) -> Tensor:
    """x without the axes `axis`, None meaning all of length 1.

    Raises ShapeError where such an axis is longer than 1, ArgumentError for one x does not have.
    """
    x = as_tensor(x)
    axes = positive_axes("squeeze", axis, x.ndim)
    if axis is not None and any(x.shape[one] != 1 for one in axes):
        raise ShapeError(f"squeeze: axis {axis} of shape {x.shape} is not of length 1")
    return Reshape(tuple(size for i, size in enumerate(x.shape) if size != 1 or i not in axes))(x)


def flip(x: Any, axis: int | Sequence[int] | None = None) -> Tensor:
    """x reversed along `axis` (None: all).  Raises ArgumentError for an axis x does not have."""
    x = as_tensor(x)
    return Flip(positive_axes("flip", axis, x.ndim))(x)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition holds, b elsewhere; the three broadcast together.

    The condition (booleans) has no gradient.  Raises ShapeError where the shapes do not broadcast.
    """
    chosen = np.asarray(unpack(condition).numpy(), bool)
    shapes = [value.shape if isinstance(value, Tensor) else np.shape(value) for value in (a, b)]
    broadcast_shape("where", chosen.shape, *shapes)
    return Where(chosen)(a, b)


def _sizes(operation: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as one tuple or as separate numbers."""
    sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    if not all(isinstance(size, int | np.integer) for size in sizes):
        raise ArgumentError(f"{operation}: a shape is made of integers, got {sizes}")
    return tuple(int(size) for size in sizes)


def _takes_once(part: Any) -> bool:
    """Whether this part of an index is one of NumPy's basic ones, which take no element twice."""
    return part is None or part is Ellipsis or isinstance(part, int | np.integer | slice)


def _frozen_index(part: Any) -> Any:
    """An index array as a copy: backward needs it as it was, and callers shuffle theirs in place."""
    if _takes_once(part):
        return part
    array = unpack(part).numpy() if isinstance(part, Tensor) else np.asarray(part)
    if array.size == 0 and not isinstance(part, np.ndarray | Tensor):
        array = array.astype(np.intp)  # [] is an array of floats to NumPy
    if array.dtype.kind not in "iub":
        raise ArgumentError(f"getitem: an index is made of integers or booleans, got {array.dtype}")
    return array.copy()
