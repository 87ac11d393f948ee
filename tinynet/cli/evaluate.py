"""tinynet evaluate: measure a model on labelled pictures.

Without --part all pictures in DIR count.  If the model was trained on them, that flatters it: --part
test divides them as the training did (same DIR, same --exclude) and counts the part it has not seen;
--part test-all-labels adds to these patients' pictures those that --exclude left out.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinynet.cli.output import (
    NOTICE,
    infected_probability,
    interval_text,
    json_text,
    load_classifier,
    note,
    printable,
)
from tinynet.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

    from tinynet.cli.output import Classifier

SUMMARY = "measure a model on labelled pictures of cells"

PARTS = ("all", "training", "validation", "test", "test-all-labels")

_FIGURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "loss")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", metavar="MODEL", help="a model file, or the name of a shipped model")
    parser.add_argument(
        "--data", metavar="DIR", required=True, help="a folder with Parasitized/ and Uninfected/"
    )
    parser.add_argument(
        "--exclude", metavar="LIST", help="a file of images to leave out, one Class/name a line"
    )
    parser.add_argument("--part", choices=PARTS, default="all", help="of the training's split; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


@dataclass
class _Cells:
    """What is evaluated: images uint8 (n, h, w, 3), labels and patients (n,).

    patients    None for a part of a split by image: its patients are in the training too
    """

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray | None
    excluded: int
    unreadable: int


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.metrics import evaluate_probabilities
    from tinynet.runs.data import training_seed

    model = load_classifier(arguments.model)
    if arguments.part == "all":
        cells = _all_cells(model, arguments.data, arguments.exclude)
    else:
        cells = _part(model, arguments.model, arguments.data, arguments.exclude, arguments.part)
    probabilities = infected_probability(model, cells.images)
    figures: dict[str, Any] = {
        "model": arguments.model,
        "data": arguments.data,
        "part": arguments.part,
        "excluded": cells.excluded,
        "unreadable": cells.unreadable,
        # The training's own seed, so that the part it tested on has the intervals it wrote down.
        **evaluate_probabilities(
            cells.labels, probabilities, model.threshold, cells.patients, seed=training_seed(model)
        ),
    }
    if arguments.json:
        print(json_text(figures))
    else:
        print("\n".join(map(printable, _table(figures))))
    print(NOTICE, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _all_cells(model: Classifier, data: str, exclude: str | None) -> _Cells:
    """Every readable image of the folder that is not excluded."""
    from tinynet.data import load_images, scan_folder

    assert model.input_shape is not None
    whole = scan_folder(data)
    folder = whole if exclude is None else whole.exclude(exclude)
    height, width = model.input_shape[:2]
    loaded = load_images(folder, height, width, progress=sys.stderr.isatty())
    if folder.stray:
        note("evaluate", f"{folder.stray} files that are not pictures were passed over")
    if loaded.unreadable:
        path, reason = loaded.unreadable[0]
        note(
            "evaluate",
            f"{len(loaded.unreadable)} of {len(folder)} pictures could not be read and were passed over; "
            f"the first, {path}: {reason}",
        )
    if "split" in model.provenance:
        note(
            "evaluate",
            "all pictures count; where the model was trained on some of them, the figures flatter it "
            "(--part test counts only those it has not seen)",
        )
    labels, patients = folder.labels[loaded.kept], folder.patients[loaded.kept]
    return _Cells(loaded.images, labels, patients, folder.excluded, len(loaded.unreadable))


def _part(model: Classifier, name: str, data: str, exclude: str | None, part: str) -> _Cells:
    """One part of the split that the model's training made of this very data."""
    from tinynet.runs.data import load_as_trained

    cells = load_as_trained(model, name, data, exclude, f"--part {part}", progress=sys.stderr.isatty())
    split = model.provenance["split"]
    excluded = int((~cells.kept).sum())
    if part == "test-all-labels":
        if split != "patient":
            raise ArgumentError(f"--part {part}: the data of {name} was not divided by patient")
        chosen, excluded = cells.test_with_excluded(), 0
    else:
        chosen = getattr(cells, part)
    if not len(chosen):
        raise ArgumentError(
            f"--part {part}: {name} was trained on all of its data, and nothing was kept apart"
        )
    patients = cells.patients[chosen] if split == "patient" else None
    return _Cells(cells.images[chosen], cells.labels[chosen], patients, excluded, cells.unreadable)


def _table(figures: dict[str, Any]) -> list[str]:
    """The figures at the model's threshold and at 0.5, for reading."""
    half, intervals = figures["at_half"], figures["intervals"]
    what = "all pictures" if figures["part"] == "all" else f"the {figures['part']} part"
    left_out = [f"{figures[key]} {key}" for key in ("excluded", "unreadable") if figures[key]]
    people = "" if figures["patients"] is None else f" of {figures['patients']} patients"
    lines = [
        f"{figures['model']} on {what} of {figures['data']}: {figures['n']} cells{people}"
        + (f" ({', '.join(left_out)})" if left_out else ""),
        "",
        f"{'':<14}{'at ' + format(figures['threshold'], '.4g'):<10}{'95 % interval':<20}at 0.5",
    ]
    for key in _FIGURES:
        interval = interval_text(intervals[key]) if key in intervals else ""
        lines.append(f"{key:<14}{_number(figures[key]):<10}{interval:<20}{_number(half[key])}".rstrip())
    counts, at_half = figures["confusion"], half["confusion"]
    names = {
        "tp": "infected, found",
        "fn": "infected, missed",
        "fp": "uninfected, called infected",
        "tn": "uninfected, left alone",
    }
    lines.append("")
    lines += [f"{name:<30}{counts[key]:>8}  (at 0.5: {at_half[key]})" for key, name in names.items()]
    how = {
        "patient-bootstrap": "intervals: whole patients were resampled",
        "wilson": "intervals take cells as independent; cells of one patient are not: they are too narrow",
    }
    lines += ["", how[figures["interval_method"]]]
    if figures["part"] != "all" and figures["patients"] is None:
        lines.append("optimistic: the split was by image, so cells of the same patients were trained on")
    return lines


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
