"""The training loop: epochs of shuffled batches, each a forward pass, a backward pass and an update."""

from __future__ import annotations

import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NoReturn

import numpy as np

from tinynet import progress, random
from tinynet.arguments import as_array, whole_number
from tinynet.callbacks import (
    BackupAndRestore,
    Callback,
    LearningRateScheduler,
    Part,
    TerminateOnNaN,
    Training,
)
from tinynet.errors import ArgumentError, DataError, NonFiniteError, ShapeError
from tinynet.interruption import CtrlC, held_back
from tinynet.kernels.blas import one_thread
from tinynet.layers import Context, layer_to_json
from tinynet.network import Network
from tinynet.prefetch import prepared_ahead
from tinynet.schedules import Plateau
from tinynet.tensor import Tensor, no_grad
from tinynet.training_step import TrainingStep

Augment = Callable[[np.ndarray, int, int, np.ndarray], np.ndarray | tuple[np.ndarray, np.ndarray]]
PREPARED = 1 << 22  # bytes of images shuffled and augmented at once: calls for each batch took 0.2 ms


@dataclass
class History:
    """What `fit` returns: metrics by name, one number an epoch ("loss", "val_accuracy", ...)."""

    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs there were."""
        return len(next(iter(self.history.values()), []))


# What is not finite is reported in one sentence below; NumPy's warnings would only precede it.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
@one_thread()
def fit(
    model: Network,
    x: np.ndarray,
    y: Any = None,
    *,
    validation_data: Any = None,
    epochs: int = 1,
    batch_size: int = 128,
    verbose: int = 1,
    callbacks: Sequence[Callback] = (),
    augmentation: Augment | None = None,
    seed: int = 0,
) -> History:
    """Train a compiled model.

    x                uint8 images (n, h, w, c), preprocessed by the model, or float32 already scaled
    y                classes (n,) for a cross-entropy, numbers like the output for a squared error;
                     left out for reconstruction, where the target is the (augmented) input
    validation_data  (x, y), or images alone for reconstruction; measured after each epoch
    verbose          0 silent, 1 a line an epoch (with a progress bar on a terminal)
    augmentation     (images, seed, epoch, indices) -> images, on uint8 (data/augment.py), or, where it makes
                     the targets too, (images, targets) (distillation.py, data/corruption.py)
    seed             of shuffling, augmentation and dropout, which are functions of (seed, epoch, image)

    Same model, data and seed: bitwise the same weights; products of matrices that NumPy's library makes are
    made on one of its threads (kernels/blas.py).  With a BackupAndRestore among the callbacks,
    Ctrl-C waits for the end of a step, where the training can be kept; then KeyboardInterrupt is raised.
    Raises ArgumentError, DataError and ShapeError before the first step, NonFiniteError when a loss is
    NaN or infinite.
    """
    optimizer, _ = model.compiled()
    epochs = whole_number("fit: epochs", epochs, 1)
    batch_size = whole_number("fit: batch_size", batch_size, 1)
    seed = whole_number("fit: seed", seed, 0)
    callbacks = _checked_callbacks(callbacks)
    x, labels = as_array("fit: x", x), None if y is None else as_array("fit: y", y)
    held_x, held_y = _pair(validation_data)
    _check(model, x, labels, "fit")
    if held_x is not None:
        _check(model, held_x, held_y, "fit: validation_data")
    _check_trainable(model, x, labels, augmentation)
    training = Training(model, optimizer, {})
    if any(isinstance(callback, BackupAndRestore) for callback in callbacks):
        training.settings = _settings(model, x, labels, held_x, batch_size, seed, augmentation, callbacks)
    for callback in callbacks:
        if isinstance(callback, BackupAndRestore):
            callback.others = [other for other in callbacks if other is not callback]
    for callback in _backups_last(callbacks):
        callback.on_train_begin(training)
    quiet_end = any(isinstance(callback, TerminateOnNaN) for callback in callbacks)
    resumable = any(isinstance(callback, BackupAndRestore) for callback in callbacks)

    with held_back(holds=False, wanted=resumable) as ctrl_c:  # holds once there is a step to keep
        while training.epoch < epochs and not training.stop:
            started = time.perf_counter()
            for callback in callbacks:
                callback.on_epoch_begin(training)
            part = training.part or Part(0, 0.0, 0, optimizer.current_learning_rate)
            try:
                part = _epoch(
                    model,
                    x,
                    labels,
                    training.epoch,
                    batch_size,
                    seed,
                    augmentation,
                    verbose,
                    epochs,
                    part,
                    ctrl_c,
                )
                if ctrl_c.asked:
                    training.part = part
                    _interrupt(training, callbacks)
                training.part = None
                logs = _means(model, part, len(x))
                if held_x is not None:
                    logs |= _validate(model, held_x, held_y, training.epoch)
            except NonFiniteError as problem:
                if not quiet_end:
                    for callback in callbacks:  # the best weights come back all the same
                        callback.on_train_end(training)
                    raise
                print(f"training ended: {problem}", file=sys.stderr)
                break
            logs["learning_rate"] = part.rate
            training.epoch += 1
            for name, value in logs.items():
                training.history.setdefault(name, []).append(float(value))
            if isinstance(optimizer.learning_rate, Plateau):
                optimizer.learning_rate.update(logs.get("val_loss", logs["loss"]))
            for callback in _backups_last(callbacks):
                callback.on_epoch_end(training, logs)
            if verbose:
                _print_epoch(training.epoch, epochs, logs, time.perf_counter() - started)
            if ctrl_c.asked:  # during validation: everything is kept already
                raise KeyboardInterrupt
    for callback in callbacks:
        callback.on_train_end(training)
    return History(training.history)


def _interrupt(training: Training, callbacks: Sequence[Callback]) -> NoReturn:
    """After Ctrl-C: let the callbacks keep what is done."""
    for callback in _backups_last(callbacks):
        callback.on_interrupt(training)
    raise KeyboardInterrupt


def _epoch(
    model, x, labels, epoch, batch_size, seed, augmentation, verbose, epochs, part: Part, ctrl_c: CtrlC
) -> Part:
    """One pass over the images, or what is left of it after `part`; ends early after Ctrl-C."""
    optimizer, loss = model.compiled()
    training_step = TrainingStep(model, seed, epoch)
    parameters = training_step.parameters
    order = random.permutation(seed, epoch, np.arange(len(x)))
    several = max(1, PREPARED // max(1, batch_size * x[0].nbytes)) * batch_size
    portions = [order[at : at + several] for at in range(part.steps * batch_size, len(order), several)]

    def prepare(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        batch, target = x[images], None if labels is None else labels[images]
        if augmentation is not None:
            made = augmentation(batch, seed, epoch, images)
            batch, target = made if isinstance(made, tuple) else (made, target)
        return images, batch, target

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        for images, batch, target in prepared_ahead(portions, prepare):
            for at in range(0, len(images), batch_size):
                some = slice(at, at + batch_size)
                yield images[some], batch[some], None if target is None else target[some]

    steps, total, right = part.steps, part.loss, part.right
    with progress.bar(len(x), f"epoch {epoch + 1}/{epochs}", enabled=bool(verbose), unit="image") as bar:
        bar.update(min(steps * batch_size, len(x)))
        for images, batch, target in batches():
            number, output = training_step(batch, target, images)
            if not math.isfinite(number):
                context = Context(True, seed, epoch, images, logits=loss.wants_logits)
                reason = _not_finite(model, model.to_tensor(batch), context)
                reason = reason or "every layer's result is finite"
                number_of_step = epoch * -(-len(x) // batch_size) + steps + 1
                raise NonFiniteError(f"step {number_of_step}: the loss is {number}; {reason}")
            optimizer.step(parameters)
            for parameter in parameters.values():
                parameter.grad = None
            progress.end_of_compilation()
            total += number * len(images)
            if loss.wants_logits:
                right += loss.right(output.numpy(), target)
            steps += 1
            bar.update(len(images))
            ctrl_c.holds = True
            if ctrl_c.asked:
                break
    return Part(steps, total, int(right), part.rate)


def _means(model: Network, part: Part, count: int) -> dict[str, float]:
    """The means of loss and accuracy over an epoch's images, as they were during it."""
    accuracy = {"accuracy": part.right / count} if model.compiled()[1].wants_logits else {}
    return {"loss": part.loss / count} | accuracy


