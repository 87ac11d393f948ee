"""Losses: values against plain definitions, gradients, extremes, NaN, smoothing, empty lanes, mistakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import functional as F
from tinynet.errors import ArgumentError, ShapeError
from tinynet.gradcheck import gradcheck
from tinynet.gradient_cases import in_lanes
from tinynet.tensor import Tensor

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.sampled_from([1, 3, 16, 17])


def probabilities(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


@given(COUNTS, st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.9]), SEEDS)
def test_softmax_cross_entropy_is_its_definition(kernel_set, count, classes, smoothing, seed):
    random = np.random.default_rng(seed)
    logits, labels = random.uniform(-3, 3, (count, classes)), random.integers(0, classes, count)
    target = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    leaf = Tensor(logits, requires_grad=True)
    loss = F.softmax_cross_entropy(leaf, labels, smoothing=smoothing)
    assert loss.shape == ()
    expected = -np.sum(target * np.log(probabilities(logits)), axis=1).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    (2 * loss).backward()
    np.testing.assert_allclose(leaf.grad, 2 * (probabilities(logits) - target) / count, rtol=1e-9, atol=1e-12)
    gradcheck(lambda x: F.softmax_cross_entropy(x, labels, smoothing=smoothing), in_lanes(logits), seed=seed)


@given(COUNTS, st.integers(1, 5), SEEDS)
def test_distributions_as_labels(kernel_set, count, classes, seed):
    random = np.random.default_rng(seed)
    logits, target = random.uniform(-3, 3, (count, classes)), random.dirichlet(np.ones(classes), count)
    expected = -np.sum(target * np.log(probabilities(logits)), axis=1).mean()
    assert F.softmax_cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    gradcheck(lambda x: F.softmax_cross_entropy(x, target), logits, seed=seed)


def test_classes_unit_vectors_and_tensors_are_the_same_labels(kernel_set):
    logits = np.random.default_rng(0).standard_normal((4, 3))
    loss = F.softmax_cross_entropy(logits, [0, 2, 1, 2]).item()
    units = np.eye(3)[[0, 2, 1, 2]]
    for labels in (units, units.astype(np.int64), Tensor(units), np.array([0, 2, 1, 2], np.uint8)):
        assert F.softmax_cross_entropy(logits, labels).item() == loss
    assert F.softmax_cross_entropy(logits[:, :2], [False, True, True, False]).item() == (
        F.softmax_cross_entropy(logits[:, :2], [0, 1, 1, 0]).item()
    )


def test_smoothing_gives_its_share_to_every_class_the_right_one_too(kernel_set):
    leaf = Tensor(np.zeros((1, 4)), requires_grad=True)
    F.softmax_cross_entropy(leaf, [1], smoothing=0.2).backward()
    # Target 0.2 / 4 = 0.05 each, and 0.8 more for the right class; probability 0.25 each.
    np.testing.assert_allclose(leaf.grad, [[0.2, -0.6, 0.2, 0.2]], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_give_finite_losses_and_gradients(kernel_set, dtype):
    logits = Tensor(np.array([[1e4, -1e4], [-1e30, 1e30]], dtype), requires_grad=True)
    right = F.softmax_cross_entropy(logits, [0, 1])
    assert right.item() == 0.0 and right.dtype == dtype
    wrong = F.softmax_cross_entropy(logits, [1, 0])
    assert np.isfinite(wrong.item()) and wrong.item() == pytest.approx(1e30, rel=1e-6)
    wrong.backward()
    np.testing.assert_array_equal(logits.grad, [[0.5, -0.5], [-0.5, 0.5]])

    logits = Tensor(np.array([1e4, -1e30, 1e4, -1e4], dtype), requires_grad=True)
    loss = F.binary_cross_entropy(logits, [1, 0, 0, 1])
    assert loss.item() == pytest.approx(5e3)
    loss.backward()
    np.testing.assert_array_equal(logits.grad, [0, 0, 0.25, -0.25])


def test_an_impossible_class_that_is_not_the_label_costs_nothing(kernel_set):
    leaf = Tensor(np.array([[0.0, -np.inf, 0.0]]), requires_grad=True)
    loss = F.softmax_cross_entropy(leaf, [0])
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    np.testing.assert_allclose(leaf.grad, [[-0.5, 0, 0.5]])


@given(COUNTS, st.sampled_from([(), (1,), (3,), (2, 3, 2)]), SEEDS)
def test_binary_cross_entropy_is_its_definition(kernel_set, count, shape, seed):
    random = np.random.default_rng(seed)
    logits, labels = random.uniform(-5, 5, (count, *shape)), random.uniform(0, 1, (count, *shape))
    p = 1 / (1 + np.exp(-logits))
    leaf = Tensor(logits, requires_grad=True)
    loss = F.binary_cross_entropy(leaf, labels)
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    np.testing.assert_allclose(leaf.grad, (p - labels) / p.size, rtol=1e-9, atol=1e-13)
    gradcheck(lambda x: F.binary_cross_entropy(x, labels), logits, seed=seed)


def test_binary_labels_may_lack_the_last_axis_of_length_one(kernel_set):
    logits = np.array([[0.5], [-1.0], [2.0]])
    expected = F.binary_cross_entropy(logits, np.array([[1], [0], [1]])).item()
    assert F.binary_cross_entropy(logits, [1, 0, 1]).item() == expected
    assert F.binary_cross_entropy(F.pack(logits), [True, False, True]).item() == expected


@given(COUNTS, st.sampled_from([(), (1,), (4,), (3, 2), (3, 2, 2)]), SEEDS)
def test_mean_squared_error_is_its_definition(kernel_set, count, shape, seed):
    random = np.random.default_rng(seed)
    x, target = random.standard_normal((2, count, *shape))
    leaf, other = Tensor(x, requires_grad=True), Tensor(target, requires_grad=True)
    loss = F.mean_squared_error(leaf, other)
    assert loss.item() == pytest.approx(((x - target) ** 2).mean(), rel=1e-12)
    (3 * loss).backward()
    np.testing.assert_allclose(leaf.grad, 6 * (x - target) / x.size, rtol=1e-11, atol=1e-15)
    np.testing.assert_array_equal(other.grad, -leaf.grad)


@pytest.mark.parametrize("garbage", [1e6, np.nan])
def test_empty_lanes_count_for_nothing_whatever_they_hold(kernel_set, garbage):
    random = np.random.default_rng(0)
    images, wanted = random.standard_normal((2, 19, 2, 3, 2))
    x, target = in_lanes(images), in_lanes(wanted)
    for tensor in (x, target):
        tensor.data[-1, ..., 3:] = garbage
    loss = F.mean_squared_error(x, target)
    assert loss.item() == pytest.approx(((images - wanted) ** 2).mean(), rel=1e-12)
    loss.backward()
    assert not x.grad[-1, ..., 3:].any() and not target.grad[-1, ..., 3:].any()

    logits = in_lanes(images.reshape(19, 12))
    logits.data[-1, ..., 3:] = garbage
    for function, labels in (
        (F.softmax_cross_entropy, random.integers(0, 12, 19)),
        (F.binary_cross_entropy, random.integers(0, 2, (19, 12))),
    ):
        loss = function(logits, labels)
        assert loss.item() == function(images.reshape(19, 12), labels).item()
        logits.zero_grad()
        loss.backward()
        assert not logits.grad[-1, ..., 3:].any()


def test_flattened_images_meet_vectors_feature_by_feature(kernel_set):
    """They are stored in another order than vectors are: rows, columns, channels lie differently in lanes."""
    random = np.random.default_rng(0)
    for channels in (1, 3):
        images = random.standard_normal((3, 2, 2, channels))
        vectors = random.standard_normal((3, 4 * channels))
        x, target = in_lanes(images), in_lanes(vectors)
        loss = F.mean_squared_error(F.flatten(x), target)
        assert loss.item() == pytest.approx(((images.reshape(3, -1) - vectors) ** 2).mean(), rel=1e-12)
        loss.backward()
        difference = 2 * (images.reshape(3, -1) - vectors) / vectors.size
        np.testing.assert_allclose(x.grad_numpy(), difference.reshape(images.shape), rtol=1e-12)
        np.testing.assert_allclose(target.grad_numpy(), -difference, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_reaches_the_loss(kernel_set, dtype):
    x = np.ones((19, 3), dtype)
    x[18, 1] = np.nan
    assert np.isnan(F.softmax_cross_entropy(x, np.zeros(19, int)).item())
    assert np.isnan(F.binary_cross_entropy(x, np.zeros((19, 3))).item())
    assert np.isnan(F.mean_squared_error(x, np.zeros((19, 3), dtype)).item())


def test_float32_losses_are_accumulated_in_float64(kernel_set):
    """100,000 equal terms: their float32 sum in order would be off in the third digit."""
    logits = np.full((100_000, 2), 0.1, np.float32)
    assert F.softmax_cross_entropy(logits, np.zeros(100_000, int)).item() == pytest.approx(
        math.log(2), rel=1e-7
    )
    x = np.full((100_000, 2), 0.1, np.float32)
    loss = F.mean_squared_error(x, np.zeros_like(x))
    assert loss.dtype == np.float32
    assert loss.item() == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-7)
    assert F.binary_cross_entropy(x, np.zeros_like(x)).item() == pytest.approx(
        math.log1p(math.exp(0.1)), rel=1e-6
    )


def test_integers_are_computed_in_float32_and_precisions_keep_their_gradients(kernel_set):
    assert F.softmax_cross_entropy([[1, 2, 3]], [0]).item() == pytest.approx(2.4076059, rel=1e-6)
    assert F.binary_cross_entropy([1, 2], [0, 1]).item() == pytest.approx(0.7200948, rel=1e-6)
    loss = F.mean_squared_error(np.array([1, 2], np.uint8), [0, 0])
    assert loss.item() == 2.5 and loss.dtype == np.float32
    narrow, wide = Tensor(np.ones((2, 2), np.float32), True), Tensor(np.zeros((2, 2)), True)
    loss = F.mean_squared_error(narrow, wide)
    loss.backward()
    assert (loss.dtype, narrow.grad.dtype, wide.grad.dtype) == (np.float64, np.float32, np.float64)


TWO_BY_THREE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("logits", "labels", "options", "error", "parts"),
    [
        (np.zeros(3), [0], {}, ShapeError, ["logits (n, classes)", "(3,)"]),
        (np.zeros((2, 2, 2, 3)), [0], {}, ShapeError, ["logits (n, classes)", "(2, 2, 2, 3)"]),
        (np.zeros((0, 3)), [], {}, ShapeError, ["logits (n, classes)", "(0, 3)"]),
        (np.zeros((2, 0)), [0, 0], {}, ShapeError, ["(2, 0)"]),
        (TWO_BY_THREE, [0, 1, 2], {}, ShapeError, ["logits have shape (2, 3)", "labels (3,)"]),
        (TWO_BY_THREE, np.zeros((2, 4)), {}, ShapeError, ["(2, 3)", "labels (2, 4)"]),
        (TWO_BY_THREE, 1, {}, ShapeError, ["(2, 3)", "labels ()"]),
        (TWO_BY_THREE, [0, 3], {}, ArgumentError, ["labels run from 0 to 3", "wanted 0 to 2"]),
        (TWO_BY_THREE, [-1, 0], {}, ArgumentError, ["from -1 to 0", "wanted 0 to 2"]),
        (TWO_BY_THREE, [0.0, 1.0], {}, ArgumentError, ["integers", "float"]),
        (TWO_BY_THREE, np.ones((2, 3)), {}, ArgumentError, ["sum to 1"]),
        (TWO_BY_THREE, [[2.0, -1.0, 0.0]] * 2, {}, ArgumentError, ["not be negative"]),
        (TWO_BY_THREE, np.full((2, 3), np.nan), {}, ArgumentError, ["sum to 1"]),
        (TWO_BY_THREE, [0, 1], {"smoothing": 1}, ArgumentError, ["smoothing", "below 1", "got 1"]),
        (TWO_BY_THREE, [0, 1], {"smoothing": -0.1}, ArgumentError, ["smoothing", "-0.1"]),
        (TWO_BY_THREE, [0, 1], {"smoothing": None}, ArgumentError, ["smoothing", "None"]),
    ],
)
def test_softmax_cross_entropy_names_a_mistake(kernel_set, logits, labels, options, error, parts):
    with pytest.raises(error) as caught:
        F.softmax_cross_entropy(logits, labels, **options)
    message = str(caught.value)
    assert message.startswith("softmax_cross_entropy: ") and "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("function", "x", "target", "error", "parts"),
    [
        (F.binary_cross_entropy, np.zeros((2, 3)), np.zeros((3, 2)), ShapeError, ["(2, 3)", "labels (3, 2)"]),
        (F.binary_cross_entropy, np.zeros(2), np.zeros((2, 1)), ShapeError, ["(2,)", "labels (2, 1)"]),
        (F.binary_cross_entropy, np.zeros((0, 1)), np.zeros(0), ShapeError, ["(0, 1)"]),
        (F.binary_cross_entropy, np.zeros(2), [0, 2], ArgumentError, ["labels must lie between 0 and 1"]),
        (F.binary_cross_entropy, np.zeros(2), [0, np.nan], ArgumentError, ["between 0 and 1"]),
        (
            F.mean_squared_error,
            np.zeros((2, 3)),
            np.zeros((3, 2)),
            ShapeError,
            ["x has shape (2, 3)", "(3, 2)"],
        ),
        (F.mean_squared_error, np.zeros((2, 3)), np.zeros((2, 1)), ShapeError, ["(2, 3)", "target (2, 1)"]),
        (F.mean_squared_error, np.zeros((0, 3)), np.zeros((0, 3)), ShapeError, ["(0, 3)"]),
    ],
)
def test_other_losses_name_a_mistake(kernel_set, function, x, target, error, parts):
    with pytest.raises(error) as caught:
        function(x, target)
    message = str(caught.value)
    assert message.startswith(f"{function.__name__}: ") and "\n" not in message
    for part in parts:
        assert part in message
