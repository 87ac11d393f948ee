"""What an exported C program does, step by step, and where in its one static arena each array lies.

A convolution takes along what follows it: batch-norm goes into its weights; activation, max-pool and an
affine function into the pass over each finished row, so that the convolution's own result is never stored
whole.  Images lie in memory as (height, width, channels) inside a border of zeros, as wide as the
convolutions that read them reach out: no kernel asks whether a pixel exists.  Arrays that are not needed at
the same time share memory, and an operation on single elements works where its input lies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinynet.deploy.graph import Graph, Operation
from tinynet.kernels.window import Padding

MONOTONE = ("relu", "relu6", "sigmoid", "tanh")  # max-pool may come before them: the result is the same
ELEMENTWISE = (*MONOTONE, "affine", "add", "softmax", "table")
NO_BORDER: Padding = ((0, 0), (0, 0))
ALIGNMENT = 64  # bytes, a cache line


@dataclass(eq=False)
class Buffer:
    """A stretch of the arena, in use from one step to another.

    bytes        its size
    first, last  the first step that writes it and the last that reads it; the input is there before step 0
    offset       in bytes from the arena's start; known after `place`
    """

    bytes: int
    first: int
    last: int
    offset: int = -1


@dataclass(frozen=True, eq=False)
class View:
    """An array (height, width, channels) in a buffer, inside a border of zeros; a vector is 1 x 1 x n."""

    buffer: Buffer
    height: int
    width: int
    channels: int
    border: Padding

    @property
    def pitch(self) -> int:
        """Elements from one row to the next."""
        return (self.width + sum(self.border[1])) * self.channels

    @property
    def inside(self) -> int:
        """Elements from the start to the first pixel that is not border."""
        return self.border[0][0] * self.pitch + self.border[1][0] * self.channels

    @property
    def size(self) -> int:
        """Elements, border included."""
        return (self.height + sum(self.border[0])) * self.pitch


@dataclass(frozen=True, eq=False)
class Step:
    """One function of the program.

    operation   what it does; of a convolution or dense layer with the batch-norm that follows folded in
    sources     what it reads
    target      what it writes; where `in_place`, in the memory of a source
    activation  of a convolution's or dense layer's results; max-pool may come before it as well as after
    pool        max-pool of a convolution's finished rows
    affine      after both
    scratch     memory that only this step needs: rows of a convolution's results
    """

    operation: Operation
    sources: tuple[View, ...]
    target: View
    in_place: bool
    activation: str | None
    pool: Operation | None
    affine: Operation | None
    scratch: Buffer | None


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps, where input and logits lie, and the arena's size in bytes."""

    steps: list[Step]
    input: View
    output: View
    buffers: list[Buffer]
    arena: int


def plan(graph: Graph, itemsize: int = 4) -> Plan:
    """Steps and memory for a graph whose values take `itemsize` bytes an element: 4 for float32, 1 for int8.

    In int8 there are no borders (kernels look whether a pixel exists while they widen it to 16 bits),
    rows are not filled up, and a convolution takes along only max-pool.
    """
    groups = fuse(graph, only_pools=itemsize == 1)
    borders = _borders(graph, groups) if itemsize == 4 else {}
    readers: dict[int, list[int]] = {graph.output: [len(groups)]}
    for number, group in enumerate(groups):
        for value in group.inputs:
            readers.setdefault(value, []).append(number)
    buffers: list[Buffer] = []
    views: dict[int, View] = {}

    def view(value: int, step: int, reused: View | None = None) -> View:
        shape = graph.shape(value)
        height, width, channels = shape if len(shape) == 3 else (1, 1, shape[0])
        border = borders.get(value, NO_BORDER) if reused is None else reused.border
        buffer = Buffer(0, step, step) if reused is None else reused.buffer
        views[value] = View(buffer, height, width, channels, border)
        if reused is None:
            buffer.bytes = views[value].size * itemsize
            buffers.append(buffer)
        return views[value]

    def reusable(group: Group, number: int) -> View | None:
        """The source in whose memory the result may lie, because nobody reads it afterwards."""
        for value in group.inputs[:2] if group.operation.kind in ELEMENTWISE else ():
            alike = [other for other in views if views[other].buffer is views[value].buffer]
            if max(max(readers.get(other, [-1])) for other in alike) == number:
                return views[value]
        return None

    view(0, -1)
    steps: list[Step] = []
    for number, group in enumerate(groups):
        sources = tuple(views[value] for value in group.inputs)
        for source in sources:
            source.buffer.last = number
        if group.operation.kind == "flatten" and sources[0].border == NO_BORDER:
            view(group.result, number, sources[0])  # the same memory seen as a vector: nothing to do
            continue
        reused = reusable(group, number)
        target, scratch = view(group.result, number, reused), _scratch(group, number, itemsize)
        buffers += [] if scratch is None else [scratch]
        steps.append(
            Step(
                group.operation, sources, target, reused is not None,
                group.activation, group.pool, group.affine, scratch,
            )
        )  # fmt: skip
    views[graph.output].buffer.last = len(groups)
    return Plan(steps, views[0], views[graph.output], buffers, place(buffers))


