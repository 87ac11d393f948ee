"""Activation functions: elementwise ones, in whatever layout their input has; softmax over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet import kernels
from tinynet.errors import ShapeError
from tinynet.functions.array import constant
from tinynet.functions.lanes import unpack
from tinynet.functions.precision import same_precision
from tinynet.tensor import Function, Lanes, Tensor, as_tensor


class Elementwise(Function):
    """A function of one number, applied to each: any shape, any layout.  Integers become float32."""

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        self.kernels = kernels.active()
        return same_precision(*inputs)

    def result_lanes(self, *lanes: Lanes | None) -> Lanes | None:
        return lanes[0]


class ReLU(Elementwise):
    """y = max(x, 0); dx = dy where y > 0, else 0 (at x = 0 the left derivative).  NaN stays NaN."""

    recorded = True

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.y = self.kernels.relu(x)
        return self.y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.kernels.relu_backward(dy, self.y),)


class ReLU6(Elementwise):
    """y = min(max(x, 0), 6); dx = dy where 0 < y < 6, else 0.

    Source: Krizhevsky, Convolutional deep belief networks on CIFAR-10 (2010).
    """

    recorded = True

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.y = self.kernels.relu6(x)
        return self.y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.kernels.relu6_backward(dy, self.y),)


class Sigmoid(Elementwise):
    """y = 1 / (1 + exp(-x)); dx = dy * y * (1 - y).  Computed from exp(-|x|), which cannot overflow."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        small = np.exp(-np.abs(x))
        self.y = (np.where(x >= 0, 1, small) / (1 + small)).astype(x.dtype, copy=False)
        return self.y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (dy * self.y * (constant(1, dy) - self.y),)


class Tanh(Elementwise):
    """y = tanh(x); dx = dy * (1 - y**2)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.y = np.tanh(x)
        return self.y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (dy * (constant(1, dy) - self.y * self.y),)


class Softmax(Function):
    """y_k = exp(x_k) / sum_j exp(x_j) over the last axis; dx_k = y_k * (dy_k - sum_j dy_j y_j).

    Source: Bridle, Probabilistic interpretation of feedforward classification network outputs (1990).
    """

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        (x,) = same_precision(*[unpack(value) for value in inputs])
        if not x.shape or not x.shape[-1]:
            raise ShapeError(
                f"{self.label}: wanted one score a class along the last axis, got shape {x.shape}"
            )
        return (x,)

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (..., K) -> (..., K); the maximum is taken out so that nothing overflows
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        self.y = powers / powers.sum(axis=-1, keepdims=True)
        return self.y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.y * (dy - (dy * self.y).sum(axis=-1, keepdims=True)),)


class LogSoftmax(Softmax):
    """y_k = x_k - log sum_j exp(x_j) over the last axis; dx_k = dy_k - exp(y_k) * sum_j dy_j."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (..., K) -> (..., K)
        centred = x - x.max(axis=-1, keepdims=True)
        self.y = centred - np.log(np.exp(centred).sum(axis=-1, keepdims=True))
        return self.y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (dy - np.exp(self.y) * dy.sum(axis=-1, keepdims=True),)


def relu(x: Any) -> Tensor:
    """max(x, 0), of any shape."""
    return ReLU()(as_tensor(x))


def relu6(x: Any) -> Tensor:
    """min(max(x, 0), 6), of any shape."""
    return ReLU6()(as_tensor(x))


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + exp(-x)), of any shape."""
    return Sigmoid()(as_tensor(x))


def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent, of any shape."""
    return Tanh()(as_tensor(x))


def softmax(x: Any) -> Tensor:
    """Probabilities over the last axis: (..., K) -> (..., K), each row summing to 1.

    Raises ShapeError for a scalar and for no classes.
    """
    return Softmax()(x)


def log_softmax(x: Any) -> Tensor:
    """The logarithm of softmax, without its rounding: (..., K) -> (..., K).

    Raises ShapeError for a scalar and for no classes.
    """
    return LogSoftmax()(x)
