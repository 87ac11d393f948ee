"""Blocks: layers made of layers.  A chain, a residual sum and a channel concatenation nest freely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet import functions as F
from tinynet.errors import ArgumentError, ModelFileError, ShapeError
from tinynet.layers.base import Context, Layer, Shape, layer_from_json, layer_to_json, register
from tinynet.layers.fusion import fused
from tinynet.tensor import Tensor, observer


@register
class Chain(Layer):
    """Layers one after another; without any, the identity."""

    kind = "chain"
    options = ("layers",)

    def __init__(self, layers: Sequence[Layer] = (), *, name: str | None = None):
        super().__init__(name)
        self.layers = _layers(type(self).__name__, layers)

    def children(self) -> list[Layer]:
        return self.layers

    def config(self) -> dict[str, Any]:
        return _named(self, layers=[layer_to_json(layer) for layer in self.layers])

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Layer:
        return cls(_chain(options.get("layers")), name=options.get("name"))

    def build(self, input_shape: Shape, rng: np.random.Generator | None) -> Shape:
        self.input_shape = shape = tuple(input_shape)
        for layer in self.layers:
            shape = layer.build(shape, rng)
        return shape

    def output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def multiply_accumulates(self, input_shape: Shape) -> int:
        total = 0
        for layer in self.layers:
            total += layer.multiply_accumulates(input_shape)
            input_shape = layer.output_shape(input_shape)
        return total

    def forward(self, x: Tensor, context: Context) -> Tensor:
        place, observing = 0, observer()
        while place < len(self.layers):
            together = fused(self.layers[place:], x, context)
            x, count = together or (self.layers[place](x, context), 1)
            if observing is not None:
                observing.layers(tuple(layer.path for layer in self.layers[place : place + count]))
            place += count
        return x


class _Branches(Layer):
    """Chains that all start from the block's input."""

    def __init__(self, branches: Sequence[Sequence[Layer]], name: str | None):
        super().__init__(name)
        self.branches = [
            Chain(branch, name=f"branch{number}") for number, branch in enumerate(branches, start=1)
        ]

    def children(self) -> list[Layer]:
        return list(self.branches)

    def build(self, input_shape: Shape, rng: np.random.Generator | None) -> Shape:
        self.input_shape = tuple(input_shape)
        self.output_shape(self.input_shape)  # raises before any parameter is made
        for branch in self.branches:
            branch.build(self.input_shape, rng)
        return self.output_shape(self.input_shape)

    def multiply_accumulates(self, input_shape: Shape) -> int:
        return sum(branch.multiply_accumulates(input_shape) for branch in self.branches)


@register
class Residual(_Branches):
    """body(x) + shortcut(x); without layers the shortcut is x itself.

    Source: He et al., Deep residual learning for image recognition (arXiv:1512.03385), equations 1 and 2.
    """

    kind = "residual"
    options = ("body", "shortcut")

    def __init__(self, body: Sequence[Layer], shortcut: Sequence[Layer] = (), *, name: str | None = None):
        super().__init__([_layers("Residual", body), _layers("Residual", shortcut)], name)

    def config(self) -> dict[str, Any]:
        body, shortcut = self.branches
        return _named(
            self,
            body=[layer_to_json(layer) for layer in body.layers],
            shortcut=[layer_to_json(layer) for layer in shortcut.layers],
        )

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Layer:
        body, shortcut = _chain(options.get("body")), _chain(options.get("shortcut", []))
        return cls(body, shortcut, name=options.get("name"))

    def output_shape(self, input_shape: Shape) -> Shape:
        body, shortcut = (branch.output_shape(input_shape) for branch in self.branches)
        if body != shortcut:
            raise ShapeError(
                f"{self.label}: the body gives {body}, the shortcut {shortcut}; a sum wants one shape"
            )
        return body

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return F.add_images(*[branch(x, context) for branch in self.branches])


@register
class Concatenate(_Branches):
    """The channels of each branch, one after another.

    Source: Szegedy et al., Going deeper with convolutions (arXiv:1409.4842), section 4.
    """

    kind = "concatenate"
    options = ("branches",)

    def __init__(self, branches: Sequence[Sequence[Layer]], *, name: str | None = None):
        if not isinstance(branches, list | tuple) or not branches:
            raise ArgumentError(
                f"Concatenate: wanted a list of branches (lists of layers), got {branches!r:.80}"
            )
        super().__init__([_layers("Concatenate", branch) for branch in branches], name)

    def config(self) -> dict[str, Any]:
        return _named(self, branches=[[layer_to_json(x) for x in branch.layers] for branch in self.branches])

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Layer:
        branches = options.get("branches")
        if not isinstance(branches, list):
            raise ModelFileError("architecture: Concatenate wants a list of branches")
        return cls([_chain(branch) for branch in branches], name=options.get("name"))

    def output_shape(self, input_shape: Shape) -> Shape:
        shapes = [branch.output_shape(input_shape) for branch in self.branches]
        if any(len(shape) != 3 or shape[:2] != shapes[0][:2] for shape in shapes):
            raise ShapeError(f"{self.label}: branches give {shapes}; wanted images of one height and width")
        return (*shapes[0][:2], sum(shape[2] for shape in shapes))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return F.concatenate_channels(*[branch(x, context) for branch in self.branches])


def assign_names(chain: Chain) -> None:
    """Give every layer a path that is its own: conv1, pool1, residual1/branch1/conv1, ...

    Raises ArgumentError where two layers of one chain were given the same name, where one layer
    object stands in two places, or where one already belongs to a model that was built.
    """
    seen: set[int] = set()
    _assign(chain, "", seen)


def _assign(block: Layer, prefix: str, seen: set[int]) -> None:
    taken = {layer.name for layer in block.children() if layer.name}
    counts: dict[str, int] = {}
    used: set[str] = set()
    for layer in block.children():
        if id(layer) in seen:
            raise ArgumentError(f"{layer.label} stands in the model twice; make a layer for each place")
        if layer.input_shape is not None:  # building it again would replace the weights of both models
            raise ArgumentError(
                f"{layer.label} already has weights, of another model; make a new layer and copy them"
            )
        seen.add(id(layer))
        if not layer.name:
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            while f"{layer.kind}{counts[layer.kind]}" in taken:
                counts[layer.kind] += 1
            layer.name = f"{layer.kind}{counts[layer.kind]}"
        if layer.name in used:
            raise ArgumentError(f"two layers are called {layer.name!r}; names must differ")
        used.add(layer.name)
        layer.path = f"{prefix}{layer.name}"
        if layer.path == "input":
            raise ArgumentError("no layer can be called 'input': that is the model's own input")
        for name, parameter in layer.parameters.items():
            parameter.name = f"{layer.path}.{name}"
        _assign(layer, f"{layer.path}/", seen)


def _named(layer: Layer, **options: Any) -> dict[str, Any]:
    return {"name": layer.name, **options} if layer.name else options


def _layers(where: str, layers: Any) -> list[Layer]:
    if not isinstance(layers, list | tuple) or not all(isinstance(layer, Layer) for layer in layers):
        raise ArgumentError(f"{where}: wanted a list of layers, got {layers!r:.80}")
    return list(layers)


def _chain(descriptions: Any) -> list[Layer]:
    if not isinstance(descriptions, list):
        raise ModelFileError(f"architecture: wanted a list of layers, got {descriptions!r:.60}")
    return [layer_from_json(description) for description in descriptions]
