"""Batch normalisation against float64 NumPy, its statistics and empty lanes; dropout's masks; mistakes."""

from __future__ import annotations

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
COUNTS = st.sampled_from([2, 3, 16, 17, 33])


@st.composite
def batches(draw):
    """Images or vectors with channels of their own mean and deviation, and a scale and shift."""
    channels = draw(st.integers(1, 4))
    image = draw(st.sampled_from([(), (1, 1), (3, 2), (4, 5)]))
    random = np.random.default_rng(draw(SEEDS))
    x = random.standard_normal((draw(COUNTS), *image, channels))
    x = x * random.uniform(0.1, 3, channels) + random.uniform(-5, 5, channels)
    return x, random.uniform(0.5, 2, channels), random.uniform(-1, 1, channels)


def definition(x, scale, shift, epsilon, mean=None, variance=None):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes) if mean is None else mean
    variance = x.var(axis=axes) if variance is None else variance
    return scale * (x - mean) / np.sqrt(variance + epsilon) + shift


@given(batches(), st.sampled_from([1e-5, 1e-3, 0.1]))
def test_training_values_and_statistics_are_those_of_the_definition(kernel_set, batch, epsilon):
    x, scale, shift = batch
    y, mean, variance = F.batch_norm(x, scale, shift, epsilon=epsilon)
    np.testing.assert_allclose(y.numpy(), definition(x, scale, shift, epsilon), rtol=1e-9, atol=1e-9)
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(mean, x.mean(axis=axes), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(variance, x.var(axis=axes), rtol=1e-11, atol=1e-13)
    assert mean.dtype == variance.dtype == np.float64


@given(batches())
def test_use_takes_the_given_statistics(kernel_set, batch):
    x, scale, shift = batch
    given_mean, given_variance = np.linspace(-1, 1, scale.size), np.linspace(0.5, 2, scale.size)
    y, mean, variance = F.batch_norm(x, scale, shift, statistics=(given_mean, given_variance))
    expected = definition(x, scale, shift, 1e-3, given_mean, given_variance)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(mean, given_mean)
    np.testing.assert_array_equal(variance, given_variance)


@pytest.mark.parametrize("given_statistics", [False, True])
@given(batch=batches(), seed=SEEDS)
def test_gradients_agree_with_difference_quotients(kernel_set, given_statistics, batch, seed):
    x, scale, shift = batch
    statistics = (scale - 1, scale) if given_statistics else None

    def normalised(x, scale, shift):
        return F.batch_norm(x, scale, shift, epsilon=0.05, statistics=statistics)[0]

    assert gradcheck(normalised, (in_lanes(x), scale, shift), seed=seed).kernels == kernel_set.NAME


def test_the_gradient_of_a_batch_has_no_mean_and_no_slope(kernel_set):
    """Shifting or stretching the whole batch changes nothing, so dx is orthogonal to both."""
    random = np.random.default_rng(0)
    x = Tensor(random.standard_normal((17, 3, 3, 2)), requires_grad=True)
    y, mean, _ = F.batch_norm(x, np.ones(2), np.zeros(2), epsilon=1e-12)
    y.backward(random.standard_normal(y.shape))
    assert np.abs(x.grad.sum(axis=(0, 1, 2))).max() < 1e-11
    assert np.abs((x.grad * (x.data - mean)).sum(axis=(0, 1, 2))).max() < 1e-9


def test_statistics_of_float32_are_accumulated_in_float64(kernel_set):
    """A large common offset costs no digit of the mean and few of the variance."""
    x = (np.random.default_rng(0).standard_normal((50, 16, 16, 2)) + 1000).astype(np.float32)
    y, mean, variance = F.batch_norm(x, np.ones(2, np.float32), np.zeros(2, np.float32))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(variance, wide.var(axis=(0, 1, 2)), rtol=1e-10)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), definition(wide, 1, 0, 1e-3), atol=2e-4)


def test_a_constant_channel_becomes_its_shift(kernel_set):
    x = Tensor(np.full((5, 2, 2, 1), 7.5, np.float32), requires_grad=True)
    y, mean, variance = F.batch_norm(x, np.ones(1), np.full(1, 0.25))
    assert (mean, variance) == (7.5, 0.0)
    np.testing.assert_array_equal(y.numpy(), np.full((5, 2, 2, 1), 0.25))
    y.backward(np.random.default_rng(0).standard_normal(y.shape))
    assert np.isfinite(x.grad).all()


