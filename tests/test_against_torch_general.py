"""PyTorch as a second opinion on arithmetic, reductions and shaping, and on what images share with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinynet import functional as F
from tinynet.tensor import Tensor

torch = pytest.importorskip("torch")

SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.float32, np.float64])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
BROADCAST = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4)
TOLERANCE = {np.float64: 1e-9, np.float32: 3e-5}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(seed: int, shape, dtype, low=-3.0, high=3.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def distinct(seed: int, shape, dtype) -> np.ndarray:
    """No two numbers alike, so that a maximum is one element's."""
    return np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(dtype) / 7


def agree(ours: np.ndarray, theirs, dtype) -> None:
    theirs = theirs.detach().numpy()
    assert ours.dtype == dtype and ours.shape == theirs.shape
    size = max(1.0, float(np.abs(theirs).max(initial=0)))
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * size)


def compare(ours, theirs, arrays, dtype, seed) -> None:
    """Values, and the gradients for one random cotangent, of the same function of the same arrays."""
    leaves = [Tensor(array, requires_grad=True) for array in arrays]
    others = [torch.tensor(array, requires_grad=True) for array in arrays]
    y, expected = ours(*leaves), theirs(*others)
    agree(y.numpy(), expected, dtype)
    cotangent = draw(seed + 1, y.shape, dtype, -1, 1)
    y.backward(cotangent)
    expected.backward(torch.tensor(cotangent))
    for leaf, other in zip(leaves, others, strict=True):
        agree(leaf.grad, torch.zeros_like(other) if other.grad is None else other.grad, dtype)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "minimum"])
@given(shapes=BROADCAST, dtype=DTYPES, seed=SEEDS)
def test_two_arrays_broadcast(name, shapes, dtype, seed):
    a, b = (draw(seed + i, shape, dtype) for i, shape in enumerate(shapes.input_shapes))
    if name == "divide":
        b = np.where(b < 0, b - 0.5, b + 0.5).astype(dtype)
    theirs = {"add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div}
    theirs |= {"maximum": torch.maximum, "minimum": torch.minimum}
    compare(getattr(F, name), theirs[name], (a, b), dtype, seed)


@pytest.mark.parametrize("name", ["negative", "exp", "log", "sqrt", "absolute"])
@given(shape=SHAPES, dtype=DTYPES, seed=SEEDS)
def test_one_array(name, shape, dtype, seed):
    theirs = {"negative": torch.neg, "exp": torch.exp, "log": torch.log}
    theirs |= {"sqrt": torch.sqrt, "absolute": torch.abs}
    low = 0.2 if name in ("log", "sqrt") else -3
    compare(getattr(F, name), theirs[name], (draw(seed, shape, dtype, low),), dtype, seed)


@given(SHAPES, st.sampled_from([-2, -1, -0.5, 0, 0.5, 1, 2, 3, 2.5]), DTYPES, SEEDS)
def test_power(shape, exponent, dtype, seed):
    x = draw(seed, shape, dtype, 0.3)
    compare(lambda t: F.power(t, exponent), lambda t: torch.pow(t, exponent), (x,), dtype, seed)
    if exponent == int(exponent) and exponent >= 0:  # of negative numbers too
        compare(lambda t: F.power(t, exponent), lambda t: torch.pow(t, exponent), (-x,), dtype, seed)


@given(SHAPES, st.floats(-2, 0), st.floats(0, 2), st.sampled_from(["both", "low", "high"]), DTYPES, SEEDS)
def test_clip(shape, low, high, limits, dtype, seed):
    low, high = None if limits == "high" else low, None if limits == "low" else high
    x = draw(seed, shape, dtype)
    compare(lambda t: F.clip(t, low, high), lambda t: torch.clamp(t, low, high), (x,), dtype, seed)


MATRICES = hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, max_side=4)


@given(MATRICES, DTYPES, SEEDS)
def test_matmul(shapes, dtype, seed):
    arrays = [draw(seed + i, shape, dtype) for i, shape in enumerate(shapes.input_shapes)]
    compare(F.matmul, torch.matmul, arrays, dtype, seed)


@pytest.mark.parametrize("name", ["sum", "mean", "var", "max", "min", "logsumexp"])
@given(shape=SHAPES, data=st.data(), keepdims=st.booleans(), dtype=DTYPES, seed=SEEDS)
def test_reductions(name, shape, data, keepdims, dtype, seed):
    axes = data.draw(st.one_of(st.none(), hnp.valid_tuple_axes(len(shape), min_size=1)))
    everything = tuple(range(len(shape))) if axes is None else axes
    x = distinct(seed, shape, dtype) if name in ("max", "min") else draw(seed, shape, dtype)
    theirs = {
        "sum": lambda t: t.sum(dim=everything, keepdim=keepdims),
        "mean": lambda t: t.mean(dim=everything, keepdim=keepdims),
        "var": lambda t: t.var(dim=everything, correction=0, keepdim=keepdims),
        "max": lambda t: t.amax(dim=everything, keepdim=keepdims),
        "min": lambda t: t.amin(dim=everything, keepdim=keepdims),
        "logsumexp": lambda t: torch.logsumexp(t, dim=everything, keepdim=keepdims),
    }
    compare(lambda t: getattr(F, name)(t, axes, keepdims), theirs[name], (x,), dtype, seed)


