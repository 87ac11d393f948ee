"""Compiling kernels: at their first call, without the interpreter lock, cached where that is possible.

What has bitten others, and what is done about it here:
* `cache=True` raises at import on a read-only install or without a home directory.  Here a
  cache that cannot be written, or that a power cut left half written, costs a compilation.
* Numba's cache notices edits of the kernel's own file, not of files it uses nor of settings
  such as NUMBA_BOUNDSCHECK.  Here the cache folder's name is a digest of every kernel source,
  of the versions of Numba and llvmlite, and of the NUMBA_ variables.
* The cache folder is set for our kernels only, not for the process.

A first training step of a convolutional network compiles for about 5 seconds; from the cache
it loads in a quarter of one.  README.md beside the kernel sets says how to add a kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core import config
from numba.core.caching import FunctionCache, NullCache

from tinynet.kernels.numba.tiles import WIDTH
from tinynet.kernels.numba.zipped import ZIPPED, zipped_cache

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set, and vectors of 16 lanes exist in compiled code only")

_lock = threading.RLock()
_registry: list[Kernel] = []


class Kernel:
    """A function that is compiled when it is first called, for the types it is called with."""

    def __init__(self, function: Callable):
        self.function = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._compiled: Any = None
        self._absent = False  # from the cache, when it was last looked for
        _registry.append(self)

    def __call__(self, *arguments: Any) -> Any:
        return (self._compiled or self.compiled())(*arguments)

    def compiled(self) -> Any:
        """Numba's dispatcher of this kernel, made at the first call."""
        with _lock:
            if self._compiled is None:
                self._compiled = cached(self.function)
        return self._compiled

    def ready(self, *arguments: Any) -> bool:
        """Whether such a call need not wait for the compiler: the kernel is compiled, or now loaded.

        What was not in the cache is not looked for again in this process, only whether it was compiled since.
        """
        dispatcher, signature = self.compiled(), tuple(map(numba.typeof, arguments))
        if not self._absent and signature not in dispatcher.overloads:
            _of_thread.only_loads = True
            try:
                dispatcher.compile(signature)
            except NotCached:
                self._absent = True
            finally:
                _of_thread.only_loads = False
        return signature in dispatcher.overloads

    def entry(self, *arguments: Any) -> Any:
        """The compiled function for such arguments, and only such: nobody looks at the types of a call's."""
        dispatcher, signature = self.compiled(), tuple(map(numba.typeof, arguments))
        dispatcher.compile(signature)
        return dispatcher.overloads[signature].entry_point


class NotCached(Exception):
    """A kernel that was to be loaded, not compiled, is not in the cache."""


_of_thread = threading.local()


def kernel(function: Callable) -> Kernel:
    """Decorator: a kernel, compiled lazily.  Kernels neither raise nor allocate nor draw random numbers."""
    return Kernel(function)


def cached(function: Callable) -> Any:
    """Numba's dispatcher of a function: it releases the interpreter lock and has our cache."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(function, cache_folder_in_use())
    return dispatcher


def inlined(function: Callable) -> Any:
    """Decorator: a helper that kernels of the same file call; it is compiled into them."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Python never calls it
    return numba.njit(nogil=True, error_model="numpy", **options)(function)


class KernelCache:
    """Numba's cache of one kernel (or none), which never raises and counts what it does.

    What Numba calls its cache has these methods; they run under Numba's compiler lock.
    """

    def __init__(self, function: Callable, folder: Path | None):
        self._inner = _numba_cache(function, folder)
        self._name = function.__name__
        self._started = 0.0
        self.compiled = self.loaded = 0  # signatures
        self.seconds = 0.0

    @property
    def cache_path(self) -> str | None:
        """The folder in use, None without a cache."""
        return self._inner.cache_path

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The compiled kernel, or None where Numba is to compile it."""
        self._started = time.perf_counter()
        try:
            found = self._inner.load_overload(signature, target)
        except Exception:  # damaged files make unpickling raise anything at all
            found = None
            with contextlib.suppress(Exception):
                self._inner.flush()  # so that saving starts afresh
        if found is not None:
            self.loaded += 1
            self.seconds += time.perf_counter() - self._started
        elif getattr(_of_thread, "only_loads", False):
            raise NotCached
        else:
            for tell in tuple(_listeners):
                tell(self._name)
        return found

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what Numba just compiled; where that fails (disk full, ...) do without."""
        self.compiled += 1
        self.seconds += time.perf_counter() - self._started
        with contextlib.suppress(Exception):
            self._inner.save_overload(signature, result)

    def enable(self) -> None:
        """Use the files from now on."""
        self._inner.enable()

    def disable(self) -> None:
        """Leave the files alone from now on."""
        self._inner.disable()

    def flush(self) -> None:
        """Forget what is in the files."""
        self._inner.flush()


