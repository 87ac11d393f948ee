"""Splits and folds: partitions, no patient on both sides, stratified, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinynet.data.splits import (
    MAX_FOLDS,
    REPORT_SHARES,
    folds_by_image,
    folds_by_patient,
    split_by_image,
    split_by_patient,
)
from tinynet.errors import ArgumentError, DataError


def nih_like(seed=0, infected=150, healthy=50):
    """Labels and patients as in the NIH set: infected patients have both classes, cells in any order."""
    rng = np.random.default_rng(seed)
    labels, patients = [], []
    for patient in range(infected + healthy):
        positive = int(rng.gamma(2.5, 36)) + 1 if patient < infected else 0
        negative = int(rng.gamma(3, 23)) + 1
        labels += [1] * positive + [0] * negative
        patients += [patient * 3 + 1] * (positive + negative)
    order = rng.permutation(len(labels))
    return np.array(labels)[order], np.array(patients)[order]


def is_partition(parts, n):
    assert all(np.all(np.diff(part) > 0) for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))


def patients_are_disjoint(parts, patients):
    owners = [set(patients[part].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(set().union(*owners))


seeds = st.integers(0, 2**63)


@settings(deadline=None, max_examples=25)
@given(data_seed=st.integers(0, 1000), seed=seeds)
def test_split_by_patient_on_data_like_the_nih_set(data_seed, seed):
    labels, patients = nih_like(data_seed)
    parts = split_by_patient(labels, patients, seed=seed)
    is_partition(parts, len(labels))
    patients_are_disjoint(parts, patients)
    infected = set(patients[labels == 1].tolist())
    for part, share in zip(parts, REPORT_SHARES, strict=True):
        assert abs(len(part) / len(labels) - share) < 0.015
        for label in (0, 1):
            assert abs(np.mean(labels[part] == label) - np.mean(labels == label)) < 0.03
            of_class = np.sum(labels[part] == label) / np.sum(labels == label)
            assert abs(of_class - share) < 0.015
        people = set(patients[part].tolist())
        assert abs(len(people & infected) - share * 150) <= 4
        assert abs(len(people - infected) - share * 50) <= 4


@settings(deadline=None, max_examples=15)
@given(k=st.integers(2, 10), seed=seeds)
def test_folds_by_patient_on_data_like_the_nih_set(k, seed):
    labels, patients = nih_like(1)
    folds = folds_by_patient(labels, patients, k, seed)
    assert len(folds) == k
    is_partition(folds, len(labels))
    patients_are_disjoint(folds, patients)
    for fold in folds:
        assert abs(len(fold) / len(labels) - 1 / k) < 0.015
        assert abs(np.mean(labels[fold]) - np.mean(labels)) < 0.03


@st.composite
def small_sets(draw):
    n = draw(st.integers(1, 60))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    patients = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    return np.array(labels), np.array(patients)


@settings(deadline=None, max_examples=100)
@given(data=small_sets(), seed=seeds, k=st.integers(2, 4))
def test_small_sets_are_split_properly_or_refused(data, seed, k):
    labels, patients = data
    for divide in (
        lambda: split_by_patient(labels, patients, seed=seed),
        lambda: folds_by_patient(labels, patients, k, seed),
    ):
        try:
            parts = divide()
        except DataError:
            continue
        is_partition(parts, len(labels))
        patients_are_disjoint(parts, patients)
        assert all(set(labels[part]) == {0, 1} for part in parts)


@settings(deadline=None, max_examples=50)
@given(data=small_sets(), seed=seeds)
def test_a_set_is_refused_only_if_no_split_exists(data, seed):
    labels, patients = data
    both = [p for p in set(patients.tolist()) if set(labels[patients == p]) == {0, 1}]
    assume(len(both) >= 3)  # then one of them in each part is a split
    parts = split_by_patient(labels, patients, seed=seed)
    assert all(set(labels[part]) == {0, 1} for part in parts)


def test_splits_are_reproducible_and_depend_on_the_seed():
    labels, patients = nih_like()
    first, again, other = (split_by_patient(labels, patients, seed=seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[2], other[2])
    assert not np.array_equal(split_by_image(labels, seed=7)[2], split_by_image(labels, seed=8)[2])
    assert not np.array_equal(
        folds_by_patient(labels, patients, seed=7)[0], folds_by_patient(labels, patients, seed=8)[0]
    )


@settings(deadline=None, max_examples=10)
@given(shuffle=st.integers(0, 1000))
def test_the_order_of_the_images_does_not_change_who_is_where(shuffle):
    labels, patients = nih_like()
    order = np.random.default_rng(shuffle).permutation(len(labels))
    before = split_by_patient(labels, patients, seed=3)
    after = split_by_patient(labels[order], patients[order], seed=3)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, np.sort(order[b]))


def test_every_patient_can_land_in_every_part():
    labels, patients = nih_like(infected=15, healthy=5)
    tested = [set(patients[split_by_patient(labels, patients, seed=s)[2]].tolist()) for s in range(60)]
    assert set().union(*tested) == set(patients.tolist())


@settings(deadline=None, max_examples=50)
@given(
    counts=st.tuples(st.integers(40, 300), st.integers(40, 300)),
    seed=seeds,
    weights=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_split_by_image_gives_each_class_its_shares(counts, seed, weights):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], counts))
    shares = np.array(weights) / sum(weights)
    parts = split_by_image(labels, shares, seed)
    is_partition(parts, len(labels))
    for part, share in zip(parts, shares, strict=True):
        for label in (0, 1):
            assert abs(np.sum(labels[part] == label) - share * counts[label]) <= 1


def test_folds_by_image():
    labels = np.repeat([0, 1], [103, 51])
    folds = folds_by_image(labels, 5, seed=1)
    is_partition(folds, 154)
    assert {int(np.sum(labels[fold] == 0)) for fold in folds} <= {20, 21}
    assert {int(np.sum(labels[fold] == 1)) for fold in folds} <= {10, 11}


def test_unknown_patients_are_told_about_splitting_by_image():
    labels, patients = nih_like()
    patients[5] = -1
    for divide in (split_by_patient, folds_by_patient):
        with pytest.raises(DataError, match=r"1 of \d+ images.*--split image.*optimistic"):
            divide(labels, patients)


def test_too_few_patients_or_images():
    with pytest.raises(DataError, match="2 patients are too few for 3 parts"):
        split_by_patient(np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2]))
    with pytest.raises(DataError, match="infected cells: 4 patients, 2 infected"):
        split_by_patient(np.array([1, 1, 0, 0]), np.array([1, 2, 3, 4]))
    with pytest.raises(DataError, match="validation part would have no uninfected cells: 5 images"):
        split_by_image(np.array([0, 1, 1, 1, 1]))
    with pytest.raises(DataError, match="no infected cells"):
        split_by_image(np.zeros(100, int))
    with pytest.raises(DataError, match="no images"):
        split_by_image(np.zeros(0, int))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.5, 0.5), (1, 0, 0), (0.8, 0.3, -0.1), "abc", None])
def test_impossible_shares(shares):
    with pytest.raises(ArgumentError, match="shares"):
        split_by_image(np.array([0, 1] * 50), shares)


@pytest.mark.parametrize("k", [0, 1, -3, 2.5, True, MAX_FOLDS + 1])
def test_impossible_fold_counts(k):
    with pytest.raises(ArgumentError, match="folds"):
        folds_by_image(np.array([0, 1] * 50), k)


def test_labels_and_patients_must_fit():
    for labels in (np.array([0, 1, 2]), np.array([0.0, 1.0]), np.array([[0, 1]])):
        with pytest.raises(ArgumentError, match="labels"):
            split_by_image(labels)
    with pytest.raises(ArgumentError, match="patients"):
        split_by_patient(np.array([0, 1]), np.array([1]))
