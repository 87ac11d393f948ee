"""One update of one parameter, in place: the equations of tinynet/optim.py, which has their sources.

data, gradient and the slots (velocity, mean, mean_square): one shape and dtype, any memory order.
data and the slots are changed; the gradient is not.  rate and decay: Python floats, which take the
dtype of the arrays; a decay of 0 leaves its term out.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def sgd(
    data: Array,
    gradient: Array,
    velocity: Array | None,
    rate: float,
    decay: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """g' = g + d w;  v <- m v - a g';  w <- w + v, or w + m v - a g' (Nesterov).

    Without a velocity w <- w - a g', whatever the momentum.
    """
    change = np.empty_like(data)  # with `out`, 0-d arrays stay arrays
    if decay:
        np.multiply(data, decay, out=change)
        change += gradient
        change *= rate
    else:
        np.multiply(gradient, rate, out=change)
    if velocity is None:
        data -= change
        return
    velocity *= momentum
    velocity -= change
    if nesterov:
        data -= change
        np.multiply(velocity, momentum, out=change)
        data += change
    else:
        data += velocity


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
    """g' = g + d w;  s <- rho s + (1 - rho) g'^2;  v <- m v + a g' / sqrt(s + epsilon);  w <- w - v.

    Without a velocity w <- w - a g' / sqrt(s + epsilon), whatever the momentum.
    """
    if decay:
        gradient = gradient + data * decay
    change = np.empty_like(data)
    np.multiply(gradient, gradient, out=change)
    change *= 1 - rho
    mean_square *= rho
    mean_square += change
    np.add(mean_square, epsilon, out=change)
    np.sqrt(change, out=change)
    np.divide(gradient, change, out=change)
    change *= rate
    if velocity is None:
        data -= change
        return
    velocity *= momentum
    velocity += change
    data -= velocity


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
    """m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) g^2;  w <- (1 - a d) w - a m^ / (sqrt(s^) + epsilon).

    m^ = m / (1 - b1^t) and s^ = s / (1 - b2^t), with t = count, from 1.
    """
    change = np.empty_like(data)
    np.multiply(gradient, 1 - beta_1, out=change)
    mean *= beta_1
    mean += change
    np.multiply(gradient, gradient, out=change)
    change *= 1 - beta_2
    mean_square *= beta_2
    mean_square += change
    np.divide(mean_square, 1 - beta_2**count, out=change)
    np.sqrt(change, out=change)
    change += epsilon
    np.divide(mean, change, out=change)
    change *= rate / (1 - beta_1**count)
    if decay:
        data *= 1 - rate * decay
    data -= change


def all_finite(array: Array, limit: float = np.inf) -> bool:
    """Whether every number of the array is nearer to 0 than the limit; NaN is not."""
    return bool((np.abs(array) < array.dtype.type(limit)).all())
