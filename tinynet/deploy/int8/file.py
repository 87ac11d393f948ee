"""An int8 model as named arrays and a description, and back again without trusting either.

docs/model-file.md, "Small number formats".  Numbers and lists of an operation go into the description
under the names of its fields; arrays are tensors called after the operation: "encoder1.weight".
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tinynet.arguments import names, number
from tinynet.deploy.int8.model import Int8Model, check_selftest, describe_selftest
from tinynet.deploy.int8.operations import KINDS, Operation
from tinynet.deploy.int8.program import Program
from tinynet.deploy.int8.values import Store, Value
from tinynet.errors import ArgumentError
from tinynet.files.strict_json import shortened
from tinynet.images import Preprocessing
from tinynet.kernels.window import Window
from tinynet.layers import ACTIVATIONS
from tinynet.storage import described

LONGEST_SIDE = 2**24  # of a window, stride, padding: beyond any picture

Arrays = dict[str, np.ndarray]


def contents(model: Int8Model) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the description that the file of this model holds."""
    arrays: Arrays = {}
    operations = [_describe(operation, arrays) for operation in model.program.operations]
    value = model.program.input
    return arrays, {
        "number_format": "int8",
        "architecture": {
            "name": model.name,
            "input": {"shape": list(value.shape), "scale": value.scale, "zero": value.zero},
            "operations": operations,
            "activation": model.activation,
        },
        "preprocessing": model.preprocessing.to_json() if model.preprocessing else None,
        "class_names": model.class_names,
        "threshold": model.threshold,
        "temperature": model.temperature,
        "provenance": model.provenance,
        "metrics": model.metrics,
        "self_test": describe_selftest(model),
    }


def restore(arrays: Arrays, description: dict[str, Any], path: Any) -> Int8Model:
    """The model of a file's arrays and description; raises ModelFileError, naming the file."""
    with described(path, "an int8 model"):
        model, stated = _restore(dict(arrays), description), description["self_test"]
    check_selftest(model, stated, path)
    return model


def _restore(arrays: Arrays, description: dict[str, Any]) -> Int8Model:
    architecture = _entries(description["architecture"], "architecture", _ARCHITECTURE)
    described = _entries(architecture["input"], "input", {"shape", "scale", "zero"})
    shape = described["shape"]
    if not isinstance(shape, list) or len(shape) not in (1, 3):
        raise ArgumentError(f"the input's shape is {shortened(shape)}")
    shape = tuple(_count("the input's shape", side, 1) for side in shape)
    value = Value(shape, described["scale"], described["zero"])
    operations = architecture["operations"]
    if not isinstance(operations, list):
        raise ArgumentError("the operations are not a list")
    program = Program(value, tuple(_operation(entry, arrays) for entry in operations))
    if arrays:
        raise ArgumentError(f"tensor {shortened(min(arrays))} belongs to no operation")
    name, activation = architecture["name"], architecture["activation"]
    if not isinstance(name, str):
        raise ArgumentError("its name is not text")
    if activation is not None and (not isinstance(activation, str) or activation not in ACTIVATIONS):
        raise ArgumentError(f"its activation is {shortened(activation)}")
    preprocessing = description["preprocessing"]
    made = None if preprocessing is None else Preprocessing.from_json(preprocessing)
    if made is not None and (made.height, made.width, 3) != shape:
        raise ArgumentError(f"the preprocessing makes images ({made.height}, {made.width}, 3), not {shape}")
    if made is not None and value.zero != -128:
        raise ArgumentError(f"the zero point of pictures is -128, not {value.zero}")
    class_names = description["class_names"]
    if class_names is not None:
        class_names = names("class_names", class_names)
        classes = program.output.shape
        wanted = 2 if classes == (1,) and activation == "sigmoid" else classes[0]
        if len(classes) == 1 and len(class_names) != wanted:
            raise ArgumentError(f"class_names has {len(class_names)} names, the model {wanted} classes")
    return Int8Model(
        program,
        name=name,
        activation=activation,
        preprocessing=made,
        class_names=class_names,
        threshold=number("threshold", description["threshold"], 0.0, 1.0),
        temperature=number("temperature", description["temperature"], 1e-3, 1e3),
        provenance=_entries(description["provenance"], "provenance"),
        metrics=_entries(description["metrics"], "metrics"),
    )


