"""Which kernels compute: NumPy's (the readable reference, always there) or Numba's (fast).

Both sets are packages with the same names and signatures (numpy/ and numba/), on arrays in
lane layout (blocks, channels, height, width, lanes).  Nothing is imported or compiled before
the first operation asks for `active()`.

TINYNET_KERNELS = numpy | numba | auto (default: numba where it can be imported, but for a prediction so
small that NumPy's are done before Numba has started: `for_images`).
threads.py: on how many threads (TINYNET_NUM_THREADS).
README.md in this folder describes the layout and how a kernel is added.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tinynet.errors import ArgumentError, MissingDependencyError
from tinynet.kernels.blas import one_thread

NAMES = ("numpy", "numba")
FEW = 8  # images that Numba computes one after another: sixteen at once take longer than these
# Measured together, on two cores: importing Numba and loading compiled kernels from the cache, and what
# NumPy's kernels take for an image.  Another machine is slower or faster at all of it alike.
NUMBA_SECONDS, IMAGE_SECONDS, MULTIPLY_ADDS_A_SECOND = 0.9, 0.0003, 6.5e9

_wanted: str | None = None  # what use() was told; else TINYNET_KERNELS counts
_chosen: Any = None
_of_thread = threading.local()


def active() -> Any:
    """The kernel set in use, a module with `NAME` and the kernels; chosen at the first call."""
    global _chosen
    chosen = getattr(_of_thread, "chosen", None)
    if chosen is not None:
        return chosen
    if _chosen is None:
        _chosen = _choose(_name())
    return _chosen


def use(name: str) -> None:
    """Choose the kernel set for this process: "numpy", "numba", or "auto".

    Raises ArgumentError for another name, MissingDependencyError where Numba cannot be imported.
    """
    global _chosen, _wanted
    _chosen, _wanted = None if name == "auto" else _choose(name), name


@contextmanager
def using(name: str) -> Iterator[Any]:
    """Choose the kernel set within a `with` block, for this thread only.

    Meanwhile NumPy's kernels multiply matrices on one thread (blas.py), so that they always round alike.
    """
    before, chosen = getattr(_of_thread, "chosen", None), _choose(name)
    _of_thread.chosen = chosen
    try:
        with one_thread() if chosen.NAME == "numpy" else nullcontext():
            yield chosen
    finally:
        _of_thread.chosen = before


def for_images(count: int, multiply_adds: int) -> Any:
    """The kernel set for a prediction: NumPy's if they will be done before Numba's could have started.

    count          of images about to go forward through a network
    multiply_adds  of that network for one of them
    It is `active()` where kernels have been chosen, or where Numba's have been used and need no start.  For a
    few images they do need one until the kernel for single images is there.
    """
    if getattr(_of_thread, "chosen", None) is not None or _name() != "auto":
        return active()
    if count >= enough_images(multiply_adds):
        return active()
    waits = _chosen is None or (count <= FEW and _chosen.NAME == "numba" and not single_images_ready())
    return _choose("numpy") if waits else active()


def single_images_ready() -> bool:
    """Whether Numba's kernel for single images may be used: it is there, or Numba was asked for by name.

    It takes ten seconds to compile, for which nobody waits who did not choose the Numba kernels.
    """
    if _name() != "auto":
        return True
    from tinynet.kernels.numba import single

    return single.ready()


def enough_images(multiply_adds: int) -> int:
    """For how many images of a network of so many multiply-adds starting Numba takes no longer than NumPy."""
    return math.ceil(NUMBA_SECONDS / (IMAGE_SECONDS + multiply_adds / MULTIPLY_ADDS_A_SECOND))


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
            _failure.append(None)
        except Exception as problem:  # not only ImportError: Numba checks NumPy's version, loads LLVM, ...
            _failure.append(problem.with_traceback(None))
    return _failure[0]


def _name() -> str:
    return _wanted or os.environ.get("TINYNET_KERNELS") or "auto"


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
