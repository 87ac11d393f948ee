"""Learning-rate schedules: the rate as a function of how many updates have been made.

`schedule(step)` is the rate of update number `step`, counted from 0 over the whole training,
not within an epoch.  All but `Plateau` are pure functions of `step`, so a resumed training
needs nothing but the step.  `Plateau` looks at a metric and carries its state with it.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tinynet.errors import ArgumentError, NonFiniteError


def checked_number(
    owner: str, argument: str, value: Any, wanted: str, accept: Callable[[float], bool]
) -> float:
    """`value` as a Python float; ArgumentError unless it is a number, not NaN, that `accept` likes."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if not math.isnan(number) and accept(number):
            return number
    raise ArgumentError(f"{owner}: {argument} is {value!r}, wanted {wanted}")


def checked_count(owner: str, argument: str, value: Any, at_least: int) -> int:
    """`value` as a Python int; ArgumentError unless it is a whole number of at least `at_least`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = at_least - 1
    if count < at_least or isinstance(value, bool):
        raise ArgumentError(f"{owner}: {argument} is {value!r}, wanted a whole number of at least {at_least}")
    return count


def checked_rate(owner: str, argument: str, value: Any) -> float:
    """`value` as a learning rate: finite and above 0, or ArgumentError."""
    return checked_number(owner, argument, value, "a finite number above 0", lambda x: 0 < x < math.inf)


class Configured:
    """An object that can be written down: `name` says its kind, `fields` its constructor's arguments."""

    name = ""
    fields: tuple[str, ...] = ()

    def config(self) -> dict[str, Any]:
        """Kind and arguments, as JSON can hold them: what it takes to make the same object again."""
        return {"name": self.name, **{field: getattr(self, field) for field in self.fields}}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.fields)
        return f"{type(self).__name__}({arguments})"


class Schedule(Configured):
    """Base of the schedules; a subclass writes its equation as `rate`."""

    def __call__(self, step: int) -> float:
        """The learning rate of update number `step` (from 0).  Raises ArgumentError for a negative step."""
        return float(self.rate(checked_count(type(self).__name__, "step", step, 0)))

    def rate(self, step: int) -> float:
        """The schedule's equation."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What changes while training, as JSON can hold it: nothing, for a pure function of the step."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state()`.  Raises ArgumentError where it is not one of this schedule."""
        if dict(state) != {}:
            raise ArgumentError(
                f"{type(self).__name__}: got a state with {sorted(state)}, wanted an empty one"
            )


class Constant(Schedule):
    """rate(step) = value."""

    name = "constant"
    fields = ("value",)

    def __init__(self, value: float):
        self.value = checked_rate("Constant", "value", value)

    def rate(self, step: int) -> float:
        return self.value


