"""The table that `summary()` prints: what a model costs, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tinynet.errors import ArgumentError
from tinynet.layers import Chain, Layer, Shape
from tinynet.network import Network
from tinynet.storage import file_size


@dataclass(frozen=True)
class Row:
    """One layer: its costs for one image."""

    name: str
    kind: str
    output_shape: Shape
    parameters: int
    multiply_accumulates: int
    activation_bytes: int
    trainable: bool


def rows(model: Network) -> list[Row]:
    """A Row for every layer, and after those inside it for every sum and concatenation."""
    if model.input_shape is None:
        raise ArgumentError(
            "summary: the model has no input shape yet; give one, or call build() or fit() first"
        )
    return [_row(layer) for layer in model.chain.walk() if not isinstance(layer, Chain)]


def _row(layer: Layer) -> Row:
    assert layer.input_shape is not None
    inside = bool(layer.children())  # a block's own operation has neither parameters nor multiplications
    shape = layer.output_shape(layer.input_shape)
    return Row(
        name=layer.path,
        kind=type(layer).__name__,
        output_shape=shape,
        parameters=sum(parameter.size for parameter in layer.parameters.values()),
        multiply_accumulates=0 if inside else layer.multiply_accumulates(layer.input_shape),
        activation_bytes=4 * math.prod(shape),
        trainable=layer.trainable,
    )


def totals(model: Network) -> dict[str, int]:
    """Parameters, multiply-accumulates, activation bytes (all layers', one image, float32), file bytes."""
    table = rows(model)
    return {
        "parameters": sum(row.parameters for row in table),
        "trainable_parameters": sum(row.parameters for row in table if row.trainable),
        "multiply_accumulates": sum(row.multiply_accumulates for row in table),
        "activation_bytes": sum(row.activation_bytes for row in table),
        "file_bytes": file_size(model),
    }


def table(model: Network) -> str:
    """The summary as text."""
    header = ("layer", "type", "output", "parameters", "multiply-adds", "activation bytes")
    lines = [
        (
            row.name,
            row.kind + ("" if row.trainable or not row.parameters else " (frozen)"),
            " x ".join(map(str, row.output_shape)),
            f"{row.parameters:,}",
            f"{row.multiply_accumulates:,}",
            f"{row.activation_bytes:,}",
        )
        for row in rows(model)
    ]
    sums = totals(model)
    shape = " x ".join(map(str, model.input_shape or ()))
    return ruled(
        f"{model.name}: input {shape}; costs of one image",
        [header, *lines],
        f"parameters {sums['parameters']:,} ({sums['trainable_parameters']:,} trainable); "
        f"multiply-adds {sums['multiply_accumulates']:,}; "
        f"activations {sums['activation_bytes']:,} bytes; file {sums['file_bytes']:,} bytes",
    )


def ruled(title: str, lines: Sequence[tuple[str, ...]], last: str) -> str:
    """Lines in columns, the first of them a header, the first three columns flush left, between rules."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def formatted(line: tuple[str, ...]) -> str:
        left = [entry.ljust(width) for entry, width in zip(line[:3], widths[:3], strict=True)]
        right = [entry.rjust(width) for entry, width in zip(line[3:], widths[3:], strict=True)]
        return "  ".join([*left, *right]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([title, rule, formatted(lines[0]), rule, *map(formatted, lines[1:]), rule, last])
