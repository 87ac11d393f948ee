from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinynet import metrics
from tinynet.errors import ArgumentError, DataError, NonFiniteError, ShapeError
from tinynet.resampling import Resampling

quick = settings(deadline=None, max_examples=60)
# Few distinct values, so that ties and scores on the threshold are common.
scores = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.75, 0.9, 1.0])
answers = st.lists(st.tuples(st.integers(0, 1), scores), min_size=1, max_size=40)
grouped = st.lists(st.tuples(st.integers(0, 1), scores, st.integers(1, 6)), min_size=1, max_size=40)


def columns(rows):
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def brute_auc(labels, probabilities):
    pairs = [
        1.0 if p > q else 0.5 if p == q else 0.0
        for p, a in zip(probabilities, labels, strict=True)
        if a == 1
        for q, b in zip(probabilities, labels, strict=True)
        if b == 0
    ]
    return sum(pairs) / len(pairs) if pairs else None


@quick
@given(answers)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    labels, probabilities = columns(rows)
    expected = brute_auc(labels, probabilities)
    assert metrics.auc(labels, probabilities) == (None if expected is None else pytest.approx(expected))


@quick
@given(answers)
def test_auc_depends_on_order_alone(rows):
    labels, probabilities = columns(rows)
    area = metrics.auc(labels, probabilities)
    assume(area is not None)
    assert metrics.auc(labels, np.exp(3 * probabilities) - 7) == area
    assert metrics.auc(labels, -probabilities) == pytest.approx(1 - area)
    assert metrics.auc(1 - labels, probabilities) == pytest.approx(1 - area)


@quick
@given(answers)
def test_the_roc_curve_rises_and_encloses_the_auc(rows):
    labels, probabilities = columns(rows)
    if len(set(labels)) < 2:
        with pytest.raises(DataError, match="both"):
            metrics.roc_curve(labels, probabilities)
        return
    fpr, tpr, thresholds = metrics.roc_curve(labels, probabilities)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all() and (np.diff(thresholds) < 0).all()
    area = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
    assert area == pytest.approx(metrics.auc(labels, probabilities))
    for x, y, threshold in zip(fpr, tpr, thresholds, strict=True):
        positive = probabilities >= threshold
        assert x == pytest.approx(positive[labels == 0].mean())
        assert y == pytest.approx(positive[labels == 1].mean())


@quick
@given(answers, scores)
def test_every_figure_is_what_its_definition_says(rows, threshold):
    labels, probabilities = columns(rows)
    result = metrics.evaluate_probabilities(labels, probabilities, threshold, resamples=20)
    tn = fp = fn = tp = 0
    loss = 0.0
    for label, probability in rows:
        positive = probability >= threshold
        tp += label == 1 and positive
        fn += label == 1 and not positive
        fp += label == 0 and positive
        tn += label == 0 and not positive
        clipped = min(max(probability, 1e-7), 1 - 1e-7)
        loss -= math.log(clipped if label == 1 else 1 - clipped)

    def ratio(top, bottom):
        return pytest.approx(top / bottom) if bottom else None

    n = len(rows)
    assert result["confusion"] == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    assert result["n"] == n and result["threshold"] == threshold
    assert result["accuracy"] == ratio(tp + tn, n)
    assert result["sensitivity"] == ratio(tp, tp + fn)
    assert result["specificity"] == ratio(tn, tn + fp)
    assert result["precision"] == ratio(tp, tp + fp)
    assert result["f1"] == ratio(2 * tp, 2 * tp + fp + fn)
    assert result["loss"] == pytest.approx(loss / n, rel=1e-6)
    assert result["patients"] is None and result["interval_method"] == "wilson"
    expected = metrics.wilson_interval(tp, tp + fn)
    assert result["intervals"]["sensitivity"] == (None if expected is None else list(expected))


@quick
@given(grouped, scores)
def test_the_result_is_plain_json_and_intervals_contain_their_estimates(rows, threshold):
    labels, probabilities, patients = columns(rows)
    result = metrics.evaluate_probabilities(labels, probabilities, threshold, patients, resamples=50)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["patients"] == len(set(patients))
    several = len(set(patients)) > 1
    assert result["interval_method"] == ("patient-bootstrap" if several else "wilson")
    for part in (result, result["at_half"]):
        for name, interval in part["intervals"].items():
            if part[name] is None:
                assert interval is None
            elif interval is not None:
                highest = 16.2 if name == "loss" else 1  # nats: where probabilities are clipped
                assert 0 <= interval[0] <= part[name] <= interval[1] <= highest
            else:
                assert name in ("auc", "f1", "loss")


