"""Convolution, pooling, normalisation and enlarging, on the engine's own kernels.

ONNX's images are (n, channels, height, width), the engine's (n, height, width, channels).  A signal
(n, channels, length) is an image of one row; volumes are not supported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinynet import functional as F
from tinynet.functions.pooling import AveragePool2D, MaxPool2D
from tinynet.kernels.window import Window
from tinynet.onnx_import.records import Call, Node
from tinynet.onnx_import.registry import REQUIRED, integer, integers, operator, real, reals, result_type, text
from tinynet.tensor import as_tensor

_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def find_window(call: Call, sides: Sequence[int], size: Sequence[int]) -> Window:
    """The window that the node's attributes describe, on images with these sides (height, width).

    size: of the window, an entry an axis; one axis stands for images of one row.  Windows that
    `ceil_mode` adds begin on the image and end on padding at the bottom or right.
    """
    axes, names = len(size), call.node.attributes
    strides, dilations = _numbers(call, "strides", axes, 1), _numbers(call, "dilations", axes, 1)
    sides_of = list(sides[-axes:])
    extents = [(taps - 1) * spread + 1 for taps, spread in zip(size, dilations, strict=True)]
    pads = _pads(call, sides_of, extents, strides)
    for place in range(axes):
        before, after = pads[place]
        length, step, extent = sides_of[place], strides[place], extents[place]
        if length < 1 or length + before + after < extent:
            call.refuse(f"a window of {tuple(extents)} pixels does not fit an image of {tuple(sides_of)}")
        if names.get("ceil_mode"):
            count = -(-(length + before + after - extent) // step) + 1
            count -= (count - 1) * step >= length + before
            pads[place] = before, max(0, (count - 1) * step + extent - length - before)
    if axes == 1:
        return Window((1, size[0]), (1, strides[0]), (1, dilations[0]), ((0, 0), pads[0]))
    return Window(
        (size[0], size[1]), (strides[0], strides[1]), (dilations[0], dilations[1]), (pads[0], pads[1])
    )


def _pads(call: Call, sides: list[int], extents: list[int], strides: list[int]) -> list[tuple[int, int]]:
    axes = len(sides)
    given = call["pads"] or (0,) * (2 * axes)
    if len(given) != 2 * axes or min(given) < 0:
        call.refuse(f"the attribute 'pads' is {given}; wanted {2 * axes} numbers, none negative")
    if call["auto_pad"] == "NOTSET":
        return list(zip(given[:axes], given[axes:], strict=True))
    if call["auto_pad"] == "VALID":
        return [(0, 0)] * axes
    pads = []
    for length, extent, step in zip(sides, extents, strides, strict=True):
        total = max((-(-length // step) - 1) * step + extent - length, 0)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if call["auto_pad"] == "SAME_UPPER" else (large, small))
    return pads


def _numbers(call: Call, name: str, count: int, default: int) -> list[int]:
    values = call.node.attributes.get(name)
    values = (default,) * count if values is None else values
    if len(values) != count or min(values) < 1 or max(values) > 2**31:
        call.refuse(f"the attribute {name!r} is {tuple(values)}; wanted {count} numbers of at least 1")
    return [int(value) for value in values]


def _as_images(call: Call, x: np.ndarray) -> np.ndarray:
    """(n, c, h, w) or (n, c, w) -> (n, h, w, c), with h = 1 for the latter."""
    if x.ndim not in (3, 4):
        call.refuse(
            f"its input has {x.ndim - 2} spatial axes (shape {x.shape}); 1 and 2 are supported"
            if x.ndim > 4
            else f"its input has the shape {x.shape}, wanted (n, channels, height, width)"
        )
    if 0 in x.shape:
        call.refuse(f"its input of shape {x.shape} has no elements")
    return (x[:, :, None, :] if x.ndim == 3 else x).transpose(0, 2, 3, 1)


def _back(images: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(n, h, w, c) -> (n, c, h, w), or (n, c, w) where `like` has three axes; in the type of `like`."""
    planes = images.transpose(0, 3, 1, 2)
    return (planes[:, :, 0] if like.ndim == 3 else planes).astype(like.dtype, order="C", copy=False)


_SLIDING: dict[str, Any] = {
    "auto_pad": text("NOTSET", *_PADS),
    "pads": integers(),
    "strides": integers(),
    "dilations": integers(),
}


