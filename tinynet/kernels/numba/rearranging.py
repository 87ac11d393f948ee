"""Weights into the order in which the loops read them, and summed gradients back.

NumPy's indexing says the same, `source[order]`; with a dozen of them a step, its calls counted.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import flat
from tinynet.kernels.recording import after, before


@kernel
def _rearrange(source, order, target):
    for i in range(order.size):
        target[i] = source[order[i]]


@kernel
def _add_up(sums, rows, columns, order, target):
    """Row after row, whatever the number of threads that made them."""
    for i in range(order.size):
        at = order[i]
        total = sums[at]
        for _ in range(1, rows):
            at += columns
            total += sums[at]
        target[i] = total


def rearranged(source: np.ndarray, order: np.ndarray) -> np.ndarray:
    """source.ravel()[order], done before everything else when it is done again."""
    numbers, target = flat(source), np.empty(order.shape, source.dtype)
    flat_order, flat_target = order.reshape(-1), target.reshape(-1)
    before(lambda: _rearrange(numbers, flat_order, flat_target))
    return target


def added_up(sums: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(rows, numbers) -> sums.sum(axis=0)[order], done after everything else when it is done again."""
    rows, columns = sums.shape
    numbers, target = flat(sums), np.empty(order.shape, sums.dtype)
    flat_order, flat_target = order.reshape(-1), target.reshape(-1)
    after(lambda: _add_up(numbers, rows, columns, flat_order, flat_target))
    return target
