"""Small networks of every layer for the tests of deploy/: named ones, and drawn ones for Hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import tinynet as tn

_ALONE = (tn.ReLU, tn.ReLU6, tn.Sigmoid, tn.Tanh)
NAMED = {
    "stride, groups, dilation": lambda: [
        tn.Conv2D(6, 3, stride=2, activation="relu"),
        tn.Conv2D(4, (1, 3), groups=2, padding="valid", activation="relu6"),
        tn.Conv2D(5, 3, dilation=2, use_bias=False, activation="tanh"),
        tn.GlobalAveragePool2D(),
        tn.Dense(3, "softmax"),
    ],
    "depthwise": lambda: [tn.Conv2D(6, 3, groups=3), tn.Conv2D(6, 5, groups=6, stride=(2, 1), padding=1)],
    "residual": lambda: [
        tn.Conv2D(4, 3, activation="relu"),
        tn.Residual([tn.Conv2D(4, 3, activation="relu"), tn.BatchNorm()]),
        tn.Residual([tn.Conv2D(3, 3)], [tn.Conv2D(3, 1)]),
        tn.ReLU(),
        tn.Residual([tn.Residual([])]),  # the same value four times
        tn.Flatten(),
        tn.Dense(2),
    ],
    "concatenate": lambda: [
        tn.Concatenate([[tn.Conv2D(3, 1)], [], [tn.MaxPool2D(3, stride=1, padding="same")]]),
        tn.Concatenate([[tn.Conv2D(2, 3, activation="sigmoid")], [tn.UpSample2D(1), tn.Conv2D(1, 3)]]),
        tn.AveragePool2D((2, 3), stride=(2, 1), padding="same"),
    ],
    "pools that overlap and stick out": lambda: [
        tn.MaxPool2D(3, stride=2, padding=((1, 1), (0, 2))),
        tn.AveragePool2D(3, stride=1, padding="same"),
        tn.MaxPool2D((2, 1)),
    ],
    "autoencoder": lambda: [
        tn.Conv2D(4, 3, activation="relu"),
        tn.MaxPool2D(2),
        tn.Conv2D(4, 3, activation="relu"),
        tn.UpSample2D(2),
        tn.Conv2D(3, 3),
    ],
    "norm after flatten, dropout, one sigmoid": lambda: [
        tn.BatchNorm(),
        tn.Conv2D(3, 3, activation="relu"),
        tn.MaxPool2D(2),
        tn.Dropout(0.3),
        tn.Flatten(),
        tn.BatchNorm(),
        tn.Dense(5, "sigmoid"),
        tn.Softmax(),
        tn.Dropout(0.2),
        tn.Dense(1, "sigmoid"),
    ],
    "ends in a block": lambda: [tn.Chain([tn.Conv2D(3, 3), tn.Chain([tn.Tanh()]), tn.Residual([])])],
    "softmax over channels": lambda: [
        tn.Conv2D(4, 3, activation="softmax"),
        tn.Conv2D(3, 1, activation="softmax"),
    ],
    "ends in dropout": lambda: [tn.Flatten(), tn.Dense(3, "softmax"), tn.Dropout(0.5)],
}


def randomised(model: tn.Sequential, seed: int = 0) -> tn.Sequential:
    """Every weight and running statistic drawn anew, so that none has the value it starts with."""
    generator = np.random.default_rng(seed)
    for name, array in model.state().items():
        if name.endswith("running_variance"):
            array[...] = generator.uniform(0.3, 2.0, array.shape)
        else:
            array[...] = array + 0.3 * generator.standard_normal(array.shape)
    model.temperature = 1.7
    return model


@st.composite
def networks(draw) -> tn.Sequential:
    """A network of up to five layers or blocks with drawn options, on images of drawn size."""
    shape = (draw(st.integers(3, 12)), draw(st.integers(3, 12)), draw(st.integers(1, 9)))
    layers: list[tn.Layer] = []
    at = shape
    for _ in range(draw(st.integers(1, 5))):
        layer = draw(_layer(at))
        result = layer.output_shape(at)
        if min(result) < 1 or np.prod(result) > 4000:
            continue
        layers.append(layer)
        at = result
    if draw(st.booleans()) or not layers:
        layers += [tn.Flatten(), tn.Dense(draw(st.integers(1, 20)), draw(_ACTIVATION))]
        if draw(st.booleans()):
            layers += [tn.BatchNorm(), tn.Dense(draw(st.integers(2, 4)), "softmax")]
    model = randomised(tn.Sequential(layers, shape), draw(st.integers(0, 99)))
    # One activation and nothing else is refused, as a model that computes nothing.
    assume(len(model.layers) > 1 or not isinstance(model.layers[0], _ALONE))
    return model


_ACTIVATION = st.sampled_from([None, "relu", "relu6", "sigmoid", "tanh"])
_FEW = st.integers(1, 3)


@st.composite
def _layer(draw, shape, deep: bool = True) -> tn.Layer:
    height, width, channels = shape
    kinds = ["convolution", "grouped", "pool", "average", "upsample", "norm", "activation"]
    kind = draw(st.sampled_from(kinds + ["residual", "concatenate"] * deep))
    size = (draw(st.integers(1, min(height, 4))), draw(st.integers(1, min(width, 4))))
    if kind in ("pool", "average"):
        layer = tn.MaxPool2D if kind == "pool" else tn.AveragePool2D
        return layer(size, stride=(draw(_FEW), draw(_FEW)), padding=draw(st.sampled_from(["same", "valid"])))
    if kind == "upsample":
        return tn.UpSample2D((draw(_FEW), draw(_FEW)))
    if kind == "norm":
        return tn.BatchNorm()
    if kind == "activation":
        return draw(st.sampled_from([tn.ReLU, tn.ReLU6, tn.Sigmoid, tn.Tanh]))()
    if kind == "residual":
        same = tn.Conv2D(channels, size, activation=draw(_ACTIVATION))
        return tn.Residual([same], draw(st.sampled_from([[], [tn.Conv2D(channels, 1)], [tn.BatchNorm()]])))
    if kind == "concatenate":
        convolution = tn.Conv2D(draw(st.integers(1, 9)), size, activation=draw(_ACTIVATION))
        return tn.Concatenate([[], [convolution], [tn.AveragePool2D(size, stride=1, padding="same")]])
    groups = channels if kind == "grouped" else 1
    return tn.Conv2D(
        groups * draw(_FEW) if groups > 1 else draw(st.integers(1, 20)),
        size,
        stride=(draw(_FEW), draw(_FEW)),
        padding=draw(st.sampled_from(["same", "valid", ((1, 0), (2, 1))])),
        dilation=1 if draw(st.booleans()) else (2 if min(height, width) > 6 and max(size) < 4 else 1),
        groups=groups,
        activation=draw(_ACTIVATION),
        use_bias=draw(st.booleans()),
    )
