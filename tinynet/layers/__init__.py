"""Layers: parameters and configuration around a function, and blocks that compose them."""

from tinynet.layers.base import ACTIVATIONS, Context, Layer, Shape, layer_from_json, layer_to_json
from tinynet.layers.blocks import Chain, Concatenate, Residual, assign_names
from tinynet.layers.standard import (
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
    ReLU,
    ReLU6,
    Sigmoid,
    Softmax,
    Tanh,
    UpSample2D,
    final_activation,
)

__all__ = [
    "ACTIVATIONS",
    "AveragePool2D",
    "BatchNorm",
    "Chain",
    "Concatenate",
    "Context",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePool2D",
    "Layer",
    "MaxPool2D",
    "ReLU",
    "ReLU6",
    "Residual",
    "Shape",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "UpSample2D",
    "assign_names",
    "final_activation",
    "layer_from_json",
    "layer_to_json",
]
