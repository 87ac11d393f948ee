"""From a float model and calibration images to an int8 model: docs/int8.md, "How the numbers are chosen"."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tinynet.arguments import as_array
from tinynet.deploy import interpreter
from tinynet.deploy.float16 import metrics_before
from tinynet.deploy.graph import Graph, lower
from tinynet.deploy.graph import Operation as Step
from tinynet.deploy.int8 import arithmetic, operations
from tinynet.deploy.int8.arithmetic import HIGHEST, LARGEST_WEIGHT, LOWEST, round_half_up
from tinynet.deploy.int8.calibration import Range, ranges
from tinynet.deploy.int8.correction import LARGEST_BIAS, correct_biases
from tinynet.deploy.int8.folding import fold
from tinynet.deploy.int8.model import Int8Model
from tinynet.deploy.int8.program import Program
from tinynet.deploy.int8.values import Store, Value
from tinynet.deploy.int8.windows import pixel_counts
from tinynet.errors import ArgumentError, DataError
from tinynet.network import Network

CALIBRATION = "mse"  # measured: docs/int8.md
ROOM = LARGEST_BIAS  # 2**29 for the bias, and for the products: together they stay below 2**31
MOVING = ("max_pool", "upsample", "flatten")  # results are values of the input, in its scale
RECTIFIERS = ("relu", "relu6")
STORING = ("convolution", "dense", "affine", "average_pool", "add", "concatenate")


def convert(
    model: Network, images: Any, calibration: str = CALIBRATION, *, correction: bool = True
) -> Int8Model:
    """The int8 model nearest to a float model.

    images       those to calibrate with: uint8 (n, h, w, 3) of the model's size, or float32 for a model
                 without preprocessing; a few hundred that look like those to come, none of the test's
    calibration  "max", "percentile" or "mse": see tinynet/deploy/int8/calibration.py
    correction   whether biases make up for what rounding does to means (tinynet/deploy/int8/correction.py)

    Raises ArgumentError, naming the layer, for what int8 has no form for (a softmax before the end),
    DataError without images, NonFiniteError for NaN or infinity in weights, images or on the way.
    """
    if not isinstance(model, Network):
        raise ArgumentError(f"only a float model can be made int8, not {type(model).__name__}")
    graph = lower(model, target="int8")
    if images is None or len(images) == 0:
        raise DataError("int8 needs images to calibrate with, and there are none")
    images = as_array("calibration images", images)
    if images.shape[1:] != graph.input_shape:
        raise ArgumentError(
            f"calibration images must be (n, {', '.join(map(str, graph.input_shape))}), got {images.shape}"
        )
    graph, x = _levels(graph, images)
    graph = fold(graph)
    found = ranges(graph, x, calibration)
    scale, zero = _input_encoding(graph, found[0], model)
    builder = _Builder(graph, found, Value(graph.input_shape, scale, zero))
    program = builder.program()
    if correction:
        encoded = arithmetic.quantize(x.astype(np.float64), scale, zero)
        program = correct_biases(program, graph, builder.places, builder.scales, encoded, x)
    return Int8Model(
        program,
        name=model.name,
        activation=graph.ending,
        preprocessing=model.preprocessing,
        class_names=model.class_names,
        threshold=model.threshold,
        temperature=model.temperature,
        provenance={**model.provenance, "calibration": {"method": calibration, "images": len(images)}},
        metrics=metrics_before(model),
    )


def _levels(graph: Graph, images: np.ndarray) -> tuple[Graph, np.ndarray]:
    """The graph over levels times one scale, and the images so: what is left of preprocessing is affine."""
    made = graph.preprocessing
    if made is None:
        if images.dtype.kind != "f":
            raise ArgumentError(f"calibration images must be float32 for this model, got {images.dtype}")
        return graph, images.astype(np.float32)
    if images.dtype != np.uint8:
        raise ArgumentError(f"calibration images must be uint8, got {images.dtype}")
    x = images.astype(np.float32) * np.float32(_level(graph))
    if _is_uniform(graph):
        return graph, x
    deviation = np.array(made.deviation)
    shift = -np.array(made.mean) / deviation
    normalise = Step(
        "affine", "input", (0,), graph.input_shape,
        scale=(1 / deviation).astype(np.float32), shift=shift.astype(np.float32),
    )  # fmt: skip
    rest = [replace(step, inputs=tuple(number + 1 for number in step.inputs)) for step in graph.operations]
    return replace(graph, operations=(normalise, *rest)), x


def _is_uniform(graph: Graph) -> bool:
    made = graph.preprocessing
    return made is not None and not any(made.mean) and len(set(made.deviation)) == 1


def _level(graph: Graph) -> float:
    """The real number of one level of the picture, as value 0 has it."""
    made = graph.preprocessing
    assert made is not None
    return made.scale / made.deviation[0] if _is_uniform(graph) else made.scale


def _input_encoding(graph: Graph, found: Range, model: Network) -> tuple[float, int]:
    if model.preprocessing is not None:
        return float(_level(graph)), LOWEST
    return arithmetic.range_of(*found)


class _Builder:
    """Appends int8 operations, step by step of the float graph."""

    def __init__(self, graph: Graph, found: list[Range], first: Value):
        self.graph, self.ranges, self.first = graph, found, first
        self.operations: list[operations.Operation] = []
        self.places: list[int] = []  # of the operations' steps in the float graph
        self.scales: list[np.ndarray | None] = []  # of their sums, by channel
        self.values = [first]
        self.number = {0: 0}  # of the int8 value that stands for a float one
        self.names: set[str] = set()

    def program(self) -> Program:
        """The whole model."""
        for place, step in enumerate(self.graph.operations):
            if step.kind == "softmax":
                raise ArgumentError(f"layer {step.name!r}: int8 has no softmax before the end of a model")
            if step.kind in RECTIFIERS and self._is_fused(place):
                self.number[place + 1] = self.number[step.inputs[0]]
                continue
            inputs = tuple(self.number[number] for number in step.inputs)
            values = [self.values[number] for number in inputs]
            self.places.append(place)
            self.scales.append(None)
            operation = self._operation(place, step, inputs, values)
            self.operations.append(operation)
            self.values.append(operation.result(values))
            self.number[place + 1] = len(self.values) - 1
        return Program(self.first, tuple(self.operations))

    def _operation(
        self, place: int, step: Step, inputs: tuple[int, ...], values: list[Value]
    ) -> operations.Operation:
        name = self._name(step)
        if step.kind == "max_pool":
            assert step.window is not None
            return operations.MaxPool(name, inputs, step.window)
        if step.kind == "upsample":
            return operations.UpSample(name, inputs, step.factor)
        if step.kind == "flatten":
            return operations.Flatten(name, inputs)
        if step.kind in ("convolution", "dense", "affine"):
            return self._weighted(place, step, name, inputs, values[0])
        if step.kind == "average_pool":
            return self._average(place, step, name, inputs, values[0])
        if step.kind == "add":
            encoding = self._encoding(place)
            factors = np.array([value.scale for value in values]) / encoding[0]
            multiplier, shift = arithmetic.shared_shift(factors)
            store = Store(*encoding, multiplier, np.array([shift], np.uint8))
            return operations.Add(name, inputs, store)
        if step.kind == "concatenate":
            encoding = self._encoding(place)
            factors = np.array([value.scale for value in values]) / encoding[0]
            store = Store(*encoding, *arithmetic.multipliers_and_shifts(factors))
            return operations.Concatenate(name, inputs, store)
        return self._table(place, step, name, inputs, values[0])

    def _weighted(
        self, place: int, step: Step, name: str, inputs: tuple[int, ...], value: Value
    ) -> operations.Operation:
        """A convolution, dense layer or affine function."""
        last = place == len(self.graph.operations) - 1 and step.kind != "affine"
        real, bias = (step.scale, step.shift) if step.kind == "affine" else (step.weight, step.bias)
        assert real is not None and bias is not None
        scales = weight_scales(real, bias, value.scale)
        if last:  # one scale, so that the integers of the classes can be compared
            scales = np.full_like(scales, scales.max())
        weight = np.clip(round_half_up(real / scales), -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)
        whole_bias = round_half_up(bias / (value.scale * scales)).astype(np.int32)
        self.scales[-1] = value.scale * scales
        store: Store | float = float(value.scale * scales[0])
        if not last:
            encoding = self._encoding(place)
            factors = value.scale * scales / encoding[0]
            store = Store(*encoding, *arithmetic.multipliers_and_shifts(factors))
        if step.kind == "convolution":
            assert step.window is not None
            return operations.Convolution(name, inputs, weight, whole_bias, store, step.window, step.groups)
        kind = operations.Dense if step.kind == "dense" else operations.Affine
        return kind(name, inputs, weight, whole_bias, store)

    def _average(
        self, place: int, step: Step, name: str, inputs: tuple[int, ...], value: Value
    ) -> operations.Operation:
        assert step.window is not None
        numbers = np.unique(pixel_counts(step.window, value.shape))
        if place == len(self.graph.operations) - 1 and len(numbers) == 1:
            return operations.AveragePool(name, inputs, step.window, value.scale / int(numbers[0]))
        encoding = self._encoding(place)
        factors = value.scale / (encoding[0] * numbers)
        store = Store(*encoding, *arithmetic.multipliers_and_shifts(factors))
        return operations.AveragePool(name, inputs, step.window, store)

    def _table(
        self, place: int, step: Step, name: str, inputs: tuple[int, ...], value: Value
    ) -> operations.Operation:
        """An activation that is no rectifier, or a rectifier that cannot be part of what it follows."""
        scale, zero, _, _ = self._encoding(place)
        assert value.zero is not None
        every = np.arange(LOWEST, HIGHEST + 1, dtype=np.int8)
        real = interpreter.ACTIVATIONS[step.kind](arithmetic.dequantize(every, value.scale, value.zero))
        table = arithmetic.quantize(real.astype(np.float64), scale, zero)
        return operations.Table(name, inputs, table, scale, zero)

    def _encoding(self, place: int) -> tuple[float, int, int, int]:
        """Scale, zero, low and high of the int8 result of this step, with the rectifier it takes in.

        The range is that of the last value along a line of single readers which only move values or
        rectify them: what a rectifier or a maximum drops need not be covered.
        """
        end, low, high = place, None, math.inf
        while (following := self._only_reader(end)) is not None:
            kind = self.graph.operations[following].kind
            if kind not in MOVING and kind not in RECTIFIERS:
                break
            if kind in RECTIFIERS:
                low = 0
                high = 6.0 if kind == "relu6" else high
            end = following
        scale, zero = arithmetic.range_of(*self.ranges[end + 1])
        most = HIGHEST if math.isinf(high) else min(HIGHEST, zero + int(round_half_up(high / scale)))
        return scale, zero, LOWEST if low is None else zero, most

    def _is_fused(self, place: int) -> bool:
        """Whether a rectifier is the clamping of an operation before it (see `_encoding`)."""
        number = self.graph.operations[place].inputs[0]
        while number and len(self.graph.readers(number)) == 1:
            kind = self.graph.operations[number - 1].kind
            if kind in STORING:
                return True
            if kind not in MOVING and kind not in RECTIFIERS:
                return False
            number = self.graph.operations[number - 1].inputs[0]
        return False

    def _only_reader(self, place: int) -> int | None:
        readers = self.graph.readers(place + 1)
        return readers[0] if len(readers) == 1 and readers[0] != place else None

    def _name(self, step: Step) -> str:
        """The layer's path, with the kind where several operations come from one layer."""
        name = step.name if step.name not in self.names else f"{step.name}:{step.kind}"
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name


def weight_scales(weight: np.ndarray, bias: np.ndarray, input_scale: float) -> np.ndarray:
    """The scale of each output channel's weights, float64: the largest weight becomes 127.

    Larger where the bias, in units of input_scale * scale, or the sum of many weights would not fit 32
    bits; 1 for a channel of zeros.
    """
    magnitude = np.abs(weight.astype(np.float64))
    axes = tuple(range(weight.ndim - 1))
    largest = magnitude.max(axis=axes) / LARGEST_WEIGHT
    total = 256 * magnitude.sum(axis=axes) / ROOM
    offset = np.abs(bias.astype(np.float64)) / (input_scale * ROOM)
    scales = np.maximum(np.maximum(largest, total), offset)
    return np.where(scales > 0, scales, 1.0)
