"""From the bytes of an ONNX file to checked records.  Nothing is trusted: every claim is checked first.

In this order: the size of the file, the protobuf message, its versions, what it must not have
(external data, subgraphs, functions of its own, other domains), every array, every node, every name.
Source: the ONNX IR specification and onnx.proto.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import Any, NoReturn

import numpy as np

from tinynet.errors import ModelFileError
from tinynet.files.atomic import open_to_read, path_text
from tinynet.limits import MAXIMUM_VALUES
from tinynet.onnx_import import elementwise, reductions, shaping, windows  # noqa: F401  (register operators)
from tinynet.onnx_import.records import (
    ELEMENT_TYPES,
    MAXIMUM_ALIVE,
    MAXIMUM_AXES,
    Description,
    Node,
    Value,
    shown,
)
from tinynet.onnx_import.registry import MAXIMUM_OPSET, check
from tinynet.onnx_library import onnx_library

MAXIMUM_FILE_BYTES = 2**30
MAXIMUM_NODES = 50_000
MINIMUM_IR, MAXIMUM_IR = 3, 14

_ATTRIBUTE_KINDS = {1: "float", 2: "int", 3: "string", 4: "tensor", 6: "floats", 7: "ints", 8: "strings"}
_OTHER_KINDS = {
    5: "a graph inside the graph",
    10: "a list of graphs",
    11: "a sparse tensor",
    12: "a list of sparse tensors",
}


def read_file(path: str | os.PathLike[str]) -> Description:
    """The checked graph of a file; raises as from_onnx does."""
    onnx_library()  # says what to install before the file is looked at
    name = path_text(path)
    with open_to_read(path) as file:
        # Asked for more than there is, read() would first reserve all that it was asked for.
        size = os.fstat(file.fileno()).st_size
        if size > MAXIMUM_FILE_BYTES:
            raise ModelFileError(f"{name} is larger than the {MAXIMUM_FILE_BYTES:,} bytes that are read")
        content = file.read(size)
    return read_bytes(content, name)


def read_bytes(content: bytes, path: str = "the ONNX graph") -> Description:
    """The same from the content of a file."""
    onnx = onnx_library()
    message = onnx.ModelProto()
    try:
        message.ParseFromString(content)
    except Exception as problem:  # google.protobuf.message.DecodeError, of a package we do not import
        if not type(problem).__module__.startswith("google."):
            raise
        raise ModelFileError(f"{path} is not an ONNX file, or is damaged: {_one_line(problem)}") from None
    if not content or not message.HasField("graph"):
        raise ModelFileError(f"{path} is not an ONNX file, or is damaged: it has no graph")
    return _Reader(onnx, message, path).description()


class _Reader:
    """Goes through one message."""

    def __init__(self, onnx: Any, message: Any, path: str):
        self.onnx, self.message, self.graph, self.path = onnx, message, message.graph, path
        self.opset = 0

    def refuse(self, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {problem}")

    def description(self) -> Description:
        self.opset = self.versions()
        self.nothing_unknown()
        constants = self.constants()
        try:
            nodes = tuple(self.node(node, place) for place, node in enumerate(self.graph.node))
        except ModelFileError as problem:
            if str(problem).startswith(self.path):
                raise
            self.refuse(str(problem))
        inputs = [self.value(value) for value in self.graph.input if value.name not in constants]
        outputs = [self.value(value) for value in self.graph.output]
        self.names(inputs, outputs, constants, nodes)
        return Description(
            self.path,
            self.graph.name,
            self.opset,
            nodes,
            constants,
            tuple(inputs),
            tuple(outputs),
            self.message.producer_name,
            {entry.key: entry.value for entry in self.message.metadata_props},
        )

    def versions(self) -> int:
        """The version of the operator set."""
        ir, produced = self.message.ir_version, ""
        if self.message.producer_name:
            produced = f" (made by {shown(self.message.producer_name, '')})"
        if ir > MAXIMUM_IR:
            self.refuse(
                f"its IR version {ir} is newer than {MAXIMUM_IR}, the newest that tinynet reads{produced}"
            )
        if ir < MINIMUM_IR:
            self.refuse(f"its IR version {ir} is older than {MINIMUM_IR}, or it is not an ONNX file")
        found = [entry.version for entry in self.message.opset_import if entry.domain in ("", "ai.onnx")]
        if not found:
            others = ", ".join(shown(entry.domain, "") for entry in self.message.opset_import) or "none"
            self.refuse(f"it names no version of ONNX's operator set, only of other domains ({others})")
        if len(found) != 1:
            self.refuse(f"it names {len(found)} versions of ONNX's operator set, wanted one")
        if found[0] > MAXIMUM_OPSET:
            self.refuse(
                f"its opset {found[0]} is newer than {MAXIMUM_OPSET}, the newest that tinynet reads{produced}"
            )
        if found[0] < 1:
            self.refuse(f"its opset {found[0]} makes no sense")
        return found[0]

    def nothing_unknown(self) -> None:
        """Refuse parts of a file that change what it computes and that we do not read."""
        if len(self.message.functions):
            self.refuse("it defines operators of its own (functions), which are not supported")
        if len(self.graph.sparse_initializer):
            self.refuse("it has sparse weights, which are not supported")
        if len(self.graph.node) > MAXIMUM_NODES:
            self.refuse(f"it has {len(self.graph.node):,} nodes; at most {MAXIMUM_NODES:,} are read")
        if not len(self.graph.output):
            self.refuse("its graph has no outputs")

    def constants(self) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        total = 0
        for tensor in self.graph.initializer:
            if tensor.name in found:
                self.refuse(f"two weights have the name {shown(tensor.name)}")
            array = self.array(tensor, f"weight {shown(tensor.name)}")
            total += array.size
            if total > MAXIMUM_ALIVE:
                self.refuse(f"its weights are more than {MAXIMUM_ALIVE:,} numbers")
            found[tensor.name] = array
        return found

    def array(self, tensor: Any, where: str) -> np.ndarray:
        """A tensor's array, once its size is known to be what its dimensions say."""
        dims = tuple(tensor.dims)
        if tensor.data_location or len(tensor.external_data):
            self.refuse(
                f"{where}: its numbers are in another file (external data), which is not read; "
                "save the model as one file"
            )
        dtype = ELEMENT_TYPES.get(tensor.data_type)
        if dtype is None:
            self.refuse(f"{where}: elements of type {self.type_name(tensor.data_type)} are not supported")
        if tensor.HasField("segment") or len(dims) > MAXIMUM_AXES or any(side < 0 for side in dims):
            self.refuse(f"{where}: no array can have the shape {shown(dims, '')}")
        size = math.prod(dims)
        if size > MAXIMUM_VALUES:
            self.refuse(
                f"{where}: its shape {shown(dims, '')} has {size:,} elements; "
                f"at most {MAXIMUM_VALUES:,} are allowed"
            )
        if tensor.HasField("raw_data"):
            held, wanted, unit = len(tensor.raw_data), size * dtype.itemsize, "bytes"
        else:
            fields = {
                1: "float_data",
                7: "int64_data",
                11: "double_data",
                12: "uint64_data",
                13: "uint64_data",
            }
            held, wanted, unit = (
                len(getattr(tensor, fields.get(tensor.data_type, "int32_data"))),
                size,
                "numbers",
            )
        if held != wanted:
            self.refuse(f"{where}: it holds {held:,} {unit}, its shape {shown(dims, '')} wants {wanted:,}")
        try:
            array = self.onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as problem:
            self.refuse(f"{where}: {_one_line(problem)}")
        array = np.asarray(array, dtype)
        array.flags.writeable = False
        return array

    def node(self, node: Any, place: int) -> Node:
        label = Node(node.op_type, node.name, (), tuple(node.output) or (f"number {place}",), {}, 0).label
        given: dict[str, tuple[str, Any]] = {}
        for attribute in node.attribute:
            if attribute.name in given:
                self.refuse(f"{label}: it has the attribute {shown(attribute.name)} twice")
            given[attribute.name] = self.attribute(attribute, label)
        inputs, outputs = _without_tail(node.input), _without_tail(node.output)
        attributes = check(label, node.op_type, node.domain, self.opset, (len(inputs), len(outputs)), given)
        return Node(node.op_type, node.name, inputs, outputs, attributes, self.opset)

    def attribute(self, attribute: Any, label: str) -> tuple[str, Any]:
        """Its kind and value; strings as text, lists as tuples."""
        where = f"{label}: the attribute {shown(attribute.name)}"
        if attribute.ref_attr_name:
            self.refuse(f"{where} refers to a function's, outside of any function")
        kind = _ATTRIBUTE_KINDS.get(attribute.type)
        if kind is None:
            what = _OTHER_KINDS.get(attribute.type, f"of the unknown kind {attribute.type}")
            self.refuse(f"{where} is {what}, which is not supported")
        if kind == "tensor":
            return kind, self.array(attribute.t, where)
        if kind == "string":
            return kind, attribute.s.decode("utf-8", "replace")
        if kind in ("float", "int"):
            return kind, attribute.f if kind == "float" else attribute.i
        return kind, tuple(getattr(attribute, kind))

    def value(self, value: Any) -> Value:
        """An input's or output's name, type and shape, as far as they are given."""
        kind = value.type.WhichOneof("value")
        if kind not in ("tensor_type", None):
            self.refuse(f"{shown(value.name)} is of kind {kind}; only arrays are supported")
        held = value.type.tensor_type
        dtype = ELEMENT_TYPES.get(held.elem_type)
        if dtype is None and held.elem_type:
            self.refuse(
                f"{shown(value.name)}: elements of type {self.type_name(held.elem_type)} are not supported"
            )
        if not held.HasField("shape"):
            return Value(value.name, dtype, None)
        sides: list[int | str | None] = []
        for side in held.shape.dim:
            known = side.WhichOneof("value")
            sides.append(None if known is None else getattr(side, known))
            if known == "dim_value" and not 0 <= side.dim_value <= MAXIMUM_VALUES:
                self.refuse(f"{shown(value.name)}: a side of {side.dim_value} makes no sense")
        return Value(value.name, dtype, tuple(sides))

    def names(self, inputs: list[Value], outputs: list[Value], constants: dict, nodes: tuple) -> None:
        """Refuse names that are taken twice, are read before they are made, or are never made."""
        made = Counter([value.name for value in inputs])
        made.update(dict.fromkeys(constants, 1))
        later = Counter(name for node in nodes for name in node.outputs if name)
        for name, count in (made + later).items():
            if count > 1:
                self.refuse(f"two inputs, weights or results have the name {shown(name)}")
        known = set(made)
        for node in nodes:
            for name in filter(None, node.inputs):
                if name not in known:
                    why = (
                        "made only later: the graph has a cycle, or is not in order"
                        if name in later
                        else "made nowhere"
                    )
                    self.refuse(f"{node.label} reads {shown(name)}, which is {why}")
            known.update(node.outputs)
        for value in outputs:
            if value.name not in known:
                self.refuse(f"the output {shown(value.name)} is made nowhere")

    def type_name(self, number: int) -> str:
        """An element type as ONNX calls it."""
        return self.onnx.TensorProto.DataType.Name(number) if number in _numbers(self.onnx) else str(number)


def _numbers(onnx: Any) -> list[int]:
    return list(onnx.TensorProto.DataType.values())


def _without_tail(names: Any) -> tuple[str, ...]:
    """Names without empty ones at the end, which mean nothing."""
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def _one_line(problem: Exception) -> str:
    return shown(" ".join(str(problem).split()), "")