@pytest.mark.parametrize("garbage", [1e6, np.nan, np.inf])
def test_empty_lanes_count_for_nothing_whatever_they_hold(kernel_set, garbage):
    random = np.random.default_rng(0)
    images, cotangent = random.standard_normal((2, 19, 2, 3, 2))
    outcomes = []
    for dirty in (False, True):
        x = in_lanes(images)
        if dirty and x.data.shape[4] * x.data.shape[0] > 19:
            x.data[-1, ..., 19 - 16 * (x.data.shape[0] - 1) :] = garbage
        scale, shift = Tensor(np.ones(2), requires_grad=True), Tensor(np.zeros(2), requires_grad=True)
        y, mean, variance = F.batch_norm(x, scale, shift)
        assert not y.data[-1, ..., 3:].any()
        F.unpack(y).backward(cotangent)
        assert not x.grad[-1, ..., 3:].any()
        outcomes.append((y.data, mean, variance, x.grad, scale.grad, shift.grad))
    for clean, dirty in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(clean, dirty)


def test_in_use_an_image_does_not_see_the_others(kernel_set):
    x = np.random.default_rng(0).standard_normal((21, 3, 3, 2))
    options = {"statistics": (np.zeros(2), np.ones(2))}
    together = F.batch_norm(x, np.ones(2), np.ones(2), **options)[0].numpy()
    np.testing.assert_array_equal(
        F.batch_norm(x[:5], np.ones(2), np.ones(2), **options)[0].numpy(), together[:5]
    )


def test_a_nan_image_makes_the_whole_channel_nan_in_training_and_only_itself_in_use(kernel_set):
    x = np.random.default_rng(0).standard_normal((5, 2, 2, 2))
    x[3, 0, 1, 1] = np.nan
    y, mean, _ = F.batch_norm(x, np.ones(2), np.zeros(2))
    assert np.isnan(y.numpy()[..., 1]).all() and np.isfinite(y.numpy()[..., 0]).all()
    assert np.isnan(mean).tolist() == [False, True]
    y, _, _ = F.batch_norm(x, np.ones(2), np.zeros(2), statistics=(np.zeros(2), np.ones(2)))
    assert np.isnan(y.numpy()).sum() == 1


def test_batch_norm_keeps_layout_and_precision(kernel_set):
    for shape in ((3, 2, 4, 5), (3, 5)):
        x = np.ones(shape, np.float32)
        assert F.batch_norm(x, np.ones(5, np.float32), np.zeros(5, np.float32))[0].lanes is None
        y, _, _ = F.batch_norm(F.pack(x), np.ones(5, np.float32), np.zeros(5, np.float32))
        assert y.lanes is not None and y.lanes.count == 3 and y.shape == shape and y.dtype == np.float32


ONE, TWO = np.ones(1), np.ones(2)


@pytest.mark.parametrize(
    ("x", "scale", "shift", "options", "error", "parts"),
    [
        ((3, 4, 2), TWO, TWO, {}, ShapeError, ["images (n, h, w, c) or vectors (n, c)", "(3, 4, 2)"]),
        ((3, 2), ONE, TWO, {}, ShapeError, ["scale has shape (1,)", "wanted (2,)"]),
        ((3, 2), TWO, np.ones((1, 2)), {}, ShapeError, ["shift has shape (1, 2)", "wanted (2,)"]),
        ((0, 2), TWO, TWO, {}, ShapeError, ["at least one image", "(0, 2)"]),
        ((3, 2), TWO, TWO, {"epsilon": 0}, ArgumentError, ["epsilon", "positive", "got 0"]),
        ((3, 2), TWO, TWO, {"epsilon": -1e-3}, ArgumentError, ["epsilon", "-0.001"]),
        ((3, 2), TWO, TWO, {"epsilon": np.nan}, ArgumentError, ["epsilon", "nan"]),
        ((3, 2), TWO, TWO, {"epsilon": "small"}, ArgumentError, ["epsilon", "'small'"]),
        ((3, 2), TWO, TWO, {"statistics": (ONE, ONE)}, ShapeError, ["mean has shape (1,)", "wanted (2,)"]),
        ((3, 2), TWO, TWO, {"statistics": (TWO, 1.0)}, ShapeError, ["variance has shape ()", "wanted (2,)"]),
        ((3, 2), TWO, TWO, {"statistics": (TWO,)}, ArgumentError, ["statistics must be (mean, variance)"]),
        ((3, 2), TWO, TWO, {"statistics": (TWO, -TWO)}, ArgumentError, ["variance", "negative", "-1.0"]),
    ],
)
def test_batch_norm_names_a_mistake(kernel_set, x, scale, shift, options, error, parts):
    with pytest.raises(error) as caught:
        F.batch_norm(np.ones(x), scale, shift, **options)
    message = str(caught.value)
    assert (
        message.lower().replace("batchnorm", "batch_norm").startswith("batch_norm: ") and "\n" not in message
    )
    for part in parts:
        assert part in message


