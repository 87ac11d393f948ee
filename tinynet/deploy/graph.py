"""A model as a flat list of plain operations with their weights: what every exporter starts from.

Blocks are gone (a residual sum is one `add`, a concatenation one `concatenate`), dropout is gone,
batch-norm is an affine function a channel, and an activation is an operation of its own.  Everything is
in the order that Python sees: images (height, width, channels), vectors (features,), flatten counts rows,
columns, channels.  tinynet/deploy/interpreter.py carries such a list out, plainly.

Values are numbered: 0 is the model's input, i + 1 the result of operations[i].  An operation's inputs have
smaller numbers than its result, so that the list can be carried out from front to back.

    kind            inputs  what it does, on one image
    convolution     1       y[i, j, o] = bias[o] + sum over u, v, c of x[...] * weight[u, v, c, o]; tap (u, v)
                            at (i, j) reads the pixel that `window` says, zeros outside the image;
                            with `groups`, output o sees only the channels of its group
    dense           1       y[o] = bias[o] + sum over f of x[f] * weight[f, o]
    affine          1       y[..., c] = x[..., c] * scale[c] + shift[c]
    max_pool        1       the largest real pixel of each window, channel by channel
    average_pool    1       the mean of the real pixels of each window, channel by channel
    upsample        1       each pixel `factor[0]` times downwards and `factor[1]` times to the right
    flatten         1       the same numbers, seen as a vector
    relu, relu6, sigmoid, tanh      1       element by element
    softmax         1       over the last axis
    add             2 or more       the sum; the same value may come in twice
    concatenate     1 or more       the channels of the first, then those of the second, ...
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinynet import storage
from tinynet.errors import ArgumentError, NonFiniteError
from tinynet.images import Preprocessing
from tinynet.kernels.window import Pair, Window
from tinynet.layers import (
    AveragePool2D,
    BatchNorm,
    Chain,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    MaxPool2D,
    ReLU,
    ReLU6,
    Residual,
    Shape,
    Sigmoid,
    Softmax,
    Tanh,
    UpSample2D,
)
from tinynet.network import Network


@dataclass(frozen=True, eq=False)
class Operation:
    """One step; a field that its kind does not use has its default.

    kind      as in the table above
    name      the path of the layer it comes from ("residual1/branch1/conv1"); not unique
    inputs    numbers of the values it reads
    shape     of its result for one image: (height, width, channels) or (features,)
    weight    float32: convolution (kh, kw, channels / groups, filters), dense (features, units)
    bias      float32 (filters,) or (units,); zeros where the layer has none
    scale     float32 (channels,), of an affine operation
    shift     float32 (channels,), of an affine operation
    window    of convolution and pools: size, stride, dilation and ((top, bottom), (left, right)) padding;
              tap (u, v) at output (i, j) reads input row i * stride[0] + u * dilation[0] - top and
              column j * stride[1] + v * dilation[1] - left
    groups    of a convolution: the channels, and the filters, fall into so many groups of neighbours
    factor    of upsampling
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    shape: Shape
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    window: Window | None = None
    groups: int = 1
    factor: Pair = (1, 1)


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole model.

    name            the model's own
    input_shape     of one image: (height, width, channels) or (features,)
    operations      in the order in which they are carried out; the last one's result are the logits
    ending          the activation that turns logits into the model's answer, or None; it is not among the
                    operations.  "softmax" and "sigmoid" take the logits divided by `temperature`
    temperature     from 0.001 to 1000
    threshold       the probability of class 1 from which on an image is called class 1
    class_names     in the order of the answer (a single sigmoid has two names: it is class 1's probability)
    preprocessing   what happens to a uint8 picture of any size; None where the model takes float32 only
    test_seed       of the self-test picture (tinynet.files.selftest_input)
    test_outputs    the logits expected for it: of all outputs in C order those at `test_places`
    """

    name: str
    input_shape: Shape
    operations: tuple[Operation, ...]
    ending: str | None
    temperature: float
    threshold: float
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    test_seed: int
    test_outputs: tuple[float, ...]
    test_places: tuple[int, ...]

    def shape(self, value: int) -> Shape:
        """The shape, for one image, of the value of this number."""
        return self.input_shape if value == 0 else self.operations[value - 1].shape

    @property
    def output(self) -> int:
        """The number of the value that holds the logits."""
        return len(self.operations)

    @property
    def output_shape(self) -> Shape:
        """The shape of the logits of one image."""
        return self.shape(self.output)

    def readers(self, value: int) -> list[int]:
        """The places, in `operations`, of those that read this value."""
        return [place for place, operation in enumerate(self.operations) if value in operation.inputs]

    def input_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 scale and shift, a number a channel: the model's input is byte * scale + shift.

        Without preprocessing bytes are divided by 255, which only the self-test does.
        """
        made, channels = self.preprocessing, self.input_shape[-1]
        if made is None:
            return np.full(channels, 1 / 255, np.float32), np.zeros(channels, np.float32)
        deviation = np.array(made.deviation)
        scale, shift = made.scale / deviation, -np.array(made.mean) / deviation
        return scale.astype(np.float32), shift.astype(np.float32)

    def multiply_accumulates(self, place: int) -> int:
        """Multiplications paired with an addition that operations[place] does for one image."""
        operation = self.operations[place]
        if operation.weight is None:
            return math.prod(operation.shape) if operation.kind == "affine" else 0
        return math.prod(operation.shape) * math.prod(operation.weight.shape[:-1])


def lower(model: Network, *, target: str = "this form") -> Graph:
    """The model as it behaves in use, as a flat list of operations; arrays are copies.

    target: what the layers cannot be expressed in, for the message ("C", "ONNX").
    Raises ArgumentError, naming the layer, for one that is none of tinynet's own, and for a model
    that has no weights yet or nothing to compute; NonFiniteError, naming the array, for NaN or infinity.
    """
    if model.input_shape is None:
        raise ArgumentError(f"model {model.name!r} has no weights yet: give it an input_shape, or fit it")
    for name, array in model.state().items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"model {model.name!r} cannot be exported: {name} has NaN or infinity")
    builder = _Builder(model, target)
    builder.add(model.chain, 0)
    if not builder.operations:
        raise ArgumentError(f"model {model.name!r} cannot be exported: it computes nothing from its input")
    outputs = storage.selftest_outputs(model, storage.SELFTEST_SEED)
    places = np.linspace(0, math.prod(builder.operations[-1].shape) - 1, len(outputs)).astype(int)
    return Graph(
        name=model.name,
        input_shape=model.input_shape,
        operations=tuple(builder.operations),
        ending=builder.ending,
        temperature=model.temperature,
        threshold=model.threshold,
        class_names=None if model.class_names is None else tuple(model.class_names),
        preprocessing=model.preprocessing,
        test_seed=storage.SELFTEST_SEED,
        test_outputs=tuple(outputs),
        test_places=tuple(places.tolist()),
    )


