"""What a user holds of an int8 model: predict, summary and save, as a float model has them."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import numpy as np

from tinynet import files
from tinynet.arguments import as_array, whole_number
from tinynet.deploy.int8 import arithmetic
from tinynet.deploy.int8.program import Program
from tinynet.errors import ArgumentError, DataError, ModelFileError, NonFiniteError, ShapeError, TinynetError
from tinynet.images import Preprocessing
from tinynet.network import BATCH, Deciding, answer
from tinynet.storage import SELFTEST_OUTPUTS, SELFTEST_SEED
from tinynet.summaries import ruled
from tinynet.views import averaged_logits, wants_eight


class Int8Model(Deciding):
    """A trained model in integers; it predicts, and cannot be trained.

    program        the operations (docs/int8.md)
    activation     what turns logits into the answer: "softmax", "sigmoid", ... or None
    preprocessing  what happens to pictures; None for a model that takes float32
    The rest is as in tinynet.Sequential.  Safe to use from several threads.
    """

    number_format = "int8"

    def __init__(
        self,
        program: Program,
        *,
        name: str = "model",
        activation: str | None = None,
        preprocessing: Preprocessing | None = None,
        class_names: list[str] | None = None,
        threshold: float = 0.5,
        temperature: float = 1.0,
        provenance: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ):
        self.program, self.name, self.activation = program, name, activation
        self.input_shape, self.output_shape = program.input.shape, program.output.shape
        self.preprocessing, self.class_names = preprocessing, class_names
        self.threshold, self.temperature = threshold, temperature
        self.provenance, self.metrics = dict(provenance or {}), dict(metrics or {})

    def __repr__(self) -> str:
        count = len(self.program.operations)
        return f"{type(self).__name__}({self.name!r}, {count} operations, input {self.input_shape})"

    def ending(self) -> str | None:
        """The activation that turns the logits into the answer: softmax, sigmoid, ..., or None."""
        return self.activation

    def encode(self, x: Any) -> np.ndarray:
        """Images as value 0 of the program, int8: uint8 pictures, or float32 without preprocessing."""
        images, wanted = as_array(f"model {self.name!r}", x), self.input_shape
        if images.ndim != len(wanted) + 1 or images.shape[1:] != wanted:
            sides = ", ".join(map(str, wanted))
            raise ShapeError(
                f"model {self.name!r} wants a batch (n, {sides}), got an array of shape {images.shape}"
            )
        if len(images) == 0:
            raise DataError(f"model {self.name!r}: got a batch without any image")
        if self.preprocessing is not None:
            if images.dtype != np.uint8:
                raise ArgumentError(f"int8 model {self.name!r} wants uint8 pictures, got {images.dtype}")
            return (images ^ np.uint8(128)).view(np.int8)  # u - 128: the highest bit turned over
        if images.dtype.kind != "f":
            raise ArgumentError(
                f"model {self.name!r} has no preprocessing: it wants float32, got {images.dtype}"
            )
        if not np.isfinite(images).all():
            raise NonFiniteError(f"int8 model {self.name!r}: the input has NaN or infinity")
        value = self.program.input
        assert value.zero is not None
        return arithmetic.quantize(images.astype(np.float64), value.scale, value.zero)

    def integers(self, x: Any) -> np.ndarray:
        """The logits' integers, int32 (n, *outputs): the same on every machine."""
        return self.program.run(self.encode(x))

    def logits(self, x: Any) -> np.ndarray:
        """The outputs before the final softmax or sigmoid, float32; no temperature."""
        return self.integers(x).astype(np.float32) * np.float32(self.program.output.scale)

    def predict(self, x: Any, batch_size: int = BATCH, *, views: int = 1) -> np.ndarray:
        """Outputs for images x, float32: class probabilities (n, classes), or images (n, h, w, c).

        x  uint8 (n, h, w, c), or a list of uint8 images (h, w, c) of any sizes, which are resized;
           float32 for a model without preprocessing.  The temperature applies.
        views  8: a classifier's logits are averaged over eight views, as Sequential.predict does it
        """
        if isinstance(x, list | tuple) and x and getattr(x[0], "dtype", None) == np.uint8:
            if self.preprocessing is None:
                raise ArgumentError(f"model {self.name!r} has no preprocessing for a list of images")
            x = np.stack([self.preprocessing.prepare(image) for image in x])
        x, size = as_array("predict", x), whole_number("batch_size", batch_size, 1)
        if len(x) == 0:
            raise DataError("predict: there are no images")
        if wants_eight(self, views):
            return answer(averaged_logits(self.logits, x, size), self.activation, self.temperature)
        outputs = [
            answer(self.logits(x[at : at + size]), self.activation, self.temperature)
            for at in range(0, len(x), size)
        ]
        return np.concatenate(outputs)

    def multiply_adds(self) -> int:
        """Of one image."""
        program = self.program
        return sum(step.multiply_accumulates(program.inputs(step)) for step in program.operations)

    def summary(self, print_fn: Any = print) -> str:
        """Print and return a table: output shapes, weights, multiply-adds, activation and file bytes."""
        text = table(self)
        if print_fn is not None:
            print_fn(text)
        return text

    def save(self, path: str | PathLike) -> None:
        """Write the model file, with the self-test's integers; nothing in it can run."""
        from tinynet.deploy.int8.file import contents

        files.save_model_file(path, *contents(self))

    def file_bytes(self) -> int:
        """How many bytes `save` would write."""
        from tinynet.deploy.int8.file import contents

        return files.file_bytes(*contents(self))


