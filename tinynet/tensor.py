"""Tensor: an array that remembers the operation that made it, and `backward()`.

Reverse-mode differentiation in two classes.  A `Function` computes an array from arrays
(`forward`) and multiplies a cotangent by its transposed Jacobian (`backward`).  A `Tensor`
holds the array and a reference to the Function that made it; the Function holds its input
Tensors.  `Tensor.backward()` walks those references from the result to the leaves, in an
order in which every cotangent is complete before it is passed on.

Source of the method: Baydin, Pearlmutter, Radul and Siskind, "Automatic differentiation in
machine learning: a survey", JMLR 18 (2018), section 3.2.
"""

from __future__ import annotations

import math
import operator
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tinynet.errors import ArgumentError, ShapeError
from tinynet.kernels.recording import after, in_order, refuse


@dataclass(frozen=True)
class Lanes:
    """How a batch of images is stored: (blocks, channels, height, width, lanes), one image a lane.

    count: real images; the lanes after them, in the last block, are padding.
    flat:  whether the batch stands for (count, features) vectors instead of
           (count, height, width, channels) images.  Flattening changes only this mark.
    """

    count: int
    flat: bool = False

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The ordinary shape that an array of the `stored` shape stands for."""
        _, channels, height, width, _ = stored
        if self.flat:
            return (self.count, height * width * channels)
        return (self.count, height, width, channels)


# Each thread has its own, so that a predicting thread does not disturb a training one.
_mode = threading.local()


def grad_enabled() -> bool:
    """Whether operations in this thread are recorded for backward()."""
    return getattr(_mode, "enabled", True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Within the `with` block, record nothing: results have no history and need no memory for it."""
    before = grad_enabled()
    _mode.enabled = False
    try:
        yield
    finally:
        _mode.enabled = before


class Observer:
    """Lets a thread's computations pass through it, one after another; here unchanged.  See profiling.py."""

    def forward(self, function: Function, arrays: list[np.ndarray]) -> np.ndarray:
        """Compute the function's result."""
        return function.forward(*arrays)

    def backward(self, function: Function, cotangent: np.ndarray) -> tuple[np.ndarray | None, ...]:
        """Compute the cotangents of the function's inputs."""
        return function.backward(cotangent)

    def layers(self, names: tuple[str, ...]) -> None:
        """Layers of these names, computed as one, have just been done (see layers/blocks.py)."""


def observer() -> Observer | None:
    """Who observes this thread, if anyone does."""
    return getattr(_mode, "observer", None)


@contextmanager
def observed_by(one: Observer) -> Iterator[None]:
    """Within the `with` block, this thread's functions are computed by way of `one`."""
    before = observer()
    _mode.observer = one
    try:
        yield
    finally:
        _mode.observer = before