@quick
@given(grouped)
def test_at_half_is_the_evaluation_at_one_half(rows):
    labels, probabilities, patients = columns(rows)
    low = metrics.evaluate_probabilities(labels, probabilities, 0.2, patients, seed=5, resamples=30)
    half = metrics.evaluate_probabilities(labels, probabilities, 0.5, patients, seed=5, resamples=30)
    assert low["at_half"] == half["at_half"]
    half.pop("at_half")
    assert half == low["at_half"]
    assert set(low) == set(half) | {"at_half"}


@quick
@given(grouped, scores, scores)
def test_every_cell_may_have_a_threshold_of_its_own(rows, low, high):
    """As two models' answers, each cut at its own: moved to one cut, they are the same answers."""
    labels, probabilities, patients = columns(rows)
    own = np.where(patients % 2 == 1, low, high)
    result = metrics.evaluate_probabilities(labels, probabilities, own, patients, resamples=20)
    moved = metrics.evaluate_probabilities(
        labels, (probabilities >= own).astype(float), 0.5, patients, resamples=20
    )
    assert result["confusion"] == moved["confusion"]
    for name in ("accuracy", "sensitivity", "specificity", "precision", "f1"):
        assert result[name] == moved[name] and result["intervals"][name] == moved["intervals"][name]
    assert result["threshold"] == (own[0] if len(set(own)) == 1 else None)


def test_thresholds_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="threshold must have shape"):
        metrics.evaluate_probabilities([0, 1], [0.2, 0.7], [0.5])
    with pytest.raises(ArgumentError, match="threshold must be a number from 0 to 1"):
        metrics.evaluate_probabilities([0, 1], [0.2, 0.7], [0.5, np.nan])


def test_the_documented_keys_are_there():
    result = metrics.evaluate_probabilities([0, 1], [0.2, 0.7])
    assert set(result) == {
        "n", "accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "loss", "threshold",
        "confusion", "patients", "intervals", "interval_method", "at_half",
    }  # fmt: skip
    assert set(result["intervals"]) == {
        "accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "loss",
    }  # fmt: skip


@quick
@given(grouped, st.integers(0, 99))
def test_the_bootstrap_is_a_re_evaluation_of_drawn_patients(rows, seed):
    """The weighted counts and the weighted AUC against evaluating the copied-out cells one by one."""
    labels, probabilities, patients = columns(rows)
    unit = np.unique(patients, return_inverse=True)[1].reshape(-1)
    draws = Resampling(unit, seed, 12)
    draws.step = 5  # several pieces, the last of them short
    times = draws.each(lambda drawn: drawn)
    assert times.shape == (12, unit.max() + 1) and (times.sum(axis=1) == unit.max() + 1).all()
    counts = draws.counts(labels, (probabilities >= 0.5).astype(int))
    areas = []
    for k, drawn in enumerate(times):
        cells = np.repeat(np.arange(len(labels)), drawn[unit])
        expected = metrics.confusion(labels[cells], probabilities[cells] >= 0.5)
        assert {name: counts[name][k] for name in counts} == expected
        area = metrics.auc(labels[cells], probabilities[cells])
        areas += [] if area is None else [area]
    if len(set(labels)) == 2:
        assert draws.auc(labels, probabilities) == pytest.approx(areas)
    means = [probabilities[np.repeat(np.arange(len(labels)), drawn[unit])].mean() for drawn in times]
    assert draws.mean(probabilities) == pytest.approx(means)


def test_draws_are_even_over_patients():
    times = Resampling(np.arange(10), 0, 4000).each(lambda drawn: drawn)
    assert np.abs(times.mean(axis=0) - 1).max() < 0.08
    assert times.var() == pytest.approx(0.9, rel=0.05)  # binomial (10, 1/10)


