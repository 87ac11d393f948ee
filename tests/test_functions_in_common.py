"""What mutants had survived: gradients of some inputs only, dtypes of results, names in messages."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tinynet import functional as F
from tinynet.errors import ArgumentError, ShapeError
from tinynet.kernels.block import Block
from tinynet.kernels.window import Window
from tinynet.tensor import Observer, Tensor, observed_by


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(0.5, 2.0, shape)


IMAGES = (drawn(3, 4, 4, 2), drawn(3, 4, 4, 2) + 1)
PLAIN = (drawn(3, 4), drawn(1, 4) + 0.3)

# name: (function, its inputs)
CASES = {
    **{name: (getattr(F, name), PLAIN) for name in ("add", "subtract", "multiply", "divide", "power")},
    **{name: (getattr(F, name), PLAIN) for name in ("maximum", "minimum")},
    "matmul": (F.matmul, (drawn(3, 4), drawn(4, 2))),
    "where": (lambda a, b: F.where(np.arange(12).reshape(3, 4) % 2 == 0, a, b), PLAIN),
    "concatenate": (lambda *t: F.concatenate(t), PLAIN),
    "stack": (lambda *t: F.stack(t), (drawn(2, 3), drawn(2, 3), drawn(2, 3))),
    "conv2d": (F.conv2d, (IMAGES[0], drawn(3, 3, 2, 5), drawn(5))),
    "dense": (F.dense, (drawn(3, 4), drawn(4, 2), drawn(2))),
    "batch_norm": (lambda *t: F.batch_norm(*t)[0], (IMAGES[0], drawn(2), drawn(2) + 1)),
    "mean_squared_error": (F.mean_squared_error, IMAGES),
    "add_images": (F.add_images, (*IMAGES, IMAGES[0])),
    "concatenate_channels": (F.concatenate_channels, IMAGES),
}


# Views, or by-products of what is computed anyway.
CHEAP = ("concatenate", "stack", "batch_norm", "mean_squared_error", "add_images", "concatenate_channels")


class Watching(Observer):
    """Notes for which inputs a cotangent was computed, beside those that need one."""

    def __init__(self) -> None:
        self.seen = []

    def backward(self, function, cotangent):
        found = function.backward(cotangent)
        self.seen.append((function.needs, tuple(one is not None for one in found)))
        return found


def gradients(name: str, needed: tuple[bool, ...]) -> tuple[list[np.ndarray | None], Watching]:
    function, arrays = CASES[name]
    leaves = [Tensor(array, requires_grad=needs) for array, needs in zip(arrays, needed, strict=True)]
    y, watching = function(*leaves), Watching()
    cotangent = np.random.default_rng(1).uniform(-1, 1, y.data.shape)
    with observed_by(watching):
        y.backward(cotangent)
    return [leaf.grad for leaf in leaves], watching


@pytest.mark.parametrize("name", CASES)
def test_each_choice_of_inputs_gets_the_gradients_it_has_among_all(kernel_set, name):
    count = len(CASES[name][1])
    everything, _ = gradients(name, (True,) * count)
    assert all(gradient is not None for gradient in everything)
    for needed in product((False, True), repeat=count):
        if not any(needed):
            continue
        some, watching = gradients(name, needed)
        for needs, gradient, expected in zip(needed, some, everything, strict=True):
            if needs:
                np.testing.assert_array_equal(gradient, expected)
            else:
                assert gradient is None
        for needs, computed in watching.seen:
            assert name in CHEAP or computed == needs


def test_a_fused_block_computes_no_gradient_for_an_input_that_needs_none(kernel_set):
    block = Block(Window((3, 3), padding=((1, 1), (1, 1))), relu=True, pool=False, factor=(1, 1))
    x, weight = drawn(1, 2, 4, 4, 16).astype(np.float32), drawn(3, 3, 2, 4).astype(np.float32)
    y, code = kernel_set.conv_block(x, weight, np.zeros(4, np.float32), block)
    without, *others = kernel_set.conv_block_backward(y, x, weight, y, code, block, False)
    within, *same = kernel_set.conv_block_backward(y, x, weight, y, code, block, True)
    assert without is None and within.shape == x.shape
    for one, other in zip(others, same, strict=True):
        np.testing.assert_array_equal(one, other)


def test_limits_that_are_equal_are_allowed():
    np.testing.assert_array_equal(F.clip(np.array([1.0, 2.0, 3.0]), 2.0, 2.0).numpy(), [2.0, 2.0, 2.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_has_the_dtype_of_its_input(kernel_set, dtype):
    x, y = drawn(4, 1).astype(dtype), np.array([0.0, 1.0, 1.0, 0.0])
    assert F.binary_cross_entropy(x, y).dtype == dtype
    assert F.mean_squared_error(x, x + 1).dtype == dtype
    assert F.softmax_cross_entropy(drawn(4, 3).astype(dtype), np.array([0, 1, 2, 0])).dtype == dtype


def test_a_squared_error_of_float32_is_summed_in_float64(kernel_set):
    """In float32 a million small squares beside a large one would be lost in rounding."""
    x = np.full((64, 1, 32, 32, 16), 1e-3, np.float32)
    x[0, 0, 0, 0, 0] = 3000.0
    exact = 3000.0**2 + (x.size - 1) * float(np.float32(1e-3)) ** 2
    found = kernel_set.squared_error(x, np.zeros_like(x), 64 * 16)
    assert abs(found - exact) < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positions_of_maxima_take_no_more_room_than_the_maxima(kernel_set, dtype):
    y, tap = kernel_set.max_pool(drawn(1, 2, 4, 4, 16).astype(dtype), Window((2, 2), (2, 2)))
    assert y.dtype == dtype and tap.dtype.itemsize <= y.dtype.itemsize and tap.shape == y.shape


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("broadcast_to", (1.5,)), ("reshape", (1.5,)), ("flip", 9), ("transpose", (0, 9)),
        ("squeeze", 9), ("expand_dims", 9),
        *((name, 9) for name in ("sum", "mean", "var", "max", "min", "logsumexp")),
    ],
)  # fmt: skip
def test_a_mistake_in_shapes_or_axes_names_the_function(name, wrong):
    with pytest.raises(ArgumentError, match=rf"^{name}: "):
        getattr(F, name)(np.ones((2, 3)), wrong)


def test_what_is_left_out_means_what_numpy_means_by_it():
    x = drawn(3, 4)
    for name in ("sum", "mean", "var", "max", "min"):
        ours, theirs = getattr(F, name), getattr(np, name)
        np.testing.assert_allclose(ours(x).numpy(), theirs(x))
        np.testing.assert_allclose(ours(x, 0).numpy(), theirs(x, 0))
        assert ours(x).shape == () and ours(x, 0).shape == (4,)
    assert F.logsumexp(x, 0).shape == (4,)
    np.testing.assert_array_equal(F.stack([x, x]).numpy(), np.stack([x, x]))
    np.testing.assert_array_equal(F.concatenate([x, x]).numpy(), np.concatenate([x, x]))


def test_statistics_that_are_given_in_float32_are_used_in_float64(kernel_set):
    given = np.array([0.5, 1.5], np.float32)
    _, mean, variance = F.batch_norm(IMAGES[0].astype(np.float32), given, given, statistics=(given, given))
    assert mean.dtype == variance.dtype == np.float64


def test_a_convolution_that_does_not_fit_is_called_by_its_name(kernel_set):
    with pytest.raises(ShapeError, match=r"^conv2d: "):
        F.conv2d(IMAGES[0], drawn(3, 3, 5, 2))


def test_a_number_beside_integers_follows_numpys_rule_and_alone_is_float32():
    beside = F.add(np.array([1, 2]), 0.1)  # 0.1 of float32 would show
    assert beside.dtype == np.float64 and beside.numpy().tolist() == [1.1, 2.1]
    assert F.add(0.5, 0.25).dtype == np.float32
    assert F.add(np.float32([1, 2]), 0.5).dtype == np.float32
