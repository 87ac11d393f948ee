"""Probabilities that mean what they say, and the threshold from which on a cell is called infected.

Both are chosen after training, on cells that were not trained on: the temperature that logits are divided by
(Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599,
section 4.2), then the threshold of the probabilities that it gives.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet import metrics
from tinynet.errors import ArgumentError, DataError, NonFiniteError, ShapeError

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.model import Sequential

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked at.  A trained network's is about 1; far out, cells do not determine one."""


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature T at which softmax(logits / T) has the least cross-entropy, from 0.05 to 20.

    logits  (n, K) of a softmax, or (n, 1) of a sigmoid; labels (n,) from 0 to K - 1, or 0 and 1

    None where the least is not between these bounds: the right class always has the highest logit, so that
    the loss falls with T without end, or the logits say nothing of the classes, and it falls as T grows.

    In b = 1 / T the loss is convex, a sum of log-sum-exp of linear functions less linear ones, and

        d loss / d b = mean over images of [sum_k softmax(b z)_k z_k - z_label]

    so that halving the interval finds the only place where this is 0, in float64.
    Raises ShapeError, ArgumentError, NonFiniteError for what are no logits and labels.
    """
    z, y = _checked(logits, labels)
    rows = np.arange(len(y))

    def slope(b: float) -> float:
        centred = b * z
        powers = np.exp(centred - centred.max(axis=1, keepdims=True))
        expected = (powers * z).sum(axis=1) / powers.sum(axis=1)
        return float(np.mean(expected - z[rows, y]))

    low, high = 1.0 / HIGHEST, 1.0 / LOWEST
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2.0 / (low + high)


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """The mean cross-entropy in nats of softmax(logits / temperature), or the sigmoid's where K is 1."""
    z, y = _checked(logits, labels)
    scaled = z / temperature
    highest = scaled.max(axis=1)
    total = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return float(np.mean(total - scaled[np.arange(len(y)), y]))


def calibrate(
    model: Sequential | Int8Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    temperature: bool = True,
    min_sensitivity: float | None = None,
    part: str = "validation",
) -> dict[str, Any]:
    """Set the model's temperature and, for a least sensitivity, its threshold; returns what was found.

    images, labels   cells neither trained nor tested on: uint8 (n, h, w, 3), (n,) of 0 and 1
    temperature      whether to choose one anew: the least log loss
    min_sensitivity  of the thresholds at which at least this share of the infected cells is found, the one
                     of highest specificity; None: the threshold stays
    part             what the cells are, for the model's file

    The dictionary, which also goes into the model's provenance as "calibrated": {part, cells} and
    {temperature, loss: [before, after]}, {min_sensitivity, threshold, sensitivity, specificity} of
    these cells.  Raises DataError without cells, or without infected ones for a threshold.
    """
    if len(labels) == 0:
        raise DataError("there are no cells to calibrate with")
    found: dict[str, Any] = {"part": part, "cells": len(labels)}
    if temperature:
        logits = np.concatenate([model.logits(images[at : at + 256]) for at in range(0, len(images), 256)])
        best, before = best_temperature(logits, labels), log_loss(logits, labels, model.temperature)
        if best is None:
            print(
                f"these {len(labels)} cells do not determine a temperature: it stays {model.temperature:.4g}",
                file=sys.stderr,
            )
        else:
            model.temperature = float(f"{best:.6g}")
        after = log_loss(logits, labels, model.temperature)
        found |= {"temperature": model.temperature, "loss": [round(before, 5), round(after, 5)]}
    if min_sensitivity is not None:
        probabilities = model.predict(images)[:, -1]
        threshold = metrics.threshold_for_sensitivity(labels, probabilities, min_sensitivity)
        if threshold is None:
            raise DataError("there are no infected cells to choose a threshold with")
        model.threshold = threshold
        at = metrics.evaluate_probabilities(labels, probabilities, threshold, resamples=1)
        found |= {"min_sensitivity": min_sensitivity, "threshold": threshold}
        found |= {
            name: None if at[name] is None else round(at[name], 4) for name in ("sensitivity", "specificity")
        }
    model.provenance["calibrated"] = found
    return found


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 logits (n, K), of at least two classes, and integer labels (n,)."""
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    if z.ndim != 2 or z.size == 0 or y.shape != z.shape[:1]:
        raise ShapeError(f"calibration: wanted logits (n, classes) and n labels, got {z.shape} and {y.shape}")
    if not np.isfinite(z).all():
        raise NonFiniteError("calibration: the logits hold NaN or infinity")
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)  # sigmoid(z) is softmax(0, z)
    if not np.isin(y, np.arange(z.shape[1])).all():
        raise ArgumentError(f"calibration: labels must be whole numbers from 0 to {z.shape[1] - 1}")
    return z, y.astype(np.int64)
