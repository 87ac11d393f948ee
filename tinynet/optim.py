"""Optimisers: SGD, RMSprop and AdamW.

In the equations w is a parameter, g its gradient, a the learning rate of this update and d
the weight decay; products, squares and roots are elementwise.  Everything is done in place, in
the parameter's own dtype; kernels/numpy/optimizer.py has the arithmetic.

Weight decay is for weights alone: pulling biases and batch-norm's scale and shift towards zero
does not regularise.  A named tensor decays if its name ends in "weight", an unnamed one if it
has two dimensions or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tinynet.errors import ArgumentError
from tinynet.optim_base import Array, Optimizer, Rate, clip_gradients_by_norm, decays
from tinynet.schedules import build_from_config, checked_number

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "clip_gradients_by_norm",
    "decays",
    "get_optimizer",
    "optimizer_from_config",
]


class SGD(Optimizer):
    """Gradient descent on the batch's loss, with momentum if asked for.

        g' = g + d w
        momentum 0:  w <- w - a g'
        momentum m:  v <- m v - a g';   w <- w + v             (plain)
                                        w <- w + m v - a g'    (Nesterov)

    Slot: velocity (v), if there is momentum.  Source: Sutskever, Martens, Dahl and Hinton, "On the
    importance of initialization and momentum in deep learning", ICML 2013, equations 1 to 4; the
    Nesterov form is Keras's, with w standing for the point looked ahead to.

    Others: Keras keeps v just so.  PyTorch's buffer is -v / a; at a constant rate the weights are
    the same, while under a schedule PyTorch rescales past gradients to the new rate as well.  The
    decay is an L2 penalty of d/2 |w|^2, as PyTorch's; Keras's `weight_decay` decouples it.
    """

    name = "sgd"
    fields = ("learning_rate", "momentum", "nesterov", "weight_decay", "check_finite")

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        check_finite: bool = True,
    ):
        super().__init__(learning_rate, weight_decay, check_finite)
        self.momentum = _fraction("SGD", "momentum", momentum)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ArgumentError("SGD: nesterov is True with a momentum of 0, wanted a momentum above 0")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

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
        velocity = slots["velocity"] if self.momentum else None
        kernel_set.sgd(data, gradient, velocity, rate, decay, self.momentum, self.nesterov)


class RMSprop(Optimizer):
    """Each weight's gradient divided by the root of its running mean square.

        g' = g + d w
        s <- rho s + (1 - rho) g'^2
        u = a g' / sqrt(s + epsilon)
        momentum 0:  w <- w - u
        momentum m:  v <- m v + u;   w <- w - v

    Slots: mean_square (s) and, if there is momentum, velocity (v).  Source: Tieleman and Hinton,
    "Neural networks for machine learning", lecture 6.5, 2012.

    Where epsilon stands matters.  Here, as in Keras, it is under the root: 1e-7 there bounds the
    divisor by 3.2e-4, so that gradients well below that size are not scaled up in full.  PyTorch
    has sqrt(s) + epsilon with 1e-8, and rho (its alpha) is 0.99 by default.  With momentum PyTorch
    also applies the rate to v instead of to u, which is the same at a constant rate only.  The
    decay is an L2 penalty, as PyTorch's; Keras's `weight_decay` decouples it.
    """

    name = "rmsprop"
    fields = ("learning_rate", "rho", "epsilon", "momentum", "weight_decay", "check_finite")

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        rho: float = 0.9,
        epsilon: float = 1e-7,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        check_finite: bool = True,
    ):
        super().__init__(learning_rate, weight_decay, check_finite)
        self.rho = _fraction("RMSprop", "rho", rho)
        self.epsilon = _epsilon("RMSprop", epsilon)
        self.momentum = _fraction("RMSprop", "momentum", momentum)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mean_square", "velocity") if self.momentum else ("mean_square",)

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
        mean_square, velocity = slots["mean_square"], slots["velocity"] if self.momentum else None
        kernel_set.rmsprop(
            data, gradient, mean_square, velocity, rate, decay, self.rho, self.epsilon, self.momentum
        )


class AdamW(Optimizer):
    """Adam, with the weight decay taken out of the gradient.

        m <- beta_1 m + (1 - beta_1) g
        s <- beta_2 s + (1 - beta_2) g^2
        w <- (1 - a d) w - a (m / (1 - beta_1^t)) / (sqrt(s / (1 - beta_2^t)) + epsilon)

    t counts this parameter's own updates from 1, so that one unfrozen late is corrected for its
    own short history (PyTorch counts so too; Keras counts the optimiser's steps).

    Slots: mean (m), mean_square (s).  Sources: Kingma and Ba, "Adam: a method for stochastic
    optimization", ICLR 2015, algorithm 1; Loshchilov and Hutter, "Decoupled weight decay
    regularization", ICLR 2019, algorithm 2, where the decay is multiplied by the schedule alone;
    here, as in PyTorch and Keras, by the whole learning rate.
    """

    name = "adamw"
    fields = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay", "check_finite")

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        check_finite: bool = True,
    ):
        super().__init__(learning_rate, weight_decay, check_finite)
        self.beta_1 = _fraction("AdamW", "beta_1", beta_1)
        self.beta_2 = _fraction("AdamW", "beta_2", beta_2)
        self.epsilon = _epsilon("AdamW", epsilon)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mean", "mean_square")

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
        mean, mean_square = slots["mean"], slots["mean_square"]
        kernel_set.adamw(
            data, gradient, mean, mean_square, rate, decay, self.beta_1, self.beta_2, self.epsilon, count
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, RMSprop, AdamW)}


def optimizer_from_config(config: Mapping[str, Any]) -> Optimizer:
    """The optimiser that `config()` described, before its first step.  Raises ArgumentError."""
    return build_from_config(config, OPTIMIZERS, "optimizer")


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """The optimiser itself, or by name ("sgd", "rmsprop", "adamw") a new one with its defaults."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]()  # type: ignore[call-arg]  # the subclasses have defaults
    raise ArgumentError(f"optimizer is {optimizer!r}, wanted an Optimizer or one of {', '.join(OPTIMIZERS)}")


def _fraction(owner: str, argument: str, value: Any) -> float:
    return checked_number(owner, argument, value, "a number from 0 to below 1", lambda x: 0 <= x < 1)


def _epsilon(owner: str, value: Any) -> float:
    return checked_number(owner, "epsilon", value, "a finite number above 0", lambda x: 0 < x < math.inf)
