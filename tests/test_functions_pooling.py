"""Pooling and upsampling: values against plain definitions, ties, padding, NaN, gradients, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import functional as F
from tinynet.errors import ArgumentError, ShapeError
from tinynet.gradcheck import gradcheck
from tinynet.gradient_cases import distinct, in_lanes
from tinynet.tensor import Tensor

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.sampled_from([1, 3, 16, 17])


def windows_of(shape, size, stride, padding):
    """For each output position, the slices of the image that its window covers; padding left out."""
    _, height, width, _ = shape
    (top, bottom), (left, right) = padding
    out_height = (height + top + bottom - size[0]) // stride[0] + 1
    out_width = (width + left + right - size[1]) // stride[1] + 1
    for i, j in np.ndindex(out_height, out_width):
        first, start = i * stride[0] - top, j * stride[1] - left
        yield (i, j), slice(max(first, 0), first + size[0]), slice(max(start, 0), start + size[1])


def definition(x, size, stride, padding, reduce):
    """`reduce` of the real pixels (n, pixels, c) in each window."""
    found = {
        position: reduce(x[:, rows, columns].reshape(len(x), -1, x.shape[3]))
        for position, rows, columns in windows_of(x.shape, size, stride, padding)
    }
    height, width = (1 + max(position[axis] for position in found) for axis in (0, 1))
    y = np.empty((len(x), height, width, x.shape[3]))
    for (i, j), value in found.items():
        y[:, i, j] = value
    return y


def maximum_definition(x, size, stride, padding):
    return definition(x, size, stride, padding, lambda pixels: pixels.max(axis=1))


def average_definition(x, size, stride, padding):
    return definition(x, size, stride, padding, lambda pixels: pixels.mean(axis=1))


@st.composite
def pools(draw):
    """A shape of images, and a window that fits them with padding smaller than itself."""
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple((draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))) for side in size)
    least = [max(1, side - sum(sides)) for side, sides in zip(size, padding, strict=True)]
    height, width = (draw(st.integers(length, length + 4)) for length in least)
    return (draw(COUNTS), height, width, draw(st.integers(1, 3))), size, stride, padding


@given(pools(), SEEDS)
def test_max_pooling_is_its_definition_in_value_and_gradient(kernel_set, geometry, seed):
    shape, size, stride, padding = geometry
    random = np.random.default_rng(seed)
    x = random.integers(-2, 3, shape).astype(np.float64)  # many ties, often all negative
    leaf = Tensor(x, requires_grad=True)
    y = F.max_pool2d(leaf, size, stride=stride, padding=padding)
    np.testing.assert_array_equal(y.numpy(), maximum_definition(x, size, stride, padding))
    cotangent = random.integers(1, 9, y.shape).astype(np.float64)
    y.backward(cotangent)
    expected = np.zeros_like(x)
    for (i, j), rows, columns in windows_of(shape, size, stride, padding):
        window = x[:, rows, columns]  # (n, h, w, c); argmax takes the first in row-major order
        first = window.reshape(shape[0], -1, shape[3]).argmax(axis=1)  # (n, c)
        row, column = first // window.shape[2] + rows.start, first % window.shape[2] + columns.start
        for n, c in np.ndindex(first.shape):
            expected[n, row[n, c], column[n, c], c] += cotangent[n, i, j, c]
    np.testing.assert_array_equal(leaf.grad, expected)


@given(pools(), SEEDS)
def test_average_pooling_is_its_definition_in_value_and_gradient(kernel_set, geometry, seed):
    shape, size, stride, padding = geometry
    random = np.random.default_rng(seed)
    leaf = Tensor(random.standard_normal(shape), requires_grad=True)
    y = F.average_pool2d(leaf, size, stride=stride, padding=padding)
    expected = average_definition(leaf.data, size, stride, padding)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    cotangent = random.standard_normal(y.shape)
    y.backward(cotangent)
    gradient = np.zeros(shape)
    for (i, j), rows, columns in windows_of(shape, size, stride, padding):
        pixels = gradient[:, rows, columns]
        pixels += (cotangent[:, i, j] / (pixels.shape[1] * pixels.shape[2]))[:, None, None]
    np.testing.assert_allclose(leaf.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["max_pool2d", "average_pool2d"])
@given(pools(), SEEDS)
def test_gradients_agree_with_difference_quotients(kernel_set, name, geometry, seed):
    shape, size, stride, padding = geometry
    function = getattr(F, name)
    x = in_lanes(distinct(np.random.default_rng(seed), *shape))
    report = gradcheck(lambda x: function(x, size, stride=stride, padding=padding), x, seed=seed)
    assert report.kernels == kernel_set.NAME


def test_the_stride_is_the_size_unless_given_and_padding_none(kernel_set):
    x = np.arange(30.0).reshape(1, 5, 6, 1)
    assert F.max_pool2d(x).numpy()[0, :, :, 0].tolist() == [[7, 9, 11], [19, 21, 23]]
    assert F.max_pool2d(x, (1, 3)).shape == (1, 5, 2, 1)
    assert F.average_pool2d(x, 2).numpy()[0, 0, :, 0].tolist() == [3.5, 5.5, 7.5]
    assert F.max_pool2d(x, 2, padding="same").shape == (1, 3, 3, 1)


def test_of_equal_maxima_the_first_in_row_major_order_takes_the_gradient(kernel_set):
    x = Tensor(np.ones((17, 4, 4, 1)), requires_grad=True)
    F.max_pool2d(x, 2).backward(np.full((17, 2, 2, 1), 5.0))
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 5
    np.testing.assert_array_equal(x.grad, np.broadcast_to(expected[None, :, :, None], (17, 4, 4, 1)))
    # Across a row before down a column: (0, 1) comes before (1, 0).
    x = Tensor(np.array([[1.0, 2.0], [2.0, 2.0]]).reshape(1, 2, 2, 1), requires_grad=True)
    F.max_pool2d(x, 2).backward(np.ones((1, 1, 1, 1)))
    assert x.grad.ravel().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("value", [-3.0, -np.inf])
def test_padding_is_never_the_maximum(kernel_set, value):
    x = Tensor(np.full((3, 2, 2, 1), value), requires_grad=True)
    y = F.max_pool2d(x, 2, stride=1, padding=1)
    assert (y.numpy() == value).all()
    y.backward(np.ones(y.shape))
    # Of the nine windows (0, 0) is the first real pixel of four, (0, 1) and (1, 0) of two, (1, 1) of one.
    np.testing.assert_array_equal(x.grad[1, :, :, 0], [[4, 2], [2, 1]])


@pytest.mark.parametrize("place", range(4))
def test_nan_comes_through_max_pooling_and_takes_the_gradient(kernel_set, place):
    x = np.ones((17, 2, 2, 2))
    x[16].reshape(4, 2)[place, 1] = np.nan
    leaf = Tensor(x, requires_grad=True)
    y = F.max_pool2d(leaf, 2)
    assert np.isnan(y.numpy()).sum() == 1 and np.isnan(y.numpy()[16, 0, 0, 1])
    y.backward(np.ones(y.shape))
    assert leaf.grad[16].reshape(4, 2)[:, 1].tolist() == [float(i == place) for i in range(4)]


def test_nan_comes_through_average_pooling_and_upsampling(kernel_set):
    x = np.ones((3, 2, 2, 1))
    x[1, 0, 1, 0] = np.nan
    assert np.isnan(F.average_pool2d(x, 2).numpy()).ravel().tolist() == [False, True, False]
    assert np.isnan(F.global_average_pool2d(x).numpy()).ravel().tolist() == [False, True, False]
    assert np.isnan(F.upsample2d(x, 2).numpy()).sum() == 4


@given(COUNTS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), SEEDS)
def test_the_global_average_is_the_mean_over_pixels(kernel_set, count, height, width, channels, seed):
    leaf = Tensor(np.random.default_rng(seed).standard_normal((count, height, width, channels)), True)
    y = F.global_average_pool2d(leaf)
    np.testing.assert_allclose(y.numpy(), leaf.data.mean(axis=(1, 2)), rtol=1e-12, atol=1e-12)
    cotangent = np.random.default_rng(seed + 1).standard_normal(y.shape)
    y.backward(cotangent)
    expected = np.broadcast_to((cotangent / (height * width))[:, None, None], leaf.shape)
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-12)


@given(COUNTS, st.integers(1, 4), st.integers(1, 4), st.tuples(st.integers(1, 3), st.integers(1, 3)), SEEDS)
def test_upsampling_repeats_pixels_and_sums_their_gradients(kernel_set, count, height, width, factor, seed):
    random = np.random.default_rng(seed)
    leaf = Tensor(random.standard_normal((count, height, width, 2)), requires_grad=True)
    y = F.upsample2d(leaf, factor)
    expected = leaf.data.repeat(factor[0], axis=1).repeat(factor[1], axis=2)
    np.testing.assert_array_equal(y.numpy(), expected)
    cotangent = random.standard_normal(y.shape)
    y.backward(cotangent)
    split = cotangent.reshape(count, height, factor[0], width, factor[1], 2)
    np.testing.assert_allclose(leaf.grad, split.sum(axis=(2, 4)), rtol=1e-12, atol=1e-12)


FUNCTIONS = [F.max_pool2d, F.average_pool2d, F.global_average_pool2d, F.upsample2d]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_lanes_stay_lanes_float32_stays_float32_and_integers_become_it(kernel_set, function):
    x = np.arange(3 * 4 * 4 * 2).reshape(3, 4, 4, 2)
    for array, dtype in (
        (x.astype(np.float32), np.float32),
        (x.astype(np.uint8), np.float32),
        (x / 1.0, np.float64),
    ):
        y = function(array)
        assert y.lanes is None and y.dtype == dtype
        stored = function(F.pack(array))
        assert stored.lanes is not None and stored.lanes.count == 3
        assert stored.lanes.flat == (stored.ndim == 2)
        np.testing.assert_array_equal(stored.numpy(), y.numpy())
    np.testing.assert_allclose(function(x.astype(np.uint8)).numpy(), function(x / 1.0).numpy(), rtol=1e-6)


# Mistakes.


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 4), (1, 1, 4, 4, 2)])
def test_anything_but_images_is_refused(kernel_set, function, shape):
    with pytest.raises(ShapeError) as caught:
        function(np.ones(shape))
    message = str(caught.value)
    assert message.startswith(f"{function.__name__}: wanted images (n, height, width, channels)")
    assert message.endswith(f"got shape {shape}")


@pytest.mark.parametrize("name", ["max_pool2d", "average_pool2d"])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "parts"),
    [
        ((0,), {}, ArgumentError, ["size", "at least 1", "got 0"]),
        (((2, 2.5),), {}, ArgumentError, ["size", "(2, 2.5)"]),
        ((None,), {}, ArgumentError, ["size", "None"]),
        ((2,), {"stride": 0}, ArgumentError, ["stride", "got 0"]),
        ((2,), {"stride": "2"}, ArgumentError, ["stride", "'2'"]),
        ((2,), {"padding": 2}, ArgumentError, ["padding ((2, 2), (2, 2))", "2x2 window without a pixel"]),
        ((2,), {"padding": ((0, 0), (0, 2))}, ArgumentError, ["((0, 0), (0, 2))", "without a pixel"]),
        ((2,), {"padding": "all"}, ArgumentError, ["padding", "'all'"]),
        ((6,), {}, ShapeError, ["6x6 pixels", "4x5"]),
    ],
)
def test_pooling_names_a_mistake(kernel_set, name, arguments, options, error, parts):
    with pytest.raises(error) as caught:
        getattr(F, name)(np.ones((2, 4, 5, 1)), *arguments, **options)
    message = str(caught.value)
    assert message.startswith(f"{name}: ") and "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("factor", [0, -1, 1.5, (2, 0), (1, 2, 3), None, True])
def test_upsampling_names_a_factor_that_makes_no_sense(kernel_set, factor):
    with pytest.raises(ArgumentError) as caught:
        F.upsample2d(np.ones((2, 4, 5, 1)), factor)
    assert str(caught.value) == (
        f"upsample2d: factor must be a whole number of at least 1 or two of them, got {factor!r}"
    )


def test_images_without_pixels_are_refused(kernel_set):
    with pytest.raises(
        ShapeError, match=r"global_average_pool2d: images of shape \(2, 0, 3, 1\) have no pixels"
    ):
        F.global_average_pool2d(np.ones((2, 0, 3, 1)))
    with pytest.raises(ShapeError, match=r"UpSample2D: wanted at least one image.*\(0, 2, 3, 1\)"):
        F.upsample2d(np.ones((0, 2, 3, 1)))
