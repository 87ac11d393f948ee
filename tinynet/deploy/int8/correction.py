"""Biases corrected so that every layer's mean is what it is in the float model.

Rounding weights and clamping values shifts the mean of each channel by a little, and the shifts of many
channels add up in the layers after.  On the calibration images they can be seen, and taken out of the bias:

    bias[o] += round((mean of the float result - mean of the int8 sums * scale) / scale)

layer by layer, each on what the corrected layers before it give.
Source: Nagel et al., Data-free quantization through weight equalization and bias correction
(arXiv:1906.04721), section 4.2, with the expectations measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinynet.deploy import interpreter
from tinynet.deploy.graph import Graph
from tinynet.deploy.int8.arithmetic import round_half_up
from tinynet.deploy.int8.operations import Affine, Convolution, Dense
from tinynet.deploy.int8.program import WORKING_VALUES, Program
from tinynet.deploy.int8.values import Value

KEPT = 2**27  # numbers of the largest value over all images: as many images as that allows
LARGEST_BIAS = 2**29  # leaves the sums of products their room


def correct_biases(
    program: Program,
    graph: Graph,
    places: Sequence[int],
    scales: Sequence[np.ndarray | None],
    encoded: np.ndarray,
    x: np.ndarray,
) -> Program:
    """The program with other biases.

    places   for each operation the place of its step in the float graph
    scales   and the real number of one unit of its sums, a vector of channels; None without sums
    encoded  the images as the program's value 0, int8
    x        the same images as the graph's, float32
    """
    largest = max(math.prod(value.shape) for value in program.values)
    count = max(1, min(len(x), KEPT // largest))
    some = np.arange(count) * len(x) // count  # spread over all of them
    encoded, x = encoded[some], x[some]
    at_once = max(1, WORKING_VALUES // largest)
    wanted = _means(
        graph, {place for place, scale in zip(places, scales, strict=True) if scale is not None}, x
    )
    last_reader = {number: at for at, op in enumerate(program.operations) for number in op.inputs}
    arrays = {0: encoded}
    operations = []
    for at, (operation, place, scale) in enumerate(zip(program.operations, places, scales, strict=True)):
        values, inputs = program.inputs(operation), [arrays[number] for number in operation.inputs]
        if isinstance(operation, Convolution | Dense | Affine) and scale is not None:
            found = _mean_sums(operation, inputs, values, at_once)
            bias = operation.bias + round_half_up(wanted[place] / scale - found)
            bias = np.clip(bias, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)
            operation = replace(operation, bias=bias)
        operations.append(operation)
        parts = [
            operation.run([array[first : first + at_once] for array in inputs], values)
            for first in range(0, count, at_once)
        ]
        for number in set(operation.inputs):
            if last_reader[number] == at:
                del arrays[number]
        arrays[at + 1] = np.concatenate(parts)
    return Program(program.input, tuple(operations))


def _means(graph: Graph, places: set[int], x: np.ndarray) -> dict[int, np.ndarray]:
    """The mean of each channel of the results of these steps, float64."""
    largest = max(math.prod(graph.shape(number)) for number in range(len(graph.operations) + 1))
    size = max(1, WORKING_VALUES // largest)
    sums: dict[int, np.ndarray] = {}
    for first in range(0, len(x), size):
        values = interpreter.values(graph, x[first : first + size])
        for place in places:
            sums[place] = sums.get(place, 0) + _channel_sums(values[place + 1])
    return {place: total / (len(x) * _pixels(graph.shape(place + 1))) for place, total in sums.items()}


def _mean_sums(
    operation: Convolution | Dense | Affine, inputs: list[np.ndarray], values: list[Value], at_once: int
) -> np.ndarray:
    """The mean of each channel of the int32 sums."""
    left = replace(operation, store=1.0)  # the sums themselves
    total = np.zeros(operation.bias.size)
    for first in range(0, len(inputs[0]), at_once):
        total += _channel_sums(left.run([array[first : first + at_once] for array in inputs], values))
    return total / (len(inputs[0]) * _pixels(left.result(values).shape))


def _channel_sums(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=tuple(range(values.ndim - 1)), dtype=np.float64)


def _pixels(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])
