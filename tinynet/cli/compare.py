"""tinynet compare: is B better than A on the same cells, or is the difference inside its interval?

A and B are predictions for cells that the models did not learn from, as tinynet crossvalidate leaves
them (predictions.csv).  Whole patients are resampled, the same for both.  Compared are the cells that
both have.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tinynet.cli.options import add_json
from tinynet.cli.output import note, print_notice, print_result
from tinynet.errors import DataError

if TYPE_CHECKING:
    from tinynet.runs.predictions import Predictions

SUMMARY = "compare two models' predictions for the same cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("first", metavar="A.csv", help="predictions.csv of one cross-validation")
    parser.add_argument("second", metavar="B.csv", help="and of another")
    parser.add_argument(
        "--at-half", action="store_true", help="judge at 0.5 instead of the thresholds in the files"
    )
    add_json(parser, "instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.comparison import compare
    from tinynet.runs import predictions

    first, second = predictions.read(arguments.first), predictions.read(arguments.second)
    left_out = _align(first, second, arguments)
    first, second = left_out.pop("first"), left_out.pop("second")
    if any(left_out.values()):
        note(
            "compare",
            f"left out: {left_out['only_first']} cells that only {arguments.first} has, "
            f"{left_out['only_second']} that only {arguments.second} has",
        )
    sets = {}
    for name, (one, other) in _sets(first, second).items():
        cuts = (0.5, 0.5) if arguments.at_half else (one.thresholds, other.thresholds)
        answers = ((one.probabilities, cuts[0]), (other.probabilities, cuts[1]))
        sets[name] = compare(one.labels, *answers, one.patients)
    result = {
        "first": arguments.first, "second": arguments.second, "at_half": arguments.at_half, **left_out,
        "sets": sets,
    }  # fmt: skip
    print_result(arguments.json, result, lambda: _table(result))
    print_notice(arguments.json)
    return 0


def _align(first: Predictions, second: Predictions, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both for the cells that both have, in one order, and how many only one has."""
    import numpy as np

    places = {image: place for place, image in enumerate(second.images)}
    shared = [place for place, image in enumerate(first.images) if image in places]
    if not shared:
        raise DataError(f"{arguments.first} and {arguments.second} have no cell in common")
    return {
        "first": first.select(np.array(shared)),
        "second": second.select(np.array([places[first.images[place]] for place in shared])),
        "only_first": len(first) - len(shared),
        "only_second": len(second) - len(shared),
    }


def _sets(first: Predictions, second: Predictions) -> dict[str, tuple[Predictions, Predictions]]:
    """By set of test labels; doubted is what either file marks."""
    marks = [cells.doubted for cells in (first, second) if cells.doubted is not None]
    if not marks:
        return {"all_labels": (first, second)}
    certain = ~(marks[0] | marks[-1])
    sets = {"suspicious_removed": (first.select(certain), second.select(certain))} if certain.any() else {}
    return {**sets, "all_labels": (first, second)}


def _table(result: dict[str, Any]) -> list[str]:
    """The differences, for reading."""
    from tinynet.comparison import better

    lines = [f"A: {result['first']}", f"B: {result['second']}"]
    for name, found in result["sets"].items():
        people = "" if found["patients"] is None else f" of {found['patients']} patients"
        lines += [
            "",
            f"{name.replace('_', ' ')}: {found['n']} cells{people}; "
            f"{found['changed']['better']} only B gets right, {found['changed']['worse']} only A",
            f"{'':<13}{'A':<9}{'B':<9}{'B - A':<10}95 % interval",
        ]
        for figure, values in found["figures"].items():
            if values["difference"] is None:
                lines.append(f"{figure:<13}undefined")
                continue
            low, high = values["interval"]
            winner = {"first": "A is better", "second": "B is better"}[better(figure, values["difference"])]
            verdict = "inside the interval" if values["inside"] else winner
            lines.append(
                f"{figure:<13}{values['first']:<9.4f}{values['second']:<9.4f}{values['difference']:<+10.4f}"
                f"{low:+.4f} to {high:+.4f}  {verdict}"
            )
        if found["patients"] is None:
            lines.append("patients are not known: cells were resampled, and the intervals are too narrow")
    how = "at 0.5" if result["at_half"] else "each at its own thresholds"
    lines += [
        "",
        f"judged {how}; whole patients were resampled, the same ones for both",
        "inside the interval: these patients do not show which is better",
    ]
    return lines
