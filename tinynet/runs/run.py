"""Carrying out a recipe: its stages one after another, each resumable, then measuring and drawing."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet import files, kernels, metrics, storage
from tinynet.averaging import WeightAveraging
from tinynet.calibration import calibrate
from tinynet.callbacks import BackupAndRestore, Callback, CSVLogger, EarlyStopping
from tinynet.errors import ArgumentError, DataError, FileAccessError, MissingDependencyError, ModelFileError
from tinynet.kernels.blas import one_thread
from tinynet.model import Sequential
from tinynet.runs import data as run_data
from tinynet.runs import pictures
from tinynet.runs.config import FILE, RunConfig
from tinynet.runs.data import RunData
from tinynet.runs.lock import locked
from tinynet.runs.shown import Shown

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.models.recipes import Stage

MODEL_FILE = "model.safetensors"


def train(
    config: RunConfig, folder: Path, *, resume: bool = False, command: str = "", verbose: int = 1
) -> dict:
    """Train as `config` says and leave everything in `folder`; returns the metrics.

    folder/model.safetensors   the best model of the last stage, by validation loss; the last one where
                               nothing is kept apart to validate on (split "none")
    folder/metrics.json        test and validation metrics
    folder/history.csv         of the last stage; history-STAGE.csv of those before
    folder/checkpoints/        what resuming needs
    folder/plots/              what a person looks at
    folder/config.json         the arguments

    A folder that holds a run is not written over: raises ArgumentError unless `resume`.  Raises
    FolderInUseError while another process writes in it.
    """
    with locked(folder):
        return train_in(config, folder, resume=resume, command=command, verbose=verbose)


@one_thread()  # so that what is measured and chosen after the training has the same bits again, too
def train_in(config: RunConfig, folder: Path, *, resume: bool, command: str, verbose: int) -> dict:
    """What `train` does, for who has locked the folder."""
    from tinynet.models.recipes import RECIPES

    if config.model not in RECIPES:
        raise ArgumentError(f"--model must be one of {', '.join(RECIPES)}, got {config.model!r}")
    recipe = RECIPES[config.model]
    size = config.size or recipe.size
    if not resume and (folder / FILE).exists():
        raise ArgumentError(
            f"{folder} already holds a run: choose another --out, or go on with --resume {folder}"
        )
    stages = recipe.stages(size, config.epochs or recipe.epochs, config.seed, config.learning_rate)
    _try(stages)
    shown = Shown(config, stages)
    data = run_data.load(config, size, progress=bool(verbose))
    _check_parts(data, config.split)
    _prepare(folder, config, data, resume)
    data.gather()

    shown.gather(data)
    model: Sequential | None = None
    autoencoder: Sequential | None = None
    histories: dict[str, dict[str, list[float]]] = {}
    for number, stage in enumerate(stages, start=1):
        model = stage.build(model)
        model.freeze(*stage.frozen) if stage.frozen else None
        steps = stage.epochs * -(-len(data.training) // config.batch_size)
        model.compile(stage.optimizer(steps), shown.loss(stage))
        if verbose:
            print(f"stage {number}/{len(stages)}: {stage.name}, {stage.epochs} epochs", file=sys.stderr)
        last = stage is stages[-1]
        history_file = folder / ("history.csv" if last else f"history-{stage.name}.csv")
        validated = len(data.validation) > 0
        callbacks: list[Callback] = [
            *_kept_weights("best" if stage.reconstructs else config.keep, validated),
            CSVLogger(history_file),
            BackupAndRestore(folder / "checkpoints" / f"{stage.name}.safetensors"),
        ]
        with_labels, held = not stage.reconstructs, data.of(data.validation)
        measured = (held, data.labels[data.validation]) if with_labels else held
        history = model.fit(
            data.of(data.training),
            data.labels[data.training] if with_labels else None,
            validation_data=measured if validated else None,
            epochs=stage.epochs,
            batch_size=config.batch_size,
            augmentation=shown.to(stage),
            seed=config.seed,
            callbacks=callbacks,
            verbose=verbose,
        )
        kernels.release_memory()  # the next stage's arrays have other sizes
        del held, measured  # they are views of all pictures
        histories[stage.name] = history.history
        if stage.reconstructs:
            autoencoder = model
            model.provenance = _provenance(config, data, command)
            model.save(folder / f"{stage.name}.safetensors")
    assert model is not None
    model.provenance = _provenance(config, data, command)
    model.provenance |= shown.provenance(model.provenance)
    chosen = _calibrate(model, data, config) if len(data.validation) else {}
    result = measure(model, data, config) | chosen
    if "validation" in result:
        _warn_of_guessing(result["validation"])
    model.metrics = for_the_file(result)
    model.save(folder / MODEL_FILE)
    result["file_bytes"] = (folder / MODEL_FILE).stat().st_size
    _write_json(folder / "metrics.json", result)
    # matplotlib takes as much memory as most of the pictures, which nobody needs any more.
    kernels.release_memory()
    data.keep(np.concatenate([pictures.examples(data, config.seed), data.test]))
    try:
        pictures.draw(
            folder / "plots", model, autoencoder, data, histories, shown.augmentation, result, config.seed
        )
    except MissingDependencyError as problem:
        print(f"no plots: {problem}", file=sys.stderr)
        with contextlib.suppress(OSError):  # stays where an earlier run left pictures in it
            (folder / "plots").rmdir()
    return result


def _kept_weights(which: str, validated: bool) -> list[Callback]:
    """What leaves a training with the best epoch's weights, an average of epochs', or those of the last.

    Without a validation part the best epoch is not known: the last stands in for it.
    """
    if which == "best" and validated:
        return [EarlyStopping("val_loss", patience=None)]  # only restores the best
    return [WeightAveraging()] if which == "average" else []


def _calibrate(model: Sequential, data: RunData, config: RunConfig) -> dict[str, Any]:
    """Temperature and threshold as the configuration wants them chosen, on the validation part."""
    if not config.calibrate and config.min_sensitivity is None:
        return {}
    cells, labels = data.of(data.validation), data.labels[data.validation]
    choices: dict[str, Any] = {
        "temperature": config.calibrate, "min_sensitivity": config.min_sensitivity,
    }  # fmt: skip
    return {"calibrated": calibrate(model, cells, labels, **choices)}


def _warn_of_guessing(validation: dict[str, Any]) -> None:
    """Say so where the network learned nothing: its ranking of the validation cells is no better than chance.

    Four channels in the middle of the autoencoder can all end as rectifiers that never fire.
    """
    auc, interval = validation["auc"], validation["intervals"].get("auc")
    lowest = auc if interval is None else interval[0]
    if lowest is not None and lowest <= 0.5:
        print(
            f"the network has not learned to tell the classes apart (validation AUC {auc:.2f}): "
            "train longer, or with another --seed or --learning-rate",
            file=sys.stderr,
        )


def measure(model: Sequential, data: RunData, config: RunConfig) -> dict[str, Any]:
    """What the data was, and the metrics of its parts (`measure_parts`)."""
    result: dict[str, Any] = {
        "split": config.split,
        "images": {name: len(getattr(data, name)) for name in ("training", "validation", "test")},
        "excluded": int((~data.kept).sum()),
        "unreadable": data.unreadable,
        "parameters": sum(parameter.size for parameter in model.parameters().values()),
    }
    return result | measure_parts(model, data, config.split, config.seed)


def measure_parts(model: Sequential | Int8Model, data: RunData, split: str, seed: int) -> dict[str, Any]:
    """Metrics of the validation and test parts, at the model's threshold; none of a split "none".

    Where images were excluded and the split is by patient, or the test a fold, "test_all_labels" adds
    those of the test's patients, or fold, back: excluding suspicious labels flatters any model.
    """
    if split == "none":
        return {}
    parts = {"validation": data.validation, "test": data.test}
    if not data.kept.all() and (split == "patient" or data.held_out is not None):
        parts["test_all_labels"] = data.test_with_excluded()
    return {
        name: metrics.evaluate_probabilities(
            data.labels[part],
            model.predict(data.of(part))[:, -1],
            model.threshold,
            data.patients[part] if split == "patient" else None,
            seed=seed,
        )
        for name, part in parts.items()
    }


def _try(stages: list[Stage]) -> None:
    """Build every stage's model once, so that an impossible size is refused before anything is written."""
    model: Sequential | None = None
    for stage in stages:
        model = stage.build(model)
        model.compile(stage.optimizer(stage.epochs), stage.loss)


