"""Which operators there are, what they accept, and what carries them out.

`@operator("Name", ...)` on a function registers it: it gets a Call and the input arrays (None for one
that is left out) and returns an array, or a tuple of them.  Attributes that are not listed, values
that are not allowed and numbers of inputs outside the range are refused when a file is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet.errors import ModelFileError
from tinynet.onnx_import.records import shown

MAXIMUM_OPSET = 28
MANY = 2**31 - 1


@dataclass(frozen=True)
class Attribute:
    """An attribute that an operator may have.

    kind      "int", "ints", "float", "floats", "string" or "tensor"
    default   where the node does not have it; REQUIRED where it must
    allowed   the values that we support, None: all
    """

    kind: str
    default: Any = None
    allowed: tuple[Any, ...] | None = None


@dataclass(frozen=True, eq=False)
class Operator:
    """A supported operator.

    versions    the opsets up to 28 in which ONNX changed it, from the first that we support on
    inputs      the least and the largest number
    outputs     the largest number that we give
    note        what is not supported, for the table in docs/onnx.md
    """

    name: str
    versions: tuple[int, ...]
    inputs: tuple[int, int]
    outputs: int
    attributes: Mapping[str, Attribute]
    note: str
    function: Callable[..., Any]


OPERATORS: dict[str, Operator] = {}


def operator(
    name: str,
    *versions: int,
    inputs: int | tuple[int, int] = 1,
    outputs: int = 1,
    note: str = "",
    **attributes: Attribute,
) -> Callable[[Callable], Callable]:
    """Decorator: the function carries out this operator."""
    pair = (inputs, inputs) if isinstance(inputs, int) else inputs

    def register(function: Callable) -> Callable:
        OPERATORS[name] = Operator(name, versions, pair, outputs, attributes, note, function)
        return function

    return register


REQUIRED = object()


def integer(default: Any = None, *allowed: int) -> Attribute:
    """A whole number."""
    return Attribute("int", default, allowed or None)


def integers(default: Any = None) -> Attribute:
    """A list of whole numbers."""
    return Attribute("ints", default)


def real(default: Any = None, *allowed: float) -> Attribute:
    """A number."""
    return Attribute("float", default, allowed or None)


def reals(default: Any = None) -> Attribute:
    """A list of numbers."""
    return Attribute("floats", default)


def tensor(default: Any = None) -> Attribute:
    """An array."""
    return Attribute("tensor", default)


def text(default: Any = None, *allowed: str) -> Attribute:
    """A word, one of `allowed`."""
    return Attribute("string", default, allowed or None)


def check(
    label: str,
    name: str,
    domain: str,
    opset: int,
    counts: tuple[int, int],
    given: Mapping[str, tuple[str, Any]],
) -> dict[str, Any]:
    """The attributes of a node with defaults; raises ModelFileError for what is not supported.

    label    the node, for messages
    opset    of the file
    counts   of its inputs and outputs
    given    attributes as (kind, value)
    """
    if domain not in ("", "ai.onnx"):
        raise ModelFileError(f"{label}: operators of the domain {shown(domain)} are not supported")
    known = OPERATORS.get(name)
    if known is None:
        raise ModelFileError(f"{label}: the operator {shown(name, '')} is not supported")
    if opset < known.versions[0]:
        raise ModelFileError(
            f"{label}: {name} of opset {opset} is not supported; it is from opset {known.versions[0]} on"
        )
    (least, most), (inputs, outputs) = known.inputs, counts
    if not least <= inputs <= most:
        wanted = str(least) if least == most else f"{least} to {most}" if most < MANY else f"{least} or more"
        raise ModelFileError(f"{label}: it has {inputs} inputs, wanted {wanted}")
    if not 1 <= outputs <= known.outputs:
        raise ModelFileError(f"{label}: it has {outputs} outputs; {_at_most(known.outputs)} supported")
    values = {}
    for key in given:
        if key not in known.attributes:
            raise ModelFileError(f"{label}: the attribute {shown(key)} is not supported")
    for key, attribute in known.attributes.items():
        values[key] = _value(label, key, attribute, given.get(key))
    return values


def _value(label: str, key: str, attribute: Attribute, given: tuple[str, Any] | None) -> Any:
    if given is None:
        if attribute.default is REQUIRED:
            raise ModelFileError(f"{label}: the attribute {key!r} is missing")
        return attribute.default
    kind, value = given
    if kind != attribute.kind:
        raise ModelFileError(f"{label}: the attribute {key!r} is of kind {kind}, wanted {attribute.kind}")
    if attribute.allowed is not None and value not in attribute.allowed:
        verb = "is" if len(attribute.allowed) == 1 else "are"
        only = ", ".join(map(str, attribute.allowed))
        raise ModelFileError(f"{label}: the attribute {key!r} is {shown(value, '')}; supported {verb} {only}")
    return value


def _at_most(count: int) -> str:
    return "1 is" if count == 1 else f"up to {count} are" if count < MANY else "any number is"


def result_type(x: np.ndarray) -> np.dtype:
    """What the engine's kernels compute for arrays of this type: float64 as it is, the rest in float32."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
