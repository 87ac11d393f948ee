"""tinynet calibrate: choose a model's temperature and threshold anew, and keep them in its file.

The temperature makes probabilities mean what they say.  With --min-sensitivity S the threshold is the one of
highest specificity at which at least S of the infected cells are found.  Both are chosen on cells that the
model was not trained on and is not measured on: of the training's data (same DIR, same --exclude) the
validation part, or with --part all another folder, whose patients must be neither.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tinynet.cli.options import add_data, add_exclude, add_json, add_model
from tinynet.cli.output import (
    at_one_in_a_hundred,
    chosen_lines,
    load_classifier,
    metric_lines,
    note,
    print_notice,
    print_result,
)

SUMMARY = "choose a model's temperature and threshold on cells it was not trained on"

_PARTS = {
    "validation": "validation patients (chosen on them)",
    "test": "test patients",
    "test_all_labels": "test patients, all labels",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)
    add_data(parser)
    add_exclude(parser)
    parser.add_argument(
        "--part",
        choices=("validation", "all"),
        default="validation",
        help="of the training's split (default), or all cells of a folder that the model has never seen",
    )
    parser.add_argument("--min-sensitivity", type=float, metavar="S", help="choose a threshold, too")
    parser.add_argument("--keep-temperature", action="store_true", help="choose only the threshold")
    parser.add_argument("--out", metavar="FILE", required=True, help="the new model file")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.arguments import number
    from tinynet.errors import ArgumentError
    from tinynet.runs.calibration import recalibrate

    if arguments.min_sensitivity is not None:
        number("--min-sensitivity", arguments.min_sensitivity, 0.0, 1.0)
    elif arguments.keep_temperature:
        raise ArgumentError("--keep-temperature leaves nothing to choose without --min-sensitivity")
    model = load_classifier(arguments.model)
    found = recalibrate(
        model,
        arguments.model,
        arguments.data,
        arguments.exclude,
        part=arguments.part,
        temperature=not arguments.keep_temperature,
        min_sensitivity=arguments.min_sensitivity,
        progress=sys.stderr.isatty(),
    )
    if arguments.part == "all":
        note(
            "calibrate",
            f"choose on none of the patients that {arguments.model} was trained on or will be measured on; "
            "the figures in its file were of the old threshold and are left out of the new one",
        )
    model.save(arguments.out)
    facts = {"model": arguments.model, "out": arguments.out, **found}
    print_result(arguments.json, facts, lambda: _table(arguments.out, found))
    print_notice(arguments.json)
    return 0


def _table(out: str, found: dict[str, Any]) -> list[str]:
    """What was chosen, and what the model then does on the parts that are known."""
    lines = [out, *(f"  {line}" for line in chosen_lines(found["calibrated"]))]
    for part, title in _PARTS.items():
        if part in found:
            figures = found[part]
            lines.append(f"{title}, {figures['n']} cells")
            lines += metric_lines(figures, ("accuracy", "sensitivity", "specificity"))
    if "test" in found:
        lines += at_one_in_a_hundred(found["test"])
    return lines
