"""The steps of an int8 model as C: whole numbers only, bit for bit those of tinynet/deploy/int8.

What a sum of products reads is first widened to 16 bits, with the zero point taken off and 0 where there is
no pixel; then each output is one sum over neighbouring numbers, which compilers turn into vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinynet.deploy import c_int8_kernels, c_kernels
from tinynet.deploy.c_plan import Plan, Step, View, plan
from tinynet.deploy.c_shell import Shell, image, single
from tinynet.deploy.graph import Graph
from tinynet.deploy.graph import Operation as Node
from tinynet.deploy.int8 import operations
from tinynet.deploy.int8.model import Int8Model, selftest_integers
from tinynet.deploy.int8.values import Store, Value
from tinynet.deploy.int8.windows import pixel_counts
from tinynet.storage import SELFTEST_OUTPUTS, SELFTEST_SEED

VECTOR = 16  # numbers of 16 bits that are multiplied at once where there are vectors
TYPES = {"int8_t": 1, "int16_t": 2, "int32_t": 4, "uint8_t": 1}


class Int8Program:
    """C text of the steps, as FloatProgram has it; `constants` and `arena` are bytes."""

    numbers = "int8"

    def __init__(self, model: Int8Model):
        self.model, self.graph = model, structure(model)
        self.plan: Plan = plan(self.graph, itemsize=1)
        self.values = model.program.values
        self.by_name = {operation.name: operation for operation in model.program.operations}
        self.data: list[str] = []
        self.constants = self.widened = 0
        self.used: dict[str, None] = {}  # names of kernels, in the order in which they are needed
        self.steps = [self.step(number, step) for number, step in enumerate(self.plan.steps)]

    @property
    def sums(self) -> bool:
        """Whether the logits are the last operation's int32 sums."""
        return self.model.program.output.zero is None

    @property
    def arena(self) -> int:
        """Bytes of RAM, besides the stack."""
        logits = 4 * math.prod(self.model.output_shape) if self.sums else 0
        return self.plan.arena + 2 * self.widened + logits

    @property
    def memory(self) -> str:
        """The definitions of the arrays in RAM."""
        lines = [f"P_STORAGE P_ALIGNED int8_t p_arena[{self.plan.arena}];"]
        if self.widened:
            lines.append(f"P_STORAGE P_ALIGNED int16_t p_wide[{self.widened}]; /* what one sum reads */")
        if self.sums:
            lines.append("P_STORAGE P_ALIGNED int32_t p_sums[P_OUTPUTS];")
        return "\n".join([*lines, ""])

    @property
    def functions(self) -> list[str]:
        """The C functions that the steps call."""
        known = c_kernels.FUNCTIONS | c_int8_kernels.FUNCTIONS  # of the former, what comes after the logits
        return [c_int8_kernels.ROUNDED, *(known[name] for name in self.used)]

    @property
    def begin(self) -> str:
        """What has to be done before the first step."""
        return ""

    def use(self, name: str) -> str:
        """The C name of a kernel that has to be there, after those that it calls."""
        for other in c_int8_kernels.NEEDS.get(name, ()):
            self.use(other)
        self.used.setdefault(name)
        return f"p_{name}"

    def array(self, name: str, values: Any, kind: str) -> str:
        """Append a constant array; its C name."""
        flat = np.asarray(values).reshape(-1).tolist()
        self.constants += len(flat) * TYPES[kind]
        rows = [", ".join(map(str, flat[at : at + 16])) for at in range(0, len(flat), 16)]
        text = ",\n".join(f"    {row}" for row in rows)
        self.data.append(f"static P_ALIGNED const {kind} p_{name}[{len(flat)}] = {{\n{text}\n}};\n")
        return f"p_{name}"

    def step(self, number: int, step: Step) -> str:
        """The function p_step<number>."""
        operation = self.by_name[step.operation.name]
        known = [self.values[value] for value in operation.inputs]
        also = ", max_pool" if step.pool is not None else ""
        lines = [f"/* {operation.kind}{also}: {_shape(step)} */", f"static void p_step{number}(void)", "{"]
        body = getattr(self, operation.kind)(number, step, operation, known)
        return "\n".join([*lines, *(f"    {line}" for line in body), "}", ""])

    def storing(self, number: int, store: Store) -> str:
        """Arrays of multipliers and shifts; the last arguments of kernels that store."""
        multiplier = self.array(f"multiplier{number}", store.multiplier, "int32_t")
        shift = self.array(f"shift{number}", store.shift, "uint8_t")
        return f"{multiplier}, {shift}, {store.zero}, {store.low}, {store.high}"

    def weights(self, number: int, weight: np.ndarray, bias: np.ndarray) -> str:
        """Arrays of weights, each output's together, and of biases."""
        outputs_first = np.moveaxis(weight, -1, 0).reshape(-1)
        # The last output's sum is over whole vectors too.
        padded = np.pad(outputs_first, (0, VECTOR - 1)) if weight.ndim > 1 else outputs_first
        return (
            f"{self.array(f'weight{number}', padded, 'int8_t')}, "
            f"{self.array(f'bias{number}', bias, 'int32_t')}"
        )

    def widening(self, count: int) -> str:
        """Make room for so many widened numbers, and clear what lies behind them in the last vector."""
        self.widened = max(self.widened, -(-count // VECTOR) * VECTOR)
        return f"for (int k = {count}; k < P_ROUNDED({count}); k++)\n        p_wide[k] = 0;"

    # What each kind of step does.

    def convolution(
        self, number: int, step: Step, operation: operations.Convolution, known: list[Value]
    ) -> Iterator[str]:
        """Pixel by pixel: widen what the window sees, then a sum for each output."""
        source, window = step.sources[0], operation.window
        height, width, outputs = step.operation.shape
        inputs = operation.weight.shape[2]
        taps, groups = math.prod(window.size), operation.groups
        yield self.widening(taps * source.channels)
        arrays = self.weights(number, operation.weight, operation.bias)
        stretches = f"1, P_ROUNDED({taps * inputs})" if groups == 1 else f"{taps}, {inputs}"
        sums = f"{arrays}, {outputs}, {taps * inputs}, {groups}, {stretches}, {source.channels}"
        pool = step.pool.window if step.pool is not None else None
        store = operation.store
        end = self.storing(number, store) if isinstance(store, Store) else ""
        yield f"const int8_t *x = {address(source)};"
        if isinstance(store, Store):
            yield f"int8_t *y = {address(step.target)};"
        size, stride = (pool.size, pool.stride) if pool is not None else ((1, 1), (1, 1))
        rows = height if pool is None else step.target.height
        yield f"for (int i = 0; i < {rows}; i++) {{"
        if pool is not None:
            assert step.scratch is not None
            yield f"    for (int r = 0; r < {size[0]}; r++)"
        row = f"i * {stride[0]} + r" if pool is not None else "i"
        (top, _), (left, _) = window.padding
        yield f"    for (int j = 0; j < {width}; j++) {{"
        yield (
            f"        {self.use('widen_window')}(x, {source.height}, {source.width}, {source.channels}, "
            f"{known[0].zero}, ({row}) * {window.stride[0]} - {top},"
        )
        yield (
            f"            j * {window.stride[1]} - {left}, {window.size[0]}, {window.size[1]}, "
            f"{window.dilation[0]}, {window.dilation[1]}, p_wide);"
        )
        if not isinstance(store, Store):
            yield f"        {self.use('sums_of')}(p_wide, {sums}, p_sums + (i * {width} + j) * {outputs});"
        else:
            to = f"y + (i * {width} + j) * {outputs}"
            if step.scratch is not None:
                to = f"p_arena + {step.scratch.offset} + (r * {width} + j) * {outputs}"
            yield f"        {self.use('stored_sums')}(p_wide, {sums},"
            yield f"            {end}, {to});"
        yield "    }"
        if step.scratch is not None:
            yield (
                f"    {self.use('pool_row')}(p_arena + {step.scratch.offset}, {size[0]}, {width}, {outputs}, "
                f"0, {size[0]}, {size[1]}, {stride[1]}, 0, {step.target.width},"
            )
            yield f"        y + i * {step.target.pitch});"
        yield "}"

    def dense(
        self, number: int, step: Step, operation: operations.Dense, known: list[Value]
    ) -> Iterator[str]:
        """Widen the features, then a sum for each unit."""
        features, units = operation.weight.shape
        yield self.widening(features)
        arrays = self.weights(number, operation.weight, operation.bias)
        sums = f"{arrays}, {units}, {features}, 1, 1, P_ROUNDED({features}), {features}"
        yield f"{self.use('widen')}({address(step.sources[0])}, {features}, {known[0].zero}, p_wide);"
        if isinstance(operation.store, Store):
            yield f"{self.use('stored_sums')}(p_wide, {sums},"
            yield f"    {self.storing(number, operation.store)}, {address(step.target)});"
        else:
            yield f"{self.use('sums_of')}(p_wide, {sums}, p_sums);"

    def affine(
        self, number: int, step: Step, operation: operations.Affine, known: list[Value]
    ) -> Iterator[str]:
        """A weight and a bias a channel."""
        channels = operation.bias.size
        pixels = math.prod(step.operation.shape) // channels
        arrays = self.weights(number, operation.weight, operation.bias)
        shared = f"{address(step.sources[0])}, {pixels}, {channels}, {known[0].zero}, {arrays}"
        if isinstance(operation.store, Store):
            yield f"{self.use('affine')}({shared},"
            yield f"    {self.storing(number, operation.store)}, {address(step.target)});"
        else:
            yield f"{self.use('affine_sums')}({shared}, p_sums);"

    def _window_row(self, step: Step, operation: Any, kernel: str, more: str) -> Iterator[str]:
        source, target, window = step.sources[0], step.target, operation.window
        yield f"for (int i = 0; i < {target.height}; i++)"
        yield (
            f"    {self.use(kernel)}({address(source)}, {source.height}, {source.width}, {source.channels}, "
            f"i * {window.stride[0]} - {window.padding[0][0]},"
        )
        yield (
            f"        {window.size[0]}, {window.size[1]}, {window.stride[1]}, {window.padding[1][0]}, "
            f"{target.width}, {more});"
        )

    def average_pool(
        self, number: int, step: Step, operation: operations.AveragePool, known: list[Value]
    ) -> Iterator[str]:
        """Sums over windows, rescaled by how many pixels each has."""
        target, zero = step.target, known[0].zero
        if not isinstance(operation.store, Store):
            return self._window_row(step, operation, "window_sums", f"{zero}, p_sums + i * {target.pitch}")
        counts = np.unique(pixel_counts(operation.window, known[0].shape))
        numbers = self.array(f"counts{number}", counts, "int32_t")
        end = f"{zero}, {numbers}, {self.storing(number, operation.store)}, "
        end += f"{address(target)} + i * {target.pitch}"
        return self._window_row(step, operation, "average_row", end)

    def max_pool(
        self, number: int, step: Step, operation: operations.MaxPool, known: list[Value]
    ) -> Iterator[str]:
        """A max-pool that no convolution took along."""
        end = f"{address(step.target)} + i * {step.target.pitch}"
        return self._window_row(step, operation, "pool_row", end)

    def add(self, number: int, step: Step, operation: operations.Add, known: list[Value]) -> Iterator[str]:
        """Element by element: the sources' sum, rescaled together."""
        store = operation.store
        yield f"for (int k = 0; k < {math.prod(step.operation.shape)}; k++) {{"
        yield f"    int64_t t = (int64_t)1 << {int(store.shift[0]) - 1};"
        for source, value, multiplier in zip(step.sources, known, store.multiplier.tolist(), strict=True):
            yield f"    t += ((int64_t)({address(source)})[k] - ({value.zero})) * {multiplier};"
        yield (
            f"    ({address(step.target)})[k] = "
            f"{self.use('clamped')}({self.use('floored')}(t, {int(store.shift[0])}), "
            f"{store.zero}, {store.low}, {store.high});"
        )
        yield "}"

    def concatenate(
        self, number: int, step: Step, operation: operations.Concatenate, known: list[Value]
    ) -> Iterator[str]:
        """The channels of one source after those of another, each rescaled."""
        store, at = operation.store, 0
        channels = step.operation.shape[-1]
        pixels = math.prod(step.operation.shape) // channels
        each = zip(step.sources, known, store.multiplier.tolist(), store.shift.tolist(), strict=True)
        for source, value, multiplier, shift in each:
            width = value.shape[-1]
            yield f"for (int k = 0; k < {pixels}; k++)"
            yield f"    for (int c = 0; c < {width}; c++)"
            yield (
                f"        ({address(step.target)})[k * {channels} + {at} + c] = {self.use('store')}("
                f"({address(source)})[k * {width} + c] - ({value.zero}),"
            )
            yield f"            {multiplier}, {shift}, {store.zero}, {store.low}, {store.high});"
            at += width

    def upsample(
        self, number: int, step: Step, operation: operations.UpSample, known: list[Value]
    ) -> Iterator[str]:
        """Each pixel several times."""
        source, target, (down, right) = step.sources[0], step.target, operation.factor
        yield f"for (int i = 0; i < {target.height}; i++)"
        yield f"    for (int j = 0; j < {target.width}; j++)"
        yield (
            f"        memcpy({address(target)} + i * {target.pitch} + j * {target.channels}, "
            f"{address(source)} + i / {down} * {source.pitch} + j / {right} * {source.channels}, "
            f"{source.channels});"
        )

    def table(
        self, number: int, step: Step, operation: operations.Table, known: list[Value]
    ) -> Iterator[str]:
        """A function of one value."""
        table = self.array(f"table{number}", operation.table, "int8_t")
        yield f"for (int k = 0; k < {math.prod(step.operation.shape)}; k++)"
        yield f"    ({address(step.target)})[k] = {table}[({address(step.sources[0])})[k] + 128];"

    # What surrounds the steps.

    def shell(self) -> Shell:
        """How pictures come in and logits go out."""
        _, width, channels = image(self.graph)
        row = f"int8_t *x = {address(self.plan.input)} + i * {width * channels};"
        loop = f"    for (int k = 0; k < {width * channels}; k++)\n"
        first, last = self.model.program.input, self.model.program.output
        zero = 0 if last.zero is None else last.zero
        integer = "p_sums[k]" if self.sums else f"({address(self.plan.output)})[k] - ({zero})"
        pictures = self.model.preprocessing is not None
        return Shell(
            put_row=(
                f"static void p_put_row(int i, const unsigned char *levels)\n{{\n    {row}\n{loop}"
                "        x[k] = (int8_t)(levels[k] - 128);\n}\n"
            )
            * pictures,
            put_scaled=(
                f"{c_int8_kernels.QUANTIZE}\n"
                f"static void p_put_scaled(int i, const float *values)\n{{\n    {row}\n{loop}"
                f"        x[k] = p_quantized((double)values[k] / {float(first.scale)!r}, {first.zero});\n}}\n"
            )
            * (not pictures),
            logits=(
                "void p_integers(int32_t *integers)\n{\n    for (int k = 0; k < P_OUTPUTS; k++)\n"
                f"        integers[k] = {integer};\n}}\n\n"
                "void p_logits(float *logits)\n{\n    for (int k = 0; k < P_OUTPUTS; k++)\n"
                f"        logits[k] = (float)({integer}) * {single(last.scale)};\n}}\n"
            ),
            check=self.check(integer),
            includes="#include <stdint.h>\n\n",
            extra=(
                "/* The same as the whole numbers that they are, the same on every machine. */\n"
                "void p_integers(int32_t *integers);\n\n"
            ),
        )

    def check(self, integer: str) -> str:
        """The self-test's comparison: exact."""
        places, expected = self.graph.test_places, selftest_integers(self.model, SELFTEST_SEED)
        return (
            f"    const int places[{len(places)}] = {{{', '.join(map(str, places))}}};\n"
            f"    const int32_t expected[{len(places)}] = {{{', '.join(map(str, expected))}}};\n"
            f"    for (int n = 0; n < {len(places)}; n++) {{\n        const int k = places[n];\n"
            f"        if ({integer} != expected[n])\n            wrong = 1;\n    }}\n"
        )


def structure(model: Int8Model) -> Graph:
    """The int8 operations as a graph without weights: what a plan is made from."""
    program = model.program
    nodes = [
        Node(
            operation.kind, operation.name, operation.inputs, value.shape,
            window=getattr(operation, "window", None), groups=getattr(operation, "groups", 1),
            factor=getattr(operation, "factor", (1, 1)),
        )
        for operation, value in zip(program.operations, program.values[1:], strict=True)
    ]  # fmt: skip
    outputs = math.prod(model.output_shape)
    places = np.linspace(0, outputs - 1, min(outputs, SELFTEST_OUTPUTS)).astype(int)
    return Graph(
        name=model.name,
        input_shape=model.input_shape,
        operations=tuple(nodes),
        ending=model.activation,
        temperature=model.temperature,
        threshold=model.threshold,
        class_names=None if model.class_names is None else tuple(model.class_names),
        preprocessing=model.preprocessing,
        test_seed=SELFTEST_SEED,
        test_outputs=(),
        test_places=tuple(places.tolist()),
    )


def address(view: View) -> str:
    """Where an array begins."""
    return f"p_arena + {view.buffer.offset}"


def _shape(step: Step) -> str:
    def one(view: View) -> str:
        return f"{view.height} x {view.width} x {view.channels}"

    return f"{' + '.join(map(one, step.sources))} -> {one(step.target)}"