class _Builder:
    """Appends operations layer by layer."""

    def __init__(self, model: Network, target: str):
        self.model, self.target = model, target
        self.operations: list[Operation] = []
        self.ending: str | None = None
        self.last = model.last_layer()

    def add(self, layer: Layer, value: int) -> int:
        """Append what `layer` does to this value; the number of the result."""
        method = _LOWERED.get(type(layer))
        if method is None:
            raise ArgumentError(
                f"{layer.label} cannot be exported to {self.target}: only tinynet's own layers can"
            )
        return method(self, layer, value)

    def record(self, kind: str, layer: Layer, inputs: tuple[int, ...], shape: Shape = (), **fields) -> int:
        """Append one operation; without `shape` the result has that of the first input."""
        if not shape:
            number = inputs[0]
            assert self.model.input_shape is not None
            shape = self.operations[number - 1].shape if number else self.model.input_shape
        self.operations.append(Operation(kind, layer.path, inputs, tuple(shape), **fields))
        return len(self.operations)

    def activate(self, layer: Layer, value: int) -> int:
        """The layer's activation, unless it is the model's last operation."""
        activation = getattr(layer, "activation", None)
        if layer is self.last:
            self.ending = activation
            return value
        return value if activation is None else self.record(activation, layer, (value,))

    def chain(self, layer: Chain, value: int) -> int:
        for inside in layer.layers:
            value = self.add(inside, value)
        return value

    def residual(self, layer: Residual, value: int) -> int:
        return self.record("add", layer, tuple(self.add(branch, value) for branch in layer.branches))

    def concatenate(self, layer: Concatenate, value: int) -> int:
        inputs = tuple(self.add(branch, value) for branch in layer.branches)
        return self.record("concatenate", layer, inputs, _result(layer))

    def convolution(self, layer: Conv2D, value: int) -> int:
        weight, bias = _parameters(layer, layer.filters)
        value = self.record(
            "convolution", layer, (value,), _result(layer),
            weight=weight, bias=bias, window=layer.window(_input(layer)), groups=layer.groups,
        )  # fmt: skip
        return self.activate(layer, value)

    def dense(self, layer: Dense, value: int) -> int:
        weight, bias = _parameters(layer, layer.units)
        value = self.record("dense", layer, (value,), _result(layer), weight=weight, bias=bias)
        return self.activate(layer, value)

    def affine(self, layer: BatchNorm, value: int) -> int:
        """Batch-norm in use: (x - mean) / sqrt(variance + epsilon) * scale + shift, in float64 up to here."""
        mean, variance = (
            layer.buffers[name].astype(np.float64) for name in ("running_mean", "running_variance")
        )
        scale = layer.parameters["scale"].data / np.sqrt(variance + layer.epsilon)
        shift = layer.parameters["shift"].data - mean * scale
        return self.record(
            "affine", layer, (value,), scale=scale.astype(np.float32), shift=shift.astype(np.float32)
        )

    def max_pool(self, layer: MaxPool2D, value: int) -> int:
        return self.record("max_pool", layer, (value,), _result(layer), window=layer.window(_input(layer)))

    def average_pool(self, layer: AveragePool2D, value: int) -> int:
        return self.record(
            "average_pool", layer, (value,), _result(layer), window=layer.window(_input(layer))
        )

    def global_average_pool(self, layer: GlobalAveragePool2D, value: int) -> int:
        channels = _input(layer)[2]
        value = self.record(
            "average_pool", layer, (value,), (1, 1, channels), window=layer.window(_input(layer))
        )
        return self.record("flatten", layer, (value,), (channels,))

    def upsample(self, layer: UpSample2D, value: int) -> int:
        return self.record("upsample", layer, (value,), _result(layer), factor=layer.factor)

    def flatten(self, layer: Flatten, value: int) -> int:
        return self.record("flatten", layer, (value,), _result(layer))

    def dropout(self, layer: Dropout, value: int) -> int:
        return value


_LOWERED: dict[type, Callable] = {
    Chain: _Builder.chain,
    Residual: _Builder.residual,
    Concatenate: _Builder.concatenate,
    Conv2D: _Builder.convolution,
    Dense: _Builder.dense,
    BatchNorm: _Builder.affine,
    MaxPool2D: _Builder.max_pool,
    AveragePool2D: _Builder.average_pool,
    GlobalAveragePool2D: _Builder.global_average_pool,
    UpSample2D: _Builder.upsample,
    Flatten: _Builder.flatten,
    Dropout: _Builder.dropout,
    **dict.fromkeys((ReLU, ReLU6, Sigmoid, Tanh, Softmax), _Builder.activate),
}


def _parameters(layer: Layer, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    weight = np.array(layer.parameters["weight"].data, np.float32)
    bias = layer.parameters.get("bias")
    return weight, np.zeros(outputs, np.float32) if bias is None else np.array(bias.data, np.float32)


def _input(layer: Layer) -> Shape:
    assert layer.input_shape is not None
    return layer.input_shape


def _result(layer: Layer) -> Shape:
    return layer.output_shape(_input(layer))
