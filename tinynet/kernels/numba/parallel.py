"""Running a kernel over blocks on several threads, with the same result for any number of them.

Blocks are divided into at most 8 groups, a division that depends on the number of blocks alone.
A kernel that sums over images leaves one partial sum a group; the partial sums are added in
order.  Threads take whole groups, so how many there are changes who computes, not what.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError

GROUPS = 8

_lock = threading.Lock()
_threads: int | None = None
_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # (process, threads, pool)


def group_edges(blocks: int) -> np.ndarray:
    """Where at most 8 contiguous groups of blocks, as even as can be, begin and end (one more edge)."""
    count = min(GROUPS, blocks)
    return np.array([blocks * i // count for i in range(count + 1)], np.int64)


def groups_of(blocks: int) -> list[tuple[int, int]]:
    """The same as ranges (first, last)."""
    return list(itertools.pairwise(group_edges(blocks).tolist()))


def num_threads() -> int:
    """How many threads kernels run on: set_num_threads, else TINYNET_NUM_THREADS, else every processor."""
    global _threads
    if _threads is None:
        wanted = os.environ.get("TINYNET_NUM_THREADS")
        if wanted:
            if not wanted.isdecimal() or int(wanted) < 1:
                raise ArgumentError(
                    f"TINYNET_NUM_THREADS: wanted a whole number of at least 1, got {wanted!r}"
                )
            _threads = int(wanted)
        else:
            affinity = getattr(os, "sched_getaffinity", None)
            _threads = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return _threads


def set_num_threads(count: int) -> None:
    """Run kernels on `count` threads from now on.  Raises ArgumentError for less than 1."""
    global _threads
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ArgumentError(f"set_num_threads: wanted a whole number of at least 1, got {count!r}")
    _threads = int(count)


# Handing work to another thread and waiting for it costs about 50 microseconds; this many
# multiply-adds take about as long.
WORTH_A_THREAD = 4e6


class _Job:
    """A task on ranges, which threads take one after another until none is left.

    The caller takes ranges too, and waits only for ranges that another thread has begun: a
    pool that is busy, or cannot start a thread, slows a job down but cannot hold it up.
    """

    def __init__(self, task: Callable[[int, int], Any], ranges: list[tuple[int, int]]):
        self.task = task
        self.count = len(ranges)
        self.waiting = deque(ranges)  # whose popleft is safe between threads
        self.finished = threading.Semaphore(0)
        self.failures: list[BaseException] = []

    def help(self) -> None:
        """Run the task on ranges nobody has taken."""
        while True:
            try:
                first, last = self.waiting.popleft()
            except IndexError:
                return
            try:
                self.task(first, last)
            except BaseException as failure:
                self.failures.append(failure)
            finally:
                self.finished.release()

    def wait(self) -> None:
        """Until every range is done; raises what the task raised."""
        for _ in range(self.count):
            self.finished.acquire()
        if self.failures:
            raise self.failures[0]


def over_ranges(task: Callable[[int, int], Any], count: int, work: float) -> None:
    """Call task(first, last) on ranges that cover 0..count, one range a thread.

    For work whose result does not depend on how it is divided.  work: roughly how many
    multiply-adds there are in all.
    """
    threads = min(num_threads(), count)
    if threads <= 1 or work < WORTH_A_THREAD:
        task(0, count)
        return
    edges = [count * i // threads for i in range(threads + 1)]
    job = _Job(task, list(itertools.pairwise(edges)))
    with contextlib.suppress(RuntimeError):  # no thread to be had: at exit, or at a limit of the system
        pool = _executor(threads - 1)
        for _ in range(threads - 1):
            pool.submit(job.help)
    job.help()
    job.wait()


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
