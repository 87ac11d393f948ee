"""What a run was asked to do: written to its folder, read back when it is resumed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinynet import files
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
    synthetic      how many synthetic cells to draw where there is no data folder
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
    synthetic: int = 4000

    def __post_init__(self) -> None:
        for name, optional in (("model", False), ("data", True), ("exclude", True)):
            value = getattr(self, name)
            if not isinstance(value, str) and not (optional and value is None):
                raise ArgumentError(f"{_option(name)} must be a text, got {value!r}")
        if not isinstance(self.augment, bool):
            raise ArgumentError(f"augment must be true or false, got {self.augment!r}")
        _choice("split", self.split, SPLITS)
        for name in ("epochs", "batch_size", "size", "synthetic"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(f"{_option(name)} must be a whole number of at least 1, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ArgumentError(f"--seed must be a whole number from 0 to 2**63 - 1, got {self.seed!r}")
        rate = self.learning_rate
        number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate is not None and not (number and 0 < rate <= sys.float_info.max):  # not NaN, not infinite
            raise ArgumentError(f"--learning-rate must be a number above 0, got {rate!r}")
        if self.size is not None and not 16 <= self.size <= 512:
            raise ArgumentError(f"--size must lie between 16 and 512 pixels, got {self.size}")

    def save(self, folder: Path) -> None:
        """Write it to the run's folder; paths absolute, since a run may be resumed from elsewhere."""
        values = asdict(self)
        for name in ("data", "exclude"):
            values[name] = None if values[name] is None else os.path.abspath(values[name])
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


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(f"{_option(name)} must be one of {', '.join(allowed)}, got {value!r}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
