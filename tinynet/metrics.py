"""How good are the answers: accuracy, sensitivity, specificity, AUC, and how far to trust each.

Class 1 (infected) is positive.  An answer is positive when its probability is >= the threshold.
A figure that is not defined (a sensitivity without one infected cell) is None, never NaN.

Cells of one patient share a slide, a stain and a photographer, so they are not independent, and an
interval that counts cells as if they were is too narrow.  Where patients are known, whole patients
are resampled (the bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import ArgumentError, DataError, NonFiniteError, ShapeError
from .resampling import Resampling, divide, percentiles

_PROPORTIONS = ("accuracy", "sensitivity", "specificity", "precision")
_SMALLEST_PROBABILITY = 1e-7  # the loss clips here: one confident mistake costs 16.1 nats, not infinity


def evaluate_probabilities(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | np.ndarray = 0.5,
    patients: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Every figure about n answers, as plain Python values that json.dumps takes.

    labels: (n,) of 0 and 1.  probabilities: (n,) of class 1, in [0, 1].
    threshold: one number, or (n,), a cell's own: out-of-fold predictions come from several models.
    patients: (n,) integers or strings, or None.  A negative integer or None among them means that
    the patient of that cell is not known; then none are used and "patients" is None.

    Keys: n, accuracy, sensitivity, specificity, precision, f1, auc, loss (mean binary cross-entropy
    in nats, probabilities clipped to [1e-7, 1 - 1e-7]), threshold (None where cells have different
    ones), confusion {tn, fp, fn, tp}, patients (their number), intervals {accuracy, sensitivity,
    specificity, precision, f1, auc, loss: [low, high]} at 95 %, interval_method, and at_half: all of
    these again at threshold 0.5.

    interval_method is "patient-bootstrap" (percentiles of `resamples` draws of whole patients with
    replacement) or, with fewer than two known patients, "wilson" (Wilson's interval for the
    proportions, a bootstrap over cells for the AUC: both take cells as independent).
    A bootstrap cannot see what did not happen: if every draw gives the same value (every patient 100 %
    right), Wilson's interval over cells stands in for a proportion and None for the others.  F1 and
    the loss have an interval only where patients are resampled.  An interval is widened where needed
    to contain the estimate.

    Raises ShapeError, ArgumentError (labels other than 0 and 1, probabilities outside [0, 1], ...),
    NonFiniteError (a NaN among the probabilities).
    """
    truth, score = labels_and_scores(labels, probabilities)
    if score.size and (score.min() < 0 or score.max() > 1):
        raise ArgumentError(f"probabilities must lie in [0, 1], got {score.min():g} to {score.max():g}")
    threshold = _thresholds(threshold, truth)
    if isinstance(resamples, bool) or not isinstance(resamples, (int, np.integer)) or resamples < 1:
        raise ArgumentError(f"resamples must be a positive integer, not {resamples!r}")
    group = patient_numbers(patients, truth.size)
    known = None if group is None else int(group.max()) + 1
    by_patient = known is not None and known >= 2

    unit = group if by_patient and group is not None else np.arange(truth.size)
    draws = Resampling(unit, seed, int(resamples))
    area = auc(truth, score)
    area_interval = None if area is None else percentiles(draws.auc(truth, score), area)
    losses = cross_entropies(truth, score)
    loss = float(losses.mean()) if truth.size else None
    loss_interval = None if loss is None or not by_patient else percentiles(draws.mean(losses), loss)

    def at(level: float | np.ndarray) -> dict[str, Any]:
        predicted = score >= level
        counts = confusion(truth, predicted)
        figures = {name: ratio(*parts) for name, parts in fractions(counts).items()}
        intervals: dict[str, list[float] | None] = {}
        resampled = draws.counts(truth, predicted) if by_patient else None
        for name in _PROPORTIONS:
            top, bottom = fractions(counts)[name]
            estimate = figures[name]
            interval = None
            if resampled is not None and estimate is not None:
                interval = percentiles(divide(*fractions(resampled)[name]), estimate)
            if interval is None:
                wilson = wilson_interval(top, bottom)
                interval = None if wilson is None else list(wilson)
            intervals[name] = interval
        intervals["f1"] = None
        if resampled is not None and figures["f1"] is not None:
            intervals["f1"] = percentiles(divide(*fractions(resampled)["f1"]), figures["f1"])
        return {
            "n": int(truth.size),
            **figures,
            "auc": area,
            "loss": loss,
            "threshold": None if isinstance(level, np.ndarray) else level,
            "confusion": counts,
            "patients": known,
            "intervals": {**intervals, "auc": area_interval, "loss": loss_interval},
            "interval_method": "patient-bootstrap" if by_patient else "wilson",
        }

    return {**at(threshold), "at_half": at(0.5)}


