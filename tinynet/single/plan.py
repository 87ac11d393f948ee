"""From steps to the arrays that the single-image kernel reads (tinynet/kernels/numba/single_plan.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinynet.errors import ArgumentError
from tinynet.kernels.numba import single_plan as fields
from tinynet.kernels.numba.pixels import LANES
from tinynet.kernels.window import Padding, Window
from tinynet.single.steps import (
    Connection,
    Convolution,
    Elements,
    Enlarging,
    Finish,
    Flattening,
    Planes,
    Pooling,
    Probabilities,
    Step,
)

MAX_NUMBERS = 2**25
"""How many float32 a plan may need for activations, 128 MB: larger ones work in batches."""

SUMS = 4096  # float32 of unfinished sums that a convolution keeps: half of a first-level cache
TILES = 100_000  # float32 of tiles and products that Winograd's method keeps: for a second-level cache
NONE: Padding = ((0, 0), (0, 0))
GRID = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G of Lavin and Gray


@dataclass(frozen=True)
class Buffer:
    """An activation in scratch: where pixel (0, 0) of channel 0 is, and the steps from there."""

    start: int
    plane: int
    row: int


class Plan(NamedTuple):
    """What the kernel takes, and how much scratch (float32, zeroed once) and how many results it wants."""

    plan: np.ndarray
    numbers: np.ndarray
    scratch: int
    outputs: int


def make_plan(steps: Sequence[Step], source: Planes, scale: np.ndarray, shift: np.ndarray) -> Plan:
    """The plan of these steps for images of shape `source`, of values or of codes * scale + shift by channel.

    Raises ArgumentError where activations would take more than MAX_NUMBERS.
    """
    return _Writer().write(_dealt(steps), source, scale, shift)


@dataclass
class Dealing(Step):
    """Columns dealt out for a convolution with a horizontal stride: 0, s, 2 s, ...; then 1, 1 + s, ..."""

    window: Window


def _hand(width: int, window: Window) -> int:
    """How many columns of the padded row are dealt to each of the stride's remainders; whole vectors."""
    return _up(-(-(width + sum(window.padding[1])) // window.stride[1]) + 1)


def _dealt(steps: Sequence[Step]) -> list[Step]:
    result: list[Step] = []
    for step in steps:
        if isinstance(step, Convolution) and step.window.stride[1] > 1:
            result.append(Dealing(step.source, step.source, step.window))
        result.append(step)
    return result


def _up(count: int, multiple: int = LANES) -> int:
    return -(-count // multiple) * multiple


def _by_winograd(step: Convolution) -> bool:
    """Whether 16 multiplications instead of 36 pay for the transforms: with enough channels, they do."""
    plain = step.window.stride == (1, 1) == step.window.dilation and step.groups == 1
    return plain and step.window.size == (3, 3) and step.source[0] >= 8 and step.target[0] >= 4


class _Writer:
    """The plan being written."""

    def __init__(self) -> None:
        self.records: list[dict[int, int]] = [{fields.KIND: fields.BEGIN}]
        self.tables: list[np.ndarray] = []
        self.table_place = 0  # from the end of the records
        self.numbers: list[np.ndarray] = []
        self.number_place = self.scratch = 0

    def write(self, steps: list[Step], source: Planes, scale: np.ndarray, shift: np.ndarray) -> Plan:
        self.records_end = (len(steps) + 3) * fields.RECORD  # with the beginning, loading and the result
        buffer = self.buffer(source, steps)
        record = {fields.KIND: fields.LOAD, fields.WEIGHTS: self.keep(np.concatenate([scale, shift]))}
        self.records.append(record | self.reads(buffer, source) | self.writes(buffer))
        shape = source
        writers: dict[type, Callable] = {
            Convolution: self.convolution,
            Connection: self.dense,
            Pooling: self.pooling,
            Enlarging: self.enlarging,
            Dealing: self.dealing,
            Flattening: self.flattening,
        }
        for number, step in enumerate(steps):
            if isinstance(step, Elements | Probabilities):
                self.in_place(step, buffer)
            else:
                made = self.buffer(step.target, steps[number + 1 :])
                writers[type(step)](step, buffer, made)
                buffer = made
            shape = step.target
        self.records.append({fields.KIND: fields.RESULT} | self.reads(buffer, shape))
        self.records[0][fields.OPTION] = len(self.records)
        plan = np.zeros(self.records_end, np.int64)
        for number, record in enumerate(self.records):
            for field, value in record.items():
                plan[number * fields.RECORD + field] = value
        scratch = self.scratch + 8 * LANES  # the last vector of the last row may reach so far
        return Plan(
            np.concatenate([plan, *self.tables]).astype(np.int64),
            np.concatenate(self.numbers).astype(np.float32),
            scratch,
            math.prod(shape),
        )

    # Memory.

    def room(self, size: int) -> int:
        """The place of `size` more numbers of scratch."""
        place, self.scratch = self.scratch, self.scratch + _up(size, 16)
        if self.scratch > MAX_NUMBERS:
            raise ArgumentError(
                f"a compiled single-image model: its activations take more than {MAX_NUMBERS} numbers"
            )
        return place

    def buffer(self, shape: Planes, following: Sequence[Step]) -> Buffer:
        """Room for an activation, with zeros around it as the step that reads it wants."""
        channels, height, width = shape
        padding, below, reader = NONE, 0, _reader(following)
        if (height, width) == (1, 1) and not isinstance(reader, Convolution):
            # A vector of features, with nothing between them.  A convolution stores each with a vector of
            # zeros after it, which the next ones overwrite.
            return Buffer(self.room(_up(channels) + 2 * LANES), 1, 1)
        if isinstance(reader, Convolution) and reader.window.stride[1] > 1:
            row = _hand(width, reader.window) * reader.window.stride[1]
            top, bottom = reader.window.padding[0]
            plane = (top + height + bottom) * row
            return Buffer(self.room(channels * plane) + top * row, plane, row)
        if isinstance(reader, Convolution):
            padding = reader.window.padding
            below = reader.target[1] % 2 + 1 if _by_winograd(reader) else 0  # rows of half a tile
        (top, bottom), (left, right) = padding
        row = left + max(width + right, _up(width, 2 * LANES))
        plane = (top + height + bottom + below) * row
        if plane % 1024 == 0:  # channels at the same place of every page would compete for the cache
            plane += 2 * LANES
        return Buffer(self.room(channels * plane) + top * row + left, plane, row)

    def keep(self, values: np.ndarray) -> int:
        """The place of these numbers among the weights; they begin at a cache line."""
        place, size = self.number_place, _up(values.size, 16)
        self.numbers.append(np.pad(np.ravel(values), (0, size - values.size)).astype(np.float32))
        self.number_place += size
        return place

    def table(self, values: Sequence[int] | np.ndarray) -> int:
        """The place of these offsets in the plan."""
        place = self.records_end + self.table_place
        self.tables.append(np.asarray(values, np.int64))
        self.table_place += len(values)
        return place

    def finish(self, finish: Finish) -> int:
        """Limits, then bias, scale and shift, each in whole vectors."""
        parts = [np.array(finish.limits)]
        for values in (finish.bias, finish.scale, finish.shift):
            parts.append(np.pad(values, (0, _up(len(values)) - len(values))))
        return self.keep(np.concatenate(parts))

    def reads(self, buffer: Buffer, shape: Planes) -> dict[int, int]:
        return {
            fields.SOURCE: buffer.start, fields.SOURCE_PLANE: buffer.plane, fields.SOURCE_ROW: buffer.row,
            fields.CHANNELS: shape[0], fields.HEIGHT: shape[1], fields.WIDTH: shape[2],
        }  # fmt: skip

    def writes(self, buffer: Buffer) -> dict[int, int]:
        return {
            fields.TARGET: buffer.start, fields.TARGET_PLANE: buffer.plane, fields.TARGET_ROW: buffer.row,
        }  # fmt: skip

    # Steps.

    def convolution(self, step: Convolution, source: Buffer, target: Buffer) -> None:
        outputs, height, width = step.target
        if step.pooled:  # an odd last row or column has no partner
            height, width = 2 * height, 2 * width
        else:
            height, width = step.window.output_size(*step.source[1:])
        (top, _), (left, _) = step.window.padding
        corner = source.start - top * source.row - (left if step.window.stride[1] == 1 else 0)
        record = self.reads(source, step.source) | self.writes(target)
        record |= {
            fields.SOURCE: corner, fields.OUTPUTS: outputs, fields.OUT_HEIGHT: height,
            fields.OUT_WIDTH: width, fields.POOLED: int(step.pooled), fields.FINISH: self.finish(step.finish),
        }  # fmt: skip
        write = self.winograd if _by_winograd(step) else self.direct
        self.records.append(record | write(step, source, height, width))

    def direct(self, step: Convolution, source: Buffer, height: int, width: int) -> dict[int, int]:
        window, per_row, each = step.window, -(-width // LANES), step.target[0] // step.groups
        stride, phase = window.stride[1], source.row // window.stride[1]
        channels = step.source[0] // step.groups
        c, u, v = np.meshgrid(np.arange(channels), *map(np.arange, window.size), indexing="ij")
        v = v * window.dilation[1]
        columns = v % stride * phase + v // stride
        taps = (c * source.plane + u * window.dilation[0] * source.row + columns).ravel()
        i, j = np.meshgrid(np.arange(height), np.arange(per_row), indexing="ij")
        positions = (i * window.stride[0] * source.row + j * LANES).ravel()
        rows = max(2, SUMS // (4 * per_row * LANES) // 2 * 2)
        plane = (min(rows, height) * per_row + 2) * LANES
        # (kh, kw, C / G, O) -> (O, C / G, kh, kw) -> (G, O / G / 4, 4, taps) -> (G, O / G / 4, taps, 4)
        matrix = step.weight.transpose(3, 2, 0, 1).reshape(step.groups, each, -1)
        matrix = np.pad(matrix, ((0, 0), (0, _up(each, 4) - each), (0, 0)))
        packed = matrix.reshape(step.groups, -1, 4, taps.size).transpose(0, 1, 3, 2)
        return {
            fields.KIND: fields.CONVOLUTION, fields.WEIGHTS: self.keep(packed),
            fields.CHANNELS: channels, fields.OPTION: step.groups, fields.ROWS: rows,
            fields.TAPS: self.table(taps), fields.TAP_COUNT: taps.size,
            fields.POSITIONS: self.table(positions),
            fields.WORK: self.room(4 * plane), fields.WORK_PLANE: plane,
        }  # fmt: skip

    def winograd(self, step: Convolution, source: Buffer, height: int, width: int) -> dict[int, int]:
        channels, outputs = step.source[0], _up(step.target[0], 4)
        across, tile_rows = -(-width // 2), -(-height // 2)
        # (3, 3, C, O) -> (4, 4, C, O)
        grids = np.einsum("iu,uvco,jv->ijco", GRID, step.weight, GRID)
        grids = np.pad(grids, ((0, 0), (0, 0), (0, 0), (0, outputs - step.target[0])))
        rows = min(tile_rows, max(1, TILES // (16 * (channels + outputs) * across)))
        vectors = -(-rows * across // LANES)
        plane = (vectors + 2) * LANES
        r, x = np.meshgrid(np.arange(rows), np.arange(0, across, LANES), indexing="ij")
        tiles = np.stack([2 * r * source.row + 2 * x, r * across + x], axis=-1)  # read, stored
        # -> (16, O / 4, C, 4)
        packed = grids.reshape(16, channels, outputs // 4, 4).transpose(0, 2, 1, 3)
        return {
            fields.KIND: fields.WINOGRAD, fields.WEIGHTS: self.keep(packed), fields.ROWS: rows,
            fields.TAPS: self.table(np.arange(channels) * plane),
            fields.POSITIONS: self.table(np.arange(vectors) * LANES),
            fields.OPTION: self.table(tiles.ravel()), fields.WORK_PLANE: plane,
            fields.WORK: self.room(16 * (channels * plane + fields.APART)),
            fields.PRODUCTS: self.room(16 * (outputs * plane + fields.APART)),
        }  # fmt: skip

    def dense(self, step: Connection, source: Buffer, target: Buffer) -> None:
        features, outputs = step.weight.shape
        packed = np.pad(step.weight, ((0, _up(features, 4) - features), (0, _up(outputs) - outputs)))
        # (features, outputs) -> (vectors of outputs, features, LANES); a feature that is not there weighs 0
        packed = packed.reshape(len(packed), -1, LANES).transpose(1, 0, 2)
        record = {
            fields.KIND: fields.DENSE, fields.OUTPUTS: outputs, fields.WEIGHTS: self.keep(packed),
            fields.FINISH: self.finish(step.finish),
        }  # fmt: skip
        self.records.append(record | self.reads(source, (features, 1, 1)) | self.writes(target))

    def pooling(self, step: Pooling, source: Buffer, target: Buffer) -> None:
        window = step.window
        before = (window.padding[0][0], window.padding[1][0])
        table = [int(step.mean), *window.size, *window.stride, *window.dilation, *before]
        record = {
            fields.KIND: fields.POOL, fields.OPTION: self.table(table),
            fields.OUT_HEIGHT: step.target[1], fields.OUT_WIDTH: step.target[2],
        }  # fmt: skip
        self.records.append(record | self.reads(source, step.source) | self.writes(target))

    def enlarging(self, step: Enlarging, source: Buffer, target: Buffer) -> None:
        record = {fields.KIND: fields.COPY, fields.OPTION: self.table([*step.factor, 1, 0, 0])}
        self.records.append(record | self.reads(source, step.source) | self.writes(target))

    def dealing(self, step: Dealing, source: Buffer, target: Buffer) -> None:
        table = [1, 1, step.window.stride[1], step.window.padding[1][0]]
        table.append(_hand(step.source[2], step.window))
        record = {fields.KIND: fields.COPY, fields.OPTION: self.table(table)}
        self.records.append(record | self.reads(source, step.source) | self.writes(target))

    def flattening(self, step: Flattening, source: Buffer, target: Buffer) -> None:
        record = {fields.KIND: fields.FLATTEN}
        self.records.append(record | self.reads(source, step.source) | self.writes(target))

    def in_place(self, step: Elements | Probabilities, buffer: Buffer) -> None:
        record = self.reads(buffer, step.source) | {fields.WEIGHTS: self.keep(np.array([step.temperature]))}
        if isinstance(step, Probabilities):
            record |= {fields.KIND: fields.SOFTMAX}
        else:
            functions = {"": fields.IDENTITY, "sigmoid": fields.SIGMOID, "tanh": fields.TANH}
            record |= {
                fields.KIND: fields.ELEMENTS, fields.OPTION: functions[step.function],
                fields.FINISH: self.finish(step.finish),
            }  # fmt: skip
        self.records.append(record)


def _reader(following: Sequence[Step]) -> Step | None:
    """The step that moves an activation on; those before it change it where it is."""
    return next((step for step in following if not isinstance(step, Elements | Probabilities)), None)
