"""tinynet evaluate: measure a model on labelled pictures.

Without --part all pictures in DIR count.  If the model was trained on them, that flatters it: --part
test divides them as the training did (same DIR, same --exclude) and counts the part it has not seen;
--part test-all-labels adds to these patients' pictures those that --exclude left out.
--report DIR writes one page with tables, curves and the pictures it gets wrong, and report.json.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinynet.cli.options import add_data, add_exclude, add_json, add_model, add_views
from tinynet.cli.output import (
    at_one_in_a_hundred,
    infected_probability,
    load_classifier,
    note,
    print_notice,
    print_result,
)
from tinynet.errors import ArgumentError
from tinynet.texts import interval, metric

if TYPE_CHECKING:
    import numpy as np

    from tinynet.cli.output import Classifier

SUMMARY = "measure a model on labelled pictures of cells"

PARTS = ("all", "training", "validation", "test", "test-all-labels")

_FIGURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "loss")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)
    add_data(parser)
    add_exclude(parser)
    parser.add_argument("--part", choices=PARTS, default="all", help="of the training's split; default: all")
    add_json(parser)
    parser.add_argument(
        "--report", metavar="DIR", help="write a page to open in a browser, and report.json, into this folder"
    )
    add_views(parser)


@dataclass
class _Cells:
    """What is evaluated: images uint8 (n, h, w, 3), labels and patients (n,).

    names       n, "Class/stem"
    patients    None for a part of a split by image: its patients are in the training too
    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    patients: np.ndarray | None
    excluded: int
    unreadable: int


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.metrics import evaluate_probabilities
    from tinynet.runs.data import training_seed
    from tinynet.views import wants_eight

    if arguments.report is not None:
        from tinynet.report import require_charts

        require_charts()
    model = load_classifier(arguments.model)
    wants_eight(model, arguments.views)  # refused before anything is read
    if arguments.part == "all":
        cells = _all_cells(model, arguments.data, arguments.exclude)
    else:
        cells = _part(model, arguments.model, arguments.data, arguments.exclude, arguments.part)
    probabilities = infected_probability(model, cells.images, arguments.views)
    about = {
        "model": arguments.model,
        "data": arguments.data,
        "part": arguments.part,
        "views": arguments.views,
        "excluded": cells.excluded,
        "unreadable": cells.unreadable,
    }
    # The training's own seed, so that the part it tested on has the intervals it wrote down.
    drawn = (cells.patients, training_seed(model))
    figures: dict[str, Any] = {
        **about,
        **evaluate_probabilities(cells.labels, probabilities, model.threshold, *drawn),
    }
    print_result(arguments.json, figures, lambda: _table(figures))
    if arguments.report is not None:
        _report(arguments.report, model, cells, probabilities, figures, about)
    print_notice(arguments.json)
    return 0


def _report(
    folder: str,
    model: Classifier,
    cells: _Cells,
    probabilities: np.ndarray,
    figures: dict[str, Any],
    about: dict[str, Any],
) -> None:
    """Write the page, with the cells' own files as pictures."""
    from pathlib import Path

    from tinynet import __version__, report, storage
    from tinynet.data import scan_folder
    from tinynet.images import decode
    from tinynet.runs.data import training_seed

    whole = scan_folder(about["data"])
    paths = dict(zip(whole.names, whole.paths, strict=True))
    twice = len(paths) < len(whole)  # a.png and a.jpg have one name: show what the model was given

    def load_image(cell: int) -> np.ndarray:
        return cells.images[cell] if twice else decode(paths[cells.names[cell]])

    answers = report.Evaluated(
        labels=cells.labels,
        probabilities=probabilities,
        names=cells.names,
        patients=cells.patients,
        threshold=model.threshold,
        temperature=model.temperature,
        uncalibrated=_uncalibrated(model, cells.images, about["views"]) if model.temperature != 1 else None,
        load_image=load_image,
        seed=training_seed(model),
    )
    page = report.write(
        Path(folder),
        answers,
        f"{about['model']} evaluated",
        {**about, "tinynet": __version__, "provenance": model.provenance},
        [_heading(figures), *_caveats(model, figures)],
        model,
        storage.size_in_bytes(about["model"]),
    )
    note("evaluate", f"the report to open: {page}")


