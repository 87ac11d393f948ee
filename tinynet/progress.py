"""A progress bar with the time left (tqdm's) on standard error, or nothing where tqdm is not installed."""

from __future__ import annotations

import sys
from typing import Any


def bar(total: int, description: str, *, enabled: bool, unit: str = "batch") -> Any:
    """An object with update(n), set_postfix_str(text) and close(), usable as a context manager.

    Drawn only where standard error is a terminal, so that logs stay readable.
    """
    if enabled and sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return _Silent()
        return tqdm(
            total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True, file=sys.stderr
        )
    return _Silent()


class _Silent:
    def update(self, n: int = 1) -> None:
        """Nothing."""

    def set_postfix_str(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing."""
