"""Answers about labelled cells, and every figure the report shows of them, as JSON takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.metrics import evaluate_probabilities
from tinynet.operating_points import (
    OperatingPoint,
    predictive_values,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from tinynet.reliability import expected_calibration_error, reliability_bins

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.network import Network

PREVALENCE = 0.01  # one infected cell in a hundred


@dataclass(frozen=True, eq=False)
class Evaluated:
    """n labelled cells and the probability that was given to each.

    labels, probabilities  (n,): 0 and 1, and of class 1
    names                  n, for the page; by default their numbers
    patients               (n,) integers or strings, or None: not known, or not to be used
    threshold              the probability from which on a cell is called infected
    temperature            what the logits were divided by
    uncalibrated           (n,) probabilities at temperature 1, to compare; None where it is 1
    load_image             from a cell's number to its picture, uint8 (h, w, 3) of any size; None: no
                           pictures
    seed                   of the resampling, and of which cells are shown as examples
    """

    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str] | None = None
    patients: np.ndarray | None = None
    threshold: float = 0.5
    temperature: float = 1.0
    uncalibrated: np.ndarray | None = None
    load_image: Callable[[int], np.ndarray] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.names is not None and len(self.names) != len(self.labels):
            raise ShapeError(f"names must be {len(self.labels)}, one a cell, not {len(self.names)}")

    def name(self, cell: int) -> str:
        """What a cell is called."""
        return f"cell {cell}" if self.names is None else str(self.names[cell])

    def fields(self) -> dict[str, np.ndarray]:
        """The numbers of the cells in each field of the confusion matrix: {tn, fp, fn, tp}, surest first."""
        truth = np.asarray(self.labels) == 1
        score = np.asarray(self.probabilities, np.float64)
        called = score >= self.threshold
        fields = {"tn": ~truth & ~called, "fp": ~truth & called, "fn": truth & ~called, "tp": truth & called}
        found = {}
        for field, inside in fields.items():
            cells = np.flatnonzero(inside)
            surest = -score[cells] if field in ("fp", "tp") else score[cells]
            found[field] = cells[np.argsort(surest, kind="stable")]
        return found


def measure(answers: Evaluated, resamples: int = 1000) -> dict[str, Any]:
    """What metrics.evaluate_probabilities says, and beside it

    sensitivity_at_specificity and specificity_at_sensitivity {minimum, reached, value, threshold,
    interval} at 0.99, or None; predictive_values at 1 % infected
    {prevalence, positive, negative, intervals}; calibration {temperature, error, loss, bins, before:
    {error, loss, bins} or None}; by_patient [{patient, cells, infected, false_positives,
    false_negatives}] or None; mistakes [{name, patient, label, probability}], false positives first.
    """
    labels, probabilities = np.asarray(answers.labels), np.asarray(answers.probabilities)
    drawn = (answers.patients, answers.seed, resamples)
    figures = evaluate_probabilities(labels, probabilities, answers.threshold, *drawn)
    if not figures["n"]:
        raise ArgumentError("a report needs at least one cell")
    before = None
    if answers.uncalibrated is not None:
        before = _calibration(labels, np.asarray(answers.uncalibrated))
    known = figures["patients"] is not None
    return {
        **figures,
        "sensitivity_at_specificity": _point(sensitivity_at_specificity(labels, probabilities, 0.99, *drawn)),
        "specificity_at_sensitivity": _point(specificity_at_sensitivity(labels, probabilities, 0.99, *drawn)),
        "predictive_values": predictive_values(figures, PREVALENCE),
        "calibration": {
            "temperature": answers.temperature,
            **_calibration(labels, probabilities),
            "before": before,
        },
        "by_patient": _by_patient(answers) if known else None,
        "mistakes": _mistakes(answers, known),
    }


def costs(model: Network | Int8Model, file_bytes: int | None = None) -> dict[str, Any]:
    """What a model costs: file_bytes, parameters, and multiply_accumulates of one image, of all layers and
    of the first that has any; number_format, and input, one image's shape.

    file_bytes: of its file; by default those that saving it would write.
    """
    from tinynet.network import Network

    if isinstance(model, Network):
        from tinynet import summaries

        sums = summaries.totals(model)
        parameters, written = sums["parameters"], sums["file_bytes"]
        each = [row.multiply_accumulates for row in summaries.rows(model)]
    else:
        steps = model.program.operations
        arrays = [getattr(step, name, None) for step in steps for name in ("weight", "bias")]
        parameters, written = sum(array.size for array in arrays if array is not None), model.file_bytes()
        each = [step.multiply_accumulates(model.program.inputs(step)) for step in steps]
    return {
        "file_bytes": written if file_bytes is None else file_bytes,
        "parameters": int(parameters),
        "multiply_accumulates": int(sum(each)),
        "first_layer_multiply_accumulates": int(next((count for count in each if count), 0)),
        "number_format": model.number_format,
        "input": list(model.input_shape or ()),
    }


def _point(point: OperatingPoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "minimum": point.minimum,
        "reached": point.reached,
        "value": point.value,
        "threshold": point.threshold if math.isfinite(point.threshold) else None,
        "interval": point.interval,
    }


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    return {
        "error": expected_calibration_error(labels, probabilities),
        "loss": evaluate_probabilities(labels, probabilities, resamples=1)["loss"],
        "bins": reliability_bins(labels, probabilities),
    }


def _by_patient(answers: Evaluated) -> list[dict[str, Any]]:
    patients, labels = np.asarray(answers.patients), np.asarray(answers.labels)
    field = np.full(len(labels), "  ")
    for name, cells in answers.fields().items():
        field[cells] = name
    rows = []
    for patient in np.unique(patients):
        own = patients == patient
        rows.append(
            {
                "patient": patient.item(),
                "cells": int(own.sum()),
                "infected": int(labels[own].sum()),
                "false_positives": int((field[own] == "fp").sum()),
                "false_negatives": int((field[own] == "fn").sum()),
            }
        )
    return rows


def _mistakes(answers: Evaluated, known: bool) -> list[dict[str, Any]]:
    fields = answers.fields()
    return [
        {
            "name": answers.name(cell),
            "patient": np.asarray(answers.patients)[cell].item() if known else None,
            "label": int(answers.labels[cell]),
            "probability": float(answers.probabilities[cell]),
        }
        for cell in [*fields["fp"].tolist(), *fields["fn"].tolist()]
    ]
