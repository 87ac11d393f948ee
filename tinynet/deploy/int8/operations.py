"""What each operation of an int8 model does: docs/int8.md, "The operations", on batches in NumPy.

Sums of products are computed as floating-point matrix products, which are fast, and exact: every
partial sum is a whole number that the type holds, float32 up to 2**24, float64 far beyond int32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinynet.deploy.int8.arithmetic import HIGHEST, LARGEST_SUM, LARGEST_WEIGHT, LOWEST
from tinynet.deploy.int8.values import Shape, Store, Value, check_array, check_integer, check_scale
from tinynet.deploy.int8.windows import padded, padded_values, pixel_counts, pool_positions, positions, views
from tinynet.errors import ArgumentError, ShapeError
from tinynet.kernels.window import Window

EXACT_IN_FLOAT32 = 2**24
MOST_TERMS = 2**16  # of an addition: 2**16 * 255 * 2**31 + 2**61 is below 2**63


@dataclass(frozen=True, eq=False)
class Operation:
    """One step.  A subclass is one kind; `result` checks it, `run` carries it out.

    name    its own in the model; errors and the file's arrays use it
    inputs  numbers of the values that it reads: 0 is the picture, i + 1 the result of operation i
    """

    kind: ClassVar[str]
    name: str
    inputs: tuple[int, ...]

    def result(self, values: Sequence[Value]) -> Value:
        """What comes out, given what goes in; raises ArgumentError or ShapeError for what cannot be."""
        raise NotImplementedError

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        """The result of int8 arrays (n, *shape): int8, or int32 where the last operation's sums are left."""
        raise NotImplementedError

    def multiply_accumulates(self, values: Sequence[Value]) -> int:
        """Multiplications paired with an addition, for one image."""
        return 0

    def working_values(self, values: Sequence[Value]) -> int:
        """Numbers in the largest array that `run` makes for one image."""
        return math.prod(self.result(values).shape)

    def steps(self, values: Sequence[Value]) -> int:
        """About how many multiplications or comparisons `run` takes for one image."""
        return max(self.working_values(values), self.multiply_accumulates(values))

    @property
    def label(self) -> str:
        """The operation as error messages name it."""
        return f"operation {self.name!r} ({self.kind})"

    def one_input(self, values: Sequence[Value], dimensions: Sequence[int] = (1, 3)) -> Value:
        """The only input; raises ShapeError unless there is one, with so many axes."""
        if len(values) != 1 or len(values[0].shape) not in dimensions:
            shapes = ", ".join(str(value.shape) for value in values)
            raise ShapeError(f"{self.label}: wanted one input of {dimensions} axes, got {shapes or 'none'}")
        return values[0]


@dataclass(frozen=True, eq=False)
class _Weighted(Operation):
    """Sums of products: weight int8, bias int32; stored as int8, or left as sums of scale `store`."""

    weight: np.ndarray
    bias: np.ndarray
    store: Store | float

    def stored(self, shape: Shape) -> Value:
        """The result of this shape; checks the weights, that no sum overflows, and the storing."""
        outputs = shape[-1]
        if not outputs:
            raise ShapeError(f"{self.label}: has no outputs")
        check_array(self.label, "bias", self.bias, np.int32, (outputs,))
        if self.weight.size and self.weight.min() < -LARGEST_WEIGHT:
            raise ArgumentError(f"{self.label}: a weight is -128; weights are -127 to 127")
        largest = np.abs(self.bias.astype(np.int64)) + 256 * self.weight_sums()
        if largest.max() > LARGEST_SUM:
            raise ArgumentError(
                f"{self.label}: the sum of channel {int(largest.argmax())} could overflow 32 bits"
            )
        if isinstance(self.store, Store):
            self.store.check(self.label, outputs)
            return Value(shape, self.store.scale, self.store.zero)
        check_scale(self.label, self.store)
        return Value(shape, self.store, None)

    def weight_sums(self) -> np.ndarray:
        """The sum of |weight| of each output channel, int64."""
        axes = tuple(range(self.weight.ndim - 1))
        return np.abs(self.weight.astype(np.int16)).sum(axis=axes, dtype=np.int64)

    def finish(self, sums: np.ndarray) -> np.ndarray:
        """Sums without bias (..., outputs), whole numbers of any type -> the result."""
        total = sums.astype(np.int32)
        total += self.bias
        return self.store(total) if isinstance(self.store, Store) else total

    def exact_type(self, zero: int) -> type:
        """The floating-point type in which the sums of products of inputs with this zero are exact."""
        largest = max(HIGHEST - zero, zero - LOWEST) * int(self.weight_sums().max(initial=0))
        return np.float32 if largest <= EXACT_IN_FLOAT32 else np.float64


