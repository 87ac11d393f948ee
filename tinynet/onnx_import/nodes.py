"""What each operator is in tinynet's layers: one function an operator, which appends to the layers so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinynet import layers as L
from tinynet.kernels.window import Window
from tinynet.layers import Layer
from tinynet.onnx_import.place import Form, Place
from tinynet.onnx_import.records import Call
from tinynet.onnx_import.windows import find_window, resize_rows, whole_factors

EPSILON = 1e-3  # of the batch-norm layers that stand for an affine function


def _nothing(at: Place) -> Form:
    return at.form


def _cast(at: Place) -> Form:
    if at.translation.structure.dtypes[at.node.outputs[0]].kind != "f":
        at.refuse("it makes whole numbers")
    return at.form


def _transpose(at: Place) -> Form:
    order = at.node.attributes["perm"]
    if at.form.axes == "nchw" and order == (0, 2, 3, 1):
        return replace(at.form, axes="nhwc")
    if at.form.axes == "nhwc" and order == (0, 3, 1, 2):
        return replace(at.form, axes="nchw")
    if order != tuple(range(len(at.shape))):
        at.refuse(f"the attribute 'perm' is {order}")
    return at.form


def _convolution(at: Place) -> Form:
    at.channels_first()
    weight, bias = at.constant(1), at.constant(2)
    assert weight is not None
    filters, groups = weight.shape[0], at.node.attributes["group"]
    window = find_window(Call(at.node), at.pixels(), weight.shape[2:])
    more = at.form.padding or ((0, 0), (0, 0))
    if at.form.padding is not None and at.node.attributes["auto_pad"].startswith("SAME"):
        at.refuse("it follows padding and pads by itself")
    padding = tuple(
        (before + extra[0], after + extra[1])
        for (before, after), extra in zip(window.padding, more, strict=True)
    )
    at.add(
        L.Conv2D(
            filters, window.size, stride=window.stride, dilation=window.dilation, groups=groups,
            padding=_named(padding), use_bias=bias is not None,
        ),
        weight=weight.transpose(2, 3, 1, 0),  # (o, c / groups, kh, kw) -> (kh, kw, c / groups, o)
        **({} if bias is None else {"bias": bias}),
    )  # fmt: skip
    return Form("nchw")


def _named(padding: Any) -> Any:
    return "valid" if not any(map(any, padding)) else padding


def _pad(at: Place) -> Form:
    at.channels_first()
    widths = at.node.attributes["pads"] if at.node.attributes["pads"] is not None else at.constant(1)
    value, axes = at.constant(2), at.constant(3)
    zero = at.node.attributes["value"] == 0 if value is None else not value.any()
    if (
        at.node.attributes["mode"] != "constant"
        or not zero
        or axes is not None
        or widths is None
        or len(widths) != 8
    ):
        at.refuse("only zeros around images can be padded")
    numbers = [int(width) for width in widths]
    if any(numbers[place] for place in (0, 1, 4, 5)) or min(numbers) < 0:
        at.refuse(f"it pads by {numbers}; only the sides of images can be padded")
    return replace(at.form, padding=((numbers[2], numbers[6]), (numbers[3], numbers[7])))


def _pool(at: Place) -> Form:
    at.channels_first()
    size = at.node.attributes["kernel_shape"]
    window: Window = find_window(Call(at.node), at.pixels(), size)
    if window.dilation != (1, 1):
        at.refuse("tinynet's pools have no dilation")
    average = at.node.operator == "AveragePool"
    if average and at.node.attributes["count_include_pad"] and any(map(any, window.padding)):
        at.refuse("tinynet's average pool does not count padding")
    kind = L.AveragePool2D if average else L.MaxPool2D
    at.add(kind(window.size, stride=window.stride, padding=_named(window.padding)))
    if average and window.size == at.pixels() and at.target[2:] == (1, 1):
        at.translation.whole.add(at.made[-1])
    return at.form


def _global_pool(at: Place) -> Form:
    at.channels_first()
    kind = L.AveragePool2D if at.node.operator == "GlobalAveragePool" else L.MaxPool2D
    at.add(kind(at.pixels()))
    at.translation.whole.add(at.made[-1])
    return at.form


def _mean(at: Place) -> Form:
    axes = at.node.attributes["axes"] if at.node.attributes["axes"] is not None else at.constant(1)
    sides: list[int] = {"nchw": [2, 3], "nhwc": [1, 2], "vector": []}[at.form.axes]
    if axes is None or not sides or sorted(int(axis) % 4 for axis in axes) != sides:
        at.refuse("only the mean over an image's height and width is a layer")
    at.add(L.AveragePool2D(at.pixels()))
    at.translation.whole.add(at.made[-1])
    if at.node.attributes["keepdims"]:
        return at.form
    at.to_vector()
    return Form("vector")


def _reshape(at: Place) -> Form:
    """Flatten, Reshape, Squeeze, Unsqueeze: images into vectors, or nothing but axes of length 1."""
    before, after = at.shape, at.target
    if before == after:
        return at.form
    if at.form.axes == "vector" or len(before) != 4 or after != (before[0], math.prod(before[1:])):
        at.refuse(f"it makes {after} of {before}; only images can be made vectors")
    at.to_vector()
    _, channels, height, width = before
    first = at.form.axes == "nchw" and channels > 1 and height * width > 1
    return Form("vector", (channels, height, width) if first else None)


def _dense(at: Place) -> Form:
    weight, bias = at.constant(1), None
    assert weight is not None
    names = at.node.attributes
    if at.form.axes != "vector" or weight.ndim != 2:
        at.refuse(
            f"it multiplies values of shape {at.shape} with {weight.shape}; wanted vectors and a matrix"
        )
    weight = weight.astype(np.float64)
    if at.node.operator == "Gemm":
        if names["transA"]:
            at.refuse("the attribute 'transA' is 1")
        weight = (weight.T if names["transB"] else weight) * names["alpha"]
        bias = at.constant(2)
    arrays = {"weight": at.features(weight.T).T}
    if bias is not None:
        if bias.shape not in ((), (1,), (1, 1), (weight.shape[1],), (1, weight.shape[1])):
            at.refuse(f"its third input has the shape {bias.shape}; wanted a number an output")
        arrays["bias"] = np.broadcast_to(bias.reshape(-1) * names["beta"], weight.shape[1])
    at.add(L.Dense(weight.shape[1], use_bias=bias is not None), **arrays)
    return Form("vector")


def _batch_norm(at: Place) -> Form:
    if at.form.axes == "nhwc":
        at.refuse("it reads images whose channels are last as if they were first")
    scale, shift, mean, variance = (np.asarray(at.constant(place), np.float64) for place in (1, 2, 3, 4))
    epsilon = at.node.attributes["epsilon"]
    own = epsilon if 1e-12 <= epsilon < 1 else EPSILON if (variance >= EPSILON).all() else 1e-12
    variance = variance + (epsilon - own)
    if (variance < 0).any():
        at.refuse("its variance is negative")
    at.add(
        L.BatchNorm(epsilon=own), scale=at.features(scale), shift=at.features(shift),
        running_mean=at.features(mean), running_variance=at.features(variance),
    )  # fmt: skip
    return at.form


def _affine(at: Place) -> Form:
    """x + k, x - k, k - x, x * k, x / k, with k a number or one a channel."""
    first = at.node.inputs[0] in at.translation.structure.depth
    values = at.constant(1 if first else 0)
    if at.target != at.shape or at.translation.structure.dtypes[at.node.outputs[0]].kind != "f":
        at.refuse(f"it makes {at.target} of {at.shape}, or computes with whole numbers")
    assert values is not None
    k = at.features(_by_channel(at, values.astype(np.float64)))
    one, zero = np.ones_like(k), np.zeros_like(k)
    operator = at.node.operator
    if operator == "Add":
        scale, shift = one, k
    elif operator == "Sub":
        scale, shift = (one, -k) if first else (-one, k)
    elif operator == "Mul":
        scale, shift = k, zero
    elif first:
        scale, shift = 1 / k, zero
    else:
        at.refuse("it divides by what depends on the input")
    translation = at.translation
    if translation.scalable and not at.made:
        old = translation.scaling
        translation.scaling = old[0] * scale, old[1] * scale + shift
        return at.form
    _scale(at, scale, shift)
    return at.form


def _by_channel(at: Place, values: np.ndarray) -> np.ndarray:
    """One number a channel (or feature) of a constant that is added to, or multiplied with, a value."""
    axis = {"nchw": 1, "nhwc": 3, "vector": 1}[at.form.axes]
    if at.node.opset < 7 and values.ndim:
        at.refuse("constants of opsets before 7 lie otherwise")
    if values.ndim > len(at.shape):
        at.refuse(f"a constant of shape {values.shape} is no number a channel")
    sides = [1] * (len(at.shape) - values.ndim) + list(values.shape)
    if any(side != 1 for place, side in enumerate(sides) if place != axis):
        at.refuse(f"a constant of shape {values.shape} is no number a channel")
    return np.broadcast_to(values.reshape(-1), at.shape[axis]).copy()


def _scale(at: Place, scale: np.ndarray, shift: np.ndarray) -> None:
    """Multiply by and add a number a channel: in the layer before where it is linear, else as batch-norm."""
    layer = at.last(L.Conv2D, L.Dense, L.BatchNorm)
    arrays = at.translation.arrays.get(layer)
    if arrays is None:
        at.add(
            L.BatchNorm(epsilon=EPSILON), scale=scale, shift=shift, running_mean=np.zeros_like(scale),
            running_variance=np.full_like(scale, 1 - EPSILON),
        )  # fmt: skip
    elif isinstance(layer, L.BatchNorm):
        arrays["scale"], arrays["shift"] = arrays["scale"] * scale, arrays["shift"] * scale + shift
    else:
        arrays["weight"] = arrays["weight"] * scale  # the last axis is the output's
        bias = arrays.get("bias", np.zeros_like(scale)) * scale + shift
        if layer.use_bias or bias.any():
            layer.use_bias, arrays["bias"] = True, bias


def _activation(at: Place) -> Form:
    _activate(at, _ACTIVATIONS[at.node.operator])
    return at.form


def _activate(at: Place, layer: type[Layer]) -> None:
    """The activation of the layer before, where that has none yet, or a layer of its own."""
    before = at.last(L.Conv2D, L.Dense)
    if before is not None:
        before.activation = layer.kind
    else:
        at.add(layer())


def _clip(at: Place) -> Form:
    names = at.node.attributes
    low, high = (
        at.constant(place) if names[key] is None else np.asarray(names[key])
        for place, key in ((1, "min"), (2, "max"))
    )
    bounds = tuple(None if bound is None else float(bound.reshape(())) for bound in (low, high))
    if bounds in ((0.0, None), (0.0, math.inf), (0.0, float(np.finfo(np.float32).max))):
        _activate(at, L.ReLU)
    elif bounds == (0.0, 6.0):
        _activate(at, L.ReLU6)
    else:
        at.refuse(f"it clips to {bounds}; tinynet's rectifiers clip to 0 and more, or 0 to 6")
    return at.form


def _softmax(at: Place) -> Form:
    axis, old = at.node.attributes["axis"], at.node.opset < 13
    axis = ((1 if old else -1) if axis is None else axis) % len(at.shape)
    if at.form.axes == "vector":
        if axis != 1:
            at.refuse(f"the attribute 'axis' is {axis}")
        _activate(at, L.Softmax)
        return at.form
    alone = at.pixels() == (1, 1)
    if axis != {"nchw": 1, "nhwc": 3}[at.form.axes] or (old and not alone):
        at.refuse("softmax over other axes than the channels is no layer")
    if alone:  # a classifier without Flatten
        at.to_vector()
        at.form = Form("vector")
        _activate(at, L.Softmax)
        return at.form
    if at.last(L.Conv2D) is None:
        at.refuse("softmax over channels is no layer, only a convolution's activation")
    _activate(at, L.Softmax)
    return at.form


def _enlarge(at: Place) -> Form:
    old = at.node.operator == "Upsample" or at.node.opset < 11
    names = at.node.attributes
    scales = names.get("scales") if names.get("scales") is not None else at.constant(1 if old else 2)
    sizes = None if old else at.constant(3)
    at.pixels()
    factors = whole_factors(resize_rows(at.node, at.shape, scales, sizes), at.shape)
    sides = (2, 3) if at.form.axes == "nchw" else (1, 2)
    if factors is None or any(factor != 1 for axis, factor in factors.items() if axis not in sides):
        at.refuse("tinynet repeats each pixel equally often, along height and width only")
    at.add(L.UpSample2D((factors.get(sides[0], 1), factors.get(sides[1], 1))))
    return at.form


def _dropout(at: Place) -> Form:
    given = at.constant(1)
    ratio = at.node.attributes["ratio"] if given is None else float(given.reshape(()))
    if 0 < ratio < 1:
        at.add(L.Dropout(float(f"{ratio:.6g}")))
    return at.form


_ACTIVATIONS: dict[str, type[Layer]] = {"Relu": L.ReLU, "Sigmoid": L.Sigmoid, "Tanh": L.Tanh}

NODES: dict[str, Callable[[Place], Form]] = {
    "Identity": _nothing,
    "Cast": _cast,
    "Transpose": _transpose,
    "Conv": _convolution,
    "Pad": _pad,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _mean,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Gemm", "MatMul"), _dense),
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _affine),
    **dict.fromkeys(_ACTIVATIONS, _activation),
    "Clip": _clip,
    "Softmax": _softmax,
    **dict.fromkeys(("Resize", "Upsample"), _enlarge),
    "Dropout": _dropout,
}
