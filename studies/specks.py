"""Specks and platelets taken for parasites: do more uninfected examples of the kind help?

    python -m studies.specks --data DIR [--exclude LIST] --out OUT

The report proposes to teach a model the difference between parasites and what looks like them.  Here the
uninfected cells that are taken for infected are found among the training patients, each by a model that
has not learned from its patient, and shown more often; once more as many uninfected cells at random, since
more of a class alone moves the threshold.  The test patients take no part in finding them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tinynet.models import classifier

import tinynet as tn
from studies import drawing
from studies.fitting import fit, one_cycle
from studies.folds import SETS
from studies.study import Findings, Settings, kept, signed, with_interval
from tinynet.comparison import compare
from tinynet.data import folds_by_patient
from tinynet.data.augment import Augmentation
from tinynet.operating_points import specificity_at_sensitivity
from tinynet.random import permutation
from tinynet.runs import predictions
from tinynet.runs.crossvalidation import best_threshold, fold_config
from tinynet.runs.data import RunData, load
from tinynet.runs.predictions import Predictions
from tinynet.texts import number

TITLE = "Specks and platelets"
SIZE, EPOCHS, INNER_FOLDS, COPIES = 32, 30, 3, 4
ARMS = {
    "plain": "as they are",
    "specks": f"false positives {COPIES} times more",
    "random": "as many uninfected at random",
}


@dataclass(frozen=True)
class Mistaken:
    """Uninfected training cells taken for infected by models that had not seen their patients.

    places       int (m,), of the data's cells
    uninfected   how many there are in the training part
    """

    places: np.ndarray
    uninfected: int


def run(settings: Settings, folder: Path, keep: Callable[[Findings], None]) -> Findings:
    """Fold by fold; what there is so far is kept."""
    found, tested = Findings(), {arm: [] for arm in ARMS}
    told: list[dict[str, int]] = []
    for fold in settings.tested():
        place = folder / f"fold-{fold}"
        place.mkdir(exist_ok=True)
        data = load(fold_config(settings.config("autoencoder"), fold), SIZE, progress=False)
        data.gather()
        mistaken = _mistaken(settings, place, data)
        told.append({"fold": fold, "mistaken": len(mistaken.places), "uninfected": mistaken.uninfected})
        for arm in ARMS:
            tested[arm].append(_arm(settings, place, data, arm, mistaken, fold))
        if fold == settings.tested()[0]:
            _gallery(folder, data, mistaken, settings.seed)
        pooled = {arm: predictions.join(parts) for arm, parts in tested.items()}
        found = _findings(pooled, told, settings, (folder / "mistaken.png").exists())
        keep(found)
    return found


def _mistaken(settings: Settings, folder: Path, data: RunData) -> Mistaken:
    """Cells that a model calls infected from 0.5 on; three models, each for a third of the patients."""
    training = data.training
    uninfected = training[data.labels[training] == 0]

    def find() -> list[str]:
        names: list[str] = []
        inner = folds_by_patient(
            data.labels[training], data.patients[training], INNER_FOLDS, seed=settings.seed
        )
        for count, part in enumerate(inner, start=1):
            held = training[part]
            model = _train(settings, folder, f"inner-{count}", data, np.setdiff1d(training, held))
            own = held[data.labels[held] == 0]
            said = model.predict(data.of(own))[:, 1] >= 0.5
            names += [data.names[place] for place in own[said]]
        return sorted(names)

    names = set(kept(folder / "mistaken.json", find))
    return Mistaken(
        np.array([place for place in uninfected.tolist() if data.names[place] in names], np.int64),
        len(uninfected),
    )


def _train(settings: Settings, folder: Path, name: str, data: RunData, training: np.ndarray) -> tn.Sequential:
    return fit(
        settings, folder, name, lambda: classifier(SIZE, seed=settings.seed), data, one_cycle,
        settings.epochs or settings.some(EPOCHS), Augmentation(), training=training,
    )[0]  # fmt: skip


def _arm(
    settings: Settings, folder: Path, data: RunData, arm: str, mistaken: Mistaken, fold: int
) -> Predictions:
    """What the model of an arm says of the test part, at the threshold best on validation."""
    path = folder / f"{arm}.csv"
    if path.exists():
        return predictions.read(path)
    training = data.training
    if arm != "plain":
        more = mistaken.places
        if arm == "random":
            own = training[data.labels[training] == 0]
            more = permutation(settings.seed, 0, own, "studies random uninfected")[: len(more)]
        training = np.concatenate([training, np.repeat(more, COPIES)])
    model = _train(settings, folder, arm, data, training)
    held = _said(data, data.validation, model, 0, 0.5)
    result = _said(data, data.test_with_excluded(), model, fold, best_threshold(held))
    result.write(path)
    return result


def _said(data: RunData, part: np.ndarray, model: tn.Sequential, fold: int, threshold: float) -> Predictions:
    return Predictions(
        [data.names[place] for place in part],
        data.patients[part],
        np.full(len(part), fold),
        data.labels[part],
        None if data.kept.all() else ~data.kept[part],
        model.predict(data.of(part))[:, 1].astype(np.float64),
        np.full(len(part), threshold),
    )


def _gallery(folder: Path, data: RunData, mistaken: Mistaken, seed: int) -> None:
    shown = permutation(seed, 0, mistaken.places, "studies mistaken")[:16]
    if not len(shown):
        return
    images = list(data.of(shown))
    lines = [images[at : at + 8] for at in range(0, len(images), 8)]
    drawing.rows(lines, [], [], folder / "mistaken.png")


def _findings(
    pooled: dict[str, Predictions], told: list[dict[str, int]], settings: Settings, pictured: bool
) -> Findings:
    found = Findings(values={"mistaken": told, "sets": {}})
    if pictured:
        found.picture(
            "", "mistaken.png", "Uninfected training cells taken for infected, of patients not learned from."
        )
    counts = "; ".join(f"fold {one['fold']}: {one['mistaken']} of {one['uninfected']:,}" for one in told)
    found.text(f"Uninfected training cells taken for infected out of fold: {counts}.")
    for label_set, plain in pooled["plain"].sets().items():
        rows, values = [], {}
        for arm, title in ARMS.items():
            cells = pooled[arm].sets()[label_set]
            point = specificity_at_sensitivity(
                cells.labels, cells.probabilities, 0.99, cells.patients, settings.seed
            )
            first, second = ((one.probabilities, one.thresholds) for one in (plain, cells))
            difference = compare(plain.labels, first, second, plain.patients, settings.seed)
            values[arm] = difference
            figures = difference["figures"]
            false = int(((cells.labels == 0) & (cells.probabilities >= cells.thresholds)).sum())
            line = [title, f"{false:,}"]
            for key in ("specificity", "sensitivity", "accuracy", "auc"):
                one = figures[key]
                told_here = number(one["second"])
                if arm != "plain":
                    told_here = f"{told_here}; {signed(one)}"
                line.append(told_here)
            line.append("-" if point is None else with_interval(point.value, point.interval))
            rows.append(line)
        found.values["sets"][label_set] = values
        between = compare(
            plain.labels,
            *(
                (c.probabilities, c.thresholds)
                for c in (pooled[a].sets()[label_set] for a in ("random", "specks"))
            ),
            plain.patients,
            settings.seed,
        )
        found.values["sets"][label_set]["specks against random"] = between
        people = len(np.unique(plain.patients))
        found.table(
            "",
            f"More uninfected cells of the kind taken for parasites: {SETS[label_set]}",
            [
                "training cells",
                "false positives",
                "specificity",
                "sensitivity",
                "accuracy",
                "AUC",
                "specificity at sensitivity 0.99 (95 %)",
            ],
            rows,
            f"{len(plain):,} cells of {people} unseen patients, the autoencoder's classifier without "
            "reconstruction, the threshold of each fold's validation part. After the semicolon the "
            "difference to the first line with its 95 % interval, a paired bootstrap over patients: where it "
            "holds 0, these patients do not show a difference. It does not say how far another start of the "
            "network would move the figures.",
            "Shown more often against random ones: specificity "
            f"{signed(between['figures']['specificity'])}, accuracy "
            f"{signed(between['figures']['accuracy'])}, AUC {signed(between['figures']['auc'])}.",
        )
    return found


if __name__ == "__main__":
    from studies.__main__ import alone

    raise SystemExit(alone("specks"))
