"""Is one model better than another on the same cells?  A paired bootstrap over patients.

Both models meet the same patients in every draw, so what makes a patient hard for both cancels out of
the difference (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 16 and 17).  The
interval says how far the difference would move with other patients, not with other seeds of training:
a model is trained once a fold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ArgumentError, ShapeError
from .metrics import cross_entropies, evaluate_probabilities, fractions, patient_numbers
from .resampling import Resampling

FIGURES = ("accuracy", "sensitivity", "specificity", "auc", "loss", "f1")
_FROM_COUNTS = ("accuracy", "sensitivity", "specificity", "f1")

Answers = tuple[np.ndarray, float | np.ndarray]
"""Probabilities of class 1, (n,), and the threshold or thresholds, (n,), at or above which it is said."""


def compare(
    labels: np.ndarray,
    first: Answers,
    second: Answers,
    patients: np.ndarray | None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """How the second model's figures differ from the first's on the same n cells.

    labels: (n,) of 0 and 1.  patients: (n,), as for evaluate_probabilities; where they are not known
    cells are resampled, and the intervals are too narrow.

    Returns n, patients (None where not known), resamples, changed {worse, better: how many cells only
    the first, only the second, gets right}, and figures: for each of FIGURES {first, second, difference
    (second - first), interval (95 %, [low, high]), inside}.  `inside`: zero lies in the interval, so
    these patients do not show which is better.  A figure that is not defined has None throughout.
    Raises as evaluate_probabilities.
    """
    truth = np.asarray(labels)
    if truth.ndim != 1 or truth.size == 0:
        raise ShapeError(f"labels must have shape (n,), one a cell and at least one, not {truth.shape}")
    both = (first, second)
    # One resample: only the estimates are wanted here.
    estimates = [evaluate_probabilities(truth, answers, cut, resamples=1) for answers, cut in both]
    group = patient_numbers(patients, truth.size)
    by_patient = group is not None and group.max() >= 1
    draws = Resampling(group if by_patient and group is not None else np.arange(truth.size), seed, resamples)
    resampled = [_resampled(draws, truth, *answers) for answers in both]
    right = [(np.asarray(answers) >= cut) == (truth == 1) for answers, cut in both]
    return {
        "n": int(truth.size),
        "patients": None if group is None else int(group.max()) + 1,
        "resamples": resamples,
        "changed": {
            "worse": int(np.sum(right[0] & ~right[1])),
            "better": int(np.sum(right[1] & ~right[0])),
        },
        "figures": {
            name: _difference(estimates[0][name], estimates[1][name], resampled[0][name], resampled[1][name])
            for name in FIGURES
        },
    }


def _resampled(
    draws: Resampling, truth: np.ndarray, answers: np.ndarray, cut: float | np.ndarray
) -> dict[str, np.ndarray]:
    """Each figure in every draw, (resamples,), NaN where it is not defined."""
    score = np.asarray(answers, np.float64)
    counts = fractions(draws.counts(truth.astype(np.int64), (score >= cut).astype(np.int64)))
    tops = {name: counts[name] for name in _FROM_COUNTS}
    tops["auc"] = draws.auc_parts(truth, score)
    tops["loss"] = draws.mean_parts(cross_entropies(truth, score))
    with np.errstate(invalid="ignore"):
        return {name: np.where(bottom > 0, top, np.nan) / bottom for name, (top, bottom) in tops.items()}


def _difference(
    first: float | None, second: float | None, one: np.ndarray, other: np.ndarray
) -> dict[str, Any]:
    if first is None or second is None:
        return {"first": first, "second": second, "difference": None, "interval": None, "inside": None}
    each, difference = other - one, second - first
    each = each[np.isfinite(each)]
    low, high = np.percentile(each, [2.5, 97.5]) if each.size else (difference, difference)
    interval = [float(min(low, difference)), float(max(high, difference))]
    inside = interval[0] <= 0 <= interval[1]
    return {
        "first": first, "second": second, "difference": difference, "interval": interval, "inside": inside,
    }  # fmt: skip


def better(name: str, difference: float) -> str:
    """Which of the two a difference (second - first) of this figure speaks for: "first" or "second"."""
    if name not in FIGURES:
        raise ArgumentError(f"the figure must be one of {', '.join(FIGURES)}, got {name!r:.40}")
    return "second" if (difference < 0) == (name == "loss") else "first"
