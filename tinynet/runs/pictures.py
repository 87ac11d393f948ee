"""The pictures a run leaves: what went in, how training went, what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinynet import plots
from tinynet.data.augment import Augmentation
from tinynet.errors import FileAccessError
from tinynet.model import Sequential
from tinynet.runs.data import RunData

CLASS_NAMES = ("uninfected", "infected")


def examples(data: RunData, seed: int) -> np.ndarray:
    """The training images from which those that are drawn are taken: at most 500, chosen by the seed."""
    count = min(500, len(data.training))
    return np.random.default_rng(seed).choice(data.training, size=count, replace=False)


def draw(
    folder: Path,
    model: Sequential,
    autoencoder: Sequential | None,
    data: RunData,
    histories: dict[str, dict[str, list[float]]],
    augmentation: Augmentation | None,
    result: dict[str, Any],
    seed: int,
) -> None:
    """Write the PNG files; raises MissingDependencyError without matplotlib.

    Of the training part only `examples` are looked at; what is drawn of the test needs one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FileAccessError(f"{folder}: {problem.strerror or problem}") from None
    shown = examples(data, seed)
    x, y = data.of(shown), data.labels[shown]
    plots.save_labelled_cells(x, y, folder / "cells.png", CLASS_NAMES, count=8, seed=seed)
    if augmentation is not None:
        few = np.random.default_rng(seed).choice(len(x), size=min(4, len(x)), replace=False)
        drawn = [augmentation(x[few], seed, epoch, few) for epoch in range(6)]
        plots.save_augmented(x[few], np.stack(drawn, axis=1), folder / "augmented.png")
    for stage, history in histories.items():
        plots.save_curves(history, folder / f"curves-{stage}.png")
    if "test" not in result:
        return
    test = data.of(data.test)
    if autoencoder is not None and autoencoder.preprocessing is not None:
        few = np.random.default_rng(seed).choice(len(test), size=min(8, len(test)), replace=False)
        originals = autoencoder.preprocessing.normalise(test[few])
        plots.save_reconstructions(originals, autoencoder.predict(test[few]), folder / "reconstructions.png")
    plots.save_confusion(result["test"]["confusion"], folder / "confusion.png", CLASS_NAMES)
    probabilities = model.predict(test)[:, 1]
    plots.save_roc(data.labels[data.test], probabilities, folder / "roc.png", model.threshold)
