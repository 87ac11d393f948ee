from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynet import operating_points as points
from tinynet import resampling
from tinynet.errors import ArgumentError, ShapeError

quick = settings(deadline=None, max_examples=60)
scores = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.75, 0.9, 1.0])
rows = st.lists(st.tuples(st.integers(0, 1), scores, st.integers(1, 6)), min_size=1, max_size=40)
shares = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]))


def columns(some):
    return tuple(np.array(column) for column in zip(*some, strict=True))


def brute(labels, probabilities, minimum, of_specificity):
    """The best of every threshold there is, cell by cell."""
    best = None
    for level in [math.inf, *np.unique(probabilities)]:
        positive = probabilities >= level
        figures = (positive[labels == 1].mean(), (~positive[labels == 0]).mean())
        value, other = figures if of_specificity else figures[::-1]
        if other >= minimum and (best is None or value > best):
            best = value
    return best


@quick
@given(rows, shares, st.booleans())
def test_the_point_is_the_best_of_all_thresholds(some, minimum, of_specificity):
    labels, probabilities, patients = columns(some)
    find = points.sensitivity_at_specificity if of_specificity else points.specificity_at_sensitivity
    found = find(labels, probabilities, minimum, patients, resamples=20)
    if len(set(labels)) < 2:
        assert found is None
        return
    assert found.value == brute(labels, probabilities, minimum, of_specificity)
    assert found.reached >= minimum == found.minimum
    positive = probabilities >= found.threshold
    at = (positive[labels == 1].mean(), (~positive[labels == 0]).mean())
    assert (found.value, found.reached) == (at if of_specificity else at[::-1])
    assert found.interval is None or 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1


@quick
@given(rows, shares, st.booleans())
def test_the_interval_is_a_re_evaluation_of_drawn_patients(some, minimum, of_specificity):
    labels, probabilities, patients = columns(some)
    find = points.sensitivity_at_specificity if of_specificity else points.specificity_at_sensitivity
    found = find(labels, probabilities, minimum, patients, seed=3, resamples=12)
    if found is None:
        return
    unit = np.unique(patients, return_inverse=True)[1].reshape(-1)
    unit = unit if unit.max() else np.arange(len(labels))
    values = []
    for drawn in resampling.Resampling(unit, 3, 12).each(lambda times: times):
        cells = np.repeat(np.arange(len(labels)), drawn[unit])
        if len(set(labels[cells])) == 2:
            values.append(brute(labels[cells], probabilities[cells], minimum, of_specificity))
    assert found.interval == resampling.percentiles(np.array(values), found.value)


def test_shares_that_floats_cannot_express_are_met_exactly():
    """Nine of ten is 0.9, although 1 - 0.1 is not 0.9 of a float's making everywhere."""
    labels = np.array([0] * 10 + [1])
    probabilities = np.array([0.1] * 9 + [0.8, 0.5])
    found = points.sensitivity_at_specificity(labels, probabilities, 0.9)
    assert (found.value, found.reached, found.threshold) == (1.0, 0.9, 0.5)
    assert points.sensitivity_at_specificity(labels, probabilities, 0.91).value == 0
    assert math.isinf(points.sensitivity_at_specificity(labels, probabilities, 0.91).threshold)


def test_predictive_values_at_one_infected_cell_in_a_hundred():
    # Of 10,000 cells 100 are infected: 90 found, 10 missed; 99 of 9,900 called so by mistake.
    assert points.negative_predictive_value(0.9, 0.99, 0.01) == pytest.approx(9801 / 9811)
    assert points.negative_predictive_value(1.0, 0.0, 0.5) is None
    figures = {
        "sensitivity": 0.9,
        "specificity": 0.99,
        "intervals": {"sensitivity": [0.8, 0.95], "specificity": [0.98, 1.0]},
    }
    found = points.predictive_values(figures)
    assert found["prevalence"] == 0.01
    assert found["positive"] == pytest.approx(90 / 189)
    assert found["negative"] == pytest.approx(9801 / 9811)
    assert found["intervals"]["positive"] == pytest.approx([80 / (80 + 198), 1.0])
    assert found["intervals"]["negative"] == pytest.approx([9702 / 9722, 9900 / 9905])
    unknown = {
        "sensitivity": None,
        "specificity": 1.0,
        "intervals": {"sensitivity": None, "specificity": None},
    }
    assert points.predictive_values(unknown) == {
        "prevalence": 0.01,
        "positive": None,
        "negative": None,
        "intervals": {"positive": None, "negative": None},
    }


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="minimum"):
        points.sensitivity_at_specificity([0, 1], [0.1, 0.9], 1.5)
    with pytest.raises(ShapeError, match="patients"):
        points.specificity_at_sensitivity([0, 1], [0.1, 0.9], 0.9, [1])
    with pytest.raises(ArgumentError, match="prevalence"):
        points.negative_predictive_value(0.9, 0.9, -1)


def test_points_lie_on_scikit_learns_roc_curve():
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 500)
    probabilities = np.clip(0.3 * labels + 0.7 * generator.random(500), 0, 1)
    fpr, tpr, _ = sklearn.roc_curve(labels, probabilities, drop_intermediate=False)
    for minimum in (0.5, 0.9, 0.99):
        found = points.sensitivity_at_specificity(labels, probabilities, minimum, resamples=1)
        assert found.value == pytest.approx(tpr[1 - fpr >= minimum - 1e-12].max())
        found = points.specificity_at_sensitivity(labels, probabilities, minimum, resamples=1)
        assert found.value == pytest.approx((1 - fpr)[tpr >= minimum - 1e-12].max())
