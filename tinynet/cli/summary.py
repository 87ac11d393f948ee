"""tinynet summary: a model's layers and what they cost, and what its file says of it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tinynet.cli.options import add_model
from tinynet.texts import printable

SUMMARY = "show a model's layers, what they cost, and how it was made"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    import tinynet

    model = tinynet.load(arguments.model)
    lines = [*model.summary(print_fn=None).splitlines(), ""]
    if model.class_names:
        lines.append(f"classes        {', '.join(map(str, model.class_names))}")
        lines.append(
            f"threshold      {model.threshold:.4g} (of the last class; temperature {model.temperature:.4g})"
        )
    if model.preprocessing is not None:
        lines += _entries("preprocessing", model.preprocessing.to_json())
    lines += _entries("made by", model.provenance)
    lines += _entries("measured", model.metrics)
    print("\n".join(map(printable, lines)))
    return 0


def _entries(title: str, values: dict[str, Any]) -> list[str]:
    """A line an entry, the title before the first."""
    entries = [
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()
    ]
    return [f"{title if number == 0 else '':<15}{entry}" for number, entry in enumerate(entries)]
