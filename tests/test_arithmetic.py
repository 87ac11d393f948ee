"""Arithmetic: values against NumPy, gradients against difference quotients, shapes, dtypes, mistakes."""

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinynet.functions.operators  # noqa: F401  (gives Tensor its operators)
from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions import arithmetic
from tinynet.functions.array import unbroadcast
from tinynet.gradcheck import gradcheck
from tinynet.tensor import Tensor

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4)
PAIRS = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4)

# name: (NumPy's function, the range of the first operand, that of the second)
BINARY = {
    "add": (np.add, (-2, 2), (-2, 2)),
    "subtract": (np.subtract, (-2, 2), (-2, 2)),
    "multiply": (np.multiply, (-2, 2), (-2, 2)),
    "divide": (np.divide, (-2, 2), (0.5, 2)),
    "power": (np.power, (0.5, 2), (-2, 2)),
    "maximum": (np.maximum, (-2, 2), (-2, 2)),
    "minimum": (np.minimum, (-2, 2), (-2, 2)),
}
UNARY = {
    "negative": (np.negative, (-2, 2)),
    "exp": (np.exp, (-2, 2)),
    "log": (np.log, (0.3, 3)),
    "sqrt": (np.sqrt, (0.3, 3)),
    "absolute": (np.abs, (-2, 2)),
}


@pytest.mark.parametrize("name", BINARY)
@settings(deadline=None, max_examples=20)
@given(shapes=PAIRS, seed=SEEDS)
def test_two_operands_broadcast_in_value_and_gradient(name, shapes, seed):
    reference, first, second = BINARY[name]
    random = np.random.default_rng(seed)
    a = random.uniform(*first, shapes.input_shapes[0])
    b = random.uniform(*second, shapes.input_shapes[1])
    function = getattr(arithmetic, name)
    np.testing.assert_allclose(function(a, b).numpy(), reference(a, b))
    gradcheck(function, (a, b), seed=seed)


@pytest.mark.parametrize("name", UNARY)
@settings(deadline=None, max_examples=20)
@given(shape=SHAPES, seed=SEEDS)
def test_one_operand(name, shape, seed):
    reference, limits = UNARY[name]
    x = np.random.default_rng(seed).uniform(*limits, shape)
    function = getattr(arithmetic, name)
    np.testing.assert_allclose(function(x).numpy(), reference(x))
    gradcheck(function, x, seed=seed, fast_mode=False)


@pytest.mark.parametrize("exponent", [-2, -0.5, 0, 0.5, 1, 2, 3, np.float64(1.5), np.int64(2)])
def test_constant_exponents(exponent):
    x = np.linspace(0.3, 2, 6).reshape(2, 3)
    np.testing.assert_allclose(arithmetic.power(x, exponent).numpy(), x**exponent)
    gradcheck(lambda x: x**exponent, x, fast_mode=False)


def test_powers_at_zero_have_finite_gradients_where_the_function_is_smooth():
    for exponent in (0, 1, 2):
        x = Tensor(np.zeros(1), requires_grad=True)
        (x**exponent).backward()
        assert x.grad == pytest.approx([1.0 if exponent == 1 else 0.0])
    a, b = Tensor(np.zeros(3), requires_grad=True), Tensor(np.array([0.0, 1, 2]), requires_grad=True)
    (a**b).backward(np.ones(3))
    np.testing.assert_array_equal(a.grad, [0, 1, 0])
    np.testing.assert_array_equal(b.grad, [0, 0, 0])


def test_a_negative_base_has_no_real_derivative_for_its_exponent():
    a, b = Tensor(np.array([-2.0]), requires_grad=True), Tensor(np.array([2.0]), requires_grad=True)
    (a**b).backward()
    assert a.grad == pytest.approx([-4.0])
    assert np.isnan(b.grad).all()


@st.composite
def matrix_shapes(draw):
    n, k, m = (draw(st.integers(1, 4)) for _ in range(3))
    batch = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3)).input_shapes
    a = draw(st.sampled_from([(k,), (*batch[0], n, k)]))
    b = draw(st.sampled_from([(k,), (*batch[1], k, m)]))
    return a, b


@settings(deadline=None, max_examples=60)
@given(shapes=matrix_shapes(), seed=SEEDS)
def test_matmul_of_vectors_matrices_and_batches(shapes, seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=shapes[0]), random.normal(size=shapes[1])
    np.testing.assert_allclose(arithmetic.matmul(a, b).numpy(), a @ b)
    gradcheck(arithmetic.matmul, (a, b), seed=seed)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 3), (2, 3), r"matmul: shapes \(2, 3\) and \(2, 3\) do not fit: 3 columns meet 2 rows"),
        ((3,), (2,), "do not fit"),
        ((), (2, 2), r"matmul: wanted vectors or matrices, got shapes \(\) and \(2, 2\)"),
        ((2, 3, 4), (3, 4, 5), r"shapes \(2, 3, 4\) and \(3, 4, 5\) do not broadcast before"),
    ],
)
def test_matmul_names_shapes_that_do_not_fit(a, b, message):
    with pytest.raises(ShapeError, match=message):
        arithmetic.matmul(np.zeros(a), np.zeros(b))


@pytest.mark.parametrize("name", BINARY)
def test_shapes_that_do_not_broadcast_are_named(name):
    with pytest.raises(ShapeError, match=rf"{name}: shapes \(2, 3\) and \(4,\) do not broadcast"):
        getattr(arithmetic, name)(np.ones((2, 3)), np.ones(4))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_on_a_tie_the_first_operand_takes_the_gradient(name):
    a, b = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    getattr(arithmetic, name)(a, b).backward(np.array([2.0, 3.0]))
    np.testing.assert_array_equal(a.grad, [2, 3])
    np.testing.assert_array_equal(b.grad, [0, 0])


