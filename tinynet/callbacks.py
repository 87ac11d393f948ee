"""What is done at the end of every epoch, in Keras's words: stop early, keep the best, log, checkpoint."""

from __future__ import annotations

import csv
import io
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tinynet import files, kernels, storage
from tinynet.errors import ArgumentError, FileAccessError, ModelFileError, TinynetError
from tinynet.kernels import blas
from tinynet.kernels.threads import processors
from tinynet.network import Network
from tinynet.optim import Optimizer

Arrays = dict[str, np.ndarray]
# What sets the threads of the libraries that multiply matrices for NumPy, where they cannot be asked; else
# they take every processor.
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")

Checkpoint = tuple[Arrays, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """Of the epoch that Ctrl-C interrupted: steps done, sums over their images, the rate it began with."""

    steps: int
    loss: float
    right: int
    rate: float


@dataclass
class Training:
    """A training under way, as callbacks see it.

    history  metrics by name, one number an epoch
    epoch    epochs finished
    stop     set it to end the training after this epoch
    part     what is done of the next epoch, where Ctrl-C interrupted it
    """

    model: Network
    optimizer: Optimizer
    settings: dict[str, Any]
    history: dict[str, list[float]] = field(default_factory=dict)
    epoch: int = 0
    stop: bool = False
    part: Part | None = None


class Callback:
    """Subclass and override what is needed.  `state` and `load_state` let a resumed training go on."""

    def on_train_begin(self, training: Training) -> None:
        """Before the first epoch, and before anything is restored: forget an earlier training."""

    def on_epoch_begin(self, training: Training) -> None:
        """Before each epoch; `training.epoch` is its number, from 0."""

    def on_epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        """After each epoch; `logs` holds its metrics, which are in training.history too."""

    def on_interrupt(self, training: Training) -> None:
        """After Ctrl-C, between two steps; then `fit` raises KeyboardInterrupt."""

    def on_train_end(self, training: Training) -> None:
        """After the last epoch, early or not."""

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """What to remember across an interruption: arrays, and JSON-able values."""
        return {}, {}

    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        """Take back what `state` returned."""


class Best:
    """The best value of a metric so far: the lowest of losses, the highest of anything else."""

    def __init__(self, monitor: str, min_delta: float = 0.0, mode: str = "auto"):
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(f'mode must be "auto", "min" or "max", got {mode!r}')
        if not min_delta >= 0:
            raise ArgumentError(f"min_delta must be at least 0, got {min_delta!r}")
        self.monitor, self.min_delta = monitor, min_delta
        self.sign = -1.0 if mode == "min" or (mode == "auto" and "loss" in monitor) else 1.0
        self.value: float | None = None

    def improves(self, logs: dict[str, float]) -> bool:
        """Whether this epoch is the best so far (then it is remembered)."""
        if self.monitor not in logs:
            raise ArgumentError(f"monitor {self.monitor!r} is not measured here; there are {', '.join(logs)}")
        value = logs[self.monitor]
        if math.isnan(value):
            return False
        if self.value is not None and not self.sign * (value - self.value) > self.min_delta:
            return False
        self.value = value
        return True


class EarlyStopping(Callback):
    """Stop when the monitored metric has not improved for `patience` epochs; the best weights come back.

    They come back however the training ends, by patience or by the number of epochs.  A patience of 0
    is one of 1, as in Keras.  With patience None it never stops, and only restores.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int | None = 10,
        min_delta: float = 0.0,
        mode: str = "auto",
    ):
        if patience is not None and (
            isinstance(patience, bool) or not isinstance(patience, int) or patience < 0
        ):
            raise ArgumentError(
                f"EarlyStopping: patience must be a whole number of at least 0, got {patience!r}"
            )
        self.patience, self.best = patience, Best(monitor, min_delta, mode)
        self.waited, self.best_epoch = 0, 0
        self.weights: Arrays = {}

    def on_train_begin(self, training: Training) -> None:
        self.best.value, self.waited, self.best_epoch, self.weights = None, 0, 0, {}

    def on_epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        if self.best.improves(logs):
            self.waited, self.best_epoch = 0, training.epoch
            self.weights = {name: array.copy() for name, array in training.model.state().items()}
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            training.stop = True

    def on_train_end(self, training: Training) -> None:
        if self.weights:
            training.model.load_state(self.weights)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        return self.weights, {"best": self.best.value, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        self.weights = dict(arrays)
        self.best.value, self.best_epoch, self.waited = values["best"], values["best_epoch"], values["waited"]


class ModelCheckpoint(Callback):
    """Write the model file after each epoch, or only when the monitored metric is the best so far."""

    def __init__(
        self,
        path: str | PathLike,
        monitor: str = "val_loss",
        save_best_only: bool = True,
        mode: str = "auto",
    ):
        self.path, self.save_best_only = Path(path), save_best_only
        self.best = Best(monitor, 0.0, mode)

    def on_train_begin(self, training: Training) -> None:
        self.best.value = None

    def on_epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        if not self.save_best_only or self.best.improves(logs):
            storage.save(training.model, self.path)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        return {}, {"best": self.best.value}

    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        self.best.value = values["best"]


class CSVLogger(Callback):
    """Write the history as a CSV file after each epoch: the epoch's number and one column a metric."""

    def __init__(self, path: str | PathLike):
        self.path = Path(path)

    def on_epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *training.history])
        for number, values in enumerate(zip(*training.history.values(), strict=True), start=1):
            writer.writerow([number, *[f"{value:.9g}" for value in values]])
        files.write_atomically(self.path, [text.getvalue().encode()])


