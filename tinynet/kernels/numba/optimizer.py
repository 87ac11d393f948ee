"""The updates of numpy/optimizer.py, in one pass over data, gradient and slots, to the same bits.

The loops are plain, and LLVM's vectoriser makes vectors of them, provided that they count from 0 and
that every number has the precision of the arrays.  It fuses no multiplication with an addition by
itself, so that each operation rounds as NumPy's does.  There are no threads: an update is bound by
memory where it is long, and over before a thread has begun where it is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.kernels.numba.compile import kernel

Array = np.ndarray


@kernel
def _sgd(data, gradient, rate, decay):
    number = data.dtype.type
    a, d = number(rate), number(decay)
    for i in range(data.size):
        g = data[i] * d + gradient[i] if decay else gradient[i]
        data[i] -= g * a


@kernel
def _sgd_with_momentum(data, gradient, velocity, rate, decay, momentum, nesterov):
    number = data.dtype.type
    a, d, m = number(rate), number(decay), number(momentum)
    for i in range(data.size):
        g = data[i] * d + gradient[i] if decay else gradient[i]
        change = g * a
        v = velocity[i] * m - change
        velocity[i] = v
        data[i] = (data[i] - change) + v * m if nesterov else data[i] + v


@kernel
def _rmsprop(data, gradient, mean_square, rate, decay, rho, epsilon):
    number = data.dtype.type
    a, d, e = number(rate), number(decay), number(epsilon)
    keep, add = number(rho), number(1 - rho)
    for i in range(data.size):
        g = gradient[i] + data[i] * d if decay else gradient[i]
        s = mean_square[i] * keep + g * g * add
        mean_square[i] = s
        data[i] -= g / np.sqrt(s + e) * a


@kernel
def _rmsprop_with_momentum(data, gradient, mean_square, velocity, rate, decay, rho, epsilon, momentum):
    number = data.dtype.type
    a, d, e, m = number(rate), number(decay), number(epsilon), number(momentum)
    keep, add = number(rho), number(1 - rho)
    for i in range(data.size):
        g = gradient[i] + data[i] * d if decay else gradient[i]
        s = mean_square[i] * keep + g * g * add
        v = velocity[i] * m + g / np.sqrt(s + e) * a
        mean_square[i], velocity[i] = s, v
        data[i] -= v


@kernel
def _adamw(data, gradient, mean, mean_square, rate, shrink, beta_1, beta_2, correction, epsilon):
    """rate: divided by 1 - beta_1^t; shrink: 1 - a d, or 1; correction: 1 - beta_2^t."""
    number = data.dtype.type
    a, w, c, e = number(rate), number(shrink), number(correction), number(epsilon)
    keep_1, add_1 = number(beta_1), number(1 - beta_1)
    keep_2, add_2 = number(beta_2), number(1 - beta_2)
    for i in range(data.size):
        g = gradient[i]
        m = mean[i] * keep_1 + g * add_1
        s = mean_square[i] * keep_2 + g * g * add_2
        mean[i], mean_square[i] = m, s
        data[i] = data[i] * w - m / (np.sqrt(s / c) + e) * a


@kernel
def _all_finite(array, limit):
    finite = True
    for i in range(array.size):  # to the end: a loop that may stop early is not made of vectors
        finite &= abs(array[i]) < limit
    return finite


def sgd(
    data: Array,
    gradient: Array,
    velocity: Array | None,
    rate: float,
    decay: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """g' = g + d w;  v <- m v - a g';  w <- w + v, or w + m v - a g' (Nesterov); w - a g' without v."""
    if velocity is None:
        _update(_sgd, (data, gradient), rate, decay)
    else:
        _update(_sgd_with_momentum, (data, gradient, velocity), rate, decay, momentum, nesterov)


def rmsprop(
    data: Array,
    gradient: Array,
    mean_square: Array,
    velocity: Array | None,
    rate: float,
    decay: float,
    rho: float,
    epsilon: float,
    momentum: float,
) -> None:
    """g' = g + d w;  s <- rho s + (1 - rho) g'^2;  u = a g' / sqrt(s + epsilon);  w <- w - u, or by v."""
    if velocity is None:
        _update(_rmsprop, (data, gradient, mean_square), rate, decay, rho, epsilon)
    else:
        arrays = (data, gradient, mean_square, velocity)
        _update(_rmsprop_with_momentum, arrays, rate, decay, rho, epsilon, momentum)


def adamw(
    data: Array,
    gradient: Array,
    mean: Array,
    mean_square: Array,
    rate: float,
    decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    count: int,
) -> None:
    """w <- (1 - a d) w - a m^ / (sqrt(s^) + epsilon), with the corrected means of g and g^2."""
    # Powers with Python's pow, as in the NumPy kernel: Numba's multiplies, and rounds otherwise.
    step, correction = rate / (1 - beta_1**count), 1 - beta_2**count
    arrays = (data, gradient, mean, mean_square)
    _update(_adamw, arrays, step, 1 - rate * decay, beta_1, beta_2, correction, epsilon)


def all_finite(array: Array, limit: float = np.inf) -> bool:
    """Whether every number of the array is nearer to 0 than the limit; NaN is not."""
    return _all_finite(array.ravel(), array.dtype.type(limit))


def _update(function: Any, arrays: tuple[Array, ...], *numbers: float) -> None:
    """function(*flat arrays, *numbers); arrays: data, gradient, slots."""
    flat = [array.ravel() for array in arrays]
    function(*flat, *numbers)
    for array in arrays:
        if not array.flags.c_contiguous:
            _write_back(arrays, flat)
            return


def _write_back(arrays: tuple[Array, ...], flat: list[Array]) -> None:
    """What was computed in copies, because the arrays are not in row-major order; not the gradient."""
    for i, (array, changed) in enumerate(zip(arrays, flat, strict=True)):
        if i != 1 and not array.flags.c_contiguous:
            array[...] = changed.reshape(array.shape)
