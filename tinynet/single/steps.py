"""A model's layers as the few kinds of steps that the single-image kernel has, fused where that saves a pass.

Shapes are (channels, height, width) here, as in the kernel; a vector of features is (features, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinynet.errors import ArgumentError
from tinynet.kernels.window import Window
from tinynet.layers import (
    AveragePool2D,
    BatchNorm,
    Chain,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    MaxPool2D,
    ReLU,
    ReLU6,
    Shape,
    Sigmoid,
    Softmax,
    Tanh,
    UpSample2D,
)

Planes = tuple[int, int, int]  # channels, height, width
LIMITS = {None: (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
ALONE = (ReLU, ReLU6, Sigmoid, Tanh, Softmax)  # layers that are an activation and nothing else


@dataclass
class Step:
    """What every step has: the shape it takes, and the one it gives."""

    source: Planes
    target: Planes


@dataclass
class Finish:
    """What happens to a number before it is stored: + bias, within limits, * scale, + shift, by output."""

    bias: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    limits: tuple[float, float] = LIMITS[None]

    @classmethod
    def nothing(cls, outputs: int, bias: np.ndarray | None = None) -> Finish:
        """The bias, if there is one, and no more."""
        bias = np.zeros(outputs) if bias is None else bias.astype(np.float64)
        return cls(bias, np.ones(outputs), np.zeros(outputs))


@dataclass
class Convolution(Step):
    """A convolution, with what follows it; `pooled` where that includes a 2x2 max-pool."""

    weight: np.ndarray  # (kh, kw, channels / groups, outputs)
    window: Window
    groups: int
    finish: Finish
    pooled: bool = False


@dataclass
class Connection(Step):
    """A dense layer, with what follows it."""

    weight: np.ndarray  # (features, outputs)
    finish: Finish


@dataclass
class Pooling(Step):
    """The maximum or mean of each window."""

    window: Window
    mean: bool


@dataclass
class Enlarging(Step):
    """Every pixel repeated."""

    factor: tuple[int, int]


@dataclass
class Flattening(Step):
    """(c, h, w) -> (h * w * c, 1, 1), counted rows, columns, channels."""


@dataclass
class Elements(Step):
    """A function ("", "sigmoid" or "tanh") of every number, then limits, scale and shift."""

    function: str = ""
    temperature: float = 1.0
    finish: Finish = field(default_factory=lambda: Finish.nothing(0))


@dataclass
class Probabilities(Step):
    """Softmax over a vector."""

    temperature: float


def steps_of(layers: Sequence[Layer], input_shape: Shape, temperature: float) -> list[Step]:
    """The steps of a built model.  Raises ArgumentError that names a layer which no step can express."""
    found: list[Step] = []
    rest = list(_flat(layers))
    last = rest[-1] if rest else None
    shape = planes(input_shape)
    while rest:
        layer = rest.pop(0)
        final = temperature if layer is last else 1.0
        if isinstance(layer, Dropout):
            continue
        if isinstance(layer, Conv2D):
            step: Step = _convolution(layer, shape, rest)
        elif isinstance(layer, Dense):
            step = _dense(layer, shape, rest)
        elif isinstance(layer, MaxPool2D | AveragePool2D | GlobalAveragePool2D):
            window = layer.window(shape[1:])
            target = (shape[0], *window.output_size(*shape[1:]))
            step = Pooling(shape, target, window, mean=not isinstance(layer, MaxPool2D))
        elif isinstance(layer, UpSample2D):
            target = (shape[0], shape[1] * layer.factor[0], shape[2] * layer.factor[1])
            step = Enlarging(shape, target, layer.factor)
        elif isinstance(layer, Flatten):
            step = Flattening(shape, (math.prod(shape), 1, 1))
        elif isinstance(layer, BatchNorm):
            step = Elements(shape, shape, finish=Finish(np.zeros(shape[0]), *_affine(layer)))
        elif isinstance(layer, ALONE):
            found += _activation(layer, layer.activation, shape, final)
            continue
        else:
            raise ArgumentError(f"{layer.label} is not one that a compiled single-image model can express")
        found.append(step)
        shape = step.target
        if isinstance(layer, Conv2D | Dense) and layer.activation not in LIMITS:
            found += _activation(layer, layer.activation, shape, final)
    return found


def planes(shape: Shape) -> Planes:
    """(h, w, c) or (features,) -> (c, h, w)."""
    return (shape[2], shape[0], shape[1]) if len(shape) == 3 else (shape[0], 1, 1)


def _flat(layers: Sequence[Layer]) -> Iterator[Layer]:
    for layer in layers:
        if isinstance(layer, Chain):
            yield from _flat(layer.layers)
        else:
            yield layer


def _affine(layer: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of each channel, by the running statistics; float64."""
    values = {name: parameter.data.astype(np.float64) for name, parameter in layer.parameters.items()}
    variance = layer.buffers["running_variance"].astype(np.float64)
    scale = values["scale"] / np.sqrt(variance + layer.epsilon)
    return scale, values["shift"] - scale * layer.buffers["running_mean"]


