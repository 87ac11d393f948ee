"""A network: layers, their weights, and what they make of a batch; without training loop and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet import batch, kernels, single
from tinynet.arguments import as_array, names, number, whole_number
from tinynet.errors import ArgumentError, DataError, ShapeError
from tinynet.images import MAX_SIDE, Preprocessing
from tinynet.kernels.blas import one_thread
from tinynet.layers import (
    ACTIVATIONS,
    Chain,
    Context,
    Layer,
    Shape,
    assign_names,
    final_activation,
)
from tinynet.losses import Loss, get_loss
from tinynet.optim import Optimizer, get_optimizer
from tinynet.tensor import Lanes, Tensor, no_grad
from tinynet.views import EIGHT, LEAST, averaged_logits, wants_eight

if TYPE_CHECKING:
    from typing_extensions import Self

BATCH = 256  # images a step in evaluate and predict


class Deciding:
    """What the answer to a picture depends on besides its logits; of float and of int8 models."""

    @property
    def threshold(self) -> float:
        """The probability of class 1, from 0 to 1, from which on an image is called class 1."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = number("threshold", value, 0.0, 1.0)

    @property
    def temperature(self) -> float:
        """What logits are divided by before softmax or sigmoid, from 0.001 to 1000."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature = number("temperature", value, 1e-3, 1e3)


class Network(Deciding):
    """Layers one after another, their weights, and what they compute; tinynet.model.Sequential adds the rest.

    See Sequential for the arguments.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: Shape | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
        name: str = "model",
    ):
        self.chain = Chain(layers)
        assign_names(self.chain)
        if not self.layers:
            raise ArgumentError("Sequential: wanted at least one layer, got an empty list")
        self.name, self.seed = name, whole_number("Sequential: seed", seed, 0)
        self.input_shape: Shape | None = None  # until it is built
        self.output_shape: Shape = ()
        self._multiply_adds = 0
        self.preprocessing = preprocessing
        self.class_names = None if class_names is None else names("class_names", class_names)
        self.threshold, self.temperature = 0.5, 1.0
        self.provenance: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.number_format = "float32"  # or "float16": how weights that are exactly so are saved
        self.optimizer: Optimizer | None = None
        self.loss: Loss | None = None
        if input_shape is not None:
            self.build(input_shape)

    def __repr__(self) -> str:
        count = len(list(self.chain.leaves()))
        return f"{type(self).__name__}({self.name!r}, {count} layers, input {self.input_shape})"

    @property
    def layers(self) -> list[Layer]:
        """The layers, in order; blocks as one."""
        return self.chain.layers

    def layer(self, path: str) -> Layer:
        """The layer or block of this name ("conv1", "residual1/branch1/conv1"); raises ArgumentError."""
        for layer in self.chain.walk():
            if layer.path == path:
                return layer
        known = ", ".join(layer.path for layer in self.chain.walk())
        raise ArgumentError(f"no layer is called {path!r}; there are {known}")

    def build(self, input_shape: Shape, *, placeholders: bool = False) -> Self:
        """Make the weights for images of this shape; called by fit and predict where it was not yet.

        Raises ArgumentError or ShapeError, before any weight is made, where the layers, the preprocessing
        or the class names do not fit it.  With `placeholders` the weights take no memory (see load).
        """
        if not isinstance(input_shape, tuple | list) or len(input_shape) not in (1, 3):
            raise ArgumentError(
                f"input_shape must be (height, width, channels) or (features,), got {input_shape!r}"
            )
        shape = tuple(whole_number("each side of input_shape", side, 1) for side in input_shape)
        output_shape = self.chain.output_shape(shape)
        made = self.preprocessing
        if made is not None and (made.height, made.width, 3) != shape:
            raise ArgumentError(
                f"the preprocessing makes images ({made.height}, {made.width}, 3), the model takes {shape}"
            )
        if self.class_names is not None and len(output_shape) == 1:
            classes = 2 if output_shape == (1,) and self.ending() == "sigmoid" else output_shape[0]
            if len(self.class_names) != classes:
                raise ArgumentError(
                    f"class_names has {len(self.class_names)} names, the model {classes} classes"
                )
        self.chain.build(shape, None if placeholders else np.random.default_rng(self.seed))
        self.input_shape, self.output_shape = shape, output_shape
        self._multiply_adds = self.chain.multiply_accumulates(shape)
        if made is None and len(shape) == 3 and shape[2] == 3 and max(shape) <= MAX_SIDE:
            self.preprocessing = Preprocessing(height=shape[0], width=shape[1])
        return self

    # Weights.

    def parameters(self) -> dict[str, Tensor]:
        """Every trainable array by name ("conv1.weight"): float32 Tensors, frozen ones included."""
        return {
            f"{layer.path}.{name}": parameter
            for layer in self.chain.leaves()
            for name, parameter in layer.parameters.items()
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything that is saved: parameters and running statistics, by name, not copied."""
        arrays = {name: parameter.data for name, parameter in self.parameters().items()}
        for layer in self.chain.leaves():
            arrays.update({f"{layer.path}.{name}": buffer for name, buffer in layer.buffers.items()})
        return arrays

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Take every parameter and running statistic from `arrays`.

        Raises ShapeError where they differ, ArgumentError for a number beyond float32; nothing is then taken.
        """
        own = self.state()
        for name in sorted(set(own) | set(arrays)):
            if name not in arrays:
                raise ShapeError(f"weights: {name} is missing")
            if name not in own:
                raise ShapeError(f"weights: the model has no {name}")
            if arrays[name].shape != own[name].shape:
                raise ShapeError(
                    f"weights: {name} has shape {arrays[name].shape}, the model wants {own[name].shape}"
                )
            if arrays[name].dtype.kind != "f":
                raise ShapeError(
                    f"weights: {name} has dtype {arrays[name].dtype}, the model wants floating point"
                )
        with np.errstate(over="ignore"):  # said below, by name
            taken = {name: np.array(array, np.float32) for name, array in arrays.items()}
        for name, array in taken.items():
            wide = arrays[name].dtype.itemsize > 4
            if wide and not np.array_equal(np.isfinite(array), np.isfinite(arrays[name])):
                raise ArgumentError(f"weights: {name} has a number that is too large for float32")
        for layer in self.chain.leaves():
            for name, parameter in layer.parameters.items():
                parameter.data = taken[f"{layer.path}.{name}"]
            for name in layer.buffers:
                layer.buffers[name] = taken[f"{layer.path}.{name}"]

    def freeze(self, *paths: str) -> None:
        """Keep these layers (all, if none are named) as they are in training."""
        self._set_trainable(False, paths)

    def unfreeze(self, *paths: str) -> None:
        """Let these layers (all, if none are named) be trained again."""
        self._set_trainable(True, paths)

    def _set_trainable(self, trainable: bool, paths: tuple[str, ...]) -> None:
        for chosen in [self.layer(path) for path in paths] or [self.chain]:
            chosen.trainable = trainable

    # Forward.

    def to_tensor(self, x: Any) -> Tensor:
        """A batch as the model sees it, in lane layout: uint8 is preprocessed, float taken as scaled.

        Raises ShapeError where the images have another size than the model's.
        """
        images = as_array(f"model {self.name!r}", x)
        if self.input_shape is None:
            self.build(images.shape[1:])
        wanted = self.input_shape
        assert wanted is not None
        if images.ndim != len(wanted) + 1 or images.shape[1:] != wanted:
            sides = ", ".join(map(str, wanted))
            raise ShapeError(
                f"model {self.name!r} wants a batch (n, {sides}), got an array of shape {images.shape}"
            )
        if images.shape[0] == 0:
            raise DataError(f"model {self.name!r}: got a batch without any image")
        chosen = kernels.active()
        lanes = chosen.lanes_for(images.shape[0])
        if images.dtype == np.uint8 and self.preprocessing is not None:
            deviation = np.array(self.preprocessing.deviation)
            scale, shift = (
                self.preprocessing.scale / deviation,
                -np.array(self.preprocessing.mean) / deviation,
            )
            data = chosen.pack_bytes(images, scale, shift, lanes)
        elif images.dtype.kind == "f":
            data = chosen.pack(
                images.astype(np.float32, copy=False).reshape(len(images), *_image(wanted)), lanes
            )
        elif images.dtype == np.uint8:
            raise ArgumentError(
                f"model {self.name!r} has no preprocessing for uint8 (only RGB images have); "
                "it wants float32 already scaled"
            )
        else:
            raise ArgumentError(
                f"model {self.name!r} wants uint8 images or float32 ones already scaled, got {images.dtype}"
            )
        tensor = Tensor(data)
        tensor.lanes = Lanes(images.shape[0], flat=len(wanted) == 1)
        return tensor

    def __call__(self, x: Any, context: Context | None = None) -> Tensor:
        """The output for a batch: (n, outputs) or (n, h, w, c), in lane layout or ordinary."""
        tensor = x if isinstance(x, Tensor) and x.lanes is not None else self.to_tensor(x)
        context = context or Context()
        context.last = self.last_layer()
        return self.chain(tensor, context)

    def logits(self, x: Any) -> np.ndarray:
        """The outputs before the final softmax or sigmoid, an ordinary float32 array; no temperature."""
        with no_grad():
            return self(x, Context(logits=True)).numpy()

    def predict(self, x: Any, batch_size: int = BATCH, *, views: int = 1) -> np.ndarray:
        """Outputs for images x, float32: class probabilities (n, classes), or images (n, h, w, c).

        x  uint8 (n, h, w, c), or float32 already scaled, or a list of uint8 images (h, w, c) of any
           sizes, which are resized.  The temperature applies.  Safe to call from several threads.
        views  8: a classifier's logits are averaged over the eight ways in which a square picture can lie
           (tinynet.views), for eight times the work

        With the Numba kernels a few images are computed one by one by tinynet.single, and more, where their
        layers allow it, in one call a thread by tinynet.batch.
        """
        if isinstance(x, list | tuple) and x and getattr(x[0], "dtype", None) == np.uint8:
            if self.preprocessing is None:
                raise ArgumentError(f"model {self.name!r} has no preprocessing for a list of images")
            x = np.stack([self.preprocessing.prepare(image) for image in x])
        x, size, ending = as_array("predict", x), whole_number("batch_size", batch_size, 1), self.ending()
        if len(x) == 0:
            raise DataError("predict: there are no images")
        if wants_eight(self, views):
            chosen, size = kernels.for_images(EIGHT * len(x), self.multiply_adds()), max(size, LEAST)
            mean = averaged_logits(lambda turned: self._logits_of_many(turned, size, chosen), x, size)
            return answer(mean, ending, self.temperature)
        chosen = kernels.for_images(len(x), self.multiply_adds())
        if len(x) <= single.FEW:
            at_once = single.predict(self, x) if chosen.NAME == "numba" else None
            if at_once is not None:
                return at_once
        else:
            with kernels.using(chosen.NAME):
                logits = batch.logits(self, x)
            if logits is not None:
                return answer(logits, ending, self.temperature)
        return self._in_ranges(x, size, chosen, lambda logits: answer(logits, ending, self.temperature))

    def _logits_of_many(self, x: np.ndarray, size: int, chosen: Any) -> np.ndarray:
        """What `logits` gives, on these kernels and as many threads as there are."""
        with kernels.using(chosen.NAME):
            at_once = batch.logits(self, x)
        return self._in_ranges(x, size, chosen, lambda logits: logits) if at_once is None else at_once

    def _in_ranges(
        self, x: np.ndarray, size: int, chosen: Any, finish: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """finish(logits) of up to `size` images at a time, layer by layer."""
        outputs = {}

        def task(first: int, last: int) -> None:
            with kernels.using(chosen.NAME):  # a choice of kernels belongs to a thread
                outputs[first] = finish(self.logits(x[first:last]))

        # Threads take whole batches through the whole model: they wait for each other once, not once a
        # layer, and what one batch leaves in the cache is what its next layer reads.
        ranges = _ranges(len(x), size, chosen.num_threads())
        chosen.each_range(task, ranges)
        return np.concatenate([outputs[first] for first, _ in ranges])

    def multiply_adds(self) -> int:
        """Of one image, in convolutions and dense layers; 0 before it is built."""
        return self._multiply_adds  # counted once: each predict asks, and counting took it 0.1 ms

    def activations(self, x: Any) -> dict[str, np.ndarray]:
        """Every layer's result by name: ordinary arrays (n, h, w, c) or (n, f), "input" first."""
        tensor = self.to_tensor(x)
        record: dict[str, Tensor] = {"input": tensor}
        with no_grad():
            self(tensor, Context(record=record))
        return {name: result.numpy() for name, result in record.items()}

    # What training needs.

    def compile(self, optimizer: str | Optimizer = "rmsprop", loss: str | Loss = "mse") -> Self:
        """Choose the optimiser and the loss (tinynet.losses.LOSSES names them).

        Raises ArgumentError for unknown names, or a cross-entropy on a model that does not end in
        softmax (or sigmoid, for the binary one).
        """
        chosen = get_loss(loss)
        chosen.check(self.ending())
        self.optimizer, self.loss = get_optimizer(optimizer), chosen
        return self

    def target(self, x: Any, y: Any) -> Any:
        """What the loss compares with: labels y; for a squared error numbers like the output.

        Those may be uint8 images, which are preprocessed as inputs are, and are x where y is left out.
        """
        loss = self.compiled()[1]
        if not loss.wants_images:
            if y is None:
                raise ArgumentError(f"loss {loss.name!r} needs labels y")
            return as_array("labels", y)
        values = as_array("the target", x if y is None else y)
        if self.input_shape is None:
            self.build(as_array(f"model {self.name!r}", x).shape[1:])
        if values.ndim == 1 and self.output_shape == (1,):
            values = values[:, None]
        if values.shape[1:] != self.output_shape:
            raise ShapeError(
                f"loss {loss.name!r}: the model gives {self.output_shape}, its target is {values.shape[1:]}"
            )
        if values.dtype == np.uint8 and self.output_shape == self.input_shape:
            return self.to_tensor(values)
        if values.dtype.kind not in "fiu":
            raise ArgumentError(f"loss {loss.name!r}: the target must be numbers, got {values.dtype}")
        return Tensor(values.astype(np.float32))

    @one_thread()
    def evaluate(self, x: Any, y: Any = None, batch_size: int = BATCH) -> dict[str, float]:
        """The mean loss over the images, and for classifiers the accuracy: {"loss": ..., "accuracy": ...}."""
        loss, size = self.compiled()[1], whole_number("batch_size", batch_size, 1)
        x, y = as_array("evaluate", x), None if y is None else as_array("labels", y)
        total, right, count = 0.0, 0, len(x)
        if count == 0:
            raise DataError("evaluate: there are no images")
        if y is not None and len(y) != count:
            raise ShapeError(f"evaluate: there are {count} images and {len(y)} labels")
        for at in range(0, count, size):
            part = slice(at, at + size)
            with no_grad():
                output = self(x[part], Context(logits=loss.wants_logits))
                target = self.target(x[part], None if y is None else y[part])
                total += loss(output, target).item() * output.shape[0]
            if loss.wants_logits:
                right += loss.right(output.numpy(), target)
        return {"loss": total / count} | ({"accuracy": right / count} if loss.wants_logits else {})

    def last_layer(self) -> Layer | None:
        """The layer whose activation is the model's last operation; None after a sum or concatenation."""
        layer: Layer | None = self.chain
        while isinstance(layer, Chain):
            layer = layer.layers[-1] if layer.layers else None
        return layer

    def ending(self) -> str | None:
        """The activation that turns the logits into the answer: softmax, sigmoid, ..., or None."""
        return final_activation(self.last_layer())

    def compiled(self) -> tuple[Optimizer, Loss]:
        """The optimiser and the loss; raises ArgumentError before compile()."""
        if self.optimizer is None or self.loss is None:
            raise ArgumentError(f"model {self.name!r} has no optimiser and loss yet: call compile() first")
        return self.optimizer, self.loss


def _ranges(count: int, size: int, threads: int) -> list[tuple[int, int]]:
    """0..count in ranges of `size` images, or so many fewer (a multiple of 16) that there is one a thread."""
    share = -(-count // threads)
    size = min(size, -(-share // 16) * 16)
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def answer(logits: np.ndarray, activation: str | None, temperature: float) -> np.ndarray:
    """What a model says, from its logits, float32: its last activation, with the temperature."""
    if activation == "softmax":
        scaled = (logits - logits.max(axis=-1, keepdims=True)) / np.float32(temperature)
        powers = np.exp(scaled)
        return powers / powers.sum(axis=-1, keepdims=True)
    if activation == "sigmoid":
        small = np.exp(-np.abs(logits / np.float32(temperature)))
        return np.where(logits >= 0, np.float32(1), small) / (1 + small)
    if activation is None:
        return logits
    return ACTIVATIONS[activation](logits).numpy()


def _image(shape: Shape) -> tuple[int, int, int]:
    height, width, channels = shape if len(shape) == 3 else (1, 1, shape[0])
    return height, width, channels
