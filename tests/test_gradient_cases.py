"""Every function's and layer's gradient on both kernel sets, and that a kernel with a wrong one is caught."""

from __future__ import annotations

import types

import numpy as np
import pytest

from tinynet import functional as F
from tinynet import kernels
from tinynet.functions import lanes, normalization
from tinynet.functions.lanes import Pack
from tinynet.functions.normalization import Dropout
from tinynet.gradcheck import KINK
from tinynet.gradient_cases import CASES, Case, numbers
from tinynet.kernels import numpy as reference
from tinynet.layers.base import _kinds
from tinynet.tensor import Tensor

SEEDS = [0, 1, 2]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

OF_FUNCTIONS = [case for case in CASES if hasattr(F, case.subject)]


def test_every_public_function_and_every_layer_has_a_case():
    functions = {
        name
        for name, value in vars(F).items()
        if isinstance(value, types.FunctionType) and not name.startswith("_")
    }
    layers = set(_kinds) - {"Chain"}  # which has the tiny networks
    assert {case.subject for case in CASES} - {"Chain", "conv_block"} == functions | layers
    assert sum(case.subject == "Chain" for case in CASES) == 2
    assert len({case.name for case in CASES}) == len(CASES)


@by_case
def test_the_gradient_agrees_with_difference_quotients(kernel_set, case):
    for seed in SEEDS:
        report = case.run(seed)
        assert report.passed, str(report)
        assert report.kernels == kernel_set.NAME
        assert report.function == case.name
        assert all(check.compared > 0 for check in report.inputs)


@pytest.mark.parametrize("case", OF_FUNCTIONS, ids=lambda case: case.name)
def test_the_gradient_agrees_element_by_element(kernel_set, case):
    report = case.run(seed=7, fast_mode=False)
    assert report.passed, str(report)


def results_and_gradients(case, seed, lanes=None):
    """Everything `case` computes from a fixed cotangent, as ordinary arrays; and the input tensors."""
    function, inputs = case.draw(np.random.default_rng(seed))
    tensors = []
    for value in inputs:
        tensor = value if isinstance(value, Tensor) else Tensor(value, requires_grad=True)
        if lanes is not None and tensor.lanes is not None:
            _, channels, height, width, _ = tensor.data.shape
            images = tensor.numpy().reshape(-1, height, width, channels)
            tensor.data = reference.pack(images, lanes)
        tensors.append(tensor)
    result = F.unpack(function(*tensors))
    result.backward(np.random.default_rng(seed + 1).standard_normal(result.shape))
    return [result.numpy(), *[tensor.grad_numpy() for tensor in tensors]], tensors


@by_case
def test_empty_lanes_receive_no_gradient(kernel_set, case):
    _, tensors = results_and_gradients(case, 3)
    for tensor in tensors:
        if tensor.lanes is not None:
            blocks, *image, lanes = tensor.grad.shape
            by_lane = tensor.grad.transpose(0, 4, 1, 2, 3).reshape(blocks * lanes, *image)
            assert not by_lane[tensor.lanes.count :].any()
            assert by_lane[: tensor.lanes.count].any()


