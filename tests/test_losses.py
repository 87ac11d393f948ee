"""Losses by name: which model and labels each takes, how it counts, how it is written down."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import functions as F
from tinynet import losses
from tinynet.errors import ArgumentError, ShapeError
from tinynet.losses import LOSSES, get_loss, loss_from_config
from tinynet.tensor import Tensor

LOGITS = np.array([[2.0, -1.0], [0.5, 1.5], [3.0, 1.0]], np.float32)
LABELS = np.array([0, 1, 1])


def test_each_name_gives_its_loss_and_another_is_refused_with_the_list():
    for name in LOSSES:
        assert get_loss(name) is LOSSES[name]
    assert get_loss(get_loss("mse")) is LOSSES["mse"]
    for wrong in ("crossentropy", None, 3):
        with pytest.raises(ArgumentError, match="categorical_crossentropy, binary_crossentropy, got"):
            get_loss(wrong)


@pytest.mark.parametrize("name", LOSSES)
def test_a_model_must_end_as_the_loss_wants(name):
    loss = LOSSES[name]
    assert loss.wants_images == (not loss.wants_logits) == (loss.name == "mse")
    for activation in ("softmax", "sigmoid", "relu", None):
        if loss.ending in (None, activation):
            loss.check(activation)
        else:
            with pytest.raises(
                ArgumentError, match=f"ends in {loss.ending}, .* {activation or 'no activation'}"
            ):
                loss.check(activation)


def test_smoothing_reaches_the_loss():
    smoothed = losses.sparse_categorical_crossentropy(smoothing=0.3)
    expected = F.softmax_cross_entropy(Tensor(LOGITS), LABELS, smoothing=0.3).item()
    plain = LOSSES["sparse_categorical_crossentropy"](Tensor(LOGITS), LABELS).item()
    assert smoothed(Tensor(LOGITS), LABELS).item() == expected
    assert plain == F.softmax_cross_entropy(Tensor(LOGITS), LABELS).item() != expected


@pytest.mark.parametrize("smoothing", [-0.1, 1, True, "0.1", None, float("nan")])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(ArgumentError, match="smoothing must be"):
        losses.sparse_categorical_crossentropy(smoothing)


@given(st.floats(0, 1, exclude_max=True))
def test_a_loss_comes_back_from_json(smoothing):
    for loss in (*LOSSES.values(), losses.sparse_categorical_crossentropy(smoothing)):
        assert loss_from_config(json.loads(json.dumps(loss.config()))) == loss


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"name": "mse", "smoothing": 0.1},
        {"name": "sparse_categorical_crossentropy"},
        {"name": "sparse_categorical_crossentropy", "smoothing": 0.1, "more": 1},
        {"name": "sparse_categorical_crossentropy", "smoothing": 2},
        "crossentropy",
        ["mse"],
    ],
)
def test_another_description_is_refused(config):
    with pytest.raises(ArgumentError):
        loss_from_config(config)


def test_right_answers_are_counted():
    assert LOSSES["sparse_categorical_crossentropy"].right(LOGITS, LABELS) == 2
    assert LOSSES["categorical_crossentropy"].right(LOGITS, np.eye(2)[LABELS]) == 2
    binary = LOSSES["binary_crossentropy"]
    logits = np.array([[-1.0], [0.0], [2.0], [3.0]], np.float32)
    assert binary.right(logits, np.array([0, 1, 1, 0])) == 3
    assert binary.right(logits, np.array([[0.0], [1.0], [1.0], [0.0]])) == 3


def test_every_label_is_checked_not_only_the_first_ones():
    loss, labels = LOSSES["sparse_categorical_crossentropy"], np.zeros(5000, int)
    loss.check_labels(labels, (2,))
    labels[4999] = 2
    with pytest.raises((ArgumentError, ShapeError), match="2"):
        loss.check_labels(labels, (2,))


def test_a_label_that_is_not_a_number_is_refused():
    labels = np.array([[0.0], [np.nan]], np.float32)
    with pytest.raises(ArgumentError):
        LOSSES["binary_crossentropy"].check_labels(labels, (1,))
