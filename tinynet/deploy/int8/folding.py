"""Affine functions (batch-norm, preprocessing) made part of their neighbours where that changes nothing.

    backward  (w x + b) * scale + shift  =  (w scale) x + (b scale + shift)
              into a convolution or dense layer whose result nothing else reads
    forward   w (x scale + shift) + b    =  (w scale) x + (b + w shift)
              into dense layers and other affine functions, also through a flatten, and into convolutions
              without padding: that is zero after the affine function, and would be -shift / scale before it

After a rectifier and a pool neither holds for a convolution with padding: the affine function stays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinynet.deploy.graph import Graph, Operation

NO_PADDING = ((0, 0), (0, 0))


def fold(graph: Graph) -> Graph:
    """The same function with as few affine operations as possible."""
    place = 0
    while place < len(graph.operations):
        operation = graph.operations[place]
        folded = None
        if operation.kind == "affine":
            folded = _backward(graph, place) or _forward(graph, place)
        if folded is None:
            place += 1
        else:
            graph = folded  # one operation fewer: the next one is at the same place
    return graph


def _backward(graph: Graph, place: int) -> Graph | None:
    affine, number = graph.operations[place], graph.operations[place].inputs[0]
    if not number or len(graph.readers(number)) > 1:
        return None
    before = graph.operations[number - 1]
    if before.kind not in ("convolution", "dense", "affine"):
        return None
    scale, shift = _float64(affine.scale), _float64(affine.shift)
    if before.kind == "affine":
        merged = replace(
            before, scale=_float32(_float64(before.scale) * scale),
            shift=_float32(_float64(before.shift) * scale + shift),
        )  # fmt: skip
    else:
        merged = replace(
            before, weight=_float32(_float64(before.weight) * scale),
            bias=_float32(_float64(before.bias) * scale + shift),
        )  # fmt: skip
    return _without(graph, place, {number - 1: merged})


def _forward(graph: Graph, place: int) -> Graph | None:
    affine, changed = graph.operations[place], {}
    waiting = [(place + 1, _float64(affine.scale), _float64(affine.shift))]
    if place == len(graph.operations) - 1:
        return None
    while waiting:
        number, scale, shift = waiting.pop()
        readers = graph.readers(number)
        if not readers:  # it is the model's answer
            return None
        for reader in readers:
            after = graph.operations[reader]
            if after.kind == "flatten":
                copies = int(np.prod(after.shape)) // len(scale)  # (h, w, c) in C order: channels run fastest
                waiting.append((reader + 1, np.tile(scale, copies), np.tile(shift, copies)))
            elif after.kind == "affine":
                further = _float64(after.scale)
                changed[reader] = replace(
                    after, scale=_float32(scale * further),
                    shift=_float32(shift * further + _float64(after.shift)),
                )  # fmt: skip
            elif after.kind == "dense":
                weight = _float64(after.weight)
                changed[reader] = replace(
                    after, weight=_float32(weight * scale[:, None]),
                    bias=_float32(_float64(after.bias) + shift @ weight),
                )  # fmt: skip
            elif after.kind == "convolution" and after.window and after.window.padding == NO_PADDING:
                changed[reader] = _scaled_input(after, scale, shift)
            else:
                return None
    return _without(graph, place, changed)


def _scaled_input(convolution: Operation, scale: np.ndarray, shift: np.ndarray) -> Operation:
    """The convolution of x * scale + shift, as one of x."""
    weight, groups = _float64(convolution.weight), convolution.groups
    filters = weight.shape[3]
    # Filter o sees the channels of group o // (filters / groups): (filters, c / groups) of their numbers.
    seen = np.arange(len(scale)).reshape(groups, -1)[np.arange(filters) // (filters // groups)]
    return replace(
        convolution,
        weight=_float32(weight * scale[seen].T),
        bias=_float32(_float64(convolution.bias) + (weight * shift[seen].T).sum(axis=(0, 1, 2))),
    )


def _without(graph: Graph, place: int, changed: dict[int, Operation]) -> Graph:
    """The graph with some operations changed and the affine one at `place` taken out."""
    removed, source = place + 1, graph.operations[place].inputs[0]

    def renumbered(number: int) -> int:
        return source if number == removed else number - (number > removed)

    operations = [changed.get(index, operation) for index, operation in enumerate(graph.operations)]
    del operations[place]
    return replace(
        graph,
        operations=tuple(
            replace(operation, inputs=tuple(map(renumbered, operation.inputs))) for operation in operations
        ),
    )


def _float64(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array.astype(np.float64)


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)
