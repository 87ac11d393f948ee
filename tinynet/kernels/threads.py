"""How many threads kernels run on, known without importing Numba."""

from __future__ import annotations

import os

import numpy as np

from tinynet.errors import ArgumentError

VARIABLE = "TINYNET_NUM_THREADS"

_chosen: int | None = None  # until it is asked for


def num_threads() -> int:
    """How many threads kernels run on: set_num_threads, else TINYNET_NUM_THREADS, else every processor.

    These are the Numba kernels' threads; NumPy's run on BLAS's own, which BLAS's variables set
    (OPENBLAS_NUM_THREADS, ...), in `fit` and `predict` on one (blas.py).  Raises ArgumentError where the
    variable holds no number of at least 1.
    """
    global _chosen
    if _chosen is None:
        wanted = os.environ.get(VARIABLE)
        if not wanted:
            _chosen = processors()
        elif not wanted.isdecimal() or int(wanted) < 1:
            raise ArgumentError(f"{VARIABLE}: wanted a whole number of at least 1, got {wanted!r}")
        else:
            _chosen = int(wanted)
    return _chosen


def processors() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def set_num_threads(count: int) -> None:
    """Run kernels on `count` threads from now on; results are bitwise the same for any number.

    Numba is not imported for it.  Raises ArgumentError for anything but a whole number of at least 1.
    """
    global _chosen
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ArgumentError(f"set_num_threads: wanted a whole number of at least 1, got {count!r}")
    _chosen = int(count)
