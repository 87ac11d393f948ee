"""Layers: what shape comes out, what is refused in which words, and that a layer survives its description."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet.errors import ArgumentError, ModelFileError, ShapeError
from tinynet.layers import ACTIVATIONS, Context, layer_from_json, layer_to_json

SHAPES = [
    (tn.Conv2D(5, 3), (9, 8, 3), (9, 8, 5)),
    (tn.Conv2D(5, 3, stride=2), (9, 8, 3), (5, 4, 5)),
    (tn.Conv2D(5, 3, padding="valid"), (9, 8, 3), (7, 6, 5)),
    (tn.Conv2D(5, (3, 1), padding=((0, 2), (1, 0)), stride=(2, 1)), (9, 8, 3), (5, 9, 5)),
    (tn.Conv2D(5, 3, padding="valid", dilation=3), (9, 8, 3), (3, 2, 5)),
    (tn.Conv2D(6, 3, groups=3), (9, 8, 3), (9, 8, 6)),
    (tn.Dense(4), (7,), (4,)),
    (tn.MaxPool2D(2), (9, 8, 3), (4, 4, 3)),
    (tn.MaxPool2D(3, stride=2, padding="same"), (9, 8, 3), (5, 4, 3)),
    (tn.AveragePool2D((1, 4)), (9, 8, 3), (9, 2, 3)),
    (tn.GlobalAveragePool2D(), (9, 8, 3), (3,)),
    (tn.UpSample2D((2, 3)), (9, 8, 3), (18, 24, 3)),
    (tn.BatchNorm(), (9, 8, 3), (9, 8, 3)),
    (tn.Dropout(0.5), (7,), (7,)),
    (tn.Flatten(), (9, 8, 3), (216,)),
    (tn.ReLU(), (9, 8, 3), (9, 8, 3)),
    (tn.ReLU6(), (7,), (7,)),
    (tn.Sigmoid(), (9, 8, 3), (9, 8, 3)),
    (tn.Tanh(), (7,), (7,)),
    (tn.Softmax(), (7,), (7,)),
]


@pytest.mark.parametrize(("layer", "before", "after"), SHAPES, ids=lambda value: repr(value)[:50])
def test_the_shape_rule_says_what_forward_gives(kernel_set, layer, before, after):
    assert layer.output_shape(before) == after
    layer.build(before, np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((3, *before)).astype(np.float32)
    assert layer(tn.Tensor(x), Context()).shape == (3, *after)


def named(layer: tn.Layer, name: str) -> tn.Layer:
    layer.path = name
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (tn.Conv2D(4, 3), (7,), r"layer 'x' \(Conv2D\) wants images \(height, width, channels\), got \(7,\)"),
        (tn.Conv2D(4, 9, padding="valid"), (8, 8, 3), r"layer 'x' \(Conv2D\): a window of 9x9 .* 8x8"),
        (
            tn.Conv2D(4, 3, groups=2),
            (8, 8, 3),
            r"layer 'x' \(Conv2D\): 2 groups do not divide 3 input and 4 output",
        ),
        (
            tn.Dense(4),
            (8, 8, 3),
            r"layer 'x' \(Dense\) wants features \(n,\), got \(8, 8, 3\); put a Flatten\(\)",
        ),
        (tn.MaxPool2D(9), (8, 8, 3), r"layer 'x' \(MaxPool2D\): a window of 9x9 .* 8x8"),
        (tn.AveragePool2D(2), (7,), r"layer 'x' \(AveragePool2D\) wants images .* got \(7,\)"),
        (tn.GlobalAveragePool2D(), (7,), r"layer 'x' \(GlobalAveragePool2D\) wants images .* got \(7,\)"),
        (tn.UpSample2D(2), (7,), r"layer 'x' \(UpSample2D\) wants images .* got \(7,\)"),
        (tn.Flatten(), (7,), r"layer 'x' \(Flatten\) wants images .* got \(7,\)"),
        (tn.Softmax(), (8, 8, 3), r"layer 'x' \(Softmax\) wants one score a class \(k,\), got \(8, 8, 3\)"),
    ],
)
def test_a_shape_that_does_not_fit_is_a_sentence_with_layer_got_and_wanted(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        named(layer, "x").output_shape(shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tn.Conv2D(0), "Conv2D: filters must be a whole number of at least 1, got 0"),
        (lambda: tn.Conv2D(2.5), "filters .* got 2.5"),
        (lambda: tn.Conv2D(True), "filters .* got True"),
        (lambda: tn.Conv2D(4, (3, 3, 3)), r"Conv2D: kernel_size .* got \(3, 3, 3\)"),
        (lambda: tn.Conv2D(4, stride=0), "Conv2D: stride .* got 0"),
        (lambda: tn.Conv2D(4, dilation=-1), "Conv2D: dilation .* got -1"),
        (lambda: tn.Conv2D(4, groups="2"), "Conv2D: groups .* got '2'"),
        (lambda: tn.Conv2D(4, padding="full"), "Conv2D: padding must be .* got 'full'"),
        (lambda: tn.Conv2D(4, padding=-1), "Conv2D: padding .* got -1"),
        (lambda: tn.Conv2D(4, padding=True), "Conv2D: padding .* got True"),
        (lambda: tn.Conv2D(4, padding=(None, None)), "Conv2D: padding"),
        (lambda: tn.Conv2D(4, padding=(1, 2, 3)), "Conv2D: padding"),
        (lambda: tn.Conv2D(4, activation="rleu"), "Conv2D: activation must be one of relu, .* got 'rleu'"),
        (lambda: tn.Conv2D(4, activation=["relu"]), "Conv2D: activation"),
        (lambda: tn.Conv2D(4, use_bias="no"), "Conv2D: use_bias must be True or False, got 'no'"),
        (lambda: tn.Dense(-1), "Dense: units .* got -1"),
        (lambda: tn.Dense(1, activation={}), "Dense: activation"),
        (lambda: tn.MaxPool2D(0), "MaxPool2D: size .* got 0"),
        (lambda: tn.MaxPool2D(2, padding=(0.5, 1)), "MaxPool2D: padding"),
        (lambda: tn.AveragePool2D(2, stride=(1, 0)), "AveragePool2D: stride"),
        (lambda: tn.UpSample2D(0), "UpSample2D: factor .* got 0"),
        (lambda: tn.BatchNorm(1.0), "BatchNorm: momentum must be at least 0 and below 1, got 1.0"),
        (lambda: tn.BatchNorm("0.9"), "BatchNorm: momentum"),
        (lambda: tn.BatchNorm(epsilon=0), "BatchNorm: epsilon"),
        (lambda: tn.Dropout(1), "Dropout: rate must be at least 0 and below 1, got 1"),
        (lambda: tn.Dropout(True), "Dropout: rate"),
        (lambda: tn.ReLU(name="a.b"), "ReLU: name must be a word without '.' and '/', got 'a.b'"),
        (lambda: tn.ReLU(name=""), "ReLU: name"),
        (lambda: tn.ReLU(name=3), "ReLU: name"),
    ],
)
def test_senseless_options_are_refused_when_the_layer_is_made(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


# Every layer's options, for the round trip through JSON.

sizes = st.integers(1, 9)
pairs = sizes | st.tuples(sizes, sizes)
sides = st.integers(0, 4)
paddings = (
    st.sampled_from(["same", "valid"])
    | sides
    | st.tuples(sides, sides)
    | st.tuples(st.tuples(sides, sides), st.tuples(sides, sides))
)
activations = st.sampled_from([None, *ACTIVATIONS])
names = st.none() | st.text("abcxyz_09", min_size=1, max_size=6)
leaves = st.one_of(
    st.builds(
        tn.Conv2D,
        sizes,
        pairs,
        stride=pairs,
        padding=paddings,
        dilation=pairs,
        groups=sizes,
        activation=activations,
        use_bias=st.booleans(),
        name=names,
    ),
    st.builds(tn.Dense, sizes, activations, use_bias=st.booleans(), name=names),
    st.builds(tn.MaxPool2D, pairs, stride=st.none() | pairs, padding=paddings, name=names),
    st.builds(tn.AveragePool2D, pairs, stride=st.none() | pairs, padding=paddings, name=names),
    st.builds(tn.UpSample2D, pairs, name=names),
    st.builds(tn.BatchNorm, st.floats(0, 0.99), st.floats(1e-6, 0.1), name=names),
    st.builds(tn.Dropout, st.floats(0, 0.9), name=names),
    *[
        st.builds(kind, name=names)
        for kind in (
            tn.GlobalAveragePool2D,
            tn.Flatten,
            tn.ReLU,
            tn.ReLU6,
            tn.Sigmoid,
            tn.Tanh,
            tn.Softmax,
        )
    ],
)
layers = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(tn.Chain, st.lists(inner, max_size=2), name=names),
        st.builds(tn.Residual, st.lists(inner, max_size=2), st.lists(inner, max_size=1), name=names),
        st.builds(tn.Concatenate, st.lists(st.lists(inner, max_size=2), min_size=1, max_size=3), name=names),
    ),
    max_leaves=5,
)


def attributes(layer: tn.Layer) -> list:
    """What a layer was configured with, read from the object and not from its description."""
    own = {key: getattr(layer, key) for key in layer.options if key not in ("layers", "body", "shortcut")}
    own.pop("branches", None)
    return [type(layer), layer.name, own, [attributes(child) for child in layer.children()]]


@given(layers)
def test_a_layer_comes_back_from_json_as_it_was(layer):
    text = json.dumps(layer_to_json(layer))
    again = layer_from_json(json.loads(text))
    assert attributes(again) == attributes(layer)
    assert json.dumps(layer_to_json(again)) == text


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (None, "must be an object with a type"),
        ({"type": 3}, "must be an object with a type"),
        ({"type": "Layer"}, "unknown layer type 'Layer'"),
        ({"type": "os.system"}, "unknown layer type"),
        ({"type": "ReLU", "slope": 1}, "ReLU has no option 'slope'"),
        ({"type": "Conv2D"}, "Conv2D: .*filters"),
        ({"type": "Conv2D", "filters": -1}, "Conv2D: Conv2D: filters"),
        ({"type": "Conv2D", "filters": 1, "use_bias": 1}, "use_bias must be True or False"),
        ({"type": "ReLU", "name": ["a"]}, "name must be a word"),
        ({"type": "Chain", "layers": {}}, "wanted a list of layers"),
        ({"type": "Residual", "body": None}, "wanted a list of layers"),
        ({"type": "Concatenate", "branches": []}, "wanted a list of branches"),
        ({"type": "Concatenate", "branches": [3]}, "wanted a list of layers"),
    ],
)
def test_a_description_of_no_layer_is_refused(description, message):
    with pytest.raises(ModelFileError, match=message):
        layer_from_json(description)


def test_repr_shows_the_configuration():
    assert repr(tn.Dense(3, "relu", name="head")) == (
        "Dense(name='head', units=3, activation='relu', use_bias=True)"
    )


def test_initial_weights_have_the_variance_their_source_gives():
    conv = tn.Conv2D(64, 3, activation="relu")
    conv.build((8, 8, 64), np.random.default_rng(0))
    assert np.var(conv.parameters["weight"].data) == pytest.approx(2 / (9 * 64), rel=0.05)
    dense = tn.Dense(200)
    dense.build((300,), np.random.default_rng(0))
    assert np.var(dense.parameters["weight"].data) == pytest.approx(2 / 500, rel=0.05)
    assert np.abs(dense.parameters["weight"].data).max() <= np.sqrt(6 / 500)
    assert not dense.parameters["bias"].data.any()


def test_batch_norm_follows_keras_momentum_and_divides_by_n(kernel_set):
    layer = tn.BatchNorm(momentum=0.75)
    layer.build((2, 2, 3), np.random.default_rng(0))
    x = np.random.default_rng(1).normal(3, 2, (5, 2, 2, 3)).astype(np.float32)
    layer(tn.Tensor(x), Context(training=True))
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(layer.buffers["running_mean"], 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.buffers["running_variance"], 0.75 + 0.25 * variance, rtol=1e-5)


def test_batch_norm_in_use_is_training_with_those_statistics(kernel_set):
    layer = tn.BatchNorm(momentum=0.0)  # the running statistics are the last batch's
    layer.build((4, 4, 3), np.random.default_rng(0))
    x = tn.Tensor(np.random.default_rng(1).normal(1, 3, (6, 4, 4, 3)).astype(np.float32))
    trained = layer(x, Context(training=True)).numpy()
    np.testing.assert_allclose(layer(x, Context()).numpy(), trained, atol=1e-5)


def test_batch_norm_after_flatten_has_one_pair_of_parameters_a_feature(kernel_set):
    model = tn.Sequential([tn.Flatten(), tn.BatchNorm(momentum=0.0)], (3, 2, 2))
    x = np.random.default_rng(0).normal(2, 3, (7, 3, 2, 2)).astype(np.float32)
    model.layer("norm1").parameters["shift"].data[...] = np.arange(12)
    result = model(x, Context(training=True)).numpy()
    flat = x.reshape(7, 12)
    expected = (flat - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 1e-3) + np.arange(12)
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_dropout_scales_what_it_keeps_and_is_off_in_use(kernel_set):
    layer = named(tn.Dropout(0.25), "dropout1")
    x = tn.Tensor(np.ones((40, 100), np.float32))
    assert layer(x, Context()) is x
    y = layer(x, Context(training=True, seed=3)).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.03)  # 4000 draws: a deviation of 0.007


def test_dropout_masks_belong_to_the_image_not_to_its_place(kernel_set):
    layer = named(tn.Dropout(0.5), "dropout1")
    order = np.random.default_rng(0).permutation(20)
    x = np.ones((20, 30), np.float32)
    one = layer(tn.Tensor(x), Context(training=True, images=np.arange(20))).numpy()
    other = layer(tn.Tensor(x), Context(training=True, images=order)).numpy()
    assert np.array_equal(other, one[order])
    later = layer(tn.Tensor(x), Context(training=True, epoch=1, images=np.arange(20))).numpy()
    elsewhere = named(tn.Dropout(0.5), "dropout2")(tn.Tensor(x), Context(training=True)).numpy()
    assert not np.array_equal(one, later) and not np.array_equal(one, elsewhere)


def test_placeholders_take_no_memory_whatever_is_claimed():
    filters = 10**9 if sys.maxsize > 2**32 else 10**7  # more is no array on a 32-bit computer
    layer = tn.Conv2D(filters)
    layer.build((8, 8, 3), None)
    assert layer.parameters["weight"].shape == (3, 3, 3, filters)
    assert layer.parameters["weight"].data.strides == (0, 0, 0, 0)
