"""The two kernel sets say the same thing, and what they say is right.

Shapes, strides, padding, dilation and groups are drawn; padded lanes hold garbage-free zeros;
float64 is compared tightly, float32 as far as reordered sums allow.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import kernels
from tinynet.kernels import numpy as reference
from tinynet.kernels.block import Block
from tinynet.kernels.numpy.pooling import pixel_counts
from tinynet.kernels.window import Window, same_padding

if kernels.numba_problem() is not None:
    pytest.skip("Numba is not installed: there is nothing to compare", allow_module_level=True)

from tinynet.kernels import numba as fast
from tinynet.kernels.numba import winograd
from tinynet.kernels.numba.products import TAPS, row_tiles
from tinynet.kernels.numba.tiles import ROWS

TOLERANCE = {np.float32: {"rtol": 2e-4, "atol": 2e-4}, np.float64: {"rtol": 1e-11, "atol": 1e-11}}
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def windows(draw, maximum=4):
    size = draw(st.tuples(st.integers(1, maximum), st.integers(1, maximum)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = tuple(
        (draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1)))
        for side in ((size[0] - 1) * dilation[0] + 1, (size[1] - 1) * dilation[1] + 1)
    )
    window = Window(size, stride, dilation, padding)
    height = draw(st.integers(max(1, window.extent[0] - sum(padding[0])), 9))
    width = draw(st.integers(max(1, window.extent[1] - sum(padding[1])), 9))
    return window, height, width


def random_lanes(rng, blocks, channels, height, width, dtype, count=None):
    """(B, C, H, W, 16) with zeros in the lanes after `count` images."""
    x = rng.standard_normal((blocks, channels, height, width, 16)).astype(dtype)
    if count is not None:
        x[-1, ..., count - (blocks - 1) * 16 :] = 0
    return x


def agree(a, b, dtype):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(a, b, **TOLERANCE[dtype])


@given(
    windows(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 4),
    dtypes,
    st.integers(0, 10**6),
)
def test_convolution_agrees(geometry, groups, channels_each, outputs_each, blocks, dtype, seed):
    window, height, width = geometry
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, blocks, groups * channels_each, height, width, dtype)
    weight = rng.standard_normal((*window.size, channels_each, groups * outputs_each)).astype(dtype)
    bias = rng.standard_normal(groups * outputs_each).astype(dtype)
    y = reference.conv2d(x, weight, bias, window, groups)
    agree(fast.conv2d(x, weight, bias, window, groups), y, dtype)
    dy = rng.standard_normal(y.shape).astype(dtype)
    agree(
        fast.conv2d_input_gradient(dy, weight, window, groups, height, width),
        reference.conv2d_input_gradient(dy, weight, window, groups, height, width),
        dtype,
    )
    agree(
        fast.conv2d_weight_gradient(x, dy, window, groups),
        reference.conv2d_weight_gradient(x, dy, window, groups),
        dtype,
    )
    agree(fast.channel_sum(dy), reference.channel_sum(dy), dtype)


@given(windows(maximum=3), st.integers(0, 10**6))
def test_convolution_is_its_definition(geometry, seed):
    """The reference against five loops."""
    window, height, width = geometry
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 2, height, width, 1))
    weight, bias = rng.standard_normal((*window.size, 2, 2)), rng.standard_normal(2)
    y = reference.conv2d(x, weight, bias, window, 1)
    (top, _), (left, _) = window.padding
    for o, i, j in np.ndindex(y.shape[1:4]):
        total = bias[o]
        for c, u, v in np.ndindex(2, *window.size):
            row = i * window.stride[0] + u * window.dilation[0] - top
            column = j * window.stride[1] + v * window.dilation[1] - left
            if 0 <= row < height and 0 <= column < width:
                total += weight[u, v, c, o] * x[0, c, row, column, 0]
        np.testing.assert_allclose(y[0, o, i, j, 0], total, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 40), dtypes, st.integers(0, 10**6))
def test_dense_shapes_agree(features, outputs, count, dtype, seed):
    """A 1x1 image, where the positions of the fast kernel are the blocks."""
    rng = np.random.default_rng(seed)
    blocks, window = -(-count // 16), Window((1, 1))
    x = random_lanes(rng, blocks, features, 1, 1, dtype, count)
    weight, bias = rng.standard_normal((1, 1, features, outputs)).astype(dtype), np.zeros(outputs, dtype)
    dy = random_lanes(rng, blocks, outputs, 1, 1, dtype, count)
    agree(fast.conv2d(x, weight, bias, window, 1), reference.conv2d(x, weight, bias, window, 1), dtype)
    agree(
        fast.conv2d_weight_gradient(x, dy, window, 1),
        reference.conv2d_weight_gradient(x, dy, window, 1),
        dtype,
    )
    agree(
        fast.conv2d_input_gradient(dy, weight, window, 1, 1, 1),
        reference.conv2d_input_gradient(dy, weight, window, 1, 1, 1),
        dtype,
    )


@given(windows(), st.integers(1, 3), dtypes, st.integers(0, 10**6))
def test_pooling_agrees(geometry, channels, dtype, seed):
    window, height, width = geometry
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, 2, channels, height, width, dtype)
    x = np.round(x, 1)  # so that there are ties
    y, tap = reference.max_pool(x, window)
    fast_y, fast_tap = fast.max_pool(x, window)
    reachable = np.isfinite(y)  # a window that lies wholly in the padding has no maximum
    np.testing.assert_array_equal(fast_y, y)
    np.testing.assert_array_equal(fast_tap[reachable], tap[reachable])
    dy = np.where(reachable, rng.standard_normal(y.shape), 0).astype(dtype)
    agree(
        fast.max_pool_backward(dy, tap, window, height, width),
        reference.max_pool_backward(dy, tap, window, height, width),
        dtype,
    )


@given(windows(maximum=3), dtypes, st.integers(0, 10**6))
def test_average_pooling_agrees(geometry, dtype, seed):
    window, height, width = geometry
    assume(pixel_counts(window, height, width).min() > 0)  # a window in the padding has no mean
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, 2, 2, height, width, dtype)
    y = reference.average_pool(x, window)
    agree(fast.average_pool(x, window), y, dtype)
    agree(
        fast.average_pool_backward(y, window, height, width),
        reference.average_pool_backward(y, window, height, width),
        dtype,
    )


@given(st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(1, 4), dtypes, st.integers(0, 10**6))
def test_upsampling_agrees(factor, size, dtype, seed):
    x = random_lanes(np.random.default_rng(seed), 2, 2, size, size + 1, dtype)
    y = reference.upsample(x, factor)
    agree(fast.upsample(x, factor), y, dtype)
    agree(fast.upsample_backward(y, factor), reference.upsample_backward(y, factor), dtype)


@given(st.integers(1, 50), st.integers(1, 4), st.floats(-100, 100), dtypes, st.integers(0, 10**6))
def test_normalization_agrees(count, channels, offset, dtype, seed):
    rng = np.random.default_rng(seed)
    blocks = -(-count // 16)
    x = random_lanes(rng, blocks, channels, 3, 2, dtype) + dtype(offset)
    dy = random_lanes(rng, blocks, channels, 3, 2, dtype, count)
    mean, variance = reference.channel_moments(x, count)
    fast_mean, fast_variance = fast.channel_moments(x, count)
    # The rounding of a sum is relative to what is summed: a mean may be near zero.
    np.testing.assert_allclose(fast_mean, mean, rtol=1e-12, atol=1e-14 * np.abs(x).max())
    np.testing.assert_allclose(fast_variance, variance, rtol=1e-9, atol=1e-12)
    inverse, scale = 1 / np.sqrt(variance + 1e-3), rng.standard_normal(channels)
    agree(
        fast.normalize(x, mean, inverse, scale, scale, count),
        reference.normalize(x.copy(), mean, inverse, scale, scale, count),
        dtype,
    )
    for a, b in zip(
        fast.normalize_sums(dy, x, mean, inverse, count),
        reference.normalize_sums(dy, x, mean, inverse, count),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    more = (mean, inverse, scale, scale, scale, count)
    agree(
        fast.normalize_input_gradient(dy, x, *more), reference.normalize_input_gradient(dy, x, *more), dtype
    )


@given(st.integers(1, 40), st.floats(0, 0.9), dtypes, st.integers(0, 10**6))
def test_dropout_is_the_same_mask(count, rate, dtype, seed):
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, -(-count // 16), 3, 4, 5, dtype)
    keys = rng.integers(0, 2**32, (x.shape[0], 16), dtype=np.uint32)
    np.testing.assert_array_equal(fast.dropout(x, keys, rate), reference.dropout(x, keys, rate))


def test_dropout_keeps_the_share_it_should():
    keys = np.random.default_rng(0).integers(0, 2**32, (50, 16), dtype=np.uint32)
    kept = reference.dropout(np.ones((50, 4, 8, 8, 16)), keys, 0.3) > 0
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / kept.size)
    for axis in range(5):  # no pattern along any axis
        other = tuple(a for a in range(5) if a != axis)
        share = kept.mean(axis=other)
        assert np.abs(share - 0.7).max() < 6 * np.sqrt(0.21 / (kept.size / kept.shape[axis]))


def with_odd_numbers(rng, array, share=0.03):
    """A copy with NaN and infinity at drawn places."""
    copy, drawn = array.copy(), rng.random(array.shape)
    copy[drawn < share], copy[drawn < share / 3] = np.nan, np.inf
    return copy


def nan_at_the_same_places(name, *arguments):
    with np.errstate(all="ignore"):
        found = [getattr(kernel_set, name)(*arguments) for kernel_set in (fast, reference)]
    pairs = zip(*(one if isinstance(one, tuple) else (one,) for one in found), strict=True)
    for of_numba, of_numpy in pairs:
        if of_numba is not None and of_numba.dtype.kind == "f":
            np.testing.assert_array_equal(np.isnan(of_numba), np.isnan(of_numpy), err_msg=name)


@given(count=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_nan_comes_out_of_both_at_the_same_places(count, seed):
    rng = np.random.default_rng(seed)
    blocks, channels = -(-count // 16), 3
    x, dy = (with_odd_numbers(rng, random_lanes(rng, blocks, channels, 6, 6, np.float32)) for _ in range(2))
    window, half = Window((3, 3), padding=((1, 1), (1, 1))), Window((2, 2), (2, 2))
    weight = rng.standard_normal((3, 3, channels, channels)).astype(np.float32)
    bias, some = with_odd_numbers(rng, weight[0, 0, 0], 0.3), np.abs(rng.standard_normal(channels)) + 0.1
    nan_at_the_same_places("conv2d", x, with_odd_numbers(rng, weight), bias, window, 1)
    nan_at_the_same_places("conv2d_input_gradient", dy, weight, window, 1, 6, 6)  # a weight: see README
    nan_at_the_same_places("conv2d_weight_gradient", x, dy, window, 1)
    nan_at_the_same_places("channel_sum", dy)
    for block in (Block(window, relu=True, pool=True), Block(window, relu=True), Block(window)):
        nan_at_the_same_places("conv_block", x, weight, bias, block)
        with np.errstate(all="ignore"):
            y, code = reference.conv_block(x, weight, bias, block)
        cotangent = with_odd_numbers(rng, np.ones_like(y))
        nan_at_the_same_places("conv_block_backward", cotangent, x, weight, y, code, block, True)
    for name in ("relu", "relu6"):
        nan_at_the_same_places(name, x)
        nan_at_the_same_places(f"{name}_backward", dy, x)
    for name in ("max_pool", "average_pool"):
        nan_at_the_same_places(name, x, half)
    smaller = np.ascontiguousarray(dy[:, :, :3, :3])
    nan_at_the_same_places("average_pool_backward", smaller, half, 6, 6)
    nan_at_the_same_places("upsample", x, (2, 3))
    nan_at_the_same_places("upsample_backward", x, (2, 3))
    nan_at_the_same_places("channel_moments", x, count)
    nan_at_the_same_places("normalize", x, some, some, some, bias.astype(float), count)
    nan_at_the_same_places("normalize_sums", dy, x, some, some, count)
    nan_at_the_same_places("normalize_input_gradient", dy, x, some, some, some, some, some, count)
    nan_at_the_same_places("dropout", x, rng.integers(0, 2**32, (blocks, 16), dtype=np.uint32), 0.4)
    nan_at_the_same_places("squared_error", x, dy, count)
    nan_at_the_same_places("squared_error_gradient", x, dy, 0.5, count)
    rows = with_odd_numbers(rng, rng.standard_normal((count, 3)).astype(np.float32), 0.1)
    nan_at_the_same_places("softmax_cross_entropy", rows, np.eye(3, dtype=np.float32)[np.arange(count) % 3])
    nan_at_the_same_places("unpack", x, count)
    nan_at_the_same_places("pack", with_odd_numbers(rng, np.ones((count, 4, 3, 2), np.float32)), 16)


@given(rows=st.integers(1, 8), columns=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_weights_are_rearranged_and_added_up_as_by_indexing(rows, columns, seed):
    from tinynet.kernels.numba.rearranging import added_up, rearranged

    rng = np.random.default_rng(seed)
    sums, order = rng.standard_normal((rows, columns)).astype(np.float32), rng.integers(0, columns, (5, 2))
    np.testing.assert_array_equal(rearranged(sums[0], order), sums[0][order])
    total = sums[0].copy()
    for row in sums[1:]:  # one after another; NumPy adds a single column in another order
        total += row
    np.testing.assert_array_equal(added_up(sums, order), total[order])


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_rectifiers_and_losses_agree(count, seed):
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, -(-count // 16), 2, 3, 3, np.float32) * 4
    target = random_lanes(rng, -(-count // 16), 2, 3, 3, np.float32, count)
    for name in ("relu", "relu6"):
        y = getattr(reference, name)(x)
        np.testing.assert_array_equal(getattr(fast, name)(x), y)
        backward = name + "_backward"
        np.testing.assert_array_equal(getattr(fast, backward)(x, y), getattr(reference, backward)(x, y))
    logits, likely = x[:, 0, 0, 0] * 9, np.abs(target[:, 0, 0, 0])
    for a, b in zip(
        fast.softmax_cross_entropy(logits, likely),
        reference.softmax_cross_entropy(logits.astype(float), likely.astype(float)),  # as it computes inside
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)
    assert fast.squared_error(x, target, count) == pytest.approx(
        reference.squared_error(x, target, count), rel=1e-6
    )
    np.testing.assert_allclose(
        fast.squared_error_gradient(x, target, 0.3, count),
        reference.squared_error_gradient(x, target, 0.3, count),
        rtol=1e-6,
        atol=1e-7,
    )


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_packing_agrees_and_returns(count, channels, size, seed):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, size, size + 1, channels)).astype(np.float32)
    packed = fast.pack(images, 16)
    np.testing.assert_array_equal(packed, reference.pack(images, 16))
    np.testing.assert_array_equal(fast.unpack(packed, count), images)
    np.testing.assert_array_equal(reference.unpack(packed, count), images)
    codes = rng.integers(0, 256, images.shape, dtype=np.uint8)
    scale, shift = rng.random(channels), rng.random(channels)
    np.testing.assert_allclose(
        fast.pack_bytes(codes, scale, shift, 16),
        reference.pack_bytes(codes, scale, shift, 16),
        rtol=1e-6,
        atol=1e-5,
    )
    assert not packed.reshape(-1, 16)[-1, count % 16 or 16 :].any()


SIDES = st.integers(1, 12) | st.integers(13, 40)  # less and more than a vector of pixels


@given(st.integers(1, 9), SIDES, SIDES, st.integers(1, 6), st.integers(0, 10**6))
def test_warping_gives_the_same_bytes(count, height, width, channels, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    matrices = np.eye(2, 3) + rng.normal(0, 0.5, (count, 2, 3)) * [1, 1, 3]
    transforms = np.round(matrices * 65536).astype(np.int32)
    np.testing.assert_array_equal(fast.warp(images, transforms), reference.warp(images, transforms))


@given(st.integers(1, 9), SIDES, SIDES, st.integers(1, 4), st.integers(0, 10**6))
def test_staining_gives_the_same_bytes(count, height, width, channels, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    images[rng.random((count, height, width)) < 0.3] = 0
    transforms = np.round((np.eye(2, 3) + rng.normal(0, 0.2, (count, 2, 3))) * 65536).astype(np.int32)
    stains = rng.uniform((0, -4), (2, 4), (count, channels, 2))  # the widest that Augmentation can draw
    stains = np.round(stains * 65536).astype(np.int32)
    expected = reference.warp(images, transforms, stains)
    np.testing.assert_array_equal(fast.warp(images, transforms, stains), expected)


NUMBERS = st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**18), 2**18)


@given(st.lists(NUMBERS, min_size=6, max_size=6), SIDES, SIDES, st.integers(1, 4))
def test_warping_from_anywhere_gives_the_same_bytes(transform, height, width, channels):
    """Positions far outside, and those that wrap around as int32."""
    images = np.full((1, height, width, channels), 255, np.uint8)
    transforms = np.array(transform, np.int32).reshape(1, 2, 3)
    np.testing.assert_array_equal(fast.warp(images, transforms), reference.warp(images, transforms))


def test_warping_by_nothing_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    identity = np.broadcast_to(np.round(np.eye(2, 3) * 65536), (3, 2, 3)).astype(np.int32)
    np.testing.assert_array_equal(reference.warp(images, identity), images)


@st.composite
def updates(draw):
    """(operation, names of the arrays it changes, numbers) of an optimiser, with and without decay."""
    rate, decay = draw(st.floats(1e-6, 1)), draw(st.sampled_from([0.0, 1e-4, 0.3]))
    share, momentum = draw(st.floats(0, 0.999)), draw(st.sampled_from([None, 0.5, 0.9]))
    epsilon = draw(st.sampled_from([1e-12, 1e-7, 0.05]))
    if draw(st.booleans()):
        beta_2, count = draw(st.floats(0, 0.9999)), draw(st.integers(1, 1000))
        return "adamw", ["mean", "mean_square"], (rate, decay, share, beta_2, epsilon, count)
    slots = [] if momentum is None else ["velocity"]
    if draw(st.booleans()):
        return "rmsprop", ["mean_square", *slots], (rate, decay, share, epsilon, momentum or 0.0)
    return "sgd", slots, (rate, decay, momentum or 0.0, draw(st.booleans()))


def update(kernel_module, operation, data, gradient, slots, numbers):
    """Call one operation of the optimisers, `slots` by name, None for the velocity that there is not."""
    arrays = list(slots.values())
    if operation != "adamw" and "velocity" not in slots:
        arrays.append(None)
    with np.errstate(all="ignore"):
        getattr(kernel_module, operation)(data, gradient, *arrays, *numbers)


def numbers_for_update(rng, shape, slots, dtype, exponent=0):
    """Data, gradient and slots of that size; a mean square is not negative."""
    data, gradient, *rest = (
        np.asarray(rng.standard_normal(shape) * 10.0**exponent).astype(dtype) for _ in range(2 + len(slots))
    )
    named = dict(zip(slots, rest, strict=True))
    if "mean_square" in named:
        np.abs(named["mean_square"], out=named["mean_square"])
    return data, gradient, named


lengths = st.integers(0, 70) | st.integers(0, 3000)


@given(
    updates(), st.lists(lengths, min_size=1, max_size=1), st.integers(-25, 25), dtypes, st.integers(0, 10**6)
)
def test_updates_are_bitwise_the_same(chosen, shape, exponent, dtype, seed):
    """Several, one after another, on numbers down to denormals and up to where squares overflow."""
    operation, names, numbers = chosen
    rng = np.random.default_rng(seed)
    data, gradient, slots = numbers_for_update(rng, shape, names, dtype, exponent)
    fast_data, fast_slots = data.copy(), {name: slot.copy() for name, slot in slots.items()}
    for _ in range(3):
        given_gradient = gradient.copy()
        update(reference, operation, data, gradient, slots, numbers)
        update(fast, operation, fast_data, gradient, fast_slots, numbers)
        np.testing.assert_array_equal(gradient, given_gradient)
        np.testing.assert_array_equal(fast_data, data)
        for name, slot in slots.items():
            np.testing.assert_array_equal(fast_slots[name], slot, err_msg=name)
        gradient = np.roll(gradient, 1)


ARRANGEMENTS = {
    "transposed": lambda a: np.array(a, order="F"),
    "with gaps": lambda a: np.stack([a, a], axis=-1)[..., 0],
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@given(updates(), dtypes, st.lists(st.integers(1, 5), max_size=3), st.integers(0, 7), st.integers(0, 10**6))
def test_updates_reach_arrays_in_any_memory_order(arrangement, chosen, dtype, shape, which, seed):
    """Data, gradient or slots (a bit of `which` each), scalars too; the gradient may be read-only."""
    arrange = ARRANGEMENTS[arrangement]
    operation, names, numbers = chosen
    data, gradient, slots = numbers_for_update(np.random.default_rng(seed), shape, names, dtype)
    wanted, wanted_slots = data.copy(), {name: slot.copy() for name, slot in slots.items()}
    update(reference, operation, wanted, gradient, wanted_slots, numbers)
    if which & 1:
        data = arrange(data)
    if which & 2:
        gradient = arrange(gradient)
        gradient.flags.writeable = False
    if which & 4:
        slots = {name: arrange(slot) for name, slot in slots.items()}
    update(fast, operation, data, gradient, slots, numbers)
    # NumPy before version 2 computes with a scalar in float64.
    tolerance = 0 if shape else 1e-5
    np.testing.assert_allclose(data, wanted, rtol=tolerance)
    for name, slot in slots.items():
        np.testing.assert_allclose(slot, wanted_slots[name], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("kernel_module", [reference, fast], ids=["numpy", "numba"])
@given(updates(), dtypes, st.integers(1, 70), st.integers(0, 10**6))
def test_nan_comes_through_an_update(kernel_module, chosen, dtype, size, seed):
    operation, names, numbers = chosen
    rng = np.random.default_rng(seed)
    data, gradient, slots = numbers_for_update(rng, size, names, dtype)
    at, place = rng.integers(size), rng.integers(2 + len(slots))
    [data, gradient, *slots.values()][place][at] = np.nan
    update(kernel_module, operation, data, gradient, slots, numbers)
    assert np.isnan(data[at]) and np.isfinite(np.delete(data, at)).all()


@pytest.mark.parametrize("kernel_module", [reference, fast], ids=["numpy", "numba"])
@given(st.integers(0, 100), dtypes, st.integers(0, 10**6))
def test_what_is_not_finite_is_found_wherever_it_stands(kernel_module, size, dtype, seed):
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(size) < 0.5, np.finfo(dtype).max, -np.finfo(dtype).max).astype(dtype)
    assert kernel_module.all_finite(x) is True  # their sum is not
    assert kernel_module.all_finite(x.reshape(size, 1).T) is True
    if size:
        for poison in (np.nan, np.inf, -np.inf):
            poisoned = x.copy()
            poisoned[rng.integers(size)] = poison
            assert kernel_module.all_finite(poisoned) is False
            assert kernel_module.all_finite(np.stack([x, poisoned], 1)[:, 1]) is False


@pytest.mark.parametrize("kernel_module", [reference, fast], ids=["numpy", "numba"])
def test_nan_comes_through(kernel_module):
    """A NaN in one image stays in that image's lane and is not hidden by a comparison."""
    x = np.ones((1, 2, 4, 4, 16), np.float32)
    x[0, 0, 1, 1, 3] = np.nan
    window = Window((2, 2), (2, 2))
    for y in (kernel_module.relu(x), kernel_module.relu6(x), kernel_module.max_pool(x, window)[0]):
        assert np.isnan(y[..., 3]).sum() == 1
        assert not np.isnan(np.delete(y, 3, axis=-1)).any()
    weight = np.ones((3, 3, 2, 2), np.float32)
    y = kernel_module.conv2d(x, weight, np.zeros(2, np.float32), Window((3, 3), padding=((1, 1), (1, 1))), 1)
    assert np.isnan(y[..., 3]).sum() == 2 * 9
    assert not np.isnan(np.delete(y, 3, axis=-1)).any()


