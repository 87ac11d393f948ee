"""Preparing ahead: the same results in the same order, one at most in advance, errors where they belong."""

from __future__ import annotations

import itertools
import threading

import pytest
from conftest import AVAILABLE
from hypothesis import given
from hypothesis import strategies as st

from tinynet import kernels
from tinynet.prefetch import prepared_ahead

PATIENCE = 20.0  # seconds, after which a thread that should long have come is given up


@given(st.lists(st.integers(), max_size=8))
def test_the_results_are_those_of_preparing_one_by_one(items):
    assert list(prepared_ahead(items, lambda item: (item, 2 * item))) == [(item, 2 * item) for item in items]


def test_the_next_is_begun_while_this_one_is_used():
    begun = [threading.Event() for _ in range(3)]
    results = prepared_ahead(range(3), lambda item: begun[item].set() or item)
    assert next(results) == 0
    assert begun[1].wait(PATIENCE)
    results.close()


def test_it_is_prepared_in_another_thread():
    names = {result.name for result in prepared_ahead(range(3), lambda _: threading.current_thread())}
    assert names != {threading.current_thread().name}
    assert all(name.startswith("tinynet-prefetch") for name in names)


def test_no_more_than_one_is_prepared_in_advance():
    taken = []

    def endless():
        for item in itertools.count():
            taken.append(item)
            yield item

    results = prepared_ahead(endless(), lambda item: item)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert taken == [0, 1, 2, 3]
    results.close()


def test_an_error_comes_up_where_its_result_would_have():
    def prepare(item):
        if item == 2:
            raise ZeroDivisionError("the third")
        return item

    seen = []
    with pytest.raises(ZeroDivisionError, match="the third"):
        for result in prepared_ahead(range(5), prepare):
            seen.append(result)
    assert seen == [0, 1]


def test_leaving_early_leaves_no_thread_behind():
    before = set(threading.enumerate())
    results = prepared_ahead(range(5), lambda item: item)
    next(results)
    assert set(threading.enumerate()) != before
    results.close()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("chosen", AVAILABLE)
def test_the_kernels_chosen_here_are_used_there(chosen):
    with kernels.using(chosen):
        assert set(prepared_ahead(range(3), lambda _: kernels.active().NAME)) == {chosen}