def test_batch_norm_directly_after_flatten_is_refused_with_advice(kernel_set):
    flat = F.flatten(F.pack(np.ones((3, 2, 2, 2))))
    with pytest.raises(ShapeError, match="batch_norm: not defined directly after flatten"):
        F.batch_norm(flat, np.ones(2), np.ones(2))


# Dropout.


@given(st.sampled_from([1, 3, 16, 17]), st.floats(0.05, 0.95), SEEDS)
def test_dropout_keeps_or_drops_and_does_the_same_to_the_gradient(kernel_set, count, rate, seed):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 2**64, count, dtype=np.uint64)
    leaf = Tensor(random.uniform(1, 2, (count, 3, 4, 2)), requires_grad=True)
    y = F.dropout(leaf, rate, keys)
    kept = y.numpy() != 0
    np.testing.assert_allclose(y.numpy(), np.where(kept, leaf.data / (1 - rate), 0), rtol=1e-12)
    cotangent = random.uniform(1, 2, y.shape)
    y.backward(cotangent)
    np.testing.assert_allclose(leaf.grad, np.where(kept, cotangent / (1 - rate), 0), rtol=1e-12)


def test_a_mask_belongs_to_its_key_not_to_its_place_in_the_batch(kernel_set):
    keys = np.random.default_rng(0).integers(0, 2**32, 21, dtype=np.uint32)
    x = np.ones((21, 4, 4, 3))
    together = F.dropout(x, 0.5, keys).numpy()
    order = np.random.default_rng(1).permutation(21)
    np.testing.assert_array_equal(F.dropout(x, 0.5, keys[order]).numpy(), together[order])
    np.testing.assert_array_equal(F.dropout(x[:5], 0.5, keys[:5]).numpy(), together[:5])
    assert len({image.tobytes() for image in together}) == 21
    for other in (keys.astype(np.uint64), keys.astype(np.int64), keys.view(np.int32), keys.tolist()):
        np.testing.assert_array_equal(F.dropout(x, 0.5, other).numpy(), together)


def test_dropout_keeps_the_expected_share(kernel_set):
    keys = np.arange(64, dtype=np.uint32) * np.uint32(2654435761)
    kept = F.dropout(np.ones((64, 16, 16, 4), np.float32), np.float32(0.3), keys).numpy() > 0
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / kept.size)


def test_rate_zero_changes_nothing_and_nan_is_not_dropped_in_silence(kernel_set):
    x = Tensor(np.ones((3, 2)))
    assert F.dropout(x, 0, np.zeros(3, np.uint32)) is x
    nan = F.dropout(np.full((3, 8), np.nan), 0.5, np.arange(3)).numpy()
    kept = F.dropout(np.ones((3, 8)), 0.5, np.arange(3)).numpy() != 0
    np.testing.assert_array_equal(np.isnan(nan), kept)


@pytest.mark.parametrize(
    ("x", "rate", "keys", "error", "parts"),
    [
        ((3, 2), 1.0, np.zeros(3, np.uint32), ArgumentError, ["rate", "below 1", "1.0"]),
        ((3, 2), -0.1, np.zeros(3, np.uint32), ArgumentError, ["rate", "-0.1"]),
        ((3, 2), np.nan, np.zeros(3, np.uint32), ArgumentError, ["rate", "nan"]),
        ((3, 2), "0.5", np.zeros(3, np.uint32), ArgumentError, ["rate", "'0.5'"]),
        ((3, 2), True, np.zeros(3, np.uint32), ArgumentError, ["rate", "True"]),
        ((3, 2), 0.5, np.zeros(2, np.uint32), ShapeError, ["key for each of 3 images", "(2,)"]),
        ((3, 2), 0.5, np.uint32(1), ShapeError, ["key for each of 3 images", "()"]),
        ((3, 2), 0.5, np.zeros(3), ArgumentError, ["keys", "whole numbers", "float64"]),
        ((), 0.5, np.zeros(3, np.uint32), ShapeError, ["images (n, h, w, c) or vectors (n, f)", "()"]),
        ((3, 2, 2), 0.5, np.zeros(3, np.uint32), ShapeError, ["vectors (n, f)", "(3, 2, 2)"]),
    ],
)
def test_dropout_names_a_mistake(kernel_set, x, rate, keys, error, parts):
    with pytest.raises(error) as caught:
        F.dropout(np.ones(x), rate, keys)
    message = str(caught.value)
    assert message.startswith("dropout: ") and "\n" not in message
    for part in parts:
        assert part in message
