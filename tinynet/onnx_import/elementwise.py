"""Operators that work element by element, with NumPy's broadcasting where there are several inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinynet import functional as F
from tinynet.onnx_import.records import ELEMENT_TYPES, Call
from tinynet.onnx_import.registry import MANY, REQUIRED, integer, operator, real, text


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0): the engine's for floating point."""
    return F.relu(x).numpy() if x.dtype in (np.float32, np.float64) else np.maximum(x, x.dtype.type(0))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return F.sigmoid(x).numpy()


def softplus(x: np.ndarray) -> np.ndarray:
    """ln(1 + exp(x)), which cannot overflow."""
    return np.logaddexp(x, x.dtype.type(0))


def hard_swish(x: np.ndarray) -> np.ndarray:
    """x * max(0, min(1, x / 6 + 1 / 2))."""
    return x * np.clip(x / 6 + 0.5, 0, 1)


_UNARY: list[tuple[str, Callable[[np.ndarray], np.ndarray], tuple[int, ...]]] = [
    ("Abs", np.abs, (6, 13)),
    ("Ceil", np.ceil, (6, 13)),
    ("Cos", np.cos, (7, 22)),
    ("Exp", np.exp, (6, 13)),
    ("Floor", np.floor, (6, 13)),
    ("HardSwish", hard_swish, (14, 22)),
    ("Log", np.log, (6, 13)),
    ("Neg", np.negative, (6, 13)),
    ("Reciprocal", lambda x: 1 / x, (6, 13)),
    ("Relu", relu, (6, 13, 14)),
    ("Round", np.rint, (11, 22)),
    ("Sigmoid", sigmoid, (6, 13)),
    ("Sign", np.sign, (9, 13)),
    ("Sin", np.sin, (7, 22)),
    ("Softplus", softplus, (1, 22)),
    ("Softsign", lambda x: x / (1 + np.abs(x)), (1, 22)),
    ("Sqrt", np.sqrt, (6, 13)),
    ("Tanh", np.tanh, (6, 13)),
]


def _register_unary(name: str, function: Callable[[np.ndarray], np.ndarray], versions: tuple) -> None:
    @operator(name, *versions)
    def carry_out(call: Call, x: np.ndarray) -> np.ndarray:
        call.room(x.shape)
        return np.asarray(function(x)).astype(x.dtype, copy=False)


for _entry in _UNARY:
    _register_unary(*_entry)


