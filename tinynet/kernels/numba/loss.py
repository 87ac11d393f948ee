"""Losses: of classes on ordinary arrays, of whole images on 16 lanes."""

from __future__ import annotations

import math

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty, flat
from tinynet.kernels.numba.parallel import groups_of, over_blocks, over_groups
from tinynet.kernels.numba.simd import add, load, multiply, multiply_add, negative, splat, store, widen
from tinynet.kernels.recording import after, before, in_order

ELEMENT = 8.0  # what an element of such a pass costs, in multiply-adds


@kernel
def _softmax_cross_entropy(x, target, probability, loss):
    """Row by row, in float64; loss[0] = -(1 / n) sum of target * log softmax(x).

    Comparisons and sums are such that a NaN, or a row of infinities, gives NaN as in the NumPy kernel.
    """
    rows, classes = x.shape
    total = 0.0
    for i in range(rows):
        largest = np.float64(x[i, 0])
        for k in range(1, classes):
            value = np.float64(x[i, k])
            largest = largest if value <= largest or largest != largest else value
        exponentials = 0.0
        for k in range(classes):
            exponentials += math.exp(np.float64(x[i, k]) - largest)
        logarithm = math.log(exponentials)
        for k in range(classes):
            log_probability = np.float64(x[i, k]) - largest - logarithm
            probability[i, k] = math.exp(log_probability)
            if target[i, k] != 0:  # where it is 0 the product is 0 even if the logarithm is -inf
                total += np.float64(target[i, k]) * log_probability
    loss[0] = -total / rows


@kernel
def _squared_error(x, target, count, elements, first, last, total):
    """total[lane] += the lane's sum of squares."""
    for block in range(first, last):
        real = min(16, count - block * 16)
        start = block * elements * 16
        if real == 16:
            squares = load(total, 0)
            for at in range(start, start + elements * 16, 16):
                difference = widen(add(load(x, at), negative(load(target, at))))
                squares = multiply_add(difference, difference, squares)
            store(total, 0, squares)
        else:
            for at in range(start, start + elements * 16, 16):
                for lane in range(real):
                    difference = np.float64(x[at + lane] - target[at + lane])
                    total[lane] += difference * difference


@kernel
def _squared_error_gradient(x, target, factor, count, elements, first, last, gradient):
    for block in range(first, last):
        real = min(16, count - block * 16)
        start = block * elements * 16
        times = splat(factor)
        for at in range(start, start + elements * 16, 16):
            store(gradient, at, multiply(add(load(x, at), negative(load(target, at))), times))
        if real < 16:
            for at in range(start, start + elements * 16, 16):
                for lane in range(real, 16):
                    gradient[at + lane] = 0


def softmax_cross_entropy(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, K), (n, K) -> softmax(x) (n, K), and -(1 / n) sum of target * log softmax(x), of shape ()."""
    x, target = np.ascontiguousarray(x), np.ascontiguousarray(target)
    probability, loss = np.empty(x.shape, x.dtype), np.empty(1, x.dtype)
    in_order(lambda: _softmax_cross_entropy(x, target, probability, loss))
    return probability, loss.reshape(())


def squared_error(x: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """The sum of (x - target)**2 over the `count` real images: float64, of shape ()."""
    blocks, elements = x.shape[0], x[0, ..., 0].size
    total = np.empty((len(groups_of(blocks)), 16))
    flat_x, flat_target = flat(x), flat(target)
    before(lambda: total.fill(0))
    over_groups(
        lambda group, first, last: _squared_error(
            flat_x, flat_target, count, elements, first, last, total[group]
        ),
        blocks,
        x.size * ELEMENT,
    )
    return after(lambda: np.asarray(total.sum(axis=0).sum()))


def squared_error_gradient(x: np.ndarray, target: np.ndarray, factor: float, count: int) -> np.ndarray:
    """factor * (x - target); padding lanes zero."""
    gradient = empty(x.shape, x.dtype)
    elements = x[0, ..., 0].size
    flat_x, flat_target, result = flat(x), flat(target), gradient.reshape(-1)
    scale = x.dtype.type(factor)
    over_blocks(
        lambda first, last: _squared_error_gradient(
            flat_x, flat_target, scale, count, elements, first, last, result
        ),
        x.shape[0],
        x.size * ELEMENT,
    )
    return gradient
