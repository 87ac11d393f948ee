"""The flat list of operations says what the model does: carried out plainly, it gives the model's answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from small_networks import NAMED, networks, randomised

import tinynet as tn
from tinynet.deploy import interpreter
from tinynet.deploy.graph import lower
from tinynet.errors import ArgumentError, NonFiniteError


def assert_same_answers(model):
    graph = lower(model)
    x = np.random.default_rng(3).standard_normal((3, *model.input_shape)).astype(np.float32)
    wanted, got = model.predict(x), interpreter.run(graph, x)
    assert got.dtype == np.float32 and got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * max(1, np.abs(wanted).max()))
    np.testing.assert_allclose(interpreter.logits(graph, x), model.logits(x), rtol=1e-4, atol=1e-4)
    return graph


@pytest.mark.parametrize("name", NAMED)
def test_named_networks(name):
    graph = assert_same_answers(randomised(tn.Sequential(NAMED[name](), (9, 8, 6))))
    for number, operation in enumerate(graph.operations, start=1):
        assert all(0 <= value < number for value in operation.inputs)


@given(networks())
def test_drawn_networks(model):
    assert_same_answers(model)


@pytest.mark.parametrize("name", ["autoencoder", "small-cnn"])
def test_shipped_models_from_bytes(name):
    model = tn.load(name)
    graph = lower(model)
    images = np.random.default_rng(0).integers(0, 256, (3, *model.input_shape), dtype=np.uint8)
    np.testing.assert_allclose(interpreter.run(graph, images), model.predict(images), atol=1e-5)
    assert graph.class_names == ("uninfected", "infected") and graph.ending == "softmax"


def test_the_model_s_own_preprocessing_applies():
    made = tn.Preprocessing(height=4, width=5, scale=0.02, mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.6, 0.7))
    model = tn.Sequential([tn.Conv2D(2, 3)], (4, 5, 3), preprocessing=made)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    np.testing.assert_allclose(interpreter.run(lower(model), images), model.predict(images), atol=1e-5)


def test_the_self_test_is_the_model_s():
    from tinynet.files import selftest_input

    model = randomised(tn.Sequential(NAMED["autoencoder"](), (8, 8, 3)))
    graph = lower(model)
    got = interpreter.logits(graph, selftest_input(graph.test_seed, 8, 8, 3)).reshape(-1)
    assert len(graph.test_outputs) == len(graph.test_places) == 16
    np.testing.assert_allclose(got[list(graph.test_places)], graph.test_outputs, rtol=1e-4, atol=1e-5)


def test_multiply_accumulates_are_those_of_the_summary():
    model = tn.load("autoencoder")
    graph = lower(model)
    total = sum(graph.multiply_accumulates(place) for place in range(len(graph.operations)))
    assert total == model.chain.multiply_accumulates(model.input_shape) == 769968


def test_a_layer_that_is_not_ours_is_named():
    class Odd(tn.Layer):
        kind = "odd"

    with pytest.raises(ArgumentError, match=r"layer 'residual1/branch1/odd1' \(Odd\) .* to C: only"):
        lower(tn.Sequential([tn.Residual([Odd()])], (4, 4, 3)), target="C")


def test_what_cannot_be_exported():
    with pytest.raises(ArgumentError, match="no weights yet"):
        lower(tn.Sequential([tn.Conv2D(2, 3)]))
    with pytest.raises(ArgumentError, match="computes nothing"):
        lower(tn.Sequential([tn.Dropout(0.5)], (3, 3, 3)))
    model = tn.Sequential([tn.Conv2D(2, 3)], (4, 4, 3))
    model.parameters()["conv1.weight"].data[0, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"conv1\.weight"):
        lower(model)
