"""Losses: a batch of predictions and its targets become one number, the mean over real images."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet import kernels
from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.lanes import pack_alike, unpack
from tinynet.functions.precision import same_precision
from tinynet.kernels.recording import after, before, in_order
from tinynet.tensor import Function, Tensor, as_tensor


class SoftmaxCrossEntropy(Function):
    """The mean negative log-probability of the right class, from logits.

        L = -(1 / n) sum_i sum_k t_ik log softmax(x_i)_k,   dx_ik = dy * (softmax(x_i)_k - t_ik) / n

    t_i is the class's unit vector, mixed with the uniform distribution where labels are smoothed
    (Szegedy et al., arXiv:1512.00567, section 7); rows of t sum to 1.
    Source: Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4.
    """

    recorded = True

    def __init__(self, target: np.ndarray):
        self.target, self.kernels = target, kernels.active()

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (n, K) -> ()
        self.probability, loss = self.kernels.softmax_cross_entropy(x, self.target)
        return loss

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        share = dy / dy.dtype.type(len(self.target))
        return (in_order(lambda: (self.probability - self.target) * share),)


class BinaryCrossEntropy(Function):
    """The mean negative log-probability of 0/1 targets, from one logit each.

        L = (1 / n) sum_i [max(x_i, 0) - x_i t_i + log(1 + exp(-|x_i|))]
        dx_i = dy * (sigmoid(x_i) - t_i) / n

    which is -t log p - (1 - t) log(1 - p) with p = sigmoid(x), in a form that cannot overflow.
    Source: the report's section 2, objective function.
    """

    def __init__(self, target: np.ndarray):
        self.target = target

    def forward(self, x: np.ndarray) -> np.ndarray:
        # any shape -> ()
        small = np.exp(-np.abs(x))
        self.probability = np.where(x >= 0, 1, small) / (1 + small)
        loss = np.maximum(x, 0) - x * self.target + np.log1p(small)
        return np.asarray(loss.mean(dtype=np.float64), x.dtype)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return ((self.probability - self.target).astype(dy.dtype) * (dy / dy.dtype.type(self.target.size)),)


class MeanSquaredError(Function):
    """L = (1 / n) sum (x - t)**2 over all n numbers of the real images; dx = dy * 2 (x - t) / n."""

    recorded = True

    def __init__(self, count: int):
        self.count, self.kernels = count, kernels.active()

    def forward(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        # (B, C, H, W, L), (B, C, H, W, L) -> ()
        self.x, self.target = x, target
        self.size = self.count * x.shape[1] * x.shape[2] * x.shape[3]
        total = self.kernels.squared_error(x, target, self.count)
        return after(lambda: np.asarray(total / self.size, x.dtype))

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        factor = 2.0 * float(dy) / self.size
        dx = self.kernels.squared_error_gradient(self.x, self.target, factor, self.count)
        return dx, in_order(lambda: -dx) if self.needs[1] else None


def softmax_cross_entropy(logits: Any, labels: Any, *, smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy in nats of logits (n, K) against labels.

    labels: integers (n,) from 0 to K - 1, or target distributions (n, K), which have no gradient.
    smoothing: the share of each target given to all classes alike, at least 0 and below 1.
    Raises ShapeError or ArgumentError where logits and labels do not fit together.
    """
    (logits,) = same_precision(unpack(logits))
    if logits.ndim != 2 or logits.size == 0:
        raise ShapeError(f"softmax_cross_entropy: wanted logits (n, classes), got shape {logits.shape}")
    if not isinstance(smoothing, int | float | np.floating) or not 0 <= smoothing < 1:
        raise ArgumentError(
            f"softmax_cross_entropy: smoothing must be at least 0 and below 1, got {smoothing!r}"
        )
    given, wanted = as_tensor(labels).numpy(), logits.shape

    def smoothed(distributions: np.ndarray) -> np.ndarray:
        if smoothing:
            distributions = (1 - smoothing) * distributions + smoothing / wanted[1]
        return distributions.astype(logits.dtype)

    if given.shape == wanted:
        return SoftmaxCrossEntropy(before(lambda: smoothed(_distributions(given))))(logits)
    of_class = smoothed(np.eye(wanted[1]))
    return SoftmaxCrossEntropy(before(lambda: of_class[_classes(given, wanted)]))(logits)


def binary_cross_entropy(logits: Any, labels: Any) -> Tensor:
    """The mean cross-entropy in nats of logits (any shape) against labels from 0 to 1 of the same shape.

    For logits (n, 1) the labels may be (n,).  The labels have no gradient.
    Raises ShapeError for other shapes and for no logits, ArgumentError for labels outside 0 to 1.
    """
    (logits,) = same_precision(unpack(logits))
    target = as_tensor(labels).numpy()
    if (*target.shape, 1) == logits.shape:
        target = target.reshape(logits.shape)
    if target.shape != logits.shape or not logits.size:
        raise ShapeError(f"binary_cross_entropy: logits have shape {logits.shape}, labels {target.shape}")
    if not ((target >= 0) & (target <= 1)).all():
        raise ArgumentError("binary_cross_entropy: labels must lie between 0 and 1")
    return BinaryCrossEntropy(target.astype(logits.dtype))(logits)


def mean_squared_error(x: Any, target: Any) -> Tensor:
    """The mean of (x - target)**2 over every number of two arrays of one shape, batches or others.

    Raises ShapeError where the shapes differ or there are no numbers.
    """
    x, target = as_tensor(x), as_tensor(target)
    if x.shape != target.shape or not x.size:
        raise ShapeError(f"mean_squared_error: x has shape {x.shape}, target {target.shape}")
    if x.ndim not in (2, 4):
        x, target = x.reshape(1, -1), target.reshape(1, -1)  # type: ignore[attr-defined]
    function = MeanSquaredError(x.shape[0])
    return function(*pack_alike("mean_squared_error", x, target))


def _distributions(labels: np.ndarray) -> np.ndarray:
    # The gradient takes it that they sum to 1; float32 probabilities do so within rounding.
    if not ((labels >= 0).all() and (np.abs(labels.sum(axis=1) - 1.0) < 1e-4).all()):
        raise ArgumentError(
            "softmax_cross_entropy: target distributions must not be negative and must sum to 1 a row"
        )
    return labels


def _classes(labels: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """The labels as indices; wanted: images and classes."""
    count, classes = wanted
    if labels.shape != (count,):
        raise ShapeError(f"softmax_cross_entropy: logits have shape {wanted}, labels {labels.shape}")
    if labels.dtype.kind not in "iub":
        raise ArgumentError(f"softmax_cross_entropy: class labels must be integers, got {labels.dtype}")
    indices = labels.astype(np.int64)
    if np.maximum.reduce(indices.view(np.uint64)) >= classes:  # a negative one is the largest of all
        raise ArgumentError(
            f"softmax_cross_entropy: labels run from {labels.min()} to {labels.max()}, "
            f"wanted 0 to {classes - 1}"
        )
    return indices
