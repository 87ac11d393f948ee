"""The gradient checks behind `tinynet gradcheck`: every function and every layer, at least once each.

A case draws a point and checks the gradients there.  Images enter in lane layout, in batches that
leave lanes empty, so that what is checked is what runs inside a model.  Points are drawn away from
kinks where that is possible; where it is not (a rectifier deep inside a network) a point that lies
on one by chance is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet import functional as F
from tinynet import layers as L
from tinynet.functions.block import conv_block
from tinynet.gradcheck import KINK, OK, GradcheckReport, gradcheck
from tinynet.kernels.block import Block
from tinynet.kernels.window import Window
from tinynet.tensor import Tensor

Draw = Callable[[np.random.Generator], tuple[Callable[..., Any], tuple[Any, ...]]]

ATTEMPTS = 5  # points drawn before a kink counts as a failure

# Batches with empty lanes after the last image: 13 of 16, and 15 in the second block.
FEW, MANY = 3, 17


@dataclass(frozen=True)
class Case:
    """One gradient check.

    subject  the function of tinynet.functional or the layer whose gradient it is
    detail   in which configuration; may be empty
    draw     a random generator -> the function to check, and its float64 inputs
    """

    subject: str
    detail: str
    draw: Draw

    @property
    def name(self) -> str:
        return f"{self.subject}, {self.detail}" if self.detail else self.subject

    def run(self, seed: int = 0, fast_mode: bool = True) -> GradcheckReport:
        """The report of a gradient check with the active kernels at a point drawn from `seed`."""
        for attempt in range(ATTEMPTS):
            function, inputs = self.draw(np.random.default_rng([seed, attempt]))
            report = gradcheck(function, inputs, raise_exception=False, fast_mode=fast_mode, seed=seed)
            only_kinks = not report.problems and {check.verdict for check in report.inputs} <= {OK, KINK}
            if report.passed or not only_kinks:
                break
        return report._replace(function=self.name)


# What inputs are made of.


def numbers(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Between 0.2 and 2 with random signs: away from 0, where rectifiers have their kink."""
    return random.uniform(0.2, 2.0, shape) * random.choice([-1.0, 1.0], shape)


