"""The report's autoencoder: reconstruction, the classifier on frozen features, the classifier unfrozen.

    python -m studies.autoencoder --data DIR [--exclude LIST] --out OUT

Tables 4, 5 and 6, Figures 3 to 6; the error beside the mean image's and that of 64 principal components;
a picture of the latent space.  On one fold by patient, the first that is tested on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tinynet.models import autoencoder, classifier, encoder_layers
from tinynet.models.autoencoder import take_encoder
from tinynet.models.recipes import ENCODER

import tinynet as tn
from studies import drawing, published
from studies.components import Components, principal_components
from studies.fitting import AT_BEST, History, as_the_report, at_best, best_cells, fit, one_cycle
from studies.folds import data_of
from studies.study import Findings, Settings, kept, with_interval
from tinynet import plots
from tinynet.data.augment import TABLE_2, Augmentation
from tinynet.data.corruption import Corruption
from tinynet.errors import MissingDependencyError
from tinynet.features import FeatureClassifier, features
from tinynet.metrics import evaluate_probabilities, patient_numbers
from tinynet.random import permutation
from tinynet.resampling import Resampling, percentiles
from tinynet.runs.data import RunData
from tinynet.texts import number

TITLE = "The autoencoder"
SIZE, COMPONENTS = 32, 64  # 64 numbers is what the encoder leaves of a cell: 4 x 4 x 4
CLASSIFIER_EPOCHS = 50
NOISE = 0.1  # of full scale, for the denoising objective


@dataclass(frozen=True)
class Trained:
    """A classifier and how its training went."""

    name: str
    model: tn.Sequential
    history: History


def run(settings: Settings, folder: Path, keep: Callable[[Findings], None]) -> Findings:
    """Reconstruct, then classify; what is there so far is kept after each part."""
    found, data = Findings(), data_of(settings, SIZE)
    found.listing("Figures 3 and 4", "The architecture", autoencoder(SIZE).summary(print_fn=None))
    encoders = _reconstruction(found, settings, folder, data)
    keep(found)
    _latent(found, folder, data, encoders["plain"])
    keep(found)
    _classifiers(found, settings, folder, data, encoders)
    return found


def _reconstruction(
    found: Findings, settings: Settings, folder: Path, data: RunData
) -> dict[str, tn.Sequential]:
    """Table 4, Figure 5 and the comparison with the mean image and principal components."""
    epochs = settings.some(settings.reconstruction_epochs)
    objectives = {"plain": TABLE_2, "denoising": Corruption(noise=NOISE, augmentation=TABLE_2)}
    models, histories = {}, {}
    for name, augmentation in objectives.items():
        models[name], histories[name] = fit(
            settings, folder, f"reconstruction-{name}", lambda: autoencoder(SIZE, seed=settings.seed), data,
            lambda _: tn.RMSprop(1e-3), epochs, augmentation, reconstruct=True,
        )  # fmt: skip
    errors = kept(folder / "errors.json", lambda: _errors(folder, data, models, settings.seed))
    best = {name: at_best(history) for name, history in histories.items()}
    found.values["reconstruction"] = {"epochs": epochs, "best": best, "errors": errors}
    rows = [["the report", "32 x 32", *published.TABLE_4]]
    rows += [
        [f"ours, {name}", "32 x 32", number(best[name]["loss"], 5), number(best[name]["val_loss"], 5)]
        for name in objectives
    ]
    scale = errors["mean image"]["error"]
    kept_epochs = ", ".join(f"{name} {one['epoch']}" for name, one in best.items())
    larger = float(published.TABLE_4[1]) > scale
    found.table(
        "Table 4",
        f"Reconstruction after {epochs} epochs",
        ["", "image size", "train loss", "validation loss"],
        rows,
        "Ours is the mean squared error of colours from 0 to 1, at the epoch with the least validation loss "
        f"({kept_epochs}); RMSprop at 1e-3, the report's "
        "augmentation. The denoising one is shown cells with noise of a tenth of full scale and is to give "
        "them without; its validation cells have none.",
        "The report does not say on which scale its loss is. As a mean squared error of colours from 0 to "
        f"1 its 0.071 would be {'more' if larger else 'less'} than the error of showing the mean image for "
        f"every cell, {number(scale, 5)}.",
    )
    lines = [
        [
            name,
            str(one["numbers"]),
            with_interval(one["error"], one["interval"], 5),
            number(one["per_cent"], 2),
        ]
        for name, one in errors.items()
    ]
    found.table(
        "",
        f"Reconstruction error on {len(data.test):,} cells of unseen patients",
        ["", "numbers kept of a cell", "mean squared error (95 %)", "root of it, % of full scale"],
        lines,
        "All learned from the same training cells; principal components by singular value decomposition. "
        "Intervals resample patients.",
    )
    plots.save_curves(histories["plain"], folder / "reconstruction-curves.png")
    found.picture("", "reconstruction-curves.png", "Reconstruction: loss by epoch.")
    _figure_5(found, folder, data, models["plain"], settings.seed)
    return models


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _components(folder: Path, data: RunData) -> Components:
    """Of the training cells; kept as an array file."""
    path = folder / "components.npz"
    if not path.exists():
        made = principal_components(_flat(data.of(data.training)), COMPONENTS)
        unfinished = path.with_name("components.unfinished.npz")
        np.savez(unfinished, mean=made.mean, axes=made.axes, shares=made.shares)
        unfinished.replace(path)
    with np.load(path) as arrays:
        return Components(arrays["mean"], arrays["axes"], arrays["shares"])


def _errors(folder: Path, data: RunData, models: dict[str, tn.Sequential], seed: int) -> dict[str, Any]:
    """The mean squared error on the test cells, of each way to reconstruct them."""
    images = data.of(data.test)
    x = _flat(images) / 255.0
    components = _components(folder, data)
    guesses: dict[str, tuple[int, np.ndarray]] = {
        "mean image": (0, np.broadcast_to(components.mean, x.shape)),
        f"{COMPONENTS} principal components": (COMPONENTS, components.reconstruct(x)),
    }
    kept_numbers = int(np.prod(models["plain"].layer("pool3").output_shape((SIZE // 4, SIZE // 4, 4))))
    for name, model in models.items():
        guesses[f"autoencoder, {name}"] = (kept_numbers, _flat(model.predict(images)).astype(np.float64))
    unit = patient_numbers(data.patients[data.test], len(data.test))
    draws = Resampling(np.arange(len(x)) if unit is None else unit, seed, 1000)
    result = {}
    for name, (count, guess) in guesses.items():
        each = np.square(guess - x).mean(axis=1)
        error = float(each.mean())
        interval = percentiles(draws.mean(each), error)
        result[name] = {
            "numbers": count, "error": error, "interval": interval, "per_cent": 100 * error**0.5,
        }  # fmt: skip
    return result


def _figure_5(found: Findings, folder: Path, data: RunData, model: tn.Sequential, seed: int) -> None:
    shown = permutation(seed, 0, data.test, "studies reconstructions")[:8]
    images = data.of(shown)
    components = _components(folder, data)
    by_components = components.reconstruct(_flat(images) / 255.0).reshape(images.shape)
    mean = np.broadcast_to(components.mean.reshape(images.shape[1:]), images.shape)
    pictures = [list(images), list(np.clip(model.predict(images), 0, 1)), list(by_components), list(mean)]
    names = ["cell", "autoencoder", f"{COMPONENTS} components", "mean image"]
    drawing.rows(pictures, names, [], folder / "reconstructions.png")
    found.picture("Figure 5", "reconstructions.png", "Cells of unseen patients and what becomes of them.")


def _encoder(source: tn.Sequential) -> tn.Sequential:
    """The encoder alone: cells -> (n, 4, 4, 4)."""
    encoder = tn.Sequential(encoder_layers(), (SIZE, SIZE, 3), name="encoder")
    take_encoder(encoder, source)
    return encoder


def _latent(found: Findings, folder: Path, data: RunData, model: tn.Sequential) -> None:
    """The test cells along the two principal axes of what the encoder makes of the training cells."""
    encoder = _encoder(model)
    maps = encoder.predict(data.of(data.training))
    alive = int((maps.reshape(-1, maps.shape[-1]).std(axis=0) > 1e-6).sum())
    axes = principal_components(_flat(maps).astype(np.float64), 2)
    places = axes.project(_flat(encoder.predict(data.of(data.test))).astype(np.float64))
    drawing.latent(places, data.labels[data.test], axes.shares.tolist(), folder / "latent.png")
    found.values["latent"] = {
        "channels_alive": alive,
        "channels": maps.shape[-1],
        "shares": axes.shares.tolist(),
    }
    found.picture(
        "",
        "latent.png",
        f"The latent space: cells of unseen patients along its two principal axes. {alive} of the "
        f"encoder's {maps.shape[-1]} channels are ever active.",
    )


def _classifiers(
    found: Findings, settings: Settings, folder: Path, data: RunData, encoders: dict[str, tn.Sequential]
) -> None:
    """Tables 5 and 6, Figure 6."""
    epochs = settings.epochs or settings.some(CLASSIFIER_EPOCHS)
    recipes = (
        ("as the report: SGD", "sgd", "plain", as_the_report),
        ("AdamW, one cycle", "adamw", "plain", one_cycle),
        ("AdamW, one cycle, denoising encoder", "adamw-denoising", "denoising", one_cycle),
    )
    frozen, whole = [], []
    for name, key, encoder, optimizer in recipes:

        def with_encoder(source: tn.Sequential = encoders[encoder]) -> tn.Sequential:
            model = classifier(SIZE, seed=settings.seed)
            take_encoder(model, source)
            model.freeze(*ENCODER)
            return model

        first = fit(settings, folder, f"frozen-{key}", with_encoder, data, optimizer, epochs, Augmentation())
        frozen.append(Trained(name, *first))

        def unfrozen(source: tn.Sequential = first[0]) -> tn.Sequential:
            model = classifier(SIZE, seed=settings.seed)
            model.load_state(source.state())
            return model

        second = fit(settings, folder, f"unfrozen-{key}", unfrozen, data, optimizer, epochs, Augmentation())
        whole.append(Trained(name, *second))
    scratch = fit(
        settings, folder, "from-scratch", lambda: classifier(SIZE, seed=settings.seed), data, one_cycle,
        epochs, Augmentation(),
    )  # fmt: skip
    whole.append(Trained("AdamW, one cycle, no reconstruction before", *scratch))
    people = len(np.unique(data.patients[data.test]))
    note = (
        f"{epochs} epochs; figures of the epoch with the least validation loss, training ones as they were "
        f"during it, on augmented cells. Test: {len(data.test):,} cells of {people} unseen patients, "
        "threshold 0.5."
    )
    header = ["", *AT_BEST, "test accuracy (95 %)"]
    majority, known = _majority(data)
    found.values["majority"] = majority
    rows, found.values["frozen"] = _rows(frozen, data, settings.seed)
    classical = _classical(settings, folder, data, encoders)
    held = {name: one["best"]["val_accuracy"] for name, one in found.values["frozen"].items()}
    held |= {name: one["validation"] for name, one in classical.items()}
    best = max(held, key=lambda name: held[name])
    found.values["classical"] = classical
    rows += [
        [
            f"ours, {name}",
            "-",
            "-",
            number(one["validation"]),
            "-",
            with_interval(one["test"], one["interval"]),
        ]
        for name, one in classical.items()
    ]
    found.table(
        "Table 5",
        "The classifier on the encoder's frozen features",
        header,
        [["the report", *published.TABLE_5, "-"], known, *rows],
        note,
        f"The highest validation accuracy, {number(held[best])}, is of: {best}. "
        "The majority class is the training part's, its loss that of always giving that part's share.",
        "Nearest neighbours and the support-vector machine learn from the same numbers of unaugmented cells "
        "(tinynet/features.py)."
        if classical
        else "Without scikit-learn, no classical classifiers.",
    )
    rows, found.values["unfrozen"] = _rows(whole, data, settings.seed)
    found.table(
        "Table 6",
        "The classifier, the encoder unfrozen",
        header,
        [["the report", *published.TABLE_6, "-"], *rows],
        note,
    )
    curves = {a.name: (a.history, b.history) for a, b in zip(frozen[:2], whole[:2], strict=True)}
    drawing.two_stages(curves, folder / "classifier-curves.png")
    found.picture(
        "Figure 6",
        "classifier-curves.png",
        f"Training the classifier for {2 * epochs} epochs: the first {epochs} on frozen features.",
    )


def _classical(
    settings: Settings, folder: Path, data: RunData, encoders: dict[str, tn.Sequential]
) -> dict[str, Any]:
    """Classical classifiers on what the encoders say; none without scikit-learn."""
    kinds = {"knn": "15 nearest neighbours", "svm": "linear support-vector machine"}

    def measure(encoder: str, kind: str, layers: list[str]) -> dict[str, Any]:
        said = {
            name: features(encoders[encoder], data.of(getattr(data, name)), layers)
            for name in ("training", "validation", "test")
        }
        learned = FeatureClassifier(kind).fit(said["training"], data.labels[data.training])
        held, test = (
            evaluate_probabilities(
                data.labels[getattr(data, name)],
                learned.predict(said[name]),
                patients=data.patients[getattr(data, name)],
                seed=settings.seed,
            )
            for name in ("validation", "test")
        )
        return {
            "validation": held["accuracy"],
            "test": test["accuracy"],
            "interval": test["intervals"]["accuracy"],
        }

    found = {}
    for encoder in encoders:
        for kind, title in kinds.items():
            for layers in (["pool3"], ["pool2", "pool3"]):
                name = f"{title}, {encoder} encoder, {' and '.join(layers)}"
                path = folder / f"{kind}-{encoder}-{'-'.join(layers)}.json"
                try:
                    found[name] = kept(path, partial(measure, encoder, kind, layers))
                except MissingDependencyError:
                    return {}
    return found


def _majority(data: RunData) -> tuple[dict[str, Any], list[str]]:
    """What answering the same for every cell gives: the figures, and their line of Table 5."""
    share = float(data.labels[data.training].mean())
    answer, values = int(share >= 0.5), {}
    for name in ("training", "validation", "test"):
        own = data.labels[getattr(data, name)]
        losses = np.where(own == 1, -np.log(share), -np.log(1 - share))
        values[name] = {"accuracy": float((own == answer).mean()), "loss": float(losses.mean())}
    parts = [values[name][key] for name in ("training", "validation") for key in ("accuracy", "loss")]
    return values, ["the majority class", *map(number, parts), number(values["test"]["accuracy"])]


def _rows(trained: list[Trained], data: RunData, seed: int) -> tuple[list[list[str]], dict[str, Any]]:
    """Lines of Table 5 or 6, and their figures."""
    lines, values = [], {}
    for one in trained:
        best = at_best(one.history)
        test = evaluate_probabilities(
            data.labels[data.test],
            one.model.predict(data.of(data.test))[:, 1],
            patients=data.patients[data.test],
            seed=seed,
        )
        values[one.name] = {"best": best, "test": test}
        tested = with_interval(test["accuracy"], test["intervals"]["accuracy"])
        lines.append([f"ours, {one.name}", *best_cells(best), tested])
    return lines, values


if __name__ == "__main__":
    from studies.__main__ import alone

    raise SystemExit(alone("autoencoder"))