@operator("Conv", 1, 11, 22, inputs=(2, 3), kernel_shape=integers(), group=integer(1), **_SLIDING,
          note="1 or 2 spatial axes")  # fmt: skip
def convolution(call: Call, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """The engine's convolution; weight (o, c / groups, kh, kw)."""
    images, kernel, groups = _as_images(call, x), weight, call["group"]
    if weight.ndim != x.ndim or 0 in weight.shape:
        call.refuse(f"its weight has the shape {weight.shape}, its input {x.shape}")
    if call["kernel_shape"] not in (None, weight.shape[2:]):
        call.refuse(f"the attribute 'kernel_shape' is {call['kernel_shape']}, the weight {weight.shape}")
    if x.dtype.kind != "f":
        call.refuse(f"its input is {x.dtype}, wanted floating point")
    window = find_window(call, images.shape[1:3], weight.shape[2:])
    if kernel.ndim == 3:
        kernel = kernel[:, :, None, :]
    dtype = result_type(x)
    _room(call, images, window, weight.shape[0], math.prod(weight.shape[1:]))
    result = F.conv2d(
        images.astype(dtype), kernel.transpose(2, 3, 1, 0).astype(dtype),
        None if bias is None else bias.astype(dtype),
        stride=window.stride, padding=window.padding, dilation=window.dilation, groups=groups,
    )  # fmt: skip
    return _back(result.numpy(), x)


@operator(
    "MaxPool", 1, 8, 10, 11, 12, 22, kernel_shape=integers(REQUIRED), ceil_mode=integer(0, 0, 1),
    storage_order=integer(0), **_SLIDING,
    note="1 or 2 spatial axes; without the output Indices",
)  # fmt: skip
def max_pool(call: Call, x: np.ndarray) -> np.ndarray:
    """The engine's max-pooling; of 8-bit integers too, which float32 holds exactly."""
    if x.dtype.kind != "f" and x.dtype.itemsize != 1:
        call.refuse(f"its input is {x.dtype}, wanted floating point or 8-bit integers")
    images = _as_images(call, x).astype(result_type(x))
    window = _pooling_window(call, images, x.ndim - 2)
    return _back(MaxPool2D(window)(as_tensor(images)).numpy(), x)


@operator(
    "AveragePool", 1, 7, 10, 11, 19, 22, kernel_shape=integers(REQUIRED), ceil_mode=integer(0, 0, 1),
    count_include_pad=integer(0, 0, 1), **_SLIDING,
    note="1 or 2 spatial axes",
)  # fmt: skip
def average_pool(call: Call, x: np.ndarray) -> np.ndarray:
    """The engine's average pooling, which does not count padding; padding that counts is put there first."""
    if x.dtype.kind != "f":
        call.refuse(f"its input is {x.dtype}, wanted floating point")
    images = _as_images(call, x).astype(result_type(x))
    axes = x.ndim - 2
    if call["count_include_pad"]:
        window = find_window(call, images.shape[1:3], _size(call, axes))
        _room(call, images, window, images.shape[3], math.prod(window.size))
        sides, extents, strides = (
            list(values[-axes:]) for values in (images.shape[1:3], window.extent, window.stride)
        )
        named = [(0, 0)] * (2 - axes) + _pads(call, sides, extents, strides)
        # What ceil_mode adds to the padding that the node names does not count.
        counted = [
            (before, min(after, own[1])) for (before, after), own in zip(window.padding, named, strict=True)
        ]
        left = [(0, side[1] - own[1]) for side, own in zip(window.padding, counted, strict=True)]
        images = np.pad(images, ((0, 0), *counted, (0, 0)))
        window = Window(window.size, window.stride, window.dilation, (left[0], left[1]))
    else:
        window = _pooling_window(call, images, axes)
    _sees_pixels(call, images, window)
    return _back(AveragePool2D(window)(as_tensor(images)).numpy(), x)


def _size(call: Call, axes: int) -> list[int]:
    return _numbers(call, "kernel_shape", axes, 1)


def _pooling_window(call: Call, images: np.ndarray, axes: int) -> Window:
    window = find_window(call, images.shape[1:3], _size(call, axes))
    _room(call, images, window, images.shape[3], math.prod(window.size))
    _sees_pixels(call, images, window)
    return window


def _sees_pixels(call: Call, images: np.ndarray, window: Window) -> None:
    """Refuse windows of nothing but padding."""
    counts = window.output_size(*images.shape[1:3])
    for axis in (0, 1):
        taps = np.arange(window.size[axis]) * window.dilation[axis] - window.padding[axis][0]
        rows = np.arange(counts[axis])[:, None] * window.stride[axis] + taps
        if not ((rows >= 0) & (rows < images.shape[1 + axis])).any(axis=1).all():
            call.refuse("one of its windows sees nothing but padding")


def _room(call: Call, images: np.ndarray, window: Window, channels: int, steps: int) -> None:
    """Room for the padded images, for what all taps of the window see, and for the result."""
    height, width = window.output_size(*images.shape[1:3])
    (top, bottom), (left, right) = window.padding
    count, depth = images.shape[0], images.shape[3]
    call.room((count, images.shape[1] + top + bottom, images.shape[2] + left + right, depth))
    call.room((count, height, width, depth * math.prod(window.size)))
    call.room((count, height, width, channels), steps)


def _register_global(name: str, function: Any) -> None:
    @operator(name, 1, 22)
    def carry_out(call: Call, x: np.ndarray) -> np.ndarray:
        if x.ndim < 3 or 0 in x.shape or x.dtype.kind != "f":
            call.refuse(
                f"its input is {x.dtype} of shape {x.shape}; wanted floating point (n, channels, ...)"
            )
        return function(x, axis=tuple(range(2, x.ndim)), keepdims=True).numpy()


_register_global("GlobalAveragePool", F.mean)
_register_global("GlobalMaxPool", F.max)


@operator(
    "BatchNormalization", 6, 7, 9, 14, 15, inputs=5, epsilon=real(1e-5), momentum=real(0.9),
    training_mode=integer(0, 0), is_test=integer(0), spatial=integer(1, 1), note="as in use",
)  # fmt: skip
def batch_normalization(call: Call, x: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, channel by channel."""
    if call.opset < 7 and not call["is_test"]:
        call.refuse("the attribute 'is_test' is 0: batch-norm in training is not supported")
    if x.ndim < 2 or any(array.shape != (x.shape[1],) for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        call.refuse(f"its input has the shape {x.shape}, the others {shapes}; wanted a number a channel")
    scale, shift, mean, variance = (array.astype(np.float64) for array in arrays)
    call.room(x.shape)
    factor = scale / np.sqrt(variance + call["epsilon"])
    along = (1, -1, *(1,) * (x.ndim - 2))
    offset = (shift - mean * factor).astype(result_type(x))
    return (x * factor.astype(result_type(x)).reshape(along) + offset.reshape(along)).astype(x.dtype)


@operator("LRN", 1, 13, size=integer(REQUIRED), alpha=real(0.0001), beta=real(0.75), bias=real(1.0))
def local_response_normalization(call: Call, x: np.ndarray) -> np.ndarray:
    """x / (bias + alpha / size * the sum of squares over `size` neighbouring channels) ** beta.

    Source: Krizhevsky, Sutskever and Hinton, ImageNet classification (2012), section 3.3.
    """
    size, channels = call["size"], x.shape[1] if x.ndim > 1 else 0
    if size < 1 or not channels:
        call.refuse(f"the attribute 'size' is {size}, its input of shape {x.shape}")
    call.room(x.shape, min(size, channels))
    total = np.zeros(x.shape, np.float64)
    squares = np.square(x, dtype=np.float64)
    for offset in range(-min((size - 1) // 2, channels - 1), min(size // 2, channels - 1) + 1):
        into = slice(max(0, -offset), channels - max(0, offset))
        out_of = slice(max(0, offset), channels + min(0, offset))
        total[:, into] += squares[:, out_of]
    return (x / (call["bias"] + call["alpha"] / size * total) ** call["beta"]).astype(x.dtype)


_MODES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest_rows(
    length: int, target: int, scale: float, mode: str = "asymmetric", rounding: str = "floor"
) -> np.ndarray:
    """Which of `length` rows each of `target` rows is a copy of."""
    at = np.arange(target, dtype=np.float64)
    if mode == "asymmetric":
        at = at / scale
    elif mode == "align_corners":
        at = at * ((length - 1) / (target - 1)) if target > 1 else at * 0
    elif mode == "pytorch_half_pixel" and target == 1:
        at = at * 0
    else:
        shift = 0.0
        if mode == "half_pixel_symmetric":
            shift = length / 2 * (1 - target / (scale * length))
        at = shift + (at + 0.5) / scale - 0.5
    return np.clip(_ROUNDINGS[rounding](at), 0, length - 1).astype(np.intp)


def resize_rows(node: Node, shape: Sequence[int], scales: Any, sizes: Any) -> dict[int, np.ndarray]:
    """For each axis that Resize or Upsample changes: which row each row of the result copies.

    Raises ModelFileError for scales or sizes that make no sense.
    """
    call, names = Call(node), node.attributes
    axes = [int(axis) % max(1, len(shape)) for axis in names.get("axes") or range(len(shape))]
    given = sizes if sizes is not None and len(sizes) else scales
    if given is None or len(given) != len(axes) or len(set(axes)) != len(axes):
        call.refuse(f"wanted scales or sizes for {len(axes)} axes")
    factors = [float(value) for value in given]
    if not all(math.isfinite(factor) and 0 < factor < 2**31 for factor in factors):
        call.refuse(f"scales and sizes must be positive, got {factors}")
    if given is sizes:
        factors = [size / max(1, shape[axis]) for size, axis in zip(factors, axes, strict=True)]
        policy = names.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [(min if policy == "not_larger" else max)(factors)] * len(axes)
            targets = [math.floor(shape[axis] * factors[0] + 0.5) for axis in axes]
        else:
            targets = [int(size) for size in sizes]
    else:
        targets = [math.floor(shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    wanted = list(shape)
    for axis, target in zip(axes, targets, strict=True):
        wanted[axis] = target
    call.room(wanted)
    old = node.opset < 11  # nearest meant this then
    mode = "asymmetric" if old else names.get("coordinate_transformation_mode", "asymmetric")
    rounding = "floor" if old else names.get("nearest_mode", "floor")
    return {
        axis: nearest_rows(shape[axis], target, factor, mode, rounding)
        for axis, target, factor in zip(axes, targets, factors, strict=True)
        if target != shape[axis] or factor != 1
    }


@operator(
    "Resize", 10, 11, 13, 18, 19, inputs=(1, 4), mode=text("nearest", "nearest"),
    coordinate_transformation_mode=text("half_pixel", *_MODES),
    nearest_mode=text("round_prefer_floor", *_ROUNDINGS),
    axes=integers(), keep_aspect_ratio_policy=text("stretch", "stretch", "not_larger", "not_smaller"),
    antialias=integer(0, 0), exclude_outside=integer(0), extrapolation_value=real(0.0),
    cubic_coeff_a=real(-0.75),
)  # fmt: skip
def resize(call: Call, x: np.ndarray, *rest: np.ndarray | None) -> np.ndarray:
    """Each pixel a copy of the nearest one."""
    if call.opset < 11:
        scales, sizes = rest[0] if rest else None, None
    else:  # roi, scales, sizes
        _, scales, sizes = (*rest, None, None, None)[:3]
    return _resized(call, x, scales, sizes)


@operator("Upsample", 7, 9, 10, inputs=(1, 2), mode=text("nearest", "nearest"), scales=reals())
def upsample(call: Call, x: np.ndarray, scales: np.ndarray | None = None) -> np.ndarray:
    """Each pixel a copy of the nearest one; what Resize was before opset 10."""
    return _resized(call, x, call["scales"] if scales is None else scales, None)


def _resized(call: Call, x: np.ndarray, scales: Any, sizes: Any) -> np.ndarray:
    rows = resize_rows(call.node, x.shape, scales, sizes)
    if 0 in x.shape:
        call.refuse(f"its input of shape {x.shape} has no elements")
    call.room([len(rows[axis]) if axis in rows else side for axis, side in enumerate(x.shape)])
    for axis, chosen in rows.items():
        x = np.take(x, chosen, axis=axis)
    return x


def whole_factors(rows: Mapping[int, np.ndarray], shape: Sequence[int]) -> dict[int, int] | None:
    """The factors by which each axis is enlarged; None where a row is not repeated equally often."""
    factors = {}
    for axis, chosen in rows.items():
        factor = len(chosen) // shape[axis]
        if not factor or not np.array_equal(chosen, np.arange(shape[axis]).repeat(factor)):
            return None
        factors[axis] = factor
    return factors
