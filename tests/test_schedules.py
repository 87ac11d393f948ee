"""Schedules: their equations, PyTorch's where it is installed, saving and restoring, misuse."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinynet.errors import ArgumentError, NonFiniteError
from tinynet.schedules import (
    Constant,
    Cosine,
    ExponentialDecay,
    OneCycle,
    Plateau,
    Schedule,
    StepDecay,
    schedule_from_config,
)

EXAMPLES = [
    Constant(0.1),
    StepDecay(0.1, 0.5, 7),
    ExponentialDecay(0.01, every_steps=9),
    ExponentialDecay(0.01, 0.8, every_steps=9, staircase=False),
    Cosine(0.1, 40, final=0.01, warmup_steps=6),
    OneCycle(0.1, 50, warmup_share=0.2, start_divisor=10, final_divisor=100),
    Plateau(0.1, factor=0.5, patience=3, min_delta=0.01, minimum=0.001, mode="max"),
]


def torch_rates(make_schedule, initial, count):
    """The rates a PyTorch scheduler gives to `count` updates."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=initial, momentum=0.9)
    schedule = make_schedule(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def rates(schedule, count):
    return [schedule(step) for step in range(count)]


def test_constant_is_constant():
    assert rates(Constant(0.25), 4) == [0.25] * 4


def test_step_decay_drops_at_every_multiple_of_every_steps():
    assert rates(StepDecay(1.0, 0.5, 3), 8) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_exponential_decay_multiplies_by_the_reports_gamma_once_an_epoch():
    schedule = ExponentialDecay(1e-2, every_steps=100)
    assert schedule(0) == schedule(99) == 1e-2
    assert schedule(100) == pytest.approx(1e-2 * 0.9478, rel=1e-14)
    assert schedule(49 * 100 + 50) == pytest.approx(1e-2 * 0.9478**49, rel=1e-14)


def test_exponential_decay_without_staircase_falls_within_the_epoch_too():
    schedule = ExponentialDecay(1.0, 0.25, every_steps=2, staircase=False)
    assert rates(schedule, 4) == pytest.approx([1, 0.5, 0.25, 0.125], rel=1e-14)


def test_cosine_starts_at_initial_is_midway_at_half_and_stays_at_final():
    schedule = Cosine(1.0, 10, final=0.2)
    assert schedule(0) == 1.0
    assert schedule(5) == pytest.approx(0.6, rel=1e-14)
    assert schedule(10) == schedule(11) == schedule(10_000) == 0.2


def test_cosine_warms_up_in_equal_parts_from_above_zero_to_initial():
    schedule = Cosine(1.0, 12, warmup_steps=4)
    assert rates(schedule, 5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], rel=1e-14)
    assert schedule(8) == pytest.approx(0.5, rel=1e-14)  # half of the 8 steps after the warm-up


def test_one_cycle_worked_by_hand():
    # steps 5, share 0.6: the peak is at step 0.6 * 5 - 1 = 2, the last step is 4.
    schedule = OneCycle(1.0, 5, warmup_share=0.6, start_divisor=4, final_divisor=10)
    wanted = [0.25, (0.25 + 1.0) / 2, 1.0, (1.0 + 0.025) / 2, 0.025, 0.025]
    assert rates(schedule, 6) == pytest.approx(wanted, rel=1e-14)


@settings(deadline=None, max_examples=30)
@given(
    steps=st.integers(2, 120),
    share=st.floats(0.05, 0.95),
    start=st.floats(1.5, 100),
    final=st.floats(1.5, 1e5),
)
def test_one_cycle_is_pytorchs(steps, share, start, final):
    assume(steps * share != 1)  # a rise of no steps, where theirs divides by zero
    got = rates(OneCycle(0.1, steps, share, start, final), steps)
    wanted = torch_rates(
        lambda module, optimizer: module.OneCycleLR(
            optimizer, 0.1, total_steps=steps, pct_start=share, div_factor=start, final_div_factor=final
        ),
        0.1,
        steps,
    )
    assert got == pytest.approx(wanted, rel=1e-10, abs=1e-17)


def test_step_and_cosine_are_pytorchs():
    wanted = torch_rates(lambda module, optimizer: module.StepLR(optimizer, 4, 0.3), 0.1, 20)
    assert rates(StepDecay(0.1, 0.3, 4), 20) == pytest.approx(wanted, rel=1e-10)
    wanted = torch_rates(lambda module, optimizer: module.CosineAnnealingLR(optimizer, 20, 0.01), 0.1, 20)
    assert rates(Cosine(0.1, 20, final=0.01), 20) == pytest.approx(wanted, rel=1e-10)
    wanted = torch_rates(lambda module, optimizer: module.ExponentialLR(optimizer, 0.9478), 0.1, 20)
    assert rates(ExponentialDecay(0.1, every_steps=1), 20) == pytest.approx(wanted, rel=1e-10)


