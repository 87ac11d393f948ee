"""Joining and reshaping streams inside a model, in lane layout: sum, channel concatenation, flatten."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.errors import ShapeError
from tinynet.functions.lanes import pack, pack_alike, unpack
from tinynet.kernels.recording import in_order
from tinynet.tensor import Function, Lanes, Tensor, as_tensor


class _Join(Function):
    """Several batches of images become one."""

    def __call__(self, *inputs: Any) -> Tensor:
        tensors = [as_tensor(value) for value in inputs]
        result = super().__call__(*pack_alike(self.label, *tensors))
        return result if any(tensor.lanes is not None for tensor in tensors) else unpack(result)

    def result_lanes(self, *lanes: Lanes | None) -> Lanes | None:
        return lanes[0]


class Sum(_Join):
    """y = x_1 + ... + x_k; dx_i = dy.  A residual connection (He et al., arXiv:1512.03385, equation 1)."""

    recorded = True

    def forward(self, *arrays: np.ndarray) -> np.ndarray:
        return in_order(lambda: sum(arrays[1:], start=arrays[0]))

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray, ...]:
        return (dy,) * len(self.needs)


class Concatenate(_Join):
    """y = the channels of x_1, then those of x_2, ...; dx_i = the channels of dy that came from x_i."""

    recorded = True

    def forward(self, *arrays: np.ndarray) -> np.ndarray:
        # (B, C_1, H, W, L), (B, C_2, H, W, L), ... -> (B, C_1 + C_2 + ..., H, W, L)
        self.edges = np.cumsum([array.shape[1] for array in arrays])[:-1]
        return in_order(lambda: np.concatenate(arrays, axis=1))

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(in_order(part.copy) for part in np.split(dy, self.edges, axis=1))


class Flatten(Function):
    """Images (n, h, w, c) become vectors (n, h * w * c), counted rows, columns, channels.

    In lane layout nothing moves: the batch is only marked as flat.
    """

    recorded = True

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        return (pack(inputs[0], self.label),)

    def result_lanes(self, *lanes: Lanes | None) -> Lanes:
        assert lanes[0] is not None
        return Lanes(lanes[0].count, flat=True)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (dy,)


def add_images(*inputs: Any) -> Tensor:
    """The sum of two or more batches of one shape, (n, h, w, c) or (n, f).  Raises ShapeError otherwise."""
    shapes = [as_tensor(value).shape for value in inputs]
    if len(shapes) < 2 or len(shapes[0]) not in (2, 4) or any(shape != shapes[0] for shape in shapes):
        raise ShapeError(
            f"add_images: wanted two or more batches of one shape, (n, h, w, c) or (n, f), got {shapes}"
        )
    return Sum()(*inputs)


def concatenate_channels(*inputs: Any) -> Tensor:
    """(n, h, w, c_1), (n, h, w, c_2), ... -> (n, h, w, c_1 + c_2 + ...).  Raises ShapeError otherwise."""
    shapes = [as_tensor(value).shape for value in inputs]
    if not shapes or any(len(shape) != 4 or shape[:3] != shapes[0][:3] for shape in shapes):
        raise ShapeError(f"concatenate_channels: wanted images that agree in all but channels, got {shapes}")
    return Concatenate()(*inputs)


def flatten(x: Any) -> Tensor:
    """Images (n, h, w, c) -> vectors (n, h * w * c).  Raises ShapeError for anything but images."""
    tensor = as_tensor(x)
    if tensor.ndim != 4:
        raise ShapeError(f"flatten: wanted images (n, height, width, channels), got shape {tensor.shape}")
    result = Flatten()(tensor)
    return result if tensor.lanes is not None else unpack(result)
