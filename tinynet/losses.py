"""Losses by name, with what a training loop has to know about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet import functions as F
from tinynet.arguments import number
from tinynet.errors import ArgumentError
from tinynet.tensor import Tensor, no_grad


@dataclass(frozen=True)
class Loss:
    """A loss as `compile` takes it.

    name          as Keras calls it
    function      (output, target) -> scalar Tensor, the mean over images
    ending        the final activation the model must have, which the loss takes on itself; None: any
    smoothing     the share of a class target that goes to all classes alike
    """

    name: str
    function: Callable[..., Tensor]
    ending: str | None = None
    smoothing: float = 0.0

    @property
    def wants_logits(self) -> bool:
        """Whether the model's last activation is left to the loss (and labels are classes)."""
        return self.ending is not None

    @property
    def wants_images(self) -> bool:
        """Whether the target is a batch like the input: reconstruction."""
        return self.ending is None

    def __call__(self, output: Tensor, target: Any) -> Tensor:
        if self.smoothing:
            return self.function(output, target, smoothing=self.smoothing)
        return self.function(output, target)

    def config(self) -> str | dict[str, Any]:
        """The name, with the smoothing where there is some, as JSON can hold it, for `loss_from_config`."""
        return {"name": self.name, "smoothing": self.smoothing} if self.smoothing else self.name

    def check_labels(self, labels: np.ndarray, outputs: tuple[int, ...]) -> None:
        """Raise ArgumentError or ShapeError unless every label is one for a model with these outputs.

        The loss itself judges them, on outputs of zero.
        """
        for at in range(0, len(labels), 4096):
            part = labels[at : at + 4096]
            with no_grad():
                value = self(Tensor(np.zeros((len(part), *outputs), np.float32)), part).item()
            if not np.isfinite(value):
                raise ArgumentError(f"loss {self.name!r}: the labels hold NaN or infinity")

    def check(self, activation: str | None) -> None:
        """Raise ArgumentError unless a model that ends in `activation` can be trained with this loss."""
        if self.ending is not None and activation != self.ending:
            raise ArgumentError(
                f"loss {self.name!r} wants a model whose last layer ends in {self.ending}, "
                f"this one ends in {activation or 'no activation'}"
            )

    def right(self, logits: np.ndarray, labels: Any) -> int:
        """How many of the images are classified as labelled."""
        labels = np.asarray(labels)
        if self.ending == "sigmoid":
            return int(((logits >= 0).reshape(labels.shape) == (labels >= 0.5)).sum())
        classes = labels.argmax(axis=1) if labels.ndim == 2 else labels
        return int((logits.argmax(axis=1) == classes).sum())


@dataclass(frozen=True)
class Distillation(Loss):
    """Softmax cross-entropy against classes, mixed with a teacher's probabilities where the target has them.

    Targets are integer classes (n,), or (n, 2 K): unit vectors of the K classes, then the teacher's
    probabilities at this temperature (tinynet.distillation makes them).  So training is with the teacher,
    and validation, with classes alone, is the cross-entropy of other losses.
    """

    temperature: float = 2.0
    weight: float = 0.5

    def __call__(self, output: Tensor, target: Any) -> Tensor:
        classes, target = output.shape[-1], np.asarray(target)
        if target.shape != (len(target), 2 * classes):
            return self.function(output, target)
        return F.distillation(
            output, target[:, :classes], target[:, classes:], temperature=self.temperature, weight=self.weight
        )

    def right(self, logits: np.ndarray, labels: Any) -> int:
        labels = np.asarray(labels)
        return super().right(logits, labels[:, : logits.shape[1]] if labels.ndim == 2 else labels)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "temperature": self.temperature, "weight": self.weight}


def distillation(temperature: float = 2.0, weight: float = 0.5) -> Distillation:
    """The loss of a student: `weight` of it against a teacher's probabilities at this temperature."""
    number("distillation: temperature", temperature, 0.05, 100.0)
    number("distillation: weight", weight, 0.0, 1.0)
    return Distillation("distillation", F.softmax_cross_entropy, "softmax", 0.0, temperature, weight)


def sparse_categorical_crossentropy(smoothing: float = 0.0) -> Loss:
    """Softmax cross-entropy against integer classes, with label smoothing if asked for."""
    if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
        raise ArgumentError(f"smoothing must be at least 0 and below 1, got {smoothing!r}")
    return Loss("sparse_categorical_crossentropy", F.softmax_cross_entropy, "softmax", smoothing)


LOSSES = {
    "mse": Loss("mse", F.mean_squared_error),
    "mean_squared_error": Loss("mse", F.mean_squared_error),
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy(),
    "categorical_crossentropy": Loss("categorical_crossentropy", F.softmax_cross_entropy, "softmax"),
    "binary_crossentropy": Loss("binary_crossentropy", F.binary_cross_entropy, "sigmoid"),
}


def get_loss(loss: str | Loss) -> Loss:
    """The loss of this name; raises ArgumentError for another."""
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ArgumentError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    return LOSSES[loss]


def loss_from_config(config: Any) -> Loss:
    """The loss that `config()` described; raises ArgumentError."""
    if not isinstance(config, dict):
        return get_loss(config)
    if set(config) == {"name", "temperature", "weight"} and config["name"] == "distillation":
        return distillation(config["temperature"], config["weight"])
    if set(config) != {"name", "smoothing"} or config["name"] != "sparse_categorical_crossentropy":
        raise ArgumentError(f"loss: got {config!r:.80}, wanted a name, or one with its settings")
    return sparse_categorical_crossentropy(config["smoothing"])
