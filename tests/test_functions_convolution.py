"""Convolution and dense layers: values against the definition, gradients, padding, precision, mistakes."""

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
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def padded_as(padding, length, taps, stride, dilation, axis):
    """(before, after) along one axis; "same" gives ceil(length / stride) positions, as documented."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        missing = max(0, (-(-length // stride) - 1) * stride + (taps - 1) * dilation + 1 - length)
        return missing // 2, missing - missing // 2
    sides = (padding, padding) if isinstance(padding, int) else padding
    side = sides[axis]
    return (side, side) if isinstance(side, int) else side


def definition(x, weight, bias, stride, padding, dilation, groups):
    """y[n, i, j, o] = b[o] + sum_{u, v, c} w[u, v, c, o] x[n, i s + u d - p, j s + v d - p, c]."""
    kh, kw, channels, outputs = weight.shape
    geometry = [
        padded_as(padding, x.shape[1 + axis], weight.shape[axis], stride[axis], dilation[axis], axis)
        for axis in (0, 1)
    ]
    x = np.pad(x, ((0, 0), *geometry, (0, 0)))
    height = (x.shape[1] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    width = (x.shape[2] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    y = np.zeros((len(x), height, width, outputs))
    for i, j, o, u, v in np.ndindex(height, width, outputs, kh, kw):
        first = o // (outputs // groups) * channels
        pixel = x[
            :, i * stride[0] + u * dilation[0], j * stride[1] + v * dilation[1], first : first + channels
        ]
        y[:, i, j, o] += pixel @ weight[u, v, :, o]
    return y + (0 if bias is None else bias)


@st.composite
def convolutions(draw):
    """Arrays and options for which the window fits."""
    size, stride, dilation = draw(PAIRS), draw(PAIRS), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    side = st.one_of(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 2), st.tuples(side, side)))
    smallest = []
    for axis in (0, 1):
        extent = (size[axis] - 1) * dilation[axis] + 1
        known = 0 if padding == "same" else sum(padded_as(padding, 0, 0, 0, 0, axis))
        smallest.append(1 if padding == "same" else max(1, extent - known))
    height, width = (draw(st.integers(least, least + 4)) for least in smallest)
    groups, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    count = draw(st.sampled_from([1, 3, 16, 17]))
    random = np.random.default_rng(draw(SEEDS))
    x = random.standard_normal((count, height, width, groups * channels))
    weight = random.standard_normal((*size, channels, groups * outputs))
    bias = random.standard_normal(groups * outputs) if draw(st.booleans()) else None
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return x, weight, bias, options


@given(convolutions())
def test_values_are_those_of_the_definition(kernel_set, drawn):
    x, weight, bias, options = drawn
    y = F.conv2d(x, weight, bias, **options)
    assert y.lanes is None and y.dtype == np.float64
    np.testing.assert_allclose(y.numpy(), definition(x, weight, bias, **options), rtol=1e-11, atol=1e-11)


def same_sum(one, two):
    """The sums agree to what rounding does to them."""
    assert abs(one.sum() - two.sum()) <= 1e-13 * (np.abs(one).sum() + np.abs(two).sum())


@given(convolutions())
def test_gradients_are_the_transposes_of_the_definition(kernel_set, drawn):
    """Convolution is linear in each argument: <c, conv(x, w)> = <dx, x> = <dw, w> for any x' and w'."""
    x, weight, bias, options = drawn
    leaves = [Tensor(array, requires_grad=True) for array in (x, weight, bias) if array is not None]
    y = F.conv2d(*leaves, **options)
    random = np.random.default_rng(0)
    cotangent = random.standard_normal(y.shape)
    y.backward(cotangent)
    other_x, other_weight = random.standard_normal(x.shape), random.standard_normal(weight.shape)
    through_x = definition(other_x, weight, None, **options)
    through_weight = definition(x, other_weight, None, **options)
    same_sum(leaves[0].grad * other_x, cotangent * through_x)
    same_sum(leaves[1].grad * other_weight, cotangent * through_weight)
    if bias is not None:
        np.testing.assert_allclose(leaves[2].grad, cotangent.sum(axis=(0, 1, 2)), rtol=1e-11, atol=1e-11)


@given(convolutions(), SEEDS)
def test_gradients_agree_with_difference_quotients(kernel_set, drawn, seed):
    x, weight, bias, options = drawn
    inputs = [in_lanes(x), weight, *([] if bias is None else [bias])]
    assert (
        gradcheck(lambda *arrays: F.conv2d(*arrays, **options), inputs, seed=seed).kernels == kernel_set.NAME
    )


@given(convolutions())
def test_float32_stays_float32_and_is_as_right(kernel_set, drawn):
    x, weight, bias, options = drawn
    narrow = [
        Tensor(array.astype(np.float32), requires_grad=True)
        for array in (x, weight, bias)
        if array is not None
    ]
    y = F.conv2d(*narrow, **options)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), definition(x, weight, bias, **options), rtol=1e-4, atol=1e-4)
    y.backward(np.ones(y.shape))
    assert {leaf.grad.dtype for leaf in narrow} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("length", "stride", "positions"), [(5, 1, 5), (5, 2, 3), (6, 2, 3), (7, 3, 3), (2, 5, 1)]
)
def test_same_padding_gives_length_over_stride_rounded_up(kernel_set, length, stride, positions):
    x = np.ones((1, length, length, 1))
    for taps in (1, 2, 3, 5):
        assert F.conv2d(x, np.ones((taps, taps, 1, 1)), stride=stride).shape == (1, positions, positions, 1)


def test_an_odd_padding_goes_to_the_bottom_and_right(kernel_set):
    # 3 pixels, 2 taps, one zero missing: 1 + 2, 2 + 4, 4 + nothing.
    x = np.array([1.0, 2.0, 4.0]).reshape(1, 1, 3, 1)
    assert F.conv2d(x, np.ones((1, 2, 1, 1))).numpy().ravel().tolist() == [3, 6, 4]


def test_padding_can_be_said_in_five_ways(kernel_set):
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((2, 5, 5, 2)), random.standard_normal((3, 3, 2, 2))
    same = F.conv2d(x, weight).numpy()
    for padding in ("same", 1, (1, 1), ((1, 1), (1, 1)), [[1, 1], 1], np.int64(1)):
        np.testing.assert_array_equal(F.conv2d(x, weight, padding=padding).numpy(), same)
    valid = F.conv2d(x, weight, padding="valid").numpy()
    np.testing.assert_allclose(valid, same[:, 1:-1, 1:-1], rtol=1e-12)
    np.testing.assert_array_equal(F.conv2d(x, weight, padding=0).numpy(), valid)


def test_depthwise_is_every_channel_by_itself(kernel_set):
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((3, 4, 5, 6)), random.standard_normal((3, 3, 1, 6))
    y = F.conv2d(x, weight, groups=np.int64(6)).numpy()
    for c in range(6):
        alone = F.conv2d(x[..., c : c + 1], weight[..., c : c + 1]).numpy()
        np.testing.assert_allclose(y[..., c : c + 1], alone, rtol=1e-12, atol=1e-12)


def test_the_kernel_is_not_flipped(kernel_set):
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 1, 0] = 1
    weight = np.arange(9.0).reshape(3, 3, 1, 1)
    np.testing.assert_array_equal(F.conv2d(x, weight).numpy()[0, :, :, 0], weight[::-1, ::-1, 0, 0])


# Dense.


@given(st.sampled_from([1, 3, 16, 17, 40]), st.integers(1, 9), st.integers(1, 9), st.booleans(), SEEDS)
def test_dense_is_a_matrix_product(kernel_set, count, features, outputs, with_bias, seed):
    random = np.random.default_rng(seed)
    x, weight = random.standard_normal((count, features)), random.standard_normal((features, outputs))
    bias = random.standard_normal(outputs) if with_bias else None
    leaves = [Tensor(array, requires_grad=True) for array in (x, weight, bias) if array is not None]
    y = F.dense(*leaves)
    np.testing.assert_allclose(y.numpy(), x @ weight + (bias if with_bias else 0), rtol=1e-11, atol=1e-11)
    cotangent = random.standard_normal(y.shape)
    y.backward(cotangent)
    np.testing.assert_allclose(leaves[0].grad, cotangent @ weight.T, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(leaves[1].grad, x.T @ cotangent, rtol=1e-11, atol=1e-11)
    if with_bias:
        np.testing.assert_allclose(leaves[2].grad, cotangent.sum(axis=0), rtol=1e-11, atol=1e-11)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), SEEDS)
def test_dense_counts_the_features_of_images_rows_columns_channels(kernel_set, height, width, channels, seed):
    """In value and in all gradients, for ordinary images, for lanes, and for lanes that were flattened."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((3, height, width, channels))
    weight = random.standard_normal((height * width * channels, 2))
    cotangent = random.standard_normal((3, 2))
    for prepare in (lambda leaf: leaf, F.pack, lambda leaf: F.flatten(F.pack(leaf))):
        leaf, parameter = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
        y = F.unpack(F.dense(prepare(leaf), parameter))
        np.testing.assert_allclose(y.numpy(), x.reshape(3, -1) @ weight, rtol=1e-11, atol=1e-11)
        y.backward(cotangent)
        np.testing.assert_allclose(leaf.grad, (cotangent @ weight.T).reshape(x.shape), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(parameter.grad, x.reshape(3, -1).T @ cotangent, rtol=1e-11, atol=1e-11)


# Layout and precision.


def test_lanes_stay_lanes_and_ordinary_arrays_ordinary(kernel_set):
    x, weight = np.ones((3, 4, 4, 2)), np.ones((3, 3, 2, 5))
    assert F.conv2d(x, weight).lanes is None
    y = F.conv2d(F.pack(x), weight)
    assert y.lanes is not None and y.lanes.count == 3 and not y.lanes.flat
    assert y.shape == (3, 4, 4, 5) and y.data.shape[1:4] == (5, 4, 4)
    z = F.dense(y, np.ones((80, 2)))
    assert z.lanes is not None and z.lanes.flat and z.shape == (3, 2)
    assert F.dense(np.ones((3, 4)), np.ones((4, 2))).lanes is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_, np.float16])
