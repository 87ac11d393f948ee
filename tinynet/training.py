"""The training loop: epochs of shuffled batches, each a forward pass, a backward pass and an update."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet import progress, random
from tinynet.callbacks import BackupAndRestore, Callback, TerminateOnNaN, Training
from tinynet.errors import ArgumentError, DataError, NonFiniteError, ShapeError
from tinynet.layers import Context
from tinynet.schedules import Plateau
from tinynet.tensor import Tensor, no_grad

if TYPE_CHECKING:
    from tinynet.model import Sequential

Augment = Callable[[np.ndarray, int, int, np.ndarray], np.ndarray]


@dataclass
class History:
    """What `fit` returns: metrics by name, one number an epoch ("loss", "val_accuracy", ...)."""

    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs there were."""
        return len(next(iter(self.history.values()), []))


def fit(
    model: Sequential,
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
    y                classes (n,) for a cross-entropy; left out for reconstruction, where the target
                     is the (augmented) input
    validation_data  (x, y), or images alone for reconstruction; measured after each epoch
    verbose          0 silent, 1 a line an epoch (with a progress bar on a terminal)
    augmentation     (images, seed, epoch, indices) -> images, on uint8 (data/augment.py)
    seed             of shuffling, augmentation and dropout, which are functions of (seed, epoch, image)

    Same model, data and seed: bitwise the same weights.  Raises ArgumentError, DataError and ShapeError
    before the first step, NonFiniteError when a loss is NaN or infinite.
    """
    optimizer, loss = model._compiled()
    x = np.asarray(x)
    count = _check(model, x, y, epochs, batch_size, validation_data, augmentation)
    labels = None if y is None else np.asarray(y)
    settings = {"images": count, "batch_size": int(batch_size), "seed": int(seed), "loss": loss.name}
    training = Training(model, optimizer, settings)
    for callback in callbacks:
        if isinstance(callback, BackupAndRestore):
            callback.others = [other for other in callbacks if other is not callback]
    for callback in callbacks:
        callback.on_train_begin(training)
    quiet_end = any(isinstance(callback, TerminateOnNaN) for callback in callbacks)

    while training.epoch < epochs and not training.stop:
        started = time.perf_counter()
        rate = optimizer.current_learning_rate
        try:
            logs = _epoch(model, x, labels, training.epoch, batch_size, seed, augmentation, verbose, epochs)
            if validation_data is not None:
                held_x, held_y = _pair(validation_data)
                measured = model.evaluate(held_x, held_y)
                logs |= {f"val_{name}": value for name, value in measured.items()}
                if not np.isfinite(measured["loss"]):
                    raise NonFiniteError(
                        f"epoch {training.epoch + 1}: the validation loss is {measured['loss']}"
                    )
        except NonFiniteError as problem:
            if not quiet_end:
                raise
            print(f"training ended: {problem}", file=sys.stderr)
            break
        logs["learning_rate"] = rate
        training.epoch += 1
        for name, value in logs.items():
            training.history.setdefault(name, []).append(float(value))
        if isinstance(optimizer.learning_rate, Plateau):
            optimizer.learning_rate.update(logs.get("val_loss", logs["loss"]))
        for callback in _last_backup(callbacks):
            callback.on_epoch_end(training, logs)
        if verbose:
            _print_epoch(training.epoch, epochs, logs, time.perf_counter() - started)
    for callback in callbacks:
        callback.on_train_end(training)
    return History(training.history)


def _epoch(model, x, labels, epoch, batch_size, seed, augmentation, verbose, epochs) -> dict[str, float]:
    """One pass over the images; returns the means of loss and accuracy, as they were during it."""
    optimizer, loss = model._compiled()
    parameters = {name: p for name, p in model.parameters().items() if p.requires_grad}
    order = random.permutation(seed, epoch, np.arange(len(x)))
    total, right = 0.0, 0
    with progress.bar(len(x), f"epoch {epoch + 1}/{epochs}", enabled=bool(verbose), unit="image") as bar:
        for at in range(0, len(order), batch_size):
            images = order[at : at + batch_size]
            batch = x[images]
            if augmentation is not None:
                batch = augmentation(batch, seed, epoch, images)
            context = Context(training=True, seed=seed, epoch=epoch, images=images, logits=loss.wants_logits)
            inputs = model.to_tensor(batch)
            target = inputs if labels is None else model.target(batch, labels[images])
            output = model(inputs, context)
            value = loss(output, target)
            if not np.isfinite(value.item()):
                step = epoch * -(-len(x) // batch_size) + at // batch_size + 1
                raise NonFiniteError(_where_not_finite(model, inputs, context, value.item(), step))
            value.backward()
            optimizer.step(parameters)
            for parameter in parameters.values():
                parameter.grad = None
            total += value.item() * len(images)
            if loss.wants_logits:
                right += loss.right(output.numpy(), target)
            bar.update(len(images))
    return {"loss": total / len(x)} | ({"accuracy": right / len(x)} if loss.wants_logits else {})


def _where_not_finite(model: Sequential, inputs: Tensor, context: Context, loss: float, step: int) -> str:
    """A sentence that names the step and the first layer whose weights or result are not finite."""
    message = f"step {step}: the loss is {loss}"
    if not np.isfinite(inputs.numpy()).all():
        return f"{message}; the images themselves hold NaN or infinity"
    context.record = {}
    with no_grad():
        model(inputs, context)
    for layer in model.chain.leaves():
        for name, parameter in layer.parameters.items():
            if not np.isfinite(parameter.data).all():
                return f"{message}; the weights {layer.path}.{name} are not finite; lower the learning rate"
        if layer.path in context.record and not np.isfinite(context.record[layer.path].numpy()).all():
            return (
                f"{message}; {layer.label} is the first whose result is not finite; lower the learning rate"
            )
    return f"{message}, although every layer's result is finite"


def _check(model, x, y, epochs, batch_size, validation_data, augmentation) -> int:
    """Raise for arguments that cannot be trained with; returns the number of images."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ArgumentError(f"fit: {name} must be a whole number of at least 1, got {value!r}")
    if x.ndim == 0 or len(x) == 0:
        raise DataError("fit: there are no images to train on")
    if y is not None and len(y) != len(x):
        raise ShapeError(f"fit: there are {len(x)} images and {len(y)} labels")
    if augmentation is not None and x.dtype != np.uint8:
        raise ArgumentError(f"fit: augmentation works on uint8 images, got {x.dtype}")
    held_x, held_y = _pair(validation_data)
    if held_x is not None and len(held_x) == 0:
        raise DataError("fit: there are no images to validate on")
    if held_y is not None and len(held_y) != len(held_x):
        raise ShapeError(f"fit: there are {len(held_x)} validation images and {len(held_y)} labels")
    model.to_tensor(x[:1])  # raises where size or type are wrong
    if y is None and not model._compiled()[1].wants_images:
        raise ArgumentError(f"fit: loss {model._compiled()[1].name!r} needs labels y")
    return len(x)


def _pair(data: Any) -> tuple[Any, Any]:
    if data is None:
        return None, None
    return tuple(data) if isinstance(data, tuple | list) else (data, None)  # type: ignore[return-value]


def _last_backup(callbacks: Sequence[Callback]) -> list[Callback]:
    """The callbacks, those that write a checkpoint last, so that it holds the others' new state."""
    return sorted(callbacks, key=lambda callback: isinstance(callback, BackupAndRestore))


def _print_epoch(epoch: int, epochs: int, logs: dict[str, float], seconds: float) -> None:
    measured = "  ".join(f"{name} {value:.4g}" for name, value in logs.items())
    print(f"epoch {epoch}/{epochs}  {measured}  {seconds:.1f} s", file=sys.stderr)
