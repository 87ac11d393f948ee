"""How each model is trained: stages, each with its loss, optimiser and number of epochs.

`tinynet train --model NAME` follows the recipe of that name; `tinynet.runs` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinynet.models.autoencoder import autoencoder, classifier, take_encoder
from tinynet.models.cells_10k import cells_10k
from tinynet.models.cells_70k import cells_70k
from tinynet.models.small_cnn import small_cnn

import tinynet as tn
from tinynet.losses import Loss, sparse_categorical_crossentropy
from tinynet.optim import Optimizer

ENCODER = ("encoder1", "encoder2", "encoder3")


@dataclass(frozen=True)
class Stage:
    """One call of fit.

    build      makes the model from the one that the stage before left (None for the first)
    optimizer  makes the optimiser, given how many steps the stage has
    frozen     layers that are kept as they are
    """

    name: str
    build: Callable[[tn.Sequential | None], tn.Sequential]
    optimizer: Callable[[int], Optimizer]
    loss: str | Loss
    epochs: int
    frozen: tuple[str, ...] = ()

    @property
    def reconstructs(self) -> bool:
        """Whether the model's target is its input."""
        return self.loss == "mse"


@dataclass(frozen=True)
class Recipe:
    """A model's stages, given the image size, the epochs of the last stage, and the seed."""

    name: str
    size: int
    epochs: int
    stages: Callable[[int, int, int, float | None], list[Stage]]


def _one_cycle(maximum: float, decay: float = 0.01) -> Callable[[int], Optimizer]:
    """AdamW under a one-cycle schedule; the report used SGD for its classifier."""
    return lambda steps: tn.AdamW(tn.OneCycle(maximum, max(steps, 2)), weight_decay=decay)


def _autoencoder_stages(size: int, epochs: int, seed: int, rate: float | None) -> list[Stage]:
    """Reconstruction as in the report; then the classifier, first on frozen features, then whole."""

    def with_encoder(source: tn.Sequential | None) -> tn.Sequential:
        model = classifier(size, seed=seed)
        if source is not None:
            take_encoder(model, source)
        return model

    def unfrozen(source: tn.Sequential | None) -> tn.Sequential:
        assert source is not None
        source.unfreeze()
        return source

    crossentropy = "sparse_categorical_crossentropy"
    return [
        Stage(
            "reconstruction",
            lambda _: autoencoder(size, seed=seed),
            lambda steps: tn.RMSprop(1e-3),
            "mse",
            max(1, epochs // 2),
        ),
        Stage("frozen", with_encoder, _one_cycle(5e-3), crossentropy, max(1, epochs // 8), ENCODER),
        Stage("classifier", unfrozen, _one_cycle(rate or 5e-3), crossentropy, epochs),
    ]


def _small_cnn_stages(size: int, epochs: int, seed: int, rate: float | None) -> list[Stage]:
    return [
        Stage(
            "classifier",
            lambda _: small_cnn(size, seed=seed),
            _one_cycle(rate or 2e-3),
            "sparse_categorical_crossentropy",
            epochs,
        )
    ]


def _smoothed(build: Callable[..., tn.Sequential]) -> Callable[..., list[Stage]]:
    """One stage, its targets smoothed: a share of these labels is known to be wrong."""

    def stages(size: int, epochs: int, seed: int, rate: float | None) -> list[Stage]:
        return [
            Stage(
                "classifier",
                lambda _: build(size, seed=seed),
                _one_cycle(rate or 1e-2, decay=0.05),
                sparse_categorical_crossentropy(smoothing=0.05),
                epochs,
            )
        ]

    return stages


RECIPES = {
    "autoencoder": Recipe("autoencoder", 32, 40, _autoencoder_stages),
    "small-cnn": Recipe("small-cnn", 64, 12, _small_cnn_stages),
    "cells-70k": Recipe("cells-70k", 64, 20, _smoothed(cells_70k)),
    "cells-10k": Recipe("cells-10k", 64, 30, _smoothed(cells_10k)),
}
