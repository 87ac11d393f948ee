"""What is measured: six works of issue 3's table, each with its data and with tinynet doing it.

Everybody starts from the same uint8 images in memory.  A training step converts them, runs forward
and backward and updates the weights; nothing is augmented and nothing is read.  The epoch shuffles,
augments, and keeps the mean loss and accuracy, as `fit` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tinynet.models import autoencoder, classifier, small_cnn

import tinynet as tn
from bench.common import Contestant
from tinynet.data.augment import Augmentation
from tinynet.training_step import TrainingStep

# So small that thousands of steps on one batch neither saturate the softmax nor bring denormals.
LEARNING_RATE = 1e-6
EPOCH_IMAGES = 8192
CROSS_ENTROPY = "sparse_categorical_crossentropy"


@dataclass(frozen=True)
class Work:
    """A row of the table.

    kind       "training" (a step), "inference" or "epoch"
    build      the model, with the same weights every time
    loss, optimizer   as `compile` takes them; the optimiser's name for inference is ""
    goal       (peer, how many times as fast as it)
    """

    name: str
    title: str
    kind: str
    build: Callable[[], tn.Sequential]
    batch: int
    goal: tuple[str, float]
    loss: str = CROSS_ENTROPY
    optimizer: str = "adamw"
    count: int = 0  # images in all; 0: one batch

    @property
    def images(self) -> int:
        """How many images one run processes."""
        return self.count or self.batch

    @property
    def reconstructs(self) -> bool:
        """Whether the target is the input."""
        return self.loss == "mse"

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (n, h, w, 3), and labels int64 (n,)."""
        return random_batch(self.build(), self.images)

    def model(self) -> tn.Sequential:
        """The model, compiled; for inference with running statistics that are not trivial."""
        model = self.build()
        if self.kind == "inference":
            _set_statistics(model)
        else:
            chosen = {"adamw": tn.AdamW, "rmsprop": tn.RMSprop}[self.optimizer]
            model.compile(chosen(LEARNING_RATE), self.loss)
        return model

    def operations(self) -> float:
        """Floating-point operations an image."""
        return operations(self.build(), training=self.kind != "inference")


def random_batch(model: tn.Sequential, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images (uint8, or float32 if the model wants it) and labels: they cost what real ones do."""
    rng = np.random.default_rng(0)
    shape = model.input_shape
    assert shape is not None
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    scaled = images if model.preprocessing is not None else images.astype(np.float32) / 255
    return scaled, rng.integers(0, 2, count)


def operations(model: tn.Sequential, training: bool) -> float:
    """Floating-point operations an image, as a plain implementation counts them.

    Two a multiply-add of convolutions and dense layers, taps in the padding counted; a training step
    has forward, weight gradient and input gradient, the last not for the first layer.  What an
    implementation saves (upsampling merged into convolution) counts as if it were done.
    """
    layers = [layer for layer in model.chain.leaves() if layer.parameters]
    each = [2.0 * layer.multiply_accumulates(layer.input_shape or ()) for layer in layers]
    return 3 * sum(each) - each[0] if training else sum(each)


def _set_statistics(model: tn.Sequential) -> None:
    rng = np.random.default_rng(1)
    for layer in model.chain.leaves():
        for name, buffer in layer.buffers.items():
            buffer[...] = rng.uniform(0.5, 1.5, buffer.shape) if "variance" in name else rng.normal(0, 0.2)


@contextmanager
def without_dropout(model: tn.Sequential) -> Iterator[None]:
    """No dropout within the block: masks differ between programs, so comparisons are made without."""
    layers = [layer for layer in model.chain.leaves() if isinstance(layer, tn.Dropout)]
    rates = [layer.rate for layer in layers]
    for layer in layers:
        layer.rate = 0.0
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.rate = rate


def channels_first_kernel(weight: np.ndarray) -> np.ndarray:
    """(kh, kw, c, o) -> (o, c, kh, kw), as the peers have it."""
    return weight.transpose(3, 2, 0, 1)


def channels_first_dense(weight: np.ndarray, flattened: tuple[int, ...]) -> np.ndarray:
    """(in, out), whose rows, after a Flatten of (h, w, c), are to be counted c, h, w as the peers count."""
    if not flattened:
        return weight
    return weight.reshape(*flattened, -1).transpose(2, 0, 1, 3).reshape(weight.shape)


# tinynet.


def targets(model: tn.Sequential, labels: np.ndarray) -> np.ndarray | None:
    """What `fit` is given as y: the labels, or nothing for a reconstruction."""
    assert model.loss is not None
    return None if model.loss.wants_images else labels


def loss_and_gradients(model: tn.Sequential, images: np.ndarray, labels: np.ndarray) -> float:
    """Forward and backward of one batch, as `fit` does them; the gradients are left in the parameters."""
    return TrainingStep(model)(images, targets(model, labels), np.arange(len(images)))[0]


def step(training_step: TrainingStep, images: np.ndarray, labels: np.ndarray) -> float:
    """One step as `fit` makes it; the loss before it."""
    model = training_step.model
    number, _ = training_step(images, targets(model, labels), np.arange(len(images)))
    assert model.optimizer is not None
    model.optimizer.step(training_step.parameters)
    for parameter in training_step.parameters.values():
        parameter.grad = None
    return number


def tinynet_contestant(work: Work) -> Contestant:
    """tinynet, with the kernels in use."""
    model, (images, labels) = work.model(), work.data
    training_step = TrainingStep(model) if work.kind == "training" else None

    def run() -> object:
        if training_step is not None:
            return step(training_step, images, labels)
        if work.kind == "inference":
            return model.predict(images, batch_size=work.batch)
        return model.fit(
            images, labels, epochs=1, batch_size=work.batch, verbose=0, augmentation=Augmentation()
        )

    return Contestant("tinynet", run, work.images)


WORKS = {
    work.name: work
    for work in (
        Work(
            "autoencoder-training", "autoencoder 32x32, training step, batch 128",
            "training", autoencoder, 128, ("PyTorch", 5.0), "mse", "rmsprop",
        ),
        Work(
            "classifier-training", "its classifier 32x32, training step, batch 128",
            "training", classifier, 128, ("PyTorch", 3.5),
        ),
        Work(
            "small-cnn-training", "small CNN 64x64, training step, batch 128",
            "training", small_cnn, 128, ("PyTorch", 2.5),
        ),
        Work(
            "classifier-inference", "classifier 32x32, inference from uint8, batch 256",
            "inference", classifier, 256, ("ONNX Runtime", 2.5), optimizer="",
        ),
        Work(
            "small-cnn-inference", "small CNN 64x64, inference from uint8, batch 256",
            "inference", small_cnn, 256, ("ONNX Runtime", 1.15), optimizer="",
        ),
        Work(
            "classifier-epoch", f"an epoch of the classifier, {EPOCH_IMAGES:,} images, augmented, batch 128",
            "epoch", classifier, 128, ("PyTorch", 4.0), count=EPOCH_IMAGES,
        ),
    )
}  # fmt: skip