@dataclass(frozen=True, eq=False)
class Convolution(_Weighted):
    """weight (kh, kw, channels / groups, filters), bias (filters,)."""

    kind = "convolution"
    window: Window
    groups: int

    def result(self, values: Sequence[Value]) -> Value:
        x = self.one_input(values, (3,))
        height, width, channels = x.shape
        check_integer(f"{self.label}: groups", self.groups, 1, channels)
        filters = self.bias.size
        if channels % self.groups or filters % self.groups:
            raise ShapeError(f"{self.label}: {channels} channels, {filters} filters in {self.groups} groups")
        shape = (*self.window.size, channels // self.groups, filters)
        check_array(self.label, "weight", self.weight, np.int8, shape)
        return self.stored((*positions(self.label, self.window, height, width), filters))

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        zero, (x,), groups = _zero(values[0]), arrays, self.groups
        dtype = self.exact_type(zero)
        windows = views(_centred(x, zero, dtype), self.window, 0)  # (n, h', w', c, kh, kw)
        count, height, width, channels = windows.shape[:4]
        # (n, h', w', g, c / g, kh, kw) -> (g, n h' w', kh kw c / g)
        columns = windows.reshape(count, height, width, groups, channels // groups, *self.window.size)
        columns = columns.transpose(3, 0, 1, 2, 5, 6, 4).reshape(groups, count * height * width, -1)
        # (kh kw c / g, g, o / g) -> (g, kh kw c / g, o / g)
        weight = self.weight.astype(dtype).reshape(columns.shape[2], groups, -1).transpose(1, 0, 2)
        sums = np.matmul(columns, weight).transpose(1, 0, 2)
        return self.finish(sums.reshape(count, height, width, -1))

    def multiply_accumulates(self, values: Sequence[Value]) -> int:
        return math.prod(self.result(values).shape) * math.prod(self.weight.shape[:3])

    def working_values(self, values: Sequence[Value]) -> int:
        shape, channels = self.result(values).shape, values[0].shape[2]
        columns = math.prod(shape[:2]) * math.prod(self.window.size) * channels
        return max(math.prod(shape), columns, padded_values(self.window, values[0].shape))


@dataclass(frozen=True, eq=False)
class Dense(_Weighted):
    """weight (features, units), bias (units,)."""

    kind = "dense"

    def result(self, values: Sequence[Value]) -> Value:
        x, units = self.one_input(values, (1,)), self.bias.size
        check_array(self.label, "weight", self.weight, np.int8, (x.shape[0], units))
        return self.stored((units,))

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        zero = _zero(values[0])
        dtype = self.exact_type(zero)
        return self.finish(_centred(arrays[0], zero, dtype) @ self.weight.astype(dtype))

    def multiply_accumulates(self, values: Sequence[Value]) -> int:
        return self.weight.size


@dataclass(frozen=True, eq=False)
class Affine(_Weighted):
    """A weight and a bias a channel, (channels,) each: what batch-norm is in use."""

    kind = "affine"

    def result(self, values: Sequence[Value]) -> Value:
        x = self.one_input(values)
        check_array(self.label, "weight", self.weight, np.int8, x.shape[-1:])
        return self.stored(x.shape)

    def weight_sums(self) -> np.ndarray:
        return np.abs(self.weight.astype(np.int64))

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        return self.finish(_centred(arrays[0], _zero(values[0]), np.int32) * self.weight)

    def multiply_accumulates(self, values: Sequence[Value]) -> int:
        return math.prod(values[0].shape)


@dataclass(frozen=True, eq=False)
class AveragePool(Operation):
    """The mean of each window's real pixels, dividing as part of the rescaling.

    store: a multiplier and shift for each number of real pixels that occurs, ascending; or the scale of
    the sums, which are left as they are (then all windows have the same number).
    """

    kind = "average_pool"
    window: Window
    store: Store | float

    def result(self, values: Sequence[Value]) -> Value:
        x = self.one_input(values, (3,))
        shape = (*pool_positions(self.label, self.window, x.shape), x.shape[2])
        numbers = np.unique(pixel_counts(self.window, x.shape))
        if 255 * int(numbers.max()) > LARGEST_SUM:
            raise ArgumentError(f"{self.label}: the sum of a window could overflow 32 bits")
        if isinstance(self.store, Store):
            self.store.check(self.label, numbers.size)
            return Value(shape, self.store.scale, self.store.zero)
        if numbers.size > 1:
            raise ArgumentError(
                f"{self.label}: sums of windows with different numbers of pixels are no logits"
            )
        check_scale(self.label, self.store)
        return Value(shape, self.store, None)

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        centred = _centred(arrays[0], _zero(values[0]), np.int32)
        sums = views(centred, self.window, 0).sum(axis=(4, 5), dtype=np.int32)  # (n, h', w', c)
        if not isinstance(self.store, Store):
            return sums
        counts = pixel_counts(self.window, values[0].shape)
        place = np.searchsorted(np.unique(counts), counts)[..., None]  # (h', w', 1)
        return self.store(sums, self.store.multiplier[place], self.store.shift[place])

    def working_values(self, values: Sequence[Value]) -> int:
        return padded_values(self.window, values[0].shape)

    def steps(self, values: Sequence[Value]) -> int:
        windows = math.prod(self.result(values).shape) * math.prod(self.window.size)
        return max(windows, padded_values(self.window, values[0].shape))


@dataclass(frozen=True, eq=False)
class MaxPool(Operation):
    """The largest real pixel of each window."""

    kind = "max_pool"
    window: Window

    def result(self, values: Sequence[Value]) -> Value:
        x = self.one_input(values, (3,))
        return Value((*pool_positions(self.label, self.window, x.shape), x.shape[2]), x.scale, x.zero)

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        # Padding is the lowest value there is, and every window has a real pixel.  Rows, then columns.
        largest = padded(arrays[0], self.window, LOWEST)
        positions = self.window.output_size(*values[0].shape[:2])
        for axis, (size, stride, count) in enumerate(
            zip(self.window.size, self.window.stride, positions, strict=True), start=1
        ):
            seen = np.moveaxis(largest, axis, 0)
            reach = (count - 1) * stride + 1
            best = seen[0:reach:stride].copy()
            for tap in range(1, size):
                np.maximum(best, seen[tap : tap + reach : stride], out=best)
            largest = np.moveaxis(best, 0, axis)
        return np.ascontiguousarray(largest)

    def working_values(self, values: Sequence[Value]) -> int:
        return padded_values(self.window, values[0].shape)

    def steps(self, values: Sequence[Value]) -> int:
        return padded_values(self.window, values[0].shape) * sum(self.window.size)


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """The sum of two or more values, rescaled together: a multiplier an input, one shift."""

    kind = "add"
    store: Store

    def result(self, values: Sequence[Value]) -> Value:
        if not 2 <= len(values) <= MOST_TERMS or any(value.shape != values[0].shape for value in values):
            shapes = ", ".join(str(value.shape) for value in values)
            raise ShapeError(f"{self.label}: wanted two or more inputs of one shape, got {shapes or 'none'}")
        self.store.check(self.label, len(values), shifts=1)
        return Value(values[0].shape, self.store.scale, self.store.zero)

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        shift = self.store.shift.astype(np.int64)
        total = np.int64(1) << (shift - 1)
        for x, value, multiplier in zip(arrays, values, self.store.multiplier.astype(np.int64), strict=True):
            total = total + _centred(x, _zero(value), np.int64) * multiplier
        return self.store.clamp(total >> shift)


@dataclass(frozen=True, eq=False)
class Concatenate(Operation):
    """The channels of each input in turn, each rescaled: a multiplier and a shift an input."""

    kind = "concatenate"
    store: Store

    def result(self, values: Sequence[Value]) -> Value:
        if not values or any(value.shape[:-1] != values[0].shape[:-1] for value in values):
            shapes = ", ".join(str(value.shape) for value in values)
            raise ShapeError(
                f"{self.label}: wanted inputs that differ in channels only, got {shapes or 'none'}"
            )
        self.store.check(self.label, len(values))
        channels = sum(value.shape[-1] for value in values)
        return Value((*values[0].shape[:-1], channels), self.store.scale, self.store.zero)

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        every = zip(arrays, values, self.store.multiplier, self.store.shift, strict=True)
        parts = [
            self.store(_centred(x, _zero(value), np.int64), multiplier, shift)
            for x, value, multiplier, shift in every
        ]
        return np.concatenate(parts, axis=-1)


@dataclass(frozen=True, eq=False)
class UpSample(Operation):
    """Each pixel repeated: (h, w, c) -> (h * factor[0], w * factor[1], c)."""

    kind = "upsample"
    factor: tuple[int, int]

    def result(self, values: Sequence[Value]) -> Value:
        x = self.one_input(values, (3,))
        for factor in self.factor:
            check_integer(f"{self.label}: factor", factor, 1, 2**16)
        height, width, channels = x.shape
        return Value((height * self.factor[0], width * self.factor[1], channels), x.scale, x.zero)

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        return arrays[0].repeat(self.factor[0], axis=1).repeat(self.factor[1], axis=2)


@dataclass(frozen=True, eq=False)
class Flatten(Operation):
    """(h, w, c) -> (h * w * c,)."""

    kind = "flatten"

    def result(self, values: Sequence[Value]) -> Value:
        x = self.one_input(values)
        return Value((math.prod(x.shape),), x.scale, x.zero)

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        return arrays[0].reshape(len(arrays[0]), -1)


@dataclass(frozen=True, eq=False)
class Table(Operation):
    """Any function of one value: table[x + 128], int8 (256,)."""

    kind = "table"
    table: np.ndarray
    scale: float
    zero: int

    def result(self, values: Sequence[Value]) -> Value:
        x = self.one_input(values)
        check_array(self.label, "table", self.table, np.int8, (256,))
        check_scale(self.label, self.scale)
        check_integer(f"{self.label}: zero", self.zero, LOWEST, HIGHEST)
        return Value(x.shape, self.scale, self.zero)

    def run(self, arrays: Sequence[np.ndarray], values: Sequence[Value]) -> np.ndarray:
        return self.table[arrays[0].astype(np.int16) + 128]


KINDS: dict[str, type[Operation]] = {
    kind.kind: kind
    for kind in (
        Convolution, Dense, Affine, AveragePool, MaxPool, Add, Concatenate, UpSample, Flatten, Table,
    )
}  # fmt: skip


def _zero(value: Value) -> int:
    assert value.zero is not None  # only the last operation leaves sums: checked by the program
    return value.zero


def _centred(x: np.ndarray, zero: int, dtype: type) -> np.ndarray:
    """x - zero, which is -255 to 255, in a wider type."""
    wide: np.ndarray = x.astype(dtype)
    wide -= dtype(zero)
    return wide
