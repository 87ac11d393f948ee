"""The most floating-point operations that the cores do: fused multiply-adds that never leave registers.

A multiply-add takes about four cycles, and a core begins one or two a cycle, so several chains have
to be on their way.  Six of 16 lanes fit the registers of every processor; those with 32 wide ones may
want ten.  No program can exceed this; `tinynet profile` and bench/ measure it between their steps.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np

from tinynet.kernels.numba.compile import cached
from tinynet.kernels.numba.parallel import each_range
from tinynet.kernels.numba.simd import load, multiply_add, store

CALL = 8e-3  # seconds a call takes: handing work to a thread, some 0.03 ms, must not show in it
TRIAL = 20_000  # steps of the calls that find the better kernel, some 0.05 ms


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


CHAINS = {6: _six, 10: _ten}


class Peak:
    """What is measured: `run()` does `billions` of float32 operations on `threads` threads, in about 8 ms.

    threads: at most parallel.num_threads().  Making one takes some 30 ms, once it is compiled.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._numbers = [_numbers() for _ in range(threads)]
        rates = {chains: self._rate(chains) for chains in CHAINS}
        chains = max(rates, key=rates.__getitem__)
        self._kernel = _compiled(chains)
        self._steps = max(1, round(CALL * rates[chains] / _billions(chains, 1)))
        self.billions = threads * _billions(chains, self._steps)

    def run(self) -> None:
        """One call on every thread."""
        ranges = [(thread, thread + 1) for thread in range(self.threads)]
        each_range(lambda first, last: self._kernel(self._numbers[first], self._steps), ranges)

    def measure(self) -> float:
        """GFLOP/s of one call."""
        started = time.perf_counter()
        self.run()
        return self.billions / (time.perf_counter() - started)

    def _rate(self, chains: int) -> float:
        """GFLOP/s of one thread, the best of some calls."""
        kernel, best = _compiled(chains), float("inf")
        kernel(self._numbers[0], TRIAL)
        for _ in range(100):
            started = time.perf_counter()
            kernel(self._numbers[0], TRIAL)
            best = min(best, time.perf_counter() - started)
        return _billions(chains, TRIAL) / best


@cache
def _compiled(chains: int) -> Any:
    return cached(CHAINS[chains])


def _numbers() -> np.ndarray:
    """A factor, a summand, and where each chain begins and ends; all different, or LLVM merges chains."""
    return np.linspace(0.4, 0.6, 16 * 12, dtype=np.float32)


def _billions(chains: int, steps: int) -> float:
    """Operations of one call; a multiply-add is two."""
    return steps * chains * 16 * 2 / 1e9