class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch to schedule(epoch), epochs counted from 0."""

    def __init__(self, schedule: Callable[[int], float]):
        self.schedule = schedule

    def on_epoch_begin(self, training: Training) -> None:
        training.optimizer.learning_rate = self.schedule(training.epoch)


class TerminateOnNaN(Callback):
    """End the training quietly, instead of with an exception, when a loss is NaN or infinite."""


class BackupAndRestore(Callback):
    """Keep everything that resuming needs in one checkpoint file; a later fit() with it goes on from there.

    The file holds weights, optimiser, history, and the state of the callbacks listed with this one.
    It is replaced whole after each epoch, and after Ctrl-C in the middle of one.  The one before stays
    beside it, as NAME.previous, and is taken, with a warning, where the newest is damaged or missing.
    Weights end bitwise as without the interruption, which is why a file of a training with other data,
    layers, optimiser or options is refused; only the number of epochs and of threads may change.
    """

    def __init__(self, path: str | PathLike):
        self.path = Path(path)
        self.others: list[Callback] = []
        self._newest_is_whole = True

    @property
    def previous(self) -> Path:
        """Where the checkpoint before the newest is."""
        return self.path.with_name(f"{self.path.stem}.previous{self.path.suffix}")

    def on_train_begin(self, training: Training) -> None:
        self._newest_is_whole = True
        if self.path.exists() or self.previous.exists():
            path, checkpoint = self._load()
            restore(path, checkpoint, training, self.others)

    def on_epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        # A damaged file must not take the place of the good one before it.
        keep = self.previous if self._newest_is_whole else None
        backup(self.path, training, self.others, keep)
        self._newest_is_whole = True

    def on_interrupt(self, training: Training) -> None:
        self.on_epoch_end(training, {})

    def _load(self) -> tuple[Path, Checkpoint]:
        """The newest checkpoint that is whole, and where it was."""
        try:
            return self.path, files.load_checkpoint(self.path)
        except (ModelFileError, FileAccessError) as problem:
            try:
                found = files.load_checkpoint(self.previous)
            except (ModelFileError, FileAccessError):
                raise problem from None
            self._newest_is_whole = False
            sentence = str(problem).rstrip(".")
            warnings.warn(
                f"{sentence}; going on from the checkpoint before it, {self.previous}, "
                f"of epoch {found[1].get('epoch')}",
                stacklevel=2,
            )
            return self.previous, found


def backup(
    path: str | PathLike, training: Training, callbacks: list[Callback], keep: str | PathLike | None = None
) -> None:
    """Write a checkpoint of a training under way; the one that was there gets the name `keep`."""
    slots, scalars = training.optimizer.state()
    arrays = {f"model/{name}": array for name, array in training.model.state().items()}
    arrays |= {f"optimizer/{name}": array for name, array in slots.items()}
    values = []
    for number, callback in enumerate(callbacks):
        kept, value = callback.state()
        arrays |= {f"callback{number}/{name}": array for name, array in kept.items()}
        values.append({"type": type(callback).__name__, "value": value})
    state = {
        "epoch": training.epoch,
        "stop": training.stop,
        "part": None if training.part is None else asdict(training.part),
        "arithmetic": _arithmetic(),
        "settings": training.settings,
        "history": list(training.history.items()),  # JSON objects would come back in another order
        "optimizer": scalars,
        "callbacks": values,
    }
    files.save_checkpoint(path, arrays, state, keep)


def restore(
    path: str | PathLike, checkpoint: Checkpoint, training: Training, callbacks: list[Callback]
) -> None:
    """Go on from a checkpoint read from `path`; ModelFileError where it belongs to another training."""
    arrays, state = checkpoint
    try:
        _same_training(training, callbacks, state)
        part = state.get("part")
        training.part = None if part is None else _checked_part(part)
        training.model.load_state(_below(arrays, "model/"))
        training.optimizer.load_state(
            _below(arrays, "optimizer/"), state["optimizer"], training.model.parameters()
        )
        for number, callback in enumerate(callbacks):
            callback.load_state(_below(arrays, f"callback{number}/"), state["callbacks"][number]["value"])
        training.epoch, training.stop = state["epoch"], state["stop"]
        training.history.update({name: list(values) for name, values in state["history"]})
    except (TinynetError, KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ModelFileError(
            f"{path}: {problem}; resume with the same settings, or start anew in another folder"
        ) from None
    before, now = state.get("arithmetic", _arithmetic()), _arithmetic()
    if before != now:
        warnings.warn(
            f"{path}: the training began on {before} and goes on on {now}, whose sums may round differently: "
            "weights may not be bitwise those of an uninterrupted training",
            stacklevel=2,
        )


def _arithmetic() -> str:
    """What sums are made by and how they round depends on: NumPy's matrix products on their threads, too."""
    name = kernels.active().NAME
    if name != "numpy":
        return f"the {name} kernels"
    threads: int | str | None = blas.threads()
    if threads is None:
        chosen = (os.environ.get(variable) for variable in BLAS_THREADS)
        threads = next((text for text in chosen if text), None) or processors()
    return f"the numpy kernels with {threads} threads for matrix products"


def _checked_part(part: dict[str, Any]) -> Part:
    """What is done of an epoch, from a file; raises TypeError or ValueError for anything else."""
    found = Part(**part)
    for name in ("steps", "right"):
        value = getattr(found, name)
        if type(value) is not int or value < 0:
            raise ValueError(f"the interrupted epoch has {name} {value!r}")
    return Part(found.steps, float(found.loss), found.right, float(found.rate))


def _same_training(training: Training, callbacks: list[Callback], state: dict[str, Any]) -> None:
    """Raise ArgumentError unless the checkpoint is of a training like this one."""
    settings = {**training.settings, "callbacks": [type(callback).__name__ for callback in callbacks]}
    before = {**state["settings"], "callbacks": [entry["type"] for entry in state["callbacks"]]}
    for name, value in settings.items():
        if before.get(name) != value:
            raise ArgumentError(
                f"the interrupted training had {name} {before.get(name)!r:.200}, this one has {value!r:.200}"
            )


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
