"""One node of a graph while it becomes layers, and how the values of a graph lie.

A value of the graph is images, channels first (nchw) or last (nhwc), or vectors; tinynet's images are
always channels last.  A transposition between the two is therefore no layer, only another `Form`, and
weights that read a vector which was flattened channels first are put into tinynet's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tinynet import layers as L
from tinynet.layers import Layer
from tinynet.onnx_import.records import Node

if TYPE_CHECKING:
    from tinynet.onnx_import.translation import Translation


@dataclass(frozen=True)
class Form:
    """How a value of the graph lies.

    axes     "nchw", "nhwc" or "vector"
    order    of a vector: (c, h, w) where it was flattened channels first; None: tinynet's order
    padding  of images: zeros around them which the graph has and the model has not yet
    """

    axes: str
    order: tuple[int, int, int] | None = None
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None


@dataclass
class Place:
    """One node to be translated.

    made     the layers of its chain so far, to be appended to
    form     of what it reads
    shape    of what it reads
    target   of its result
    """

    translation: Translation
    node: Node
    made: list[Layer]
    form: Form
    shape: tuple[int, ...]
    target: tuple[int, ...]

    def refuse(self, problem: str) -> NoReturn:
        self.translation.structure.refuse(self.node, problem)

    def constant(self, place: int) -> np.ndarray | None:
        """An input that does not depend on the graph's; None where there is none."""
        names = self.node.inputs
        name = names[place] if place < len(names) else ""
        if not name:
            return None
        found = self.translation.structure.constants.get(name)
        if found is None:
            self.refuse(f"its input number {place + 1} depends on the graph's input")
        return found

    def add(self, layer: Layer, **arrays: np.ndarray) -> None:
        self.made.append(layer)
        if arrays:
            self.translation.arrays[layer] = {
                name: np.asarray(array, np.float64) for name, array in arrays.items()
            }

    def last(self, *kinds: type[Layer]) -> Any:
        """The chain's last layer, if it is one of these and has no activation yet."""
        layer = self.made[-1] if self.made else None
        return layer if isinstance(layer, kinds) and getattr(layer, "activation", None) is None else None

    def pixels(self) -> tuple[int, int]:
        """Height and width of the images it reads."""
        if self.form.axes == "vector" or len(self.shape) != 4:
            self.refuse(f"it reads values of shape {self.shape}; wanted images")
        return (self.shape[2], self.shape[3]) if self.form.axes == "nchw" else (self.shape[1], self.shape[2])

    def channels_first(self) -> None:
        if self.pixels() and self.form.axes != "nchw":
            self.refuse("it reads images whose channels are last as if they were first")

    def to_vector(self) -> None:
        """Append what makes vectors of images: Flatten, or the global mean that a mean over all of one is."""
        pool = self.last(L.AveragePool2D)
        if pool is not None and pool in self.translation.whole:
            self.made[-1] = L.GlobalAveragePool2D()
        else:
            self.add(L.Flatten())

    def features(self, values: np.ndarray) -> np.ndarray:
        """The last axis of an array, a number a feature, in tinynet's order."""
        if self.form.order is None:
            return values
        channels, height, width = self.form.order
        split = values.reshape(*values.shape[:-1], channels, height, width)
        return np.moveaxis(split, -3, -1).reshape(values.shape)