@given(SHAPES, st.data(), DTYPES, SEEDS)
def test_orders_of_axes(shape, data, dtype, seed):
    x, count = draw(seed, shape, dtype), len(shape)
    axes = data.draw(st.permutations(range(count)))
    first, second = data.draw(st.integers(-count, count - 1)), data.draw(st.integers(-count, count - 1))
    compare(lambda t: F.transpose(t, *axes), lambda t: t.permute(*axes), (x,), dtype, seed)
    compare(lambda t: F.swapaxes(t, first, second), lambda t: t.swapaxes(first, second), (x,), dtype, seed)
    compare(lambda t: F.moveaxis(t, first, second), lambda t: t.movedim(first, second), (x,), dtype, seed)
    compare(lambda t: F.flip(t, first), lambda t: t.flip(first), (x,), dtype, seed)
    compare(lambda t: F.reshape(t, -1), lambda t: t.reshape(-1), (x,), dtype, seed)
    compare(lambda t: F.reshape(t, shape[::-1]), lambda t: t.reshape(shape[::-1]), (x,), dtype, seed)


@given(SHAPES, st.data(), DTYPES, SEEDS)
def test_axes_of_length_one(shape, data, dtype, seed):
    axis = data.draw(st.integers(0, len(shape)))
    longer = (*shape[:axis], 1, *shape[axis:])
    x = draw(seed, shape, dtype)
    compare(lambda t: F.expand_dims(t, axis), lambda t: t.unsqueeze(axis), (x,), dtype, seed)
    compare(lambda t: F.squeeze(t, axis), lambda t: t.squeeze(axis), (x.reshape(longer),), dtype, seed)
    compare(F.squeeze, torch.squeeze, (x.reshape(longer),), dtype, seed)
    repeated = tuple(side if side > 1 else 3 for side in shape)
    compare(lambda t: F.broadcast_to(t, repeated), lambda t: t.expand(repeated), (x,), dtype, seed)


@given(SHAPES, st.data(), DTYPES, SEEDS)
def test_indexing(shape, data, dtype, seed):
    x = draw(seed, shape, dtype)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts):  # theirs refuses those
        compare(lambda t: F.getitem(t, index), lambda t: t[index], (x,), dtype, seed)
    places = data.draw(st.lists(st.integers(-shape[0], shape[0] - 1), min_size=1, max_size=6))  # twice, too
    compare(lambda t: F.getitem(t, np.array(places)), lambda t: t[torch.tensor(places)], (x,), dtype, seed)
    mask = np.random.default_rng(seed).random(shape) < 0.5
    compare(lambda t: F.getitem(t, mask), lambda t: t[torch.tensor(mask)], (x,), dtype, seed)


@given(SHAPES, st.integers(2, 3), st.data(), DTYPES, SEEDS)
def test_putting_together(shape, count, data, dtype, seed):
    axis, new = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(0, len(shape)))
    arrays = [draw(seed + i, shape, dtype) for i in range(count)]
    compare(lambda *t: F.stack(t, new), lambda *t: torch.stack(t, new), arrays, dtype, seed)
    uneven = [np.repeat(array, i + 1, axis) for i, array in enumerate(arrays)]
    compare(lambda *t: F.concatenate(t, axis), lambda *t: torch.concatenate(t, axis), uneven, dtype, seed)


@given(SHAPES, st.data(), st.floats(-2, 2), DTYPES, SEEDS)
def test_pad(shape, data, value, dtype, seed):
    widths = [tuple(data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))) for _ in shape]
    flat = [width for pair in widths[::-1] for width in pair]
    x = draw(seed, shape, dtype)
    compare(
        lambda t: F.pad(t, widths, value),
        lambda t: torch.nn.functional.pad(t, flat, value=float(dtype(value))),
        (x,), dtype, seed,
    )  # fmt: skip


@given(BROADCAST, DTYPES, SEEDS)
def test_where(shapes, dtype, seed):
    a, b = (draw(seed + i, shape, dtype) for i, shape in enumerate(shapes.input_shapes))
    condition = np.random.default_rng(seed).random(shapes.result_shape) < 0.5
    compare(
        lambda *t: F.where(condition, *t),
        lambda *t: torch.where(torch.tensor(condition), *t),
        (a, b),
        dtype,
        seed,
    )


IMAGES = st.tuples(st.sampled_from([1, 3, 16, 17]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))


@given(shape=IMAGES, count=st.integers(2, 3), dtype=DTYPES, seed=SEEDS)
def test_images_added_joined_flattened_and_packed(kernel_set, shape, count, dtype, seed):
    arrays = [draw(seed + i, shape, dtype) for i in range(count)]
    compare(F.add_images, lambda *t: torch.stack(t).sum(0), arrays, dtype, seed)
    compare(F.flatten, lambda t: t.flatten(1), arrays[:1], dtype, seed)
    compare(lambda t: F.unpack(F.pack(t)), lambda t: t.clone(), arrays[:1], dtype, seed)
    uneven = [np.repeat(array, i + 1, axis=3) for i, array in enumerate(arrays)]
    compare(
        lambda *t: F.unpack(F.concatenate_channels(*t)),
        lambda *t: torch.concatenate(t, 3),
        uneven,
        dtype,
        seed,
    )


@given(shape=IMAGES, rate=st.floats(0, 0.9), dtype=DTYPES, seed=SEEDS)
def test_dropout_with_the_mask_that_was_drawn(kernel_set, shape, rate, dtype, seed):
    x = draw(seed, shape, dtype, 0.5)
    keys = np.random.default_rng(seed).integers(0, 2**63, shape[0], dtype=np.uint64)
    mask = torch.tensor(F.dropout(x, rate, keys).numpy() != 0)
    compare(lambda t: F.unpack(F.dropout(t, rate, keys)), lambda t: t * mask / (1 - rate), (x,), dtype, seed)
