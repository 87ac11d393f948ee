"""The layers, one function each.  Shapes are those of one image: (height, width, channels)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from tinynet import functions as F
from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions.convolution import check_convolution, make_window, pair
from tinynet.functions.normalization import check_rate
from tinynet.functions.pooling import pooling_window
from tinynet.kernels.recording import after, before
from tinynet.kernels.window import Window
from tinynet.layers.base import Context, Layer, Shape, register
from tinynet.tensor import Tensor


def initial_weight(shape: Shape, fan_in: int, fan_out: int, activation: str | None, rng) -> np.ndarray:
    """Random weights whose outputs have about the variance of their inputs.

    Before a rectifier: normal with variance 2 / fan_in (He et al., arXiv:1502.01852, equation 10);
    otherwise uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio, AISTATS 2010, equation 16).
    """
    if activation in ("relu", "relu6"):
        return rng.standard_normal(shape) * math.sqrt(2.0 / fan_in)
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)


@register
class Conv2D(Layer):
    """Convolution: (h, w, c) -> (h', w', filters); weight (kh, kw, c / groups, filters), bias (filters,)."""

    kind = "conv"
    options = ("filters", "kernel_size", "stride", "padding", "dilation", "groups", "activation", "use_bias")

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        name: str | None = None,
    ):
        super().__init__(name)
        self.filters = self.positive("filters", filters)
        self.kernel_size = pair("Conv2D", "kernel_size", kernel_size)
        self.stride, self.dilation = pair("Conv2D", "stride", stride), pair("Conv2D", "dilation", dilation)
        self.padding, self.groups = known_padding("Conv2D", padding), self.positive("groups", groups)
        self.activation = self.known_activation(activation)
        self.use_bias = self.flag("use_bias", use_bias)

    def window(self, input_shape: Shape) -> Window:
        """The window that moves over images of this shape."""
        return make_window(
            self.label, input_shape[:2], self.kernel_size, self.stride, self.padding, self.dilation
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        self.images_only(input_shape)
        height, width, channels = input_shape
        weight = (*self.kernel_size, channels // self.groups, self.filters)
        check_convolution(self.label, (1, *input_shape), weight, self.groups)
        return (*self.window(input_shape).output_size(height, width), self.filters)

    def build(self, input_shape: Shape, rng: np.random.Generator | None) -> Shape:
        result = super().build(input_shape, rng)
        channels, taps = input_shape[2] // self.groups, self.kernel_size[0] * self.kernel_size[1]
        shape = (*self.kernel_size, channels, self.filters)
        fans = (taps * channels, taps * self.filters // self.groups)
        make = None if rng is None else lambda: initial_weight(shape, *fans, self.activation, rng)
        self.new_parameter("weight", shape, make)
        if self.use_bias:
            self.new_parameter(
                "bias", (self.filters,), None if rng is None else lambda: np.zeros(self.filters)
            )
        return result

    def multiply_accumulates(self, input_shape: Shape) -> int:
        taps = self.kernel_size[0] * self.kernel_size[1] * input_shape[2] // self.groups
        return math.prod(self.output_shape(input_shape)) * taps

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y = F.conv2d(
            x, self.parameters["weight"], self.parameters.get("bias"),
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        return self.activate(y, self.activation, context)


@register
class Dense(Layer):
    """Every output a weighted sum of every feature: (features,) -> (units,); weight (features, units)."""

    kind = "dense"
    options = ("units", "activation", "use_bias")

    def __init__(
        self, units: int, activation: str | None = None, *, use_bias: bool = True, name: str | None = None
    ):
        super().__init__(name)
        self.units, self.use_bias = self.positive("units", units), self.flag("use_bias", use_bias)
        self.activation = self.known_activation(activation)

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise ShapeError(
                f"{self.label} wants features (n,), got {input_shape}; put a Flatten() before it"
            )
        return (self.units,)

    def build(self, input_shape: Shape, rng: np.random.Generator | None) -> Shape:
        result = super().build(input_shape, rng)
        shape = (input_shape[0], self.units)
        make = None if rng is None else lambda: initial_weight(shape, *shape, self.activation, rng)
        self.new_parameter("weight", shape, make)
        if self.use_bias:
            self.new_parameter("bias", (self.units,), None if rng is None else lambda: np.zeros(self.units))
        return result

    def multiply_accumulates(self, input_shape: Shape) -> int:
        return math.prod(input_shape) * self.units

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y = F.dense(x, self.parameters["weight"], self.parameters.get("bias"))
        return self.activate(y, self.activation, context)


class _Pool2D(Layer):
    options = ("size", "stride", "padding")

    def __init__(
        self,
        size: int | tuple[int, int] = 2,
        *,
        stride: int | tuple[int, int] | None = None,
        padding: str | int | tuple = "valid",
        name: str | None = None,
    ):
        super().__init__(name)
        self.size = pair(type(self).__name__, "size", size)
        self.stride = self.size if stride is None else pair(type(self).__name__, "stride", stride)
        self.padding = known_padding(type(self).__name__, padding)

    def window(self, input_shape: Shape) -> Window:
        """The window that moves over images of this shape."""
        return pooling_window(self.label, input_shape[:2], self.size, self.stride, self.padding)

    def output_shape(self, input_shape: Shape) -> Shape:
        self.images_only(input_shape)
        return (*self.window(input_shape).output_size(*input_shape[:2]), input_shape[2])


@register
class MaxPool2D(_Pool2D):
    """The largest value of each window; the stride is the window's size unless given."""

    kind = "pool"

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return F.max_pool2d(x, self.size, stride=self.stride, padding=self.padding)


@register
class AveragePool2D(_Pool2D):
    """The mean of each window's real pixels; the stride is the window's size unless given."""

    kind = "average"

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return F.average_pool2d(x, self.size, stride=self.stride, padding=self.padding)