def test_patients_that_differ_widen_the_interval():
    """Ten patients of 100 cells: all right in half of them, all wrong in the others."""
    patients = np.repeat(np.arange(10), 100)
    labels = np.tile([0, 1], 500)
    probabilities = np.where(patients % 2 == 0, labels, 1 - labels).astype(float)
    by_patient = metrics.evaluate_probabilities(labels, probabilities, 0.5, patients)
    by_cell = metrics.evaluate_probabilities(labels, probabilities, 0.5)
    low, high = by_patient["intervals"]["accuracy"]
    assert (low, high) == pytest.approx((0.2, 0.8), abs=0.11)
    low, high = by_cell["intervals"]["accuracy"]
    assert high - low < 0.07


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(120):
        patients = np.repeat(np.arange(30), 10)
        right = generator.random(300) < np.repeat(generator.beta(8, 2, 30), 10)  # mean 0.8
        labels = generator.integers(0, 2, 300)
        probabilities = np.where(right, labels, 1 - labels)
        result = metrics.evaluate_probabilities(labels, probabilities, 0.5, patients, trial, resamples=200)
        low, high = result["intervals"]["accuracy"]
        hits += low <= 0.8 <= high
    assert 0.86 <= hits / 120 <= 0.99


def test_intervals_are_a_function_of_the_seed():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 200)
    arguments = (labels, generator.random(200), 0.5, generator.integers(0, 9, 200))
    first = metrics.evaluate_probabilities(*arguments, seed=1, resamples=100)
    assert first == metrics.evaluate_probabilities(*arguments, seed=1, resamples=100)
    assert first != metrics.evaluate_probabilities(*arguments, seed=2, resamples=100)


def test_a_perfect_score_does_not_get_an_interval_without_width():
    labels = np.tile([0, 1], 20)
    result = metrics.evaluate_probabilities(labels, labels.astype(float), 0.5, np.repeat(np.arange(4), 10))
    assert result["intervals"]["sensitivity"] == list(metrics.wilson_interval(20, 20))
    assert result["auc"] == 1 and result["intervals"]["auc"] is None


def test_what_is_undefined_is_none():
    only_uninfected = metrics.evaluate_probabilities([0, 0, 0], [0.1, 0.2, 0.3], 0.5, ["a", "b", "a"])
    for name in ("sensitivity", "precision", "f1", "auc"):
        assert only_uninfected[name] is None
    assert only_uninfected["intervals"]["sensitivity"] is None
    assert only_uninfected["intervals"]["auc"] is None
    assert only_uninfected["specificity"] == 1 and only_uninfected["patients"] == 2


@pytest.mark.parametrize("patients", [None, []])
def test_no_cells_give_no_figures(patients):
    result = metrics.evaluate_probabilities([], [], 0.5, patients)
    assert result["n"] == 0
    assert result["confusion"] == {"tn": 0, "fp": 0, "fn": 0, "tp": 0}
    for name in ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "loss", "patients"):
        assert result[name] is None
    assert set(result["intervals"].values()) == {None}
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("unknown", [np.array([3, -1, 4]), np.array(["a", None, "b"], dtype=object)])
def test_one_unknown_patient_means_patients_are_not_used(unknown):
    result = metrics.evaluate_probabilities([0, 1, 1], [0.2, 0.3, 0.9], patients=unknown)
    assert result["patients"] is None and result["interval_method"] == "wilson"


def test_a_confident_mistake_costs_a_finite_loss():
    result = metrics.evaluate_probabilities([1, 0], [0.0, 1.0])
    assert result["loss"] == pytest.approx(-math.log(1e-7), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([0, 1], [0.1, math.nan]), NonFiniteError, "1 of 2 are NaN or infinite, first at 1"),
        (([0, 1], [math.inf, 0.1]), NonFiniteError, "first at 0"),
        (([0, 2], [0.1, 0.2]), ArgumentError, "labels must be 0 .* got 2"),
        (([0.5, 1], [0.1, 0.2]), ArgumentError, "got 0.5"),
        (([math.nan, 1], [0.1, 0.2]), ArgumentError, "got nan"),
        ((["a", "b"], [0.1, 0.2]), ArgumentError, "labels"),
        (([0, 1], [0.1]), ShapeError, r"probabilities must have shape \(2,\)"),
        (([[0, 1]], [[0.1, 0.2]]), ShapeError, "labels"),
        (([0, 1], [0.1, 1.5]), ArgumentError, r"\[0, 1\]"),
        (([0, 1], ["x", "y"]), ArgumentError, "probabilities"),
        (([0, 1], [0.1, 0.2], 1.5), ArgumentError, "threshold"),
        (([0, 1], [0.1, 0.2], math.nan), ArgumentError, "threshold"),
        (([0, 1], [0.1, 0.2], 0.5, [1]), ShapeError, "patients"),
        (([0, 1], [0.1, 0.2], 0.5, [1.5, 2.0]), ArgumentError, "patients"),
        (([0, 1], [0.1, 0.2], 0.5, None, 0, 0), ArgumentError, "resamples"),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        metrics.evaluate_probabilities(*arguments)


