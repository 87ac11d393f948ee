"""Windows that move over batches of images (n, h, w, c): their positions, and views of what they see."""

from __future__ import annotations

import numpy as np

from tinynet.deploy.int8.values import Shape
from tinynet.errors import ArgumentError, ShapeError
from tinynet.kernels.window import Window

MOST_VALUES = 2**25  # in one array of one image, in int64 256 MiB; VGG-16's largest has 2**24.8


def positions(where: str, window: Window, height: int, width: int) -> tuple[int, int]:
    """How many positions a window has; raises ShapeError where it does not fit."""
    rows, columns = window.output_size(height, width)
    if rows < 1 or columns < 1:
        raise ShapeError(f"{where}: a window of {window.size} does not fit {height} x {width}")
    if rows * columns > MOST_VALUES:
        raise ShapeError(f"{where}: a result of {rows} x {columns} is too large")
    return rows, columns


def pool_positions(where: str, window: Window, shape: Shape) -> tuple[int, int]:
    """The same for pools, whose windows must each see a pixel."""
    if any(side >= size for sides, size in zip(window.padding, window.size, strict=True) for side in sides):
        raise ArgumentError(f"{where}: padding {window.padding} leaves a window without a pixel")
    if window.dilation != (1, 1):
        raise ArgumentError(f"{where}: a pool has no dilation")
    return positions(where, window, *shape[:2])


def padded_values(window: Window, shape: Shape) -> int:
    """Numbers in an image of this shape with the window's padding around it."""
    (top, bottom), (left, right) = window.padding
    return (shape[0] + top + bottom) * (shape[1] + left + right) * shape[2]


def pixel_counts(window: Window, shape: Shape) -> np.ndarray:
    """How many real pixels each window of a pool has, int64 (h', w')."""
    counts = []
    for axis, length in enumerate(shape[:2]):
        size, stride, before = window.size[axis], window.stride[axis], window.padding[axis][0]
        begin = np.arange(window.output_size(*shape[:2])[axis]) * stride - before
        counts.append(np.minimum(begin + size, length) - np.maximum(begin, 0))
    return np.outer(*counts)


def padded(x: np.ndarray, window: Window, filling: int) -> np.ndarray:
    """Images (n, h, w, c) with the window's padding."""
    if window.padding == ((0, 0), (0, 0)):
        return x
    return np.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=filling)


def views(x: np.ndarray, window: Window, filling: int) -> np.ndarray:
    """A view of what each window sees: (n, h, w, c) -> (n, h', w', c, kh, kw)."""
    around = padded(x, window, filling)
    seen = np.lib.stride_tricks.sliding_window_view(around, window.extent, axis=(1, 2))
    (down, right), (vertical, horizontal) = window.stride, window.dilation
    return seen[:, ::down, ::right, :, ::vertical, ::horizontal]
