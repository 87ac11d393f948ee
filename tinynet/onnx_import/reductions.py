"""Sums over axes and products of matrices, softmax among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinynet import functional as F
from tinynet.onnx_import.records import Call
from tinynet.onnx_import.registry import integer, integers, operator, real, result_type
from tinynet.onnx_import.shaping import listed, positive_axes, positive_axis


def total(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The sum over the axes, which stay with length 1, in the type of x."""
    return np.sum(x, axis=axes, keepdims=True, dtype=x.dtype)


def largest(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The maximum; of nothing the smallest number there is."""
    return np.max(x, axis=axes, keepdims=True, initial=_extreme(x.dtype, smallest=True))


def smallest(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The minimum; of nothing the largest number there is."""
    return np.min(x, axis=axes, keepdims=True, initial=_extreme(x.dtype, smallest=False))


def log_sum_exp(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """ln(sum(exp(x))) without overflow; of nothing -infinity."""
    shift = largest(x, axes)
    shift = np.where(np.isfinite(shift), shift, x.dtype.type(0))
    return shift + np.log(total(np.exp(x - shift), axes))


def _extreme(dtype: np.dtype, smallest: bool) -> Any:
    if dtype.kind == "b":
        return not smallest
    if dtype.kind == "f":
        return dtype.type(-np.inf if smallest else np.inf)
    return np.iinfo(dtype).min if smallest else np.iinfo(dtype).max


_REDUCTIONS: list[tuple[str, Callable, tuple[int, ...]]] = [
    ("ReduceL1", lambda x, axes: total(np.abs(x), axes), (1, 11, 13, 18)),
    ("ReduceL2", lambda x, axes: np.sqrt(total(np.square(x), axes)), (1, 11, 13, 18)),
    ("ReduceLogSum", lambda x, axes: np.log(total(x, axes)), (1, 11, 13, 18, 28)),
    ("ReduceLogSumExp", log_sum_exp, (1, 11, 13, 18, 28)),
    ("ReduceMax", largest, (1, 11, 12, 13, 18, 20)),
    ("ReduceMean", lambda x, axes: np.mean(x, axis=axes, keepdims=True), (1, 11, 13, 18)),
    ("ReduceMin", smallest, (1, 11, 12, 13, 18, 20)),
    ("ReduceProd", lambda x, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype), (1, 11, 13, 18)),
    ("ReduceSum", total, (1, 11, 13)),
    ("ReduceSumSquare", lambda x, axes: total(np.square(x), axes), (1, 11, 13, 18)),
]


def _register_reduction(name: str, function: Callable, versions: tuple[int, ...]) -> None:
    @operator(
        name, *versions, inputs=(1, 2), axes=integers(), keepdims=integer(1, 0, 1),
        noop_with_empty_axes=integer(0, 0, 1),
    )  # fmt: skip
    def carry_out(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        given = call["axes"] if axes is None else listed(call, "axes", axes)
        if not given and call["noop_with_empty_axes"]:
            return x
        call.room(x.shape)
        chosen = positive_axes(call, given, x.ndim) if given else tuple(range(x.ndim))
        result = np.asarray(function(x, chosen)).astype(x.dtype, copy=False)
        return result if call["keepdims"] else np.squeeze(result, axis=chosen)


for _entry in _REDUCTIONS:
    _register_reduction(*_entry)


def _register_place(name: str, function: Callable) -> None:
    @operator(
        name, 1, 11, 12, 13, axis=integer(0), keepdims=integer(1, 0, 1), select_last_index=integer(0, 0, 1)
    )
    def carry_out(call: Call, x: np.ndarray) -> np.ndarray:
        axis = positive_axis(call, call["axis"], x.ndim)
        if call["select_last_index"]:
            found = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis)
        else:
            found = function(x, axis=axis)
        found = found.astype(np.int64)
        return np.expand_dims(found, axis) if call["keepdims"] else found


_register_place("ArgMax", np.argmax)
_register_place("ArgMin", np.argmin)


def _register_softmax(name: str, function: Callable) -> None:
    @operator(name, 1, 11, 13, axis=integer())
    def carry_out(call: Call, x: np.ndarray) -> np.ndarray:
        if x.dtype.kind != "f" or not x.ndim or 0 in x.shape:
            call.refuse(f"its input is {x.dtype} of shape {x.shape}; wanted scores")
        new = call.opset >= 13
        axis = positive_axis(call, (-1 if new else 1) if call["axis"] is None else call["axis"], x.ndim)
        wide = x.astype(result_type(x), copy=False)
        if new:
            result = np.moveaxis(function(np.moveaxis(wide, axis, -1)).numpy(), -1, axis)
        else:  # over all axes from `axis` on
            result = function(wide.reshape(*x.shape[:axis], -1)).numpy().reshape(x.shape)
        return result.astype(x.dtype, copy=False)


_register_softmax("Softmax", F.softmax)
_register_softmax("LogSoftmax", F.log_softmax)


@operator("MatMul", 1, 9, 13, inputs=2)
def matmul(call: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of matrices, as numpy.matmul."""
    if not a.ndim or not b.ndim or a.dtype != b.dtype:
        call.refuse(f"its inputs are {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    call.room((*batch, *rows, *columns), max(1, a.shape[-1]))
    return np.matmul(a, b)


@operator(
    "Gemm", 6, 7, 9, 11, 13, inputs=(2, 3), alpha=real(1.0), beta=real(1.0), transA=integer(0, 0, 1),
    transB=integer(0, 0, 1), broadcast=integer(0),
)  # fmt: skip
def gemm(call: Call, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    """alpha a b + beta c, a and b perhaps transposed."""
    if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype:
        call.refuse(f"its inputs are {a.dtype} {a.shape} and {b.dtype} {b.shape}, wanted two matrices")
    a, b = (a.T if call["transA"] else a), (b.T if call["transB"] else b)
    call.room((a.shape[0], b.shape[1]), max(1, a.shape[1]))
    result = np.matmul(a, b) * a.dtype.type(call["alpha"])
    if c is not None:
        if np.broadcast_shapes(c.shape, result.shape) != result.shape:
            call.refuse(f"its third input {c.shape} does not broadcast to {result.shape}")
        result = result + c * c.dtype.type(call["beta"])
    return result.astype(a.dtype, copy=False)