def test_confusion_counts_by_loop():
    labels, predicted = [0, 0, 1, 1, 1], [False, True, True, True, False]
    assert metrics.confusion(labels, predicted) == {"tn": 1, "fp": 1, "fn": 1, "tp": 2}
    with pytest.raises(ShapeError, match="predicted"):
        metrics.confusion([0, 1], [1])


def test_wilson_intervals_as_published():
    # Newcombe, Statistics in Medicine 17, 1998, table I, method 3.
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert metrics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert metrics.wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@quick
@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_solves_its_equation(n, share, confidence):
    """Its ends are the p at which the seen share is exactly z standard deviations away."""
    successes = round(share * n)
    low, high = metrics.wilson_interval(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    z = 0.0 + NormalDist().inv_cdf((1 + confidence) / 2)
    for p in (low, high):
        assert (successes / n - p) ** 2 == pytest.approx(z * z * p * (1 - p) / n, rel=1e-6, abs=1e-12)
    mirrored = metrics.wilson_interval(n - successes, n, confidence)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_bad_and_empty():
    assert metrics.wilson_interval(0, 0) is None
    for arguments in ((-1, 5), (6, 5), (math.nan, 5), (1, 5, 1.0)):
        with pytest.raises(ArgumentError):
            metrics.wilson_interval(*arguments)


@quick
@given(answers, st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])))
def test_the_threshold_reaches_the_sensitivity_and_no_higher_score_does(rows, minimum):
    labels, probabilities = columns(rows)
    threshold = metrics.threshold_for_sensitivity(labels, probabilities, minimum)
    if labels.sum() == 0:
        assert threshold is None
        return

    def sensitivity(level):
        return (probabilities[labels == 1] >= level).mean()

    assert 0 <= threshold <= 1
    assert sensitivity(threshold) >= minimum
    distinct = np.unique(probabilities)
    served = distinct[distinct >= threshold]
    # The lowest score above the threshold gives the same answers; any higher one misses too many.
    assert np.array_equal(probabilities >= threshold, probabilities >= served[0])
    asked = max(minimum, 1 / labels.sum())  # at least one infected cell is found, even for 0
    for level in served[1:]:
        assert sensitivity(level) < asked
    # Not on a score, where rounding would decide, unless there is no room below it.
    assert threshold not in distinct or threshold == 0


def test_threshold_examples():
    labels, probabilities = [1, 1, 1, 1, 0, 0], [0.9, 0.8, 0.6, 0.2, 0.5, 0.1]
    for minimum, threshold in ((0.5, 0.7), (0.75, 0.55), (0.76, 0.15), (1.0, 0.15), (0.0, 0.85)):
        assert metrics.threshold_for_sensitivity(labels, probabilities, minimum) == pytest.approx(threshold)
    with pytest.raises(ArgumentError, match="minimum"):
        metrics.threshold_for_sensitivity(labels, probabilities, 1.1)


def test_expected_false_positives():
    assert metrics.expected_false_positives(1000, 0.99) == pytest.approx(10)
    assert metrics.expected_false_positives(0, 0.5) == 0
    with pytest.raises(ArgumentError, match="specificity"):
        metrics.expected_false_positives(10, 99)
    with pytest.raises(ArgumentError, match="n must be"):
        metrics.expected_false_positives(-1, 0.9)


def test_positive_predictive_value():
    assert metrics.positive_predictive_value(0.99, 0.99, 0.01) == pytest.approx(0.5)
    assert metrics.positive_predictive_value(0.9, 0.8, 0.5) == pytest.approx(0.45 / 0.55)
    assert metrics.positive_predictive_value(0.9, 1.0, 0.0) is None
    for arguments in ((1.1, 0.9, 0.5), (0.9, -0.1, 0.5), (0.9, 0.9, 2)):
        with pytest.raises(ArgumentError):
            metrics.positive_predictive_value(*arguments)
