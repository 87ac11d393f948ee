"""Optimisers: against scalar code written out here, PyTorch's where installed, state, misuse."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynet import kernels
from tinynet.errors import ArgumentError, NonFiniteError, ShapeError
from tinynet.optim import (
    SGD,
    AdamW,
    Optimizer,
    RMSprop,
    clip_gradients_by_norm,
    get_optimizer,
    optimizer_from_config,
)
from tinynet.schedules import Cosine, ExponentialDecay, OneCycle, Plateau
from tinynet.tensor import Tensor

SHAPES = {"conv.weight": (3, 3, 2, 4), "conv.bias": (4,), "norm.scale": (4,), "norm.shift": (4,), "gain": ()}
# Not scalars, which NumPy before version 2 computes in float64; none of a whole number of vectors.
ARRAYS = {"conv.weight": (3, 3, 5, 7), "dense.weight": (211, 13), "conv.bias": (7,)}

VARIANTS = [
    SGD(0.1),
    SGD(0.1, weight_decay=0.3),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, weight_decay=0.3),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.3),
    RMSprop(0.1),
    RMSprop(0.1, rho=0.8, epsilon=0.05, momentum=0.7, weight_decay=0.3),
    AdamW(0.1),
    AdamW(0.1, beta_1=0.8, beta_2=0.95, epsilon=0.05, weight_decay=0.3),
]


def parameters_like(shapes, dtype=np.float64, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: Tensor(
            random.standard_normal(shape).astype(dtype).reshape(shape), requires_grad=True, name=name
        )
        for name, shape in shapes.items()
    }


def give_gradients(parameters, seed):
    """Random gradients that depend on (seed, name) and not on the order of the parameters."""
    for name, parameter in parameters.items():
        random = np.random.default_rng([seed, *name.encode()])
        parameter.grad = np.asarray(random.standard_normal(parameter.shape), parameter.dtype)


def values(parameters):
    return {name: parameter.data.copy() for name, parameter in parameters.items()}


def assert_bitwise_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def scalar_run(optimizer, w, gradients, decay):
    """One weight through the optimiser's equations, in plain Python numbers."""
    v = s = m = 0.0
    for t, g in enumerate(gradients, start=1):
        a = optimizer.schedule(t - 1)
        if isinstance(optimizer, SGD):
            g = g + decay * w
            v = optimizer.momentum * v - a * g
            w = w + optimizer.momentum * v - a * g if optimizer.nesterov else w + v
        elif isinstance(optimizer, RMSprop):
            g = g + decay * w
            s = optimizer.rho * s + (1 - optimizer.rho) * g * g
            v = optimizer.momentum * v + a * g / math.sqrt(s + optimizer.epsilon)
            w = w - v
        else:
            m = optimizer.beta_1 * m + (1 - optimizer.beta_1) * g
            s = optimizer.beta_2 * s + (1 - optimizer.beta_2) * g * g
            m_hat = m / (1 - optimizer.beta_1**t)
            s_hat = s / (1 - optimizer.beta_2**t)
            w = w - a * decay * w - a * m_hat / (math.sqrt(s_hat) + optimizer.epsilon)
    return w


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_twenty_steps_are_the_scalar_equations(variant, scheduled):
    optimizer = copy.deepcopy(variant)
    if scheduled:
        optimizer.learning_rate = Cosine(0.1, 20, warmup_steps=3)
    parameters = parameters_like(SHAPES)
    start = values(parameters)
    history = {name: [] for name in parameters}
    for step in range(20):
        give_gradients(parameters, step)
        for name, parameter in parameters.items():
            history[name].append(parameter.grad)
        optimizer.step(parameters)
    for name, parameter in parameters.items():
        decay = optimizer.weight_decay if name == "conv.weight" else 0.0
        for index in np.ndindex(parameter.shape):
            wanted = scalar_run(optimizer, start[name][index], [g[index] for g in history[name]], decay)
            np.testing.assert_allclose(parameter.data[index], wanted, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.skipif(kernels.numba_problem() is not None, reason="Numba is not installed")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_both_kernel_sets_take_the_same_steps_bit_for_bit(variant, dtype):
    after = []
    for kernel_set in ("numpy", "numba"):
        optimizer, parameters = copy.deepcopy(variant), parameters_like(ARRAYS, dtype)
        with kernels.using(kernel_set):
            for step in range(20):
                give_gradients(parameters, step)
                optimizer.step(parameters)
        after.append((values(parameters), optimizer.state()))
    (first, (first_slots, first_scalars)), (second, (second_slots, second_scalars)) = after
    assert_bitwise_equal(first, second)
    assert_bitwise_equal(first_slots, second_slots)
    assert first_scalars == second_scalars


def test_with_the_numpy_kernels_numba_is_not_imported():
    code = """
import sys
import numpy as np
import tinynet as tn
w = tn.Tensor(np.ones(3), requires_grad=True)
w.grad = np.ones(3)
for optimizer in (tn.SGD(0.1), tn.RMSprop(0.1), tn.AdamW(0.1)):
    optimizer.step({"w": w})
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TINYNET_KERNELS": "numpy"}, check=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_a_transposed_parameter_is_changed_in_place_too(variant, dtype):
    """Slots, restored slots and gradients may each have another memory order than the parameter."""
    parameters = parameters_like({"conv.weight": (3, 4, 5)}, dtype)
    transposed = {"conv.weight": Tensor(parameters["conv.weight"].data.copy(order="F"), True, "conv.weight")}
    array = transposed["conv.weight"].data
    optimizer, other = copy.deepcopy(variant), copy.deepcopy(variant)
    for step in range(4):
        for run in (parameters, transposed):
            give_gradients(run, step)
        if step == 2:
            other.load_state(*optimizer.state(), transposed)
        optimizer.step(parameters)
        other.step(transposed)
    assert transposed["conv.weight"].data is array and array.flags.f_contiguous
    assert_bitwise_equal(values(parameters), values(transposed))


@pytest.mark.parametrize("dtype", [">f4", ">f8", "longdouble"])
@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_precisions_that_only_numpy_knows_are_updated_too(variant, dtype):
    dtype = np.dtype(dtype)
    native = np.float32 if dtype.itemsize == 4 else np.float64
    optimizer, reference = copy.deepcopy(variant), copy.deepcopy(variant)
    parameters, wanted = parameters_like(SHAPES, dtype), parameters_like(SHAPES, native)
    for step in range(3):
        for one, run in ((optimizer, parameters), (reference, wanted)):
            give_gradients(run, step)
            one.step(run)
    for name, parameter in parameters.items():
        assert parameter.dtype == dtype
        np.testing.assert_allclose(
            parameter.data.astype(native), wanted[name].data, rtol=1e-5 if native is np.float32 else 1e-12
        )


TINY = 1e-40  # RMSprop's epsilon, under the root here and beside it in PyTorch, kept out of the comparison

TORCH_PAIRS = [
    (SGD(0.1), lambda t, p: t.optim.SGD(p, 0.1)),
    (SGD(0.1, momentum=0.9), lambda t, p: t.optim.SGD(p, 0.1, momentum=0.9)),
    (
        SGD(0.1, momentum=0.9, weight_decay=0.3),
        lambda t, p: t.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.3),
    ),
    (
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.3),
        lambda t, p: t.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.3),
    ),
    (RMSprop(0.1, epsilon=TINY), lambda t, p: t.optim.RMSprop(p, 0.1, alpha=0.9, eps=TINY)),
    (
        RMSprop(0.1, rho=0.8, epsilon=TINY, momentum=0.7, weight_decay=0.3),
        lambda t, p: t.optim.RMSprop(p, 0.1, alpha=0.8, eps=TINY, momentum=0.7, weight_decay=0.3),
    ),
    (AdamW(0.1), lambda t, p: t.optim.AdamW(p, 0.1)),
    (
        AdamW(0.1, beta_1=0.8, beta_2=0.95, epsilon=0.05, weight_decay=0.3),
        lambda t, p: t.optim.AdamW(p, 0.1, betas=(0.8, 0.95), eps=0.05, weight_decay=0.3),
    ),
]


@pytest.mark.parametrize(
    ("variant", "make_theirs"), TORCH_PAIRS, ids=[repr(variant)[:60] for variant, _ in TORCH_PAIRS]
)
def test_twenty_steps_are_pytorchs(variant, make_theirs):
    torch = pytest.importorskip("torch")
    optimizer = copy.deepcopy(variant)
    # PyTorch decays everything it is given, so here everything is a weight.
    parameters = parameters_like({"a.weight": (5, 7), "b.weight": (3, 3, 2, 2)})
    theirs = {name: torch.nn.Parameter(torch.tensor(p.data)) for name, p in parameters.items()}
    their_optimizer = make_theirs(torch, list(theirs.values()))
    for step in range(20):
        give_gradients(parameters, step)
        for name, parameter in parameters.items():
            theirs[name].grad = torch.tensor(parameter.grad)
        optimizer.step(parameters)
        their_optimizer.step()
        for name, parameter in parameters.items():
            wanted = theirs[name].detach().numpy()
            np.testing.assert_allclose(parameter.data, wanted, rtol=1e-10, atol=1e-13, err_msg=name)


def test_momentum_under_a_schedule_is_kerass_and_not_pytorchs():
    # Rates 1 then 0.5, gradients 1, momentum 0.5: v = -1, then 0.5 * -1 - 0.5 = -1; PyTorch's
    # second step is 0.5 * (0.5 * 1 + 1) = 0.75.
    optimizer = SGD(ExponentialDecay(1.0, 0.5, every_steps=1), momentum=0.5)
    parameters = {"w": Tensor(np.zeros(1), requires_grad=True)}
    for wanted in (-1.0, -2.0):
        parameters["w"].grad = np.ones(1)
        optimizer.step(parameters)
        assert parameters["w"].data[0] == wanted


@settings(deadline=None, max_examples=40)
@given(
    variant=st.sampled_from(VARIANTS),
    dtype=st.sampled_from([np.float32, np.float64]),
    before=st.integers(0, 5),
    after=st.integers(1, 5),
)
def test_a_restored_optimiser_continues_bit_for_bit(variant, dtype, before, after):
    straight = copy.deepcopy(variant)
    straight.learning_rate = OneCycle(0.1, 10)
    straight.learning_rate_scale = 0.7
    parameters = parameters_like(SHAPES, dtype)
    for step in range(before):
        give_gradients(parameters, step)
        straight.step(parameters)
    resumed = {name: Tensor(p.data.copy(), True, name) for name, p in parameters.items()}
    arrays, scalars = straight.state()
    restored = optimizer_from_config(json.loads(json.dumps(straight.config())))
    restored.load_state(arrays, json.loads(json.dumps(scalars)), resumed)
    for step in range(before, before + after):
        for optimizer, run in ((straight, parameters), (restored, resumed)):
            give_gradients(run, step)
            optimizer.step(run)
    assert_bitwise_equal(values(parameters), values(resumed))
    assert_bitwise_equal(straight.state()[0], restored.state()[0])
    assert straight.state()[1] == restored.state()[1]
    assert restored.iterations == before + after


@settings(deadline=None, max_examples=30)
@given(variant=st.sampled_from(VARIANTS), order=st.permutations(list(SHAPES)))
def test_the_order_of_the_parameters_does_not_matter(variant, order):
    optimizer, other = copy.deepcopy(variant), copy.deepcopy(variant)
    parameters = parameters_like(SHAPES, np.float32)
    shuffled = {name: Tensor(parameters[name].data.copy(), True, name) for name in order}
    for step in range(3):
        give_gradients(parameters, step)
        give_gradients(shuffled, step)
        norm = clip_gradients_by_norm(parameters, 1.0)
        assert norm == clip_gradients_by_norm(shuffled, 1.0)
        optimizer.step(parameters)
        other.step(shuffled)
    assert_bitwise_equal(values(parameters), values(shuffled))


@settings(deadline=None, max_examples=40)
@given(
    variant=st.sampled_from(VARIANTS),
    dtype=st.sampled_from([np.float32, np.float64]),
    frozen=st.sets(st.sampled_from(list(SHAPES)), max_size=len(SHAPES) - 1),
    by_flag=st.booleans(),
)
def test_a_step_changes_arrays_in_place_keeps_gradients_and_leaves_frozen_ones(
    variant, dtype, frozen, by_flag
):
    optimizer = copy.deepcopy(variant)
    parameters = parameters_like(SHAPES, dtype)
    arrays = {name: p.data for name, p in parameters.items()}
    before = values(parameters)
    for step in range(2):
        give_gradients(parameters, step)
        for name in frozen:
            if by_flag:
                parameters[name].requires_grad = False
            else:
                parameters[name].grad = None
        gradients = {name: copy.copy(p.grad) for name, p in parameters.items()}
        optimizer.step(parameters)
        for name, parameter in parameters.items():
            assert parameter.data is arrays[name]
            assert parameter.data.dtype == dtype
            np.testing.assert_array_equal(parameter.grad, gradients[name])
    for name, parameter in parameters.items():
        assert np.array_equal(parameter.data, before[name]) == (name in frozen)
    slots, scalars = optimizer.state()
    assert set(scalars["updates"]) == set(parameters) - frozen
    assert {key.rsplit("/", 1)[0] for key in slots} <= set(parameters) - frozen
    assert all(array.dtype == dtype for array in slots.values())


def test_a_schedules_numpy_float64_does_not_widen_float32():
    class NumpyRate(Cosine):
        def rate(self, step):
            return np.float64(0.1)

    parameters = parameters_like(SHAPES, np.float32)
    reference = parameters_like(SHAPES, np.float32)
    first, second = AdamW(NumpyRate(0.1, 10)), AdamW(0.1)
    for optimizer, run in ((first, parameters), (second, reference)):
        give_gradients(run, 1)
        optimizer.step(run)
    assert type(first.current_learning_rate) is float
    assert_bitwise_equal(values(parameters), values(reference))


def test_adamw_corrects_a_late_unfrozen_parameter_for_its_own_short_history():
    optimizer = AdamW(0.1, weight_decay=0.0)
    parameters = {name: Tensor(np.zeros(1), requires_grad=True) for name in ("early", "late")}
    for step in range(50):
        parameters["early"].grad = np.ones(1)
        parameters["late"].grad = np.array([2.0]) if step in (30, 40, 49) else None
        optimizer.step(parameters)
        if step == 30:  # Adam's first step has the size of the learning rate, whatever the gradient's
            assert parameters["late"].data[0] == pytest.approx(-0.1, rel=1e-6)
    alone = Tensor(np.zeros(1), requires_grad=True)
    reference = AdamW(0.1, weight_decay=0.0)
    for _ in range(3):
        alone.grad = np.array([2.0])
        reference.step({"late": alone})
    assert parameters["late"].data[0] == alone.data[0]


@pytest.mark.parametrize(
    ("name", "shape", "decayed"),
    [
        ("conv1.weight", (3, 3, 1, 2), True),
        ("weight", (4,), True),
        ("conv1.bias", (4,), False),
        ("norm.scale", (4,), False),
        ("norm.shift", (1, 4), False),
        (None, (2, 2), True),
        (None, (4,), False),
        (None, (), False),
    ],
)
@pytest.mark.parametrize("make", [SGD, RMSprop, AdamW])
def test_decay_is_for_weights_only(make, name, shape, decayed):
    parameter = Tensor(np.ones(shape), requires_grad=True, name=name)
    parameter.grad = np.zeros(shape)
    make(0.1, weight_decay=0.5).step({"key": parameter})
    assert (parameter.data < 1).all() if decayed else (parameter.data == 1).all()


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.05),
        SGD(0.05, momentum=0.8),
        SGD(0.05, momentum=0.8, nesterov=True),
        RMSprop(Cosine(0.1, 400)),
        RMSprop(Cosine(0.1, 400), momentum=0.8),
        AdamW(Cosine(0.3, 400), weight_decay=0.0),
    ],
    ids=repr,
)
def test_a_quadratic_is_minimised(optimizer):
    optimizer = copy.deepcopy(optimizer)
    curvature = np.array([1.0, 4.0, 10.0])
    lowest = np.array([3.0, -2.0, 0.5])
    w = Tensor(np.zeros(3), requires_grad=True)
    for _ in range(400):
        w.grad = curvature * (w.data - lowest)
        optimizer.step({"w": w})
    np.testing.assert_allclose(w.data, lowest, atol=1e-4)


def test_the_rate_follows_the_schedule_the_scale_and_a_new_setting():
    optimizer = SGD(ExponentialDecay(0.1, 0.5, every_steps=2))
    w = Tensor(np.zeros(2), requires_grad=True)
    seen = []
    for _ in range(5):
        w.grad = np.ones(2)
        seen.append(optimizer.current_learning_rate)
        optimizer.step({"w": w})
    assert seen == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert optimizer.iterations == 5
    optimizer.learning_rate_scale = 0.1
    assert optimizer.current_learning_rate == pytest.approx(0.0025)
    optimizer.learning_rate = 0.3
    assert optimizer.learning_rate == 0.3
    assert optimizer.current_learning_rate == pytest.approx(0.03)


def test_the_state_carries_a_plateaus():
    optimizer = SGD(Plateau(0.1, factor=0.5, patience=1))
    optimizer.learning_rate.update(1.0)
    optimizer.learning_rate.update(1.0)
    restored = optimizer_from_config(optimizer.config())
    assert restored.current_learning_rate == 0.1
    restored.load_state(*optimizer.state())
    assert restored.current_learning_rate == optimizer.current_learning_rate == 0.05


def test_the_state_is_a_copy():
    optimizer = SGD(0.1, momentum=0.9)
    parameters = parameters_like(SHAPES)
    give_gradients(parameters, 0)
    optimizer.step(parameters)
    arrays, scalars = optimizer.state()
    restored = SGD(0.1, momentum=0.9)
    restored.load_state(arrays, scalars)
    for array in arrays.values():
        array[...] = 1e9
    scalars["updates"].clear()
    for kept in (optimizer, restored):
        assert max(np.abs(array).max() for array in kept.state()[0].values()) < 10
        assert len(kept.state()[1]["updates"]) == len(SHAPES)


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_config_makes_the_same_optimiser_again_through_json(variant):
    again = optimizer_from_config(json.loads(json.dumps(variant.config())))
    assert type(again) is type(variant)
    assert again.config() == variant.config()


def test_optimisers_by_name():
    for name, kind in (("sgd", SGD), ("rmsprop", RMSprop), ("adamw", AdamW), ("RMSprop", RMSprop)):
        assert type(get_optimizer(name)) is kind
        assert get_optimizer(name).config() == kind().config()
    optimizer = SGD(0.5)
    assert get_optimizer(optimizer) is optimizer
    for wrong in ("adam", "", None, SGD):
        with pytest.raises(ArgumentError, match=r"optimizer is .*, wanted .*sgd, rmsprop, adamw"):
            get_optimizer(wrong)


@pytest.mark.parametrize("bad", [0, 0.0, -0.1, math.nan, math.inf, "0.1", None, True, [0.1]])
@pytest.mark.parametrize("make", [SGD, RMSprop, AdamW])
def test_a_learning_rate_that_is_no_positive_number_is_refused(make, bad):
    wanted = rf"^{make.__name__}: learning_rate is .*, wanted a finite number above 0 or a Schedule$"
    with pytest.raises(ArgumentError, match=wanted) as caught:
        make(bad)
    assert repr(bad) in str(caught.value)
    optimizer = make(0.5)
    with pytest.raises(ArgumentError, match=wanted):
        optimizer.learning_rate = bad
    assert optimizer.current_learning_rate == 0.5


@pytest.mark.parametrize(
    ("make", "argument", "bad"),
    [
        (SGD, "momentum", 1.0),
        (SGD, "momentum", -0.1),
        (SGD, "momentum", math.nan),
        (SGD, "nesterov", True),
        (SGD, "weight_decay", -1e-4),
        (RMSprop, "rho", 1),
        (RMSprop, "epsilon", 0.0),
        (RMSprop, "momentum", 1.5),
        (RMSprop, "weight_decay", math.inf),
        (AdamW, "beta_1", 1.0),
        (AdamW, "beta_2", "0.9"),
        (AdamW, "epsilon", -1e-8),
        (AdamW, "weight_decay", math.nan),
    ],
)
def test_a_senseless_argument_is_named(make, argument, bad):
    with pytest.raises(ArgumentError, match=rf"^{make.__name__}: {argument} is .*wanted a") as caught:
        make(**{argument: bad})
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "adam"}, "name is 'adam', wanted one of adamw, rmsprop, sgd"),
        ({"learning_rate": 0.1}, "wanted a mapping with a name"),
        ({"name": "sgd", "momentun": 0.9}, "momentun"),
        ({"name": "sgd", "learning_rate": {"name": "linear"}}, "linear"),
        ({"name": "sgd", "learning_rate": -1}, "learning_rate is -1"),
    ],
)
def test_a_senseless_config_is_refused(config, said):
    with pytest.raises(ArgumentError, match=said):
        optimizer_from_config(config)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing(variant, poison):
    optimizer = copy.deepcopy(variant)
    parameters = parameters_like(SHAPES, np.float32)
    give_gradients(parameters, 0)
    optimizer.step(parameters)
    give_gradients(parameters, 1)
    parameters["norm.scale"].grad[2] = poison  # neither the first nor the last
    before, (slots, scalars) = values(parameters), optimizer.state()
    found = "NaN" if math.isnan(poison) else "infinity"
    with pytest.raises(NonFiniteError, match=rf"step 1: the gradient of 'norm\.scale' has {found} in it"):
        optimizer.step(parameters)
    assert_bitwise_equal(values(parameters), before)
    assert_bitwise_equal(optimizer.state()[0], slots)
    assert optimizer.state()[1] == scalars


def test_infinities_of_both_signs_are_found_and_large_finite_gradients_are_not_mistaken():
    w = Tensor(np.zeros(4, np.float32), requires_grad=True)
    w.grad = np.array([np.inf, -np.inf, 0, 0], np.float32)
    with pytest.raises(NonFiniteError, match="infinity"):
        SGD(0.1).step({"w": w})
    w.grad = np.full(4, 2e38, np.float32)  # their sum is infinite in float32
    SGD(0.5).step({"w": w})
    np.testing.assert_array_equal(w.data, np.full(4, -1e38, np.float32))


def test_without_check_finite_nan_passes_into_the_weights():
    w = Tensor(np.zeros(2), requires_grad=True)
    w.grad = np.array([np.nan, 1.0])
    SGD(0.1, check_finite=False).step({"w": w})
    np.testing.assert_array_equal(w.data, [np.nan, -0.1])


def test_misuse_of_step_is_refused_and_changes_nothing():
    optimizer = RMSprop(0.1)
    parameters = parameters_like(SHAPES)
    with pytest.raises(ArgumentError, match=r"wanted backward\(\) called first"):
        optimizer.step(parameters)
    with pytest.raises(ArgumentError, match="parameters is a list, wanted a dict"):
        optimizer.step(list(parameters.values()))
    with pytest.raises(ArgumentError, match="'w' is a ndarray, wanted a Tensor"):
        optimizer.step({"w": np.zeros(2)})
    give_gradients(parameters, 0)
    with pytest.raises(ArgumentError, match=r"'conv\.bias' and 'tied' are one Tensor"):
        optimizer.step({**parameters, "tied": parameters["conv.bias"]})
    before = values(parameters)
    parameters["norm.shift"].grad = np.zeros(3)
    with pytest.raises(ShapeError, match=r"'norm\.shift' has shape \(3,\), wanted \(4,\)"):
        optimizer.step(parameters)
    give_gradients(parameters, 0)
    parameters["norm.shift"].data.flags.writeable = False
    with pytest.raises(ArgumentError, match=r"'norm\.shift' is read-only"):
        optimizer.step(parameters)
    assert_bitwise_equal(values(parameters), before)
    assert optimizer.iterations == 0


def test_a_schedule_that_gives_no_rate_is_refused_by_the_step():
    class Broken(Cosine):
        def rate(self, step):
            return math.nan

    w = Tensor(np.zeros(2), requires_grad=True)
    w.grad = np.ones(2)
    with pytest.raises(ArgumentError, match="learning rate of step 0 is nan"):
        SGD(Broken(0.1, 10)).step({"w": w})
    assert (w.data == 0).all()


def trained(optimizer):
    parameters = parameters_like(SHAPES, np.float32)
    for step in range(3):
        give_gradients(parameters, step)
        optimizer.step(parameters)
    return parameters


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda a, s: a.pop("conv.bias/mean"), ArgumentError, "arrays lack conv.bias/mean"),
        (lambda a, s: a.update(other=np.zeros(2)), ArgumentError, "arrays have other"),
        (lambda a, s: a.update({"conv.bias/mean": np.zeros(5, np.float32)}), ShapeError, "conv.bias"),
        (lambda a, s: a.update({"conv.bias/mean": np.zeros(4, np.float64)}), ArgumentError, "float64"),
        (lambda a, s: s.pop("iterations"), ArgumentError, "scalars lack iterations"),
        (lambda a, s: s.update(more=1), ArgumentError, "scalars have more"),
        (lambda a, s: s.update(optimizer="sgd"), ArgumentError, "'sgd', wanted one of 'adamw'"),
        (lambda a, s: s.update(iterations=-1), ArgumentError, "iterations is -1"),
        (lambda a, s: s.update(iterations=2), ArgumentError, "more updates than the 2"),
        (lambda a, s: s.update(learning_rate_scale=math.nan), ArgumentError, "learning_rate_scale is nan"),
        (lambda a, s: s.update(updates=[1]), ArgumentError, "updates"),
        (lambda a, s: s["updates"].update({"conv.bias": 0}), ArgumentError, "conv.bias is 0"),
        (lambda a, s: s["updates"].pop("conv.bias"), ArgumentError, "arrays have conv.bias/mean"),
        (lambda a, s: s.update(schedule={"rate": 0.1}), ArgumentError, "rate"),
    ],
)
def test_a_spoilt_state_is_refused_and_changes_nothing(spoil, error, said):
    source = AdamW(0.1)
    parameters = trained(source)
    arrays, scalars = source.state()
    spoil(arrays, scalars)
    optimizer = AdamW(0.1)
    trained(optimizer)
    before_arrays, before_scalars = optimizer.state()
    with pytest.raises(error, match=said):
        optimizer.load_state(arrays, scalars, parameters)
    assert_bitwise_equal(optimizer.state()[0], before_arrays)
    assert optimizer.state()[1] == before_scalars


def test_a_state_of_another_model_is_refused_at_loading_or_in_the_next_step():
    source = SGD(0.1, momentum=0.9)
    trained(source)
    smaller = parameters_like({name: shape for name, shape in SHAPES.items() if name != "conv.bias"})
    with pytest.raises(ArgumentError, match=r"no parameter conv\.bias"):
        SGD(0.1, momentum=0.9).load_state(*source.state(), smaller)
    other = parameters_like({**SHAPES, "conv.bias": (6,)}, np.float32)
    optimizer = SGD(0.1, momentum=0.9)
    with pytest.raises(ShapeError, match=r"velocity of 'conv\.bias' has shape \(4,\), wanted \(6,\)"):
        optimizer.load_state(*source.state(), other)
    optimizer.load_state(*source.state())
    give_gradients(other, 0)
    before = values(other)
    with pytest.raises(ShapeError, match=r"velocity of 'conv\.bias' has shape \(4,\), wanted \(6,\)"):
        optimizer.step(other)
    assert_bitwise_equal(values(other), before)
    with pytest.raises(ArgumentError, match="arrays have"):
        SGD(0.1).load_state(*source.state())  # no momentum here: nothing to restore a velocity into


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 1000), maximum=st.floats(1e-3, 1e3), dtype=st.sampled_from([np.float32, np.float64])
)
def test_clipping_keeps_the_direction_and_bounds_the_joint_norm(seed, maximum, dtype):
    parameters = parameters_like(SHAPES, dtype)
    give_gradients(parameters, seed)
    parameters["norm.shift"].grad = None
    joined = np.concatenate([p.grad.ravel() for p in parameters.values() if p.grad is not None])
    norm = clip_gradients_by_norm(parameters, maximum)
    clipped = np.concatenate([p.grad.ravel() for p in parameters.values() if p.grad is not None])
    exact = np.linalg.norm(joined.astype(np.float64))
    assert norm == pytest.approx(exact, rel=1e-12)
    assert clipped.dtype == dtype
    if exact <= maximum:
        np.testing.assert_array_equal(clipped, joined)
    else:
        np.testing.assert_allclose(
            clipped, joined * (maximum / exact), rtol=1e-6 if dtype == np.float32 else 1e-12
        )
    assert parameters["norm.shift"].grad is None


def test_clipping_scales_the_numpy_scalar_that_a_summed_scalar_gradient_is():
    w = Tensor(np.array(1.0, np.float32), requires_grad=True)
    w.grad = np.float32(3) + np.float32(1)
    assert clip_gradients_by_norm({"w": w}, 2.0) == 4.0
    assert w.grad == 2.0
    SGD(0.5).step({"w": w})
    assert w.data == 0.0
    assert w.data.dtype == np.float32


def test_clipping_refuses_what_makes_no_sense():
    parameters = parameters_like(SHAPES)
    give_gradients(parameters, 0)
    for bad in (0, -1.0, math.nan, "1"):
        with pytest.raises(ArgumentError, match=r"maximum is .*, wanted a number above 0"):
            clip_gradients_by_norm(parameters, bad)
    before = {name: p.grad.copy() for name, p in parameters.items()}
    assert clip_gradients_by_norm(parameters, math.inf) > 0
    assert_bitwise_equal({name: p.grad for name, p in parameters.items()}, before)
    parameters["conv.weight"].grad[0, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"the gradient of 'conv\.weight' has NaN"):
        clip_gradients_by_norm(parameters, 1.0)


def test_an_optimiser_says_what_it_is():
    text = repr(SGD(Cosine(0.1, 10), momentum=0.9))
    assert text.startswith("SGD(learning_rate=Cosine(initial=0.1, steps=10")
    assert "momentum=0.9" in text
    assert isinstance(SGD(), Optimizer)


def change(parameters, what):
    first = next(iter(parameters.values()))
    if what == "numbers of the gradients":
        for parameter in parameters.values():
            parameter.grad[...] = -2 * parameter.grad
    elif what == "a gradient's array":
        first.grad = first.grad + 1
    elif what == "a parameter's array":
        first.data = first.data + 1
    elif what == "what is frozen":
        first.requires_grad = False
    else:
        first.name = "bias"


@pytest.mark.parametrize("gradient_dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
@pytest.mark.parametrize(
    "what",
    ["numbers of the gradients", "a gradient's array", "a parameter's array", "what is frozen", "a name"],
)
def test_a_step_sees_what_changed_since_the_last(variant, what, gradient_dtype):
    """As one does that looks at everything anew, which a copy of it has to."""
    both = []
    for fresh in (False, True):
        optimizer, parameters = copy.deepcopy(variant), parameters_like(ARRAYS, "float32")
        for parameter in parameters.values():
            parameter.grad = np.ones(parameter.shape, gradient_dtype)
        optimizer.step(parameters)
        change(parameters, what)
        if fresh:
            optimizer = copy.deepcopy(optimizer)
        optimizer.step(parameters)
        both.append(parameters)
    for name, parameter in both[0].items():
        np.testing.assert_array_equal(parameter.data, both[1][name].data, err_msg=name)


def test_a_copy_of_model_and_optimizer_goes_on_by_itself():
    optimizer, parameters = AdamW(), parameters_like(ARRAYS, "float32")
    for parameter in parameters.values():
        parameter.grad = np.ones(parameter.shape, np.float32)
    optimizer.step(parameters)
    other, copied = copy.deepcopy((optimizer, parameters))
    other.step(copied)
    optimizer.step(parameters)
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.data, copied[name].data, err_msg=name)
