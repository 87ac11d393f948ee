"""What a stage of a run is shown: augmented cells, to autoencoders made worse, to students with teachers."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import tinynet
from tinynet.data.augment import STAINED, Augmentation
from tinynet.data.corruption import Corruption
from tinynet.distillation import Teaching, classes_of
from tinynet.errors import ArgumentError, DataError
from tinynet.losses import Loss, distillation, get_loss
from tinynet.network import Network
from tinynet.runs import data as run_data
from tinynet.runs.config import RunConfig
from tinynet.runs.data import RunData

if TYPE_CHECKING:
    from tinynet.models.recipes import Stage


class Shown:
    """What each stage of a run is shown, and the loss that goes with it.

    augmentation  of the cells alone, None for none
    """

    def __init__(self, config: RunConfig, stages: list[Stage]):
        self.config = config
        self.augmentation: Augmentation | None = None
        if config.augment:
            self.augmentation = STAINED if config.stain else Augmentation()
        if (config.denoise or config.hide) and not any(stage.reconstructs for stage in stages):
            option = "--denoise" if config.denoise else "--hide"
            raise ArgumentError(f"{option} is for an autoencoder: model {config.model} reconstructs nothing")
        self.teachers = [_teacher(name) for name in config.teachers]
        self.teaching: Teaching | None = None

    def gather(self, data: RunData) -> None:
        """Get the training cells at the teachers' sizes, too."""
        if not self.teachers:
            return
        own, by_size = data.of(data.training), {}
        for teacher in self.teachers:
            assert teacher.input_shape is not None
            size = teacher.input_shape[0]
            if size not in by_size:
                by_size[size] = own if own.shape[1] == size else _at_size(self.config, data, size)
        self.teaching = Teaching(
            self.teachers,
            [by_size[teacher.input_shape[0]] for teacher in self.teachers if teacher.input_shape],
            data.labels[data.training],
            float(self.config.teacher_temperature),
            self.augmentation,
            self.config.teacher_once,
        )

    def to(self, stage: Stage) -> Any:
        """The augmentation of a stage, as fit takes it."""
        config = self.config
        if stage.reconstructs:
            if config.denoise or config.hide:
                return Corruption(config.denoise, config.hide, augmentation=self.augmentation)
            return self.augmentation
        return self.augmentation if self.teaching is None else self.teaching

    def loss(self, stage: Stage) -> Loss:
        """The loss of a stage."""
        if stage.reconstructs or not self.teachers:
            return get_loss(stage.loss)
        return distillation(float(self.config.teacher_temperature), float(self.config.teacher_weight))

    def provenance(self, student: dict[str, Any]) -> dict[str, Any]:
        """What the student's file says of its teachers; says on standard error where one may have seen more.

        student: the provenance of the student
        """
        told = []
        for path, teacher in zip(self.config.teachers, self.teachers, strict=True):
            same = ("data", "split", "seed", "fold")
            if any(teacher.provenance.get(key) != student.get(key) for key in same):
                print(
                    f"teacher {path} was not trained on the same division of this data: where it has seen "
                    "patients of the validation or test part, the figures of its student flatter it",
                    file=sys.stderr,
                )
            told.append({"name": teacher.name, "command": teacher.provenance.get("command")})
        return {"teachers": told} if told else {}


def _teacher(name: str) -> Network:
    """The model of this file or name; raises ArgumentError unless it tells two classes of pictures apart."""
    model = tinynet.load(name)
    if not isinstance(model, Network):
        raise ArgumentError(f"--teacher {name}: wanted a model in float32 or float16, this is in int8")
    if not run_data.takes_square_pictures(model) or classes_of(model) != 2:
        raise ArgumentError(f"--teacher {name}: wanted a classifier of square RGB pictures in two classes")
    return model


def _at_size(config: RunConfig, data: RunData, size: int) -> np.ndarray:
    """The training part's pictures at another size."""
    again = run_data.load(replace(config, size=size), size, progress=False)
    if again.digest() != data.digest() or not np.array_equal(again.training, data.training):
        raise DataError(f"{data.source}: at {size} pixels, a teacher's size, other images can be read")
    return again.of(data.training)
