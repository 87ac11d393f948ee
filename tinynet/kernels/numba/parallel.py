"""Running a kernel over blocks on several threads, with the same result for any number of them.

Blocks are divided into at most 8 groups, a division that depends on the number of blocks alone.
A kernel that sums over images leaves one partial sum a group; the partial sums are added in
order.  Threads take whole groups, so how many there are changes who computes, not what.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tinynet.errors import ArgumentError

GROUPS = 8

_lock = threading.Lock()
_threads: int | None = None
_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # (process, threads, pool)


def groups_of(blocks: int) -> list[tuple[int, int]]:
    """At most 8 contiguous ranges (first, last) that cover the blocks, as even as can be."""
    count = min(GROUPS, blocks)
    edges = [blocks * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def num_threads() -> int:
    """How many threads kernels run on: set_num_threads, else TINYNET_NUM_THREADS, else every processor."""
    global _threads
    if _threads is None:
        wanted = os.environ.get("TINYNET_NUM_THREADS")
        if wanted is not None:
            if not wanted.isdigit() or int(wanted) < 1:
                raise ArgumentError(
                    f"TINYNET_NUM_THREADS: wanted a whole number of at least 1, got {wanted!r}"
                )
            _threads = int(wanted)
        else:
            affinity = getattr(os, "sched_getaffinity", None)
            _threads = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return _threads


def set_num_threads(count: int) -> None:
    """Run kernels on `count` threads from now on."""
    global _threads
    if not isinstance(count, int) or count < 1:
        raise ArgumentError(f"set_num_threads: wanted a whole number of at least 1, got {count!r}")
    _threads = count


# Handing work to another thread and waiting for it costs about 50 microseconds; this many
# multiply-adds take about as long.
WORTH_A_THREAD = 4e6


def over_ranges(task: Callable[[int, int], Any], count: int, work: float) -> None:
    """Call task(first, last) on ranges that cover 0..count, one range a thread.

    For work whose result does not depend on how it is divided.  work: roughly how many
    multiply-adds there are in all.
    """
    threads = min(num_threads(), count)
    if threads == 1 or work < WORTH_A_THREAD:
        task(0, count)
        return
    edges = [count * i // threads for i in range(threads + 1)]
    pool = _executor(threads - 1)
    others = [pool.submit(task, edges[i], edges[i + 1]) for i in range(1, threads)]
    try:
        task(edges[0], edges[1])
    finally:
        for other in others:
            other.result()


def over_groups(task: Callable[[int, int, int], Any], blocks: int, work: float) -> None:
    """Call task(group, first, last) for every group of blocks, on the threads; `work` as above."""
    groups = groups_of(blocks)

    def some(start: int, stop: int) -> None:
        for group in range(start, stop):
            task(group, *groups[group])

    over_ranges(some, len(groups), work)


def _executor(threads: int) -> ThreadPoolExecutor:
    """The pool of this process: a forked child has its parent's memory but none of its threads."""
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid() or _pool[1] < threads:
            _pool = (os.getpid(), threads, ThreadPoolExecutor(threads, thread_name_prefix="tinynet"))
        return _pool[2]


def _after_fork() -> None:
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
