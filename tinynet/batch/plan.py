"""From a model's steps (tinynet/single/steps.py) to the arrays that the batch kernel reads.

tinynet/kernels/numba/batch_plan.py says how these are laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinynet.errors import ArgumentError
from tinynet.kernels.block import Block
from tinynet.kernels.numba import batch_plan as fields
from tinynet.kernels.numba import batch_winograd, winograd
from tinynet.kernels.numba.batch_convolution import KEPT, dense_tiles
from tinynet.kernels.numba.block_tables import mix_weights, tables_for
from tinynet.kernels.numba.convolution_tables import whole_tiles
from tinynet.kernels.numba.products import TAPS, tile_weights
from tinynet.kernels.numba.simd import LANES
from tinynet.kernels.numba.tiles import WIDTH
from tinynet.kernels.window import Padding
from tinynet.single.steps import (
    LIMITS,
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
    planes,
    steps_of,
)

if TYPE_CHECKING:
    from tinynet.network import Network

MAX_NUMBERS = 2**25
"""How many float32 a plan may need for activations, 128 MB a thread: larger ones go layer by layer."""
MAX_TABLES = 2**22  # numbers of all tables, 32 MB
NONE: Padding = ((0, 0), (0, 0))
AROUND: Padding = ((1, 1), (1, 1))


class Plan(NamedTuple):
    """What the kernel takes, and how much scratch (float32) it wants."""

    plan: np.ndarray
    numbers: np.ndarray
    scratch: int


@dataclass(frozen=True)
class Buffer:
    """An activation in scratch: where its channels begin, and in them its pixels, row by row."""

    start: int
    plane: int
    pixels: np.ndarray  # int64 (h * w,), offsets from a channel's beginning
    row: int  # the step from one row to the next


@dataclass
class Enlarged(Step):
    """Enlarging and the convolution after it, as one (see kernels/numba/block.py)."""

    convolution: Convolution
    block: Block


def plan_of(network: Network) -> Plan:
    """The plan of a model up to its logits.

    Raises ArgumentError where a layer cannot be expressed, or MAX_NUMBERS or MAX_TABLES are not enough.
    """
    assert network.input_shape is not None
    steps = steps_of(network.layers, network.input_shape, 1.0)
    if network.ending() in ("softmax", "sigmoid", "tanh"):
        steps.pop()  # what makes an answer of the logits
    elif network.ending() is not None:
        steps[-1].finish.limits = LIMITS[None]  # type: ignore[attr-defined]
    if any(isinstance(step, Probabilities) or getattr(step, "function", "") for step in steps):
        raise ArgumentError(f"model {network.name!r} has a sigmoid, tanh or softmax between its layers")
    made = network.preprocessing
    scale, shift = np.ones(3), np.zeros(3)
    if made is not None:
        deviation = np.array(made.deviation)
        scale, shift = made.scale / deviation, -np.array(made.mean) / deviation
    return _Writer().write(_joined(steps), planes(network.input_shape), np.concatenate([scale, shift]))


def _joined(steps: Sequence[Step]) -> list[Step]:
    """Enlarging and a convolution after it are one step, where the fused block's tables can say so."""
    result: list[Step] = []
    for step in steps:
        before = result[-1] if result else None
        if isinstance(before, Enlarging) and isinstance(step, Convolution):
            block = Block(step.window, before.factor)
            plain = step.window.stride == (1, 1) and step.groups == 1 and not step.pooled
            if plain and block.fits(*before.source[1:]):
                result[-1] = Enlarged(before.source, step.target, step, block)
                continue
        result.append(step)
    return result


def _by_winograd(step: Convolution) -> bool:
    height, width = step.source[1:]
    suits = winograd.suits(Block(step.window), step.source[0], step.target[0], height, width)
    return suits and step.window.stride == (1, 1) and step.groups == 1


def _wanted_padding(following: Sequence[Step]) -> Padding:
    """The zeros that the step which moves an activation on wants around it."""
    step = next((step for step in following if not isinstance(step, Elements)), None)
    if isinstance(step, Convolution):
        return AROUND if _by_winograd(step) else step.window.padding
    if not isinstance(step, Enlarged):
        return NONE
    height, width = step.source[1:]
    top, left, rows, columns = tables_for(step.block, step.source[0], step.target[0], height, width).padding
    return (top, rows - height - top), (left, columns - width - left)


