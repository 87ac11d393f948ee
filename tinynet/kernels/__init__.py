"""Which kernels compute: NumPy's (the readable reference, always there) or Numba's (fast).

Both sets are packages with the same names and signatures (numpy/ and numba/), on arrays in
lane layout (blocks, channels, height, width, lanes).  Nothing is imported or compiled before
the first operation asks for `active()`.

TINYNET_KERNELS = numpy | numba | auto (default: numba where it can be imported).
threads.py: on how many threads (TINYNET_NUM_THREADS).
README.md in this folder describes the layout and how a kernel is added.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinynet.errors import ArgumentError, MissingDependencyError
from tinynet.kernels import threads

NAMES = ("numpy", "numba")
_chosen: Any = None
_of_thread = threading.local()


def active() -> Any:
    """The kernel set in use, a module with `NAME` and the kernels; chosen at the first call."""
    global _chosen
    chosen = getattr(_of_thread, "chosen", None)
    if chosen is not None:
        return chosen
    if _chosen is None:
        _chosen = _choose(os.environ.get("TINYNET_KERNELS") or "auto")
    return _chosen


def use(name: str) -> None:
    """Choose the kernel set for this process: "numpy", "numba", or "auto".

    Raises ArgumentError for another name, MissingDependencyError where Numba cannot be imported.
    """
    global _chosen
    _chosen = _choose(name)


@contextmanager
def using(name: str) -> Iterator[Any]:
    """Choose the kernel set within a `with` block, for this thread only."""
    before = getattr(_of_thread, "chosen", None)
    _of_thread.chosen = _choose(name)
    try:
        yield _of_thread.chosen
    finally:
        _of_thread.chosen = before


def release_memory() -> None:
    """Give back the memory that the Numba kernels keep for their next results, up to 256 MB."""
    memory = sys.modules.get("tinynet.kernels.numba.memory")
    if memory is not None:
        memory.release()


def numba_problem() -> str | None:
    """Why the Numba kernels cannot be used here, or None where they can."""
    problem = _numba_failure()
    return None if problem is None else f"{type(problem).__name__}: {problem}"


_failure: list[Exception | None] = []  # empty until Numba has been tried
_warned = False


def _numba_failure() -> Exception | None:
    """What importing the Numba kernels raised, tried once a process."""
    if not _failure:
        try:
            importlib.import_module("numba")  # first, so that its absence is told from its failure
            importlib.import_module("tinynet.kernels.numba")
            threads.hand_over()
            _failure.append(None)
        except Exception as problem:  # not only ImportError: Numba checks NumPy's version, loads LLVM, ...
            _failure.append(problem.with_traceback(None))
    return _failure[0]


def _choose(name: str) -> Any:
    global _warned
    if name not in (*NAMES, "auto"):
        raise ArgumentError(f"kernels (TINYNET_KERNELS): wanted numpy, numba or auto, got {name!r}")
    if name == "numpy":
        return importlib.import_module("tinynet.kernels.numpy")
    failure = _numba_failure()
    if failure is None:
        return importlib.import_module("tinynet.kernels.numba")
    absent = isinstance(failure, ModuleNotFoundError) and failure.name == "numba"
    if name == "numba":
        advice = 'pip install "tinynet-cnn[fast]" brings it' if absent else "or use the NumPy kernels"
        raise MissingDependencyError(f"Numba cannot be used here ({numba_problem()}); {advice}")
    if not absent and not _warned:
        _warned = True
        warnings.warn(f"tinynet uses its NumPy kernels, Numba failed: {numba_problem()}", stacklevel=3)
    return importlib.import_module("tinynet.kernels.numpy")
