"""From the nodes of a graph to tinynet's layers: chains, and blocks of branches (structure.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet import layers as L
from tinynet.errors import TinynetError
from tinynet.layers import Layer
from tinynet.onnx_import.nodes import NODES
from tinynet.onnx_import.place import Form, Place
from tinynet.onnx_import.structure import Step, Structure


class Translation:
    """Layers, their weights and what else was found on the way from a graph's input to its output.

    start, end      how input and output lie
    scaling         scale and shift of bytes before the first layer, float64, a number or one a channel
    temperature     of the classifier, where it is `stated` and the graph divides by it at its end
    weights         arrays by name for each layer that has some
    """

    def __init__(self, structure: Structure, start: Form, stated: Any):
        self.structure, self.start, self.end = structure, start, start
        self.from_bytes = structure.dtypes[structure.input] == np.uint8
        self.scaling = np.ones(1), np.zeros(1)
        self.temperature, self.stated = 1.0, stated
        self.arrays: dict[Layer, dict[str, np.ndarray]] = {}
        self.whole: set[Layer] = set()  # pools whose window is all of the image
        self.scalable = self.from_bytes  # nothing but scaling so far

    @property
    def weights(self) -> list[tuple[Layer, dict[str, np.ndarray]]]:
        return list(self.arrays.items())

    def layers(self) -> list[Layer]:
        """Those of the whole graph; raises ModelFileError, naming the node, where there is none for it."""
        steps = self.structure.steps()
        self._find_temperature(steps)
        made, self.end = self.chain(steps, self.start)
        if self.end.padding is not None:
            self.structure.refuse(steps[-1].node, "padding that no convolution follows")
        if self.end.order is not None:
            self.structure.refuse(steps[-1].node, "the output is flattened channels first")
        return made

    def chain(self, steps: Sequence[Step], form: Form) -> tuple[list[Layer], Form]:
        """The layers of a chain that starts from a value of this form, and the form of its result."""
        made: list[Layer] = []
        for step in steps:
            try:
                form = self._block(step, made, form) if step.branches else self._node(step, made, form)
            except (ValueError, TypeError, OverflowError) as problem:
                if isinstance(problem, TinynetError) and str(problem).startswith(self.structure.model.path):
                    raise
                self.structure.refuse(step.node, " ".join(str(problem).split()))
            if made:
                self.scalable = False
        return made, form

    def _node(self, step: Step, made: list[Layer], form: Form) -> Form:
        node = step.node
        method = NODES.get(node.operator)
        if method is None:
            self.structure.refuse(node, f"there is no layer for {node.operator}")
        if form.padding is not None and node.operator not in ("Conv", "Identity", "Cast"):
            self.structure.refuse(node, "it follows padding, which only a convolution can take in")
        shape, target = self.structure.shapes[step.value], self.structure.shapes[node.outputs[0]]
        return method(Place(self, node, made, form, shape, target))

    def _block(self, step: Step, made: list[Layer], form: Form) -> Form:
        node, self.scalable = step.node, False
        if form.padding is not None:
            self.structure.refuse(node, "it follows padding, which only a convolution can take in")
        branches = [self.chain(branch, form) for branch in step.branches]
        if any(name not in self.structure.depth for name in filter(None, node.inputs)):
            self.structure.refuse(node, "it joins branches with a constant")
        forms, chains = {result for _, result in branches}, [layers for layers, _ in branches]
        if len(forms) > 1:
            self.structure.refuse(node, "its branches lie in different orders")
        (result,) = forms
        shapes = {self.structure.shapes[name] for name in node.inputs if name}
        if node.operator in ("Add", "Sum"):
            if len(shapes) > 1:
                self.structure.refuse(node, "it adds values of different shapes")
            while len(chains) > 2:  # all start from the same value
                chains = [[L.Residual(chains[0], chains[1])], *chains[2:]]
            made.append(L.Residual(chains[0], chains[1]))
            return result
        if node.operator == "Concat":
            axes = len(next(iter(shapes)))
            if (
                result.axes == "vector"
                or node.attributes["axis"] % axes != {"nchw": 1, "nhwc": 3}[result.axes]
            ):
                self.structure.refuse(node, "only the channels of images can be joined")
            made.append(L.Concatenate(chains))
            return result
        self.structure.refuse(node, f"there is no block for {node.operator}")

    def _find_temperature(self, steps: list[Step]) -> None:
        """A division by the stated temperature right before the last activation is no layer."""
        if not isinstance(self.stated, int | float) or isinstance(self.stated, bool):
            return
        rest = [step for step in steps if step.node.operator not in ("Identity", "Transpose")]
        if len(rest) < 2 or rest[-1].node.operator not in ("Softmax", "Sigmoid"):
            return
        division = rest[-2]
        constants = self.structure.constants
        by = constants.get(division.node.inputs[1]) if division.node.operator == "Div" else None
        if by is not None and by.size == 1 and math.isclose(float(by.reshape(())), self.stated, rel_tol=1e-6):
            self.temperature = float(self.stated)
            steps.remove(division)
