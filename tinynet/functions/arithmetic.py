"""Arithmetic, differentiable: + - * / ** @, exp, log, sqrt, absolute, maximum, minimum, clip.

Each equation is elementwise after broadcasting, except matmul.  dy is the cotangent of the
result y, and da, db are what backward returns for the operands a and b: dy times the
derivative, summed over the axes along which the operand was broadcast (`unbroadcast`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.array import ArrayFunction, broadcast_shape, constant, unbroadcast
from tinynet.tensor import Tensor

Gradients = tuple[np.ndarray | None, ...]


class Binary(ArrayFunction):
    """An elementwise function of two operands that broadcast together."""

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        a, b = super().prepare(*inputs)
        broadcast_shape(self.label.lower(), a.shape, b.shape)
        return a, b


class Add(Binary):
    """y = a + b;  da = dy,  db = dy."""

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        return a + b

    def backward(self, cotangent: np.ndarray) -> Gradients:
        da = unbroadcast(cotangent, self.shapes[0]) if self.needs[0] else None
        db = unbroadcast(cotangent, self.shapes[1]) if self.needs[1] else None
        return da, db


class Subtract(Binary):
    """y = a - b;  da = dy,  db = -dy."""

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        return a - b

    def backward(self, cotangent: np.ndarray) -> Gradients:
        da = unbroadcast(cotangent, self.shapes[0]) if self.needs[0] else None
        db = unbroadcast(-cotangent, self.shapes[1]) if self.needs[1] else None
        return da, db


class Multiply(Binary):
    """y = a b;  da = dy b,  db = dy a."""

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.a, self.b = a, b
        return a * b

    def backward(self, cotangent: np.ndarray) -> Gradients:
        da = unbroadcast(cotangent * self.b, self.a.shape) if self.needs[0] else None
        db = unbroadcast(cotangent * self.a, self.b.shape) if self.needs[1] else None
        return da, db


class Divide(Binary):
    """y = a / b;  da = dy / b,  db = -dy a / b^2 = -dy y / b."""

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.a_shape, self.b, self.y = a.shape, b, a / b
        return self.y

    def backward(self, cotangent: np.ndarray) -> Gradients:
        da = unbroadcast(cotangent / self.b, self.a_shape) if self.needs[0] else None
        db = unbroadcast(-cotangent * self.y / self.b, self.b.shape) if self.needs[1] else None
        return da, db


class Negative(ArrayFunction):
    """y = -x;  dx = -dy."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return -x

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (-cotangent,)


class PowerConstant(ArrayFunction):
    """y = x^p for a constant p;  dx = dy p x^(p-1), and 0 where p = 0."""

    def __init__(self, exponent: int | float):
        self.exponent = exponent

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return x ** (constant(self.exponent, x) if x.dtype.kind == "f" else self.exponent)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        if self.exponent == 0:  # otherwise 0 * 0^-1 = NaN at x = 0
            return (np.zeros_like(cotangent),)
        p, one_less = constant(self.exponent, self.x), constant(self.exponent - 1, self.x)
        return (cotangent * p * self.x**one_less,)


class Power(Binary):
    """y = a^b;  da = dy b a^(b-1),  db = dy a^b ln a.

    0^0 = 1 has da = 0.  db is 0 where a = 0 and NaN where a < 0: there a^b is a real number
    only at isolated b.
    """

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.a, self.b, self.y = a, b, a**b
        return self.y

    def backward(self, cotangent: np.ndarray) -> Gradients:
        da = db = None
        a, b = self.a, self.b
        if self.needs[0]:
            one_less = np.where(b == 0, b, b - constant(1, b))  # 0^0 = 1, and 0 * 0^-1 would be NaN
            da = unbroadcast(cotangent * b * a**one_less, a.shape)
        if self.needs[1]:
            logarithm = np.where(a > 0, np.log(np.where(a > 0, a, 1)), np.where(a < 0, np.nan, 0))
            db = unbroadcast(cotangent * self.y * logarithm.astype(a.dtype), b.shape)
        return da, db


class Matmul(ArrayFunction):
    """Y = A B over the last two axes, the axes before them broadcast;  dA = dY B^T,  dB = A^T dY.

    A vector is a row on the left, a column on the right; the axis this adds is removed from Y.
    """

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        self.a = a[np.newaxis, :] if a.ndim == 1 else a  # (..., n, k)
        self.b = b[:, np.newaxis] if b.ndim == 1 else b  # (..., k, m)
        return a @ b

    def backward(self, cotangent: np.ndarray) -> Gradients:
        a_shape, b_shape = self.shapes
        if len(b_shape) == 1:
            cotangent = cotangent[..., np.newaxis]
        if len(a_shape) == 1:
            cotangent = cotangent[..., np.newaxis, :]
        da = db = None
        if self.needs[0]:
            da = unbroadcast(cotangent @ self.b.swapaxes(-1, -2), self.a.shape).reshape(a_shape)
        if self.needs[1]:
            db = unbroadcast(self.a.swapaxes(-1, -2) @ cotangent, self.b.shape).reshape(b_shape)
        return da, db

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        a, b = super().prepare(*inputs)
        if not a.shape or not b.shape:
            raise ShapeError(f"matmul: wanted vectors or matrices, got shapes {a.shape} and {b.shape}")
        inner = b.shape[0] if b.ndim == 1 else b.shape[-2]
        if a.shape[-1] != inner:
            raise ShapeError(
                f"matmul: shapes {a.shape} and {b.shape} do not fit: {a.shape[-1]} columns meet {inner} rows"
            )
        try:
            np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise ShapeError(
                f"matmul: shapes {a.shape} and {b.shape} do not broadcast before their last two axes"
            ) from None
        return a, b


