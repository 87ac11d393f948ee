"""Reductions: values against NumPy, gradients against difference quotients, ties, extremes, mistakes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinynet.functions.operators  # noqa: F401  (gives Tensor its operators)
from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions import reductions
from tinynet.gradcheck import gradcheck
from tinynet.tensor import Tensor


def logsumexp(x, axis, keepdims):
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


REFERENCES = {
    "sum": np.sum,
    "mean": np.mean,
    "var": np.var,
    "max": np.max,
    "min": np.min,
    "logsumexp": logsumexp,
}


@st.composite
def shape_and_axis(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4))
    axes = st.integers(-len(shape), len(shape) - 1) if shape else st.nothing()
    several = hnp.valid_tuple_axes(len(shape), min_size=0)
    return shape, draw(st.one_of(st.none(), axes, several))


@pytest.mark.parametrize("name", REFERENCES)
@settings(deadline=None, max_examples=40)
@given(case=shape_and_axis(), keepdims=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_value_and_gradient_over_any_axes(name, case, keepdims, seed):
    shape, axis = case
    # A permutation of well separated numbers: no ties, and so no kinks of max and min.
    size = int(np.prod(shape))
    x = np.random.default_rng(seed).permutation(np.linspace(-2, 2, size)).reshape(shape)
    function = getattr(reductions, name)
    np.testing.assert_allclose(
        function(x, axis, keepdims).numpy(), REFERENCES[name](x, axis=axis, keepdims=keepdims), atol=1e-14
    )
    gradcheck(lambda x: function(x, axis, keepdims), x, seed=seed, fast_mode=False)


@pytest.mark.parametrize("name", REFERENCES)
def test_methods_are_the_functions(name):
    x = Tensor(np.arange(6.0).reshape(2, 3))
    result = getattr(x, name)(axis=1, keepdims=True)
    np.testing.assert_allclose(result.numpy(), REFERENCES[name](x.numpy(), axis=1, keepdims=True))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_float32_stays_float32_forward_and_backward(name, shape):
    x = Tensor(np.ones(shape, np.float32), requires_grad=True)
    y = getattr(reductions, name)(x)
    assert y.dtype == np.float32
    (gradient,) = y.creator.backward(np.ones((), np.float32))
    assert gradient.dtype == np.float32 and gradient.shape == shape


@pytest.mark.parametrize(("name", "x"), [("max", [[1, 5, 2], [5, 5, 0]]), ("min", [[3, 1, 2], [1, 1, 4]])])
def test_of_equal_extremes_the_first_in_row_major_order_takes_the_gradient(name, x):
    for axis, expected in (
        (None, [[0, 1, 0], [0, 0, 0]]),
        ((1, 0), [[0, 1, 0], [0, 0, 0]]),  # the order in which axes are named does not matter
        (1, [[0, 1, 0], [1, 0, 0]]),
    ):
        tensor = Tensor(np.array(x, float), requires_grad=True)
        getattr(reductions, name)(tensor, axis).sum().backward()
        np.testing.assert_array_equal(tensor.grad, expected)


@pytest.mark.parametrize("name", ["max", "min"])
def test_nan_comes_through(name):
    assert np.isnan(getattr(reductions, name)(np.array([1.0, np.nan, 2.0])).item())


def test_logsumexp_neither_overflows_nor_loses_the_smallest():
    x = Tensor(np.array([1000.0, 1000.0]), requires_grad=True)
    y = x.logsumexp()
    assert y.item() == pytest.approx(1000 + np.log(2))
    y.backward()
    np.testing.assert_allclose(x.grad, [0.5, 0.5])
    assert reductions.logsumexp(np.array([-1000.0, -1000.0])).item() == pytest.approx(-1000 + np.log(2))


def test_logsumexp_of_nothing_likely_is_minus_infinity_with_gradient_zero():
    x = Tensor(np.full(3, -np.inf), requires_grad=True)
    y = x.logsumexp()
    assert y.item() == -np.inf
    y.backward()
    np.testing.assert_array_equal(x.grad, [0, 0, 0])


def test_variance_does_not_cancel_and_takes_ddof():
    x = 1e8 + np.array([0.0, 1.0, 2.0])
    assert reductions.var(x).item() == pytest.approx(2 / 3)
    assert reductions.var(x, ddof=1).item() == pytest.approx(1.0)
    gradcheck(lambda x: x.var(axis=0, ddof=1), np.random.default_rng(0).normal(size=(4, 3)))


def test_sums_of_float32_are_accumulated_as_numpy_does():
    x = np.full(1_000_000, 0.1, np.float32)
    assert reductions.sum(x).item() == np.sum(x)
    assert reductions.sum(x).item() == pytest.approx(1e5, rel=1e-5)  # one by one it would be off by 1 %


def test_integers_and_booleans_reduce_as_in_numpy():
    assert reductions.sum(np.array([True, True, False])).item() == 2
    assert reductions.mean(np.array([1, 2])).item() == 1.5


@pytest.mark.parametrize("name", REFERENCES)
def test_an_axis_that_does_not_exist_is_named(name):
    function = getattr(reductions, name)
    with pytest.raises(ArgumentError, match=f"{name}: axis 2 does not exist in an array of 2 axes"):
        function(np.ones((2, 3)), axis=2)
    with pytest.raises(ArgumentError, match="names an axis twice"):
        function(np.ones((2, 3)), axis=(0, -2))
    with pytest.raises(ArgumentError, match="axis must be an integer"):
        function(np.ones((2, 3)), axis=0.5)


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "sum"])
def test_nothing_has_no_extreme_and_no_mean(name):
    with pytest.raises(ShapeError, match=rf"{name}: no elements along axis 0 of an array of shape \(0, 3\)"):
        getattr(reductions, name)(np.ones((0, 3)), axis=0)


def test_the_sum_of_nothing_is_zero_and_empty_rows_give_no_rows():
    assert reductions.sum(np.ones((0, 3))).item() == 0
    assert reductions.max(np.ones((0, 3)), axis=1).shape == (0,)


def test_ddof_that_leaves_nothing_is_refused():
    with pytest.raises(ArgumentError, match="var: ddof=1 leaves nothing of 1 elements"):
        reductions.var(np.ones(1), ddof=1)
