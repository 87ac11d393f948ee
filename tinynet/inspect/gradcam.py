"""Grad-CAM: where in a picture lies what speaks for a class."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.arguments import whole_number
from tinynet.errors import ArgumentError, DataError
from tinynet.inspect.maps import batch, image_layer
from tinynet.layers import Context
from tinynet.network import Network
from tinynet.tensor import Tensor

_AT_A_TIME = 64  # images: every layer's result and its gradient are kept


def grad_cam(model: Network, images: Any, class_index: int = 1, layer: str | None = None) -> np.ndarray:
    """Heat maps of a layer's own size: float32 (n, height, width), 0 where nothing speaks for the class.

    With A the layer's maps and y the score of the class before softmax,
        weight_k = mean over places of dy / dA_k        (equation 1)
        heat     = relu(sum over k of weight_k A_k)     (equation 2)
    A map's weight is how much the score rises with it, so unlike the mean map the heat belongs to one
    class.  The gradients are the engine's own, each image's for itself.
    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization", ICCV 2017 (arXiv:1610.02391).

    images       uint8 (n, h, w, 3), float32 already scaled, or a list of uint8 pictures of any sizes
    class_index  of the outputs; a model with one sigmoid output has class 1, its output, and class 0,
                 the negative of it
    layer        a name as `summary` prints it; by default `last_maps`

    `enlarge` brings the result to a picture's size.  The model's weights and their gradients are left as
    they were; do not train it in another thread meanwhile.
    Raises ArgumentError for a model without one score a class (an autoencoder), an unknown class or
    layer; ShapeError for a layer whose result is no maps.
    """
    prepared = batch(model, images)
    if model.input_shape is None:
        model.build(prepared.shape[1:])
    if len(prepared) == 0:
        raise DataError("grad_cam: there are no images")
    name = image_layer(model, layer)
    index, sign = _score(model, whole_number("grad_cam: class_index", class_index, 0))
    parameters = model.parameters().values()
    wanted = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:  # only the maps' gradient is asked for
            parameter.requires_grad = False
        parts = [
            _heat(model, prepared[at : at + _AT_A_TIME], name, index, sign)
            for at in range(0, len(prepared), _AT_A_TIME)
        ]
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad = before
    return np.concatenate(parts)


def _score(model: Network, class_index: int) -> tuple[int, float]:
    """Which output is the score of the class, and with which sign."""
    if len(model.output_shape) != 1:
        raise ArgumentError(
            f"grad_cam wants a model with one score a class; the output of {model.name!r} is "
            f"{model.output_shape}"
        )
    outputs = model.output_shape[0]
    two_in_one = outputs == 1 and model.ending() == "sigmoid"
    classes = 2 if two_in_one else outputs
    if class_index >= classes:
        raise ArgumentError(f"grad_cam: class_index must be below {classes}, got {class_index}")
    return (0, 2.0 * class_index - 1.0) if two_in_one else (class_index, 1.0)


def _heat(model: Network, images: np.ndarray, layer: str, index: int, sign: float) -> np.ndarray:
    x = model.to_tensor(images)
    x.requires_grad = True  # else nothing is recorded: the parameters do not ask for it
    record: dict[str, Tensor] = {}
    scores = model(x, Context(record=record, logits=True))
    maps = record[layer].retain_grad()
    scores[:, index].sum().backward()
    values, slopes = maps.numpy(), maps.grad_numpy()
    assert slopes is not None  # every layer of a model leads to its output
    weights = sign * slopes.mean(axis=(1, 2))  # (n, channels)
    return np.maximum(np.einsum("nhwc,nc->nhw", values, weights), np.float32(0))
