"""The passes over memory that batch normalisation is made of; sums are float64, over real images."""

from __future__ import annotations

import numpy as np


def channel_moments(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, C, H, W, L) -> float64 mean and variance (divided by n) a channel, over the `count` real images."""
    values = _real(x, count)
    mean = values.mean(axis=(0, 2, 3))
    return mean, np.square(values - mean[:, None, None]).mean(axis=(0, 2, 3))


def normalize(
    x: np.ndarray,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    count: int,
) -> np.ndarray:
    """(x - mean) * inverse_deviation * scale + shift a channel; padding lanes become zero."""
    factor = _channels(inverse_deviation * scale, x)
    y = (x - _channels(mean, x)) * factor + _channels(shift, x)
    return _zero_padding(y, count)


def normalize_sums(
    dy: np.ndarray, x: np.ndarray, mean: np.ndarray, inverse_deviation: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """float64 sums a channel of dy and of dy * normalised x: the gradients of shift and scale."""
    cotangent, values = _real(dy, count), _real(x, count)
    normalised = (values - mean[:, None, None]) * inverse_deviation[:, None, None]
    return cotangent.sum(axis=(0, 2, 3)), (cotangent * normalised).sum(axis=(0, 2, 3))


def normalize_input_gradient(
    dy: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
    scale: np.ndarray,
    mean_dy: np.ndarray,
    mean_dy_normalised: np.ndarray,
    count: int,
) -> np.ndarray:
    """scale * inverse_deviation * (dy - mean_dy - normalised x * mean_dy_normalised); padding lanes zero."""
    normalised = (x - _channels(mean, x)) * _channels(inverse_deviation, x)
    centred = dy - _channels(mean_dy, x) - normalised * _channels(mean_dy_normalised, x)
    return _zero_padding(centred * _channels(scale * inverse_deviation, x), count)


def _channels(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.astype(like.dtype)[:, None, None, None]  # (C, 1, 1, 1)


def _real(x: np.ndarray, count: int) -> np.ndarray:
    """(B, C, H, W, L) -> float64 (count, C, H, W)."""
    blocks, channels, height, width, lanes = x.shape
    images = x.transpose(0, 4, 1, 2, 3).reshape(blocks * lanes, channels, height, width)
    return images[:count].astype(np.float64)


def _zero_padding(x: np.ndarray, count: int) -> np.ndarray:
    lanes = x.shape[4]
    x[-1, ..., count - (x.shape[0] - 1) * lanes :] = 0
    return x
