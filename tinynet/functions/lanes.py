"""In and out of lane layout, as differentiable functions; the base of functions that work in it.

Ordinary images are (n, height, width, channels).  Inside a model they are stored as
(blocks, channels, height, width, lanes) with one image in each lane (kernels/README.md says why).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet import kernels
from tinynet.errors import ShapeError
from tinynet.tensor import Function, Lanes, Tensor, as_tensor


class Pack(Function):
    """(n, h, w, c) or (n, f) -> lane layout.  Packing is a permutation, so backward is unpacking."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.kernels = kernels.active()
        self.lanes = Lanes(count=x.shape[0], flat=x.ndim == 2)
        images = x.reshape(x.shape[0], 1, 1, x.shape[1]) if x.ndim == 2 else x
        self.shape = x.shape
        return self.kernels.pack(images, self.kernels.lanes_for(x.shape[0]))

    def backward(self, cotangent: np.ndarray) -> tuple[np.ndarray]:
        return (self.kernels.unpack(cotangent, self.lanes.count).reshape(self.shape),)

    def result_lanes(self, *lanes: Lanes | None) -> Lanes:
        return self.lanes


class Unpack(Function):
    """Lane layout -> (n, h, w, c), or (n, h * w * c) where the batch is flat."""

    def __init__(self, lanes: Lanes):
        self.lanes = lanes

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.kernels = kernels.active()
        self.stored = x.shape
        return self.kernels.unpack(x, self.lanes.count).reshape(self.lanes.shape(x.shape))

    def backward(self, cotangent: np.ndarray) -> tuple[np.ndarray]:
        _, channels, height, width, lanes = self.stored
        return (self.kernels.pack(cotangent.reshape(-1, height, width, channels), lanes),)


def pack(x: Any) -> Tensor:
    """A Tensor in lane layout, from images (n, h, w, c) or vectors (n, f); as it is if it is already."""
    tensor = as_tensor(x)
    if tensor.lanes is not None:
        return tensor
    if tensor.ndim not in (2, 4):
        raise ShapeError(
            f"wanted images (n, height, width, channels) or vectors (n, features), got shape {tensor.shape}"
        )
    if tensor.shape[0] == 0:
        raise ShapeError(f"wanted at least one image, got an empty batch of shape {tensor.shape}")
    return Pack()(tensor)


def unpack(x: Any) -> Tensor:
    """An ordinary Tensor; as it is if it is one already."""
    tensor = as_tensor(x)
    return tensor if tensor.lanes is None else Unpack(tensor.lanes)(tensor)


class LaneFunction(Function):
    """A function whose first input is in lane layout; the rest are parameters in ordinary layout.

    Called on an ordinary Tensor it packs first and unpacks its result, so that the public
    functions can be used on everyday arrays.
    """

    def __call__(self, *inputs: Any) -> Tensor:
        first = as_tensor(inputs[0])
        self.kernels = kernels.active()
        result = super().__call__(pack(first), *inputs[1:])
        return result if first.lanes is not None else unpack(result)

    def result_lanes(self, *lanes: Lanes | None) -> Lanes | None:
        return lanes[0]
