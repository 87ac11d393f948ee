"""A model from its file, without trusting the file: nothing in it runs, and no claim of it takes memory.

In this order: the digest (files/), the layers as placeholders, the shapes of the weights, what one
image would cost, and only then the self-test, for which the model has to run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any

from tinynet import files, storage
from tinynet.errors import ArgumentError, ModelFileError
from tinynet.files.strict_json import MAXIMUM_DEPTH, shortened
from tinynet.images import Preprocessing
from tinynet.layers import Chain, Layer, layer_from_json
from tinynet.limits import COPY, MAXIMUM_VALUES, PASS, allowed_operations
from tinynet.losses import loss_from_config
from tinynet.model import Sequential
from tinynet.optim import optimizer_from_config

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model

TAP = 4096  # the operations that one step over a window's taps costs at least


def load(model: str | PathLike) -> Sequential | Int8Model:
    """Read a model file, or a shipped model by its name ("autoencoder").

    A file in int8 gives an Int8Model: it predicts as a Sequential does, and cannot be trained.

    Raises FileAccessError where there is none, ModelFileError where it is damaged, tampered with, of
    another kind, too large to run, or does not reproduce its own self-test.
    """
    path = storage.locate(model)
    if str(path).lower().endswith(".onnx"):
        raise ModelFileError(f"{path} is an ONNX file: tinynet convert, or tn.from_onnx, makes a model of it")
    arrays, description = files.load_model_file(path)
    with storage.described(path, "a model"):
        _check_depth(description)
        number_format = description.get("number_format", "float32")
        if number_format not in ("float32", "float16", "int8"):
            raise ArgumentError(f"its number format is {shortened(number_format)}; made by a newer tinynet?")
        if number_format != "int8":
            loaded = _from_description(description)
            loaded.load_state(arrays)
            loaded.number_format = number_format
            check_costs(loaded)
    if number_format == "int8":
        from tinynet.deploy.int8.file import restore  # not for those who have float models

        return restore(arrays, description, path)
    storage.check_selftest(loaded, description, path)
    return loaded


def _from_description(description: dict[str, Any]) -> Sequential:
    architecture = _object(description, "architecture")
    preprocessing = description["preprocessing"]
    layers, name = architecture["layers"], architecture["name"]
    if not isinstance(layers, list) or not isinstance(name, str):
        raise ArgumentError("the layers are not a list, or the name is not text")
    model = Sequential(
        [layer_from_json(layer) for layer in layers],
        preprocessing=None if preprocessing is None else Preprocessing.from_json(preprocessing),
        class_names=description["class_names"],
        name=name,
    )
    model.build(architecture["input_shape"], placeholders=True)
    model.threshold, model.temperature = description["threshold"], description["temperature"]
    model.provenance, model.metrics = _object(description, "provenance"), _object(description, "metrics")
    trained = _object(description, "training")
    if trained:
        model.compile(optimizer_from_config(trained["optimizer"]), loss_from_config(trained["loss"]))
    return model


def _check_depth(description: dict[str, Any]) -> None:
    """Raise ModelFileError for a description nested more deeply than `save` writes, without recursion."""
    level: list[Any] = [description]
    for _ in range(MAXIMUM_DEPTH + 1):
        inside = [value.values() if isinstance(value, dict) else value for value in level]
        level = [entry for value in inside for entry in value]
        level = [entry for entry in level if isinstance(entry, dict | list)]
    if level:
        raise ModelFileError(f"it is nested more than {MAXIMUM_DEPTH} deep")


def _object(description: dict[str, Any], name: str) -> dict[str, Any]:
    value = description[name]
    if not isinstance(value, dict):
        raise ArgumentError(f"{name} is not an object")
    return value


def check_costs(model: Sequential, images: int = 1) -> None:
    """Raise ModelFileError for a model that would take more memory or time than is sensible for one image.

    images   how many the file itself makes one run take (an ONNX graph may have a fixed batch)
    """
    allowed = allowed_operations(sum(array.size for array in model.state().values()))
    operations = 0
    for layer, held in _with_held(model.chain, 0):
        values, more = _costs(layer)
        values, operations = (values + held) * images, operations + more * images
        if values > MAXIMUM_VALUES or operations > allowed:
            raise ModelFileError(
                f"{layer.label} would need {values:,} values and {operations:,} operations for one image; "
                f"at most {MAXIMUM_VALUES:,} and {allowed:,} are allowed"
            )


def _with_held(block: Layer, held: int) -> Iterator[tuple[Layer, int]]:
    """Every layer inside, and how many values the blocks around it keep for others while it runs."""
    joins = not isinstance(block, Chain)  # its branches all start from its input, and their results meet
    if joins and block.children():
        held += math.prod(block.input_shape or ())
    for layer in block.children():
        yield from _with_held(layer, held)
        yield layer, held
        if joins:
            held += math.prod(layer.output_shape(layer.input_shape or ()))


def _costs(layer: Layer) -> tuple[int, int]:
    """The values in the largest array, and the operations, of one image on the NumPy kernels."""
    assert layer.input_shape is not None
    before, after = layer.input_shape, layer.output_shape(layer.input_shape)
    values = max(math.prod(before), math.prod(after))
    multiplied = 0 if layer.children() else layer.multiply_accumulates(before)
    find_window = getattr(layer, "window", None)
    if find_window is None:
        return values, multiplied + PASS * values
    window = find_window(before)
    (top, bottom), (left, right) = window.padding
    padded = (before[0] + top + bottom) * (before[1] + left + right) * before[2]
    taps, (height, width) = math.prod(window.size), window.output_size(*before[:2])
    # The NumPy kernels lay out what every tap of the window sees (kernels/numpy/).
    columns = taps * height * width * before[2]
    copies = COPY if multiplied else PASS  # a pool compares them too
    operations = multiplied + PASS * max(values, padded) + copies * columns + taps * TAP
    return max(values, padded, columns), operations
