"""What numba/parallel.py does on several threads, on one: BLAS has threads of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def num_threads() -> int:
    """How many threads each_range uses."""
    return 1


def each_range(task: Callable[[int, int], Any], ranges: list[tuple[int, int]]) -> None:
    """Call task(first, last) on every one of these ranges."""
    for first, last in ranges:
        task(first, last)