def cross_entropies(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Each cell's binary cross-entropy in nats, float64 (n,), probabilities clipped as for the loss."""
    clipped = np.clip(np.asarray(probabilities, np.float64), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return -np.where(np.asarray(labels) == 1, np.log(clipped), np.log1p(-clipped))


def confusion(labels: np.ndarray, predicted: np.ndarray) -> dict[str, int]:
    """labels, predicted: (n,) of 0 and 1 (or booleans) -> how many {tn, fp, fn, tp}."""
    truth, answer = _binary("labels", labels), _binary("predicted", predicted)
    _same_length("predicted", answer, truth)
    tn, fp, fn, tp = np.bincount(2 * truth + answer, minlength=4).tolist()
    return {"tn": tn, "fp": fp, "fn": fn, "tp": tp}


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that an infected cell scores above an uninfected one,
    ties counting one half.  None unless both classes occur.

    By the sum of ranks, U = R1 - n1 (n1 + 1) / 2 and AUC = U / (n0 n1), tied scores sharing their
    mean rank (Mann and Whitney, Ann. Math. Statist. 18, 1947; Hanley and McNeil, Radiology 143, 1982).
    labels: (n,) of 0 and 1; probabilities: (n,), any finite scores.
    """
    truth, score = labels_and_scores(labels, probabilities)
    positives = int(truth.sum())
    negatives = truth.size - positives
    if not positives or not negatives:
        return None
    _, place, size = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    mean_rank = last - (size - 1) / 2  # ranks count from 1
    rank_sum = mean_rank[place.reshape(-1)][truth == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def roc_curve(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve's points, from (0, 0) to (1, 1), one for each distinct score.

    Returns float64 (fpr, tpr, thresholds), thresholds falling; the first is infinity (no cell is
    positive).  Raises DataError unless both classes occur.
    """
    truth, score = labels_and_scores(labels, probabilities)
    if truth.size == 0 or truth.min() == truth.max():
        raise DataError("a ROC curve needs both infected and uninfected cells")
    order = np.argsort(-score, kind="stable")
    score, truth = score[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(score)), truth.size - 1)  # the last cell of each score
    found = np.cumsum(truth)[last]
    tpr = np.concatenate([[0.0], found / found[-1]])
    false = last + 1 - found
    fpr = np.concatenate([[0.0], false / false[-1]])
    return fpr, tpr, np.concatenate([[np.inf], score[last]])


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval (low, high) for a proportion of which successes / n were seen; None where n is 0.

    Wilson's score interval (J. Am. Statist. Assoc. 22, 1927; recommended by Brown, Cai and DasGupta,
    Statist. Sci. 16, 2001): it stays inside [0, 1] and is not empty at 0 or n successes.
    """
    if not (math.isfinite(n) and math.isfinite(successes) and 0 <= successes <= n):
        raise ArgumentError(f"successes must be between 0 and n, got {successes!r} of {n!r}")
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence must be between 0 and 1, not {confidence!r}")
    if n == 0:
        return None
    from statistics import NormalDist  # here: a prediction of one picture has no intervals

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding must not push the ends past what they are exactly at 0 and n.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def threshold_for_sensitivity(labels: np.ndarray, probabilities: np.ndarray, minimum: float) -> float | None:
    """The highest threshold at which at least `minimum` (0 to 1) of the infected cells, and at least
    one, are found.

    The k-th highest score of an infected cell decides.  Returned is the middle between it and the next
    lower score of any cell (0 if there is none): the same answers on these cells, and safe from
    rounding on another machine.  None without infected cells.
    """
    truth, score = labels_and_scores(labels, probabilities)
    minimum = checked_share("minimum", minimum)
    infected = np.sort(score[truth == 1])[::-1]
    if not infected.size:
        return None
    # Least k with k / n >= minimum, decided by the same division that sensitivity makes.
    needed = int(np.argmax(np.arange(1, infected.size + 1) / infected.size >= minimum)) + 1
    deciding = float(infected[needed - 1])
    lower = score[score < deciding]
    below = float(lower.max()) if lower.size else min(0.0, deciding)
    middle = (deciding + below) / 2
    return middle if middle > below else deciding


def expected_false_positives(n: float, specificity: float) -> float:
    """How many of n uninfected cells a test of this specificity calls infected: n (1 - specificity)."""
    if not (math.isfinite(n) and n >= 0):
        raise ArgumentError(f"n must be a number of cells, 0 or more, not {n!r}")
    return float(n * (1 - checked_share("specificity", specificity)))


def positive_predictive_value(sensitivity: float, specificity: float, prevalence: float) -> float | None:
    """The share of positive answers that are right, where `prevalence` of the cells are infected.

    Bayes: se p / (se p + (1 - sp) (1 - p)).  At sensitivity and specificity 0.99 and one infected cell
    in a hundred it is 0.5.  None where no answer would be positive.
    """
    right = checked_share("sensitivity", sensitivity) * checked_share("prevalence", prevalence)
    wrong = (1 - checked_share("specificity", specificity)) * (1 - prevalence)
    return ratio(right, right + wrong)


def fractions(counts: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Numerator and denominator of each figure, from counts that are integers or arrays."""
    tn, fp, fn, tp = (counts[name] for name in ("tn", "fp", "fn", "tp"))
    return {
        "accuracy": (tn + tp, tn + fp + fn + tp),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "precision": (tp, tp + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }


def ratio(top: float, bottom: float) -> float | None:
    """top / bottom; None where that is not defined."""
    return float(top / bottom) if bottom else None


def _thresholds(value: float | np.ndarray, labels: np.ndarray) -> float | np.ndarray:
    """One threshold, or the cells' own (n,): one again where they are all the same."""
    if np.ndim(value) == 0:
        return checked_share("threshold", value)
    each = np.asarray(value, np.float64)
    _same_length("threshold", each, labels)
    lowest, highest = (each.min(), each.max()) if each.size else (0.5, 0.5)
    checked_share("threshold", lowest), checked_share("threshold", highest)
    return float(lowest) if lowest == highest else each


def checked_share(name: str, value: Any) -> float:
    """A number from 0 to 1; raises ArgumentError for any other value."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:  # NaN too
        raise ArgumentError(f"{name} must be a number from 0 to 1, not {value!r}")
    return number


def _binary(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ShapeError(f"{name} must have shape (n,), not {array.shape}")
    if array.size and array.dtype.kind not in "biuf":
        raise ArgumentError(f"{name} must be numbers, 0 or 1, not {array.dtype}")
    wrong = array[(array != 0) & (array != 1)]
    if wrong.size:
        raise ArgumentError(f"{name} must be 0 (uninfected) or 1 (infected), got {wrong[0]}")
    return array.astype(np.int64)


def _same_length(name: str, array: np.ndarray, labels: np.ndarray) -> None:
    if array.shape != labels.shape:
        raise ShapeError(f"{name} must have shape {labels.shape} like the labels, not {array.shape}")


def labels_and_scores(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 (n,) of 0 and 1, and any finite scores of class 1 as float64 (n,).

    Raises ShapeError, ArgumentError or NonFiniteError where they are something else.
    """
    truth = _binary("labels", labels)
    try:
        score = np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentError("probabilities must be numbers") from None
    _same_length("probabilities", score, truth)
    bad = np.flatnonzero(~np.isfinite(score))
    if bad.size:
        raise NonFiniteError(
            f"probabilities must be finite: {bad.size} of {score.size} are NaN or infinite, first at {bad[0]}"
        )
    return truth, score


def patient_numbers(patients: np.ndarray | None, n: int) -> np.ndarray | None:
    """Patients as 0 .. P-1 of shape (n,), or None where there are none or one is not known."""
    if patients is None:
        return None
    array = np.asarray(patients)
    if array.shape != (n,):
        raise ShapeError(f"patients must have shape ({n},) like the labels, not {array.shape}")
    if n == 0 or any(patient is None for patient in array.tolist()):
        return None
    if array.dtype.kind not in "iuOUS":
        raise ArgumentError(f"patients must be integers or strings, not {array.dtype}")
    if array.dtype.kind == "O":
        array = array.astype(str)
    if array.dtype.kind == "i" and array.min() < 0:
        return None
    return np.unique(array, return_inverse=True)[1].reshape(-1)
