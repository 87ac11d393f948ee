"""Carry out a flat list of operations (deploy/graph.py) in plain NumPy: what exported code is held against.

Arrays are (n, height, width, channels) or (n, features), float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tinynet.deploy.graph import Graph, Operation
from tinynet.kernels.window import Window


def run(graph: Graph, images: np.ndarray) -> np.ndarray:
    """The model's answer, as model.predict gives it: (n, classes), or (n, h, w, c)."""
    return answer(graph, logits(graph, images))


def logits(graph: Graph, images: np.ndarray) -> np.ndarray:
    """The result of the last operation."""
    return values(graph, images)[-1]


def values(graph: Graph, images: np.ndarray) -> list[np.ndarray]:
    """Every value by its number, for uint8 images of the model's size or float32 already scaled."""
    if images.dtype == np.uint8:
        scale, shift = graph.input_scale()
        images = images.astype(np.float32) * scale + shift
    found = [images.astype(np.float32, copy=False)]
    for operation in graph.operations:
        result = KINDS[operation.kind](operation, *[found[number] for number in operation.inputs])
        assert result.shape[1:] == operation.shape, operation
        found.append(result)
    return found


def answer(graph: Graph, logits: np.ndarray) -> np.ndarray:
    """What the model says, from its logits: the ending, with the temperature."""
    if graph.ending in ("softmax", "sigmoid"):
        logits = logits / np.float32(graph.temperature)
    return logits if graph.ending is None else ACTIVATIONS[graph.ending](logits)


def convolution(operation: Operation, x: np.ndarray) -> np.ndarray:
    """(n, h, w, c) -> (n, h', w', filters): a matrix product for each group and tap."""
    weight, bias, groups = operation.weight, operation.bias, operation.groups
    assert weight is not None and bias is not None
    y = np.zeros((len(x), *operation.shape), np.float32)
    filters, channels = weight.shape[3] // groups, weight.shape[2]
    for u, v, pixels in taps(_window(operation), x, operation.shape, 0.0):
        for group in range(groups):
            outputs = slice(group * filters, (group + 1) * filters)
            inputs = slice(group * channels, (group + 1) * channels)
            y[..., outputs] += pixels[..., inputs] @ weight[u, v, :, outputs]
    return y + bias


def dense(operation: Operation, x: np.ndarray) -> np.ndarray:
    """(n, features) -> (n, units)."""
    assert operation.weight is not None and operation.bias is not None
    return x @ operation.weight + operation.bias


def affine(operation: Operation, x: np.ndarray) -> np.ndarray:
    """A scale and a shift a channel."""
    assert operation.scale is not None and operation.shift is not None
    return x * operation.scale + operation.shift


def max_pool(operation: Operation, x: np.ndarray) -> np.ndarray:
    """(n, h, w, c) -> (n, h', w', c)."""
    seen = [pixels for _, _, pixels in taps(_window(operation), x, operation.shape, -np.inf)]
    return np.max(seen, axis=0)


def average_pool(operation: Operation, x: np.ndarray) -> np.ndarray:
    """(n, h, w, c) -> (n, h', w', c); padding does not count."""
    window = _window(operation)
    total = sum(pixels for _, _, pixels in taps(window, x, operation.shape, 0.0))
    inside = np.ones((1, *x.shape[1:3], 1), np.float32)
    count = sum(pixels for _, _, pixels in taps(window, inside, operation.shape, 0.0))
    return np.asarray(total * (np.float32(1) / count), np.float32)


def upsample(operation: Operation, x: np.ndarray) -> np.ndarray:
    """(n, h, w, c) -> (n, h * factor[0], w * factor[1], c)."""
    return x.repeat(operation.factor[0], axis=1).repeat(operation.factor[1], axis=2)


def flatten(operation: Operation, x: np.ndarray) -> np.ndarray:
    """(n, h, w, c) -> (n, h * w * c)."""
    return x.reshape(len(x), -1)


def add(operation: Operation, *xs: np.ndarray) -> np.ndarray:
    """The sum of arrays of one shape, from the first to the last."""
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


def concatenate(operation: Operation, *xs: np.ndarray) -> np.ndarray:
    """The channels of each, one after another."""
    return np.concatenate(xs, axis=-1)


def taps(
    window: Window, x: np.ndarray, shape: tuple[int, ...], outside: float
) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each tap (u, v) of the window the pixels it reads, (n, h', w', c), `outside` beyond the image."""
    padded = np.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=outside)
    for u in range(window.size[0]):
        for v in range(window.size[1]):
            row, column = u * window.dilation[0], v * window.dilation[1]
            rows = slice(row, row + (shape[0] - 1) * window.stride[0] + 1, window.stride[0])
            columns = slice(column, column + (shape[1] - 1) * window.stride[1] + 1, window.stride[1])
            yield u, v, padded[:, rows, columns]


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(x, np.float32(0))


def relu6(x: np.ndarray) -> np.ndarray:
    """min(max(x, 0), 6)."""
    return np.minimum(np.maximum(x, np.float32(0)), np.float32(6))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), from exp(-|x|), which cannot overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, np.float32(1), small) / (1 + small)


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) / sum exp(x) over the last axis; the maximum is taken out so that nothing overflows."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": relu,
    "relu6": relu6,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softmax": softmax,
}

KINDS: dict[str, Callable[..., np.ndarray]] = {
    "convolution": convolution,
    "dense": dense,
    "affine": affine,
    "max_pool": max_pool,
    "average_pool": average_pool,
    "upsample": upsample,
    "flatten": flatten,
    "add": add,
    "concatenate": concatenate,
    **{name: lambda operation, x, f=function: f(x) for name, function in ACTIVATIONS.items()},
}


def _window(operation: Operation) -> Window:
    assert operation.window is not None
    return operation.window