@settings(deadline=None, max_examples=50)
@given(steps=st.integers(1, 300), share=st.floats(0, 0.99), step=st.integers(0, 400))
def test_one_cycle_stays_between_its_lowest_and_its_maximum(steps, share, step):
    rate = OneCycle(0.3, steps, share)(step)
    assert 0.3 / 25 / 1e4 * (1 - 1e-12) <= rate <= 0.3
    if step >= steps - 1:
        assert rate == 0.3 / 25 / 1e4


@settings(deadline=None, max_examples=50)
@given(data=st.data(), steps=st.integers(1, 200), step=st.integers(0, 300))
def test_cosine_rises_through_the_warm_up_and_never_after(data, steps, step):
    warmup = data.draw(st.integers(0, steps - 1))
    schedule = Cosine(0.3, steps, final=0.1, warmup_steps=warmup)
    if step < warmup:
        assert schedule(step) < schedule(step + 1)
    else:
        assert schedule(step) >= schedule(step + 1) >= 0.1


def test_plateau_falls_at_the_patience_th_epoch_without_improvement():
    schedule = Plateau(1.0, factor=0.5, patience=2, min_delta=0.25)
    metrics = (5.0, 4.75, 4.75, 4.5, 4.5, 4.25, 3.0)  # 4.75 is not *more* than 0.25 below 5; 4.5 is
    fell = [schedule.update(metric) for metric in metrics]
    assert fell == [False, False, True, False, False, True, False]
    assert schedule(0) == schedule(1000) == 0.25


def test_plateau_never_falls_below_its_minimum_and_says_when_it_no_longer_falls():
    schedule = Plateau(1.0, factor=0.1, patience=1, minimum=0.05)
    assert [schedule.update(1.0) for _ in range(4)] == [False, True, True, False]
    assert schedule(0) == 0.05


def test_plateau_in_max_mode_wants_larger_metrics():
    schedule = Plateau(1.0, factor=0.5, patience=1, mode="max")
    assert [schedule.update(metric) for metric in (0.5, 0.6, 0.7, 0.6)] == [False, False, False, True]


@settings(deadline=None, max_examples=30)
@given(
    metrics=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    patience=st.integers(2, 5),
    mode=st.sampled_from(["min", "max"]),
)
def test_plateau_is_pytorchs_with_one_epoch_more_patience(metrics, patience, mode):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.5, patience - 1, threshold=0.5, threshold_mode="abs", min_lr=0.01, eps=0
    )
    ours = Plateau(0.1, 0.5, patience, min_delta=0.5, minimum=0.01, mode=mode)
    for metric in metrics:
        theirs.step(metric)
        ours.update(metric)
        assert ours(0) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    before=st.lists(st.floats(0, 1), max_size=15), after=st.lists(st.floats(0, 1), min_size=1, max_size=15)
)
def test_plateau_continues_from_its_state_through_json(before, after):
    straight = Plateau(0.3, 0.7, patience=2)
    for metric in before:
        straight.update(metric)
    restored = schedule_from_config(json.loads(json.dumps(straight.config())))
    restored.load_state(json.loads(json.dumps(straight.state())))
    for metric in after:
        assert restored.update(metric) == straight.update(metric)
        assert restored(0) == straight(0)
    assert restored.state() == straight.state()


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_config_makes_the_same_schedule_again_through_json(schedule):
    again = schedule_from_config(json.loads(json.dumps(schedule.config())))
    assert type(again) is type(schedule)
    assert again.config() == schedule.config()
    assert rates(again, 60) == rates(schedule, 60)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_rates_are_python_floats_and_steps_may_be_numpy_integers(schedule):
    assert type(schedule(np.int64(5))) is float
    assert schedule(np.int64(5)) == schedule(5)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
@pytest.mark.parametrize("step", [-1, 1.5, "3", None, True])
def test_a_step_that_is_not_a_count_is_refused(schedule, step):
    with pytest.raises(ArgumentError, match=r"step is .*wanted a whole number of at least 0"):
        schedule(step)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_the_state_of_something_else_is_refused(schedule):
    with pytest.raises(ArgumentError, match=type(schedule).__name__):
        schedule.load_state({"cycles": 3})


