"""Which labels are probably wrong: those to which models that did not learn from them give little chance.

Confident learning: C. G. Northcutt, L. Jiang and I. L. Chuang, "Confident Learning: Estimating
Uncertainty in Dataset Labels", Journal of Artificial Intelligence Research 70, 2021.  An image's
self-confidence is the out-of-fold probability of the label it has; the lower, the higher it ranks.  Its
label counts as an error (their equation 1) where the other class's probability reaches what the images of
that class have on average, and is the larger of the classes that do: thresholds that make up for a model
that is surer of one class than of the other.

A label can look wrong because it is, because the cell is hard, or because the model is poor.  The list
says where to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, DataError, ShapeError


@dataclass(frozen=True, eq=False)
class Audit:
    """n images, the most doubtful label first.

    order       int64 (n,): the image at each rank
    confidence  float64 (n,): self-confidence at each rank, ascending
    errors      bool (n,): whether confident learning takes the label at each rank for an error
    healthy     bool (n,): whether the patient at each rank has no infected cell by its labels, so that an
                infected one among its cells is not to be expected; False where no patient is known
    averages    the mean self-confidence of class 0 and of class 1: the thresholds
    """

    order: np.ndarray
    confidence: np.ndarray
    errors: np.ndarray
    healthy: np.ndarray
    averages: tuple[float, float]


def audit(labels: np.ndarray, probabilities: np.ndarray, patients: np.ndarray | None = None) -> Audit:
    """Rank images by how little their label is believed.

    labels: (n,) of 0 and 1, both present.  probabilities: (n,) of class 1, out of fold: of an image that
    the model learned from it would only say how well it was learned.  patients: int (n,), -1 unknown.
    Ties keep the images' order.  Raises ShapeError or DataError.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or probabilities.shape != labels.shape:
        raise ShapeError(
            "labels and probabilities must both have shape (n,), "
            f"not {labels.shape} and {probabilities.shape}"
        )
    if set(np.unique(labels)) != {0, 1}:
        raise DataError("an audit needs images of both classes, labelled 0 and 1")
    infected = labels == 1
    own = np.where(infected, probabilities, 1 - probabilities)
    averages = float(own[~infected].mean()), float(own[infected].mean())
    other = np.where(infected, 1 - probabilities, probabilities)  # 1 - own would round twice
    # Over the other class's threshold; and where it is over that of its own class too, less than there.
    errors = other >= np.where(infected, averages[0], averages[1])
    errors &= (own < np.where(infected, averages[1], averages[0])) | (other > own)
    order = np.argsort(own, kind="stable")
    healthy = np.zeros(len(labels), bool)
    if patients is not None:
        patients = np.asarray(patients)
        healthy = (patients >= 0) & ~np.isin(patients, patients[infected])
    return Audit(order, own[order], errors[order], healthy[order], averages)


def against(named: np.ndarray, counts: list[int]) -> dict[str, Any]:
    """How well a ranking finds the images that another list names.

    named: bool (n,), whether the list names the image at each rank.  counts: cut-offs, each a number of
    images from the top.
    Returns listed (how many there are), average_precision (the mean, over the listed images, of the
    precision down to their rank; a random order has about listed / n) and cut_offs: for each count
    {count, hits, precision, recall}.  Raises DataError where none is named, ArgumentError for a count
    outside 1..n.
    """
    named = np.asarray(named, bool)
    listed = int(named.sum())
    if not listed:
        raise DataError("the list to compare with names none of the images")
    for count in counts:
        if not 1 <= count <= len(named):
            raise ArgumentError(f"a cut-off must lie between 1 and {len(named)} images, got {count}")
    hits = np.cumsum(named)
    ranks = np.flatnonzero(named)
    return {
        "listed": listed,
        "images": len(named),
        "average_precision": float(np.mean(hits[ranks] / (ranks + 1))),
        "cut_offs": [
            {
                "count": count,
                "hits": int(hits[count - 1]),
                "precision": float(hits[count - 1] / count),
                "recall": float(hits[count - 1] / listed),
            }
            for count in sorted(set(counts))
        ],
    }
