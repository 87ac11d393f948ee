"""What is shown on standard error while something takes time: a bar, and what is compiled.

The bar, with the time left, is tqdm's; nothing is drawn where that is not installed.  Bars and lines that
are written over are for terminals: logs get whole lines, and few of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinynet import kernels

SECONDS_A_LINE = 30.0  # in a log


def bar(total: int, description: str, *, enabled: bool, unit: str = "batch", log: bool = False) -> Any:
    """An object with update(n), set_postfix_str(text) and close(), usable as a context manager.

    Drawn only where standard error is a terminal, so that logs stay readable; with `log`, where no bar is
    drawn there is a line every half minute.  It appears with its first update: until then kernels may be
    compiled, which is shown in its place.
    """
    none = _Lines(total, description) if enabled and log else _Silent()
    if enabled and sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return none
        return tqdm(
            total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True, file=sys.stderr,
            delay=1e-9,
        )  # fmt: skip
    return none


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


class _Lines(_Silent):
    """Now and then a whole line, for logs and for terminals without tqdm."""

    def __init__(self, total: int, description: str) -> None:
        self.total, self.description, self.done = total, description, 0
        self.began = self.told = time.monotonic()

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.done += n
        now = time.monotonic()
        if now - self.told >= SECONDS_A_LINE:
            self.told = now
            line(f"{self.description}: {self.done} of {self.total}, {now - self.began:.0f} s")


def status(text: str) -> None:
    """Write `text` over the terminal's line; nothing where standard error is not a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def line(text: str) -> None:
    """A whole line, in place of what `status` wrote."""
    status("")
    print(text, file=sys.stderr, flush=True)


class Compilation:
    """Says that kernels are being compiled, and in the end how many and how long that took."""

    def __init__(self) -> None:
        self._count, self._before = 0, 0.0

    def begin(self, name: str) -> None:
        """The kernel of this name is about to be compiled."""
        if not self._count:
            self._before = _seconds_spent()
            if not sys.stderr.isatty():
                line(f"{_announcement()} ...")
        self._count += 1
        status(f"{_announcement()}: {self._count}, {name}")

    def end(self) -> None:
        """Sum up, if anything was compiled since the last time; what is compiled later is shown again."""
        if self._count:
            plural = "" if self._count == 1 else "s"
            line(f"compiled {self._count} kernel{plural} in {_seconds_spent() - self._before:.1f} s")
        self._count = 0


_current: Compilation | None = None  # standard error has one line to write over


@contextmanager
def compilation(*, shown: bool) -> Iterator[None]:
    """Within the `with` block, show that kernels are compiled; silent where they come from the cache."""
    global _current
    if not shown or _current is not None or kernels.active().NAME != "numba":
        yield
        return
    from tinynet.kernels.numba.compile import telling

    _current = Compilation()
    try:
        with telling(_current.begin):
            yield
    finally:
        _current.end()
        _current = None


def end_of_compilation() -> None:
    """Leave the line to others: a first step is done, and what it needed is compiled."""
    if _current is not None:
        _current.end()


def _announcement() -> str:
    from tinynet.kernels.numba.compile import cache_folder_in_use

    if cache_folder_in_use() is None:
        return "compiling kernels (no cache folder can be written, so that every run has to)"
    return "compiling kernels, once"


def _seconds_spent() -> float:
    from tinynet.kernels.numba.compile import compile_report

    return sum(report.seconds for report in compile_report())