def _uncalibrated(model: Classifier, images: np.ndarray, views: int) -> np.ndarray:
    """The probability of class 1 at temperature 1, float32 (n,)."""
    import numpy as np

    from tinynet.network import BATCH, answer
    from tinynet.views import averaged_logits, wants_eight

    if wants_eight(model, views):
        return answer(averaged_logits(model.logits, images, BATCH), model.ending(), 1.0)[:, -1]
    parts = [model.logits(images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    return answer(np.concatenate(parts), model.ending(), 1.0)[:, -1]


def _caveats(model: Classifier, figures: dict[str, Any]) -> list[str]:
    """What flatters the figures."""
    if figures["part"] == "all" and "split" in model.provenance:
        return [
            "All pictures count. Where the model was trained on some of them, the figures flatter it: "
            "--part test counts only those it has not seen."
        ]
    if figures["part"] in ("training", "validation"):
        return [f"The {figures['part']} part was used in training: its figures flatter the model."]
    if figures["part"] != "all" and figures["patients"] is None:
        return ["Optimistic: the split was by image, so cells of the same patients were trained on."]
    if figures["excluded"] and figures["part"] == "test":
        return [
            "Pictures that --exclude names are left out. Where those are the ones of doubtful label, found "
            "with the help of models, that flatters every model; --part test-all-labels counts them too."
        ]
    return []


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
    read = folder.select(loaded.kept)
    return _Cells(
        loaded.images, read.labels, read.names, read.patients, folder.excluded, len(loaded.unreadable)
    )


def _part(model: Classifier, name: str, data: str, exclude: str | None, part: str) -> _Cells:
    """One part of the split that the model's training made of this very data."""
    from tinynet.runs.data import load_as_trained, require_kept_apart

    cells = load_as_trained(model, name, data, exclude, f"--part {part}", progress=sys.stderr.isatty())
    split = model.provenance["split"]
    excluded = int((~cells.kept).sum())
    if part == "test-all-labels":
        if split != "patient":
            raise ArgumentError(f"--part {part}: the data of {name} was not divided by patient")
        chosen, excluded = cells.test_with_excluded(), 0
    else:
        chosen = getattr(cells, part)
    require_kept_apart(chosen, f"--part {part}: {name}")
    patients = cells.patients[chosen] if split == "patient" else None
    names = [cells.names[k] for k in chosen]
    return _Cells(cells.images[chosen], cells.labels[chosen], names, patients, excluded, cells.unreadable)


def _heading(figures: dict[str, Any]) -> str:
    """What was evaluated on what."""
    what = "all pictures" if figures["part"] == "all" else f"the {figures['part']} part"
    left_out = [f"{figures[key]} {key}" for key in ("excluded", "unreadable") if figures[key]]
    people = "" if figures["patients"] is None else f" of {figures['patients']} patients"
    averaged = ", each in eight views" if figures["views"] == 8 else ""
    return f"{figures['model']} on {what} of {figures['data']}: {figures['n']} cells{people}{averaged}" + (
        f" ({', '.join(left_out)})" if left_out else ""
    )


def _table(figures: dict[str, Any]) -> list[str]:
    """The figures at the model's threshold and at 0.5, for reading."""
    half, intervals = figures["at_half"], figures["intervals"]
    lines = [
        _heading(figures),
        "",
        f"{'':<14}{'at ' + format(figures['threshold'], '.4g'):<10}{'95 % interval':<20}at 0.5",
    ]
    for key in _FIGURES:
        ends = interval(intervals[key]) if key in intervals else ""
        lines.append(f"{key:<14}{metric(figures[key]):<10}{ends:<20}{metric(half[key])}".rstrip())
    counts, at_half = figures["confusion"], half["confusion"]
    names = {
        "tp": "infected, found",
        "fn": "infected, missed",
        "fp": "uninfected, called infected",
        "tn": "uninfected, left alone",
    }
    lines.append("")
    lines += [f"{name:<30}{counts[key]:>8}  (at 0.5: {at_half[key]})" for key, name in names.items()]
    lines += ["", *at_one_in_a_hundred(figures)]
    how = {
        "patient-bootstrap": "intervals: whole patients were resampled",
        "wilson": "intervals take cells as independent; cells of one patient are not: they are too narrow",
    }
    lines.append(how[figures["interval_method"]])
    if figures["part"] != "all" and figures["patients"] is None:
        lines.append("optimistic: the split was by image, so cells of the same patients were trained on")
    return lines
