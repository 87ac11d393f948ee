"""What every optimiser shares: the step over all parameters, the slots, saving and restoring them.

An optimiser changes parameters in place from their gradients.  `optimizer.step({"conv1.weight":
tensor, ...})` is one update of every parameter that has a gradient.  What it remembers between
updates is in "slots", one array like the parameter a slot, found again by the parameter's key in
that dictionary.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinynet import kernels
from tinynet.errors import ArgumentError, NonFiniteError, ShapeError
from tinynet.schedules import (
    Configured,
    Constant,
    Schedule,
    checked_count,
    checked_number,
    schedule_from_config,
)
from tinynet.tensor import Tensor

Array = np.ndarray
Rate = float | Schedule | Mapping[str, Any]  # what may be given as a learning rate
# A parameter's name, data, gradient and the kernel set for their dtype.
Chosen = tuple[str, Array, Array, Any]

_USUAL = (np.dtype(np.float32), np.dtype(np.float64))  # what every kernel set knows; NumPy's knows others too


class _Looked:
    """What a step found to update; while the arrays stay the same, the next need not look again.

    In a recorded training step they do (training_step.py), and looking took a fifth of the update: 15 of
    80 us for ten parameters.
    """

    def __init__(self, parameters: Mapping[str, Tensor], chosen: list[Chosen]):
        self.chosen, self.active = chosen, kernels.active()
        self.seen = [(key, p, p.name, p.data, p.grad, p.requires_grad) for key, p in parameters.items()]
        self.decaying = [decays(parameters[key]) for key, *_ in chosen]
        # A gradient of another dtype was converted: the next may have other numbers in the same array.
        self.lasting = all(gradient is parameters[key].grad for key, _, gradient, _ in chosen)

    def are(self, parameters: Mapping[str, Tensor]) -> bool:
        """Whether these are the same parameters with the same arrays."""
        return (
            self.lasting
            and isinstance(parameters, Mapping)
            and len(parameters) == len(self.seen)
            and kernels.active() is self.active
            and all(
                key == name
                and tensor is p
                and p.name == called
                and p.data is data
                and p.grad is gradient
                and p.requires_grad == learns
                and data.flags.writeable
                for (key, tensor), (name, p, called, data, gradient, learns) in zip(
                    parameters.items(), self.seen, strict=True
                )
            )
        )


class Optimizer(Configured):
    """Base of the optimisers; a subclass names its slots and writes `update`, one parameter's step.

    learning_rate  a number above 0, a Schedule, or a Schedule's config()
    weight_decay   at least 0; what it multiplies is in the subclass's equation
    check_finite   look for NaN and infinity in the gradients before each step

    iterations           the number of steps made; the schedule is asked for this step next
    learning_rate_scale  a number that every rate is multiplied by, 1 unless someone sets it
    """

    def __init__(self, learning_rate: Rate, weight_decay: float, check_finite: bool):
        self.learning_rate = learning_rate  # type: ignore[assignment]  # the setter takes more than the getter gives
        self.weight_decay = checked_number(
            self._kind,
            "weight_decay",
            weight_decay,
            "a finite number of at least 0",
            lambda x: 0 <= x < math.inf,
        )
        self.check_finite = bool(check_finite)
        self.learning_rate_scale = 1.0
        self.iterations = 0
        # Updates of each parameter: fewer than iterations if it was frozen for a time.
        self._updates: dict[str, int] = {}
        self._slots: dict[str, dict[str, Array]] = {}
        self._last: _Looked | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # it holds the parameters, which a copy does not take along

    @property
    def _kind(self) -> str:
        return type(self).__name__

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the arrays remembered for each parameter."""
        raise NotImplementedError

    def update(
        self,
        kernel_set: Any,
        data: Array,
        gradient: Array,
        slots: dict[str, Array],
        rate: float,
        decay: float,
        count: int,
    ) -> None:
        """Change `data` and `slots` in place, leave `gradient` as it is.

        kernel_set is to do it (tinynet/kernels); data, gradient and the slots have one shape and
        dtype; decay is 0 for what does not decay; count is 1 at this parameter's first update.
        """
        raise NotImplementedError

    @property
    def learning_rate(self) -> float | Schedule:
        """The number or Schedule that was given; may be set, also in the middle of training."""
        return self.schedule.value if isinstance(self.schedule, Constant) else self.schedule

    @learning_rate.setter
    def learning_rate(self, value: Rate) -> None:
        if isinstance(value, Mapping):
            value = schedule_from_config(value)
        if isinstance(value, Schedule):
            self.schedule: Schedule = value
            return
        wanted = "a finite number above 0 or a Schedule"
        self.schedule = Constant(
            checked_number(self._kind, "learning_rate", value, wanted, lambda x: 0 < x < math.inf)
        )

    @property
    def current_learning_rate(self) -> float:
        """The rate of the next step: schedule(iterations) * learning_rate_scale."""
        # A Python float: a NumPy float64 would make float32 parameters' arithmetic float64.
        rate = self.schedule(self.iterations) * self.learning_rate_scale
        return checked_number(
            self._kind,
            f"learning rate of step {self.iterations}",
            rate,
            "a finite number of at least 0",
            lambda x: 0 <= x < math.inf,
        )

    def step(self, parameters: Mapping[str, Tensor]) -> None:
        """One update, in place, of every Tensor that requires a gradient and has one.

        parameters: by name; the same Tensor must have the same name in every call.  Frozen ones
        (`requires_grad` false or `grad` None) are passed over: neither decayed nor counted.
        Raises, before anything is changed, NonFiniteError for NaN or infinity in a gradient, or a square
        that overflows where squares are averaged (with `check_finite`), ShapeError for a gradient or slot
        of another shape than its parameter, ArgumentError where there is nothing to update.
        """
        last = self._last
        if last is None or not last.are(parameters):
            last = self._look(parameters)
        if self.check_finite:
            _refuse_non_finite(
                f"{self._kind}.step {self.iterations}", last.chosen, "mean_square" in self.slots
            )
        rate = self.current_learning_rate
        for (key, data, gradient, kernel_set), decaying in zip(last.chosen, last.decaying, strict=True):
            slots = self._slots.get(key)
            if slots is None:
                slots = self._slots[key] = {slot: np.zeros_like(data) for slot in self.slots}
            count = self._updates.get(key, 0) + 1
            decay = self.weight_decay if decaying else 0.0
            self.update(kernel_set, data, gradient, slots, rate, decay, count)
            self._updates[key] = count
        self.iterations += 1
        self._last = last

    def _look(self, parameters: Mapping[str, Tensor]) -> _Looked:
        """What there is to update, checked."""
        chosen = _with_gradients(self._kind, parameters)
        if not chosen:
            raise ArgumentError(
                f"{self._kind}.step: no parameter has a gradient, wanted backward() called first"
            )
        for key, data, gradient, _ in chosen:
            self._check(key, data, gradient)
        return _Looked(parameters, chosen)

    def _check(self, key: str, data: Array, gradient: Array) -> None:
        shape, dtype = data.shape, data.dtype
        if gradient.shape != shape:
            raise ShapeError(
                f"{self._kind}.step: the gradient of {key!r} has shape {gradient.shape}, wanted {shape}"
            )
        if not data.flags.writeable:
            raise ArgumentError(
                f"{self._kind}.step: the array of {key!r} is read-only, wanted a writeable one"
            )
        for slot, array in self._slots.get(key, {}).items():
            if array.shape != shape or array.dtype != dtype:
                _check_slot(self._kind, key, slot, array, data)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(arrays, scalars) for `load_state`: copies of the slots and what JSON can hold.

        A slot's name is "<parameter>/<slot>".  The configuration is not in it; that is `config()`.
        """
        arrays = {
            f"{key}/{slot}": array.copy()
            for key, slots in self._slots.items()
            for slot, array in slots.items()
        }
        scalars = {
            "optimizer": self.name,
            "iterations": self.iterations,
            "learning_rate_scale": self.learning_rate_scale,
            "updates": dict(self._updates),
            "schedule": self.schedule.state(),
        }
        return arrays, scalars

    def load_state(
        self,
        arrays: Mapping[str, Array],
        scalars: Mapping[str, Any],
        parameters: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Continue from a `state()` of an optimiser with the same configuration, bit for bit.

        With `parameters` the slots are checked against them here, otherwise in the next step.
        Raises ArgumentError for an entry that is missing, unknown or senseless, ShapeError for a
        slot of another shape than its parameter; then nothing is changed.
        """
        where = f"{self._kind}.load_state"
        _same_names(
            where,
            "scalars",
            scalars,
            ("optimizer", "iterations", "learning_rate_scale", "updates", "schedule"),
        )
        if scalars["optimizer"] != self.name:
            raise ArgumentError(
                f"{where}: got the state of {scalars['optimizer']!r}, wanted one of {self.name!r}"
            )
        iterations = checked_count(where, "iterations", scalars["iterations"], 0)
        scale = checked_number(
            where,
            "learning_rate_scale",
            scalars["learning_rate_scale"],
            "a finite number of at least 0",
            lambda x: 0 <= x < math.inf,
        )
        if not isinstance(scalars["updates"], Mapping) or not isinstance(scalars["schedule"], Mapping):
            raise ArgumentError(f"{where}: updates and schedule must be mappings")
        updates = {
            key: checked_count(where, f"updates of {key}", n, 1) for key, n in scalars["updates"].items()
        }
        if updates and max(updates.values()) > iterations:
            raise ArgumentError(f"{where}: a parameter has more updates than the {iterations} iterations")
        _same_names(where, "arrays", arrays, [f"{key}/{slot}" for key in updates for slot in self.slots])
        if parameters is not None and not set(updates) <= set(parameters):
            raise ArgumentError(
                f"{where}: the model has no parameter {_listed(set(updates) - set(parameters))}"
            )
        restored: dict[str, dict[str, Array]] = {}
        for key in updates:
            # np.array copies: the file's arrays may be read-only or shared.
            restored[key] = {slot: np.array(arrays[f"{key}/{slot}"]) for slot in self.slots}
            for slot, array in restored[key].items():
                like = restored[key][self.slots[0]] if parameters is None else parameters[key].data
                _check_slot(where, key, slot, array, like)
        self.schedule.load_state(scalars["schedule"])
        self.iterations, self.learning_rate_scale = iterations, scale
        self._updates, self._slots, self._last = updates, restored, None

    def config(self) -> dict[str, Any]:
        """Kind and arguments, as JSON can hold them, for `optimizer_from_config`."""
        rate = self.learning_rate
        return {**super().config(), "learning_rate": rate.config() if isinstance(rate, Schedule) else rate}


