"""In and out of lane layout, as differentiable functions; the base of functions that work in it.

Ordinary images are (n, height, width, channels).  Inside a model they are stored as
(blocks, channels, height, width, lanes) with one image in each lane (kernels/README.md says why).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet import kernels
from tinynet.errors import ShapeError
from tinynet.functions.precision import same_precision
from tinynet.kernels import numpy as reference
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

    recorded = True

    def __init__(self, lanes: Lanes):
        self.lanes = lanes

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.kernels = kernels.active() if _fits(x.shape[4], self.lanes) else reference
        self.stored = x.shape
        return self.kernels.unpack(x, self.lanes.count).reshape(self.lanes.shape(x.shape))

    def backward(self, cotangent: np.ndarray) -> tuple[np.ndarray]:
        _, channels, height, width, lanes = self.stored
        return (self.kernels.pack(cotangent.reshape(-1, height, width, channels), lanes),)


def pack(x: Any, where: str = "pack") -> Tensor:
    """A Tensor in lane layout, from images (n, h, w, c) or vectors (n, f); as it is if it is already.

    A batch in lanes that another kernel set packed is packed again where the active set needs more.
    Raises ShapeError, naming `where`, for another shape and where there is nothing to pack.
    """
    tensor = as_tensor(x)
    if tensor.lanes is not None:
        if _fits(tensor.data.shape[4], tensor.lanes):
            return tensor
        tensor = unpack(tensor)
    if tensor.ndim not in (2, 4):
        raise ShapeError(
            f"{where}: wanted images (n, height, width, channels) or vectors (n, features), "
            f"got shape {tensor.shape}"
        )
    if tensor.size == 0:
        raise ShapeError(f"{where}: wanted at least one image, pixel and channel, got shape {tensor.shape}")
    return Pack()(tensor)


def pack_alike(where: str, *values: Any) -> tuple[Tensor, ...]:
    """Batches of the same images, packed in one precision and stored in the same order.

    An image that was flattened lies channel by channel, a vector feature by feature: where both
    come together they are brought to the latter.
    """
    packed = [pack(tensor, where) for tensor in same_precision(*values)]
    if len({(tensor.data.shape[0], tensor.data.shape[2:]) for tensor in packed}) > 1:
        packed = [pack(unpack(tensor), where) for tensor in packed]
    return tuple(packed)


def unpack(x: Any) -> Tensor:
    """An ordinary Tensor; as it is if it is one already."""
    tensor = as_tensor(x)
    return tensor if tensor.lanes is None else Unpack(tensor.lanes)(tensor)


class LaneFunction(Function):
    """A function whose first input is in lane layout; the rest are parameters in ordinary layout.

    Called on an ordinary Tensor it packs first and unpacks its result, so that the public
    functions can be used on everyday arrays.  All inputs are brought to one precision.
    """

    def __call__(self, *inputs: Any) -> Tensor:
        first, *parameters = same_precision(*inputs)
        self.kernels = kernels.active()
        result = super().__call__(pack(first, self.label), *parameters)
        return result if first.lanes is not None else unpack(result)

    def result_lanes(self, *lanes: Lanes | None) -> Lanes | None:
        return lanes[0]


def _fits(stored: int, lanes: Lanes) -> bool:
    """Whether the active kernels can work on a batch stored in so many lanes."""
    return stored >= kernels.active().lanes_for(lanes.count)
