"""Sum, concatenation, flatten, packing; how network functions compose, with one another and general ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import functional as F
from tinynet import kernels
from tinynet.errors import ShapeError
from tinynet.gradcheck import gradcheck
from tinynet.gradient_cases import distinct, in_lanes, numbers, tiny_network
from tinynet.layers import Chain, Context, assign_names
from tinynet.tensor import Tensor

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.sampled_from([1, 3, 16, 17, 33])
IMAGES = st.tuples(COUNTS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@given(
    st.one_of(IMAGES, st.tuples(COUNTS, st.integers(1, 9))), st.sampled_from([np.float32, np.float64]), SEEDS
)
def test_packing_and_unpacking_return_every_number_forward_and_backward(kernel_set, shape, dtype, seed):
    random = np.random.default_rng(seed)
    leaf = Tensor(random.standard_normal(shape).astype(dtype), requires_grad=True)
    packed = F.pack(leaf)
    assert packed.lanes is not None and packed.shape == shape and packed.dtype == dtype
    np.testing.assert_array_equal(packed.numpy(), leaf.data)
    assert F.pack(packed) is packed
    result = F.unpack(packed)
    assert result.lanes is None and F.unpack(result) is result
    np.testing.assert_array_equal(result.numpy(), leaf.data)
    cotangent = random.standard_normal(shape).astype(dtype)
    result.backward(cotangent)
    np.testing.assert_array_equal(leaf.grad, cotangent)


@given(IMAGES, st.integers(2, 4), st.lists(st.booleans(), min_size=4, max_size=4), SEEDS)
def test_a_sum_gives_every_summand_the_gradient(kernel_set, shape, number, in_lane_layout, seed):
    random = np.random.default_rng(seed)
    leaves = [Tensor(random.standard_normal(shape), requires_grad=True) for _ in range(number)]
    layouts = in_lane_layout[:number]
    y = F.add_images(*[F.pack(leaf) if lanes else leaf for leaf, lanes in zip(leaves, layouts, strict=True)])
    assert (y.lanes is not None) == any(layouts)
    np.testing.assert_allclose(y.numpy(), sum(leaf.data for leaf in leaves), rtol=1e-12, atol=1e-12)
    cotangent = random.standard_normal(shape)
    F.unpack(y).backward(cotangent)
    for leaf in leaves:
        np.testing.assert_array_equal(leaf.grad, cotangent)


@given(IMAGES, st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4), SEEDS)
def test_a_concatenation_gives_every_part_its_own_gradient(kernel_set, shape, parts, seed):
    random = np.random.default_rng(seed)
    leaves = [Tensor(random.standard_normal((*shape[:3], channels)), True) for channels, _ in parts]
    y = F.concatenate_channels(
        *[F.pack(leaf) if lanes else leaf for leaf, (_, lanes) in zip(leaves, parts, strict=True)]
    )
    assert (y.lanes is not None) == any(lanes for _, lanes in parts)
    np.testing.assert_array_equal(y.numpy(), np.concatenate([leaf.data for leaf in leaves], axis=3))
    cotangent = random.standard_normal(y.shape)
    F.unpack(y).backward(cotangent)
    np.testing.assert_array_equal(np.concatenate([leaf.grad for leaf in leaves], axis=3), cotangent)


@given(IMAGES, SEEDS)
def test_flatten_counts_rows_columns_channels(kernel_set, shape, seed):
    random = np.random.default_rng(seed)
    for prepare in (lambda leaf: leaf, F.pack):
        leaf = Tensor(random.standard_normal(shape), requires_grad=True)
        y = F.flatten(prepare(leaf))
        assert y.shape == (shape[0], np.prod(shape[1:]))
        np.testing.assert_array_equal(y.numpy(), leaf.data.reshape(shape[0], -1))
        cotangent = random.standard_normal(y.shape)
        F.unpack(y).backward(cotangent)
        np.testing.assert_array_equal(leaf.grad, cotangent.reshape(shape))


def test_flatten_in_lanes_moves_nothing(kernel_set):
    packed = F.pack(np.ones((3, 2, 2, 2)))
    flat = F.flatten(packed)
    assert flat.lanes.flat and flat.data is packed.data


@pytest.mark.parametrize("channels", [1, 3])
def test_flattened_images_and_vectors_are_added_feature_by_feature(kernel_set, channels):
    random = np.random.default_rng(0)
    images, vectors = random.standard_normal((3, 2, 3, channels)), random.standard_normal((3, 6 * channels))
    for order in (1, -1):
        x, v = in_lanes(images), in_lanes(vectors)
        y = F.add_images(*(F.flatten(x), v)[::order])
        np.testing.assert_allclose(y.numpy(), images.reshape(3, -1) + vectors, rtol=1e-12)
        cotangent = random.standard_normal(vectors.shape)
        F.unpack(y).backward(cotangent)
        np.testing.assert_array_equal(x.grad_numpy(), cotangent.reshape(images.shape))
        np.testing.assert_array_equal(v.grad_numpy(), cotangent)


def test_joining_two_precisions_gives_the_wider_and_gradients_in_each_ones_own(kernel_set):
    for join in (F.add_images, F.concatenate_channels):
        narrow = Tensor(np.ones((3, 2, 2, 1), np.float32), requires_grad=True)
        wide = Tensor(np.ones((3, 2, 2, 1)), requires_grad=True)
        y = join(narrow, wide)
        assert y.dtype == np.float64
        y.backward(np.ones(y.shape))
        assert (narrow.grad.dtype, wide.grad.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: F.add_images(np.ones((3, 2))), ["add_images: ", "two or more", "[(3, 2)]"]),
        (lambda: F.add_images(), ["add_images: ", "two or more", "[]"]),
        (lambda: F.add_images(np.ones((3, 2)), np.ones((3, 1))), ["add_images: ", "(3, 2), (3, 1)"]),
        (lambda: F.add_images(np.ones(3), np.ones(3)), ["add_images: ", "(n, h, w, c) or (n, f)", "(3,)"]),
        (lambda: F.add_images(np.ones((0, 3)), np.ones((0, 3))), ["Sum: ", "at least one image", "(0, 3)"]),
        (lambda: F.concatenate_channels(), ["concatenate_channels: ", "[]"]),
        (
            lambda: F.concatenate_channels(np.ones((3, 2, 2, 1)), np.ones((3, 2, 1, 1))),
            ["concatenate_channels: ", "agree in all but channels", "(3, 2, 2, 1), (3, 2, 1, 1)"],
        ),
        (lambda: F.concatenate_channels(np.ones((3, 2))), ["concatenate_channels: ", "(3, 2)"]),
        (lambda: F.flatten(np.ones((3, 2))), ["flatten: ", "images (n, height, width, channels)", "(3, 2)"]),
        (lambda: F.pack(np.ones(3)), ["pack: ", "images", "vectors (n, features)", "(3,)"]),
        (lambda: F.pack(np.ones((2, 3, 4))), ["pack: ", "(2, 3, 4)"]),
        (lambda: F.pack(np.ones((0, 3))), ["pack: ", "at least one image", "(0, 3)"]),
        (lambda: F.pack(np.ones((2, 3, 0, 1))), ["pack: ", "pixel", "(2, 3, 0, 1)"]),
    ],
)
def test_mistakes_are_named(kernel_set, call, parts):
    with pytest.raises(ShapeError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(parts[0]) and "\n" not in message
    for part in parts:
        assert part in message


# General operations.

GENERAL = {
    "add": lambda x: x + 1.5,
    "product with another batch": lambda x: x * np.arange(24.0).reshape(4, 3, 2),
    "product with itself": lambda x: x * x,
    "power": lambda x: x**2,
    "exp": lambda x: x.exp(),
    "mean over pixels": lambda x: x.mean(axis=(1, 2)),
    "max over channels": lambda x: x.max(axis=-1),
    "an image": lambda x: x[16],
    "a crop": lambda x: x[:, 1:3, ::2],
    "transpose": lambda x: x.transpose(3, 0, 1, 2),
    "reshape": lambda x: x.reshape(17, -1),
    "matrix product": lambda x: x @ np.arange(6.0).reshape(2, 3),
    "concatenate": lambda x: F.concatenate([x, x], axis=1),
    "where": lambda x: F.where(np.arange(24).reshape(4, 3, 2) % 2 == 0, x, -x),
}


@pytest.mark.parametrize("name", GENERAL)
def test_general_operations_on_lanes_see_the_ordinary_array(kernel_set, name):
    operation = GENERAL[name]
    array = distinct(np.random.default_rng(0), 17, 4, 3, 2) / 40 - 5.01
    y = operation(in_lanes(array))
    assert y.lanes is None
    np.testing.assert_allclose(y.numpy(), operation(Tensor(array)).numpy(), rtol=1e-12)
    gradcheck(operation, in_lanes(array))


def test_network_and_general_operations_alternate(kernel_set):
    """Into lanes, out of them by a general operation, and in again: one graph, one gradient."""
    weight = np.random.default_rng(1).standard_normal((3, 3, 2, 2)) / 4

    def function(x, weight):
        y = F.conv2d(x, weight)
        scaled = y * y.mean(axis=(1, 2)).reshape(17, 1, 1, 2).exp()
        return F.tanh(F.conv2d(F.pack(scaled), weight, stride=2)) + F.average_pool2d(y, 2)

    gradcheck(function, (in_lanes(numbers(np.random.default_rng(0), 17, 4, 4, 2)), weight))


def test_a_lane_tensor_used_twice_receives_both_gradients(kernel_set):
    x = in_lanes(np.ones((3, 2, 2, 2)))
    F.unpack(F.add_images(x, F.relu(x), x)).backward(np.full((3, 2, 2, 2), 2.0))
    np.testing.assert_array_equal(x.grad_numpy(), np.full((3, 2, 2, 2), 6.0))


def test_a_batch_packed_by_one_kernel_set_can_be_used_by_another(kernel_set):
    """3 images lie in 3 lanes of the NumPy kernels; the Numba kernels work in 16."""
    random = np.random.default_rng(0)
    array, weight = random.standard_normal((3, 4, 4, 2)), random.standard_normal((3, 3, 2, 2))
    calls = [
        lambda x: F.conv2d(x, weight),
        lambda x: F.dense(x, np.ones((32, 2))),
        lambda x: F.max_pool2d(x),
        lambda x: F.batch_norm(x, np.ones(2), np.zeros(2))[0],
        lambda x: F.dropout(x, 0.5, np.arange(3)),
        lambda x: F.flatten(x),
        lambda x: F.relu(x),
        lambda x: x * 2,
        lambda x: F.unpack(x),
        lambda x: F.mean_squared_error(x, array * 0),
        lambda x: F.add_images(x, array),
        lambda x: F.concatenate_channels(array, x),
    ]
    for other in (set(kernels.NAMES) & _available()) - {kernel_set.NAME}:
        for call in calls:
            with kernels.using(other):
                x = in_lanes(array)
            y = F.unpack(call(x))
            own = in_lanes(array)
            expected = F.unpack(call(own))
            np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-12)
            for result in (y, expected):
                result.backward(np.ones(result.shape))
            np.testing.assert_allclose(x.grad_numpy(), own.grad_numpy(), rtol=1e-12, atol=1e-12)


def _available():
    return {"numpy"} | (set() if kernels.numba_problem() else {"numba"})


# Whole networks.


def network(dtype, shape=(8, 8, 2)):
    chain = tiny_network()
    assign_names(Chain([chain]))
    chain.build(shape, np.random.default_rng(0))
    for leaf in chain.leaves():
        for parameter in leaf.parameters.values():
            parameter.data = parameter.data.astype(dtype)
    return chain


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_use_an_image_does_not_see_the_others(kernel_set, dtype):
    """The first 5 of 21 images give what those 5 give alone, in other lanes and blocks."""
    chain = network(dtype)
    x = np.random.default_rng(0).standard_normal((21, 8, 8, 2)).astype(dtype)
    together = F.unpack(chain(F.pack(x), Context())).numpy()
    tolerance = {np.float32: 1e-5, np.float64: 1e-13}[dtype]
    for first, last in ((0, 5), (5, 21), (20, 21)):
        alone = F.unpack(chain(F.pack(x[first:last]), Context())).numpy()
        np.testing.assert_allclose(alone, together[first:last], rtol=tolerance, atol=tolerance)


def test_in_use_the_gradient_of_a_batch_is_the_sum_of_those_of_its_parts(kernel_set):
    chain = network(np.float64)
    random = np.random.default_rng(0)
    x, cotangent = random.standard_normal((21, 8, 8, 2)), random.standard_normal((21, 3))
    parameters = [parameter for leaf in chain.leaves() for parameter in leaf.parameters.values()]

    def gradients(*parts):
        for parameter in parameters:
            parameter.zero_grad()
        for part in parts:
            F.unpack(chain(F.pack(x[part]), Context())).backward(cotangent[part])
        return [parameter.grad.copy() for parameter in parameters]

    whole = gradients(slice(None))
    for one, two in zip(whole, gradients(slice(0, 5), slice(5, 21)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)
        assert one.any()


@pytest.mark.parametrize("training", [True, False])
def test_nan_in_one_pixel_reaches_the_loss(kernel_set, training):
    chain = network(np.float32)
    x = np.random.default_rng(0).standard_normal((19, 8, 8, 2)).astype(np.float32)
    labels = np.zeros(19, int)
    context = Context(training=training, logits=True, last=chain.layers[-1])
    with np.errstate(invalid="ignore"):
        assert np.isfinite(F.softmax_cross_entropy(chain(F.pack(x), context), labels).item())
        x[18, 3, 4, 1] = np.nan
        assert np.isnan(F.softmax_cross_entropy(chain(F.pack(x), context), labels).item())
