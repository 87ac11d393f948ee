"""Losses: of classes on ordinary arrays; of whole images, which are too large to leave lane layout for."""

from __future__ import annotations

import numpy as np


def softmax_cross_entropy(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, K), (n, K) -> softmax(x) (n, K), and -(1 / n) sum of target * log softmax(x), of shape ().

    Source: Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4.
    """
    centred = x - x.max(axis=1, keepdims=True)
    log_probability = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
    # Where the target is 0 the product is 0 even if the logarithm is -inf.
    terms = target * np.where(target == 0, 0, log_probability)
    return np.exp(log_probability), np.asarray(-terms.sum(dtype=np.float64) / len(x), x.dtype)


def squared_error(x: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """The sum of (x - target)**2 over the `count` real images: float64, of shape ()."""
    difference = x - target
    _zero_padding(difference, count)
    return np.asarray(np.square(difference, dtype=np.float64).sum())


def squared_error_gradient(x: np.ndarray, target: np.ndarray, factor: float, count: int) -> np.ndarray:
    """factor * (x - target); padding lanes zero."""
    gradient = (x - target) * x.dtype.type(factor)
    _zero_padding(gradient, count)
    return gradient


def _zero_padding(x: np.ndarray, count: int) -> None:
    x[-1, ..., count - (x.shape[0] - 1) * x.shape[4] :] = 0
