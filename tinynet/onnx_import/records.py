"""An ONNX graph as plain records, without protobuf."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from tinynet.errors import ModelFileError
from tinynet.limits import MAXIMUM_OPERATIONS, MAXIMUM_VALUES, PASS_IN_A_GRAPH

# Numbers of onnx.TensorProto.DataType (onnx.proto): the element types that NumPy has.
ELEMENT_TYPES: dict[int, np.dtype] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
}
MAXIMUM_ALIVE = 2 * MAXIMUM_VALUES
MAXIMUM_AXES = 32  # what every version of NumPy allows


@dataclass(frozen=True)
class Value:
    """An input or output of the graph; a side is a number, a name, or None where nothing is known."""

    name: str
    dtype: np.dtype | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.  An input that is left out has the name ""; attributes have their defaults."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    @property
    def label(self) -> str:
        """The node as error messages name it."""
        return f"node {shown(self.name or next(filter(None, self.outputs), ''))} ({shown(self.operator, '')})"


@dataclass(frozen=True, eq=False)
class Description:
    """A whole file."""

    path: str
    name: str
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    producer: str
    metadata: Mapping[str, str]


@dataclass
class Budget:
    """What a run may still take: elements of arrays that are alive, and steps of work."""

    work: int = MAXIMUM_OPERATIONS
    alive: int = MAXIMUM_ALIVE


@dataclass(frozen=True, eq=False)
class Call:
    """One node being carried out: what its operator's function is told besides the input arrays."""

    node: Node
    budget: Budget = field(default_factory=Budget)

    def __getitem__(self, attribute: str) -> Any:
        return self.node.attributes[attribute]

    @property
    def opset(self) -> int:
        """The version of the operator set."""
        return self.node.opset

    def refuse(self, problem: str) -> NoReturn:
        """Raise ModelFileError for something that this operator cannot do here."""
        raise ModelFileError(f"{self.node.label}: {problem}")

    def room(self, shape: Any, steps: int = 1) -> tuple[int, ...]:
        """`shape`, unless an array of it, or `steps` steps for each of its elements, are too many."""
        shape = tuple(int(side) for side in shape)
        if len(shape) > MAXIMUM_AXES or any(side < 0 for side in shape):
            self.refuse(f"no array can have the shape {shown(shape, '')}")
        size = math.prod(shape)
        if size > MAXIMUM_VALUES:
            self.refuse(f"its result would have {size:,} elements; at most {MAXIMUM_VALUES:,} are allowed")
        self.charge(size * max(steps, PASS_IN_A_GRAPH))
        return shape

    def charge(self, operations: int) -> None:
        """Take so much of the budget; refuse where it is used up."""
        self.budget.work -= operations
        if self.budget.work < 0:
            self.refuse("the graph would take more work than is sensible for one batch; give it fewer images")

    def broadcast(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arrays, once it is known that they broadcast to a shape of bearable size."""
        self.room(np.broadcast_shapes(*[array.shape for array in arrays]))
        return arrays


def shown(value: Any, quote: str = "'") -> str:
    """Text from a file, printable and of bearable length, in quotes."""
    text = str(value)
    text = "".join(c if c.isprintable() else "?" for c in (text if len(text) <= 60 else text[:57] + "..."))
    return f"{quote}{text}{quote}"