@by_case
def test_both_kernel_sets_give_the_same_results_and_gradients(kernel_set, case):
    ours, _ = results_and_gradients(case, 4)
    with kernels.using("numpy"):
        theirs, _ = results_and_gradients(case, 4)
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lanes", [16, 21])
@by_case
def test_the_number_of_lanes_makes_no_difference(case, lanes):
    # The NumPy kernels take any number; 3 images fill 3 lanes, or leave 13 or 18 empty.
    with kernels.using("numpy"):
        own, _ = results_and_gradients(case, 5)
        other, _ = results_and_gradients(case, 5, lanes)
    for one, two in zip(own, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


# Wrong kernels.


def times(factor, position=None):
    """A kernel's result, or one of its results, made `factor` times as large."""

    def spoil(right, *arguments):
        result = right(*arguments)
        if position is None:
            return result * factor
        return tuple(part * factor if i == position else part for i, part in enumerate(result))

    return spoil


def nothing(right, *arguments):
    return right(*arguments) * 0


def one_entry_twice(right, *arguments):
    result = right(*arguments).copy()
    result.reshape(-1)[np.abs(result).argmax()] *= 2  # a real one, not in an empty lane
    return result


def to_the_last_position(right, dy, tap, window, height, width):
    """The cotangent of a maximum sent to the window's last tap."""
    return right(dy, np.full_like(tap, window.size[0] * window.size[1] - 1), window, height, width)


def without_the_mean(right, dy, x, mean, inverse, scale, mean_dy, mean_product, count):
    return right(dy, x, mean, inverse, scale, mean_dy * 0, mean_product, count)


def without_the_variance(right, dy, x, mean, inverse, scale, mean_dy, mean_product, count):
    return right(dy, x, mean, inverse, scale, mean_dy, mean_product * 0, count)


def flipped(right, x, dy, window, groups):
    return np.ascontiguousarray(right(x, dy, window, groups)[::-1])


def transposed_window(right, dy, weight, window, groups, height, width):
    return right(dy, np.ascontiguousarray(weight[::-1, ::-1]), window, groups, height, width)


def of_the_input(right, dy, y):
    """A rectifier's gradient that forgets to cut."""
    return dy.copy()


SPOILT = [
    ("conv2d_input_gradient", times(1.01), "conv2d"),
    ("conv2d_input_gradient", transposed_window, "conv2d"),
    ("conv2d_input_gradient", one_entry_twice, "conv2d"),
    ("conv2d_input_gradient", times(1.01), "dense"),
    ("conv2d_weight_gradient", times(0.99), "conv2d"),
    ("conv2d_weight_gradient", flipped, "conv2d"),
    ("conv2d_weight_gradient", times(0.99), "dense"),
    ("channel_sum", nothing, "conv2d"),
    ("channel_sum", nothing, "dense"),
    ("max_pool_backward", to_the_last_position, "max_pool2d"),
    ("max_pool_backward", times(1.01), "max_pool2d"),
    ("average_pool_backward", times(1.01), "average_pool2d"),
    ("average_pool_backward", times(1.01), "global_average_pool2d"),
    ("upsample_backward", times(0.25), "upsample2d"),
    ("normalize_input_gradient", without_the_mean, "batch_norm"),
    ("normalize_input_gradient", without_the_variance, "batch_norm"),
    ("normalize_sums", times(1.01, 0), "batch_norm"),
    ("normalize_sums", times(1.01, 1), "batch_norm"),
    ("relu_backward", of_the_input, "relu"),
    ("relu6_backward", of_the_input, "relu6"),
    ("squared_error_gradient", times(0.5), "mean_squared_error"),
]


@pytest.mark.parametrize(
    ("kernel", "spoil", "subject"),
    SPOILT,
    ids=[f"{subject}-{kernel}-{spoil.__name__}" for kernel, spoil, subject in SPOILT],
)
def test_a_wrong_kernel_is_caught(kernel_set, monkeypatch, kernel, spoil, subject):
    """In float64 and random directions, with a kernel that is right in all but one respect."""
    cases = [case for case in CASES if case.subject == subject and _reaches(case, kernel, spoil)]
    assert cases and all(case.run(seed=5).passed for case in cases)
    right, calls = getattr(kernel_set, kernel), []

    def wrong(*arguments):
        calls.append(kernel)
        return spoil(right, *arguments)

    drawn = [case.draw(np.random.default_rng([5, 0])) for case in cases]  # packed by the right kernels
    monkeypatch.setattr(kernel_set, kernel, wrong)
    for case, inputs in zip(cases, drawn, strict=True):
        calls.clear()
        report = Case(case.subject, case.detail, lambda _, inputs=inputs: inputs).run(seed=5)
        assert calls
        assert not report.passed, f"{case.name}: {spoil.__name__} was not seen"
        verdicts = {check.verdict for check in report.inputs}
        assert "wrong" in verdicts and KINK not in verdicts


def _reaches(case, kernel, spoil):
    """Whether this case computes otherwise with the spoilt kernel."""
    if kernel == "channel_sum":
        return "no bias" not in case.detail and case.detail != "depthwise"
    if spoil in (without_the_mean, without_the_variance):
        return "batch's" in case.detail
    if spoil in (transposed_window, flipped):
        return "1x1" not in case.detail
    return True


class WithAnotherMask(Dropout):
    """Dropout whose backward drops other elements than its forward did."""

    def backward(self, dy):
        self.keys = self.keys + np.uint32(1)
        return super().backward(dy)


class NeighbourPack(Pack):
    """Packing whose backward gives every image its neighbour's gradient."""

    def backward(self, cotangent):
        return (np.roll(super().backward(cotangent)[0], 1, axis=0),)


@pytest.mark.parametrize(
    ("module", "name", "wrong", "subject"),
    [(normalization, "Dropout", WithAnotherMask, "dropout"), (lanes, "Pack", NeighbourPack, "pack")],
)
def test_a_wrong_mask_or_order_is_caught(kernel_set, monkeypatch, module, name, wrong, subject):
    cases = [case for case in CASES if case.subject == subject]
    drawn = [case.draw(np.random.default_rng(0)) for case in cases]
    monkeypatch.setattr(module, name, wrong)
    for inputs in drawn:
        report = Case(subject, "", lambda _, inputs=inputs: inputs).run()
        assert {check.verdict for check in report.inputs} == {"wrong"}


# The machinery of a case.


def test_a_point_on_a_kink_is_drawn_again_and_a_kink_everywhere_fails():
    seen = []

    def on_a_kink_at_first(random):
        seen.append(1)
        x = numbers(random, 3, 4)
        if len(seen) < 3:
            x[1, 2] = 0
        return F.relu, (x,)

    assert Case("relu", "", on_a_kink_at_first).run(0).passed
    assert len(seen) == 3
    always = Case("relu", "", lambda random: (F.relu, (np.zeros((2, 2)),))).run(0)
    assert not always.passed and always.inputs[0].verdict == KINK


def test_a_case_is_a_function_of_its_seed():
    case = next(case for case in CASES if case.subject == "Chain")
    assert case.run(3) == case.run(3)
    one, other = (case.run(seed).inputs[0].max_abs_error for seed in (3, 4))
    assert one != other
