"""PyTorch as a second opinion, where it is installed: forward and gradients over drawn configurations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import functional as F
from tinynet.tensor import Tensor

torch = pytest.importorskip("torch")

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.sampled_from([1, 3, 16, 17])
DTYPES = st.sampled_from([np.float32, np.float64])
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
# Against the largest number of the array: what rounding of sums does, in 53 and in 24 bits.
TOLERANCE = {np.float64: 1e-9, np.float32: 2e-5}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small arrays, and other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def to_torch(array):
    """A leaf: images (n, h, w, c) as (n, c, h, w), anything else as it is."""
    moved = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    return torch.tensor(np.ascontiguousarray(moved), requires_grad=True)


def weight_to_torch(weight):
    """(kh, kw, c / groups, o) -> (o, c / groups, kh, kw)."""
    return torch.tensor(np.ascontiguousarray(weight.transpose(3, 2, 0, 1)), requires_grad=True)


def from_torch(tensor):
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def agree(ours, theirs, dtype, least=1.0):
    """`least`: where numbers of that size cancel, smaller differences are rounding."""
    assert ours.dtype == dtype and ours.shape == theirs.shape
    size = max(least, float(np.abs(theirs).max(initial=0)))
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * size)


def backward_both(ours, theirs, seed):
    """One random cotangent through both."""
    cotangent = np.random.default_rng(seed).standard_normal(ours.shape).astype(ours.dtype)
    ours.backward(cotangent)
    theirs.backward(to_torch(cotangent).detach())


@st.composite
def geometries(draw, maximum_padding=None):
    """Window size, stride, dilation, padding ((top, bottom), (left, right)), and an image that it fits."""
    size, stride = draw(PAIRS), draw(PAIRS)
    dilation = (1, 1) if maximum_padding else draw(PAIRS)
    padding = tuple(
        tuple(draw(st.integers(0, maximum_padding(side) if maximum_padding else 3)) for _ in range(2))
        for side in size
    )
    image = [
        draw(st.integers(max(1, (size[axis] - 1) * dilation[axis] + 1 - sum(padding[axis])), 9))
        for axis in (0, 1)
    ]
    return size, stride, dilation, padding, image


@given(
    geometries(),
    COUNTS,
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
    DTYPES,
    SEEDS,
)
def test_convolution(kernel_set, geometry, count, groups, channels, outputs, with_bias, dtype, seed):
    size, stride, dilation, padding, image = geometry
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, *image, groups * channels)).astype(dtype)
    weight = random.standard_normal((*size, channels, groups * outputs)).astype(dtype)
    bias = random.standard_normal(groups * outputs).astype(dtype)
    leaves = [Tensor(array, requires_grad=True) for array in (x, weight, *([bias] if with_bias else []))]
    y = F.conv2d(*leaves, stride=stride, padding=padding, dilation=dilation, groups=groups)

    x, weight = to_torch(x), weight_to_torch(weight)
    bias = torch.tensor(bias, requires_grad=True) if with_bias else None
    (top, bottom), (left, right) = padding
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(
        padded, weight, bias, stride=stride, dilation=dilation, groups=groups
    )
    agree(y.numpy(), from_torch(expected), dtype)
    backward_both(y, expected, seed)
    agree(leaves[0].grad, from_torch(x.grad), dtype)
    agree(leaves[1].grad, weight.grad.numpy().transpose(2, 3, 1, 0), dtype)
    if with_bias:
        agree(leaves[2].grad, bias.grad.numpy(), dtype)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), DTYPES, SEEDS)
def test_same_padding_at_stride_one_is_theirs(kernel_set, height, width, taps, dilation, dtype, seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((3, height, width, 2)).astype(dtype)
    weight = random.standard_normal((taps, taps, 2, 2)).astype(dtype)
    y = F.conv2d(x, weight, dilation=dilation)
    if (taps - 1) * dilation % 2:  # theirs warns that it copies; the same convention all the same
        side = (taps - 1) * dilation // 2
        padded = torch.nn.functional.pad(to_torch(x), (side, side + 1, side, side + 1))
        expected = torch.nn.functional.conv2d(padded, weight_to_torch(weight), dilation=dilation)
    else:
        expected = torch.nn.functional.conv2d(
            to_torch(x), weight_to_torch(weight), padding="same", dilation=dilation
        )
    agree(y.numpy(), from_torch(expected), dtype)


@given(COUNTS, st.integers(1, 20), st.integers(1, 9), DTYPES, SEEDS)
def test_dense(kernel_set, count, features, outputs, dtype, seed):
    random = np.random.default_rng(seed)
    arrays = [
        random.standard_normal(shape).astype(dtype)
        for shape in ((count, features), (features, outputs), (outputs,))
    ]
    ours = [Tensor(array, requires_grad=True) for array in arrays]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    y = F.dense(*ours)
    expected = torch.nn.functional.linear(theirs[0], theirs[1].T, theirs[2])
    agree(y.numpy(), from_torch(expected), dtype)
    backward_both(y, expected, seed)
    for one, two in zip(ours, theirs, strict=True):
        agree(one.grad, two.grad.numpy(), dtype)


@given(geometries(maximum_padding=lambda side: side - 1), COUNTS, st.integers(1, 3), DTYPES, SEEDS)
def test_max_pooling_ties_too(kernel_set, geometry, count, channels, dtype, seed):
    size, stride, _, padding, image = geometry
    random = np.random.default_rng(seed)
    x = random.integers(-3, 3, (count, *image, channels)).astype(dtype)
    leaf, theirs = Tensor(x, requires_grad=True), to_torch(x)
    y = F.max_pool2d(leaf, size, stride=stride, padding=padding)
    (top, bottom), (left, right) = padding
    padded = torch.nn.functional.pad(theirs, (left, right, top, bottom), value=-np.inf)
    expected = torch.nn.functional.max_pool2d(padded, size, stride)
    np.testing.assert_array_equal(y.numpy(), from_torch(expected))
    backward_both(y, expected, seed)
    agree(leaf.grad, from_torch(theirs.grad), dtype)


@given(PAIRS, PAIRS, COUNTS, st.data(), DTYPES, SEEDS)
def test_average_pooling(kernel_set, size, stride, count, data, dtype, seed):
    # Theirs: symmetric padding of at most half the window; count_include_pad=False is our convention.
    padding = tuple(data.draw(st.integers(0, side // 2)) for side in size)
    image = [data.draw(st.integers(side, 8)) for side in size]
    x = np.random.default_rng(seed).standard_normal((count, *image, 2)).astype(dtype)
    leaf, theirs = Tensor(x, requires_grad=True), to_torch(x)
    y = F.average_pool2d(leaf, size, stride=stride, padding=padding)
    expected = torch.nn.functional.avg_pool2d(theirs, size, stride, padding, count_include_pad=False)
    agree(y.numpy(), from_torch(expected), dtype)
    backward_both(y, expected, seed)
    agree(leaf.grad, from_torch(theirs.grad), dtype)


@given(COUNTS, PAIRS, PAIRS, DTYPES, SEEDS)
def test_global_average_and_upsampling(kernel_set, count, image, factor, dtype, seed):
    x = np.random.default_rng(seed).standard_normal((count, *image, 3)).astype(dtype)
    for ours, theirs in (
        (F.global_average_pool2d, lambda t: t.mean(dim=(2, 3))),
        (
            lambda t: F.upsample2d(t, factor),
            lambda t: t.repeat_interleave(factor[0], 2).repeat_interleave(factor[1], 3),
        ),
    ):
        leaf, other = Tensor(x, requires_grad=True), to_torch(x)
        y, expected = ours(leaf), theirs(other)
        agree(y.numpy(), from_torch(expected), dtype)
        backward_both(y, expected, seed)
        agree(leaf.grad, from_torch(other.grad), dtype)


@pytest.mark.parametrize("training", [True, False])
@given(
    count=st.sampled_from([2, 3, 16, 17]),
    image=st.sampled_from([(), (1, 1), (3, 2), (4, 4)]),
    channels=st.integers(1, 4),
    epsilon=st.sampled_from([1e-5, 1e-3, 0.1]),
    dtype=DTYPES,
    seed=SEEDS,
)
def test_batch_norm(kernel_set, training, count, image, channels, epsilon, dtype, seed):
    random = np.random.default_rng(seed)
    # Deviations of about 1: where a channel hardly varies, 1 / deviation magnifies what rounding does.
    x = random.choice([-1.0, 1.0], (count, *image, channels)) * random.uniform(
        0.5, 1.5, (count, *image, channels)
    )
    x[0], x[1] = np.abs(x[0]), -np.abs(x[1])
    x = x.astype(dtype)
    scale, shift = (random.uniform(0.5, 2, channels).astype(dtype) for _ in range(2))
    mean, variance = (
        random.standard_normal(channels).astype(dtype),
        random.uniform(0.5, 2, channels).astype(dtype),
    )
    leaves = [Tensor(array, requires_grad=True) for array in (x, scale, shift)]
    statistics = None if training else (mean, variance)
    y, used_mean, used_variance = F.batch_norm(*leaves, epsilon=epsilon, statistics=statistics)

    others = [to_torch(x), torch.tensor(scale, requires_grad=True), torch.tensor(shift, requires_grad=True)]
    running = [torch.tensor(mean), torch.tensor(variance)]
    expected = torch.nn.functional.batch_norm(
        others[0], *running, others[1], others[2], training=training, momentum=1.0, eps=epsilon
    )
    agree(y.numpy(), from_torch(expected), dtype)
    numbers = x.size // channels
    agree(used_mean.astype(dtype), running[0].numpy(), dtype)
    # What they keep is divided by n - 1, what they normalise by, as ours, by n.
    unbiased = used_variance * (numbers / (numbers - 1) if training else 1)
    agree(unbiased.astype(dtype), running[1].numpy(), dtype)
    backward_both(y, expected, seed)
    for one, two in zip(leaves, others, strict=True):
        agree(one.grad, from_torch(two.grad), dtype)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("relu", torch.relu),
        ("relu6", torch.nn.functional.relu6),
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
        ("softmax", lambda t: torch.softmax(t, -1)),
        ("log_softmax", lambda t: torch.log_softmax(t, -1)),
    ],
)
@given(COUNTS, st.integers(1, 6), DTYPES, SEEDS)
def test_activations(kernel_set, name, theirs, count, classes, dtype, seed):
    x = np.random.default_rng(seed).uniform(-8, 8, (count, classes)).astype(dtype)
    leaf, other = Tensor(x, requires_grad=True), to_torch(x)
    y, expected = getattr(F, name)(leaf), theirs(other)
    agree(y.numpy(), from_torch(expected), dtype)
    backward_both(y, expected, seed)
    agree(leaf.grad, from_torch(other.grad), dtype)


@given(COUNTS, st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.7]), DTYPES, SEEDS)
def test_softmax_cross_entropy(kernel_set, count, classes, smoothing, dtype, seed):
    random = np.random.default_rng(seed)
    x, labels = random.uniform(-8, 8, (count, classes)).astype(dtype), random.integers(0, classes, count)
    distributions = random.dirichlet(np.ones(classes), count).astype(dtype)
    for target, other_target in (
        (labels, torch.tensor(labels)),
        (distributions, torch.tensor(distributions)),
    ):
        leaf, other = Tensor(x, requires_grad=True), to_torch(x)
        loss = F.softmax_cross_entropy(leaf, target, smoothing=smoothing)
        expected = torch.nn.functional.cross_entropy(other, other_target, label_smoothing=smoothing)
        agree(loss.numpy(), expected.detach().numpy(), dtype)
        loss.backward()
        expected.backward()
        agree(leaf.grad, other.grad.numpy(), dtype, least=1 / x.size)


@given(COUNTS, st.sampled_from([(), (1,), (4,), (3, 2, 2)]), DTYPES, SEEDS)
def test_binary_cross_entropy_and_squared_error(kernel_set, count, shape, dtype, seed):
    random = np.random.default_rng(seed)
    x = random.uniform(-8, 8, (count, *shape)).astype(dtype)
    target = random.uniform(0, 1, (count, *shape)).astype(dtype)
    for ours, theirs in (
        (F.binary_cross_entropy, torch.nn.functional.binary_cross_entropy_with_logits),
        (F.mean_squared_error, torch.nn.functional.mse_loss),
    ):
        leaf, other = Tensor(x, requires_grad=True), to_torch(x)
        loss, expected = ours(leaf, target), theirs(other, to_torch(target).detach())
        agree(loss.numpy(), expected.detach().numpy(), dtype)
        loss.backward()
        expected.backward()
        agree(leaf.grad, from_torch(other.grad), dtype, least=1 / x.size)
