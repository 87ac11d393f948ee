"""Reshaping, indexing and joining: values against NumPy, gradients against difference quotients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinynet.functions.operators  # noqa: F401  (gives Tensor its operators)
from tinynet.errors import ArgumentError, ShapeError
from tinynet.functions import shaping
from tinynet.gradcheck import gradcheck
from tinynet.tensor import Tensor

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4)


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def agree(function, reference, *arrays):
    """`function` of tensors has the value of `reference` of arrays, and the right gradient."""
    result = function(*arrays)
    np.testing.assert_array_equal(result.numpy(), reference(*arrays))
    gradcheck(function, arrays, fast_mode=False)


@settings(deadline=None, max_examples=30)
@given(shape=SHAPES, seed=SEEDS, data=st.data())
def test_reshape(shape, seed, data):
    x = numbers(shape, seed)
    wanted = data.draw(st.permutations(shape))
    if wanted and data.draw(st.booleans()):
        wanted[0] = -1
    agree(lambda x: shaping.reshape(x, tuple(wanted)), lambda x: x.reshape(wanted), x)
    np.testing.assert_array_equal(Tensor(x).reshape(*wanted, 1).numpy(), x.reshape(*wanted, 1))


@pytest.mark.parametrize("wanted", [(5,), (-1, 4), (-1, -1), (-2, 3), (0, -1)])
def test_reshape_names_shapes_that_do_not_fit(wanted):
    with pytest.raises(ShapeError, match=r"reshape: shape \(2, 3\) \(6 elements\) cannot become"):
        shaping.reshape(np.zeros((2, 3)), wanted)


@settings(deadline=None, max_examples=30)
@given(shape=SHAPES, seed=SEEDS, data=st.data())
def test_transpose_in_any_order(shape, seed, data):
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    x = numbers(shape, seed)
    agree(lambda x: shaping.transpose(x, axes), lambda x: x.transpose(axes), x)
    np.testing.assert_array_equal(Tensor(x).T.numpy(), x.T)


def test_transpose_takes_axes_as_numpy_does():
    x = numbers((2, 3, 4))
    for axes in [(), (None,), (1, 2, 0), ((1, 2, 0),), (-1, 0, 1)]:
        assert Tensor(x).transpose(*axes).shape == x.transpose(*axes).shape
    with pytest.raises(ArgumentError, match="transpose: axes"):
        shaping.transpose(x, 0, 1)
    with pytest.raises(ArgumentError, match="names an axis twice"):
        shaping.transpose(x, 0, 1, 1)


@settings(deadline=None, max_examples=20)
@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=3), seed=SEEDS, data=st.data())
def test_swapaxes_and_moveaxis(shape, seed, data):
    axis = st.integers(-len(shape), len(shape) - 1)
    a, b = data.draw(axis), data.draw(axis)
    x = numbers(shape, seed)
    agree(lambda x: shaping.swapaxes(x, a, b), lambda x: x.swapaxes(a, b), x)
    agree(lambda x: shaping.moveaxis(x, a, b), lambda x: np.moveaxis(x, a, b), x)


@settings(deadline=None, max_examples=40)
@given(shape=hnp.array_shapes(max_dims=3, max_side=4), seed=SEEDS, data=st.data())
def test_basic_indexing(shape, seed, data):
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    agree(lambda x: shaping.getitem(x, index), lambda x: x[index], numbers(shape, seed))


@settings(deadline=None, max_examples=40)
@given(shape=hnp.array_shapes(max_dims=3, max_side=4), seed=SEEDS, data=st.data())
def test_indexing_by_arrays_with_repetitions(shape, seed, data):
    small = hnp.array_shapes(min_dims=0, max_dims=2, max_side=4)
    index = data.draw(hnp.integer_array_indices(shape, result_shape=small))
    agree(lambda x: shaping.getitem(x, index), lambda x: x[index], numbers(shape, seed))


def test_elements_taken_more_than_once_receive_every_gradient():
    x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    x[[2, 0, 2, 2]].backward(np.array([1.0, 10.0, 100.0, 1000.0]))
    np.testing.assert_array_equal(x.grad, [10, 0, 1101])


@pytest.mark.parametrize(
    "index",
    [
        np.array([[True, False, True], [False, True, True]]),
        (slice(None), np.array([True, False, True])),
        (np.array([0, 1, 1]), slice(0, 2)),
        (..., [0, 0]),
        (1, [2, 2, 0]),
        [],
        [True, False],
        True,
        np.int64(1),
        Tensor(np.array([1, 0, 1])),
    ],
)
def test_masks_mixtures_and_other_indices(index):
    plain = index.numpy() if isinstance(index, Tensor) else index
    agree(
        lambda x: x[index] if isinstance(x, Tensor) else shaping.getitem(x, index),
        lambda x: x[plain],
        numbers((2, 3)),
    )


def test_an_index_array_changed_after_forward_does_not_move_the_gradient():
    x, index = Tensor(np.zeros(3), requires_grad=True), np.array([0, 1])
    y = x[index]
    index[:] = 2
    y.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [1, 1, 0])


@pytest.mark.parametrize("index", [2, (0, 3), (0, 0, 0), [5], np.array([True, False, True])])
def test_an_index_outside_names_the_shape(index):
    with pytest.raises(ShapeError, match=r"getitem: .*\(the array has shape \(2, 3\)\)"):
        shaping.getitem(np.zeros((2, 3)), index)


def test_an_index_of_floats_is_refused():
    with pytest.raises(ArgumentError, match="an index is made of integers or booleans, got float64"):
        shaping.getitem(np.zeros(3), np.array([0.0]))


@settings(deadline=None, max_examples=30)
@given(shape=hnp.array_shapes(max_dims=3, max_side=3), seed=SEEDS, data=st.data())
def test_concatenate_and_stack(shape, seed, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    arrays = []
    for i, length in enumerate(lengths):
        own = list(shape)
        own[axis] = length
        arrays.append(numbers(own, seed + i))
    if sum(lengths):
        agree(lambda *x: shaping.concatenate(x, axis), lambda *x: np.concatenate(x, axis), *arrays)
    same = [numbers(shape, seed + i) for i in range(len(lengths))]
    agree(lambda *x: shaping.stack(x, axis), lambda *x: np.stack(x, axis), *same)


def test_joining_names_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"concatenate: shapes \[\(2, 3\), \(2, 4\)\] differ elsewhere"):
        shaping.concatenate([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(ShapeError, match="differ elsewhere"):
        shaping.concatenate([np.zeros((2, 3)), np.zeros(3)])
    for empty in ([], [np.zeros(())]):
        with pytest.raises(ShapeError, match="concatenate: wanted arrays of at least one axis"):
            shaping.concatenate(empty)
    with pytest.raises(ShapeError, match="stack: wanted one or more arrays of one shape"):
        shaping.stack([np.zeros(2), np.zeros(3)])
    with pytest.raises(ShapeError, match="stack: wanted one or more"):
        shaping.stack([])


def test_one_tensor_joined_with_itself_receives_both_gradients():
    x = Tensor(np.zeros(2), requires_grad=True)
    shaping.concatenate([x, x]).backward(np.array([1.0, 2.0, 10.0, 20.0]))
    np.testing.assert_array_equal(x.grad, [11, 22])


@pytest.mark.parametrize("widths", [0, 2, (1, 0), [(1, 2), (0, 3)], [(1,), (2,)]])
@pytest.mark.parametrize("value", [0.0, -1.5])
def test_pad(widths, value):
    agree(
        lambda x: shaping.pad(x, widths, value),
        lambda x: np.pad(x, widths, constant_values=value),
        numbers((2, 3)),
    )


@pytest.mark.parametrize("widths", [-1, (1, -2), 0.5, [(1, 2)] * 3, "ab"])
def test_pad_refuses_widths_that_make_no_sense(widths):
    with pytest.raises(ArgumentError, match="pad: widths must be"):
        shaping.pad(np.zeros((2, 3)), widths)


@settings(deadline=None, max_examples=30)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=1, base_shape=(2, 1, 3), max_side=3), seed=SEEDS)
def test_broadcast_to(shapes, seed):
    shape, wanted = shapes.input_shapes[0], shapes.result_shape
    agree(
        lambda x: shaping.broadcast_to(x, wanted), lambda x: np.broadcast_to(x, wanted), numbers(shape, seed)
    )


@pytest.mark.parametrize(("shape", "wanted"), [((3,), (2,)), ((2, 3), (3,)), ((3,), (1,))])
def test_broadcast_to_names_shapes_that_do_not_fit(shape, wanted):
    with pytest.raises(ShapeError, match=r"broadcast_to: shapes? \("):
        shaping.broadcast_to(np.zeros(shape), wanted)


def test_expand_dims_and_squeeze():
    x = numbers((2, 1, 3, 1))
    for axis in (0, 2, 4, -1, -5):
        agree(
            lambda x, axis=axis: shaping.expand_dims(x, axis), lambda x, axis=axis: np.expand_dims(x, axis), x
        )
    for axis in (None, 1, -1, (1, 3), ()):
        agree(lambda x, axis=axis: shaping.squeeze(x, axis), lambda x, axis=axis: np.squeeze(x, axis), x)
    with pytest.raises(ShapeError, match=r"squeeze: axis 0 of shape \(2, 1, 3, 1\) is not of length 1"):
        shaping.squeeze(x, 0)
    with pytest.raises(ArgumentError, match="expand_dims: axis 5 does not exist"):
        shaping.expand_dims(x, 5)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_flip(axis):
    agree(lambda x: shaping.flip(x, axis), lambda x: np.flip(x, axis), numbers((2, 3, 2)))


@settings(deadline=None, max_examples=30)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3), seed=SEEDS)
def test_where(shapes, seed):
    condition, a, b = (numbers(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    condition = condition > 0
    agree(lambda a, b: shaping.where(condition, a, b), lambda a, b: np.where(condition, a, b), a, b)


def test_where_keeps_a_nan_gradient_from_the_operand_not_taken():
    a, b = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    shaping.where(Tensor(np.array([True, False])), a, b).backward(np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(b.grad, [0, 1])


def test_where_takes_python_numbers_and_names_shapes_that_do_not_fit():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    assert shaping.where([True, False], x, 0.0).dtype == np.float32
    with pytest.raises(ShapeError, match=r"where: shapes \(3,\) and \(2,\) and \(\) do not broadcast"):
        shaping.where([True, False, True], x, 0.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.reshape(-1),
        lambda x: x.T,
        lambda x: x[..., :1],
        lambda x: x[..., [0, 0]],
        lambda x: shaping.concatenate([x, x]),
        lambda x: shaping.stack([x, x]),
        lambda x: shaping.pad(x, 1),
        lambda x: shaping.broadcast_to(x, (2, 2, 3)),
        lambda x: shaping.flip(x),
        lambda x: shaping.where(True, x, 1.0),
    ],
)
def test_float32_stays_float32_forward_and_backward(function):
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = function(x)
    assert y.dtype == np.float32
    y.backward(np.ones(y.shape))
    assert x.grad.dtype == np.float32 and x.grad.shape == x.shape
