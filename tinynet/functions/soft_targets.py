"""The loss of a student who learns from labels and from a teacher's probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.arguments import number
from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.lanes import unpack
from tinynet.functions.precision import same_precision
from tinynet.tensor import Function, Tensor, as_tensor


class Distillation(Function):
    """Cross-entropy with labels, and with what a teacher says, both softened by a temperature.

        L = (1 / n) sum_i [(1 - a) H(t_i, softmax(x_i)) + a T^2 H(s_i, softmax(x_i / T))]
        dx_i = dy / n * [(1 - a) (softmax(x_i) - t_i) + a T (softmax(x_i / T) - s_i)]

    with H(p, q) = -sum_k p_k log q_k, labels t, and the teacher's s = softmax(its logits / T).
    The gradient of the second term falls as 1 / T^2 where T grows; the factor T^2 makes up for that.
    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015,
    arXiv:1503.02531), section 2.
    """

    def __init__(self, labels: np.ndarray, soft: np.ndarray, temperature: float, weight: float):
        self.labels, self.soft, self.temperature, self.weight = labels, soft, temperature, weight

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (n, K) -> ()
        loss, gradient = 0.0, np.zeros_like(x)
        parts = ((self.labels, 1.0, 1.0 - self.weight), (self.soft, self.temperature, self.weight))
        for target, temperature, weight in parts:
            scaled = x / temperature
            centred = scaled - scaled.max(axis=1, keepdims=True)
            log_probability = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
            # Where the target is 0 the product is 0 even if the logarithm is -inf.
            terms = target * np.where(target == 0, 0, log_probability)
            loss -= weight * temperature**2 * terms.sum(dtype=np.float64)
            gradient += weight * temperature * (np.exp(log_probability) - target)
        self.gradient = gradient
        return np.asarray(loss / len(x), x.dtype)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.gradient * (dy / dy.dtype.type(len(self.gradient))),)


def distillation(logits: Any, labels: Any, soft: Any, *, temperature: float, weight: float) -> Tensor:
    """The mean loss of logits (n, K) against labels and a teacher's probabilities, both (n, K).

    labels       unit vectors, or other rows that sum to 1; no gradient
    soft         the teacher's softmax(logits / temperature); it has no gradient
    temperature  from 0.05 to 100
    weight       the teacher's share, from 0 (labels alone) to 1
    Raises ShapeError or ArgumentError for what does not fit together.
    """
    (logits,) = same_precision(unpack(logits))
    temperature = number("distillation: temperature", temperature, 0.05, 100.0)
    weight = number("distillation: weight", weight, 0.0, 1.0)
    targets = [as_tensor(array).numpy() for array in (labels, soft)]
    if logits.ndim != 2 or logits.size == 0 or any(target.shape != logits.shape for target in targets):
        raise ShapeError(
            f"distillation: wanted logits, labels and teacher's probabilities (n, classes), got "
            f"{logits.shape}, {targets[0].shape} and {targets[1].shape}"
        )
    for target in targets:
        if not ((target >= 0).all() and (np.abs(target.sum(axis=1) - 1.0) < 1e-4).all()):
            raise ArgumentError("distillation: targets must not be negative and must sum to 1 a row")
    hard, soft = (target.astype(logits.dtype) for target in targets)
    return Distillation(hard, soft, temperature, weight)(logits)
