"""Models trained on folds of the one division, shared by the studies: each is trained once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tinynet as tn
from studies.study import Settings
from tinynet.cli.train import command_of
from tinynet.runs import RunConfig, pooled
from tinynet.runs.crossvalidation import Pooled, cross_validate
from tinynet.runs.data import RunData, load
from tinynet.runs.run import MODEL_FILE

THRESHOLD = "accuracy"  # chosen on each fold's validation part
SETS = {"suspicious_removed": "suspicious removed", "all_labels": "all labels"}


def place_of(settings: Settings, config: RunConfig) -> Path:
    """The folder of a cross-validation."""
    size = "" if config.size is None else f"-{config.size}px"
    epochs = "" if config.epochs is None else f"-{config.epochs}-epochs"
    split = "" if config.split == "patient" else f"-by-{config.split}"
    return settings.out / "folds" / f"{config.model}{size}{epochs}{split}"


def cross_validated(settings: Settings, config: RunConfig) -> Pooled:
    """The folds that are tested on, trained where they were not yet, and their pooled predictions.

    Others that are there, of an earlier call or of `tinynet crossvalidate`, are left out.
    """
    folder, found = place_of(settings, config), None
    for fold in settings.tested():
        found = cross_validate(
            config, folder, fold, threshold=THRESHOLD, command=command_of, verbose=settings.verbose
        )
    assert found is not None
    wanted = [k for k, fold in enumerate(found.done) if fold in settings.tested()]
    return replace(
        found,
        predictions=found.predictions.select(np.isin(found.predictions.folds, settings.tested())),
        done=[found.done[k] for k in wanted],
        thresholds=[found.thresholds[k] for k in wanted],
    )


def measured(found: Pooled) -> dict[str, Any]:
    """The pooled figures by set of test labels, as runs.pooled has them."""
    return pooled.measure(found, command_of(found.config), THRESHOLD)


def fold_folder(settings: Settings, config: RunConfig, fold: int) -> Path:
    """The run of one fold."""
    return place_of(settings, config) / f"fold-{fold}"


def model_of(settings: Settings, config: RunConfig, fold: int) -> tn.Sequential:
    """The model that a fold's run left."""
    model = tn.load(fold_folder(settings, config, fold) / MODEL_FILE)
    assert isinstance(model, tn.Sequential)
    return model


def data_of(settings: Settings, size: int) -> RunData:
    """The cells at a size, divided for the first fold that is tested on."""
    config = settings.config("autoencoder", fold=settings.tested()[0])
    data = load(config, size, progress=False)
    data.gather()
    return data


def who(figures: dict[str, Any]) -> str:
    """ "3,853 cells of 32 patients"."""
    people = figures["patients"]
    return f"{figures['n']:,} cells" + ("" if people is None else f" of {people} patients")
