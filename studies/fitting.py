"""A training that goes on where it was stopped, and is not done again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinynet as tn
from studies.study import Settings, read_json, write_json
from tinynet import kernels
from tinynet.callbacks import BackupAndRestore, EarlyStopping
from tinynet.optim import Optimizer
from tinynet.runs.data import RunData
from tinynet.texts import number

CROSSENTROPY = "sparse_categorical_crossentropy"
History = dict[str, list[float]]

# What tables tell of a classifier's best epoch: the columns, and what a history calls them.
AT_BEST = {
    "train accuracy": "accuracy",
    "train loss": "loss",
    "validation accuracy": "val_accuracy",
    "validation loss": "val_loss",
}


def one_cycle(steps: int) -> Optimizer:
    """As the recipe of `tinynet train --model autoencoder`."""
    return tn.AdamW(tn.OneCycle(5e-3, max(steps, 2)), weight_decay=0.01)


def as_the_report(_: int) -> Optimizer:
    """Section 4.3.2: SGD, learning rate 1e-3, momentum 0.9."""
    return tn.SGD(1e-3, momentum=0.9)


def fit(
    settings: Settings,
    folder: Path,
    name: str,
    build: Callable[[], tn.Sequential],
    data: RunData,
    optimizer: Callable[[int], Optimizer],
    epochs: int,
    augmentation: Any,
    *,
    reconstruct: bool = False,
    training: np.ndarray | None = None,
) -> tuple[tn.Sequential, History]:
    """The model with the weights of its best epoch by validation loss, and its history by epoch.

    build      makes the model, its frozen layers frozen
    optimizer  made of the number of steps
    training   the images learned from, of which some may be there several times; by default data.training

    folder/NAME.safetensors and folder/NAME.json keep them; where both are there nothing is trained.
    """
    target, told = folder / f"{name}.safetensors", folder / f"{name}.json"
    if told.exists() and target.exists():
        model = tn.load(target)
        assert isinstance(model, tn.Sequential)
        return model, read_json(told)
    model = build()
    chosen = data.training if training is None else training
    batch = settings.config("autoencoder").batch_size
    model.compile(optimizer(epochs * -(-len(chosen) // batch)), "mse" if reconstruct else CROSSENTROPY)
    held, labels = data.of(data.validation), data.labels[data.validation]
    if settings.verbose:
        print(f"{name}: {epochs} epochs", file=sys.stderr)
    history = model.fit(
        data.of(chosen),
        None if reconstruct else data.labels[chosen],
        validation_data=held if reconstruct else (held, labels),
        epochs=epochs,
        batch_size=batch,
        augmentation=augmentation,
        seed=settings.seed,
        callbacks=[
            EarlyStopping("val_loss", patience=None),  # only restores the best
            BackupAndRestore(folder / f"{name}.checkpoint.safetensors"),
        ],
        verbose=settings.verbose,
    ).history
    kernels.release_memory()
    model.unfreeze()
    model.save(target)
    write_json(told, history)
    return model, history


def at_best(history: History) -> dict[str, float]:
    """Every figure of the epoch with the lowest validation loss, whose weights are kept."""
    best = int(np.argmin(history["val_loss"]))
    return {name: values[best] for name, values in history.items()} | {"epoch": best + 1}


def best_cells(best: dict[str, float]) -> list[str]:
    """What stands under AT_BEST's columns, of figures that `at_best` gave."""
    return [number(best[name]) for name in AT_BEST.values()]