def distinct(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Every number different, 0.1 from its nearest: no ties for a maximum."""
    return random.permutation(np.arange(np.prod(shape)) * 0.1).reshape(shape)


def spread(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Between -0.92 and 0.92, at least 0.003 from 0 and, up to 183 numbers, 0.01 from each other."""
    return distinct(random, *shape) % 1.83 - 0.917


def in_lanes(array: np.ndarray) -> Tensor:
    """A leaf in lane layout."""
    tensor = F.pack(array).detach()
    tensor.requires_grad = True
    return tensor


def images(random: np.random.Generator, *shape: int) -> Tensor:
    """Images (n, h, w, c) or vectors (n, f) in lane layout."""
    return in_lanes(numbers(random, *shape))


# Cases of functions.


def _convolution(detail: str, count: int, size: int, channels: int, kernel: tuple, **options: Any) -> Case:
    bias = options.pop("bias", True)

    def draw(random: np.random.Generator) -> tuple:
        inputs = [images(random, count, size, size + 1, channels), numbers(random, *kernel)]
        if bias:
            inputs.append(numbers(random, kernel[3]))
        return lambda x, weight, bias=None: F.conv2d(x, weight, bias, **options), tuple(inputs)

    return Case("conv2d", detail, draw)


def _pooling(subject: str, detail: str, shape: tuple[int, ...], *arguments: Any, **options: Any) -> Case:
    function = getattr(F, subject)

    def draw(random: np.random.Generator) -> tuple:
        return lambda x: function(x, *arguments, **options), (in_lanes(distinct(random, *shape)),)

    return Case(subject, detail, draw)


def _elementwise(subject: str, scale: float = 1.0, offset: float = 0.0) -> Case:
    def draw(random: np.random.Generator) -> tuple:
        return getattr(F, subject), (in_lanes(numbers(random, FEW, 4, 3, 2) * scale + offset),)

    return Case(subject, "images", draw)


def _dense(detail: str, shape: tuple[int, ...], features: int, outputs: int, bias: bool = True) -> Case:
    def draw(random: np.random.Generator) -> tuple:
        parameters = [numbers(random, features, outputs), *([numbers(random, outputs)] if bias else [])]
        return F.dense, (images(random, *shape), *parameters)

    return Case("dense", detail, draw)


def _function(subject: str, detail: str, function: Callable, *shapes: tuple[int, ...]) -> Case:
    """A function of lane batches of these shapes."""
    return Case(subject, detail, lambda random: (function, tuple(images(random, *shape) for shape in shapes)))


def _normalisation(detail: str, shape: tuple[int, ...], given: bool = False) -> Case:
    def draw(random: np.random.Generator) -> tuple:
        channels = shape[-1]
        statistics = (numbers(random, channels), random.uniform(0.5, 2, channels)) if given else None

        def function(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return F.batch_norm(x, scale, shift, statistics=statistics)[0]

        return function, (images(random, *shape), numbers(random, channels), numbers(random, channels))

    return Case("batch_norm", detail, draw)


def _dropout(random: np.random.Generator) -> tuple:
    keys = random.integers(0, 2**32, MANY, dtype=np.uint32)
    return lambda x: F.dropout(x, 0.4, keys), (images(random, MANY, 3, 4, 2),)


def _cross_entropy(detail: str, smoothing: float = 0.0, distributions: bool = False) -> Case:
    def draw(random: np.random.Generator) -> tuple:
        labels = random.dirichlet(np.ones(4), MANY) if distributions else random.integers(0, 4, MANY)
        return lambda x: F.softmax_cross_entropy(x, labels, smoothing=smoothing), (images(random, MANY, 4),)

    return Case("softmax_cross_entropy", detail, draw)


def _distillation(random: np.random.Generator) -> tuple:
    labels, soft = np.eye(4)[random.integers(0, 4, MANY)], random.dirichlet(np.ones(4), MANY)
    given = {"temperature": 2.5, "weight": 0.7}
    return lambda x: F.distillation(x, labels, soft, **given), (images(random, MANY, 4),)


def _binary_cross_entropy(random: np.random.Generator) -> tuple:
    labels = random.uniform(0, 1, MANY)
    return lambda x: F.binary_cross_entropy(x, labels), (images(random, MANY, 1),)


def _convolution_cases() -> list[Case]:
    return [
        _convolution("same padding", FEW, 5, 2, (3, 3, 2, 5)),
        _convolution("two blocks of images", MANY, 4, 3, (3, 3, 3, 4)),
        _convolution("valid padding, no bias", FEW, 5, 2, (3, 2, 2, 3), padding="valid", bias=False),
        _convolution("strided", FEW, 7, 2, (3, 3, 2, 3), stride=(2, 3)),
        _convolution("stride beyond the kernel", FEW, 7, 2, (2, 2, 2, 3), stride=3, padding="valid"),
        _convolution("dilated", FEW, 7, 2, (3, 3, 2, 3), dilation=(2, 1)),
        _convolution("dilated and strided", FEW, 8, 2, (3, 2, 2, 3), stride=2, dilation=(2, 3)),
        _convolution("grouped", FEW, 5, 6, (3, 3, 2, 9), groups=3),
        _convolution("depthwise", MANY, 5, 5, (3, 3, 1, 5), groups=5, bias=False),
        _convolution(
            "depthwise, strided, two outputs a channel", FEW, 6, 3, (3, 3, 1, 6), groups=3, stride=2
        ),
        _convolution("asymmetric padding", FEW, 4, 2, (3, 3, 2, 3), padding=((2, 0), (1, 3))),
        _convolution("1x1", MANY, 3, 5, (1, 1, 5, 3)),
        _convolution("even kernel", FEW, 5, 2, (4, 2, 2, 3), padding="same"),
        _convolution("kernel as large as the image", FEW, 3, 2, (3, 4, 2, 3), padding="valid"),
    ]


def _block(detail: str, count: int, kernel: tuple, block: Block) -> Case:
    """Fused layers; the bias is spread so that neither a rectifier nor a maximum is near its kink."""

    def draw(random: np.random.Generator) -> tuple:
        inputs = (
            images(random, count, 4, 6, kernel[2]),
            numbers(random, *kernel),
            numbers(random, kernel[3]),
        )
        return lambda x, weight, bias: conv_block(x, weight, bias, block), inputs

    return Case("conv_block", detail, draw)


def _block_cases() -> list[Case]:
    same = Window((3, 3), padding=((1, 1), (1, 1)))
    return [
        _block("convolution", FEW, (3, 3, 2, 5), Block(same)),
        _block("ReLU", MANY, (3, 3, 2, 3), Block(same, relu=True)),
        _block("ReLU and max-pool", MANY, (3, 3, 2, 5), Block(same, relu=True, pool=True)),
        _block("upsampling and ReLU", FEW, (3, 3, 2, 3), Block(same, factor=(2, 2), relu=True)),
        _block(
            "upsampling, even kernel, dilated", FEW, (2, 4, 2, 3),
            Block(Window((2, 4), dilation=(1, 2), padding=((0, 1), (3, 3))), factor=(3, 2)),
        ),
    ]  # fmt: skip


def _dense_cases() -> list[Case]:
    return [
        _dense("vectors", (MANY, 5), 5, 3),
        _dense("images", (FEW, 2, 3, 2), 12, 3),
        _dense("no bias", (FEW, 5), 5, 6, bias=False),
    ]


def _pooling_cases() -> list[Case]:
    return [
        _pooling("max_pool2d", "", (MANY, 4, 6, 2), 2),
        _pooling("max_pool2d", "overlapping, padded", (FEW, 7, 6, 2), 3, stride=2, padding="same"),
        _pooling("max_pool2d", "asymmetric", (FEW, 5, 4, 2), (3, 2), stride=1, padding=((2, 0), (0, 1))),
        _pooling("max_pool2d", "stride beyond the window", (FEW, 7, 7, 2), 2, stride=3),
        _pooling("average_pool2d", "", (MANY, 4, 6, 2), 2),
        _pooling("average_pool2d", "overlapping, padded", (FEW, 7, 6, 2), 3, stride=2, padding="same"),
        _pooling("average_pool2d", "asymmetric", (FEW, 5, 4, 2), (3, 2), stride=1, padding=((2, 0), (0, 1))),
        _pooling("global_average_pool2d", "", (MANY, 3, 4, 5)),
        _pooling("upsample2d", "", (MANY, 3, 2, 2), 2),
        _pooling("upsample2d", "unequal factors", (FEW, 3, 2, 2), (1, 3)),
    ]


def _normalisation_cases() -> list[Case]:
    return [
        _normalisation("the batch's statistics, images", (FEW, 3, 4, 2)),
        _normalisation("the batch's statistics, two blocks", (MANY, 3, 2, 3)),
        _normalisation("the batch's statistics, vectors", (MANY, 4)),
        _normalisation("given statistics, images", (MANY, 3, 2, 3), given=True),
        _normalisation("given statistics, vectors", (FEW, 4), given=True),
        Case("dropout", "fixed keys", _dropout),
    ]


def _activation_cases() -> list[Case]:
    return [
        _elementwise("relu"),
        _elementwise("relu6", scale=2.5, offset=3.0),  # -2 to 2.5 and 3.5 to 8: below, between and above
        _elementwise("sigmoid"),
        _elementwise("tanh"),
        _function("softmax", "vectors", F.softmax, (MANY, 4)),
        _function("log_softmax", "vectors", F.log_softmax, (MANY, 4)),
        _function("softmax", "over the channels of images", F.softmax, (FEW, 2, 3, 4)),
    ]


def _loss_cases() -> list[Case]:
    return [
        _cross_entropy("classes"),
        _cross_entropy("smoothed labels", smoothing=0.1),
        _cross_entropy("distributions", distributions=True),
        Case("distillation", "", _distillation),
        Case("binary_cross_entropy", "", _binary_cross_entropy),
        _function("mean_squared_error", "images", F.mean_squared_error, (MANY, 3, 2, 2), (MANY, 3, 2, 2)),
        _function("mean_squared_error", "vectors", F.mean_squared_error, (FEW, 5), (FEW, 5)),
        _function(
            "mean_squared_error",
            "flattened images against vectors",
            lambda x, target: F.mean_squared_error(F.flatten(x), target),
            (FEW, 2, 2, 3),
            (FEW, 12),
        ),
    ]


def _composition_cases() -> list[Case]:
    shape = (MANY, 3, 2, 2)
    return [
        _function("add_images", "", F.add_images, shape, shape, shape),
        _function("add_images", "a batch to itself", lambda x: F.add_images(x, x), shape),
        _function("concatenate_channels", "", F.concatenate_channels, shape, (MANY, 3, 2, 3), shape),
        _function("flatten", "", F.flatten, shape),
        _function("flatten", "unpacked after", lambda x: F.unpack(F.flatten(x)), shape),
        _function("unpack", "", F.unpack, shape),
        Case("pack", "images", lambda random: (F.pack, (numbers(random, *shape),))),
        Case("pack", "vectors", lambda random: (F.pack, (numbers(random, FEW, 4),))),
    ]


# The general operations, on ordinary arrays: subject, function where it needs arguments, shapes.


def _general(
    subject: str, function: Callable | None, *shapes: tuple[int, ...], positive: bool = False
) -> Case:
    def draw(random: np.random.Generator) -> tuple:
        arrays = [distinct(random, *shape) + 0.3 for shape in shapes]
        signed = [array if positive else array - array.mean() + 0.017 for array in arrays]
        return function or getattr(F, subject), tuple(signed)

    return Case(subject, "", draw)


def _general_cases() -> list[Case]:
    wide, row, column = (4, 3), (3,), (4, 1)
    chosen = np.array([[True, False, True]])
    return [
        _general("add", None, wide, row),
        _general("subtract", None, column, row),
        _general("multiply", None, wide, column),
        _general("divide", None, wide, row, positive=True),
        _general("negative", None, wide),
        _general("power", None, wide, row, positive=True),
        _general("matmul", None, (2, 4, 3), (3, 5)),
        _general("exp", None, wide),
        _general("log", None, wide, positive=True),
        _general("sqrt", None, wide, positive=True),
        _general("absolute", None, wide),
        _general("maximum", lambda a: F.maximum(a, 0.05 - a), wide),
        _general("minimum", lambda a: F.minimum(a, 0.05 - a), wide),
        _general("clip", lambda x: F.clip(x, -0.36, 0.41), wide),
        _general("sum", lambda x: F.sum(x, axis=(0, 2)), (2, 4, 3)),
        _general("mean", lambda x: F.mean(x, axis=1), wide),
        _general("var", lambda x: F.var(x, axis=0, ddof=1), wide),
        _general("max", lambda x: F.max(x, axis=1), wide),
        _general("min", lambda x: F.min(x, axis=0), wide),
        _general("logsumexp", lambda x: F.logsumexp(x, axis=1), wide),
        _general("reshape", lambda x: F.reshape(x, 2, -1), wide),
        _general("transpose", lambda x: F.transpose(x, 1, 2, 0), (2, 4, 3)),
        _general("swapaxes", lambda x: F.swapaxes(x, 0, 2), (2, 4, 3)),
        _general("moveaxis", lambda x: F.moveaxis(x, 0, 2), (2, 4, 3)),
        _general("expand_dims", lambda x: F.expand_dims(x, 1), wide),
        _general("squeeze", lambda x: F.squeeze(x, 1), (4, 1, 3)),
        _general("flip", lambda x: F.flip(x, 0), wide),
        _general("pad", lambda x: F.pad(x, ((1, 0), (2, 1)), 0.5), wide),
        _general("broadcast_to", lambda x: F.broadcast_to(x, (2, 4, 3)), column),
        _general("concatenate", lambda a, b: F.concatenate([a, b, a]), wide, (2, 3)),
        _general("stack", lambda a, b: F.stack([a, b], axis=1), wide, wide),
        _general("where", lambda a, b: F.where(chosen, a, b), wide, row),
        _general("getitem", lambda x: F.getitem(x, (np.array([0, 2, 0]), slice(1, None))), wide),
    ]


# Cases of layers.


def _layer(detail: str, make: Callable[[], L.Layer], shape: tuple[int, ...], training: bool = True) -> Case:
    """The layer that `make` gives, with random float64 parameters, as a function of input and parameters."""

    def draw(random: np.random.Generator) -> tuple:
        layer = make()
        L.assign_names(L.Chain([layer]))
        layer.build(shape[1:], random)
        parameters = []
        for leaf in layer.leaves():
            for parameter in leaf.parameters.values():
                parameter.data = numbers(random, *parameter.shape) / np.sqrt(max(1, parameter.size / 4))
                parameters.append(parameter)
            if "running_mean" in leaf.buffers:
                leaf.buffers["running_mean"][...] = 0.3
                leaf.buffers["running_variance"][...] = 1.7
        context = L.Context(training=training, seed=1)
        return lambda x, *_: layer(x, context), (in_lanes(spread(random, *shape)), *parameters)

    return Case(type(make()).__name__, detail, draw)


def tiny_network() -> L.Chain:
    """Every way in which layers compose, in few parameters: (8, 8, 2) -> (3,)."""
    body = [L.Conv2D(4, activation="relu"), L.BatchNorm(), L.Conv2D(4, 3, groups=2)]
    branches: list[list[L.Layer]] = [[L.Conv2D(2, 1)], [L.Conv2D(4, 3, groups=4), L.ReLU6()]]
    return L.Chain(
        [
            L.Conv2D(4, 3, activation="relu"),
            L.MaxPool2D(2),
            L.BatchNorm(),
            L.Residual(body),
            L.Dropout(0.2),
            L.Concatenate([*branches, [L.AveragePool2D(3, stride=1, padding="same")]]),
            L.UpSample2D(2),
            L.Conv2D(3, 3, stride=2, activation="tanh"),
            L.Flatten(),
            L.Dense(4, "sigmoid"),
            L.Dense(3, "softmax"),
        ]
    )


def _layer_cases() -> list[Case]:
    shape = (FEW, 4, 5, 2)
    activations = [L.ReLU, L.ReLU6, L.Sigmoid, L.Tanh]
    return [
        _layer("", lambda: L.Conv2D(3, 3, stride=2, activation="tanh"), shape),
        _layer("", lambda: L.Dense(3, "sigmoid"), (MANY, 5)),
        _layer("", lambda: L.MaxPool2D(3, stride=2, padding="same"), shape),
        _layer("", lambda: L.AveragePool2D(2), shape),
        _layer("", lambda: L.GlobalAveragePool2D(), shape),
        _layer("", lambda: L.UpSample2D((2, 1)), shape),
        _layer("in training", lambda: L.BatchNorm(), (MANY, 2, 3, 2)),
        _layer("in use", lambda: L.BatchNorm(), (MANY, 2, 3, 2), training=False),
        _layer("in training", lambda: L.Dropout(0.3), shape),
        _layer("", lambda: L.Flatten(), shape),
        *[_layer("", activation, shape) for activation in activations],
        _layer("", L.Softmax, (MANY, 4)),
        _layer("", lambda: L.Residual([L.Conv2D(2, 3)]), shape),
        _layer("with a shortcut", lambda: L.Residual([L.Conv2D(3, 3)], [L.Conv2D(3, 1)]), shape),
        _layer("", lambda: L.Concatenate([[L.Conv2D(2, 3)], [L.Conv2D(3, 1), L.Tanh()], []]), shape),
        _layer("a tiny network in training", tiny_network, (MANY, 8, 8, 2)),
        _layer("a tiny network in use", tiny_network, (FEW, 8, 8, 2), training=False),
    ]


CASES: list[Case] = [
    *_convolution_cases(),
    *_block_cases(),
    *_dense_cases(),
    *_pooling_cases(),
    *_normalisation_cases(),
    *_activation_cases(),
    *_loss_cases(),
    *_composition_cases(),
    *_general_cases(),
    *_layer_cases(),
]