@register
class GlobalAveragePool2D(Layer):
    """The mean of each channel: (h, w, c) -> (c,)."""

    kind = "average"

    def window(self, input_shape: Shape) -> Window:
        """The window that covers images of this shape."""
        return Window((input_shape[0], input_shape[1]))

    def output_shape(self, input_shape: Shape) -> Shape:
        self.images_only(input_shape)
        return input_shape[2:]

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return F.global_average_pool2d(x)


@register
class UpSample2D(Layer):
    """Each pixel repeated: (h, w, c) -> (h * fh, w * fw, c)."""

    kind = "upsample"
    options = ("factor",)

    def __init__(self, factor: int | tuple[int, int] = 2, *, name: str | None = None):
        super().__init__(name)
        self.factor = pair("UpSample2D", "factor", factor)

    def output_shape(self, input_shape: Shape) -> Shape:
        self.images_only(input_shape)
        return (input_shape[0] * self.factor[0], input_shape[1] * self.factor[1], input_shape[2])

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return F.upsample2d(x, self.factor)


@register
class BatchNorm(Layer):
    """Each channel normalised: by the batch's statistics in training, by running ones in use.

    running = momentum * running + (1 - momentum) * batch, after each training batch (Keras's
    convention; PyTorch's momentum is 1 minus this).  The variance is divided by n in
    both the batch's and the running one (PyTorch's running one is divided by n - 1).
    Running statistics are saved with the model.  Where `trainable` is false they are used, and
    kept, in training too.
    """

    kind = "norm"
    options = ("momentum", "epsilon")

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-3, *, name: str | None = None):
        super().__init__(name)
        self.momentum = self.number("momentum", momentum, 0)
        self.epsilon = self.number("epsilon", epsilon, 1e-12)

    def build(self, input_shape: Shape, rng: np.random.Generator | None) -> Shape:
        shape, real = (input_shape[-1],), rng is not None
        self.new_parameter("scale", shape, (lambda: np.ones(shape)) if real else None)
        self.new_parameter("shift", shape, (lambda: np.zeros(shape)) if real else None)
        self.new_buffer("running_mean", shape, 0.0 if real else None)
        self.new_buffer("running_variance", shape, 1.0 if real else None)
        return super().build(input_shape, rng)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        learning = context.training and self.trainable
        running = (self.buffers["running_mean"], self.buffers["running_variance"])
        y, mean, variance = F.batch_norm(
            _as_vectors(x), self.parameters["scale"], self.parameters["shift"],
            epsilon=self.epsilon, statistics=None if learning else running,
        )  # fmt: skip
        if learning:
            for old, new in zip(running, (mean, variance), strict=True):
                after(partial(self._follow, old, new))
        return y

    def _follow(self, running: np.ndarray, batch: np.ndarray) -> None:
        running[...] = self.momentum * running + (1 - self.momentum) * batch


@register
class Dropout(Layer):
    """In training, a share `rate` of the elements set to zero and the rest divided by 1 - rate."""

    kind = "dropout"
    options = ("rate",)

    def __init__(self, rate: float, *, name: str | None = None):
        super().__init__(name)
        check_rate("Dropout", rate)
        self.rate = float(rate)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if not context.training or not self.rate:
            return x
        return F.dropout(x, self.rate, before(lambda: context.keys(self.path, x.shape[0])))


@register
class Flatten(Layer):
    """(h, w, c) -> (h * w * c,), counted rows, columns, channels."""

    kind = "flatten"

    def output_shape(self, input_shape: Shape) -> Shape:
        self.images_only(input_shape)
        return (math.prod(input_shape),)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return F.flatten(x)


class _Activation(Layer):
    activation = ""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.activate(x, self.activation, context)


@register
class ReLU(_Activation):
    """max(x, 0)."""

    kind = activation = "relu"


@register
class ReLU6(_Activation):
    """min(max(x, 0), 6)."""

    kind = activation = "relu6"


@register
class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    kind = activation = "sigmoid"


@register
class Tanh(_Activation):
    """The hyperbolic tangent."""

    kind = activation = "tanh"


@register
class Softmax(_Activation):
    """Probabilities over the classes: (k,) -> (k,), summing to 1."""

    kind = activation = "softmax"

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise ShapeError(f"{self.label} wants one score a class (k,), got {input_shape}")
        return input_shape


def final_activation(layer: Layer | None) -> str | None:
    """The activation that a model's last layer ends with."""
    return getattr(layer, "activation", None)


def known_padding(where: str, padding: Any) -> str | tuple:
    """`padding` as "same", "valid" or ((top, bottom), (left, right)); raises ArgumentError otherwise."""
    if isinstance(padding, str) and padding in ("same", "valid"):
        return padding
    sides = [_two(side) for side in _two(padding)]
    if any(isinstance(v, bool) or not isinstance(v, int | np.integer) or v < 0 for s in sides for v in s):
        raise ArgumentError(
            f'{where}: padding must be "same", "valid", a whole number, (vertical, horizontal) or '
            f"((top, bottom), (left, right)), got {padding!r}"
        )
    return tuple((int(before), int(after)) for before, after in sides)


def _two(value: Any) -> tuple:
    """A pair as it is; anything else stands for both of its sides."""
    return tuple(value) if isinstance(value, tuple | list) and len(value) == 2 else (value, value)


def _as_vectors(x: Tensor) -> Tensor:
    """Flattened images stored as vectors are, one channel a feature; anything else as it is.

    Flatten moves nothing in lane layout (functions/composition.py), but each feature has its own
    scale and shift.
    """
    if x.lanes is None or not x.lanes.flat or x.data.shape[2:4] == (1, 1):
        return x
    return F.pack(F.unpack(x))