BAD_RATES = [0, -0.1, math.nan, math.inf, "0.1", None, True]


@pytest.mark.parametrize("bad", BAD_RATES)
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (Constant, "value"),
        (lambda rate: StepDecay(rate, 0.5, 3), "initial"),
        (lambda rate: ExponentialDecay(rate, every_steps=3), "initial"),
        (lambda rate: Cosine(rate, 10), "initial"),
        (lambda rate: OneCycle(rate, 10), "maximum"),
        (Plateau, "initial"),
    ],
)
def test_a_rate_that_is_no_positive_number_is_refused(make, argument, bad):
    with pytest.raises(ArgumentError, match=f"{argument} is .*, wanted a finite number above 0") as caught:
        make(bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: StepDecay(0.1, 0, 3), "factor"),
        (lambda: StepDecay(0.1, 1.5, 3), "factor"),
        (lambda: StepDecay(0.1, 0.5, 0), "every_steps"),
        (lambda: StepDecay(0.1, 0.5, 2.5), "every_steps"),
        (lambda: ExponentialDecay(0.1, math.nan, every_steps=1), "gamma"),
        (lambda: ExponentialDecay(0.1, every_steps=-2), "every_steps"),
        (lambda: Cosine(0.1, 0), "steps"),
        (lambda: Cosine(0.1, 10, final=0.2), "final"),
        (lambda: Cosine(0.1, 10, final=-0.1), "final"),
        (lambda: Cosine(0.1, 10, warmup_steps=10), "warmup_steps"),
        (lambda: Cosine(0.1, 10, warmup_steps=-1), "warmup_steps"),
        (lambda: OneCycle(0.1, 0), "steps"),
        (lambda: OneCycle(0.1, 10, warmup_share=1.0), "warmup_share"),
        (lambda: OneCycle(0.1, 10, start_divisor=0.5), "start_divisor"),
        (lambda: OneCycle(0.1, 10, final_divisor=math.inf), "final_divisor"),
        (lambda: Plateau(0.1, factor=1.0), "factor"),
        (lambda: Plateau(0.1, patience=0), "patience"),
        (lambda: Plateau(0.1, min_delta=-1), "min_delta"),
        (lambda: Plateau(0.1, minimum=0.2), "minimum"),
        (lambda: Plateau(0.1, mode="auto"), "mode"),
    ],
)
def test_a_senseless_argument_is_named(make, argument):
    with pytest.raises(ArgumentError, match=f"^[A-Za-z]+: {argument} is .*, wanted "):
        make()


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_plateau_refuses_a_metric_that_is_not_finite_and_keeps_its_state(metric):
    schedule = Plateau(0.1, patience=1)
    schedule.update(1.0)
    before = schedule.state()
    with pytest.raises(NonFiniteError, match="metric"):
        schedule.update(metric)
    assert schedule.state() == before


@pytest.mark.parametrize("metric", ["1.0", None, True])
def test_plateau_refuses_a_metric_that_is_no_number(metric):
    with pytest.raises(ArgumentError, match=r"metric is .*wanted a number"):
        Plateau(0.1).update(metric)


@pytest.mark.parametrize(
    "change",
    [{"rate": 0.2}, {"rate": math.nan}, {"best": math.inf}, {"best": "low"}, {"waited": -1}, {"extra": 1}],
)
def test_plateau_refuses_a_senseless_state_and_keeps_its_own(change):
    schedule = Plateau(0.1)
    schedule.update(1.0)
    before = schedule.state()
    with pytest.raises(ArgumentError, match="Plateau"):
        schedule.load_state({**before, **change})
    assert schedule.state() == before


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "linear"}, "name is 'linear', wanted one of constant, cosine"),
        ({"value": 0.1}, "wanted a mapping with a name"),
        (0.1, "wanted a mapping with a name"),
        ({"name": "constant", "value": 0.1, "scale": 2}, "scale"),
        ({"name": "cosine", "initial": 0.1}, "steps"),
        ({"name": "constant", "value": -1}, "value is -1"),
    ],
)
def test_a_senseless_config_is_refused(config, said):
    with pytest.raises(ArgumentError, match=said):
        schedule_from_config(config)


def test_a_schedule_of_ones_own_needs_only_a_rate():
    class Halving(Schedule):
        def rate(self, step: int) -> float:
            return 2.0**-step

    assert rates(Halving(), 3) == [1, 0.5, 0.25]