def test_same_result_on_any_number_of_threads():

    rng = np.random.default_rng(0)
    x = random_lanes(rng, 11, 8, 16, 16, np.float32)
    dy = random_lanes(rng, 11, 8, 16, 16, np.float32)
    window = Window((3, 3), padding=((1, 1), (1, 1)))
    results, before = [], tn.num_threads()
    try:
        for threads in (1, 2, 3):
            tn.set_num_threads(threads)
            results.append((fast.conv2d_weight_gradient(x, dy, window, 1), *fast.channel_moments(x, 170)))
    finally:
        tn.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_same_padding_keeps_the_size(length, taps, stride, dilation):
    padding = same_padding(length, length, (taps, taps), (stride, stride), (dilation, dilation))
    window = Window((taps, taps), (stride, stride), (dilation, dilation), padding)
    assert window.output_size(length, length) == (-(-length // stride),) * 2
    assert 0 <= padding[0][1] - padding[0][0] <= 1


@st.composite
def conv_blocks(draw):
    """A fused block and an image size that it fits."""
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pool = draw(st.booleans())
    factor = (1, 1) if pool else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    extent = tuple((taps - 1) * spread + 1 for taps, spread in zip(size, dilation, strict=True))
    padding = tuple((draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))) for side in extent)
    block = Block(Window(size, (1, 1), dilation, padding), factor, pool or draw(st.booleans()), pool)
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    enlarged = (height * factor[0], width * factor[1])
    assume(all(n + sum(p) >= e for n, p, e in zip(enlarged, padding, extent, strict=True)))
    assume(block.fits(height, width))
    return block, height, width