_ARCHITECTURE = {"name", "input", "operations", "activation"}
_STORE = ("scale", "zero", "low", "high")
_WINDOW = ("size", "stride", "dilation", "padding")


def _describe(operation: Operation, arrays: Arrays) -> dict[str, Any]:
    """An operation's fields but its arrays, which are added to `arrays`."""
    described: dict[str, Any] = {"kind": operation.kind}

    def add(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            arrays[f"{operation.name}.{name}"] = value
        elif isinstance(value, Store | Window):
            for part in (*_STORE, "multiplier", "shift") if isinstance(value, Store) else _WINDOW:
                add(part, getattr(value, part))
        else:
            described["scale" if name == "store" else name] = value

    for field in dataclasses.fields(operation):
        add(field.name, getattr(operation, field.name))
    return described


def _operation(entry: Any, arrays: Arrays) -> Operation:
    """The operation that `_describe` described, its arrays taken out of `arrays`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        raise ArgumentError(f"an operation is {shortened(entry)}, not an object with a kind")
    rest = dict(entry)
    kind = rest.pop("kind")
    if kind not in KINDS:
        raise ArgumentError(f"unknown kind of operation {shortened(kind)}; made by a newer tinynet?")
    name, inputs = rest.pop("name"), rest.pop("inputs")
    if not isinstance(name, str) or not isinstance(inputs, list):
        raise ArgumentError(f"a {kind} has the name {shortened(name)} and the inputs {shortened(inputs)}")

    def array(field: str) -> np.ndarray:
        if f"{name}.{field}" not in arrays:
            raise ArgumentError(f"tensor {shortened(f'{name}.{field}')} is missing")
        return arrays.pop(f"{name}.{field}")

    def store() -> Store | float:
        # Without multipliers the sums are left as they are, and there is only their scale.
        if f"{name}.multiplier" not in arrays and set(rest) & set(_STORE) == {"scale"}:
            return rest.pop("scale")
        numbers = {field: rest.pop(field) for field in _STORE}
        return Store(**numbers, multiplier=array("multiplier"), shift=array("shift"))

    values: dict[str, Any] = {}
    for field in dataclasses.fields(KINDS[kind]):
        if field.name in ("name", "inputs"):
            continue
        if field.name in ("weight", "bias", "table"):
            values[field.name] = array(field.name)
        elif field.name == "window":
            values["window"] = _window(name, [rest.pop(part) for part in _WINDOW])
        elif field.name == "store":
            values["store"] = store()
        elif field.name == "factor":
            values["factor"] = _pair(f"{name}: factor", rest.pop("factor"), 1)
        else:
            values[field.name] = rest.pop(field.name)
    if rest:
        raise ArgumentError(f"{kind} {shortened(name)} has the unknown entry {shortened(min(rest))}")
    operation = KINDS[kind](name, tuple(inputs), **values)
    if kind in ("add", "concatenate") and not isinstance(values["store"], Store):
        raise ArgumentError(f"{operation.label} has no multipliers")
    return operation


def _window(name: str, parts: list[Any]) -> Window:
    size, stride, dilation = (
        _pair(f"{name}: {what}", part, 1) for what, part in zip(_WINDOW[:3], parts[:3], strict=True)
    )
    padding = parts[3]
    if not isinstance(padding, list) or len(padding) != 2:
        raise ArgumentError(f"{name}: padding is {shortened(padding)}")
    vertical, horizontal = (_pair(f"{name}: padding", sides, 0) for sides in padding)
    return Window(size, stride, dilation, (vertical, horizontal))


def _pair(where: str, value: Any, lowest: int) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ArgumentError(f"{where} is {shortened(value)}, wanted two whole numbers")
    return _count(where, value[0], lowest), _count(where, value[1], lowest)


def _count(where: str, value: Any, lowest: int) -> int:
    if type(value) is not int or not lowest <= value <= LONGEST_SIDE:
        raise ArgumentError(f"{where}: {shortened(value)} is not a whole number of at least {lowest}")
    return value


def _entries(value: Any, name: str, wanted: set[str] | None = None) -> dict[str, Any]:
    """An object, with exactly the wanted entries."""
    if not isinstance(value, dict):
        raise ArgumentError(f"{name} is not an object")
    if wanted is not None and set(value) != wanted:
        raise ArgumentError(
            f"{name} has missing or unknown entries: {', '.join(sorted(set(value) ^ wanted))}"
        )
    return value