def test_absolute_at_zero_has_gradient_zero():
    x = Tensor(np.array([0.0]), requires_grad=True)
    abs(x).backward()
    assert x.grad == pytest.approx([0.0])


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.7), (None, 0.2), (0.1, None), (None, None)])
def test_clip(low, high):
    x = np.random.default_rng(0).normal(size=(4, 5))
    expected = x if low is None and high is None else np.clip(x, low, high)
    np.testing.assert_array_equal(arithmetic.clip(x, low, high).numpy(), expected)
    gradcheck(lambda x: x.clip(low, high), x, fast_mode=False)


def test_clip_passes_the_gradient_on_its_limits_and_lets_nan_through():
    x = Tensor(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), requires_grad=True)
    x.clip(-1, 1).backward(np.ones(5))
    np.testing.assert_array_equal(x.grad, [0, 1, 1, 1, 0])
    assert np.isnan(arithmetic.clip(np.array([np.nan]), -1, 1).numpy()).all()


@pytest.mark.parametrize(("low", "high"), [(1, 0), ("a", None), (None, float("nan"))])
def test_clip_refuses_limits_that_make_no_sense(low, high):
    with pytest.raises(ArgumentError, match=r"clip: (low|high) must"):
        arithmetic.clip(np.zeros(2), low, high)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_nan_comes_through(name):
    result = getattr(arithmetic, name)(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    assert np.isnan(result.numpy()).all()


OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


@pytest.mark.parametrize("function", OPERATORS)
@pytest.mark.parametrize(
    "other", [2, 2.0, np.float64(2), np.float32(2), np.array([1.0, 2.0, 3.0], np.float32), [1, 2, 3]]
)
def test_operators_work_on_both_sides_and_keep_float32(function, other):
    data = np.array([1.0, 2.0, 4.0], np.float32)
    x = Tensor(data, requires_grad=True)
    array = np.asarray(other, np.float32)
    for result, expected in (
        (function(x, other), function(data, array)),
        (function(other, x), function(array, data)),
    ):
        assert type(result) is Tensor
        assert result.dtype == np.float32
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)
        result.sum().backward()
        assert x.grad.dtype == np.float32


def test_matmul_with_an_array_on_the_left_is_a_tensor():
    x = Tensor(np.ones((3, 2)), requires_grad=True)
    result = np.ones((4, 3)) @ x
    assert type(result) is Tensor and result.requires_grad


def test_adding_in_place_to_an_array_is_refused_because_it_could_not_be_recorded():
    total = np.ones(2)
    with pytest.raises(TypeError):
        total += Tensor(np.ones(2), requires_grad=True)
    np.testing.assert_array_equal(total, [1, 1])


FUNCTIONS = [
    *(getattr(arithmetic, name) for name in (*BINARY, "matmul")),
    *((lambda a, b, name=name: getattr(arithmetic, name)(a)) for name in UNARY),
    lambda a, b: a**2,
    lambda a, b: a**2.5,
    lambda a, b: a.clip(0, 1.5),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_float32_stays_float32_forward_and_backward(function, shape):
    if function is arithmetic.matmul and not shape:
        pytest.skip("scalars have no matrix product")
    a = Tensor(np.full(shape, 1.25, np.float32), requires_grad=True)
    b = Tensor(np.full(shape, 0.75, np.float32), requires_grad=True)
    y = function(a, b)
    assert y.dtype == np.float32
    for gradient in y.creator.backward(np.ones(y.shape, np.float32)):
        assert gradient.dtype == np.float32


def test_mixed_precision_computes_in_the_wider_and_returns_gradients_in_each_ones_own():
    narrow = Tensor(np.ones(3, np.float32), requires_grad=True)
    wide = Tensor(np.array(2.0), requires_grad=True)
    y = narrow * wide
    assert y.dtype == np.float64
    y.sum().backward()
    assert narrow.grad.dtype == np.float32 and wide.grad.dtype == np.float64
    np.testing.assert_array_equal(narrow.grad, [2, 2, 2])


def test_integers_follow_the_floating_operand_and_numpy_among_themselves():
    integers = np.array([1, 2, 3])
    assert arithmetic.add(Tensor([1.0]), integers).dtype == np.float32
    assert arithmetic.add(integers, 1).dtype.kind == "i"
    assert arithmetic.divide(integers, 2).dtype == np.float64
    np.testing.assert_array_equal((integers - Tensor(np.array([3, 2, 1], np.uint8))).numpy(), [-2, 0, 2])
    # 0.1 is not rounded to float32 on its way to float64 operands.
    assert arithmetic.add(0.1, np.zeros(1)).item() == 0.1


@pytest.mark.parametrize("exponent", [-1, np.array([-1])])
def test_integers_to_a_negative_power_are_refused(exponent):
    with pytest.raises(ArgumentError, match="negative integer power"):
        arithmetic.power(np.array([2, 3]), exponent)


@settings(deadline=None, max_examples=50)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=1, base_shape=(3, 1, 2), max_side=4), seed=SEEDS)
def test_unbroadcast_is_the_transpose_of_broadcasting(shapes, seed):
    shape, target = shapes.input_shapes[0], shapes.result_shape
    random = np.random.default_rng(seed)
    x, c = random.normal(size=shape), random.normal(size=target)
    gradient = unbroadcast(c, shape)
    assert gradient.shape == shape
    np.testing.assert_allclose(np.sum(np.broadcast_to(x, target) * c), np.sum(x * gradient), atol=1e-12)
