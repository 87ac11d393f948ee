"""Pooling and upsampling as differentiable functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.convolution import make_window, pair
from tinynet.functions.lanes import LaneFunction
from tinynet.kernels.window import Window
from tinynet.tensor import Lanes, Tensor, as_tensor


class MaxPool2D(LaneFunction):
    """The largest value in each window.

        y[i, j, c] = max_{u, v} x[i s + u, j s + v, c]
        dx[m, n, c] = sum of dy[i, j, c] over the windows whose maximum is at (m, n)

    Where several are largest, the first in row-major order is the maximum.  Padding never is.
    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 9.3.
    """

    recorded = True

    def __init__(self, window: Window):
        self.window = window

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (B, C, H, W, L) -> (B, C, H', W', L)
        self.size = x.shape[2:4]
        y, self.tap = self.kernels.max_pool(x, self.window)
        return y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.kernels.max_pool_backward(dy, self.tap, self.window, *self.size),)


class AveragePool2D(LaneFunction):
    """The mean of the real pixels in each window; padding does not count (Keras's convention).

    y[i, j, c] = (1 / n_ij) sum_{u, v} x[i s + u, j s + v, c],   n_ij the real pixels in window (i, j)
    dx[m, n, c] = sum of dy[i, j, c] / n_ij over the windows that contain (m, n)
    """

    recorded = True

    def __init__(self, window: Window):
        self.window = window

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (B, C, H, W, L) -> (B, C, H', W', L)
        self.size = x.shape[2:4]
        return self.kernels.average_pool(x, self.window)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.kernels.average_pool_backward(dy, self.window, *self.size),)


class GlobalAveragePool2D(AveragePool2D):
    """The mean of each channel over the whole image: (n, h, w, c) -> (n, c).

    Source: Lin, Chen and Yan, Network in network (arXiv:1312.4400), section 3.2.
    """

    def result_lanes(self, *lanes: Lanes | None) -> Lanes:
        assert lanes[0] is not None
        return Lanes(lanes[0].count, flat=True)


class UpSample2D(LaneFunction):
    """Nearest-neighbour enlargement by whole factors (fh, fw).

    y[i, j, c] = x[i // fh, j // fw, c],   dx[m, n, c] = sum of dy over the rectangle that came from (m, n)
    """

    recorded = True

    def __init__(self, factor: tuple[int, int]):
        self.factor = factor

    def forward(self, x: np.ndarray) -> np.ndarray:
        # (B, C, H, W, L) -> (B, C, H * fh, W * fw, L)
        return self.kernels.upsample(x, self.factor)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        return (self.kernels.upsample_backward(dy, self.factor),)


def max_pool2d(
    x: Any,
    size: int | tuple[int, int] = 2,
    *,
    stride: int | tuple[int, int] | None = None,
    padding: str | int | tuple = "valid",
) -> Tensor:
    """Images (n, h, w, c) -> (n, h', w', c): the maximum of each window; stride defaults to the size.

    padding: as in conv2d, but less than the window, which must see a pixel.
    Raises ShapeError where the window does not fit, ArgumentError for a nonsensical value.
    """
    x = _images("max_pool2d", x)
    window = pooling_window("max_pool2d", x.shape[1:3], size, stride, padding)
    return MaxPool2D(window)(x)


def average_pool2d(
    x: Any,
    size: int | tuple[int, int] = 2,
    *,
    stride: int | tuple[int, int] | None = None,
    padding: str | int | tuple = "valid",
) -> Tensor:
    """Images (n, h, w, c) -> (n, h', w', c): the mean of each window; stride defaults to the size.

    padding: as in conv2d, but less than the window, which must see a pixel.
    Raises ShapeError where the window does not fit, ArgumentError for a nonsensical value.
    """
    x = _images("average_pool2d", x)
    window = pooling_window("average_pool2d", x.shape[1:3], size, stride, padding)
    return AveragePool2D(window)(x)


def global_average_pool2d(x: Any) -> Tensor:
    """Images (n, h, w, c) -> (n, c): the mean of each channel.  Raises ShapeError otherwise."""
    x = _images("global_average_pool2d", x)
    if 0 in x.shape[1:3]:
        raise ShapeError(f"global_average_pool2d: images of shape {x.shape} have no pixels")
    return GlobalAveragePool2D(Window((x.shape[1], x.shape[2])))(x)


def upsample2d(x: Any, factor: int | tuple[int, int] = 2) -> Tensor:
    """Images (n, h, w, c) -> (n, h * fh, w * fw, c), each pixel repeated.

    factor: a whole number of at least 1, or two: (vertical, horizontal).
    Raises ShapeError for anything but images, ArgumentError for another factor.
    """
    return UpSample2D(pair("upsample2d", "factor", factor))(_images("upsample2d", x))


def pooling_window(where: str, image: tuple[int, ...], size: Any, stride: Any, padding: Any) -> Window:
    """The Window of a pooling function; every window must cover at least one real pixel."""
    size = pair(where, "size", size)
    window = make_window(where, image, size, size if stride is None else stride, padding)
    if any(side >= extent for sides, extent in zip(window.padding, size, strict=True) for side in sides):
        raise ArgumentError(
            f"{where}: padding {window.padding} leaves a {size[0]}x{size[1]} window without a pixel"
        )
    return window


def _images(where: str, x: Any) -> Tensor:
    tensor = as_tensor(x)
    if tensor.ndim != 4:
        raise ShapeError(f"{where}: wanted images (n, height, width, channels), got shape {tensor.shape}")
    return tensor