@given(conv_blocks(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), dtypes, st.integers(0, 10**6))
def test_fused_blocks_agree(geometry, channels, outputs, blocks, dtype, seed):
    block, height, width = geometry
    rng = np.random.default_rng(seed)
    x = random_lanes(rng, blocks, channels, height, width, dtype)
    weight = rng.standard_normal((*block.window.size, channels, outputs)).astype(dtype)
    bias = rng.standard_normal(outputs).astype(dtype)
    y, code = reference.conv_block(x, weight, bias, block)
    fast_y, fast_code = fast.conv_block(x, weight, bias, block)
    agree(fast_y, y, dtype)
    if block.pool:
        assert code.dtype == fast_code.dtype == np.uint8
        if dtype is np.float64:  # in float32 two nearly equal sums may change places
            np.testing.assert_array_equal(fast_code, code)
    dy = rng.standard_normal(y.shape).astype(dtype)
    wanted = reference.conv_block_backward(dy, x, weight, y, code, block, True)
    for got, want in zip(fast.conv_block_backward(dy, x, weight, y, code, block, True), wanted, strict=True):
        agree(got, want, dtype)
    assert fast.conv_block_backward(dy, x, weight, y, code, block, False)[0] is None


@pytest.mark.parametrize("kernel_module", [reference, fast], ids=["numpy", "numba"])
@pytest.mark.parametrize("pool", [False, True])
def test_nan_comes_through_a_fused_block(kernel_module, pool):
    x = np.ones((1, 2, 4, 4, 16), np.float32)
    x[0, 0, 1, 1, 3] = np.nan
    block = Block(Window((3, 3), padding=((1, 1), (1, 1))), relu=True, pool=pool)
    y, _ = kernel_module.conv_block(x, np.ones((3, 3, 2, 2), np.float32), np.zeros(2, np.float32), block)
    assert np.isnan(y[..., 3]).sum() == 2 * (4 if pool else 9)
    assert not np.isnan(np.delete(y, 3, axis=-1)).any()