def clip_gradients_by_norm(parameters: Mapping[str, Tensor], maximum: float) -> float:
    """Scale all gradients by one factor so that their joint norm is at most `maximum`; the norm before.

        norm = sqrt(sum of the squares of every element of every gradient);   g <- g min(1, maximum / norm)

    maximum: above 0; infinity only measures.  Sums are in float64.  Raises ArgumentError for a
    senseless maximum, NonFiniteError, naming the parameter, for NaN or infinity in a gradient.
    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013, algorithm 1.
    """
    where = "clip_gradients_by_norm"
    maximum = checked_number(where, "maximum", maximum, "a number above 0", lambda x: x > 0)
    chosen = _with_gradients(where, parameters)
    _refuse_non_finite(where, chosen, squares=False)
    # fsum is exact, so the order of the parameters cannot matter.
    norm = math.sqrt(math.fsum(float(np.sum(np.square(g, dtype=np.float64))) for _, _, g, _ in chosen))
    if norm > maximum:
        for key, _, gradient, _ in chosen:
            parameters[key].grad = np.multiply(gradient, gradient.dtype.type(maximum / norm), out=gradient)
    return norm


def decays(parameter: Tensor) -> bool:
    """Whether weight decay applies: by name if it has one, else from two dimensions up."""
    return parameter.ndim >= 2 if parameter.name is None else parameter.name.endswith("weight")


