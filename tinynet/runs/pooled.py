"""What a cross-validation found: pooled and per-fold figures, as JSON and as a Markdown table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinynet import files
from tinynet.metrics import evaluate_probabilities
from tinynet.runs.crossvalidation import Pooled
from tinynet.runs.predictions import Predictions
from tinynet.texts import NOTICE, interval, number

# In place of {}: nothing, or how the models were measured: their number format, their views.
PREDICTIONS_FILE, JSON_FILE, TABLE_FILE = (
    "predictions{}.csv",
    "crossvalidation{}.json",
    "crossvalidation{}.md",
)
FIGURES = ("accuracy", "sensitivity", "specificity", "auc", "loss", "f1")
SET_NAMES = {"suspicious_removed": "suspicious removed", "all_labels": "all labels"}


def measure(pooled: Pooled, command: str, threshold: str) -> dict[str, Any]:
    """The figures, as plain values for JSON.

    sets: by set of test labels, what `evaluate_probabilities` gives for all folds together, each cell
    judged at its fold's threshold, intervals from resampled patients; and "folds", the same figures of
    each fold alone, without intervals.
    """
    config = pooled.config
    return {
        "command": command,
        "model": config.model,
        "number_format": pooled.number_format,
        "views": pooled.views,
        "split": config.split,
        "folds": config.folds,
        "folds_done": pooled.done,
        "training_labels": _training_labels(pooled),
        "threshold_rule": threshold,
        "thresholds": pooled.thresholds,
        "sets": {name: _measure_set(cells, pooled) for name, cells in pooled.predictions.sets().items()},
    }


def _training_labels(pooled: Pooled) -> str:
    """Which labels the models learned from, in words."""
    doubted, config = pooled.predictions.doubted, pooled.config
    if doubted is None:
        return "all labels"
    listed = f"{int(doubted.sum())} images {'' if len(pooled.done) == config.folds else 'of these folds '}"
    if config.exclude is None:
        return f"all labels, those of the {listed}whose label is doubted too"
    return f"all labels but those of the {listed}that {Path(config.exclude).name} lists"


def _measure_set(cells: Predictions, pooled: Pooled) -> dict[str, Any]:
    """Of one set of test labels: pooled, and by fold."""
    # Patients are resampled for a split by image too: their cells are no more independent there.
    together = evaluate_probabilities(
        cells.labels, cells.probabilities, cells.thresholds, cells.patients, seed=pooled.config.seed
    )
    by_fold = []
    for fold, threshold in zip(pooled.done, pooled.thresholds, strict=True):
        own = cells.select(cells.folds == fold)
        # One resample: a fold's intervals are not shown, the pooled ones are.
        alone = evaluate_probabilities(own.labels, own.probabilities, threshold, resamples=1)
        kept = {name: alone[name] for name in (*FIGURES, "precision", "confusion", "n", "threshold")}
        people = np.unique(own.patients)
        by_fold.append({"fold": fold, "patients": len(people) if (people >= 0).all() else None, **kept})
    return {**together, "folds": by_fold}


def write(folder: Path, pooled: Pooled, result: dict[str, Any]) -> None:
    """Leave predictions, JSON and table in the cross-validation's folder; raises FileAccessError."""
    pooled.predictions.write(folder / PREDICTIONS_FILE.format(pooled.suffix))
    text = json.dumps(result, indent=2, allow_nan=False)
    files.write_atomically(folder / JSON_FILE.format(pooled.suffix), [text.encode() + b"\n"])
    files.write_atomically(folder / TABLE_FILE.format(pooled.suffix), [table(result).encode() + b"\n"])


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    done, folds = result["folds_done"], result["folds"]
    chosen = (
        "the threshold that gets most of that fold's validation part right"
        if result["threshold_rule"] == "accuracy"
        else "the threshold that training stored in that model"
    )
    lines = [
        f"# {result['model']}: {folds}-fold cross-validation by {result['split']}",
        "",
        f"Trained on: {result['training_labels']}. Each cell is predicted by the model of the fold that did "
        f"not learn from {'its patient' if result['split'] == 'patient' else 'it'}, at {chosen}. "
        "The 95 % intervals resample patients.",
    ]
    if result["number_format"] != "float32":
        lines += ["", f"The models were trained in float32 and are measured in {result['number_format']}."]
    if result["views"] != 1:
        lines += ["", f"Each answer averages the logits over {result['views']} views of the cell."]
    if result["split"] == "image":
        lines += ["", "Optimistic: cells of one patient are in the training and in the test."]
    if len(done) < folds:
        lines += ["", f"Not complete: only {len(done)} of {folds} folds are done."]
    lines += ["", f"    {result['command']}"]
    for name, figures in result["sets"].items():
        lines += ["", *_set_table(SET_NAMES[name], figures)]
    return "\n".join([*lines, "", NOTICE])


def _set_table(name: str, figures: dict[str, Any]) -> list[str]:
    """Of one set of test labels, pooled and by fold."""
    half = figures["at_half"]
    people = "" if figures["patients"] is None else f" of {figures['patients']} patients"
    lines = [
        f"## Tested on: {name} ({figures['n']} cells{people})",
        "",
        "| | pooled | 95 % interval | at 0.5 | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for key in FIGURES:
        both = (text for at in (figures, half) for text in (number(at[key]), interval(at["intervals"][key])))
        lines.append(f"| {_title(key)} | {' | '.join(both)} |")
    counts = figures["confusion"]
    lines += [
        "",
        f"infected: {counts['tp']} found, {counts['fn']} missed; "
        f"uninfected: {counts['tn']} left alone, {counts['fp']} called infected",
    ]
    if figures["interval_method"] != "patient-bootstrap":
        lines.append(
            "The patients are not known: the intervals take cells as independent and are too narrow."
        )
    lines += [
        "",
        "| fold | patients | cells | threshold | " + " | ".join(map(_title, FIGURES)) + " |",
        "|---" * (4 + len(FIGURES)) + "|",
    ]
    for fold in figures["folds"]:
        start = f"| {fold['fold']} | {fold['patients'] or '-'} | {fold['n']} | {fold['threshold']:.3f} | "
        lines.append(start + " | ".join(number(fold[key]) for key in FIGURES) + " |")
    return lines


def _title(figure: str) -> str:
    return {"auc": "AUC", "f1": "F1"}.get(figure, figure)
