"""Does a probability mean what it says: of the cells given 0.8, are 80 % infected?

Probabilities are those of class 1 (infected), in [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.arguments import whole_number
from tinynet.errors import ArgumentError
from tinynet.metrics import labels_and_scores, wilson_interval

BINS = 10


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """The points of a reliability curve: for each of `bins` equal parts of [0, 1] that holds a cell

    {low, high, n, probability, share, interval}: its bounds (the upper one belongs to it, and 0 to the
    first), its cells, their mean probability, the share of them that is infected, and Wilson's 95 %
    interval of that share, which takes cells for independent.
    Source: Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning",
    ICML 2005; bounds as in Guo et al., "On calibration of modern neural networks", ICML 2017
    (arXiv:1706.04599), section 2.

    Raises ShapeError, ArgumentError or NonFiniteError for labels and probabilities that are none.
    """
    truth, score = _checked(labels, probabilities)
    count = whole_number("bins", bins, 1)
    edges = np.linspace(0, 1, count + 1)
    place = np.searchsorted(edges[1:-1], score)  # edge < score <= next edge
    found = []
    for k in range(count):
        inside = place == k
        n = int(inside.sum())
        if not n:
            continue
        infected = int(truth[inside].sum())
        interval = wilson_interval(infected, n)
        assert interval is not None
        found.append(
            {
                "low": float(edges[k]),
                "high": float(edges[k + 1]),
                "n": n,
                "probability": float(score[inside].mean()),
                "share": infected / n,
                "interval": list(interval),
            }
        )
    return found


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS
) -> float | None:
    """How far, on average over the cells, a bin's mean probability is from the share that is infected.

    sum over bins of n_b / n |mean probability_b - share_b|; 0 is perfect.  None without cells.
    Source: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", AAAI 2015.  Guo et al. (2017, equation 3) bin the probability of the answer instead, which
    folds class 0's half onto class 1's: over- and underestimates of both may then cancel.
    It depends on the bins, and is above 0 for a perfect model too where they hold few cells.
    """
    points = reliability_bins(labels, probabilities, bins)
    total = sum(point["n"] for point in points)
    if not total:
        return None
    return sum(point["n"] * abs(point["probability"] - point["share"]) for point in points) / total


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, score = labels_and_scores(labels, probabilities)
    if score.size and (score.min() < 0 or score.max() > 1):
        raise ArgumentError(f"probabilities must lie in [0, 1], got {score.min():g} to {score.max():g}")
    return truth, score
