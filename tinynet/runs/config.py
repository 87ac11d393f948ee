"""What a run was asked to do: written to its folder, read back when it is resumed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinynet import files
from tinynet.arguments import names, number
from tinynet.data.splits import MAX_FOLDS
from tinynet.errors import ArgumentError, FileAccessError, ModelFileError

FILE = "config.json"
SPLITS = ("patient", "image", "none")


@dataclass(frozen=True)
class RunConfig:
    """The arguments of `tinynet train`.

    model          the recipe's name
    data           the folder of cell images, None for synthetic cells
    exclude        a list of images to leave out, or None
    split          "patient" (no patient in two parts), "image" (optimistic) or "none": all cells
                   are trained on, for all of the epochs, and nothing is measured
    epochs         of the last stage; None: the recipe's
    size           height and width of the model's input; None: the recipe's
    learning_rate  the highest of the last stage; None: the recipe's
    augment        whether every epoch shows each cell turned, mirrored, shifted, ... anew
    stain          whether in other colours, too
    calibrate      whether a temperature is chosen on the validation part
    min_sensitivity  the threshold is chosen there, for at least this sensitivity; None: it is 0.5
    denoise        noise in what an autoencoder is shown and is to take away, a share of full scale
    hide           share of the squares of an image that are hidden from it and that it is to fill in
    teachers       model files to learn from, besides the labels
    teacher_temperature, teacher_weight  of the distillation (tinynet/distillation.py)
    teacher_once   whether teachers see each cell once, as it is, or each epoch as the student does
    keep           which weights a classifier's training leaves: those of the "best" epoch by validation
                   loss, of the "last", or an "average" of the epochs towards the end
    synthetic      how many synthetic cells to draw where there is no data folder
    fold           test on this fold, 1 to `folds`, of the one division into folds; None: on a part that
                   the seed draws
    """

    model: str = "autoencoder"
    data: str | None = None
    exclude: str | None = None
    split: str = "patient"
    epochs: int | None = None
    batch_size: int = 128
    size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    augment: bool = True
    stain: bool = False
    calibrate: bool = False
    min_sensitivity: float | None = None
    denoise: float = 0.0
    hide: float = 0.0
    teachers: tuple[str, ...] = ()
    teacher_temperature: float = 2.0
    teacher_weight: float = 0.5
    teacher_once: bool = False
    keep: str = "best"
    synthetic: int = 4000
    fold: int | None = None
    folds: int = 5

    def __post_init__(self) -> None:
        for name, optional in (("model", False), ("data", True), ("exclude", True)):
            value = getattr(self, name)
            if not isinstance(value, str) and not (optional and value is None):
                raise ArgumentError(f"{_option(name)} must be a text, got {value!r}")
        for name in ("augment", "stain", "calibrate", "teacher_once"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.stain and not self.augment:
            raise ArgumentError("--stain-augmentation contradicts --no-augmentation")
        _choice("split", self.split, SPLITS)
        if self.split == "none":
            for name, wanted in (
                ("--calibrate", self.calibrate), ("--min-sensitivity", self.min_sensitivity is not None),
                ("--fold", self.fold is not None),
            ):  # fmt: skip
                if wanted:
                    raise ArgumentError(f"--split none keeps no cells apart, and {name} needs some")
        _choice("keep", self.keep, ("best", "last", "average"))
        number("--denoise", self.denoise, 0.0, 1.0)
        number("--hide", self.hide, 0.0, 0.9)
        number("--teacher-temperature", self.teacher_temperature, 0.05, 100.0)
        number("--teacher-weight", self.teacher_weight, 0.0, 1.0)
        object.__setattr__(self, "teachers", tuple(names("--teacher", list(self.teachers))))
        for name in ("epochs", "batch_size", "size", "synthetic", "fold", "folds"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(f"{_option(name)} must be a whole number of at least 1, got {value!r}")
        if self.folds is None or not 2 <= self.folds <= MAX_FOLDS:
            raise ArgumentError(f"--folds must be a whole number from 2 to {MAX_FOLDS}, got {self.folds!r}")
        if self.fold is not None and self.fold > self.folds:
            raise ArgumentError(f"--fold must be a whole number from 1 to {self.folds}, got {self.fold}")
        if self.fold is not None and self.data is None:
            raise ArgumentError("--fold needs a folder of cells: give --data DIR")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ArgumentError(f"--seed must be a whole number from 0 to 2**63 - 1, got {self.seed!r}")
        rate = self.learning_rate
        real = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate is not None and not (real and 0 < rate <= sys.float_info.max):  # not NaN, not infinite
            raise ArgumentError(f"--learning-rate must be a number above 0, got {rate!r}")
        if self.min_sensitivity is not None:
            number("--min-sensitivity", self.min_sensitivity, 0.0, 1.0)
        if self.size is not None and not 16 <= self.size <= 512:
            raise ArgumentError(f"--size must lie between 16 and 512 pixels, got {self.size}")

    def save(self, folder: Path) -> None:
        """Write it to the run's folder; paths absolute, since a run may be resumed from elsewhere."""
        values = asdict(self)
        for name in ("data", "exclude"):
            values[name] = None if values[name] is None else os.path.abspath(values[name])
        values["teachers"] = [_kept_path(teacher) for teacher in self.teachers]
        text = json.dumps(values, indent=2, sort_keys=True)
        files.write_atomically(folder / FILE, [text.encode() + b"\n"])

    @classmethod
    def load(cls, folder: Path) -> RunConfig:
        """Read it from a run's folder; raises FileAccessError where there is none."""
        path = folder / FILE
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileAccessError(f"{folder}: not a run folder, it has no {FILE}") from None
        except OSError as problem:
            raise FileAccessError(f"{path}: {problem.strerror or problem}") from None
        except (ValueError, RecursionError):
            raise ModelFileError(f"{path}: not valid JSON") from None
        if not isinstance(values, dict) or set(values) - set(cls.__dataclass_fields__):
            raise ModelFileError(f"{path}: not the configuration of a run of this version")
        try:
            return cls(**values)
        except ArgumentError as problem:
            raise ModelFileError(f"{path}: {problem}") from None


def _kept_path(model: str) -> str:
    """A model file's path, absolute; the name of a shipped model as it is."""
    return os.path.abspath(model) if os.path.isfile(model) else model


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(
            f"{_option(name)} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {value!r}"
        )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
