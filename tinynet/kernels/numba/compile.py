"""Compiling kernels: at their first call, without the interpreter lock, cached where that is possible.

What has bitten others, and what is done about it here:
* `cache=True` raises at import on a read-only install or without a home directory.  Here a
  cache that cannot be written is gone without.
* Numba's cache notices edits of the kernel's own file, not of files it uses.  Here the cache
  folder's name is a digest of every kernel source and of Numba's version.
* The cache folder is set for our kernels only, not for the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config

_lock = threading.RLock()
_registry: list[Kernel] = []


class Kernel:
    """A function that is compiled when it is first called, for the types it is called with."""

    def __init__(self, function: Callable):
        self.function = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._compiled: Any = None
        _registry.append(self)

    def __call__(self, *arguments: Any) -> Any:
        return (self._compiled or self.compiled())(*arguments)

    def compiled(self) -> Any:
        """Numba's dispatcher of this kernel, made at the first call."""
        with _lock:
            if self._compiled is None:
                dispatcher = numba.njit(nogil=True, error_model="numpy")(self.function)
                _enable_cache(dispatcher)
                self._compiled = dispatcher
        return self._compiled


def kernel(function: Callable) -> Kernel:
    """Decorator: a kernel, compiled lazily.  Kernels neither raise nor allocate nor draw random numbers."""
    return Kernel(function)


def inlined(function: Callable) -> Any:
    """Decorator: a helper called from kernels only; LLVM inlines it."""
    return numba.njit(nogil=True, error_model="numpy", inline="never")(function)


def compile_seconds() -> dict[str, float]:
    """Seconds spent so far on compiling (or loading from the cache), by kernel."""
    spent = {}
    for entry in _registry:
        if entry._compiled is not None:
            times = [entry._compiled.get_metadata(s) for s in entry._compiled.signatures]
            spent[entry.__name__] = sum(t.get("timers", {}).get("compiler_lock", 0.0) for t in times if t)
    return spent


def cache_folder() -> Path | None:
    """Where compiled kernels are kept, or None where no folder can be written."""
    for base in _cache_bases():
        folder = base / f"kernels-{_digest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}-{time.monotonic_ns()}"
            probe.touch()
            probe.unlink()
        except OSError:
            continue
        return folder
    return None


def _cache_bases() -> list[Path]:
    bases = []
    if os.environ.get("NUMBA_CACHE_DIR"):
        bases.append(Path(os.environ["NUMBA_CACHE_DIR"]))
    if os.environ.get("TINYNET_CACHE"):
        bases.append(Path(os.environ["TINYNET_CACHE"]))
    if os.environ.get("XDG_CACHE_HOME"):
        bases.append(Path(os.environ["XDG_CACHE_HOME"]) / "tinynet")
    with contextlib.suppress(RuntimeError):  # no home directory
        bases.append(Path.home() / ".cache" / "tinynet")
    return bases


def _digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


_folder: list[Path | None] = []


def _enable_cache(dispatcher: Any) -> None:
    if not _folder:
        _folder.append(cache_folder())
    if _folder[0] is None:
        return
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_folder[0])
    try:
        dispatcher.enable_caching()
    except (RuntimeError, OSError):  # "cannot cache function: no locator available"
        pass
    finally:
        config.CACHE_DIR = before
