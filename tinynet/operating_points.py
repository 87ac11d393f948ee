"""What a test can do at another threshold, and what an answer is worth among few infected cells.

Class 1 (infected) is positive; an answer is positive when its probability is >= the threshold.
Intervals are at 95 %, from `resamples` draws of whole patients with replacement, as in metrics.py; where
patients are not known, of cells, which takes them for independent and is then too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet.metrics import (
    checked_share,
    labels_and_scores,
    patient_numbers,
    positive_predictive_value,
    ratio,
    roc_curve,
)
from tinynet.resampling import Resampling, percentiles

Interval = list[float] | None


@dataclass(frozen=True)
class OperatingPoint:
    """A point of the ROC curve: the best value there is while the other figure is at least `minimum`.

    minimum    what was asked for
    reached    what the other figure is there
    value      the figure that was to be as high as possible
    threshold  the highest score that gives it; infinity: only by calling no cell infected
    interval   of `value`: each draw of patients chooses its own threshold
    """

    minimum: float
    reached: float
    value: float
    threshold: float
    interval: Interval


def sensitivity_at_specificity(
    labels: np.ndarray,
    probabilities: np.ndarray,
    minimum: float = 0.99,
    patients: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> OperatingPoint | None:
    """The highest sensitivity among all thresholds whose specificity is at least `minimum`.

    With F0 and F1 the shares of uninfected and infected cells scored >= t:
    max F1(t) over all t with 1 - F0(t) >= minimum (Pepe, The Statistical Evaluation of Medical Tests,
    2003, chapter 4: ROC(1 - minimum)).  The threshold is chosen on these very cells, so the value
    flatters a little; one chosen beforehand does not.  None unless both classes occur.
    """
    return _best(labels, probabilities, minimum, patients, seed, resamples, of_specificity=True)


def specificity_at_sensitivity(
    labels: np.ndarray,
    probabilities: np.ndarray,
    minimum: float = 0.99,
    patients: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> OperatingPoint | None:
    """The highest specificity among all thresholds whose sensitivity is at least `minimum`.

    max 1 - F0(t) over all t with F1(t) >= minimum; see sensitivity_at_specificity.
    """
    return _best(labels, probabilities, minimum, patients, seed, resamples, of_specificity=False)


def negative_predictive_value(sensitivity: float, specificity: float, prevalence: float) -> float | None:
    """The share of negative answers that are right, where `prevalence` of the cells are infected.

    Bayes: sp (1 - p) / (sp (1 - p) + (1 - se) p).  None where no answer would be negative.
    """
    right = checked_share("specificity", specificity) * (1 - checked_share("prevalence", prevalence))
    wrong = (1 - checked_share("sensitivity", sensitivity)) * prevalence
    return ratio(right, right + wrong)


def predictive_values(figures: dict[str, Any], prevalence: float = 0.01) -> dict[str, Any]:
    """What a positive and a negative answer are worth where `prevalence` of the cells are infected.

    figures: sensitivity and specificity, and their "intervals", as evaluate_probabilities gives them.
    The interval of each value has both ends of both: it is wider than need be.  Returns prevalence,
    positive, negative (None where undefined) and intervals {positive, negative}.
    """
    values: dict[str, Any] = {"prevalence": checked_share("prevalence", prevalence)}
    se, sp = figures["sensitivity"], figures["specificity"]
    se_ends, sp_ends = (figures["intervals"][name] for name in ("sensitivity", "specificity"))
    intervals: dict[str, Interval] = {}
    for name, value in (("positive", positive_predictive_value), ("negative", negative_predictive_value)):
        values[name] = None if se is None or sp is None else value(se, sp, prevalence)
        intervals[name] = None
        if se_ends is not None and sp_ends is not None:
            low, high = (value(se_ends[end], sp_ends[end], prevalence) for end in (0, 1))
            intervals[name] = None if low is None or high is None else [low, high]
    return {**values, "intervals": intervals}


def _draws(truth: np.ndarray, patients: np.ndarray | None, seed: int, resamples: int) -> Resampling:
    """Draws of patients, or of cells where there are not two known patients."""
    group = patient_numbers(patients, truth.size)
    known = group is not None and int(group.max()) >= 1
    return Resampling(group if known and group is not None else np.arange(truth.size), seed, resamples)


def _best(
    labels: np.ndarray,
    probabilities: np.ndarray,
    minimum: float,
    patients: np.ndarray | None,
    seed: int,
    resamples: int,
    of_specificity: bool,
) -> OperatingPoint | None:
    truth, score = labels_and_scores(labels, probabilities)
    minimum = checked_share("minimum", minimum)
    if not truth.size or truth.min() == truth.max():
        return None
    fpr, tpr, thresholds = roc_curve(truth, score)
    # Shares as the fractions they are (99 of 100 is 0.99; 1 - 0.01 may not be), from few to many positive.
    negatives = int((truth == 0).sum())
    specificity = (negatives - np.rint(fpr * negatives)) / negatives
    at = _last_or_first(specificity, tpr, minimum, of_specificity)
    value, reached = (tpr[at], specificity[at]) if of_specificity else (specificity[at], tpr[at])
    if of_specificity:  # of thresholds that find as many, the one with the fewest false positives
        at = int(np.argmax(tpr == value))
        reached = specificity[at]

    draws = _draws(truth, patients, seed, resamples)
    order = np.argsort(-score, kind="stable")
    start = np.flatnonzero(np.diff(-score[order], prepend=-np.inf))
    unit, infected = draws.unit[order], truth[order] == 1

    def measure(times: np.ndarray) -> np.ndarray:
        weight = times[:, unit].astype(np.float64)
        none = np.zeros((len(times), 1))
        p = np.concatenate([none, np.cumsum(np.add.reduceat(weight * infected, start, axis=1), axis=1)], 1)
        q = np.concatenate([none, np.cumsum(np.add.reduceat(weight * ~infected, start, axis=1), axis=1)], 1)
        both = (p[:, -1] > 0) & (q[:, -1] > 0)
        p, q = p[both], q[both]
        se, sp = p / p[:, -1:], (q[:, -1:] - q) / q[:, -1:]
        allowed = np.where(sp >= minimum, se, 0.0) if of_specificity else np.where(se >= minimum, sp, 0.0)
        return allowed.max(axis=1) if len(allowed) else np.empty(0)

    interval = percentiles(draws.each(measure), float(value))
    return OperatingPoint(minimum, float(reached), float(value), float(thresholds[at]), interval)


def _last_or_first(specificity: np.ndarray, sensitivity: np.ndarray, minimum: float, last: bool) -> int:
    """The last point whose specificity, or the first whose sensitivity, is at least the minimum."""
    if last:
        return int(np.flatnonzero(specificity >= minimum)[-1])  # (0, 0) has specificity 1
    return int(np.argmax(sensitivity >= minimum))  # (1, 1) has sensitivity 1
