"""Filters and activation maps of a network, as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinynet.arguments import as_array
from tinynet.errors import ArgumentError, ShapeError
from tinynet.layers import (
    BatchNorm,
    Chain,
    Concatenate,
    Conv2D,
    Dropout,
    Layer,
    ReLU,
    ReLU6,
    Residual,
    Sigmoid,
    Tanh,
)
from tinynet.network import Network

_POINTWISE = (BatchNorm, Dropout, ReLU, ReLU6, Sigmoid, Tanh)


def first_convolution(model: Network) -> Conv2D:
    """The first convolution of the model; raises ArgumentError where it has none."""
    for layer in model.chain.leaves():
        if isinstance(layer, Conv2D):
            return layer
    raise ArgumentError(f"model {model.name!r} has no convolution, so no filters to show")


def first_filters(model: Network) -> np.ndarray:
    """The weights of the first convolution: float32 (height, width, channels / groups, filters)."""
    layer = first_convolution(model)
    if "weight" not in layer.parameters:
        raise ArgumentError(f"{layer.label} has no weights yet: build the model first")
    return layer.parameters["weight"].data.copy()


def last_maps(model: Network) -> str:
    """The name of the layer with the last maps that still tell places apart: what Grad-CAM explains best.

    That is the last convolution (or sum or concatenation of some) with a result larger than one pixel,
    or what normalises and rectifies it, before the pooling or flattening that follows.
    Raises ArgumentError where no layer has such maps.
    """
    chosen: Layer | None = None
    counting = False  # whether what was looked at last belongs to the chosen one
    for layer in _in_a_row(model.chain):
        if isinstance(layer, Conv2D | Residual | Concatenate):
            counting = _is_image(layer)
            chosen = layer if counting else chosen
        elif counting and isinstance(layer, _POINTWISE):
            chosen = layer
        else:
            counting = False
    if chosen is None:
        raise ArgumentError(f"model {model.name!r} has no convolution whose result is larger than one pixel")
    return chosen.path


def batch(model: Network, images: Any) -> np.ndarray:
    """Images as the model takes them, (n, h, w, c): a list of uint8 pictures of any sizes is resized."""
    if isinstance(images, list | tuple) and images and getattr(images[0], "dtype", None) == np.uint8:
        if model.preprocessing is None:
            raise ArgumentError(f"model {model.name!r} has no preprocessing for a list of images")
        return np.stack([model.preprocessing.prepare(image) for image in images])
    return as_array(f"model {model.name!r}", images)


def image_layer(model: Network, name: str | None) -> str:
    """The name, by default of `last_maps`, once it is known to be of a layer whose result is maps."""
    if name is None:
        return last_maps(model)
    layer = model.layer(name)
    if layer.input_shape is None:
        raise ArgumentError(f"{layer.label} is not built yet: the model has no input shape")
    shape = layer.output_shape(layer.input_shape)
    if len(shape) != 3:
        raise ShapeError(f"{layer.label} has no maps: its result for one image is {shape}")
    return name


def activation_maps(model: Network, images: Any, layer: str | None = None) -> np.ndarray:
    """What a layer makes of each image: float32 (n, height, width, channels).

    images: uint8 (n, h, w, 3), float32 already scaled, or a list of uint8 pictures of any sizes.
    layer: a name as `summary` prints it; by default `last_maps`.
    Raises ArgumentError for unknown layers, ShapeError for one whose result is no maps.
    """
    prepared = batch(model, images)
    if model.input_shape is None:
        model.build(prepared.shape[1:])
    return model.activations(prepared)[image_layer(model, layer)]


def mean_map(maps: np.ndarray) -> np.ndarray:
    """(n, height, width, channels) -> (n, height, width): the mean over channels (the report's Figure 8).

    It tells where a layer is active, not what for: channels that speak for and against infection add up.
    """
    if maps.ndim != 4:
        raise ShapeError(f"maps must have shape (n, height, width, channels), not {maps.shape}")
    return maps.mean(axis=3)


def enlarge(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, h, w) -> float64 (n, height, width): bilinear between the centres of pixels, flat beyond them.

    What lies in the middle of a pixel of the map lies in the middle of the part of the picture it
    covers.  For a layer with "valid" padding that is its place only roughly.
    """
    if maps.ndim != 3 or 0 in maps.shape:
        raise ShapeError(f"maps must have shape (n, h, w), not {maps.shape}")
    down, across = _between(maps.shape[1], height), _between(maps.shape[2], width)
    return down @ maps.astype(np.float64) @ across.T


def _between(source: int, target: int) -> np.ndarray:
    """Linear interpolation as a matrix, float64 (target, source)."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(source)))


def _in_a_row(chain: Layer) -> Iterator[Layer]:
    """The layers of a chain, those of chains inside it too, other blocks as one."""
    for layer in chain.children():
        if isinstance(layer, Chain):
            yield from _in_a_row(layer)
        else:
            yield layer


def _is_image(layer: Layer) -> bool:
    if layer.input_shape is None:
        return False
    shape = layer.output_shape(layer.input_shape)
    return len(shape) == 3 and shape[0] * shape[1] > 1
