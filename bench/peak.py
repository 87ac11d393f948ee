"""The most floating-point operations that a core does: fused multiply-adds that never leave registers.

A multiply-add takes about four cycles, and a core begins one or two a cycle, so several chains have
to be on their way.  Six of 16 lanes fit the registers of every processor; those with 32 wide ones may
want ten.
"""

from __future__ import annotations

import numba
import numpy as np

from tinynet.kernels.numba.simd import load, multiply_add, store

STEPS = 100_000


@numba.njit(nogil=True, error_model="numpy")
def _six(out, steps):
    factor, summand = load(out, 0), load(out, 16)
    a, b, c, d, e, f = (
        load(out, 32),
        load(out, 48),
        load(out, 64),
        load(out, 80),
        load(out, 96),
        load(out, 112),
    )
    for _ in range(steps):
        a = multiply_add(a, factor, summand)
        b = multiply_add(b, factor, summand)
        c = multiply_add(c, factor, summand)
        d = multiply_add(d, factor, summand)
        e = multiply_add(e, factor, summand)
        f = multiply_add(f, factor, summand)
    for at, value in enumerate((a, b, c, d, e, f)):
        store(out, 32 + 16 * at, value)


@numba.njit(nogil=True, error_model="numpy")
def _ten(out, steps):
    factor, summand = load(out, 0), load(out, 16)
    a, b, c, d, e = load(out, 32), load(out, 48), load(out, 64), load(out, 80), load(out, 96)
    f, g, h, i, j = load(out, 112), load(out, 128), load(out, 144), load(out, 160), load(out, 176)
    for _ in range(steps):
        a = multiply_add(a, factor, summand)
        b = multiply_add(b, factor, summand)
        c = multiply_add(c, factor, summand)
        d = multiply_add(d, factor, summand)
        e = multiply_add(e, factor, summand)
        f = multiply_add(f, factor, summand)
        g = multiply_add(g, factor, summand)
        h = multiply_add(h, factor, summand)
        i = multiply_add(i, factor, summand)
        j = multiply_add(j, factor, summand)
    for at, value in enumerate((a, b, c, d, e, f, g, h, i, j)):
        store(out, 32 + 16 * at, value)


KERNELS = {6: _six, 10: _ten}


def numbers() -> np.ndarray:
    """A factor, a summand, and where each chain begins and ends; all different, or LLVM merges chains."""
    return np.linspace(0.4, 0.6, 16 * 12, dtype=np.float32)


def operations(chains: int) -> float:
    """Of one call, in billions; a multiply-add is two."""
    return STEPS * chains * 16 * 2 / 1e9
