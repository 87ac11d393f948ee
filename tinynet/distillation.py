"""A student learns from larger teachers: their probabilities tell more of a cell than its label does.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015, arXiv:1503.02531).  The loss
is `losses.distillation`.  Teacher and student see the same cell turned, shifted and stained the same way, in
every epoch anew: Beyer et al., "Knowledge distillation: a good teacher is patient and consistent" (2022,
arXiv:2106.05237), compare this with teachers who see each image once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinynet.arguments import number
from tinynet.errors import ArgumentError, ShapeError
from tinynet.network import Network

BATCH = 256
Augment = Callable[[np.ndarray, int, int, np.ndarray], np.ndarray]


@dataclass
class Teaching:
    """An augmentation for `fit` that makes the targets of a distillation, too.

    teachers      classifiers, for softmax or sigmoid; their probabilities are averaged
    pictures      for each teacher the training images as uint8 (n, h, w, c) of its own size, in fit's order
    labels        (n,) classes, or 0 and 1
    temperature   that softens the teachers' logits, which their own temperature has divided first
    augmentation  of the student's images, and with the same draws of the teachers'; None: none
    once          whether teachers see each image once, as it is, instead of as the student sees it
    """

    teachers: Sequence[Network] = field(repr=False)
    pictures: Sequence[np.ndarray] = field(repr=False)
    labels: np.ndarray = field(repr=False)
    temperature: float = 2.0
    augmentation: Augment | None = None
    once: bool = False
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        number("distillation: temperature", self.temperature, 0.05, 100.0)
        self.classes = {classes_of(teacher) for teacher in self.teachers}
        if len(self.classes) != 1:
            raise ArgumentError(f"distillation: wanted teachers of the same classes, got {self.classes}")
        if len(self.pictures) != len(self.teachers):
            raise ShapeError("distillation: wanted images for each teacher")
        for teacher, pictures in zip(self.teachers, self.pictures, strict=True):
            if pictures.shape != (len(self.labels), *(teacher.input_shape or ())):
                raise ShapeError(
                    f"distillation: teacher {teacher.name!r} wants {len(self.labels)} images "
                    f"{teacher.input_shape}, got {pictures.shape}"
                )
        # What resuming compares: other teachers teach something else.
        self.names = [f"{teacher.name} {_digest(teacher):08x}" for teacher in self.teachers]
        self._known: np.ndarray | None = None

    def __call__(
        self, images: np.ndarray, seed: int, epoch: int, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images as the student sees them, and float32 (n, 2 K): unit vectors, then probabilities."""
        shown = images if self.augmentation is None else self.augmentation(images, seed, epoch, indices)
        if self.once or self.augmentation is None:
            if self._known is None:
                self._known = self._soft(self.pictures)
            soft = self._known[indices]
        else:
            seen = [
                shown
                if pictures.shape[1:] == shown.shape[1:]
                else self.augmentation(pictures[indices], seed, epoch, indices)
                for pictures in self.pictures
            ]
            soft = self._soft(seen)
        hard = np.zeros_like(soft)
        hard[np.arange(len(soft)), self.labels[indices]] = 1.0
        return shown, np.concatenate([hard, soft], axis=1)

    def _soft(self, seen: Sequence[np.ndarray]) -> np.ndarray:
        """The teachers' mean softmax(logits / temperature), float32 (n, K)."""
        total: Any = 0.0
        for teacher, images in zip(self.teachers, seen, strict=True):
            parts = range(0, len(images), BATCH)
            logits = np.concatenate([teacher.logits(images[at : at + BATCH]) for at in parts])
            if logits.shape[1] == 1:
                logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
            scaled = logits / np.float32(teacher.temperature * self.temperature)
            powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            total = total + powers / powers.sum(axis=1, keepdims=True)
        return (total / len(self.teachers)).astype(np.float32)


def classes_of(teacher: Network) -> int:
    """How many classes a model tells apart; raises ArgumentError unless it is a classifier of images."""
    ending, outputs = teacher.ending(), teacher.output_shape
    if ending == "softmax" and outputs is not None and len(outputs) == 1:
        return outputs[0]
    if ending == "sigmoid" and outputs == (1,):
        return 2
    raise ArgumentError(f"distillation: {teacher.name!r} is no teacher, it does not end in classes")


def _digest(teacher: Network) -> int:
    found = 0
    for name, array in sorted(teacher.state().items()):
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(name.encode(), found))
    return found
