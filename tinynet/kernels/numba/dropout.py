"""Dropout with the mask of numpy/dropout.py: the same integers, hashed as the numbers pass by."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty, flat
from tinynet.kernels.numba.parallel import over_blocks
from tinynet.kernels.numba.simd import load, multiply, splat, store, where_kept
from tinynet.kernels.numpy.dropout import threshold

ELEMENT = 30.0  # what an element costs, in multiply-adds


@kernel
def _dropout(x, keys, limit, factor, elements, first, last, y):
    scale = splat(factor)
    for block in range(first, last):
        for element in range(elements):
            offset = np.uint32(element) * np.uint32(0x9E3779B9)
            at = (block * elements + element) * 16
            value = multiply(load(x, at), scale)
            store(y, at, where_kept(keys, block * 16, np.uint32(offset), limit, value))


def dropout(x: np.ndarray, keys: np.ndarray, rate: float) -> np.ndarray:
    """x / (1 - rate) where an element is kept, else 0; keys: uint32 (B, 16), one an image."""
    y = empty(x.shape, x.dtype)
    elements = x[0, ..., 0].size
    source, flat_keys, target = flat(x), flat(keys), y.reshape(-1)
    limit, factor = threshold(rate), x.dtype.type(1.0 / (1.0 - rate))
    over_blocks(
        lambda first, last: _dropout(source, flat_keys, limit, factor, elements, first, last, target),
        x.shape[0],
        x.size * ELEMENT,
    )
    return y
