"""The self-test of a model file: its picture, and how near the logits have to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_files import property_test

from tinynet import files
from tinynet.errors import ArgumentError, ModelFileError


def test_selftest_picture_is_the_documented_one():
    picture = files.selftest_input(1, 32, 32)
    assert picture.shape == (1, 32, 32, 3) and picture.dtype == np.uint8
    prefix = [60, 94, 129, 180, 12, 94, 198, 142, 4, 163, 64, 108, 151, 214, 60, 251]
    assert picture.reshape(-1)[:16].tolist() == prefix


@property_test
@given(st.integers(0, 2**32 - 1), *[st.integers(1, 12)] * 3)
def test_selftest_picture_is_the_plain_recurrence(seed, height, width, channels):
    state, expected = seed, []
    for _ in range(height * width * channels):
        state = (state * 1664525 + 1013904223) % 2**32
        expected.append(state >> 24)
    picture = files.selftest_input(seed, height, width, channels)
    assert picture.shape == (1, height, width, channels)
    assert picture.reshape(-1).tolist() == expected


def test_selftest_picture_does_not_depend_on_its_size():
    large = files.selftest_input(2**32 - 1, 224, 224)
    small = files.selftest_input(2**32 - 1, 7, 5)
    np.testing.assert_array_equal(large.reshape(-1)[: small.size], small.reshape(-1))
    assert large.min() == 0 and large.max() == 255


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 8, 8), "seed"),
        ((2**32, 8, 8), "seed"),
        ((1.0, 8, 8), "seed"),
        ((True, 8, 8), "seed"),
        ((1, 0, 8), "height"),
        ((1, 8, -8), "width"),
        ((1, 8, 8, 0), "channels"),
        ((1, 2**20, 2**20), "values"),
    ],
)
def test_impossible_selftest_pictures_are_refused(arguments, name):
    with pytest.raises(ArgumentError, match=name):
        files.selftest_input(*arguments)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([0.5, -0.25], [0.50009, -0.25009]),
        ([200.0, 0.0], [200.0, 0.0199]),
        ([[1.0, 2.0]], np.array([1.0, 2.0], np.float32)),
        ([0.0], [1e-4]),
    ],
)
def test_selftest_within_tolerance_passes(expected, got):
    files.check_selftest(expected, got, "cells.safetensors")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([0.5, -0.25], [0.50011, -0.25]),
        ([200.0, 0.0], [200.0, 0.0201]),
        ([0.5, -0.25], [-0.25, 0.5]),
        ([0.5, -0.25], [np.nan, -0.25]),
        ([0.5, -0.25], [np.inf, -0.25]),
        ([np.inf, 0.0], [0.0, 0.0]),
        ([np.inf, 0.0], [np.inf, 0.0]),
        ([np.nan, 0.0], [np.nan, 0.0]),
        ([0.5], [0.5, 0.5]),
        ([], []),
    ],
)
def test_selftest_outside_tolerance_is_refused(expected, got):
    with pytest.raises(ModelFileError, match=r"cells.safetensors does not reproduce its self-test.*\.$"):
        files.check_selftest(expected, got, "cells.safetensors")


@pytest.mark.parametrize("expected", ["abc", {"a": 1}, [[1.0], [1.0, 2.0]], ["x", 1.0], [10**400]])
def test_selftest_logits_that_are_not_numbers_are_refused(expected):
    with pytest.raises(ModelFileError, match=r"logits of its self-test are not numbers"):
        files.check_selftest(expected, [1.0], "cells.safetensors")
