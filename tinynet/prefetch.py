"""The next batch is prepared while this one is trained on.

Between the kernels a training step runs Python on one processor; augmenting and packing the next
batch, which hold no interpreter lock, fill the others meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tinynet import kernels

Item = TypeVar("Item")
Result = TypeVar("Result")


def prepared_ahead(items: Iterable[Item], prepare: Callable[[Item], Result]) -> Iterator[Result]:
    """prepare(item) for every item, in order, each begun in another thread before it is asked for.

    What prepare raises comes up where its result would have.
    """
    chosen = kernels.active().NAME  # a choice of kernels belongs to a thread

    def task(item: Item) -> Result:
        with kernels.using(chosen):
            return prepare(item)

    with ThreadPoolExecutor(1, thread_name_prefix="tinynet-prefetch") as thread:
        following: Future[Result] | None = None
        for item in items:
            current, following = following, thread.submit(task, item)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()
