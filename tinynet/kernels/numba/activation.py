"""Rectifiers.  The comparisons are written so that a NaN falls through to the side that keeps it."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty, flat
from tinynet.kernels.numba.parallel import over_blocks, over_ranges
from tinynet.kernels.numba.simd import add, at_most, load, negative, splat, store, where_above

ELEMENT = 8.0  # what an element of such a pass costs, in multiply-adds


@kernel
def _relu(x, size, first, last, y):
    """Vectors first..last; the last of them may reach past `size`, and is then done number by number."""
    zero = x.dtype.type(0)  # a bare 0 would make the whole expression float64
    for vector in range(first, min(last, size // 16)):
        value = load(x, vector * 16)
        store(y, vector * 16, where_above(value, zero, value))
    for i in range(max(first * 16, size // 16 * 16), min(last * 16, size)):
        y[i] = zero if x[i] <= zero else x[i]


@kernel
def _relu_backward(dy, y, size, first, last, dx):
    zero = y.dtype.type(0)
    for vector in range(first, min(last, size // 16)):
        store(dx, vector * 16, where_above(load(y, vector * 16), zero, load(dy, vector * 16)))
    for i in range(max(first * 16, size // 16 * 16), min(last * 16, size)):
        dx[i] = zero if y[i] <= zero else dy[i]


@kernel
def _relu6(x, size, first, last, y):
    zero, six = x.dtype.type(0), x.dtype.type(6)
    for vector in range(first, min(last, size // 16)):
        value = load(x, vector * 16)
        store(y, vector * 16, at_most(where_above(value, zero, value), six))
    for i in range(max(first * 16, size // 16 * 16), min(last * 16, size)):
        y[i] = zero if x[i] <= zero else (six if x[i] > six else x[i])


@kernel
def _relu6_backward(dy, y, size, first, last, dx):
    zero, six = y.dtype.type(0), y.dtype.type(6)
    for vector in range(first, min(last, size // 16)):
        value = load(y, vector * 16)
        below_six = where_above(add(splat(six), negative(value)), zero, load(dy, vector * 16))
        store(dx, vector * 16, where_above(value, zero, below_six))
    for i in range(max(first * 16, size // 16 * 16), min(last * 16, size)):
        dx[i] = zero if (y[i] <= zero or y[i] >= six) else dy[i]


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return _elementwise(_relu, x)


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy where the result was positive (or NaN), else 0."""
    return _elementwise(_relu_backward, dy, y)


def relu6(x: np.ndarray) -> np.ndarray:
    """min(max(x, 0), 6)."""
    return _elementwise(_relu6, x)


def relu6_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy where the result was between 0 and 6 (or NaN), else 0."""
    return _elementwise(_relu6_backward, dy, y)


def _elementwise(function, *arrays: np.ndarray) -> np.ndarray:
    sources = [flat(array) for array in arrays]
    shape, size = arrays[0].shape, arrays[0].size
    result = empty(shape, arrays[0].dtype)
    target, vectors = result.reshape(-1), -(-size // 16)

    def task(first: int, last: int) -> None:
        function(*sources, size, first, last, target)

    if len(shape) == 5 and shape[4] == 16:
        each = vectors // shape[0]
        over_blocks(lambda first, last: task(first * each, last * each), shape[0], size * ELEMENT)
    else:
        over_ranges(task, vectors, size * ELEMENT)
    return result