def _check_parts(data: RunData, split: str) -> None:
    for name in ("training",) if split == "none" else ("training", "validation", "test"):
        if len(getattr(data, name)) == 0:
            raise DataError(f"{data.source}: too few images, the {name} part is empty")


def _prepare(folder: Path, config: RunConfig, data: RunData, resume: bool) -> None:
    """Fill the run's folder, or see that a run to be resumed has the same data."""
    path = folder / "data.json"
    for place in (folder, folder / "checkpoints"):
        files.remove_temporaries(place)
    found = {"digest": data.digest(), "images": len(data.names), "source": data.source}
    if resume and path.exists():
        before = _read_object(path)
        if before.get("digest") != found["digest"]:
            raise ModelFileError(
                f"{folder}: the data has changed since this run began ({before.get('images')} images then, "
                f"{found['images']} now); resume with the same data, or start anew in another folder"
            )
        return
    try:
        (folder / "checkpoints").mkdir(exist_ok=True)
    except OSError as problem:
        raise FileAccessError(
            f"{folder}: cannot make the run's folder: {problem.strerror or problem}"
        ) from None
    _write_json(path, found)
    config.save(folder)


def data_digest(folder: Path) -> str:
    """The digest of the data that a run in this folder has; raises FileAccessError or ModelFileError."""
    digest = _read_object(folder / "data.json").get("digest")
    if not isinstance(digest, str):
        raise ModelFileError(f"{folder / 'data.json'}: there is no digest of the data in it")
    return digest


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises FileAccessError or ModelFileError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise FileAccessError(f"{path}: {problem.strerror or problem}") from None
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path}: not valid JSON") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: not a JSON object")
    return value


def _provenance(config: RunConfig, data: RunData, command: str) -> dict[str, Any]:
    fold = {} if config.fold is None else {"fold": [config.fold, config.folds]}
    return {
        "command": command,
        **fold,
        "data": data.digest(),
        "split": config.split,
        "seed": config.seed,
        "excluded": int((~data.kept).sum()),
        "trained": storage.now(),
        "images": [len(data.training), len(data.validation), len(data.test)],
    }


def for_the_file(result: dict[str, Any]) -> dict[str, Any]:
    """The few figures a model file carries: of the test part, rounded, with intervals.

    Where images were excluded and it was measured, also of the test's patients with all their labels.
    """
    carried: dict[str, Any] = {}
    for part in ("test", "test_all_labels"):
        if part not in result:
            continue
        measured = result[part]
        carried[part] = kept = {key: measured[key] for key in ("n", "patients")}
        for key in ("accuracy", "sensitivity", "specificity", "auc"):
            value, interval = measured[key], measured["intervals"].get(key)
            kept[key] = None if value is None else [round(v, 4) for v in (value, *(interval or ()))]
    return carried


def _write_json(path: Path, value: Any) -> None:
    files.write_atomically(path, [json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"])
