"""NumPy's own library for products of matrices (BLAS), held to one thread where bits have to come again.

OpenBLAS and its like divide a product among their threads, and how they divide it decides how it rounds.
Their number comes from the processors, from OPENBLAS_NUM_THREADS and its like, and from limits of the
surroundings, all of which may be different when a training is resumed.  So a training multiplies on one
thread, and so does `predict` on the NumPy kernels, where products are a tenth to a third of the work.  The
Numba kernels have threads of their own and none of this.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np

# What asks a library for its threads, and what sets them: OpenBLAS as NumPy's packages rename it, and MKL.
CALLS = [
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("", "scipy_")
    for suffix in ("", "64_", "_64")
] + [("MKL_Get_Max_Threads", "MKL_Set_Num_Threads")]

_lock = threading.Lock()
_inside, _before = 0, 0  # how many are within one_thread, and the number of threads to go back to


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Products of matrices on one thread, in the whole process, until the last of all blocks has ended.

    Where the library has no such calls nothing changes: `threads` tells.  Usable as a decorator.
    """
    global _inside, _before
    found = _calls()
    with _lock:
        _inside += 1
        if found is not None and _inside == 1:
            get, set_ = found
            _before = get()
            set_(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if found is not None and _inside == 0:
                found[1](_before)


def threads() -> int | None:
    """On how many threads the library multiplies now; None where it cannot be asked."""
    found = _calls()
    return None if found is None else found[0]()


def _openblas_in(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if "openblas" in name]
    except OSError:
        return []


@functools.cache
def _calls() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """The library's two calls, found by way of the module of NumPy that is linked with it."""
    try:
        import ctypes

        from numpy.linalg import _umath_linalg
    except ImportError:
        return None
    home = os.path.dirname(np.__file__)
    beside = (os.path.join(os.path.dirname(home), "numpy.libs"), os.path.join(home, ".dylibs"))
    # On Windows only the library itself answers.
    for path in itertools.chain([_umath_linalg.__file__], *map(_openblas_in, beside)):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for get, set_ in CALLS:
            if hasattr(library, get) and hasattr(library, set_):
                asking, setting = getattr(library, get), getattr(library, set_)
                asking.restype, setting.restype = ctypes.c_int, None
                setting.argtypes = [ctypes.c_int]
                return asking, setting
    return None