_listeners: list[Callable[[str], None]] = []


@contextlib.contextmanager
def telling(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the `with` block, call tell(name) whenever a kernel is about to be compiled, by any thread."""
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)


class CompileReport(NamedTuple):
    """What became of one kernel in this process."""

    name: str  # module.function, as in "pooling._max_pool"
    compiled: int  # signatures compiled
    loaded: int  # signatures loaded from the cache
    seconds: float  # spent on both


def compile_report() -> list[CompileReport]:
    """The kernels that were needed so far in this process, in the order of their sources."""
    rows = []
    for entry in _registry:
        if entry._compiled is not None:
            cache, module = entry._compiled._cache, entry.function.__module__.rpartition(".")[2]
            name = f"{module}.{entry.__name__}"
            rows.append(CompileReport(name, cache.compiled, cache.loaded, cache.seconds))
    return rows


def cache_folder() -> Path | None:
    """Where compiled kernels are kept, or None where no folder can be written."""
    with contextlib.suppress(RuntimeError):  # no home directory: after the bases that were named
        for base in _cache_bases():
            folder = base / f"kernels-{_digest()}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError:
                continue
            return folder
    return None


def _cache_bases():
    """TINYNET_CACHE, NUMBA_CACHE_DIR, then the user's cache folder (the first that can be written counts)."""
    for name in ("TINYNET_CACHE", "NUMBA_CACHE_DIR"):
        if os.environ.get(name):
            yield Path(os.environ[name]).absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        yield (Path(local) if local else Path.home() / "AppData" / "Local") / "tinynet" / "cache"
    elif sys.platform == "darwin":
        yield Path.home() / "Library" / "Caches" / "tinynet"
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if os.path.isabs(base):
            yield Path(base) / "tinynet"
        yield Path.home() / ".cache" / "tinynet"


def _sources() -> list[Any]:
    """Every file that compiled code may depend on; tinynet may be a zip."""
    files = resources.files(__spec__.parent).iterdir()
    return sorted((file for file in files if file.name.endswith(".py")), key=lambda file: file.name)


# Variables that say where and how often, not what is compiled.
_NOT_CODE = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_DEBUG_CACHE")


def _digest() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for name, value in sorted(os.environ.items()):
        if name.startswith("NUMBA_") and name not in _NOT_CODE:
            digest.update(f"{name}={value}\n".encode())
    digest.update(f"tiles of {WIDTH} lanes".encode())
    for source in _sources():
        digest.update(f"{source.name}\n".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


_chosen_folder: list[Path | None] = []  # empty until the first kernel is compiled


def cache_folder_in_use() -> Path | None:
    """cache_folder(), looked for once a process."""
    if not _chosen_folder:
        _chosen_folder.append(cache_folder())
    return _chosen_folder[0]


def _numba_cache(function: Callable, folder: Path | None) -> Any:
    if folder is None:
        return NullCache()
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        cache = zipped_cache(function, folder) if ZIPPED else FunctionCache(function)
    except (RuntimeError, OSError):  # "cannot cache function: no locator available"
        return NullCache()
    finally:
        config.CACHE_DIR = before
    # Numba goes on to its own places, under names that know nothing of the digest.
    return cache if Path(cache.cache_path).is_relative_to(folder) else NullCache()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # the thread that may have held it is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
