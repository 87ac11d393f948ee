"""The post's small CNN: trained, its curves, four sample predictions, saved, and loaded elsewhere.

    python -m studies.small_cnn --data DIR [--exclude LIST] --out OUT

Also the report's Table 3, training results of convolutional networks, with room for its larger ones.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinynet as tn
from studies import drawing, published
from studies.fitting import AT_BEST, History, at_best, best_cells
from studies.folds import SETS, cross_validated, data_of, fold_folder, measured, model_of, who
from studies.study import Findings, Settings, with_interval
from tinynet import plots
from tinynet.errors import DataError
from tinynet.random import permutation
from tinynet.runs import RunConfig
from tinynet.runs.run import MODEL_FILE

TITLE = "The small CNN"
SAMPLES = 4

# What another process does: load the file, predict, and say what the file holds.
_ELSEWHERE = """
import json, sys
import numpy as np
import tinynet
model = tinynet.load(sys.argv[1])
print(json.dumps({
    "probabilities": model.predict(np.load(sys.argv[2])).tolist(),
    "layers": len(model.layers),
    "parameters": sum(parameter.size for parameter in model.parameters().values()),
    "input": list(model.input_shape),
    "classes": list(model.class_names),
    "provenance": model.provenance,
}))
"""


def config_of(settings: Settings) -> RunConfig:
    """The run of the recipe that these studies train; the evaluation measures the same."""
    return settings.config("small-cnn", epochs=settings.epochs or (1 if settings.quick else None))


def run(settings: Settings, folder: Path, keep: Callable[[Findings], None]) -> Findings:
    """Train the folds, then look at the first of them."""
    config = config_of(settings)
    figures = measured(cross_validated(settings, config))["sets"]
    fold = settings.tested()[0]
    place = fold_folder(settings, config, fold)
    history, model = read_history(place / "history.csv"), model_of(settings, config, fold)
    found = Findings(values={"sets": figures, "best": at_best(history)})
    found.listing("", "The architecture", model.summary(print_fn=None))
    _table_3(found, settings, figures)
    plots.save_curves(history, folder / "curves.png")
    found.picture("", "curves.png", f"The small CNN's training, fold {fold}: loss and accuracy by epoch.")
    keep(found)
    _samples(found, settings, folder, model)
    _elsewhere(found, folder, model, place / MODEL_FILE)
    return found


def _table_3(found: Findings, settings: Settings, figures: dict[str, Any]) -> None:
    best = found.values["best"]
    header = ["", *AT_BEST, "unseen patients (95 %)"]
    rows = [[f"the report: {name}", *values, "-"] for name, *values in published.TABLE_3]
    rows += [[f"ours: {name}", "-", "-", "-", "-", "-"] for name, *_ in published.TABLE_3]
    label_set, tested = next(iter(figures.items()))
    rows.append(["the post: small CNN", "-", "-", published.POST_VALIDATION_ACCURACY, "-", "-"])
    accuracy = with_interval(tested["accuracy"], tested["intervals"]["accuracy"])
    rows.append(["ours: small CNN", *best_cells(best), accuracy])
    found.table(
        "Table 3",
        "Training results of convolutional networks",
        header,
        rows,
        f"Ours of fold {settings.tested()[0]}, at epoch {best['epoch']}, that of the least validation loss; "
        f"the last column of {who(tested)}, folds {', '.join(map(str, settings.tested()))} of "
        f"{settings.of_folds} pooled, {SETS[label_set]}. The report's and the post's validation cells are of "
        "patients who are in the training too. The report's networks are larger and come later; their lines "
        "are empty.",
    )


def read_history(path: Path) -> History:
    """By epoch, from a run's CSV file; raises DataError where it has no epoch."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise DataError(f"{path} tells of no epoch")
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def _samples(found: Findings, settings: Settings, folder: Path, model: tn.Sequential) -> None:
    """Four cells of unseen patients, with what is said of them."""
    assert model.input_shape is not None
    data = data_of(settings, model.input_shape[0])
    chosen = permutation(settings.seed, 0, data.test, "studies samples")[:SAMPLES]
    images, labels = data.of(chosen), data.labels[chosen]
    answers = model.predict(images)
    names = ("uninfected", "infected")
    above = [
        f"{names[int(label)]}\nsaid: {names[int(answer[1] >= model.threshold)]}\n"
        f"[{answer[0]:.4f}, {answer[1]:.4f}]"
        for label, answer in zip(labels, answers, strict=True)
    ]
    drawing.rows([list(images)], [""], above, folder / "samples.png")
    found.values["samples"] = [
        {"label": int(label), "probabilities": answer.tolist()}
        for label, answer in zip(labels, answers, strict=True)
    ]
    found.picture(
        "",
        "samples.png",
        "Four cells of unseen patients drawn at random: their label, the answer, and the probabilities of "
        "uninfected and infected.",
    )
    np.save(folder / "samples.npy", images)


def _elsewhere(found: Findings, folder: Path, model: tn.Sequential, path: Path) -> None:
    """Load the saved model in another process, and compare."""
    root = str(Path(tn.__file__).parent.parent)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(path), str(folder / "samples.npy")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise DataError(f"{path} could not be loaded in another process: {done.stderr.strip()[-500:]}")
    there = json.loads(done.stdout)
    here = model.predict(np.load(folder / "samples.npy"))
    difference = float(np.abs(here - np.array(there["probabilities"])).max())
    found.values["elsewhere"] = {**there, "difference": difference, "file_bytes": path.stat().st_size}
    found.text(
        f"The model file ({path.stat().st_size:,} bytes) holds architecture, weights and training "
        f"configuration. Another process loaded it: {there['layers']} layers, {there['parameters']:,} "
        f"parameters, input {' x '.join(map(str, there['input']))}; its probabilities for the four cells "
        f"differ from this one's by at most {difference:.2g}. Optimiser, schedule and their state are in the "
        "run's checkpoint, from which `tinynet train --resume` goes on."
    )
    found.listing("", "The training configuration in the file", json.dumps(there["provenance"], indent=2))


if __name__ == "__main__":
    from studies.__main__ import alone

    raise SystemExit(alone("small-cnn"))