class Exp(ArrayFunction):
    """y = e^x;  dx = dy y."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.y = np.exp(x)
        return self.y

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent * self.y,)


class Log(ArrayFunction):
    """y = ln x;  dx = dy / x."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return np.log(x)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent / self.x,)


class Sqrt(ArrayFunction):
    """y = sqrt(x);  dx = dy / (2 y), infinite at x = 0."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.y = np.sqrt(x)
        return self.y

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent / (self.y * constant(2, self.y)),)


class Absolute(ArrayFunction):
    """y = |x|;  dx = dy sign(x), and 0 at the kink x = 0."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return np.abs(x)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent * np.sign(self.x),)


class Maximum(Binary):
    """y = max(a, b);  da = dy where a >= b,  db = dy elsewhere: a tie belongs to the first operand."""

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes, self.second = (a.shape, b.shape), b > a
        return np.maximum(a, b)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        da = unbroadcast(cotangent * ~self.second, self.shapes[0]) if self.needs[0] else None
        db = unbroadcast(cotangent * self.second, self.shapes[1]) if self.needs[1] else None
        return da, db


class Minimum(Binary):
    """y = min(a, b);  da = dy where a <= b,  db = dy elsewhere: a tie belongs to the first operand."""

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes, self.second = (a.shape, b.shape), b < a
        return np.minimum(a, b)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        da = unbroadcast(cotangent * ~self.second, self.shapes[0]) if self.needs[0] else None
        db = unbroadcast(cotangent * self.second, self.shapes[1]) if self.needs[1] else None
        return da, db


class Clip(ArrayFunction):
    """y = min(max(x, low), high);  dx = dy where low <= x <= high, else 0."""

    def __init__(self, low: float | None, high: float | None):
        self.low = -np.inf if low is None else float(low)
        self.high = np.inf if high is None else float(high)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.outside = (x < self.low) | (x > self.high)
        # Only what is outside is replaced: NaN, which is neither below nor above, comes through.
        return np.where(x < self.low, self.low, np.where(x > self.high, self.high, x)).astype(x.dtype)

    def backward(self, cotangent: np.ndarray) -> Gradients:
        return (cotangent * ~self.outside,)


def add(a: Any, b: Any) -> Tensor:
    """a + b, broadcast.  Raises ShapeError where the shapes do not broadcast."""
    return Add()(a, b)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b, broadcast.  Raises ShapeError where the shapes do not broadcast."""
    return Subtract()(a, b)


def multiply(a: Any, b: Any) -> Tensor:
    """a * b elementwise, broadcast.  Raises ShapeError where the shapes do not broadcast."""
    return Multiply()(a, b)


def divide(a: Any, b: Any) -> Tensor:
    """a / b elementwise, broadcast; integers give float64.  Raises ShapeError as `add` does."""
    return Divide()(a, b)


def negative(x: Any) -> Tensor:
    """-x, of the shape of x."""
    return Negative()(x)


def power(a: Any, b: Any) -> Tensor:
    """a ** b elementwise, broadcast; b is a number or an array.

    Raises ShapeError where the shapes do not broadcast, ArgumentError for integers to a
    negative integer power.
    """
    try:
        if isinstance(b, int | float | np.number):
            # .item(): a NumPy scalar would take part in deciding the dtype of the result.
            return PowerConstant(b.item() if isinstance(b, np.number) else b)(a)
        return Power()(a, b)
    except ValueError as error:
        if "negative integer powers" not in str(error):
            raise
        raise ArgumentError("power: integers cannot be raised to a negative integer power") from None


def matmul(a: Any, b: Any) -> Tensor:
    """The matrix product a @ b: (..., n, k) by (..., k, m) to (..., n, m), vectors and batches as in NumPy.

    Raises ShapeError for scalars, for k that differ, for leading axes that do not broadcast.
    """
    return Matmul()(a, b)


def exp(x: Any) -> Tensor:
    """e ** x elementwise, of the shape of x."""
    return Exp()(x)


def log(x: Any) -> Tensor:
    """The natural logarithm elementwise, of the shape of x; -inf at 0 and NaN below, as in NumPy."""
    return Log()(x)


def sqrt(x: Any) -> Tensor:
    """The square root elementwise, of the shape of x; NaN below 0, as in NumPy."""
    return Sqrt()(x)


def absolute(x: Any) -> Tensor:
    """|x| elementwise, of the shape of x; its gradient at 0 is 0."""
    return Absolute()(x)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b elementwise, broadcast; NaN wins.  On a tie the gradient goes to a.

    Raises ShapeError where the shapes do not broadcast.
    """
    return Maximum()(a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b elementwise, broadcast; NaN wins.  On a tie the gradient goes to a.

    Raises ShapeError where the shapes do not broadcast.
    """
    return Minimum()(a, b)


def clip(x: Any, low: float | None = None, high: float | None = None) -> Tensor:
    """x limited to low <= x <= high elementwise; None sets no limit.  The shape is that of x.

    The gradient passes where x is within the limits or on them.  Raises ArgumentError for
    low > high or a limit that is not a number.
    """
    for name, limit in (("low", low), ("high", high)):
        if limit is not None and (not isinstance(limit, int | float | np.number) or limit != limit):
            raise ArgumentError(f"clip: {name} must be a number or None, got {limit!r}")
    if low is not None and high is not None and low > high:
        raise ArgumentError(f"clip: low must not exceed high, got low={low}, high={high}")
    return Clip(low, high)(x)