def _with_gradients(where: str, parameters: Mapping[str, Tensor]) -> list[Chosen]:
    """What each parameter that is to change has, the gradient in the dtype of the data."""
    if not isinstance(parameters, Mapping):
        raise ArgumentError(
            f"{where}: parameters is a {type(parameters).__name__}, wanted a dict of Tensors by name"
        )
    names: dict[int, str] = {}
    active = kernels.active()
    chosen = []
    for key, parameter in parameters.items():
        if not isinstance(parameter, Tensor):
            raise ArgumentError(f"{where}: {key!r} is a {type(parameter).__name__}, wanted a Tensor")
        if parameter.grad is None or not parameter.requires_grad:
            continue
        if id(parameter) in names:  # it would be changed twice
            raise ArgumentError(
                f"{where}: {names[id(parameter)]!r} and {key!r} are one Tensor, wanted it once"
            )
        names[id(parameter)] = key
        data = parameter.data
        kernel_set = active if data.dtype in _USUAL else importlib.import_module("tinynet.kernels.numpy")
        chosen.append((key, data, np.asarray(parameter.grad, data.dtype), kernel_set))
    return chosen


def _refuse_non_finite(where: str, chosen: list[Chosen], squares: bool) -> None:
    """NonFiniteError if a gradient is not finite, or its square would not be where that is averaged.

    An infinite mean square would divide every later gradient: the number would never change again.
    """
    limits = {dtype: float(np.sqrt(np.finfo(dtype).max)) for dtype in {g.dtype for _, _, g, _ in chosen}}
    for key, _, gradient, kernel_set in chosen:
        limit = limits[gradient.dtype] if squares else np.inf
        if not kernel_set.all_finite(gradient, limit):
            found = "NaN" if np.isnan(gradient).any() else "infinity"
            if np.isfinite(gradient).all():
                found = f"{float(np.abs(gradient).max()):.3g}, whose square overflows {gradient.dtype},"
            raise NonFiniteError(f"{where}: the gradient of {key!r} has {found} in it")


def _check_slot(where: str, key: str, slot: str, array: Array, like: Array) -> None:
    if array.shape != like.shape:
        raise ShapeError(f"{where}: {slot} of {key!r} has shape {array.shape}, wanted {like.shape}")
    if array.dtype != like.dtype or array.dtype.kind != "f":
        raise ArgumentError(
            f"{where}: {slot} of {key!r} is {array.dtype}, wanted the parameter's {like.dtype}"
        )


def _same_names(where: str, what: str, got: Any, wanted: Any) -> None:
    if not isinstance(got, Mapping):
        raise ArgumentError(f"{where}: {what} is a {type(got).__name__}, wanted a dict")
    missing, unknown = set(wanted) - set(got), set(got) - set(wanted)
    if missing:
        raise ArgumentError(f"{where}: {what} lack {_listed(missing)}")
    if unknown:
        raise ArgumentError(
            f"{where}: {what} have {_listed(unknown)}, which {where.split('.')[0]} does not know"
        )


def _listed(names: set[str]) -> str:
    shown = sorted(map(str, names))
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
