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
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from tinynet.kernels import recording
from tinynet.kernels.recording import Piece, Ranges, Recording
from tinynet.kernels.threads import num_threads

GROUPS = 8

_lock = threading.Lock()
_of_thread = threading.local()
_pool: tuple[int, int, SimpleQueue[_Job]] | None = None  # (process, workers, where they wait)


def group_edges(blocks: int) -> np.ndarray:
    """Where at most 8 contiguous groups of blocks, as even as can be, begin and end (one more edge)."""
    count = min(GROUPS, blocks)
    return np.array([blocks * i // count for i in range(count + 1)], np.int64)


def groups_of(blocks: int) -> list[tuple[int, int]]:
    """The same as ranges (first, last)."""
    return list(itertools.pairwise(group_edges(blocks).tolist()))


# Handing work to another thread and waiting for it costs about 25 microseconds (three times that with
# concurrent.futures, measured); this many multiply-adds take about as long.
WORTH_A_THREAD = 2e6


class _Job:
    """A task on ranges, which threads take one after another until none is left.

    The caller takes ranges too, and waits only for ranges that another thread has begun: workers
    that are busy, or that cannot be started, slow a job down but cannot hold it up.
    """

    def __init__(self, task: Callable[[int, int], Any], ranges: list[tuple[int, int]]):
        self.task = task
        self.count = len(ranges)
        self.waiting = deque(ranges)  # whose popleft is safe between threads
        self.done: SimpleQueue[int] = SimpleQueue()  # how many ranges a worker did
        self.failures: list[BaseException] = []

    def help(self) -> int:
        """Run the task on ranges nobody has taken; how many."""
        taken, outermost = 0, not inside_a_task()
        _of_thread.inside = True
        try:
            while True:
                try:
                    first, last = self.waiting.popleft()
                except IndexError:
                    return taken
                try:
                    self.task(first, last)
                except BaseException as failure:
                    self.failures.append(failure)
                taken += 1
        finally:
            _of_thread.inside = not outermost

    def finish(self) -> None:
        """Help until every range is done; raises what the task raised."""
        missing = self.count - self.help()
        while missing:
            missing -= self.done.get()
        if self.failures:
            raise self.failures[0]


def inside_a_task() -> bool:
    """Whether this thread is carrying out a range of a job: there is one level of parallelism, no second."""
    return getattr(_of_thread, "inside", False)


def over_ranges(
    task: Callable[[int, int], Any],
    count: int,
    work: float,
    ranges: Ranges = Ranges.OTHER,
    blocks: int = 0,
) -> None:
    """Call task(first, last) on ranges that cover 0..count, one range a thread.

    For work whose result does not depend on how it is divided.  work: roughly how many
    multiply-adds there are in all.  ranges, blocks: see recording.Piece.
    """
    made = recording.being_made()
    if made is not None and not inside_a_task():
        made.middle.append(Piece(task, ranges, count, blocks, work))
    _divided(task, count, work)


def over_blocks(task: Callable[[int, int], Any], blocks: int, work: float) -> None:
    """The same on ranges of blocks of images."""
    over_ranges(task, blocks, work, Ranges.BLOCKS, blocks)


def over_some_groups(task: Callable[[int, int], Any], blocks: int, work: float) -> None:
    """The same on ranges of the groups of so many blocks."""
    over_ranges(task, min(GROUPS, blocks), work, Ranges.GROUPS, blocks)


def _divided(task: Callable[[int, int], Any], count: int, work: float) -> None:
    threads = min(num_threads(), count)
    if threads <= 1 or work < WORTH_A_THREAD or inside_a_task():
        task(0, count)
        return
    edges = [count * i // threads for i in range(threads + 1)]
    each_range(task, list(itertools.pairwise(edges)))


def each_range(task: Callable[[int, int], Any], ranges: list[tuple[int, int]]) -> None:
    """Call task(first, last) on every one of these ranges, on the threads; kernels in it stay on theirs."""
    threads = min(num_threads(), len(ranges))
    if threads <= 1 or inside_a_task():
        for first, last in ranges:
            task(first, last)
        return
    job = _Job(task, ranges)
    with contextlib.suppress(RuntimeError):  # no thread to be had: at exit, or at a limit of the system
        waiting = _workers(threads - 1)
        for _ in range(threads - 1):
            waiting.put(job)
    job.finish()


def over_groups(task: Callable[[int, int, int], Any], blocks: int, work: float) -> None:
    """Call task(group, first, last) for every group of blocks, on the threads; `work` as above."""
    groups = groups_of(blocks)

    def some(start: int, stop: int) -> None:
        for group in range(start, stop):
            task(group, *groups[group])

    over_some_groups(some, blocks, work)


def again(made: Recording) -> None:
    """Do what was recorded."""
    if made.stretches is None:
        made.stretches = _stretches(made.middle)
    for calls in (made.first, made.stretches, made.last):
        for call in calls:
            call()


def _stretches(middle: list[Any]) -> list[Callable[[], Any]]:
    """A recording's middle, with neighbouring pieces of work on the same blocks as one."""
    calls: list[Callable[[], Any]] = []
    for blocks, neighbours in itertools.groupby(middle, _blocks):
        if blocks:
            calls.append(_Stretch(list(neighbours), blocks))
            continue
        for entry in neighbours:
            alone = isinstance(entry, Piece)
            calls.append(partial(_divided, entry.task, entry.count, entry.work) if alone else entry)
    return calls


def _blocks(entry: Any) -> int:
    """Of images, where an entry is a piece that can be done for some of them; else 0."""
    return entry.blocks if isinstance(entry, Piece) and entry.ranges is not Ranges.OTHER else 0


class _Stretch:
    """Pieces of work that a thread does one after another for its groups of blocks."""

    def __init__(self, pieces: list[Piece], blocks: int):
        self.edges = group_edges(blocks).tolist()
        self.tasks = [(piece.task, piece.ranges is Ranges.BLOCKS) for piece in pieces]
        self.work = sum(piece.work for piece in pieces)

    def __call__(self) -> None:
        # One range a thread: two or four took 6 and 15 % longer (a step of the classifier, two threads).
        _divided(self.task, len(self.edges) - 1, self.work)

    def task(self, first: int, last: int) -> None:
        """Every piece, for groups first..last."""
        edges = self.edges
        for task, of_blocks in self.tasks:
            if of_blocks:
                task(edges[first], edges[last])
            else:
                task(first, last)


def _workers(threads: int) -> SimpleQueue[_Job]:
    """Where this process's workers, at least so many, wait for jobs; a forked child starts its own."""
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():
            _pool = (os.getpid(), 0, SimpleQueue())
        process, running, waiting = _pool
        for number in range(running, threads):
            threading.Thread(target=_work, args=(waiting,), name=f"tinynet-{number}", daemon=True).start()
            _pool = (process, number + 1, waiting)
        return waiting


def _work(waiting: SimpleQueue[_Job]) -> None:
    while True:
        job = waiting.get()
        taken = job.help()
        if taken:
            job.done.put(taken)
        del job  # or its arrays would be kept until the next one comes


def _after_fork() -> None:
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