def _validate(model: Network, x: np.ndarray, y: np.ndarray | None, epoch: int) -> dict[str, float]:
    measured = model.evaluate(x, y)
    if not np.isfinite(measured["loss"]):
        reason = _not_finite_in_use(model, x) or "every layer's result is finite"
        raise NonFiniteError(f"epoch {epoch + 1}: the validation loss is {measured['loss']}; {reason}")
    return {f"val_{name}": value for name, value in measured.items()}


def _not_finite(model: Network, inputs: Tensor, context: Context) -> str | None:
    """A phrase that names the first layer whose weights or result are not finite, if there is one."""
    if not np.isfinite(inputs.numpy()).all():
        return "the images themselves hold NaN or infinity"
    context.record = {}
    with no_grad():
        model(inputs, context)
    for layer in model.chain.walk():
        for name, parameter in layer.parameters.items():
            if not np.isfinite(parameter.data).all():
                return f"the weights {layer.path}.{name} are not finite; lower the learning rate"
        if not np.isfinite(context.record[layer.path].numpy()).all():
            return f"{layer.label} is the first whose result is not finite; lower the learning rate"
    return None


def _not_finite_in_use(model: Network, x: np.ndarray) -> str | None:
    """The same for images in use, as validation ones are: the first batch that shows something."""
    batches = (x[at : at + 256] for at in range(0, len(x), 256))
    found = (_not_finite(model, model.to_tensor(batch), Context(logits=True)) for batch in batches)
    return next((reason for reason in found if reason), None)


