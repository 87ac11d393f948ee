"""Mutations of ONNX files: the message is read, one of its fields changed, and written again."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import onnx

from tinynet.onnx_import.registry import OPERATORS

NUMBERS = (0, 1, -1, 2, 3, 7, 16, 255, 4096, 65536, 2**24, 2**31 - 1, 2**31, 2**53, 2**63 - 1, -(2**63))
REALS = (0.0, -0.0, 1.0, -1.0, 1e-6, 1e38, 3.4e38, float("inf"), float("-inf"), float("nan"))
_WHOLE = {1: "double", 2: "float"}  # FieldDescriptor's numbers of types that hold reals


def seeds() -> list[bytes]:
    """Graphs with operators that no model of ours has, on two numbers an image."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT

    def graph(nodes: list, initializer: list) -> bytes:
        made = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", floats, [1, 2, 4, 4])],
            [helper.make_tensor_value_info("y", floats, None)],
            initializer,
        )
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()

    def weight(name: str, values: list, kind: int = onnx.TensorProto.INT64) -> Any:
        return helper.make_tensor(name, kind, [len(values)], values)

    return [
        graph(
            [
                helper.make_node("Shape", ["x"], ["s"]),
                helper.make_node("ConstantOfShape", ["s"], ["zeros"]),
                helper.make_node("Add", ["x", "zeros"], ["a"]),
                helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
                helper.make_node("Slice", ["b", "start", "end"], ["c"]),
                helper.make_node("Concat", ["b", "c"], ["d"], axis=1),
                helper.make_node("Reshape", ["d", "shape"], ["e"]),
                helper.make_node("Softmax", ["e"], ["y"], axis=-1),
            ],
            [weight("start", [0, 0]), weight("end", [9, 2]), weight("shape", [1, -1])],
        ),
        graph(
            [
                helper.make_node("Resize", ["x", "", "scales"], ["a"], mode="linear"),
                helper.make_node("Pad", ["a", "pads"], ["b"], mode="reflect"),
                helper.make_node("ReduceMean", ["b"], ["c"], axes=[2, 3]),
                helper.make_node("Gather", ["c", "index"], ["d"], axis=1),
                helper.make_node("Expand", ["d", "target"], ["e"]),
                helper.make_node("Tile", ["e", "repeats"], ["y"]),
            ],
            [
                weight("scales", [1.0, 1.0, 2.0, 2.0], floats), weight("pads", [0, 0, 1, 1, 0, 0, 1, 1]),
                weight("index", [0, 1, 1]), weight("target", [1, 3, 2, 2]), weight("repeats", [1, 2, 1, 1]),
            ],
        ),
    ]  # fmt: skip


def mutate(content: bytes, random: Random) -> bytes:
    """The message with one to four changes; content that is none comes back as it is."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # protobuf's DecodeError
        return content
    for _ in range(random.choice((1, 1, 2, 4))):
        # A number that an enumeration does not have; a name that is no text any more.
        with contextlib.suppress(ValueError):
            (_node if random.random() < 0.4 else _field)(model, random)
    return model.SerializeToString()


def _node(model: Any, random: Random) -> None:
    """Another operator, an attribute more, another name read, a node added, removed or moved."""
    nodes = model.graph.node
    if not nodes:
        return
    node = random.choice(nodes)
    names = [name for other in nodes for name in (*other.input, *other.output)]
    names += [tensor.name for tensor in model.graph.initializer]
    match random.randrange(7):
        case 0:
            node.op_type = random.choice(sorted(OPERATORS))
        case 1:
            if node.input:
                node.input[random.randrange(len(node.input))] = random.choice(names)
        case 2:
            node.input.append(random.choice([*names, ""]))
        case 3:
            key = random.choice(sorted(OPERATORS[node.op_type].attributes) or ["axis"]) if (
                node.op_type in OPERATORS
            ) else "axis"  # fmt: skip
            value = random.choice(
                (random.choice(NUMBERS), [random.choice(NUMBERS) for _ in range(4)], "SAME", 0.5)
            )
            node.attribute.append(onnx.helper.make_attribute(key, value))
        case 4:
            made = nodes.add()
            made.CopyFrom(node)
            made.output[:] = [f"{name}{len(nodes)}" for name in node.output]
        case 5:
            del nodes[random.randrange(len(nodes))]
        case 6:
            made = onnx.helper.make_node(
                random.choice(sorted(OPERATORS)), [random.choice(names) for _ in range(random.randrange(4))],
                [f"added{len(nodes)}"],
            )  # fmt: skip
            nodes.insert(random.randrange(len(nodes) + 1), made)
            if random.random() < 0.7:
                other = random.choice(nodes)
                if other.input:
                    other.input[random.randrange(len(other.input))] = made.output[0]


def _field(message: Any, random: Random) -> None:
    """Walk down at random from a message and change the field where the walk ends."""
    while True:
        given = message.ListFields()
        if not given:
            return
        field, value = random.choice(given)
        many = hasattr(value, "append") or hasattr(value, "add")
        if field.message_type is not None:
            if not many:
                message = value
                continue
            if len(value) == 0:
                return
            place = random.randrange(len(value))
            if random.random() < 0.05:
                del value[place]
                return
            message = value[place]
            continue
        if many:
            _change_list(value, field, random)
        else:
            setattr(message, field.name, _another(value, field, random))
        return


def _change_list(values: Any, field: Any, random: Random) -> None:
    place = random.randrange(len(values))
    match random.randrange(3):
        case 0:
            values[place] = _another(values[place], field, random)
        case 1:
            del values[place]
        case 2:
            values.insert(place, _another(values[place], field, random))


def _another(value: Any, field: Any, random: Random) -> Any:
    if isinstance(value, bytes):
        changed = bytearray(value)
        if changed and random.random() < 0.7:
            place = random.randrange(len(changed))
            changed[place : place + 4] = random.randbytes(random.randrange(9))
        else:
            changed = bytearray(random.randbytes(random.randrange(16)))
        return bytes(changed)
    if isinstance(value, str):
        return random.choice(("", "x", value + "1", "../../tmp/weights.bin", "a" * 200, "\n"))
    if field.type in _WHOLE:
        return random.choice(REALS)
    largest = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM)
    number = random.choice((*NUMBERS, value + 1, value - 1, value * 2))
    if field.cpp_type == field.CPPTYPE_ENUM:
        return random.choice(list(range(24)))
    if field.cpp_type in (field.CPPTYPE_UINT64, field.CPPTYPE_UINT32):
        return abs(number) % (2**63)
    return max(-(2**31), min(2**31 - 1, number)) if largest else max(-(2**63), min(2**63 - 1, number))