def test_integers_and_halves_are_computed_in_float32(kernel_set, dtype):
    x = np.random.default_rng(0).integers(0, 2, (3, 4, 4, 2)).astype(dtype)
    weight = np.full((3, 3, 2, 1), 0.1, np.float32)
    y = F.conv2d(x, weight)
    assert y.dtype == np.float32
    expected = definition(x.astype(float), weight.astype(float), None, (1, 1), "same", (1, 1), 1)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
    assert F.dense([[1, 2]], [[1], [2]], [0]).numpy().tolist() == [[5.0]]


def test_arguments_of_two_precisions_are_computed_in_the_wider(kernel_set):
    random = np.random.default_rng(0)
    x = Tensor(random.standard_normal((3, 4, 4, 2)).astype(np.float32), requires_grad=True)
    weight = Tensor(random.standard_normal((3, 3, 2, 2)), requires_grad=True)
    bias = Tensor(random.standard_normal(2).astype(">f4"), requires_grad=True)
    y = F.conv2d(x, weight, bias)
    assert y.dtype == np.float64
    expected = definition(x.numpy().astype(float), weight.numpy(), bias.numpy(), (1, 1), "same", (1, 1), 1)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    y.backward(np.ones(y.shape))
    assert [leaf.grad.dtype for leaf in (x, weight, bias)] == [leaf.dtype for leaf in (x, weight, bias)]
    np.testing.assert_allclose(bias.grad, 48)