@operator("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
def identity(call: Call, x: np.ndarray) -> np.ndarray:
    """x."""
    return x


@operator("Not", 1)
def logical_not(call: Call, x: np.ndarray) -> np.ndarray:
    """Whether x is false."""
    _same_type(call, x)
    if x.dtype != np.bool_:
        call.refuse(f"its input is {x.dtype}, wanted bool")
    return ~x


def divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x / y; of integers the whole part, towards zero as in C."""
    if x.dtype.kind == "f":
        return x / y
    quotient = x // y
    remainder = x - quotient * y
    return quotient + ((remainder != 0) & ((x < 0) != (y < 0))).astype(x.dtype)


def _register_binary(name: str, function: Callable, versions: tuple, kinds: str) -> None:
    @operator(name, *versions, inputs=2, broadcast=integer(0, 0, 1), axis=integer())
    def carry_out(call: Call, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = call.broadcast(*_old_broadcast(call, x, y))
        _same_type(call, x, y)
        if x.dtype.kind not in kinds:
            call.refuse(f"its inputs are {x.dtype}, which it does not take")
        return function(x, y)


_BINARY: list[tuple[str, Callable, tuple[int, ...], str]] = [
    ("Add", np.add, (6, 7, 13, 14), "fiu"),
    ("Sub", np.subtract, (6, 7, 13, 14), "fiu"),
    ("Mul", np.multiply, (6, 7, 13, 14), "fiu"),
    ("Div", divide, (6, 7, 13, 14), "fiu"),
    ("Greater", np.greater, (1, 7, 9, 13), "fiu"),
    ("GreaterOrEqual", np.greater_equal, (12, 16), "fiu"),
    ("Less", np.less, (1, 7, 9, 13), "fiu"),
    ("LessOrEqual", np.less_equal, (12, 16), "fiu"),
    ("Equal", np.equal, (1, 7, 11, 13, 19), "fiub"),
    ("And", np.logical_and, (1, 7), "b"),
    ("Or", np.logical_or, (1, 7), "b"),
    ("Xor", np.logical_xor, (1, 7), "b"),
]
for _binary in _BINARY:
    _register_binary(*_binary)


def _old_broadcast(call: Call, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Before opset 7: y's axes are those of x from `axis` on, and only where `broadcast` says so."""
    if call.opset >= 7:
        if call["axis"] is not None or call["broadcast"]:
            call.refuse("the attributes 'axis' and 'broadcast' ended with opset 6")
        return x, y
    if not call["broadcast"]:
        if x.shape != y.shape:
            call.refuse(f"shapes {x.shape} and {y.shape} differ, and 'broadcast' is not set")
        return x, y
    axis = call["axis"]
    if axis is None:
        return x, y
    after = x.ndim - (axis % max(x.ndim, 1)) - y.ndim
    if after < 0 or not -x.ndim <= axis < x.ndim:
        call.refuse(f"a shape {y.shape} at axis {axis} does not fit {x.shape}")
    return x, y.reshape(y.shape + (1,) * after)


@operator("Pow", 1, 7, 12, 13, 15, inputs=2, broadcast=integer(0, 0, 1), axis=integer())
def power(call: Call, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x to the power y, in the type of x."""
    x, y = call.broadcast(*_old_broadcast(call, x, y))
    for array in (x, y):
        if array.dtype.kind not in "fiu":
            call.refuse(f"it does not take {array.dtype}")
    return np.power(x, y).astype(x.dtype, copy=False)


def _register_variadic(name: str, function: Callable, versions: tuple, divided: bool = False) -> None:
    @operator(name, *versions, inputs=(1, MANY))
    def carry_out(call: Call, *arrays: np.ndarray) -> np.ndarray:
        _same_type(call, *arrays)
        total = arrays[0]
        for array in arrays[1:]:
            total = function(*call.broadcast(total, array))
        return (total / len(arrays)).astype(total.dtype) if divided else total


_register_variadic("Max", np.maximum, (6, 8, 12, 13))
_register_variadic("Min", np.minimum, (6, 8, 12, 13))
_register_variadic("Sum", np.add, (6, 8, 13))
_register_variadic("Mean", np.add, (6, 8, 13), divided=True)


@operator("Clip", 6, 11, 12, 13, inputs=(1, 3), min=real(), max=real())
def clip(call: Call, x: np.ndarray, low: Any = None, high: Any = None) -> np.ndarray:
    """min(max(x, low), high)."""
    low, high = (call["min"] if low is None else low), (call["max"] if high is None else high)
    call.room(x.shape)
    for bound, function in ((low, np.maximum), (high, np.minimum)):
        if bound is not None:
            bound = np.asarray(bound, x.dtype)
            if bound.size != 1:
                call.refuse(f"its bounds must be single numbers, got the shape {bound.shape}")
            x = function(x, bound.reshape(()))
    return x


@operator("LeakyRelu", 6, 16, alpha=real(0.01))
def leaky_relu(call: Call, x: np.ndarray) -> np.ndarray:
    """x where it is positive, else alpha x."""
    return np.where(x < 0, x * x.dtype.type(call["alpha"]), x)


@operator("Elu", 6, 22, alpha=real(1.0))
def elu(call: Call, x: np.ndarray) -> np.ndarray:
    """x where it is positive, else alpha (exp(x) - 1)."""
    return np.where(x < 0, np.expm1(np.minimum(x, 0)) * x.dtype.type(call["alpha"]), x)


@operator("Selu", 6, 22, alpha=real(1.67326319217681884765625), gamma=real(1.05070102214813232421875))
def selu(call: Call, x: np.ndarray) -> np.ndarray:
    """gamma times x where it is positive, else gamma alpha (exp(x) - 1)."""
    below = np.expm1(np.minimum(x, 0)) * x.dtype.type(call["alpha"])
    return np.where(x > 0, x, below) * x.dtype.type(call["gamma"])


@operator("HardSigmoid", 6, 22, alpha=real(0.2), beta=real(0.5))
def hard_sigmoid(call: Call, x: np.ndarray) -> np.ndarray:
    """max(0, min(1, alpha x + beta))."""
    return np.clip(x * x.dtype.type(call["alpha"]) + x.dtype.type(call["beta"]), 0, 1)


@operator("PRelu", 6, 7, 9, 16, inputs=2)
def p_relu(call: Call, x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """x where it is positive, else slope x; before opset 7 slope is a number a channel."""
    if call.opset < 7 and slope.size > 1:
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    call.broadcast(x, slope)
    return np.where(x < 0, x * slope, x).astype(x.dtype, copy=False)


@operator("Where", 9, 16, inputs=3)
def where(call: Call, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x where the condition holds, y elsewhere."""
    _same_type(call, x, y)
    if condition.dtype != np.bool_:
        call.refuse(f"its condition is {condition.dtype}, wanted bool")
    call.broadcast(condition, x, y)
    return np.where(condition, x, y)


@operator(
    "Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28,
    to=integer(REQUIRED), saturate=integer(1), round_mode=text("up"),
    note="to bool, integers, float16, float32, float64",
)  # fmt: skip
def cast(call: Call, x: np.ndarray) -> np.ndarray:
    """x in another type; what a float does not fit into is left to NumPy, as ONNX leaves it undefined."""
    dtype = ELEMENT_TYPES.get(call["to"])
    if dtype is None:
        call.refuse(f"the attribute 'to' is {call['to']}, a type of elements that is not supported")
    call.room(x.shape)
    return x.astype(dtype)


@operator(
    "Dropout", 6, 7, 10, 12, 13, 22, inputs=(1, 3), outputs=2,
    ratio=real(0.5), is_test=integer(0), seed=integer(), note="as in use: nothing is dropped",
)  # fmt: skip
def dropout(call: Call, x: np.ndarray, ratio: Any = None, training: Any = None) -> Any:
    """x, and a mask that keeps everything."""
    if call.opset < 7 and not call["is_test"]:
        call.refuse("the attribute 'is_test' is 0: dropout in training is not supported")
    if training is not None and training.any() and (ratio is None or ratio.any()):
        call.refuse("the input 'training_mode' is true: dropout in training is not supported")
    if len(call.node.outputs) == 1:
        return x
    return x, np.ones(call.room(x.shape), x.dtype if call.opset < 10 else np.bool_)


def _same_type(call: Call, *arrays: np.ndarray) -> None:
    types = sorted({array.dtype.name for array in arrays})
    if len(types) > 1:
        call.refuse(f"its inputs are {' and '.join(types)}; wanted one type")
