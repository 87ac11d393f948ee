"""Convolution and dense layers as differentiable functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.lanes import LaneFunction
from tinynet.kernels.recording import after, before
from tinynet.kernels.window import Padding, Window, same_padding
from tinynet.tensor import Lanes, Tensor, as_tensor


class Conv2D(LaneFunction):
    """Cross-correlation of images with a bank of kernels.

    With stride s, dilation d and padding p (top or left), for output channel o:

        y[i, j, o] = b[o] + sum_{u, v, c} w[u, v, c, o] * x[i s + u d - p, j s + v d - p, c]

    and, for a cotangent dy,

        dx[m, n, c]    = sum over (i, u), (j, v) with i s + u d - p = m, j s + v d - p = n, and over o,
                         of w[u, v, c, o] * dy[i, j, o]
        dw[u, v, c, o] = sum_{images, i, j} dy[i, j, o] * x[i s + u d - p, j s + v d - p, c]
        db[o]          = sum_{images, i, j} dy[i, j, o]

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), sections 9.1 and 9.5;
    Dumoulin and Visin, A guide to convolution arithmetic (arXiv:1603.07285) for the shapes.
    """

    recorded = True

    def __init__(self, window: Window, groups: int):
        self.window, self.groups = window, groups

    def forward(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        # (B, C, H, W, L), (kh, kw, C / groups, O) -> (B, O, H', W', L)
        self.size = x.shape[2:4]
        self.x = x if self.needs[1] else None
        self.weight = weight if self.needs[0] else None
        if bias is None:
            bias = np.zeros(weight.shape[3], x.dtype)
        return self.kernels.conv2d(x, weight, bias, self.window, self.groups)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx = dw = None
        if self.needs[0]:
            dx = self.kernels.conv2d_input_gradient(dy, self.weight, self.window, self.groups, *self.size)
        if self.needs[1]:
            dw = self.kernels.conv2d_weight_gradient(self.x, dy, self.window, self.groups)
        if len(self.needs) == 2:
            return dx, dw
        return dx, dw, self.kernels.channel_sum(dy) if self.needs[2] else None


class Dense(LaneFunction):
    """Every output a weighted sum of every feature: a 1x1 convolution of an image of one pixel.

        y[o] = b[o] + sum_f x[f] w[f, o],   dx[f] = sum_o w[f, o] dy[o],
        dw[f, o] = sum_{images} x[f] dy[o],   db[o] = sum_{images} dy[o]

    Features of an image are counted rows, columns, channels (h, w, c) in `w`, and lie channels,
    rows, columns (c, h, w) in lane layout: the weights are permuted here, the activations never.
    """

    recorded = True
    window = Window((1, 1))

    def result_lanes(self, *lanes: Lanes | None) -> Lanes:
        assert lanes[0] is not None
        return Lanes(lanes[0].count, flat=True)

    def forward(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        # (B, C, H, W, L), (H * W * C, O) -> (B, O, 1, 1, L)
        self.image = x.shape[1:4]  # C, H, W
        features = x.reshape(x.shape[0], -1, 1, 1, x.shape[4])  # (B, C * H * W, 1, 1, L)
        permuted = before(lambda: self._to_lane_order(weight))  # (1, 1, C * H * W, O)
        self.x = features if self.needs[1] else None
        self.weight = permuted if self.needs[0] else None
        if bias is None:
            bias = np.zeros(weight.shape[1], x.dtype)
        return self.kernels.conv2d(features, permuted, bias, self.window, 1)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx = dw = None
        if self.needs[0]:
            dx = self.kernels.conv2d_input_gradient(dy, self.weight, self.window, 1, 1, 1)
            dx = dx.reshape(dy.shape[0], *self.image, dy.shape[4])
        if self.needs[1]:
            permuted = self.kernels.conv2d_weight_gradient(self.x, dy, self.window, 1)
            dw = after(lambda: self._from_lane_order(permuted))
        if len(self.needs) == 2:
            return dx, dw
        return dx, dw, self.kernels.channel_sum(dy) if self.needs[2] else None

    def _to_lane_order(self, weight: np.ndarray) -> np.ndarray:
        channels, height, width = self.image
        split = weight.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(split).reshape(1, 1, channels * height * width, -1)

    def _from_lane_order(self, weight: np.ndarray) -> np.ndarray:
        channels, height, width = self.image
        # (1, 1, C * H * W, O) -> (H * W * C, O)
        split = weight.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
        return np.ascontiguousarray(split).reshape(height * width * channels, -1)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: str | int | tuple = "same",
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve images (n, h, w, c) with kernels (kh, kw, c / groups, o), giving (n, h', w', o).

    bias      (o,), may be left out
    stride, dilation   whole numbers of at least 1, or two: (vertical, horizontal)
    padding   "same" (h' = ceil(h / stride), odd padding at the bottom and right, as in Keras),
              "valid" (none), a number, (vertical, horizontal), or ((top, bottom), (left, right))
    groups    channels are divided into so many groups that do not see each other; with
              groups = c this is a depthwise convolution

    Arguments of several precisions are computed in the widest, integers as float32.
    Raises ShapeError where the shapes do not fit together, ArgumentError for a nonsensical value.
    """
    x, weight = as_tensor(x), as_tensor(weight)
    check_convolution("conv2d", x.shape, weight.shape, groups)
    window = make_window("conv2d", x.shape[1:3], weight.shape[:2], stride, padding, dilation)
    groups = int(groups)
    if bias is None:
        return Conv2D(window, groups)(x, weight)
    bias = as_tensor(bias)
    if bias.shape != weight.shape[3:]:
        raise ShapeError(f"conv2d: bias has shape {bias.shape}, wanted {weight.shape[3:]}")
    return Conv2D(window, groups)(x, weight, bias)


