"""The passes over memory that batch normalisation is made of, on 16 lanes.

Sums are float64, one a group of blocks, added in order.  Lanes after the last image are left
out of the sums and written as zeros.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty, flat
from tinynet.kernels.numba.parallel import groups_of, over_blocks, over_groups
from tinynet.kernels.numba.simd import add, lane_sum, load, multiply, multiply_add, splat, store, widen
from tinynet.kernels.recording import before, in_order

ELEMENT = 8.0  # what an element of such a pass costs, in multiply-adds


@kernel
def _moments(x, count, first, last, channels, pixels, origin, sums):
    """sums[0, c] += sum of (x - origin[c]), sums[1, c] += sum of (x - origin[c])**2."""
    for block in range(first, last):
        real = min(16, count - block * 16)
        for c in range(channels):
            start = (block * channels + c) * pixels * 16
            if real == 16:
                minus = splat(-origin[c])
                one = splat(origin[c] * 0 + 1)
                total, squares = splat(origin[c] * 0), splat(origin[c] * 0)
                for at in range(start, start + pixels * 16, 16):
                    value = multiply_add(widen(load(x, at)), one, minus)
                    total = add(total, value)
                    squares = multiply_add(value, value, squares)
                sums[0, c] += lane_sum(total)
                sums[1, c] += lane_sum(squares)
            else:
                for at in range(start, start + pixels * 16, 16):
                    for lane in range(real):
                        value = np.float64(x[at + lane]) - origin[c]
                        sums[0, c] += value
                        sums[1, c] += value * value


@kernel
def _products(dy, x, mean, count, first, last, channels, pixels, sums):
    """sums[0, c] += sum of dy, sums[1, c] += sum of dy * (x - mean[c])."""
    for block in range(first, last):
        real = min(16, count - block * 16)
        for c in range(channels):
            start = (block * channels + c) * pixels * 16
            if real == 16:
                minus, one = splat(-mean[c]), splat(mean[c] * 0 + 1)
                total, products = splat(mean[c] * 0), splat(mean[c] * 0)
                for at in range(start, start + pixels * 16, 16):
                    cotangent = widen(load(dy, at))
                    total = add(total, cotangent)
                    products = multiply_add(cotangent, multiply_add(widen(load(x, at)), one, minus), products)
                sums[0, c] += lane_sum(total)
                sums[1, c] += lane_sum(products)
            else:
                for at in range(start, start + pixels * 16, 16):
                    for lane in range(real):
                        sums[0, c] += dy[at + lane]
                        sums[1, c] += dy[at + lane] * (np.float64(x[at + lane]) - mean[c])


@kernel
def _normalize(x, mean, factor, shift, count, first, last, channels, pixels, y):
    for block in range(first, last):
        real = min(16, count - block * 16)
        for c in range(channels):
            start = (block * channels + c) * pixels * 16
            minus, times, plus = splat(-mean[c]), splat(factor[c]), splat(shift[c])
            for at in range(start, start + pixels * 16, 16):
                store(y, at, multiply_add(add(load(x, at), minus), times, plus))
            if real < 16:
                for at in range(start, start + pixels * 16, 16):
                    for lane in range(real, 16):
                        y[at + lane] = 0


@kernel
def _input_gradient(
    dy, x, mean, inverse_deviation, factor, mean_dy, mean_product, count, first, last, channels, pixels, dx
):
    for block in range(first, last):
        real = min(16, count - block * 16)
        for c in range(channels):
            start = (block * channels + c) * pixels * 16
            minus, times = splat(-mean[c]), splat(factor[c])
            minus_dy, minus_product = splat(-mean_dy[c]), splat(-mean_product[c] * inverse_deviation[c])
            for at in range(start, start + pixels * 16, 16):
                centred = add(load(x, at), minus)
                cotangent = multiply_add(centred, minus_product, add(load(dy, at), minus_dy))
                store(dx, at, multiply(cotangent, times))
            if real < 16:
                for at in range(start, start + pixels * 16, 16):
                    for lane in range(real, 16):
                        dx[at + lane] = 0


def channel_moments(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, C, H, W, 16) -> float64 mean and variance (divided by n) a channel, of `count` real images."""
    blocks, channels, height, width, _ = x.shape
    # Measured from the first pixel, so that a large common offset does not swallow the variance; an infinite
    # one would turn the mean into NaN.
    origin = in_order(lambda: _finite(x[0, :, 0, 0, 0].astype(np.float64)))
    flat_x, pixels = flat(x), height * width
    sums = np.empty((len(groups_of(blocks)), 2, channels))
    before(lambda: sums.fill(0))
    over_groups(
        lambda group, first, last: _moments(
            flat_x, count, first, last, channels, pixels, origin, sums[group]
        ),
        blocks,
        x.size * ELEMENT,
    )
    mean, square = in_order(lambda: sums.sum(axis=0) / (count * pixels))
    return in_order(lambda: origin + mean), in_order(lambda: np.maximum(square - mean * mean, 0.0))


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0.0)


def normalize(
    x: np.ndarray,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    count: int,
) -> np.ndarray:
    """(x - mean) * inverse_deviation * scale + shift a channel; padding lanes become zero."""
    y = empty(x.shape, x.dtype)
    in_dtype = [
        in_order(lambda: mean.astype(x.dtype)),
        in_order(lambda: (inverse_deviation * scale).astype(x.dtype)),
        in_order(lambda: shift.astype(x.dtype)),
    ]
    _over_blocks(_normalize, x, [flat(x), *in_dtype], count, y)
    return y


def normalize_sums(
    dy: np.ndarray, x: np.ndarray, mean: np.ndarray, inverse_deviation: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """float64 sums a channel of dy and of dy * normalised x: the gradients of shift and scale."""
    blocks, channels, height, width, _ = x.shape
    flat_dy, flat_x, origin = flat(dy), flat(x), in_order(lambda: mean.astype(np.float64))
    sums = np.empty((len(groups_of(blocks)), 2, channels))
    before(lambda: sums.fill(0))
    over_groups(
        lambda group, first, last: _products(
            flat_dy, flat_x, origin, count, first, last, channels, height * width, sums[group]
        ),
        blocks,
        x.size * ELEMENT,
    )
    total = in_order(lambda: sums[:, 0].sum(axis=0))
    return total, in_order(lambda: sums[:, 1].sum(axis=0) * inverse_deviation)


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
    dx = empty(x.shape, x.dtype)
    in_dtype = [
        in_order(lambda: mean.astype(x.dtype)),
        in_order(lambda: inverse_deviation.astype(x.dtype)),
        in_order(lambda: (scale * inverse_deviation).astype(x.dtype)),
        in_order(lambda: mean_dy.astype(x.dtype)),
        in_order(lambda: mean_dy_normalised.astype(x.dtype)),
    ]
    _over_blocks(_input_gradient, x, [flat(dy), flat(x), *in_dtype], count, dx)
    return dx


def _over_blocks(function, x: np.ndarray, arrays: list[np.ndarray], count: int, result: np.ndarray) -> None:
    blocks, channels, height, width, _ = x.shape
    target = result.reshape(-1)
    over_blocks(
        lambda first, last: function(*arrays, count, first, last, channels, height * width, target),
        blocks,
        x.size * ELEMENT,
    )
