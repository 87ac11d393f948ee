"""Numba's cache where tinynet is a zip: Numba stamps a cached kernel with its source file, and there is none.

Our cache folder is named after every source (compile.py), so that one stamp does for all that is in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache

ZIPPED = hasattr(__spec__.loader, "archive")


def zipped_cache(function: Callable, folder: Path) -> Any:
    """Numba's cache of a kernel in a zip, in exactly this folder."""

    class Implementation(FunctionCache._impl_class):
        _locator_classes = (_Locator(function, str(folder)),)

    class Cache(FunctionCache):
        _impl_class = Implementation

    return Cache(function)


class _Locator:
    """Says where a function's files are; the methods are those that Numba asks its own locators for."""

    def __init__(self, function: Callable, folder: str):
        self._folder, self._line = folder, function.__code__.co_firstlineno

    def from_function(self, function: Callable, source: str) -> _Locator:
        return self

    def ensure_cache_path(self) -> None:
        os.makedirs(self._folder, exist_ok=True)

    def get_cache_path(self) -> str:
        return self._folder

    def get_source_stamp(self) -> str:
        return os.path.basename(self._folder)

    def get_disambiguator(self) -> str:
        return str(self._line)