def dense(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """x (n, features) or images (n, h, w, c) with h * w * c features, weight (features, o) -> (n, o).

    bias (o,), may be left out.  Raises ShapeError where the shapes do not fit together.
    """
    x, weight = as_tensor(x), as_tensor(weight)
    features = int(np.prod(x.shape[1:]))
    if x.ndim not in (2, 4):
        raise ShapeError(f"dense: wanted x (n, features) or images (n, h, w, c), got shape {x.shape}")
    if weight.ndim != 2 or weight.shape[0] != features or weight.shape[1] < 1:
        raise ShapeError(
            f"dense: x has shape {x.shape}, weight {weight.shape}; wanted a weight ({features}, outputs)"
        )
    if bias is None:
        return Dense()(x, weight)
    bias = as_tensor(bias)
    if bias.shape != weight.shape[1:]:
        raise ShapeError(f"dense: bias has shape {bias.shape}, wanted {weight.shape[1:]}")
    return Dense()(x, weight, bias)


def check_convolution(where: str, x: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    """Raise ShapeError or ArgumentError unless images x and kernels weight fit together."""
    if len(x) != 4:
        raise ShapeError(f"{where}: wanted images (n, height, width, channels), got shape {x}")
    if len(weight) != 4 or 0 in weight:
        raise ShapeError(f"{where}: wanted a weight (kh, kw, channels / groups, outputs), got shape {weight}")
    if not _whole(groups) or groups < 1:
        raise ArgumentError(f"{where}: groups must be a whole number of at least 1, got {groups!r}")
    if x[3] % groups or weight[3] % groups:
        raise ShapeError(
            f"{where}: {groups} groups do not divide {x[3]} input and {weight[3]} output channels evenly"
        )
    if weight[2] != x[3] // groups:
        raise ShapeError(
            f"{where}: weight {weight} wants {weight[2] * groups} channels, the images {x} have {x[3]}"
        )


def make_window(
    where: str,
    image: tuple[int, ...],
    size: tuple[int, ...],
    stride: int | tuple[int, int],
    padding: str | int | tuple,
    dilation: int | tuple[int, int] = 1,
) -> Window:
    """The Window that the arguments describe on images of (height, width); raises where it does not fit."""
    size = pair(where, "window size", size)
    stride, dilation = pair(where, "stride", stride), pair(where, "dilation", dilation)
    window = Window(size, stride, dilation, _padding(where, image, size, stride, padding, dilation))
    if min(window.output_size(image[0], image[1])) < 1:
        extent = "x".join(map(str, window.extent))
        raise ShapeError(
            f"{where}: a window of {extent} pixels does not fit an image of {image[0]}x{image[1]} "
            f"with padding {window.padding}"
        )
    return window


def pair(where: str, name: str, value: Any) -> tuple[int, int]:
    """`value` as two whole numbers of at least 1: a number stands for both."""
    values = (value, value) if _whole(value) else value
    if (
        not isinstance(values, tuple | list)
        or len(values) != 2
        or not all(_whole(number) and number >= 1 for number in values)
    ):
        raise ArgumentError(
            f"{where}: {name} must be a whole number of at least 1 or two of them, got {value!r}"
        )
    return int(values[0]), int(values[1])


def _padding(where, image, size, stride, padding, dilation) -> Padding:
    if isinstance(padding, str) and padding in ("same", "valid"):
        none = ((0, 0), (0, 0))
        return none if padding == "valid" else same_padding(image[0], image[1], size, stride, dilation)
    sides = (padding, padding) if _whole(padding) else padding
    if isinstance(sides, tuple | list) and len(sides) == 2:
        pairs = [(side, side) if _whole(side) else side for side in sides]
        if all(isinstance(two, tuple | list) and len(two) == 2 for two in pairs) and all(
            _whole(number) and number >= 0 for two in pairs for number in two
        ):
            (top, bottom), (left, right) = pairs
            return ((int(top), int(bottom)), (int(left), int(right)))
    raise ArgumentError(
        f'{where}: padding must be "same", "valid", a whole number, (vertical, horizontal) or '
        f"((top, bottom), (left, right)), got {padding!r}"
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