@settings(max_examples=12)
@given(st.integers(1, 45), st.integers(1, 14), st.integers(1, 5), st.integers(1, 2), st.booleans(), dtypes)
def test_many_taps_agree(channels, outputs, side, blocks, pool, dtype):
    """Taps come in passes, with sums kept between them."""
    assume(channels * 9 > TAPS or outputs * 9 > TAPS or channels == 1)
    block = Block(Window((3, 3), padding=((1, 1), (1, 1))), (1, 1), True, pool and side > 1)
    rng = np.random.default_rng(channels * outputs + side)
    x = random_lanes(rng, blocks, channels, side, side + 1, dtype)
    weight = rng.standard_normal((3, 3, channels, outputs)).astype(dtype)
    bias = rng.standard_normal(outputs).astype(dtype)
    y, code = reference.conv_block(x, weight, bias, block)
    agree(fast.conv_block(x, weight, bias, block)[0], y, dtype)
    dy = rng.standard_normal(y.shape).astype(dtype)
    wanted = reference.conv_block_backward(dy, x, weight, y, code, block, True)
    for got, want in zip(fast.conv_block_backward(dy, x, weight, y, code, block, True), wanted, strict=True):
        agree(got, want, dtype)


@given(st.integers(1, 300))
def test_every_output_is_in_one_tile(outputs):
    covered = [o + row for o, rows in row_tiles(outputs) for row in range(rows)]
    assert covered == list(range(outputs))
    assert max(rows for _, rows in row_tiles(outputs)) <= ROWS


