"""The steps of a plan as C in float32: one function a step, with every size a constant, and its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from tinynet.deploy import c_kernels
from tinynet.deploy.c_plan import Plan, Step, View, padded, plan
from tinynet.deploy.c_shell import Shell, image, single
from tinynet.deploy.graph import Graph, Operation
from tinynet.files.selftest import RELATIVE_TOLERANCE

REGISTERS = 8  # accumulators of a tile
FEW = 4  # outputs of a dense layer that are summed one by one rather than side by side


class FloatProgram:
    """C text of the steps: `data` (the weights), `functions` (the kernels they use), `steps`.

    constants  bytes of weights
    """

    numbers = "float32"

    def __init__(self, graph: Graph):
        self.graph = graph
        self.plan: Plan = plan(graph)
        self.data: list[str] = []
        self.constants = 0
        self.used: dict[str, None] = {}  # names of kernels, in the order in which they are needed
        self.tiles: dict[str, tuple[int, int, str]] = {}
        self.steps = [self.step(number, step) for number, step in enumerate(self.plan.steps)]

    @property
    def arena(self) -> int:
        """Bytes of RAM, besides the stack."""
        return self.plan.arena

    @property
    def memory(self) -> str:
        """The definition of the array in RAM."""
        return f"P_STORAGE P_ALIGNED float p_arena[{self.arena // 4}];\n"

    @property
    def begin(self) -> str:
        """What has to be done before the first step: zeros around the input."""
        return next(self.frame(self.plan.input), "")

    @property
    def functions(self) -> list[str]:
        """The C functions that the steps call."""
        tiles = [c_kernels.tile(*self.tiles[name]) for name in sorted(self.tiles)]
        return [c_kernels.VECTORS, *tiles, *(c_kernels.FUNCTIONS[name] for name in self.used)]

    def step(self, number: int, step: Step) -> str:
        """The function p_step<number>."""
        operation = step.operation
        shapes = " + ".join(_shape(source) for source in step.sources)
        also = [step.activation, step.pool and step.pool.name, step.affine and step.affine.name]
        title = f"{operation.kind} {_comment(operation.name)}: {shapes} -> {_shape(step.target)}"
        lines = [
            f"/* {title}{''.join(f', {_comment(extra)}' for extra in also if extra)} */",
            f"static void p_step{number}(void)",
            "{",
        ]
        body = list(getattr(self, operation.kind, self.elementwise)(number, step))
        return "\n".join([*lines, *(f"    {line}" for line in body), "}", ""])

    def use(self, name: str) -> str:
        """The C name of a kernel that has to be there."""
        self.used.setdefault(name)
        return f"p_{name}"

    def frame(self, target: View) -> Iterator[str]:
        """Write the zeros around a target."""
        (top, bottom), (left, right) = target.border
        if top or bottom or left or right:
            yield (
                f"{self.use('frame')}({address(target)}, {target.height}, {target.width}, {target.channels}, "
                f"{top}, {bottom}, {left}, {right});"
            )

    def array(self, name: str, values: np.ndarray) -> str:
        """Append a constant array; its C name."""
        flat = np.asarray(values, np.float32).reshape(-1)
        self.constants += flat.nbytes
        self.data.append(f"static P_ALIGNED const float p_{name}[{flat.size}] = {{\n{numbers(flat)}\n}};\n")
        return f"p_{name}"

    def shell(self) -> Shell:
        """How pictures come in and logits go out."""
        scale, shift = self.graph.input_scale()
        _, width, channels = image(self.graph)
        row = f"float *x = {address(self.plan.input, self.plan.input.inside)} + i * {self.plan.input.pitch};"
        if len(set(scale.tolist())) == 1 and len(set(shift.tolist())) == 1:
            level = f"levels[k] * {single(scale[0])} + {single(shift[0])}"
            put = f"    for (int k = 0; k < {width * channels}; k++)\n        x[k] = (float){level};\n"
        else:
            names = self.array("input_scale", scale), self.array("input_shift", shift)
            level = f"(float)levels[k] * {names[0]}[c] + {names[1]}[c]"
            put = f"    for (int k = 0; k < {width * channels};)\n"
            put += f"        for (int c = 0; c < {channels}; c++, k++)\n            x[k] = {level};\n"
        put_row = f"static void p_put_row(int i, const unsigned char *levels)\n{{\n    {row}\n{put}}}\n"
        logits = f"memcpy(logits, {address(self.plan.output)}, sizeof(float) * P_OUTPUTS);"
        return Shell(
            put_row=put_row if self.graph.preprocessing is not None else "",
            put_scaled=(
                f"static void p_put_scaled(int i, const float *values)\n{{\n    {row}\n"
                f"    memcpy(x, values, sizeof(float) * {width * channels});\n}}\n"
            ),
            logits=f"void p_logits(float *logits)\n{{\n    {logits}\n}}\n",
            check=self.check(),
        )

    def check(self) -> str:
        """The self-test's comparison: within 1e-4 of the expected logits, relative to the largest."""
        places, expected = self.graph.test_places, self.graph.test_outputs
        tolerance = RELATIVE_TOLERANCE * max(1.0, *(abs(value) for value in expected))
        return (
            f"    const int places[{len(places)}] = {{{', '.join(map(str, places))}}};\n"
            f"    const float expected[{len(places)}] = {{{', '.join(map(single, expected))}}};\n"
            f"    const float *logits = {address(self.plan.output)};\n"
            f"    for (int k = 0; k < {len(places)}; k++)\n"
            f"        if (!(fabsf(logits[places[k]] - expected[k]) <= {single(tolerance)}))\n"
            "            wrong = 1;\n"
        )

    # What each kind of step does.

    def convolution(self, number: int, step: Step) -> Iterator[str]:
        """Row by row: sums into scratch or the target, then pool, activation and affine."""
        operation, source, target = step.operation, step.sources[0], step.target
        window = operation.window
        assert window is not None
        _, width, outputs = operation.shape
        yield from self.frame(target)
        (top, _), (left, _) = source.border
        first = (top - window.padding[0][0]) * source.pitch + (left - window.padding[1][0]) * source.channels
        yield f"const float *x = {address(source, first)};"
        yield f"float *y = {address(target, target.inside)};"
        pool = step.pool.window if step.pool is not None else None
        count, apart = (pool.size[0], pool.stride[0]) if pool is not None else (1, 1)
        room = padded(outputs) if operation.groups == 1 else outputs
        row_step = window.stride[0] * source.pitch
        yield f"for (int i = 0; i < {target.height}; i++) {{"
        yield f"    float *row = y + i * {target.pitch};"
        finished, indent = "row", "    "
        if step.scratch is not None:
            yield f"    float *line = p_arena + {step.scratch.offset // 4};"
            finished = "line"
        if pool is not None:
            yield f"    for (int r = 0; r < {count}; r++) {{"
            yield f"        const float *from = x + (i * {apart} + r) * {row_step};"
            yield f"        float *to = line + r * {width * room};"
            finished, indent = "to", "        "
        else:
            yield f"    const float *from = x + i * {row_step};"
        yield from (indent + line for line in self.sums(number, operation, source, width, room, finished))
        if pool is not None:
            yield "    }"
        activation = step.activation
        if step.scratch is not None:
            least = "0.0f" if activation == "relu" else "-INFINITY"
            size, stride = (pool.size, pool.stride) if pool is not None else ((1, 1), (1, 1))
            yield (
                f"    {self.use('pool_row')}(line, {width * room}, {room}, {outputs}, {size[0]}, {size[1]}, "
                f"{stride[1]}, {target.width}, {least}, row);"
            )
            activation = None if activation == "relu" else activation
        n = target.width * target.channels
        if activation is not None:
            yield f"    {self.use(activation)}(row, {n}, row);"
        if step.affine is not None:
            yield f"    {self.affine_call(number, step.affine, 'row', target.width, target.channels, 'row')}"
        yield "}"

    def sums(
        self, number: int, operation: Operation, source: View, width: int, room: int, to: str
    ) -> Iterator[str]:
        """One row of a convolution, from `from` to `to`."""
        window, weight, bias = operation.window, operation.weight, operation.bias
        assert window is not None and weight is not None and bias is not None
        (rows, columns), channels = window.size, source.channels
        row_step, tap_step = window.dilation[0] * source.pitch, window.dilation[1] * channels
        pixel_step = window.stride[1] * channels
        if operation.groups > 1:
            w, b = self.array(f"weight{number}", weight), self.array(f"bias{number}", bias)
            shared = f"from, {row_step}, {tap_step}, {pixel_step}, {rows}, {columns}"
            inputs, outputs = weight.shape[2], weight.shape[3] // operation.groups
            if inputs == outputs == 1:
                yield f"{self.use('depthwise_row')}({shared}, {channels}, {width}, {w}, {b}, {to});"
            else:
                yield (
                    f"{self.use('grouped_row')}({shared}, {operation.groups}, {inputs}, {outputs}, "
                    f"{width}, {w}, {b}, {to});"
                )
            return
        parts, run = (1, columns * channels) if window.dilation[1] == 1 else (columns, channels)
        w, b = (
            self.array(f"weight{number}", blocked(weight, BLOCKS)),
            self.array(f"bias{number}", widened(bias)),
        )
        at = 0
        for block in blocks(weight.shape[3], BLOCKS):
            vectors = max(1, block // 8)
            tile = self.tile(min(width, REGISTERS // vectors), block)
            yield (
                f"p_row_{tile}(from, {row_step}, {tap_step}, {pixel_step}, {rows}, {parts}, {run}, {width},"
            )
            yield f"    {w} + {at * rows * columns * channels}, {b} + {at}, {to} + {at}, {room});"
            at += block

    def tile(self, pixels: int, block: int) -> str:
        """The name of a tile that has to be there."""
        name = c_kernels.tile_name(pixels, block)
        self.tiles[name] = (pixels, max(1, block // 8), "vector" if block >= 8 else "vector4")
        return name

    def dense(self, number: int, step: Step) -> Iterator[str]:
        """Outputs side by side; where there are few, one after the other."""
        weight, bias = step.operation.weight, step.operation.bias
        assert weight is not None and bias is not None
        features, units = weight.shape
        yield f"const float *x = {address(step.sources[0])};"
        yield f"float *y = {address(step.target)};"
        if units <= FEW:
            w, b = self.array(f"weight{number}", weight.T), self.array(f"bias{number}", bias)
            yield f"{self.use('dot')}(x, {features}, {w}, {b}, {units}, y);"
        else:
            widths = dense_widths(units)
            w = self.array(f"weight{number}", blocked(weight, widths))
            b = self.array(f"bias{number}", widened(bias))
            to = "y"
            if step.scratch is not None:
                yield f"float *line = p_arena + {step.scratch.offset // 4};"
                to = "line"
            at = 0
            for block in blocks(units, widths):
                tile = self.tile(1, block)
                yield f"p_row_{tile}(x, 0, 0, 0, 1, 1, {features}, 1, {w} + {at * features},"
                yield f"    {b} + {at}, {to} + {at}, 0);"
                at += block
            if step.scratch is not None:
                yield f"{self.use('copy')}(line, {padded(units)}, 1, {units}, y, {units});"
        if step.activation is not None:
            yield f"{self.use(step.activation)}(y, {units}, y);"
        if step.affine is not None:
            yield self.affine_call(number, step.affine, "y", 1, units, "y")

    def affine_call(self, number: int, affine: Operation, x: str, pixels: int, channels: int, y: str) -> str:
        """Call p_affine with the operation's scale and shift."""
        assert affine.scale is not None and affine.shift is not None
        scale, shift = self.array(f"scale{number}", affine.scale), self.array(f"shift{number}", affine.shift)
        return f"{self.use('affine')}({x}, {pixels}, {channels}, {scale}, {shift}, {y});"

    def elementwise(self, number: int, step: Step) -> Iterator[str]:
        """An activation, an affine function or a sum, row by row where there are borders."""
        target, kind = step.target, step.operation.kind
        if not step.in_place:
            yield from self.frame(target)
        sources = [f"(x{place} + i * {source.pitch})" for place, source in enumerate(step.sources)]
        for place, source in enumerate(step.sources):
            yield f"const float *x{place} = {address(source, source.inside)};"
        yield f"float *y = {address(target, target.inside)};"
        yield f"for (int i = 0; i < {target.height}; i++) {{"
        row, n = f"(y + i * {target.pitch})", target.width * target.channels
        if kind == "affine":
            call = self.affine_call(number, step.operation, sources[0], target.width, target.channels, row)
        elif kind == "softmax":
            call = f"{self.use('softmax')}({sources[0]}, {target.width}, {target.channels}, 1.0f, {row});"
        elif kind == "add":
            yield f"    {self.use('add')}({sources[0]}, {sources[1]}, {n}, {row});"
            for more in sources[2:]:
                yield f"    {self.use('add')}({row}, {more}, {n}, {row});"
            call = ""
        else:
            call = f"{self.use(kind)}({sources[0]}, {n}, {row});"
        if call:
            yield f"    {call}"
        yield "}"

    def _pool(self, step: Step) -> Iterator[str]:
        source, target, window = step.sources[0], step.target, step.operation.window
        assert window is not None
        yield from self.frame(target)
        yield f"const float *x = {address(source, source.inside)};"
        yield f"float *y = {address(target, target.inside)};"
        yield f"for (int i = 0; i < {target.height}; i++)"
        call = self.use(f"{step.operation.kind}_row")
        yield f"    {call}(x, {source.pitch}, {source.height}, {source.width}, {source.channels},"
        yield (
            f"        i * {window.stride[0]} - {window.padding[0][0]}, {window.size[0]}, {window.size[1]}, "
            f"{window.stride[1]}, {window.padding[1][0]}, {target.width}, y + i * {target.pitch});"
        )

    def max_pool(self, number: int, step: Step) -> Iterator[str]:
        """A max-pool that no convolution took along."""
        return self._pool(step)

    def average_pool(self, number: int, step: Step) -> Iterator[str]:
        """An average-pool."""
        return self._pool(step)

    def upsample(self, number: int, step: Step) -> Iterator[str]:
        """Each row several times, each pixel several times."""
        source, target, factor = step.sources[0], step.target, step.operation.factor
        yield from self.frame(target)
        yield f"const float *x = {address(source, source.inside)};"
        yield f"float *y = {address(target, target.inside)};"
        yield f"for (int i = 0; i < {target.height}; i++)"
        yield (
            f"    {self.use('upsample_row')}(x + i / {factor[0]} * {source.pitch}, {source.width}, "
            f"{source.channels}, {factor[1]}, y + i * {target.pitch});"
        )

    def flatten(self, number: int, step: Step) -> Iterator[str]:
        """The rows of an image that has a border, one after another."""
        source, n = step.sources[0], step.sources[0].width * step.sources[0].channels
        yield f"const float *x = {address(source, source.inside)};"
        yield f"float *y = {address(step.target)};"
        yield f"for (int i = 0; i < {source.height}; i++)"
        yield f"    {self.use('copy')}(x + i * {source.pitch}, {n}, 1, {n}, y + i * {n}, {n});"

    def concatenate(self, number: int, step: Step) -> Iterator[str]:
        """The channels of one source after those of another."""
        target, at = step.target, 0
        yield from self.frame(target)
        yield f"float *y = {address(target, target.inside)};"
        for source in step.sources:
            yield f"for (int i = 0; i < {target.height}; i++)"
            yield (
                f"    {self.use('copy')}({address(source, source.inside)} + i * {source.pitch}, "
                f"{source.channels}, {target.width}, {source.channels}, y + i * {target.pitch} + {at}, "
                f"{target.channels});"
            )
            at += source.channels


BLOCKS = (16, 8, 4)  # outputs of a convolution's tiles


def dense_widths(units: int) -> tuple[int, ...]:
    """Outputs of a dense layer's tiles: about equal, of at most eight vectors of 8."""
    eights = padded(units) // 8
    most = -(-eights // -(-eights // REGISTERS)) if eights else 0
    return (*range(8 * most, 0, -8), 4)


def blocks(outputs: int, widths: Sequence[int]) -> list[int]:
    """How outputs, filled up to a multiple of four, fall into blocks: the widest as often as it fits, ..."""
    found, left = [], padded(outputs)
    for width in widths:
        found += [width] * (left // width)
        left %= width
    return found


def blocked(weight: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """(..., outputs) -> flat: for each block of outputs all taps and inputs, the outputs innermost."""
    outputs = weight.shape[-1]
    flat = np.zeros((math.prod(weight.shape[:-1]), padded(outputs)), np.float32)
    flat[:, :outputs] = weight.reshape(-1, outputs)
    edges = np.cumsum(blocks(outputs, widths))[:-1]
    return np.concatenate([part.reshape(-1) for part in np.split(flat, edges, axis=1)])


def widened(bias: np.ndarray) -> np.ndarray:
    """(outputs,) -> filled up with zeros."""
    return np.pad(bias, (0, padded(len(bias)) - len(bias)))


def address(view: View, plus: int = 0) -> str:
    """A place in the arena, counted in numbers from the start of a view."""
    return f"p_arena + {view.buffer.offset // 4 + plus}"


def numbers(values: np.ndarray) -> str:
    """float32 values as C writes them, eight a line."""
    texts = [single(value) for value in values.tolist()]
    return "\n".join(f"    {', '.join(texts[at : at + 8])}," for at in range(0, len(texts), 8))


def _shape(view: View) -> str:
    return f"{view.height} x {view.width} x {view.channels}"


def _comment(text: str) -> str:
    """Text that cannot end a C comment or start anything in it."""
    return re.sub(r"[^A-Za-z0-9 ._/-]", "?", text)
