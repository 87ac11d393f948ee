"""Random numbers are a function of what they are for, and look random."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinynet import random

seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10_000)


def test_the_mixing_function_is_splitmix64():
    """The first outputs of SplitMix64 with seed 0, as every implementation of it gives them."""
    counter = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert random.mix(counter).tolist() == expected


@given(seeds, epochs, st.permutations(range(12)))
def test_an_images_numbers_do_not_depend_on_its_place(seed, epoch, order):
    order = np.array(order)
    keys = random.keys(seed, epoch, np.arange(12), "dropout1")
    assert np.array_equal(random.keys(seed, epoch, order, "dropout1"), keys[order])
    assert np.array_equal(random.keys(seed, epoch, order[:1], "dropout1"), keys[order[:1]])
    numbers = random.uniform(seed, epoch, np.arange(12), "augmentation", 5)
    assert np.array_equal(random.uniform(seed, epoch, order, "augmentation", 5), numbers[order])
    assert np.array_equal(random.uniform(seed, epoch, order, "augmentation", 3), numbers[order, :3])


@given(seeds, epochs)
def test_everything_it_is_for_changes_the_numbers(seed, epoch):
    images = np.arange(20)
    found = [
        random.keys(seed, epoch, images, "a"),
        random.keys(seed + 1, epoch, images, "a"),
        random.keys(seed, epoch + 1, images, "a"),
        random.keys(seed, epoch, images + 20, "a"),
        random.keys(seed, epoch, images, "b"),
    ]
    assert np.unique(np.concatenate(found)).size == 100


def test_seed_and_epoch_cannot_stand_for_each_other():
    images = np.arange(50)
    found = np.concatenate([random.keys(s, e, images, "x") for s in range(10) for e in range(10)])
    assert np.unique(found).size == 5000


@given(seeds, epochs, st.integers(1, 60))
def test_a_permutation_has_everyone_once_and_keeps_the_order_of_a_part(seed, epoch, count):
    order = random.permutation(seed, epoch, np.arange(count))
    assert sorted(order.tolist()) == list(range(count))
    part = np.arange(0, count, 2)
    assert random.permutation(seed, epoch, part).tolist() == [i for i in order.tolist() if i % 2 == 0]


def test_uniform_numbers_are_uniform():
    """100,000 numbers: deviations within four standard errors, and nothing repeats."""
    numbers = random.uniform(7, 3, np.arange(10_000), "augmentation", 10)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 4 * np.sqrt(1 / 12 / numbers.size)
    assert abs(numbers.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / numbers.size)
    counts = np.histogram(numbers, 50, (0, 1))[0]
    assert np.abs(counts - 2000).max() < 4 * np.sqrt(2000)
    between = np.corrcoef(numbers.T)[~np.eye(10, dtype=bool)]
    assert np.abs(between).max() < 5 / np.sqrt(10_000)
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(10_000)
    assert np.unique(numbers).size == numbers.size
