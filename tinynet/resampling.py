"""The bootstrap over patients: draws of whole patients with replacement, and what they do to a figure.

Cells of one patient are not independent, so patients, not cells, are what is drawn (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13; Field and Welsh, "Bootstrapping clustered
data", J. R. Statist. Soc. B 69, 2007).  A draw is a function of the seed, not of what is measured: two
models measured with one seed meet the same patients, which is what a paired comparison needs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .random import uniform


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom where defined; draws in which it is not are left out."""
    return top[bottom > 0] / bottom[bottom > 0]


def percentiles(values: np.ndarray, estimate: float) -> list[float] | None:
    """The central 95 % of resampled values, containing the estimate; None if they do not vary."""
    if not values.size or values.min() == values.max():
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(min(low, estimate)), float(max(high, estimate))]


class Resampling:
    """Draws of units (patients, or cells) with replacement, a function of the seed alone."""

    def __init__(self, unit: np.ndarray, seed: int, resamples: int):
        self.unit, self.seed, self.resamples = unit, seed, resamples
        self.units = int(unit.max()) + 1 if unit.size else 0
        # 200,000 numbers at a time, of which there are some six arrays: 10 MB.
        self.step = max(1, 200_000 // max(1, unit.size))

    def each(self, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """measure(times) for times (draws, units): how often each unit was drawn; results joined."""
        parts = []
        for start in range(0, self.resamples, self.step):
            draw = np.arange(start, min(start + self.step, self.resamples))
            chance = uniform(self.seed, 0, draw, "bootstrap", self.units)
            drawn = np.minimum((chance * self.units).astype(np.int64), self.units - 1)
            drawn += self.units * np.arange(draw.size)[:, None]
            times = np.bincount(drawn.reshape(-1), minlength=draw.size * self.units)
            parts.append(measure(times.reshape(draw.size, self.units)))
        return np.concatenate(parts)

    def counts(self, truth: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """The confusion matrix of every draw, from the units' own: {tn, fp, fn, tp: (resamples,)}."""
        kind = 4 * self.unit + 2 * truth + predicted
        own = np.bincount(kind, minlength=4 * self.units).reshape(self.units, 4)
        table = self.each(lambda times: times @ own)
        return {name: table[:, k] for k, name in enumerate(("tn", "fp", "fn", "tp"))}

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean of the cells' values (n,) in every draw that has cells: (resamples,)."""
        return divide(*self.mean_parts(values))

    def mean_parts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum and number of the cells' values in every draw, (resamples,) each."""
        own = np.stack([np.bincount(self.unit, values, self.units), np.bincount(self.unit)], axis=1)
        table = self.each(lambda times: times @ own)
        return table[:, 0], table[:, 1]

    def auc(self, truth: np.ndarray, score: np.ndarray) -> np.ndarray:
        """The AUC of every draw that has both classes (see auc_parts)."""
        return divide(*self.auc_parts(truth, score))

    def auc_parts(self, truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numerator and denominator of the AUC of every draw, (resamples,) each.

        A cell weighs as often as its unit was drawn: cells are sorted once, a draw only changes weights.
        With p, q the weights of infected and uninfected cells at each distinct score:
        AUC = sum p (q below + q here / 2) / (sum p sum q).
        """
        order = np.argsort(score, kind="stable")
        start = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
        unit, infected = self.unit[order], truth[order] == 1

        def measure(times: np.ndarray) -> np.ndarray:
            weight = times[:, unit].astype(np.float64)
            p = np.add.reduceat(weight * infected, start, axis=1)
            q = np.add.reduceat(weight * ~infected, start, axis=1)
            wins = np.sum(p * (np.cumsum(q, axis=1) - q / 2), axis=1)
            return np.stack([wins, p.sum(1) * q.sum(1)], axis=1)

        table = self.each(measure)
        return table[:, 0], table[:, 1]