class StepDecay(Schedule):
    """rate(step) = initial * factor ** floor(step / every_steps): a drop every so many updates.

    As in He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016,
    section 3.4 (there factor 0.1).  PyTorch's StepLR.
    """

    name = "step_decay"
    fields = ("initial", "factor", "every_steps")

    def __init__(self, initial: float, factor: float, every_steps: int):
        self.initial = checked_rate("StepDecay", "initial", initial)
        self.factor = _share("StepDecay", "factor", factor)
        self.every_steps = checked_count("StepDecay", "every_steps", every_steps, 1)

    def rate(self, step: int) -> float:
        return self.initial * self.factor ** (step // self.every_steps)


class ExponentialDecay(Schedule):
    """rate(step) = initial * gamma ** (step / every_steps), the exponent rounded down if `staircase`.

    With `every_steps` = the updates of one epoch and `staircase`, the rate is multiplied by
    gamma once an epoch.  The malaria report that tinynet follows used gamma = 0.9478 from a rate
    of 1e-2 over 50 epochs of SGD with momentum 0.9: 0.9478 ** 50 = 0.069.  Keras's
    ExponentialDecay; with `staircase`, PyTorch's ExponentialLR called once an epoch.
    """

    name = "exponential_decay"
    fields = ("initial", "gamma", "every_steps", "staircase")

    def __init__(self, initial: float, gamma: float = 0.9478, *, every_steps: int, staircase: bool = True):
        self.initial = checked_rate("ExponentialDecay", "initial", initial)
        self.gamma = _share("ExponentialDecay", "gamma", gamma)
        self.every_steps = checked_count("ExponentialDecay", "every_steps", every_steps, 1)
        self.staircase = bool(staircase)

    def rate(self, step: int) -> float:
        periods = step // self.every_steps if self.staircase else step / self.every_steps
        return self.initial * self.gamma**periods


class Cosine(Schedule):
    """Half a cosine from `initial` to `final` over `steps` updates, after a linear warm-up.

    With W = warmup_steps:

        step < W:   rate = initial * (step + 1) / (W + 1)
        step >= W:  rate = final + (initial - final) * (1 + cos(pi * p)) / 2,
                    p = min(1, (step - W) / (steps - W))

    `steps` includes the warm-up; from `steps` on the rate stays `final`.  Without warm-up it is
    PyTorch's CosineAnnealingLR.  Sources: Loshchilov and Hutter, "SGDR: stochastic gradient
    descent with warm restarts", ICLR 2017, equation 5 (without the restarts); the warm-up: Goyal
    et al., "Accurate, large minibatch SGD", 2017, arXiv:1706.02677, section 2.2.
    """

    name = "cosine"
    fields = ("initial", "steps", "final", "warmup_steps")

    def __init__(self, initial: float, steps: int, final: float = 0.0, warmup_steps: int = 0):
        self.initial = checked_rate("Cosine", "initial", initial)
        self.steps = checked_count("Cosine", "steps", steps, 1)
        self.final = checked_number(
            "Cosine",
            "final",
            final,
            f"a number from 0 to initial, {initial}",
            lambda x: 0 <= x <= self.initial,
        )
        self.warmup_steps = checked_count("Cosine", "warmup_steps", warmup_steps, 0)
        if self.warmup_steps >= self.steps:
            raise ArgumentError(
                f"Cosine: warmup_steps is {warmup_steps}, wanted fewer than the {steps} steps it is part of"
            )

    def rate(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.initial * (step + 1) / (self.warmup_steps + 1)
        share = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return _half_cosine(self.initial, self.final, share)


class OneCycle(Schedule):
    """Up to `maximum`, then down far below the start, each along half a cosine.

    With peak = warmup_share * steps - 1, last = steps - 1 and h(a, b, p) half a cosine from a
    (at p = 0) to b (at p = 1):

        step < peak:   rate = h(maximum / start_divisor, maximum, step / peak)
        step >= peak:  rate = h(maximum, lowest, (step - peak) / (last - peak))
        lowest = maximum / start_divisor / final_divisor

    The last of the `steps` updates has the lowest rate, and so has every later one.  The peak is
    a fraction, so that no whole step need have exactly `maximum`.  This is PyTorch's OneCycleLR
    in its default form, for the rate alone: the momentum is not cycled.  Source: Smith and Topin,
    "Super-convergence: very fast training of neural networks using large learning rates", 2018,
    arXiv:1708.07120, which moves along straight lines; the cosine comes from fastai.
    """

    name = "one_cycle"
    fields = ("maximum", "steps", "warmup_share", "start_divisor", "final_divisor")

    def __init__(
        self,
        maximum: float,
        steps: int,
        warmup_share: float = 0.3,
        start_divisor: float = 25.0,
        final_divisor: float = 1e4,
    ):
        self.maximum = checked_rate("OneCycle", "maximum", maximum)
        self.steps = checked_count("OneCycle", "steps", steps, 1)
        self.warmup_share = checked_number(
            "OneCycle", "warmup_share", warmup_share, "a number from 0 to below 1", lambda x: 0 <= x < 1
        )
        self.start_divisor = _divisor("OneCycle", "start_divisor", start_divisor)
        self.final_divisor = _divisor("OneCycle", "final_divisor", final_divisor)

    def rate(self, step: int) -> float:
        start = self.maximum / self.start_divisor
        peak = self.warmup_share * self.steps - 1
        if step < peak:
            return _half_cosine(start, self.maximum, step / peak)
        share = (step - peak) / (self.steps - 1 - peak)
        return _half_cosine(self.maximum, start / self.final_divisor, share)


class Plateau(Schedule):
    """Multiply the rate by `factor` when a metric has not improved for `patience` epochs.

    The step plays no part: `update(metric)` at the end of every epoch decides.  A metric is an
    improvement where it is better than the best so far by more than `min_delta` (absolute);
    `mode` says whether smaller ("min", a loss) or larger ("max", an accuracy) is better.  At the
    `patience`-th epoch in a row without one,

        rate = max(rate * factor, minimum)

    and the count starts again.  This is Keras's ReduceLROnPlateau; PyTorch's waits one epoch
    longer for the same `patience`, and its threshold is relative by default.
    """

    name = "plateau"
    fields = ("initial", "factor", "patience", "min_delta", "minimum", "mode")

    def __init__(
        self,
        initial: float,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        minimum: float = 0.0,
        mode: str = "min",
    ):
        self.initial = checked_rate("Plateau", "initial", initial)
        self.factor = checked_number(
            "Plateau", "factor", factor, "a number above 0 and below 1", lambda x: 0 < x < 1
        )
        self.patience = checked_count("Plateau", "patience", patience, 1)
        self.min_delta = checked_number(
            "Plateau", "min_delta", min_delta, "a finite number of at least 0", lambda x: 0 <= x < math.inf
        )
        self.minimum = checked_number(
            "Plateau",
            "minimum",
            minimum,
            f"a number from 0 to initial, {initial}",
            lambda x: 0 <= x <= self.initial,
        )
        if mode not in ("min", "max"):
            raise ArgumentError(f"Plateau: mode is {mode!r}, wanted 'min' or 'max'")
        self.mode = mode
        self._rate = self.initial
        self._best: float | None = None
        self._waited = 0

    def rate(self, step: int) -> float:
        return self._rate

    def update(self, metric: float) -> bool:
        """Take in an epoch's metric; whether the rate fell.  Raises NonFiniteError for NaN or infinity."""
        if not isinstance(metric, numbers.Real) or isinstance(metric, bool):
            raise ArgumentError(f"Plateau: metric is {metric!r}, wanted a number")
        metric = float(metric)
        if not math.isfinite(metric):
            raise NonFiniteError(f"Plateau: metric is {metric}, wanted a finite number")
        if self._improves(metric):
            self._best = metric
            self._waited = 0
            return False
        self._waited += 1
        if self._waited < self.patience:
            return False
        self._waited = 0
        before = self._rate
        self._rate = max(before * self.factor, self.minimum)
        return self._rate < before

    def _improves(self, metric: float) -> bool:
        if self._best is None:
            return True
        if self.mode == "min":
            return metric < self._best - self.min_delta
        return metric > self._best + self.min_delta

    def state(self) -> dict[str, Any]:
        """The rate, the best metric (None before the first) and the epochs waited since."""
        return {"rate": self._rate, "best": self._best, "waited": self._waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if set(state) != {"rate", "best", "waited"}:
            raise ArgumentError(f"Plateau: got a state with {sorted(state)}, wanted best, rate and waited")
        rate = checked_number(
            "Plateau",
            "state rate",
            state["rate"],
            "a number from 0 to initial",
            lambda x: 0 <= x <= self.initial,
        )
        best = state["best"]
        if best is not None:
            best = checked_number("Plateau", "state best", best, "a finite number or None", math.isfinite)
        waited = checked_count("Plateau", "state waited", state["waited"], 0)
        self._rate, self._best, self._waited = rate, best, waited


SCHEDULES: dict[str, type[Schedule]] = {
    kind.name: kind for kind in (Constant, StepDecay, ExponentialDecay, Cosine, OneCycle, Plateau)
}

_Kind = TypeVar("_Kind", bound=Configured)


def build_from_config(config: Any, kinds: Mapping[str, type[_Kind]], what: str) -> _Kind:
    """The object that `config` = {"name": ..., argument: value, ...} describes, out of `kinds` by name.

    Raises ArgumentError for an unknown name, an unknown or missing argument, or a value the
    object's constructor refuses.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise ArgumentError(f"{what}: got {config!r}, wanted a mapping with a name and its arguments")
    name = config["name"]
    if name not in kinds:
        raise ArgumentError(f"{what}: name is {name!r}, wanted one of {', '.join(sorted(kinds))}")
    kind = kinds[name]
    arguments = {key: value for key, value in config.items() if key != "name"}
    unknown = sorted(set(arguments) - set(kind.fields))
    if unknown:
        raise ArgumentError(f"{what}: {name} got {', '.join(unknown)}, wanted only {', '.join(kind.fields)}")
    try:
        return kind(**arguments)
    except TypeError as error:  # Python's own words for a missing argument
        raise ArgumentError(f"{what}: {name}: {error}") from error


def schedule_from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule that `config()` described, in its state at the start.  Raises ArgumentError."""
    return build_from_config(config, SCHEDULES, "schedule")


def _half_cosine(first: float, last: float, share: float) -> float:
    """From `first` at share 0 to `last` at share 1 and beyond, level at both ends."""
    if share >= 1:
        return last  # exactly, whatever cos(pi) rounds to
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _share(owner: str, argument: str, value: Any) -> float:
    return checked_number(owner, argument, value, "a number above 0 and at most 1", lambda x: 0 < x <= 1)


def _divisor(owner: str, argument: str, value: Any) -> float:
    return checked_number(
        owner, argument, value, "a finite number of at least 1", lambda x: 1 <= x < math.inf
    )
