"""Arrays for results, from memory that earlier results gave back; and scratch for kernels.

A training step allocates the same large arrays again and again.  Fresh ones come from the operating
system page by page, zeroed, at the first touch: in a training step of the small CNN that was 11,600
page faults and 52 of 366 ms of processor time.  Here the memory of a large array goes back to a
shelf when the last reference to it goes, and the next array of that size takes it from there.
"""

from __future__ import annotations

import math
import os
import threading

import numpy as np

from tinynet.kernels import recording

ALIGNMENT = 64  # bytes, a cache line: half of all vector loads and stores would cross one otherwise
SMALLEST = 1 << 16  # bytes: malloc keeps smaller ones itself
LARGEST_SHELF = 1 << 28  # bytes kept for later in all; beyond that memory is given back

Loan = tuple[np.ndarray, int]  # memory and its address

_shelf: dict[int, list[Loan]] = {}
_kept = 0
# Of the kind that its holder may take again: taking memory back can happen at any allocation.
_lock = threading.RLock()


class _Lender:
    """Lends memory to one array (NumPy keeps it as the array's base) and takes it back at the end."""

    __slots__ = ("__array_interface__", "loan")

    def __init__(self, loan: Loan, shape: tuple[int, ...], dtype: np.dtype):
        self.loan = loan
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (loan[1], False),
            "version": 3,
        }

    def __del__(self) -> None:
        global _kept
        size = self.loan[0].nbytes
        with _lock:
            if _kept + size <= LARGEST_SHELF:
                _shelf.setdefault(size, []).append(self.loan)
                _kept += size


def empty(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An uninitialised C-contiguous array, like np.empty."""
    global _kept
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    with _lock:
        shelf = _shelf.get(size)
        loan = shelf.pop() if shelf else None
        if loan is not None:
            _kept -= size
    if loan is None:
        memory = _aligned(size)
        loan = (memory, memory.ctypes.data)
    return np.asarray(_Lender(loan, shape, dtype))


def flat(array: np.ndarray) -> np.ndarray:
    """The array's numbers in row-major order, in its own memory unless they lie there otherwise.

    A recorded step would find old numbers in a copy.
    """
    if not array.flags.c_contiguous:
        recording.refuse("an array that does not lie in row-major order")
    return array.ravel()


def release() -> None:
    """Give back to the system what lies on the shelf."""
    global _kept
    with _lock:
        _shelf.clear()
        _kept = 0


def _aligned(size: int) -> np.ndarray:
    """Uninitialised bytes that begin at a cache line (NumPy's begin at 16 bytes past one)."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


KEPT_SCRATCH = 1 << 23  # bytes of each kind that a thread keeps; more is allocated anew each time
_of_thread = threading.local()


def scratch(kind: str, size: int, dtype: np.dtype | type) -> np.ndarray:
    """`size` numbers for the next kernel to work in, whatever they hold; the same again for each `kind`.

    To be used within one task: a thread's next call with this `kind` gives the same memory.
    """
    if size == 0:
        return np.empty(0, dtype)
    dtype = np.dtype(dtype)
    bytes_ = size * dtype.itemsize
    if bytes_ > KEPT_SCRATCH:
        return empty((size,), dtype)
    kinds = _of_thread.__dict__
    memory = kinds.get(kind)
    if memory is None or memory.size < bytes_:
        memory = kinds[kind] = _aligned(bytes_)
    return memory[:bytes_].view(dtype)


def _after_fork() -> None:
    """The child has the parent's shelf, but not the thread that may have held its lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