class _Writer:
    """The plan being written."""

    def __init__(self) -> None:
        self.records: list[dict[int, int]] = [{fields.KIND: fields.BEGIN}]
        self.tables: list[np.ndarray] = []
        self.numbers: list[np.ndarray] = []
        self.table_place = self.number_place = self.scratch = 0

    def write(self, steps: list[Step], source: Planes, scaling: np.ndarray) -> Plan:
        self.table_place = (len(steps) + 3) * fields.RECORD  # after loading, the steps and the result
        buffer, shape = self.buffer(source, steps), source
        self.records.append(
            self.writes(buffer)
            | {
                fields.KIND: fields.LOAD, fields.CHANNELS: source[0], fields.WEIGHTS: self.keep(scaling),
                fields.TARGETS: self.table(buffer.pixels), fields.POSITION_COUNT: buffer.pixels.size,
            }
        )  # fmt: skip
        for number, step in enumerate(steps):
            following = steps[number + 1 :]
            if isinstance(step, Elements):
                self.elements(step, buffer)
            elif isinstance(step, Flattening) and following and isinstance(following[0], Connection):
                pass  # a dense layer reads its features wherever they lie
            else:
                made = self.buffer(step.target, following)
                self.records.append(self.step(step, buffer, made) | self.reads(buffer) | self.writes(made))
                buffer = made
            shape = step.target
        self.records.append(
            self.reads(buffer)
            | {
                fields.KIND: fields.RESULT, fields.CHANNELS: shape[0],
                fields.POSITIONS: self.table(buffer.pixels), fields.POSITION_COUNT: buffer.pixels.size,
            }
        )  # fmt: skip
        self.records[0][fields.OPTION] = len(self.records)
        plan = np.zeros((len(steps) + 3, fields.RECORD), np.int64)
        for row, record in zip(plan, self.records, strict=False):
            for field, value in record.items():
                row[field] = value
        return Plan(
            np.concatenate([plan.ravel(), *self.tables]),
            np.concatenate([np.zeros(1, np.float32), *self.numbers]),
            -(-self.scratch // LANES) * LANES,
        )

    # Pieces of it.

    def table(self, offsets: np.ndarray) -> int:
        """Keep a table; where it begins."""
        place = self.table_place
        self.tables.append(np.asarray(offsets, np.int64).ravel())
        self.table_place += self.tables[-1].size
        if self.table_place > MAX_TABLES:
            raise ArgumentError(f"a compiled batch has room for {MAX_TABLES} numbers of tables")
        return place

    def keep(self, numbers: np.ndarray) -> int:
        """Keep float32 numbers; where they begin."""
        place = 1 + self.number_place
        self.numbers.append(np.asarray(numbers, np.float32).ravel())
        self.number_place += self.numbers[-1].size
        return place

    def room(self, size: int) -> int:
        """Scratch for so many numbers; where it begins, at a cache line."""
        place = self.scratch
        self.scratch += -(-size // LANES) * LANES
        if self.scratch > MAX_NUMBERS:
            raise ArgumentError(f"a compiled batch has room for {MAX_NUMBERS} numbers")
        return place

    def buffer(self, shape: Planes, following: Sequence[Step]) -> Buffer:
        """Room for an activation, with the zeros around it that its reader wants."""
        channels, height, width = shape
        (top, bottom), (left, right) = _wanted_padding(following)
        row, rows = left + width + right, top + height + bottom
        plane = rows * row * WIDTH
        if plane % 1024 == 0:  # 4096 bytes: what lies such multiples apart competes for the same places
            plane += 2 * WIDTH
        i, j = np.divmod(np.arange(height * width), width)
        pixels = ((i + top) * row + j + left) * WIDTH
        return Buffer(self.room(channels * plane), plane, pixels, row * WIDTH)

    def reads(self, buffer: Buffer) -> dict[int, int]:
        return {fields.SOURCE: buffer.start, fields.SOURCE_PLANE: buffer.plane}

    def writes(self, buffer: Buffer) -> dict[int, int]:
        return {fields.TARGET: buffer.start, fields.TARGET_PLANE: buffer.plane}

    def finish(self, finish: Finish) -> dict[int, int]:
        parts = [np.array(finish.limits), finish.bias, finish.scale, finish.shift]
        return {fields.FINISH: self.keep(np.concatenate(parts)), fields.FINISHED: len(finish.bias)}

    # Steps.

    def step(self, step: Step, source: Buffer, target: Buffer) -> dict[int, int]:
        """The record of a step, but for where it reads and writes."""
        if isinstance(step, Convolution):
            write = self.winograd if _by_winograd(step) else self.direct
            return write(step, source, target)
        if isinstance(step, Enlarged):
            return self.enlarged(step, source, target)
        if isinstance(step, Connection):
            return self.dense(step, source)
        if isinstance(step, Pooling):
            return self.pooling(step, source, target)
        height, width = step.source[1:]
        if isinstance(step, Enlarging):
            i, j = np.divmod(np.arange(target.pixels.size), step.target[2])
            repeated = source.pixels[i // step.factor[0] * width + j // step.factor[1]]
            return self.copy(step, repeated, target.pixels)
        assert isinstance(step, Flattening)
        places = np.arange(height * width) * step.source[0]
        return self.copy(step, source.pixels, target.pixels[0] + places * target.plane)

    def direct(self, step: Convolution, source: Buffer, target: Buffer) -> dict[int, int]:
        (kh, kw), window = step.window.size, step.window
        channels, outputs = step.source[0] // step.groups, step.target[0] // step.groups
        c, u, v = np.meshgrid(np.arange(channels), np.arange(kh), np.arange(kw), indexing="ij")
        taps = c * source.plane + u * window.dilation[0] * source.row + v * window.dilation[1] * WIDTH
        height, width = window.output_size(*step.source[1:])
        if step.pooled:
            i, j, y, x = np.meshgrid(
                np.arange(height // 2), np.arange(width // 2), [0, 1], [0, 1], indexing="ij"
            )
            rows, columns, targets = (2 * i + y).ravel(), (2 * j + x).ravel(), np.repeat(target.pixels, 4)
        else:
            rows, columns = np.divmod(np.arange(height * width), width)
            targets = target.pixels
        positions = rows * window.stride[0] * source.row + columns * window.stride[1] * WIDTH
        # (kh, kw, C / G, O) -> (G, C / G * kh * kw * O / G)
        weight = step.weight.astype(np.float32).reshape(kh, kw, channels, step.groups, outputs)
        weight = weight.transpose(3, 2, 0, 1, 4).reshape(step.groups, -1)
        packed = weight[:, tile_weights(taps.size, outputs)]
        return self.sums(step, packed, taps[None], positions, targets[None], step.groups)

    def enlarged(self, step: Enlarged, source: Buffer, target: Buffer) -> dict[int, int]:
        tables = tables_for(step.block, step.source[0], step.target[0], *step.source[1:])
        packed = mix_weights(step.convolution.weight.astype(np.float32), tables)[tables.forward_order]
        channel, pixel = np.divmod(tables.taps[:, : tables.tap_count] // LANES, np.prod(tables.padding[2:]))
        taps, positions = channel * source.plane + pixel * WIDTH, tables.positions // LANES * WIDTH
        return self.sums(step.convolution, packed, taps, positions, target.pixels[tables.targets // LANES], 1)

    def sums(
        self, step: Convolution, packed: np.ndarray, taps: np.ndarray, positions: np.ndarray,
        targets: np.ndarray, groups: int,
    ) -> dict[int, int]:  # fmt: skip
        phases, count = taps.reshape(len(taps), -1).shape
        outputs = step.target[0] // groups
        targets = np.stack([whole_tiles(row) for row in targets])
        return self.finish(step.finish) | {
            fields.KIND: fields.CONVOLUTION, fields.WEIGHTS: self.keep(packed),
            fields.CHANNELS: step.source[0] // groups, fields.OUTPUTS: outputs, fields.GROUPS: groups,
            fields.PHASES: phases, fields.POOLED: int(step.pooled),
            fields.TAPS: self.table(taps), fields.TAP_COUNT: count,
            fields.POSITIONS: self.table(whole_tiles(positions)), fields.POSITION_COUNT: targets.shape[1],
            fields.TARGETS: self.table(targets),
            fields.WORK: self.room(outputs * KEPT if count > TAPS else 0),
        }  # fmt: skip

    def winograd(self, step: Convolution, source: Buffer, target: Buffer) -> dict[int, int]:
        channels, height, width = step.source
        outputs = step.target[0]
        i, j = np.divmod(np.arange(height // 2 * (width // 2)), width // 2)
        corners = whole_tiles(2 * i * source.row + 2 * j * WIDTH)
        if step.pooled:
            targets = np.repeat(target.pixels, 4)
        else:
            pixels = (2 * i[:, None] + [0, 0, 1, 1]) * width + 2 * j[:, None] + [0, 1, 0, 1]
            targets = target.pixels[pixels].ravel()
        missing = corners.size - i.size
        targets = np.concatenate([targets, np.tile(targets[-4:], missing)])
        same = winograd.tables_for(channels, outputs, height, width, step.pooled, backward=False)
        transform = same.transform.astype(np.float32)
        # (3, 3, C, O) -> (16, C, O)
        grids = (transform @ step.weight.astype(np.float32).reshape(9, -1)).reshape(-1, channels, outputs)
        packed = [
            grids[:, :, first:last].reshape(len(grids), -1)[:, tile_weights(channels, last - first)]
            for first, last in batch_winograd.output_parts(outputs)
        ]
        return self.finish(step.finish) | {
            fields.KIND: fields.WINOGRAD, fields.WEIGHTS: self.keep(np.concatenate(packed, axis=None)),
            fields.CHANNELS: channels, fields.OUTPUTS: outputs, fields.POOLED: int(step.pooled),
            fields.POSITIONS: self.table(corners), fields.POSITION_COUNT: corners.size,
            fields.TARGETS: self.table(targets), fields.OPTION: source.row,
            fields.WORK: self.room(batch_winograd.room(channels, outputs)),
        }  # fmt: skip

    def dense(self, step: Connection, source: Buffer) -> dict[int, int]:
        features, outputs = step.weight.shape
        pixels = source.pixels.size
        channels = features // pixels
        taps = np.arange(channels)[:, None] * source.plane + source.pixels
        # (h * w * c, O) -> (c * h * w, O), the order in which layers add up
        weight = step.weight.astype(np.float32).reshape(pixels, channels, outputs).transpose(1, 0, 2)
        weight = weight.reshape(features, outputs)
        packed = [weight[:, o : o + rows].ravel() for o, rows in dense_tiles(outputs)]
        return self.finish(step.finish) | {
            fields.KIND: fields.DENSE, fields.WEIGHTS: self.keep(np.concatenate(packed)),
            fields.OUTPUTS: outputs, fields.TAPS: self.table(taps), fields.TAP_COUNT: features,
        }  # fmt: skip

    def pooling(self, step: Pooling, source: Buffer, target: Buffer) -> dict[int, int]:
        window, (height, width) = step.window, step.source[1:]
        (kh, kw), (top, left) = window.size, (before for before, _ in window.padding)
        i, j, u, v = np.meshgrid(*map(np.arange, (*step.target[1:], kh, kw)), indexing="ij")
        rows = i * window.stride[0] + u * window.dilation[0] - top
        columns = j * window.stride[1] + v * window.dilation[1] - left
        real = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        counts = real.reshape(target.pixels.size, -1).sum(axis=1)
        record = {
            fields.KIND: fields.POOL, fields.CHANNELS: step.source[0],
            fields.TAPS: self.table(source.pixels[(rows * width + columns)[real]]),
            fields.POSITIONS: self.table(np.concatenate([[0], np.cumsum(counts)])),
            fields.POSITION_COUNT: counts.size, fields.TARGETS: self.table(target.pixels),
            fields.OPTION: -1,
        }  # fmt: skip
        if step.mean:
            with np.errstate(divide="ignore"):
                record[fields.OPTION] = self.keep(1.0 / counts)
        return record

    def copy(self, step: Step, positions: np.ndarray, targets: np.ndarray) -> dict[int, int]:
        return {
            fields.KIND: fields.COPY, fields.CHANNELS: step.source[0],
            fields.POSITIONS: self.table(positions), fields.TARGETS: self.table(targets),
            fields.POSITION_COUNT: len(positions),
        }  # fmt: skip

    def elements(self, step: Elements, buffer: Buffer) -> None:
        self.records.append(
            self.finish(step.finish)
            | self.reads(buffer)
            | {
                fields.KIND: fields.ELEMENTS, fields.OUTPUTS: step.source[0],
                fields.POSITIONS: self.table(buffer.pixels), fields.POSITION_COUNT: buffer.pixels.size,
            }
        )  # fmt: skip
