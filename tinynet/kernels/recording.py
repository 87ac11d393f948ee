"""A training step written down while it is carried out, to be carried out again on the next batch.

From one batch of a shape to the next nothing changes but the numbers: the same kernels run on arrays of
the same sizes.  Deciding anew what to run took a third of a small network's step.  So what is done is
passed through here, and where a recording is being made, it is kept, together with its arrays; done
again, the same calls work in the same memory, on what has been put there since.

    before(call)    depends on weights and targets alone, or clears sums: all of these are done first
    in_order(call)  depends on what was done before it, and what follows on it
    after(call)     makes a weight's gradient or the loss, which no other function reads: done last
    refuse(why)     something that cannot be done again this way; the recording is then of no use

Each returns what the call returns, an array or nothing; done again, the call's array is copied there.

Work on images lies between them, handed out to threads (numba/parallel.py).  As packing the weights and
adding up their gradients have been moved out of the way, it forms long stretches, and a thread takes its
images through a whole stretch: they are still in its cache when the next layer comes.

CUDA graphs are the same idea; here a recording is a list of Python functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

Call = Callable[[], Any]


class Ranges(Enum):
    """What the ranges of a piece of work count."""

    BLOCKS = "blocks"  # of images, none of which depends on another
    GROUPS = "groups"  # of blocks (numba/parallel.py), each with sums of its own
    OTHER = "other"


@dataclass(frozen=True)
class Piece:
    """Work that threads share: task(first, last) for ranges of 0..count.

    blocks  of images in the batch, 0 where `ranges` are OTHER
    work    roughly how many multiply-adds there are
    """

    task: Callable[[int, int], Any]
    ranges: Ranges
    count: int
    blocks: int
    work: float


@dataclass
class Given:
    """What is put in from outside: `array` lies elsewhere each time, its shape and dtype are the same."""

    array: np.ndarray


@dataclass
class Recording:
    """What a step did.  refused: why it cannot be done again, if so."""

    first: list[Call] = field(default_factory=list)
    middle: list[Call | Piece] = field(default_factory=list)
    last: list[Call] = field(default_factory=list)
    given: dict[int, Given] = field(default_factory=dict)  # by the id of the array that they began with
    refused: str | None = None
    stretches: list[Call] | None = None  # the middle with neighbouring pieces joined (numba/parallel.py)


_of_thread = threading.local()


@contextmanager
def recording() -> Iterator[Recording]:
    """Within the `with` block, what this thread's functions do is done and recorded."""
    made = Recording()
    _of_thread.recording = made
    try:
        yield made
    finally:
        _of_thread.recording = None


def being_made() -> Recording | None:
    """This thread's recording, if it is making one."""
    return getattr(_of_thread, "recording", None)


def before(call: Call) -> Any:
    """What the call returns; done again before everything else, in the order of these calls."""
    made = being_made()
    return _kept(call, None if made is None else made.first)


def in_order(call: Call) -> Any:
    """What the call returns; done again at its place among the pieces of work."""
    made = being_made()
    return _kept(call, None if made is None else made.middle)


def after(call: Call) -> Any:
    """What the call returns; done again after everything else, in the order of these calls."""
    made = being_made()
    return _kept(call, None if made is None else made.last)


def _kept(call: Call, calls: list | None) -> Any:
    result = call()
    if calls is None:
        return result
    if result is None:
        calls.append(call)
        return None
    array = np.asarray(result)  # where the next results will be put too
    calls.append(lambda: np.copyto(array, call()))
    return array


def given(array: np.ndarray) -> Given:
    """Where work finds the array, instead of keeping it: done again, another may stand in its place."""
    made = being_made()
    return Given(array) if made is None else made.given.setdefault(id(array), Given(array))


def refuse(why: str) -> None:
    """What is being recorded cannot be done again by calling the same functions."""
    made = being_made()
    if made is not None and made.refused is None:
        made.refused = why
