"""How a graph is built up: chains of nodes, and blocks whose branches start from one value and are joined.

The values that depend on the input are ordered by dominance: a value dominates another if every path
from the input to the latter goes through it.  Where a node joins several values, the nearest value
that dominates them all is where its branches start.
Source: Cooper, Harvey and Kennedy, A simple, fast dominance algorithm (2001); one pass is enough here,
for the graph has no cycles.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from tinynet.errors import ModelFileError
from tinynet.onnx_import.graph import OnnxModel
from tinynet.onnx_import.records import Node

DEEPEST = 24  # blocks within blocks
MOST = 5000  # nodes; far above any chain of layers


@dataclass(eq=False)
class Step:
    """A node, with the value it reads, or the branches that it joins."""

    node: Node
    value: str  # of which the node, or each branch, is a function
    branches: list[list[Step]] = field(default_factory=list)


class Structure:
    """What a graph does to its one input, seen in a run.

    constants   every value that does not depend on the input's numbers
    shapes      of every value
    answer      the run's output
    """

    def __init__(self, model: OnnxModel, probe: np.ndarray):
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            counts = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
            raise ModelFileError(f"{model.path}: it has {counts}; a Sequential has one of each")
        if len(model.nodes) > MOST:
            raise ModelFileError(f"{model.path}: it has {len(model.nodes)} nodes; a Sequential takes {MOST}")
        self.model, self.input = model, model.inputs[0].name
        self.constants = dict(model.constants)
        self.shapes = {self.input: probe.shape}
        self.dtypes = {self.input: probe.dtype}
        self.depth = {self.input: 0}
        self.above: dict[str, str] = {}  # the nearest value that dominates
        self.makers: dict[str, Node] = {}
        self.used: set[Node] = set()
        self.answer = model.trace([probe], self._see)[model.outputs[0].name]

    def steps(self) -> list[Step]:
        """From the input to the output."""
        target = self.model.outputs[0].name
        if target not in self.depth:
            raise ModelFileError(f"{self.model.path}: its output does not depend on its input")
        return self._between(self.input, target, 0)

    def refuse(self, node: Node, problem: str) -> NoReturn:
        """Raise ModelFileError for a node that a Sequential cannot express."""
        raise ModelFileError(
            f"{self.model.path}: {node.label} cannot be expressed in tinynet's layers: {problem}"
        )

    def data(self, node: Node) -> list[str]:
        """The inputs of a node that depend on the graph's input."""
        return [name for name in node.inputs if name in self.depth]

    def _see(self, node: Node, results: tuple[np.ndarray, ...]) -> None:
        data = self.data(node)
        fixed = not data or node.operator in ("Shape", "Size")
        nearest = data[0] if data else ""
        for other in data[1:]:
            nearest = self._common(nearest, other)
        for name, result in zip(node.outputs, results, strict=False):
            if not name:
                continue
            self.shapes[name], self.dtypes[name] = result.shape, result.dtype
            if fixed:
                self.constants[name] = result
            else:
                self.makers[name], self.above[name] = node, nearest
                self.depth[name] = self.depth[nearest] + 1

    def _common(self, one: str, other: str) -> str:
        while one != other:
            if self.depth[one] < self.depth[other]:
                one, other = other, one
            one = self.above[one]
        return one

    def _between(self, start: str, end: str, deep: int) -> list[Step]:
        steps = []
        while end != start:
            node = self.makers[end]
            if node in self.used:
                self.refuse(node, "its result is used in several places that do not meet in one block")
            self.used.add(node)
            if deep > DEEPEST:
                self.refuse(node, f"it is more than {DEEPEST} blocks deep")
            if end != node.outputs[0]:
                self.refuse(node, "its second output is used")
            data = self.data(node)
            step = Step(node, self.above[end])
            if len(data) > 1:
                step.branches = [self._between(step.value, value, deep + 1) for value in data]
            steps.append(step)
            end = step.value
        return steps[::-1]
