from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynet import reliability
from tinynet.errors import ArgumentError, NonFiniteError
from tinynet.metrics import wilson_interval

quick = settings(deadline=None, max_examples=60)
answers = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=50)


def test_bins_of_six_cells_by_hand():
    labels = [0, 0, 1, 1, 1, 0]
    probabilities = [0.0, 0.2, 0.5, 0.51, 0.9, 1.0]
    first, second = reliability.reliability_bins(labels, probabilities, bins=2)
    # 0.5 is the upper bound of the first bin and belongs to it.
    assert (first["n"], first["share"], second["n"], second["share"]) == (3, 1 / 3, 3, 2 / 3)
    assert first["probability"] == pytest.approx(0.7 / 3) and second["probability"] == pytest.approx(2.41 / 3)
    assert first["interval"] == list(wilson_interval(1, 3))
    expected = (abs(0.7 - 1) + abs(2.41 - 2)) / 6
    assert reliability.expected_calibration_error(labels, probabilities, bins=2) == pytest.approx(expected)


@quick
@given(answers, st.integers(1, 20))
def test_every_cell_is_in_one_bin_whose_bounds_hold_it(rows, bins):
    labels, probabilities = (np.array(column) for column in zip(*rows, strict=True))
    found = reliability.reliability_bins(labels, probabilities, bins)
    assert sum(point["n"] for point in found) == len(rows)
    assert sum(point["n"] * point["share"] for point in found) == pytest.approx(labels.sum())
    assert sum(point["n"] * point["probability"] for point in found) == pytest.approx(probabilities.sum())
    for point in found:
        assert point["low"] - 1e-12 <= point["probability"] <= point["high"] + 1e-12
    error = reliability.expected_calibration_error(labels, probabilities, bins)
    # No partition into bins finds less than one bin of all does (the triangle inequality).
    assert abs(labels.mean() - probabilities.mean()) - 1e-9 <= error <= 1


def test_cells_drawn_with_the_probabilities_they_are_given_are_calibrated():
    generator = np.random.default_rng(0)
    probabilities = generator.random(100_000)
    labels = (generator.random(100_000) < probabilities).astype(int)
    assert reliability.expected_calibration_error(labels, probabilities) < 0.01
    sharper = 1 / (1 + np.exp(-3 * np.log(probabilities / (1 - probabilities))))
    assert reliability.expected_calibration_error(labels, sharper) > 0.1


def test_bins_agree_with_scikit_learns_calibration_curve():
    calibration = pytest.importorskip("sklearn.calibration")
    generator = np.random.default_rng(1)
    probabilities = np.concatenate([generator.random(300), [0.0, 0.1, 0.5, 1.0]])
    labels = generator.integers(0, 2, len(probabilities))
    share, mean = calibration.calibration_curve(labels, probabilities, n_bins=10)
    found = reliability.reliability_bins(labels, probabilities)
    assert [point["share"] for point in found] == pytest.approx(list(share))
    assert [point["probability"] for point in found] == pytest.approx(list(mean))


def test_nothing_and_nonsense():
    assert reliability.reliability_bins([], []) == []
    assert reliability.expected_calibration_error([], []) is None
    with pytest.raises(ArgumentError, match="bins"):
        reliability.reliability_bins([0, 1], [0.1, 0.9], 0)
    with pytest.raises(ArgumentError, match=r"\[0, 1\]"):
        reliability.expected_calibration_error([0, 1], [0.1, 1.9])
    with pytest.raises(NonFiniteError):
        reliability.reliability_bins([0, 1], [0.1, float("nan")])