def _check(model: Network, x: np.ndarray, y: np.ndarray | None, where: str) -> None:
    """Raise for images and labels that the model and its loss cannot take."""
    loss = model.compiled()[1]
    if len(x) == 0:
        raise DataError(f"{where}: there are no images")
    if y is not None and len(y) != len(x):
        raise ShapeError(f"{where}: there are {len(x)} images and {len(y)} labels")
    with no_grad():
        output = model(x[:1], Context(logits=loss.wants_logits))
        loss(output, model.target(x[:1], None if y is None else y[:1]))
    if y is not None and not loss.wants_images:
        loss.check_labels(y, model.output_shape)


def _check_trainable(model: Network, x: np.ndarray, y: np.ndarray | None, augmentation: Any) -> None:
    if augmentation is not None:
        if x.dtype != np.uint8:
            raise ArgumentError(f"fit: augmentation works on uint8 images, got {x.dtype}")
        if y is not None and model.compiled()[1].wants_images:
            raise ArgumentError("fit: augmentation would change x and not its target y")
    if not any(parameter.requires_grad for parameter in model.parameters().values()):
        raise ArgumentError(f"fit: model {model.name!r} has no weights to train, or all are frozen")


def _checked_callbacks(callbacks: Any) -> list[Callback]:
    if not isinstance(callbacks, list | tuple):
        raise ArgumentError(f"fit: callbacks must be a list, got {callbacks!r:.60}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ArgumentError(f"fit: callbacks must be Callback objects, got {callback!r:.60}")
    return list(callbacks)


def _pair(data: Any) -> tuple[Any, Any]:
    """Validation data as (x, y), with None for what there is not."""
    if data is None:
        return None, None
    pair = data if isinstance(data, tuple | list) else (data, None)
    if len(pair) != 2:
        raise ArgumentError(f"fit: validation_data must be (x, y), or images alone, got {len(pair)} things")
    x, y = pair
    where = "fit: validation_data"
    return as_array(where, x), None if y is None else as_array(where, y)


def _settings(model, x, y, held_x, batch_size, seed, augmentation, callbacks) -> dict[str, Any]:
    """What has to be the same in a training that is resumed, JSON-able."""
    optimizer, loss = model.compiled()
    chosen = optimizer.config()
    if any(isinstance(callback, LearningRateScheduler) for callback in callbacks):
        chosen.pop("learning_rate")  # set anew each epoch
    named = type(augmentation).__name__ if callable(augmentation) else None
    return {
        "images": len(x),
        "validation images": 0 if held_x is None else len(held_x),
        "data digest": [_digest(x), None if y is None else _digest(y)],
        "batch_size": batch_size,
        "seed": seed,
        "loss": loss.config(),
        "optimizer": chosen,
        "augmentation": repr(augmentation) if is_dataclass(augmentation) else named,
        "layers": zlib.crc32(json.dumps([layer_to_json(layer) for layer in model.layers]).encode()),
        "frozen layers": [layer.path for layer in model.chain.leaves() if not layer.trainable],
    }


def _digest(array: np.ndarray) -> int:
    """A checksum of the values, to notice other data; 0.1 s for 100 MB."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _backups_last(callbacks: Sequence[Callback]) -> list[Callback]:
    """The callbacks, those that write or read a checkpoint last: what it holds is the others' new state."""
    return sorted(callbacks, key=lambda callback: isinstance(callback, BackupAndRestore))


def _print_epoch(epoch: int, epochs: int, logs: dict[str, float], seconds: float) -> None:
    measured = "  ".join(f"{name} {value:.4g}" for name, value in logs.items())
    print(f"epoch {epoch}/{epochs}  {measured}  {seconds:.1f} s", file=sys.stderr)
