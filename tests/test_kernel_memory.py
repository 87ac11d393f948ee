"""Memory that goes back to the shelf: never while anything can still see it, and never without bound."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tinynet import kernels

if kernels.numba_problem() is not None:
    pytest.skip("Numba is not installed", allow_module_level=True)

from tinynet.kernels.numba import memory

LARGE = (memory.SMALLEST // 4,)  # float32


@pytest.fixture(autouse=True)
def bare_shelf(monkeypatch):
    monkeypatch.setattr(memory, "_shelf", {})
    monkeypatch.setattr(memory, "_kept", 0)


def test_memory_comes_again_once_nothing_refers_to_it():
    array = memory.empty(LARGE, np.float32)
    address = array.ctypes.data
    view = array.reshape(2, -1)[1:]
    del array
    other = memory.empty(LARGE, np.float32)
    assert other.ctypes.data != address  # the view still sees the first
    view[...] = 7
    other[...] = 0
    assert (view == 7).all()
    del view
    assert memory.empty(LARGE, np.float32).ctypes.data == address


def test_an_array_is_like_any_other():
    array = memory.empty((4, 64, 128), np.float64)
    assert array.shape == (4, 64, 128) and array.dtype == np.float64
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    array[...] = np.arange(array.size).reshape(array.shape)
    assert array.sum() == array.size * (array.size - 1) / 2


def test_small_arrays_and_other_sizes_are_left_to_numpy():
    assert memory.empty((3,), np.float32).base is None
    assert memory.empty((0, 5), np.float32).shape == (0, 5)
    memory.empty(LARGE, np.float32)
    assert list(memory._shelf) == [memory.SMALLEST]
    assert memory.empty((LARGE[0] * 2,), np.float32).nbytes == 2 * memory.SMALLEST


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "LARGEST_SHELF", 3 * memory.SMALLEST)
    arrays = [memory.empty(LARGE, np.float32) for _ in range(10)]
    del arrays
    assert memory._kept == 3 * memory.SMALLEST == sum(a.nbytes for s in memory._shelf.values() for a, _ in s)


def test_what_is_kept_can_be_given_back():
    array = memory.empty(LARGE, np.float32)
    array[:] = 1
    other = memory.empty(LARGE, np.float32)
    del other
    kernels.release_memory()
    assert memory._kept == 0 and not memory._shelf
    assert (array == 1).all()  # lent memory stays where it is


def test_no_two_threads_get_the_same_memory():
    failures = []

    def work(number: int) -> None:
        for _ in range(300):
            array = memory.empty(LARGE, np.float32)
            array[:] = number
            if not (array == number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
