"""tinynet quantize: make a model file of int8 or float16 numbers, a quarter or half the bytes.

int8 also computes in whole numbers (docs/int8.md).  It is calibrated on pictures that the model was
trained on: give the folder and the exclusion list of the training, which are divided in the same way.  Test
patients are only measured on.  For a model of other origin, --part all takes any folder of cells.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from tinynet.cli.options import add_data, add_exclude, add_json, add_model
from tinynet.cli.output import float_model, load_classifier, print_notice, print_result

if TYPE_CHECKING:
    from tinynet.runs.quantization import Quantized

SUMMARY = "make a smaller model file, in int8 or float16"

_FIGURES = ("accuracy", "sensitivity", "specificity", "auc", "loss")
_PARTS = {"test": "test patients", "test_all_labels": "test patients, all labels"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)
    parser.add_argument("--to", choices=("int8", "float16"), required=True, help="the form of its numbers")
    parser.add_argument("--out", metavar="FILE", required=True, help="the new model file")
    add_data(parser, "int8 needs it")
    add_exclude(parser)
    parser.add_argument(
        "--part",
        choices=("training", "all"),
        default="training",
        help="what to calibrate on: the training part of DIR (default), or all pictures in it",
    )
    parser.add_argument("--images", type=_count, default=None, help="how many of them; default: 1024")
    parser.add_argument(
        "--calibration",
        choices=("max", "percentile", "mse"),
        default=None,
        help="how much of a value's range int8 covers; default: mse",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.files.atomic import check_writable
    from tinynet.runs import quantization

    model = float_model(load_classifier(arguments.model), arguments.model, " already")
    check_writable(arguments.out)  # before minutes of calibrating and measuring
    options = {name: getattr(arguments, name) for name in ("images", "calibration")}
    made = quantization.quantize(
        model,
        arguments.model,
        arguments.to,
        arguments.data,
        arguments.exclude,
        part=arguments.part,
        progress=sys.stderr.isatty(),
        **{name: value for name, value in options.items() if value is not None},
    )
    made.model.save(arguments.out)
    facts = {
        "model": arguments.model,
        "to": arguments.to,
        "out": arguments.out,
        "bytes": os.path.getsize(arguments.out),
        "before": _figures(made.before),
        "after": _figures(made.after),
    }
    print_result(arguments.json, facts, lambda: _table(facts, made))
    print_notice(arguments.json)
    return 0


def _figures(measured: dict[str, Any]) -> dict[str, Any]:
    """Of the test parts, a few metrics and the number of cells."""
    return {
        part: {key: measured[part][key] for key in ("n", *_FIGURES)} for part in _PARTS if part in measured
    }


def _table(facts: dict[str, Any], made: Quantized) -> list[str]:
    """What was made, and what it cost, for reading."""
    lines = [f"{facts['out']}: {facts['model']} in {facts['to']}, {facts['bytes']:,} bytes"]
    calibration = made.model.provenance.get("calibration")
    if facts["to"] == "int8" and isinstance(calibration, dict):
        lines.append(
            f"calibrated on {calibration['images']:,} pictures of the {calibration['part']} part "
            f"(method: {calibration['method']})"
        )
    for part, before in facts["before"].items():
        after = facts["after"][part]
        lines += ["", f"{_PARTS[part]}, {before['n']} cells".ljust(40) + "before    after     difference"]
        for key in _FIGURES:
            lines.append(f"  {key:<38}" + _difference(before[key], after[key]))
    if not facts["before"]:
        lines.append(
            "not measured: that needs the data that the model was trained on, --data DIR, "
            "and a part of it that was kept for testing"
        )
    return lines


def _difference(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "undefined"
    return f"{before:<10.4f}{after:<10.4f}{after - before:+.4f}"


def _count(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got {text}")
    return value