def selftest_integers(model: Int8Model, seed: int) -> list[int]:
    """The logits' integers for the self-test's picture; at most 16, evenly chosen, as for float models."""
    shape = model.input_shape
    height, width, channels = shape if len(shape) == 3 else (1, 1, shape[0])
    codes = files.selftest_input(seed, height, width, channels).reshape(1, *shape)
    x = codes if model.preprocessing is not None else codes.astype(np.float32) / np.float32(255)
    outputs = model.integers(x).reshape(-1)
    chosen = np.linspace(0, outputs.size - 1, min(outputs.size, SELFTEST_OUTPUTS)).astype(int)
    return outputs[chosen].tolist()


def describe_selftest(model: Int8Model) -> dict[str, Any]:
    """The self-test as the file states it."""
    return {"seed": SELFTEST_SEED, "outputs": selftest_integers(model, SELFTEST_SEED)}


def check_selftest(model: Int8Model, stated: Any, path: Any) -> None:
    """Raise ModelFileError unless the model gives exactly the integers that its file states."""
    whole = isinstance(stated, dict) and set(stated) == {"seed", "outputs"}
    if not whole or not isinstance(stated["outputs"], list):
        raise ModelFileError(f"{path}: the model file has no self-test")
    try:
        computed = selftest_integers(model, stated["seed"])
    except (TinynetError, MemoryError) as problem:
        raise ModelFileError(f"{path}: the self-test cannot be run: {problem}") from None
    if any(type(value) is not int for value in stated["outputs"]) or stated["outputs"] != computed:
        raise ModelFileError(
            f"{path} does not reproduce its self-test: an int8 model must give its integers exactly"
        )


def table(model: Int8Model) -> str:
    """The summary as text."""
    header = ("operation", "type", "output", "weights", "multiply-adds", "activation bytes")
    lines: list[tuple[str, ...]] = [header]
    sums = np.zeros(3, np.int64)
    program = model.program
    for operation, result in zip(program.operations, program.values[1:], strict=True):
        arrays = (getattr(operation, name, None) for name in ("weight", "bias"))
        weights = sum(array.size for array in arrays if array is not None)
        costs = (
            weights,
            operation.multiply_accumulates(program.inputs(operation)),
            math.prod(result.shape) * (4 if result.zero is None else 1),
        )
        sums += costs
        shape = " x ".join(map(str, result.shape))
        lines.append((operation.name, operation.kind, shape, *(f"{cost:,}" for cost in costs)))
    return ruled(
        f"{model.name}: int8, input {' x '.join(map(str, model.input_shape))}; costs of one image",
        lines,
        f"weights {sums[0]:,}; multiply-adds {sums[1]:,}; activations {sums[2]:,} bytes; "
        f"file {model.file_bytes():,} bytes",
    )