def test_only_the_gradients_that_are_needed_are_computed(kernel_set, monkeypatch):
    def never(*arguments):
        raise AssertionError("this gradient was not asked for")

    x, weight = np.ones((3, 4, 4, 2)), np.ones((3, 3, 2, 2))
    monkeypatch.setattr(kernel_set, "conv2d_input_gradient", never)
    leaf = Tensor(weight, requires_grad=True)
    F.conv2d(x, leaf, np.zeros(2)).backward(np.ones((3, 4, 4, 2)))
    assert leaf.grad is not None
    monkeypatch.undo()
    monkeypatch.setattr(kernel_set, "conv2d_weight_gradient", never)
    monkeypatch.setattr(kernel_set, "channel_sum", never)
    leaf = Tensor(x, requires_grad=True)
    F.conv2d(leaf, weight, np.zeros(2)).backward(np.ones((3, 4, 4, 2)))
    assert leaf.grad is not None


# Mistakes.

IMAGES, KERNEL = (2, 5, 6, 4), (3, 3, 4, 8)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "options", "error", "parts"),
    [
        ((5, 6, 4), KERNEL, None, {}, ShapeError, ["images (n, height, width, channels)", "(5, 6, 4)"]),
        (
            IMAGES,
            (3, 3, 4),
            None,
            {},
            ShapeError,
            ["weight (kh, kw, channels / groups, outputs)", "(3, 3, 4)"],
        ),
        (IMAGES, (3, 3, 4, 0), None, {}, ShapeError, ["weight", "(3, 3, 4, 0)"]),
        (IMAGES, (3, 3, 5, 8), None, {}, ShapeError, ["wants 5 channels", "(2, 5, 6, 4) have 4"]),
        (IMAGES, (3, 3, 4, 8), None, {"groups": 2}, ShapeError, ["wants 8 channels", "have 4"]),
        (IMAGES, (3, 3, 1, 8), None, {"groups": 3}, ShapeError, ["3 groups", "4 input", "8 output"]),
        (IMAGES, KERNEL, (7,), {}, ShapeError, ["bias has shape (7,)", "wanted (8,)"]),
        (IMAGES, KERNEL, (1, 8), {}, ShapeError, ["bias has shape (1, 8)", "wanted (8,)"]),
        ((2, 2, 2, 4), KERNEL, None, {"padding": "valid"}, ShapeError, ["3x3", "2x2", "((0, 0), (0, 0))"]),
        (IMAGES, KERNEL, None, {"dilation": 3, "padding": "valid"}, ShapeError, ["7x7", "5x6"]),
        ((0, 5, 6, 4), KERNEL, None, {}, ShapeError, ["at least one image", "(0, 5, 6, 4)"]),
        ((2, 0, 6, 4), KERNEL, None, {}, ShapeError, ["3x3", "0x6"]),
        (IMAGES, KERNEL, None, {"stride": 0}, ArgumentError, ["stride", "at least 1", "got 0"]),
        (IMAGES, KERNEL, None, {"stride": (1, -2)}, ArgumentError, ["stride", "(1, -2)"]),
        (IMAGES, KERNEL, None, {"stride": 1.5}, ArgumentError, ["stride", "1.5"]),
        (IMAGES, KERNEL, None, {"stride": (1, 1, 1)}, ArgumentError, ["stride", "(1, 1, 1)"]),
        (IMAGES, KERNEL, None, {"stride": True}, ArgumentError, ["stride", "True"]),
        (IMAGES, KERNEL, None, {"dilation": 0}, ArgumentError, ["dilation", "got 0"]),
        (IMAGES, KERNEL, None, {"groups": 0}, ArgumentError, ["groups", "at least 1", "got 0"]),
        (IMAGES, KERNEL, None, {"groups": 2.0}, ArgumentError, ["groups", "2.0"]),
        (IMAGES, KERNEL, None, {"groups": True}, ArgumentError, ["groups", "True"]),
        (IMAGES, KERNEL, None, {"padding": "full"}, ArgumentError, ["padding", '"same"', "'full'"]),
        (IMAGES, KERNEL, None, {"padding": -1}, ArgumentError, ["padding", "-1"]),
        (IMAGES, KERNEL, None, {"padding": (1.5, 1)}, ArgumentError, ["padding", "(1.5, 1)"]),
        (IMAGES, KERNEL, None, {"padding": (None, 1)}, ArgumentError, ["padding", "(None, 1)"]),
        (IMAGES, KERNEL, None, {"padding": ((1, 1, 1), 1)}, ArgumentError, ["padding", "((1, 1, 1), 1)"]),
        (IMAGES, KERNEL, None, {"padding": True}, ArgumentError, ["padding", "True"]),
        (IMAGES, KERNEL, None, {"padding": None}, ArgumentError, ["padding", "None"]),
    ],
)
def test_conv2d_names_a_mistake(kernel_set, x, weight, bias, options, error, parts):
    with pytest.raises(error) as caught:
        F.conv2d(np.ones(x), np.ones(weight), None if bias is None else np.ones(bias), **options)
    message = str(caught.value)
    assert message.lower().startswith("conv2d: ") and "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("x", "weight", "bias", "parts"),
    [
        ((2, 5), (4, 3), None, ["x has shape (2, 5)", "weight (4, 3)", "(5, outputs)"]),
        ((2, 2, 2, 3), (4, 3), None, ["(2, 2, 2, 3)", "(12, outputs)"]),
        ((2, 5), (5,), None, ["weight (5,)"]),
        ((2, 5), (5, 0), None, ["weight (5, 0)"]),
        ((5,), (5, 3), None, ["x (n, features)", "(5,)"]),
        ((2, 5, 1), (5, 3), None, ["x (n, features)", "(2, 5, 1)"]),
        ((2, 5), (5, 3), (2,), ["bias has shape (2,)", "wanted (3,)"]),
        ((0, 5), (5, 3), None, ["at least one image", "(0, 5)"]),
        ((2, 0), (0, 3), None, ["(2, 0)"]),
    ],
)
def test_dense_names_a_mistake(kernel_set, x, weight, bias, parts):
    with pytest.raises(ShapeError) as caught:
        F.dense(np.ones(x), np.ones(weight), None if bias is None else np.ones(bias))
    message = str(caught.value)
    assert message.lower().startswith("dense: ") and "\n" not in message
    for part in parts:
        assert part in message


def test_empty_lanes_get_no_cotangent(kernel_set):
    """A lane tensor with one number, where backward() fills in the cotangent itself."""
    bias = Tensor(np.zeros(1), requires_grad=True)
    F.dense(F.pack(np.ones((1, 3))), np.ones((3, 1)), bias).backward()
    np.testing.assert_array_equal(bias.grad, [1.0])