class Tensor:
    """A float32 or float64 array (integers too, without gradient) with its place in a computation.

    data           the array; inside a model it may be in lane layout, then `lanes` says so
    requires_grad  whether backward() should leave its gradient in `grad`
    grad           after backward(): the gradient, an array like `data`; it accumulates
    creator        the Function that made this tensor, None for a leaf
    name           for printing and for finding a parameter again

    Arithmetic (+ - * / ** @, comparison aside), indexing and the methods at the end of
    functions/operators.py broadcast like NumPy's.  Python numbers take the tensor's dtype.
    """

    __slots__ = ("creator", "data", "grad", "lanes", "name", "requires_grad", "retains_grad")
    __array_priority__ = 1000  # ndarray + Tensor asks the Tensor

    def __init__(self, data: Any, requires_grad: bool = False, name: str | None = None):
        if isinstance(data, Tensor):
            data = data.numpy()
        array = np.asarray(data)
        if array.dtype == np.float16 or (
            array.dtype.kind == "f" and not isinstance(data, np.ndarray | np.generic)
        ):
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiub":
            raise ArgumentError(f"Tensor: data must be numbers, got an array of {array.dtype}")
        if requires_grad and array.dtype.kind != "f":
            raise ArgumentError(f"Tensor: only floating-point data has a gradient, got {array.dtype}")
        self.data: np.ndarray = array
        self.requires_grad = requires_grad
        self.retains_grad = False
        self.grad: np.ndarray | None = None
        self.creator: Function | None = None
        self.lanes: Lanes | None = None
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        """The ordinary shape: (n, height, width, channels) for images, whatever the storage."""
        return self.lanes.shape(self.data.shape) if self.lanes else self.data.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("Tensor: a scalar has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        parts = [f"shape={self.shape}", f"dtype={self.dtype}"]
        if self.size <= 8:
            parts.insert(0, np.array2string(self.numpy(), precision=4, separator=", "))
        if self.name:
            parts.append(f"name={self.name!r}")
        if self.lanes:
            parts.append(f"lanes={self.data.shape}")
        if self.creator is not None:
            parts.append(f"from={self.creator.label}")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"Tensor({', '.join(parts)})"

    def numpy(self) -> np.ndarray:
        """The values as an ordinary array of `shape`; shared with `data` unless in lane layout."""
        return _ordinary(self.data, self.lanes)

    def grad_numpy(self) -> np.ndarray | None:
        """The gradient as an ordinary array of `shape`, or None."""
        return None if self.grad is None else _ordinary(self.grad, self.lanes)

    def item(self) -> float:
        """The value of a tensor with one element, as a Python number."""
        if self.size != 1:
            raise ShapeError(f"Tensor.item: wanted one element, got shape {self.shape}")
        return self.numpy().reshape(()).item()

    if TYPE_CHECKING:  # attached by functions/operators.py

        def __getattr__(self, name: str) -> Any: ...

        def _binary(self, other: Any) -> Tensor: ...

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _binary
        __truediv__ = __rtruediv__ = __pow__ = __matmul__ = __getitem__ = _binary

    def detach(self) -> Tensor:
        """The same data without history: gradients stop here."""
        result = Tensor(self.data)
        result.lanes = self.lanes
        return result

    def retain_grad(self) -> Tensor:
        """Ask backward() to keep this tensor's gradient although it is not a leaf."""
        self.retains_grad = True
        return self

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def backward(
        self, cotangent: Any = None, trace: bool | TextIO = False, *, create_graph: bool = False
    ) -> None:
        """Leave d(self . cotangent)/d(leaf) in the `grad` of every leaf that requires it.

        cotangent     like `data`; may be left out for a scalar, where it is 1
        trace         True prints each step (operation, shapes, gradient norms) to standard
                      output, a file object prints there
        create_graph  what other libraries call recording the gradient's own computation.  Refused:
                      gradients are arrays without history, and the gradient of a gradient is out of scope

        Raises ShapeError where the cotangent is missing or misshapen, ArgumentError where
        nothing requires a gradient or that of a gradient is asked for.
        """
        if create_graph or (isinstance(cotangent, Tensor) and cotangent.requires_grad):
            raise ArgumentError(
                "backward: the gradient of a gradient is out of scope; gradients are arrays without history"
            )
        if not self.requires_grad:
            raise ArgumentError("backward: nothing that made this tensor requires a gradient")
        if cotangent is None:
            if self.size != 1:
                raise ShapeError(
                    f"backward: a tensor of shape {self.shape} needs a cotangent of that shape; "
                    "only a scalar can do without"
                )
            cotangent = np.ones_like(self.data)
        cotangent = np.asarray(cotangent.data if isinstance(cotangent, Tensor) else cotangent, self.dtype)
        if cotangent.shape != self.data.shape:
            raise ShapeError(f"backward: cotangent has shape {cotangent.shape}, wanted {self.data.shape}")
        if self.lanes is not None:  # lanes after the last image are nobody's
            real = np.arange(self.data.shape[0] * self.data.shape[4]) < self.lanes.count
            cotangent = cotangent * real.reshape(self.data.shape[0], 1, 1, 1, -1).astype(self.dtype)
        _propagate(self, cotangent, (sys.stdout if trace is True else trace) or None)


class Function:
    """One differentiable operation, forward and backward side by side.

    A subclass writes `forward(*arrays) -> array`, which may keep what backward will need as
    attributes, and `backward(cotangent) -> tuple`, one entry an input: the cotangent times
    the Jacobian for that input, or None where `self.needs[i]` is false.  Configuration
    (stride, axis, ...) is given to __init__.  Calling the instance on Tensors runs forward
    and records it.  An instance is used once.
    """

    inputs: tuple[Tensor, ...] = ()
    needs: tuple[bool, ...] = ()
    # Whether all that forward and backward do passes through kernels/recording.py, as the Numba kernels do.
    recorded: bool = False

    @property
    def label(self) -> str:
        """The operation's name, for printing."""
        return type(self).__name__

    def __call__(self, *inputs: Any) -> Tensor:
        tensors = self.prepare(*inputs)
        recording = grad_enabled()
        self.needs = tuple(recording and tensor.requires_grad for tensor in tensors)
        if not self.recorded:
            refuse(self.label)
        arrays, observing = [tensor.data for tensor in tensors], observer()
        computed = self.forward(*arrays) if observing is None else observing.forward(self, arrays)
        result = Tensor(np.asarray(computed))
        result.lanes = self.result_lanes(*[tensor.lanes for tensor in tensors])
        if any(self.needs):
            result.requires_grad = True
            result.creator = self
            self.inputs = tensors
        return result

    def prepare(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The inputs as Tensors in the layout that forward expects."""
        return tuple(as_tensor(value) for value in inputs)

    def result_lanes(self, *lanes: Lanes | None) -> Lanes | None:
        """The layout of the result, given those of the inputs."""
        return None

    def forward(self, *arrays: Any, **options: Any) -> np.ndarray:
        raise NotImplementedError

    def backward(self, cotangent: np.ndarray) -> tuple[np.ndarray | None, ...]:
        raise NotImplementedError


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """`value` as a Tensor; a Python number takes the dtype of `like`."""
    if isinstance(value, Tensor):
        return value
    if like is not None and isinstance(value, bool | int | float):
        return Tensor(np.asarray(value, like.dtype if like.dtype.kind == "f" else None))
    return Tensor(value)


def _ordinary(array: np.ndarray, lanes: Lanes | None) -> np.ndarray:
    if lanes is None:
        return array
    blocks, channels, height, width, width_of_block = array.shape
    # (B, C, H, W, L) -> (B, L, H, W, C) -> (N, H, W, C)
    images = array.transpose(0, 4, 2, 3, 1).reshape(blocks * width_of_block, height, width, channels)
    return np.ascontiguousarray(images[: lanes.count]).reshape(lanes.shape(array.shape))


def topological_order(result: Tensor) -> list[Tensor]:
    """Every tensor that `result` was made from and that requires a gradient, inputs before outputs.

    Iterative: a recursive walk would meet Python's recursion limit at a thousand layers.
    """
    order: list[Tensor] = []
    seen = {id(result)}
    stack = [(result, iter(result.creator.inputs if result.creator else ()))]
    while stack:
        tensor, inputs = stack[-1]
        for parent in inputs:
            if parent.requires_grad and id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, iter(parent.creator.inputs if parent.creator else ())))
                break
        else:
            order.append(tensor)
            stack.pop()
    return order


def _propagate(result: Tensor, cotangent: np.ndarray, trace: TextIO | None) -> None:
    cotangents, observing = {id(result): cotangent}, observer()
    for tensor in reversed(topological_order(result)):
        gradient = cotangents.pop(id(tensor), None)
        if gradient is None:
            continue
        if tensor.creator is None or tensor.retains_grad:
            if tensor.grad is None:
                # A copy: the array may be shared with another tensor's gradient.
                tensor.grad = after(gradient.copy)
            else:
                refuse("a gradient that is added to an earlier one")
                tensor.grad = np.asarray(tensor.grad + gradient)
        if tensor.creator is None:
            continue
        if observing is None:
            contributions = tensor.creator.backward(gradient)
        else:
            contributions = observing.backward(tensor.creator, gradient)
        if trace is not None:
            _print_step(tensor, gradient, contributions, trace)
        for parent, contribution in zip(tensor.creator.inputs, contributions, strict=True):
            if contribution is None or not parent.requires_grad:
                continue
            earlier = cotangents.get(id(parent))
            if earlier is not None:  # fan-out: a tensor used twice gets the sum
                if parent.creator is None:  # whose gradients a recorded step makes after all else
                    refuse("a weight that is used twice")
                contribution = in_order(partial(operator.add, earlier, contribution))
            cotangents[id(parent)] = contribution


def _print_step(tensor: Tensor, gradient: np.ndarray, contributions: tuple, trace: TextIO) -> None:
    creator = tensor.creator
    assert creator is not None
    parts = []
    for parent, contribution in zip(creator.inputs, contributions, strict=True):
        norm = "-" if contribution is None else f"{np.linalg.norm(contribution.ravel()):.4g}"
        parts.append(f"{parent.name or 'input'} {parent.shape} |grad| {norm}")
    size = np.linalg.norm(gradient.ravel())
    print(f"{creator.label:<22} {tensor.shape} |grad| {size:.4g}  ->  {'; '.join(parts)}", file=trace)
