"""Reductions over axes, differentiable: sum, mean, var, max, min, logsumexp.

`axis` is None (all axes), an integer or a tuple, counted from the end where negative;
`keepdims` keeps the reduced axes at length 1.  Accumulation is NumPy's: pairwise, in the
dtype of the input.  (Statistics that a model keeps, as in batch-norm, are accumulated in
float64 by their own functions.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.array import ArrayFunction, constant, positive_axes
from tinynet.tensor import Tensor

Axis = int | Sequence[int] | None
Gradients = tuple[np.ndarray | None, ...]


class Reduction(ArrayFunction):
    """A function that replaces the elements along some axes by one number."""

    empty_is_an_error = True

    def __init__(self, axis: Axis, keepdims: bool):
        self.axis, self.keepdims = axis, keepdims

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        (x,) = super().prepare(*inputs)
        name = self.label.lower()
        self.shape = x.shape
        self.axes = positive_axes(name, self.axis, x.ndim)
        self.count = math.prod(x.shape[axis] for axis in self.axes)
        if self.count == 0 and self.empty_is_an_error:
            raise ShapeError(f"{name}: no elements along axis {self.axis} of an array of shape {x.shape}")
        return (x,)

    def dropped(self, y: np.ndarray) -> np.ndarray:
        """y, whose reduced axes have length 1, without those axes unless keepdims."""
        return y if self.keepdims else np.squeeze(y, self.axes)

    def kept(self, cotangent: np.ndarray) -> np.ndarray:
        """The cotangent with the reduced axes at length 1, so that it broadcasts against the input."""
        return cotangent.reshape([1 if i in self.axes else size for i, size in enumerate(self.shape)])


class Sum(Reduction):
    """y = sum_i x_i;  dx_i = dy."""

    empty_is_an_error = False

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.dropped(np.sum(x, axis=self.axes, keepdims=True))

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (np.broadcast_to(self.kept(cotangent), self.shape),)


class Mean(Reduction):
    """y = (1/n) sum_i x_i;  dx_i = dy / n."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.dropped(np.mean(x, axis=self.axes, keepdims=True))

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (np.broadcast_to(self.kept(cotangent) / constant(self.count, cotangent), self.shape),)


class Var(Reduction):
    """y = (1/(n - d)) sum_i (x_i - m)^2,  m the mean;  dx_i = dy 2 (x_i - m) / (n - d).

    Two passes: the mean first, then the squares, which does not cancel as E[x^2] - m^2 does.
    The term through m drops out of dx, because the deviations sum to zero.
    """

    def __init__(self, axis: Axis, keepdims: bool, ddof: int):
        super().__init__(axis, keepdims)
        self.ddof = ddof

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        prepared = super().prepare(*inputs)
        self.divisor = self.count - self.ddof
        if self.divisor <= 0:
            raise ArgumentError(f"var: ddof={self.ddof} leaves nothing of {self.count} elements")
        return prepared

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.deviation = x - np.mean(x, axis=self.axes, keepdims=True)
        squares = np.sum(np.square(self.deviation), axis=self.axes, keepdims=True)
        return self.dropped(squares / constant(self.divisor, squares))

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (self.kept(cotangent) * constant(2 / self.divisor, cotangent) * self.deviation,)


class Max(Reduction):
    """y = x_k, k the first index in row-major order with the largest x;  dx_k = dy, the rest 0.

    NaN counts as the largest, so it comes through.
    """

    best: Any = staticmethod(np.argmax)

    def forward(self, x: np.ndarray) -> np.ndarray:
        others = [axis for axis in range(x.ndim) if axis not in self.axes]
        # Sorted: row-major order means the input's order of axes, not the order they were named in.
        self.order = (*others, *sorted(self.axes))
        moved = x.transpose(self.order)  # (others..., reduced...)
        self.moved_shape = moved.shape
        rows = moved.reshape(*moved.shape[: len(others)], self.count)  # (others..., n)
        self.index = self.best(rows, axis=-1)[..., np.newaxis]  # (others..., 1)
        y = np.take_along_axis(rows, self.index, axis=-1)[..., 0]
        return self.kept(y) if self.keepdims else y

    def backward(self, cotangent: np.ndarray) -> Gradients:
        others = self.index.shape[:-1]
        rows = np.zeros((*others, self.count), cotangent.dtype)
        np.put_along_axis(rows, self.index, cotangent.reshape(*others, 1), axis=-1)
        return (rows.reshape(self.moved_shape).transpose(np.argsort(self.order)),)


class Min(Max):
    """y = x_k, k the first index in row-major order with the smallest x;  dx_k = dy, the rest 0."""

    best = staticmethod(np.argmin)


class LogSumExp(Reduction):
    """y = ln sum_i e^(x_i);  dx_i = dy e^(x_i - y), the softmax of x.

    Computed as m + ln sum_i e^(x_i - m) with m the maximum, so that no exponential overflows.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        largest = np.max(x, axis=self.axes, keepdims=True)
        shift = np.where(np.isfinite(largest), largest, constant(0, largest))  # inf - inf would be NaN
        with np.errstate(divide="ignore"):  # all -inf: ln 0 = -inf is the right answer
            y = shift + np.log(np.sum(np.exp(x - shift), axis=self.axes, keepdims=True))
        self.x, self.y = x, y
        return self.dropped(y)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        finite = np.where(
            self.y == -np.inf, constant(0, self.y), self.y
        )  # all -inf: every e^x is 0, and so is dx
        return (self.kept(cotangent) * np.exp(self.x - finite),)


def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over `axis`.  Raises ArgumentError for an axis x does not have."""
    return Sum(axis, keepdims)(x)


def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean over `axis`, in the dtype of x (float64 for integers).

    Raises ShapeError where there is nothing to average, ArgumentError for an axis x does not have.
    """
    return Mean(axis, keepdims)(x)


def var(x: Any, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The variance over `axis`: squared deviations from the mean, summed, divided by n - ddof.

    ddof=0 is the variance of the given numbers (as batch-norm uses), ddof=1 the unbiased
    estimate for what they were sampled from.  Raises ShapeError for no elements,
    ArgumentError where ddof >= n or for an axis x does not have.
    """
    return Var(axis, keepdims, ddof)(x)


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element over `axis`; of equal ones the first in row-major order takes the gradient.

    Raises ShapeError for no elements, ArgumentError for an axis x does not have.
    """
    return Max(axis, keepdims)(x)


def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element over `axis`; of equal ones the first in row-major order takes the gradient.

    Raises ShapeError for no elements, ArgumentError for an axis x does not have.
    """
    return Min(axis, keepdims)(x)


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """ln(sum(exp(x))) over `axis` without overflow.

    Raises ShapeError for no elements, ArgumentError for an axis x does not have.
    """
    return LogSumExp(axis, keepdims)(x)
