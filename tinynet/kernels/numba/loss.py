"""The squared error over whole images, on 16 lanes."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty
from tinynet.kernels.numba.parallel import groups_of, over_groups, over_ranges
from tinynet.kernels.numba.simd import add, load, multiply, multiply_add, negative, splat, store, widen

ELEMENT = 8.0  # what an element of such a pass costs, in multiply-adds


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


def squared_error(x: np.ndarray, target: np.ndarray, count: int) -> float:
    """The float64 sum of (x - target)**2 over the `count` real images."""
    blocks, elements = x.shape[0], x[0, ..., 0].size
    total = np.zeros((len(groups_of(blocks)), 16))
    flat, flat_target = x.ravel(), target.ravel()
    over_groups(
        lambda group, first, last: _squared_error(
            flat, flat_target, count, elements, first, last, total[group]
        ),
        blocks,
        x.size * ELEMENT,
    )
    return float(total.sum(axis=0).sum())


def squared_error_gradient(x: np.ndarray, target: np.ndarray, factor: float, count: int) -> np.ndarray:
    """factor * (x - target); padding lanes zero."""
    gradient = empty(x.shape, x.dtype)
    elements = x[0, ..., 0].size
    flat, flat_target, result = x.ravel(), target.ravel(), gradient.reshape(-1)
    scale = x.dtype.type(factor)
    over_ranges(
        lambda first, last: _squared_error_gradient(
            flat, flat_target, scale, count, elements, first, last, result
        ),
        x.shape[0],
        x.size * ELEMENT,
    )
    return gradient
