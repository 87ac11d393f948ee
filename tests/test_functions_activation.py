"""Activation functions: values, extremes, NaN, kinks, precision, layout, mistakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinynet import functional as F
from tinynet.errors import ShapeError
from tinynet.gradcheck import gradcheck
from tinynet.tensor import Tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=5)
SEEDS = st.integers(0, 2**32 - 1)

# name: (of one number, its derivative, by Python's own arithmetic)
ELEMENTWISE = {
    "relu": (lambda x: max(x, 0.0), lambda x: float(x > 0)),
    "relu6": (lambda x: min(max(x, 0.0), 6.0), lambda x: float(0 < x < 6)),
    "sigmoid": (lambda x: 1 / (1 + math.exp(-x)), lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2),
    "tanh": (math.tanh, lambda x: 1 - math.tanh(x) ** 2),
}
SOFTMAX = ["softmax", "log_softmax"]


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(SHAPES, SEEDS)
def test_values_and_derivatives_of_any_shape(kernel_set, name, shape, seed):
    value, derivative = ELEMENTWISE[name]
    x = np.random.default_rng(seed).uniform(-9, 9, shape)
    leaf = Tensor(x, requires_grad=True)
    y = getattr(F, name)(leaf)
    assert y.shape == shape and y.dtype == np.float64
    np.testing.assert_allclose(y.numpy(), np.vectorize(value)(x), rtol=1e-12)
    y.backward(np.full(shape, 3.0))
    np.testing.assert_allclose(leaf.grad, 3 * np.vectorize(derivative)(x), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", SOFTMAX)
@given(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5), SEEDS)
def test_softmax_over_the_last_axis(kernel_set, name, shape, seed):
    x = np.random.default_rng(seed).uniform(-3, 3, shape)
    expected = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    y = getattr(F, name)(x).numpy()
    np.testing.assert_allclose(y, expected if name == "softmax" else np.log(expected), rtol=1e-11, atol=1e-12)
    gradcheck(getattr(F, name), x, seed=seed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_scores_neither_overflow_nor_lose_the_largest(kernel_set, dtype):
    x = np.array([[1000, 999, -1000], [-1e30, 0, 1e30]], dtype)
    y = F.softmax(x).numpy()
    np.testing.assert_allclose(y, [[1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0], [0, 0, 1]], rtol=1e-6)
    logarithm = F.log_softmax(x).numpy()
    np.testing.assert_allclose(logarithm[0], [-0.3132617, -1.3132617, -2000.3132617], rtol=1e-6)
    assert np.isfinite(logarithm).all()
    np.testing.assert_array_equal(
        F.sigmoid(np.array([-1e30, -800, 0, 800, 1e30], dtype)).numpy(), [0, 0, 0.5, 1, 1]
    )
    assert F.sigmoid(np.array([-80.0], dtype)).item() == pytest.approx(math.exp(-80), rel=1e-6)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *SOFTMAX])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_comes_through_forward_and_backward(kernel_set, name, dtype):
    """In its own row only, and infinities are what they should be."""
    x = np.ones((19, 3), dtype)
    x[17, 1] = np.nan
    leaf = Tensor(x, requires_grad=True)
    y = getattr(F, name)(leaf)
    rows = np.isnan(y.numpy()).any(axis=1)
    assert rows.tolist() == [n == 17 for n in range(19)]
    if name in ("relu", "relu6"):
        assert F.relu(np.array([np.inf, -np.inf], dtype)).numpy().tolist() == [np.inf, 0]
        assert F.relu6(np.array([np.inf, -np.inf], dtype)).numpy().tolist() == [6, 0]
    else:
        y.backward(np.ones(y.shape))
        assert np.isnan(leaf.grad[17]).any() and np.isfinite(np.delete(leaf.grad, 17, axis=0)).all()


def test_on_a_kink_the_gradient_is_zero(kernel_set):
    x = Tensor(np.array([-1.0, -0.0, 0.0, 1.0, 6.0, 7.0]), requires_grad=True)
    F.relu(x).backward(np.ones(6))
    assert x.grad.tolist() == [0, 0, 0, 1, 1, 1]
    x.zero_grad()
    F.relu6(x).backward(np.ones(6))
    assert x.grad.tolist() == [0, 0, 0, 1, 0, 0]


def test_an_infinite_cotangent_does_not_pass_a_closed_rectifier(kernel_set):
    x = Tensor(np.array([-1.0, 1.0]), requires_grad=True)
    F.relu(x).backward(np.array([np.inf, 2.0]))
    assert x.grad.tolist() == [0, 2]


@pytest.mark.parametrize("name", [*ELEMENTWISE, *SOFTMAX])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_float32_stays_float32_forward_and_backward(kernel_set, name, shape):
    if not shape and name in SOFTMAX:
        return
    leaf = Tensor(np.full(shape, 0.5, np.float32), requires_grad=True)
    y = getattr(F, name)(leaf)
    y.backward(np.ones(shape, np.float32))
    assert y.dtype == np.float32 and leaf.grad.dtype == np.float32
    assert leaf.grad.shape == shape


@pytest.mark.parametrize("name", [*ELEMENTWISE, *SOFTMAX])
def test_integers_are_computed_in_float32(kernel_set, name):
    function = getattr(F, name)
    y = function([-1, 0, 2])
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), function(np.array([-1.0, 0.0, 2.0])).numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (17, 6)])
def test_elementwise_functions_stay_in_lanes(kernel_set, name, shape):
    x = np.random.default_rng(0).standard_normal(shape)
    y = getattr(F, name)(F.pack(x))
    assert y.lanes is not None and y.shape == shape
    np.testing.assert_allclose(y.numpy(), getattr(F, name)(x).numpy(), rtol=1e-12)
    flat = getattr(F, name)(F.flatten(F.pack(np.ones((3, 2, 2, 2)))))
    assert flat.lanes is not None and flat.shape == (3, 8)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_of_lanes_is_over_the_classes_or_channels(kernel_set, name):
    for shape in ((17, 4), (3, 2, 2, 4)):
        x = np.random.default_rng(0).standard_normal(shape)
        np.testing.assert_array_equal(getattr(F, name)(F.pack(x)).numpy(), getattr(F, name)(x).numpy())


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_gives_nothing(kernel_set, name, shape):
    assert getattr(F, name)(np.ones(shape)).shape == shape


@pytest.mark.parametrize(("name", "label"), [("softmax", "Softmax"), ("log_softmax", "LogSoftmax")])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_softmax_without_classes_is_refused(kernel_set, name, label, shape):
    with pytest.raises(ShapeError) as caught:
        getattr(F, name)(np.ones(shape))
    assert str(caught.value) == f"{label}: wanted one score a class along the last axis, got shape {shape}"
