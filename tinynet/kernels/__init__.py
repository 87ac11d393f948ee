"""Which kernels compute: NumPy's (the readable reference, always there) or Numba's (fast).

Both sets are packages with the same names and signatures (numpy/ and numba/), on arrays in
lane layout (blocks, channels, height, width, lanes).  Nothing is imported or compiled before
the first operation asks for `active()`.

TINYNET_KERNELS = numpy | numba | auto (default: numba where it can be imported).
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinynet.errors import ArgumentError, MissingDependencyError

NAMES = ("numpy", "numba")
_chosen: Any = None


def active() -> Any:
    """The kernel set in use, a module with `NAME` and the kernels; chosen at the first call."""
    global _chosen
    if _chosen is None:
        _chosen = _choose(os.environ.get("TINYNET_KERNELS", "auto"))
    return _chosen


def use(name: str) -> None:
    """Choose the kernel set for this process: "numpy", "numba", or "auto".

    Raises ArgumentError for another name, MissingDependencyError where Numba cannot be imported.
    """
    global _chosen
    _chosen = _choose(name)


@contextmanager
def using(name: str) -> Iterator[Any]:
    """`use(name)` within a `with` block (for the whole process, so not for two threads at once)."""
    global _chosen
    before = _chosen
    use(name)
    try:
        yield active()
    finally:
        _chosen = before


def numba_problem() -> str | None:
    """Why the Numba kernels cannot be used here, or None where they can."""
    try:
        importlib.import_module("tinynet.kernels.numba")
    except Exception as problem:  # not only ImportError: Numba checks NumPy's version, loads LLVM, ...
        return f"{type(problem).__name__}: {problem}"
    return None


def _choose(name: str) -> Any:
    if name not in (*NAMES, "auto"):
        raise ArgumentError(f"kernels (TINYNET_KERNELS): wanted numpy, numba or auto, got {name!r}")
    if name != "numpy":
        problem = numba_problem()
        if problem is None:
            return importlib.import_module("tinynet.kernels.numba")
        if name == "numba":
            raise MissingDependencyError(
                f'Numba cannot be used here ({problem}); pip install "tinynet-cnn[fast]" brings it'
            )
        if "No module named 'numba'" not in problem:
            warnings.warn(f"tinynet uses its NumPy kernels, Numba failed: {problem}", stacklevel=3)
    return importlib.import_module("tinynet.kernels.numpy")
