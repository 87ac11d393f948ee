"""Batch normalisation and dropout: functions that behave differently in training and in use."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.lanes import LaneFunction
from tinynet.kernels.recording import after, before, in_order
from tinynet.tensor import Tensor, as_tensor


class BatchNorm(LaneFunction):
    """Each channel brought to mean 0 and variance 1 over the batch, then scaled and shifted.

    With n values a channel (images x height x width), mean m and variance v = (1 / n) sum (x - m)**2:

        z = (x - m) / sqrt(v + epsilon),   y = scale * z + shift
        dshift = sum dy,   dscale = sum dy * z
        dx = scale / sqrt(v + epsilon) * (dy - (1 / n) sum dy - z * (1 / n) sum dy * z)

    Where m and v are given (running statistics, in use) they are constants:
        dx = scale / sqrt(v + epsilon) * dy

    Sums are float64 and count real images only.
    Source: Ioffe and Szegedy, Batch normalization (arXiv:1502.03167), section 3.
    """

    recorded = True

    def __init__(self, count: int, epsilon: float, statistics: tuple[np.ndarray, np.ndarray] | None):
        self.count, self.epsilon, self.given = count, epsilon, statistics

    def forward(self, x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
        # (B, C, H, W, L) -> (B, C, H, W, L); scale, shift (C,)
        mean, variance = self.given or self.kernels.channel_moments(x, self.count)
        self.mean, self.variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
        self.inverse_deviation = in_order(lambda: 1.0 / np.sqrt(self.variance + self.epsilon))
        self.x, self.scale = x, scale
        return self.kernels.normalize(x, self.mean, self.inverse_deviation, scale, shift, self.count)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dshift, dscale = self.kernels.normalize_sums(
            dy, self.x, self.mean, self.inverse_deviation, self.count
        )
        values = self.count * self.x.shape[2] * self.x.shape[3]
        of_batch = 0.0 if self.given else 1.0 / values  # given statistics do not depend on x
        dx = None
        if self.needs[0]:
            dx = self.kernels.normalize_input_gradient(
                dy, self.x, self.mean, self.inverse_deviation, self.scale,
                in_order(lambda: dshift * of_batch), in_order(lambda: dscale * of_batch), self.count,
            )  # fmt: skip
        return dx, after(lambda: dscale.astype(dy.dtype)), after(lambda: dshift.astype(dy.dtype))


class Dropout(LaneFunction):
    """Each element kept with probability 1 - rate and divided by it, else 0; dx is the same done to dy.

    The mask is a function of one key an image (tinynet/random.py), so it is not stored.
    Source: Srivastava et al., Dropout, JMLR 15 (2014), with the scaling done in training.
    """

    recorded = True

    def __init__(self, rate: float, keys: np.ndarray):
        self.rate, self.image_keys = rate, keys

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (B, C, H, W, L) -> (B, C, H, W, L)
        blocks, lanes = x.shape[0], x.shape[4]
        padding = blocks * lanes - self.image_keys.size
        self.keys = before(lambda: np.pad(self.image_keys, (0, padding)).reshape(blocks, lanes))
        return self.kernels.dropout(x, self.keys, self.rate)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.kernels.dropout(dy, self.keys, self.rate),)


def batch_norm(
    x: Any, scale: Any, shift: Any, *, epsilon: float = 1e-3, statistics: tuple | None = None
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Normalise images (n, h, w, c) or vectors (n, c) channel by channel; scale and shift are (c,).

    statistics: (mean, variance), float (c,), used as constants; without them those of the batch.
    Returns the result, and the mean and variance (float64, divided by n) that were used.
    Raises ShapeError where scale, shift or statistics do not have one number a channel, ArgumentError
    unless epsilon is positive and no variance negative.
    """
    x, scale, shift = as_tensor(x), as_tensor(scale), as_tensor(shift)
    if x.ndim not in (2, 4):
        raise ShapeError(f"batch_norm: wanted images (n, h, w, c) or vectors (n, c), got shape {x.shape}")
    # A flattened image has one channel a feature; only then do the two counts differ.
    channels = x.shape[-1] if x.lanes is None else x.data.shape[1]
    if x.lanes is not None and x.lanes.flat and x.data.shape[2:4] != (1, 1):
        raise ShapeError(
            "batch_norm: not defined directly after flatten; put it before, or after a dense layer"
        )
    for name, parameter in (("scale", scale), ("shift", shift)):
        if parameter.shape != (channels,):
            raise ShapeError(f"batch_norm: {name} has shape {parameter.shape}, wanted ({channels},)")
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float | np.floating) or not epsilon > 0:
        raise ArgumentError(f"batch_norm: epsilon must be a positive number, got {epsilon!r}")
    given = None if statistics is None else _statistics(statistics, channels)
    function = BatchNorm(x.shape[0], float(epsilon), given)
    result = function(x, scale, shift)
    return result, function.mean, function.variance


def dropout(x: Any, rate: float, keys: np.ndarray) -> Tensor:
    """x with a share `rate` of its elements set to zero and the rest divided by 1 - rate.

    x (n, h, w, c) or (n, f); keys: uint32 or uint64 (n,), one an image; the same keys drop the same elements.
    Raises ArgumentError unless 0 <= rate < 1, ShapeError unless there is a key for each image.
    """
    check_rate("dropout", rate)
    tensor = as_tensor(x)
    keys = np.asarray(keys)
    if tensor.ndim not in (2, 4):
        raise ShapeError(f"dropout: wanted images (n, h, w, c) or vectors (n, f), got shape {tensor.shape}")
    if keys.shape != (tensor.shape[0],):
        raise ShapeError(
            f"dropout: wanted one key for each of {tensor.shape[0]} images, got shape {keys.shape}"
        )
    if keys.dtype.kind not in "iu":
        raise ArgumentError(f"dropout: keys must be whole numbers (uint32 or uint64), got {keys.dtype}")
    if rate == 0:
        return tensor
    # The low 32 bits.
    return Dropout(float(rate), before(lambda: keys.astype(np.uint32)))(tensor)


def check_rate(where: str, rate: float) -> None:
    """Raise ArgumentError, naming `where`, unless 0 <= rate < 1."""
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.floating) or not 0 <= rate < 1:
        raise ArgumentError(f"{where}: rate must be at least 0 and below 1, got {rate!r}")


def _statistics(given: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ArgumentError(f"batch_norm: statistics must be (mean, variance), got {given!r:.80}")
    mean, variance = (np.asarray(as_tensor(value).numpy(), np.float64) for value in given)
    for name, array in (("mean", mean), ("variance", variance)):
        if array.shape != (channels,):
            raise ShapeError(f"batch_norm: {name} has shape {array.shape}, wanted ({channels},)")
    if (variance < 0).any():
        raise ArgumentError(f"batch_norm: a variance cannot be negative, got {variance.min()}")
    return mean, variance