WIDE = st.integers(winograd.MANY, winograd.MANY + 9)


@settings(max_examples=12)
@given(
    WIDE, WIDE, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.booleans(), dtypes
)
def test_winograd_agrees(channels, outputs, height, width, blocks, relu, pool, dtype):
    block = Block(Window((3, 3), padding=((1, 1), (1, 1))), (1, 1), relu or pool, pool)
    assert winograd.suits(block, channels, outputs, 2 * height, 2 * width)
    rng = np.random.default_rng(channels * outputs + height)
    x = random_lanes(rng, blocks, channels, 2 * height, 2 * width, dtype)
    weight = rng.standard_normal((3, 3, channels, outputs)).astype(dtype)
    bias = rng.standard_normal(outputs).astype(dtype)
    y, code = reference.conv_block(x, weight, bias, block)
    agree(fast.conv_block(x, weight, bias, block)[0], y, dtype)
    dy = rng.standard_normal(y.shape).astype(dtype)
    wanted = reference.conv_block_backward(dy, x, weight, y, code, block, True)
    for got, want in zip(fast.conv_block_backward(dy, x, weight, y, code, block, True), wanted, strict=True):
        agree(got, want, dtype)


def test_winograd_is_left_where_it_does_not_hold():
    same, many = Window((3, 3), padding=((1, 1), (1, 1))), winograd.MANY
    assert winograd.suits(Block(same), many, many, 8, 8)
    for block, channels, outputs, height, width in (
        (Block(same), many - 1, many, 8, 8),
        (Block(same), many, many - 1, 8, 8),
        (Block(same), many, many, 7, 8),
        (Block(same), many, many, 8, 9),
        (Block(same, (2, 2)), many, many, 8, 8),
        (Block(Window((3, 3))), many, many, 8, 8),
        (Block(Window((3, 3), dilation=(2, 2), padding=((1, 1), (1, 1)))), many, many, 8, 8),
        (Block(Window((5, 5), padding=((1, 1), (1, 1)))), many, many, 8, 8),
    ):
        assert not winograd.suits(block, channels, outputs, height, width)


@pytest.mark.parametrize("pool", [False, True])
def test_nan_comes_through_winograd(pool):
    """It reaches every output whose window holds it, and at most those of the same 2x2 pieces."""
    many = winograd.MANY
    x = np.ones((1, many, 6, 6, 16), np.float32)
    x[0, 5, 2, 2, 3] = np.nan
    weight, bias = np.ones((3, 3, many, many), np.float32), np.zeros(many, np.float32)
    block = Block(Window((3, 3), padding=((1, 1), (1, 1))), relu=True, pool=pool)
    wanted, found = (np.isnan(k.conv_block(x, weight, bias, block)[0]) for k in (reference, fast))
    assert found[wanted].all()
    pieces = wanted if pool else wanted.reshape(1, many, 3, 2, 3, 2, 16).any(axis=(3, 5))
    allowed = pieces if pool else pieces.repeat(2, axis=2).repeat(2, axis=3)
    assert wanted.any() and not found[~allowed].any()
