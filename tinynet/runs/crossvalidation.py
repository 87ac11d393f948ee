"""Cross-validation: a run a fold of one fixed division, and the predictions for what each did not see.

Every cell is in the test part of exactly one run, so that all cells are measured, each by a model that
saw neither it nor, divided by patient, any cell of its patient.  docs/protocol.md explains the choices.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinynet.data.folder import read_list
from tinynet.errors import ArgumentError, ModelFileError
from tinynet.loading import load
from tinynet.model import Sequential
from tinynet.runs import data as run_data
from tinynet.runs import predictions
from tinynet.runs.config import FILE, RunConfig
from tinynet.runs.lock import locked
from tinynet.runs.predictions import Predictions
from tinynet.runs.quantization import FORMATS, quantize
from tinynet.runs.run import MODEL_FILE, data_digest, train_in
from tinynet.views import CHOICES

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model

VALIDATION_FILE, TEST_FILE = "validation{}.csv", "test{}.csv"
THRESHOLDS = ("accuracy", "model")


@dataclass(frozen=True, eq=False)
class Pooled:
    """Out-of-fold predictions of the folds that are done, each with its fold's threshold.

    done        the folds, of config.folds
    thresholds  the threshold of each of them
    number_format  of the weights of the models that predicted
    views       over how many their logits were averaged, 1 or 8
    """

    config: RunConfig
    predictions: Predictions
    done: list[int]
    thresholds: list[float]
    number_format: str = "float32"
    views: int = 1

    @property
    def suffix(self) -> str:
        """What tells its files from those measured otherwise: "", "-int8", "-8views", "-int8-8views", ..."""
        return _suffix(self.number_format, self.views)


def fold_config(config: RunConfig, fold: int) -> RunConfig:
    """The run of one fold.  Its seed is its own, so that no start of a network recurs in another fold."""
    return replace(config, fold=fold, seed=config.seed * config.folds + fold - 1)


def cross_validate(
    config: RunConfig,
    folder: Path,
    fold: int | None = None,
    *,
    doubted: str | None = None,
    threshold: str = "accuracy",
    number_format: str = "float32",
    views: int = 1,
    command: Callable[[RunConfig], str] = lambda _: "",
    verbose: int = 1,
) -> Pooled:
    """Train and test on every fold, or on one of them, and pool the predictions of all that are done.

    config      of the runs, without a fold
    folder      of the cross-validation: folder/fold-K is the run of fold K, with its predictions for the
                validation and the test part beside the model.  Folds that are done are not done again,
                and one that was interrupted goes on where it was
    doubted     a list of images whose label is doubted, to mark in the predictions: they are learned
                from.  Those that config.exclude names are marked without it, and not learned from
    threshold   chosen on each fold's validation part: "accuracy", the one that gets most of its cells
                right; "model", the one that the run stored in its model file
    number_format  "int8" or "float16": what is measured are the trained models with their weights in it,
                calibrated on their own training part; they stay beside the trained ones
    views       8: what is measured, on the validation part too, are the models' logits averaged over
                eight views (tinynet.views), at the temperature that each model has
    command     what makes a run, as its model file tells

    Several processes may do different folds in one folder at the same time.

    Raises what `train` raises, and ArgumentError where the folder has folds of another configuration.
    """
    if threshold not in THRESHOLDS:
        raise ArgumentError(f"--threshold must be {' or '.join(THRESHOLDS)}, got {threshold!r}")
    if number_format not in ("float32", *FORMATS):
        raise ArgumentError(f"--quantize must be one of {', '.join(FORMATS)}, got {number_format!r:.40}")
    if views not in CHOICES:
        raise ArgumentError(f"--views must be 1 or 8, got {views!r:.40}")
    listed = None if doubted is None else read_list(doubted)  # refused now, not after an hour
    suffix = _suffix(number_format, views)
    validation_file, test_file = (name.format(suffix) for name in (VALIDATION_FILE, TEST_FILE))
    wanted = range(1, config.folds + 1) if fold is None else [fold]
    runs = {number: fold_config(config, number) for number in range(1, config.folds + 1)}
    for number in runs:
        _require_same(folder / f"fold-{number}", runs[number])
    for number in wanted:
        run, place = runs[number], folder / f"fold-{number}"
        if (place / test_file).exists():
            continue
        with locked(place):  # other folds may be under way in other processes
            if not (place / TEST_FILE.format("")).exists():
                if verbose:
                    print(f"fold {number} of {config.folds}", file=sys.stderr)
                resume = (place / FILE).exists()
                train_in(run, place, resume=resume, command=command(run), verbose=verbose)
                _predict(run, place, load(place / MODEL_FILE), "", 1)
            if not (place / test_file).exists():
                _predict(run, place, _in_format(run, place, number_format), suffix, views)
    done = [number for number in runs if (folder / f"fold-{number}" / test_file).exists()]
    _require_same_data([folder / f"fold-{number}" for number in done])
    tested, cuts = [], []
    for number in done:
        held = predictions.read(folder / f"fold-{number}" / validation_file)
        test = predictions.read(folder / f"fold-{number}" / test_file)
        cuts.append(best_threshold(held) if threshold == "accuracy" else float(held.thresholds[0]))
        tested.append(replace(test, thresholds=np.full(len(test), cuts[-1])))
    pooled = predictions.join(tested)
    if listed is not None:
        pooled = pooled.doubt(listed)
    return Pooled(config, pooled, done, cuts, number_format, views)


def best_threshold(cells: Predictions) -> float:
    """The threshold that gets most of these cells right; of several the one closest to one half.

    Candidates are the middles between neighbouring probabilities, one half, and all or nothing.
    """
    infected, values = cells.labels == 1, np.unique(cells.probabilities)
    candidates = np.unique(np.concatenate([[0.0, 0.5, 1.0], (values[1:] + values[:-1]) / 2]))
    # Missed are the infected cells below a candidate, left alone the uninfected ones below it.
    missed = np.searchsorted(np.sort(cells.probabilities[infected]), candidates)
    left_alone = np.searchsorted(np.sort(cells.probabilities[~infected]), candidates)
    right = infected.sum() - missed + left_alone
    best = candidates[right == right.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _suffix(number_format: str, views: int) -> str:
    named = "" if number_format == "float32" else f"-{number_format}"
    return named if views == 1 else f"{named}-{views}views"


def _in_format(run: RunConfig, folder: Path, number_format: str) -> Sequential | Int8Model:
    """The run's model in a number format; in another than its own it is left in the run's folder too."""
    assert run.data is not None
    name, target = folder / MODEL_FILE, folder / f"model-{number_format}.safetensors"
    if number_format == "float32":
        return load(name)
    if (folder / TEST_FILE.format(_suffix(number_format, 1))).exists() and target.exists():
        return load(target)  # measured before, with one view
    model = load(name)
    assert isinstance(model, Sequential)
    made = quantize(model, str(name), number_format, run.data, run.exclude).model
    made.save(target)
    return made


def _predict(run: RunConfig, folder: Path, model: Sequential | Int8Model, suffix: str, views: int) -> None:
    """Write what a run's model says of its validation part, and of its test part with the excluded."""
    assert model.input_shape is not None
    data = run_data.load(run, model.input_shape[0], progress=False)
    # The test's last: that it is there says that the fold is done.
    for name, part in ((VALIDATION_FILE, data.validation), (TEST_FILE, data.test_with_excluded())):
        fold = run.fold if name == TEST_FILE else 0
        Predictions(
            [data.names[place] for place in part],
            data.patients[part],
            np.full(len(part), fold),
            data.labels[part],
            None if run.exclude is None else ~data.kept[part],
            model.predict(data.of(part), views=views)[:, -1].astype(np.float64),
            np.full(len(part), model.threshold),
        ).write(folder / name.format(suffix))


def _require_same(folder: Path, run: RunConfig) -> None:
    """Raise ArgumentError if the folder holds a run of another configuration; data may have moved."""
    if not (folder / FILE).exists():
        return
    before = RunConfig.load(folder)
    for name, now, then in _differences(run, before):
        option = name.replace("_", "-")
        raise ArgumentError(
            f"{folder} was made with --{option} {then}, not {now}: "
            "give the same options to go on, or another --out"
        )


def _differences(run: RunConfig, before: RunConfig) -> Iterator[tuple[str, object, object]]:
    for field in dataclasses.fields(RunConfig):
        now, then = getattr(run, field.name), getattr(before, field.name)
        if field.name == "data":  # may have moved; what it holds is compared
            continue
        if field.name == "exclude":
            now, then = ("none" if value is None else "a list" for value in (now, then))
        if now != then:
            yield field.name, now, then


def _require_same_data(folders: list[Path]) -> None:
    """Raise ModelFileError unless all these folds were made of the same images, labels and exclusions."""
    digests = {data_digest(folder): folder for folder in folders}
    if len(digests) > 1:
        one, other = list(digests.values())[:2]
        raise ModelFileError(
            f"{one} and {other} were made of different data or exclusion lists: start anew in another --out"
        )