def place(buffers: list[Buffer]) -> int:
    """Give each buffer an offset so that none in use at the same time overlap; the bytes needed.

    Greedy by size (Pisarchyk and Lee, Efficient memory management for deep neural net inference,
    arXiv:2001.03288, section 5): the largest first, each in the lowest gap where it fits.
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        offset = 0
        together = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
        for other in sorted(together, key=lambda b: b.offset):
            if offset + buffer.bytes <= other.offset:
                break
            offset = max(offset, -(-(other.offset + other.bytes) // ALIGNMENT) * ALIGNMENT)
        buffer.offset = offset
        placed.append(buffer)
    return max(buffer.offset + buffer.bytes for buffer in buffers)


def padded(outputs: int) -> int:
    """How many outputs fill whole vectors of four."""
    return -(-outputs // 4) * 4


@dataclass(eq=False)
class Group:
    """Operations that are carried out together: `operation` and what it takes along."""

    operation: Operation
    inputs: tuple[int, ...]
    result: int
    activation: str | None = None
    pool: Operation | None = None
    affine: Operation | None = None


def fuse(graph: Graph, only_pools: bool = False) -> list[Group]:
    """The operations in groups, in order; with `only_pools` a convolution takes along nothing else."""
    groups: list[Group] = []
    taken: set[int] = set()
    for number, operation in enumerate(graph.operations):
        if number in taken:
            continue
        group = Group(operation, operation.inputs, number + 1)
        if operation.kind in ("convolution", "dense"):
            while (following := _only_reader(graph, group.result)) is not None:
                taking = graph.operations[following]
                if (only_pools and taking.kind != "max_pool") or not _take(group, taking):
                    break
                taken.add(following)
                group.result = following + 1
        groups.append(group)
    return groups


def _take(group: Group, following: Operation) -> bool:
    """Whether the group can do this too; if so it does."""
    untouched = group.activation is None and group.pool is None and group.affine is None
    if following.kind == "affine" and untouched:
        group.operation = folded(group.operation, following)
    elif following.kind == "affine" and group.affine is None:
        group.affine = following
    elif following.kind in MONOTONE and group.activation is None and group.affine is None:
        group.activation = following.kind
    elif (
        following.kind == "max_pool"
        and group.pool is None
        and group.affine is None
        and _rows_apart(group, following)
    ):
        group.pool = following
    else:
        return False
    return True


def folded(operation: Operation, affine: Operation) -> Operation:
    """A convolution or dense layer with the affine function after it: (x w + b) s + t = x (w s) + b s + t."""
    assert operation.weight is not None and operation.bias is not None
    assert affine.scale is not None and affine.shift is not None
    scale, shift = affine.scale.astype(np.float64), affine.shift.astype(np.float64)
    return replace(
        operation,
        weight=(operation.weight * scale).astype(np.float32),
        bias=(operation.bias * scale + shift).astype(np.float32),
    )


def _rows_apart(group: Group, pool: Operation) -> bool:
    """Whether each row of the convolution belongs to one row of the pool at most."""
    window = pool.window
    assert window is not None
    return (
        group.operation.kind == "convolution"
        and window.padding == NO_BORDER
        and window.stride[0] >= window.size[0]
    )


def _only_reader(graph: Graph, value: int) -> int | None:
    """The operation that alone reads this value, and nothing else."""
    readers = graph.readers(value)
    if len(readers) == 1 and graph.operations[readers[0]].inputs == (value,):
        return readers[0]
    return None


def _borders(graph: Graph, groups: list[Group]) -> dict[int, Padding]:
    """How far the convolutions that read a value reach beyond it, on each side.

    What an operation on elements works on needs what its result needs: it may lie in the same memory.
    """
    needed: dict[int, Padding] = {}
    for group in reversed(groups):
        for value in group.inputs:
            if group.operation.kind == "convolution":
                reach = _reach(graph.shape(value), group.operation)
            elif group.operation.kind in ELEMENTWISE:
                reach = needed.get(group.result, NO_BORDER)
            else:
                continue
            needed[value] = _wider(needed.get(value, NO_BORDER), reach)
    return needed


def _reach(shape: tuple[int, ...], operation: Operation) -> Padding:
    """Rows above and below, columns left and right, that a convolution reads outside its input."""
    window = operation.window
    assert window is not None
    sides = []
    for axis in (0, 1):
        before = window.padding[axis][0]
        last = (operation.shape[axis] - 1) * window.stride[axis] + window.extent[axis] - 1 - before
        sides.append((before, max(0, last - (shape[axis] - 1))))
    return (sides[0], sides[1])


def _wider(one: Padding, other: Padding) -> Padding:
    (a, b), (c, d) = one
    (e, f), (g, h) = other
    return ((max(a, e), max(b, f)), (max(c, g), max(d, h)))


def _scratch(group: Group, number: int, itemsize: int) -> Buffer | None:
    """Results that are not stored as they are: rows before max-pool, outputs that fill up a vector."""
    operation = group.operation
    if operation.kind not in ("convolution", "dense"):
        return None
    width, outputs = operation.shape[-2] if operation.kind == "convolution" else 1, operation.shape[-1]
    room = padded(outputs) if operation.groups == 1 and itemsize == 4 else outputs
    if group.pool is None and room == outputs:
        return None
    rows = 1 if group.pool is None or group.pool.window is None else group.pool.window.size[0]
    return Buffer(rows * width * room * itemsize, number, number)