def _next(rest: list[Layer], kind: type) -> Layer | None:
    """Take the next layer if it is of this kind; dropout, which does nothing in use, is passed over."""
    while rest and isinstance(rest[0], Dropout):
        rest.pop(0)
    return rest.pop(0) if rest and isinstance(rest[0], kind) else None


def _weighted(layer: Conv2D | Dense, outputs: int, rest: list[Layer]) -> tuple[np.ndarray, Finish]:
    """The weight, and the finish with the bias, a batch-norm and a rectifier, as far as they follow."""
    weight = layer.parameters["weight"].data.astype(np.float64)
    bias = layer.parameters.get("bias")
    finish = Finish.nothing(outputs, None if bias is None else bias.data)
    activation = layer.activation
    if activation is None:
        norm = _next(rest, BatchNorm)
        if isinstance(norm, BatchNorm):  # nothing between them: it is another weight and bias
            scale, shift = _affine(norm)
            weight, finish.bias = weight * scale, finish.bias * scale + shift
        rectifier = _next(rest, ReLU | ReLU6)  # type: ignore[arg-type]
        activation = getattr(rectifier, "activation", None)
    finish.limits = LIMITS.get(activation, LIMITS[None])
    return weight, finish


def _convolution(layer: Conv2D, shape: Planes, rest: list[Layer]) -> Convolution:
    weight, finish = _weighted(layer, layer.filters, rest)
    window = layer.window(shape[1:])
    height, width = window.output_size(*shape[1:])
    step = Convolution(shape, (layer.filters, height, width), weight, window, layer.groups, finish)
    if layer.activation not in LIMITS:
        return step
    while rest and isinstance(rest[0], Dropout):
        rest.pop(0)
    pool = rest[0] if rest else None
    if isinstance(pool, MaxPool2D) and pool.window((height, width)) == Window((2, 2), (2, 2)):
        rest.pop(0)
        step.pooled, step.target = True, (layer.filters, height // 2, width // 2)
    norm = _next(rest, BatchNorm)
    if isinstance(norm, BatchNorm):
        finish.scale, finish.shift = _affine(norm)
    return step


def _dense(layer: Dense, shape: Planes, rest: list[Layer]) -> Connection:
    weight, finish = _weighted(layer, layer.units, rest)
    norm = _next(rest, BatchNorm) if layer.activation in LIMITS else None
    if isinstance(norm, BatchNorm):
        finish.scale, finish.shift = _affine(norm)
    return Connection(shape, (layer.units, 1, 1), weight, finish)


def _activation(layer: Layer, activation: str | None, shape: Planes, temperature: float) -> list[Step]:
    if activation == "softmax":
        if shape[1:] != (1, 1):
            raise ArgumentError(f"{layer.label}: a compiled single-image model has softmax of vectors only")
        return [Probabilities(shape, shape, temperature)]
    finish = Finish.nothing(shape[0])
    if activation in LIMITS:
        finish.limits = LIMITS[activation]
        return [Elements(shape, shape, finish=finish)]
    assert activation is not None
    return [Elements(shape, shape, activation, temperature if activation == "sigmoid" else 1.0, finish)]
