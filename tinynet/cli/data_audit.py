"""tinynet data audit: rank the images of a folder by how doubtful their label is.

Models that did not learn from an image say how much they believe its label; the images whose label they
believe least come first.  The predictions are those of a cross-validation on all labels: give one that
is done with --predictions, or it is carried out here (and goes on where it was stopped).

Left in --out: doubtful.txt, a list that --exclude takes; ranking.csv, all images in order; gallery.html,
the most doubtful with their pictures.  A doubtful label is a place to look, not a correction.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinynet.cli.options import FOLDER, add_json, add_quiet
from tinynet.cli.output import note, print_notice, print_result
from tinynet.errors import ArgumentError, DataError, FileAccessError

if TYPE_CHECKING:
    from tinynet.data.audit import Audit
    from tinynet.runs.predictions import Predictions

SUMMARY = "rank images by how doubtful their label is"

CUT_OFFS = (50, 100, 250, 500, 1000, 2000, 4000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("data", metavar="DIR", help=FOLDER)
    parser.add_argument(
        "--predictions", metavar="CSV", help="predictions.csv of a finished tinynet crossvalidate"
    )
    parser.add_argument("--model", help="else: the model to cross-validate; default: autoencoder")
    parser.add_argument("--epochs", type=int, help="of its last stage; default: the recipe's")
    parser.add_argument("--size", type=int, help="height and width of its input in pixels")
    parser.add_argument("--folds", type=int, help="default: 5")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument(
        "--count",
        type=int,
        help="how many images doubtful.txt lists; default: those whose label confident learning takes "
        "for an error",
    )
    parser.add_argument("--gallery", type=int, default=120, help="pictures in the gallery; default: 120")
    parser.add_argument("--against", metavar="LIST", help="another list of doubtful images to compare with")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the results go")
    add_json(parser)
    add_quiet(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    import numpy as np

    from tinynet.data import audit, scan_folder
    from tinynet.data.folder import entry_key, read_list

    folder, out = scan_folder(arguments.data), Path(arguments.out)
    named = None if arguments.against is None else {entry_key(line) for line in read_list(arguments.against)}
    for option in ("count", "gallery"):
        value = getattr(arguments, option)
        if value is not None and value < 0:
            raise ArgumentError(f"--{option} must be 0 or more, got {value}")
    cells = _predictions(arguments, out)
    paths = dict(zip(folder.names, folder.paths, strict=True))
    missing = [image for image in cells.images if image not in paths]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(cells)} images predicted are not in {arguments.data}; "
            f"the first: {missing[0]}"
        )
    if len(cells) < len(folder):
        note("data audit", f"{len(folder) - len(cells)} of {len(folder)} images have no prediction")
    found = audit.audit(cells.labels, cells.probabilities, cells.patients)
    ranked = cells.select(found.order)
    chosen = np.flatnonzero(found.errors) if arguments.count is None else np.arange(len(ranked))
    chosen = chosen[: arguments.count]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FileAccessError(f"{out}: {problem.strerror or problem}") from None
    marks = None
    if named is not None:
        marks = np.array([entry_key(image) in named for image in ranked.images], bool)
    _write_list(out / "doubtful.txt", ranked, found, chosen)
    _write_ranking(out / "ranking.csv", ranked, found, marks)
    _write_gallery(out / "gallery.html", ranked, found, chosen[: arguments.gallery], marks, paths)
    result: dict[str, Any] = {
        "images": len(ranked),
        "listed": len(chosen),
        "listed_uninfected": int((ranked.labels[chosen] == 0).sum()),
        "listed_infected": int((ranked.labels[chosen] == 1).sum()),
        "listed_of_healthy_patients": int(found.healthy[chosen].sum()),
        "label_errors": int(found.errors.sum()),
        "mean_self_confidence": list(found.averages),
    }
    if marks is not None:
        counts = [count for count in {*CUT_OFFS, int(marks.sum()), len(chosen)} if 1 <= count <= len(ranked)]
        result["against"] = audit.against(marks, counts)
        result["against"]["of_healthy_patients"] = int((marks & found.healthy).sum())
        ours = np.zeros(len(ranked), bool)
        ours[chosen] = True
        result["against"]["on_both_lists"] = int((marks & ours).sum())
    print_result(arguments.json, result, lambda: _table(result, out))
    print_notice(arguments.json)
    return 0


def _predictions(arguments: argparse.Namespace, out: Path) -> Predictions:
    """Out-of-fold predictions for all labels: given, or made here in the folder `out`/crossvalidation."""
    from tinynet.runs import RunConfig, pooled, predictions

    options = ("model", "epochs", "size", "folds", "seed")
    given = {name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None}
    if arguments.predictions is not None:
        if given:
            raise ArgumentError(f"--{next(iter(given))} makes predictions, which --predictions has: give one")
        return predictions.read(arguments.predictions)
    from tinynet.cli.train import command_of
    from tinynet.runs.crossvalidation import cross_validate

    config = RunConfig(data=arguments.data, **given)
    where = out / "crossvalidation"
    found = cross_validate(config, where, command=command_of, verbose=0 if arguments.quiet else 1)
    command = command_of(config).replace("tinynet train", "tinynet crossvalidate", 1)
    pooled.write(where, found, pooled.measure(found, f"{command} --out DIR", "accuracy"))
    return found.predictions


def _write_list(path: Path, ranked: Predictions, found: Audit, chosen) -> None:
    """The chosen images, one Class/stem a line, most doubtful first."""
    from tinynet import files

    lines = [
        "# Images whose label is doubtful, most doubtful first: tinynet data audit.",
        "# Suspicions by out-of-fold predictions, not corrections.  Leaving them out flatters any model.",
        "# Behind '#' on a line of their own: images of patients without any infected cell, whose label",
        "# is probably right although the model doubts it; they are not left out.",
    ]
    for rank in chosen:
        lines.append(f"# {ranked.images[rank]}" if found.healthy[rank] else ranked.images[rank])
    files.write_atomically(path, ["\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"])


def _write_ranking(path: Path, ranked: Predictions, found: Audit, marks) -> None:
    from tinynet import files

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ["rank", "image", "patient", "label", "self_confidence", "label_error", "healthy_patient", "listed"]
    )
    for rank, image in enumerate(ranked.images):
        listed = "" if marks is None else int(marks[rank])
        rows.writerow(
            [rank + 1, image, ranked.patients[rank], ranked.labels[rank], f"{found.confidence[rank]:.9g}",
             int(found.errors[rank]), int(found.healthy[rank]), listed]
        )  # fmt: skip
    files.write_atomically(path, [text.getvalue().encode("utf-8", "surrogateescape")])


def _write_gallery(path: Path, ranked: Predictions, found: Audit, chosen, marks, paths) -> None:
    from tinynet.runs import gallery

    def pictures(label: int) -> list[gallery.Picture]:
        shown = []
        for rank in chosen:
            if ranked.labels[rank] != label:
                continue
            notes = [f"{rank + 1}. P(infected) {ranked.probabilities[rank]:.3f}"]
            notes += [f"patient {ranked.patients[rank]}"] if ranked.patients[rank] >= 0 else []
            notes += ["of a patient without infected cells"] if found.healthy[rank] else []
            notes += ["on the other list"] if marks is not None and marks[rank] else []
            notes.append(ranked.images[rank].partition("/")[2])
            shown.append(gallery.Picture(paths[ranked.images[rank]], ", ".join(notes)))
        return shown

    gallery.write(
        path,
        "Cells whose label is doubtful",
        [
            "Models that did not learn from these cells, nor (divided by patient) from others of their "
            "patients, believe their label least. The number is the rank among all images.",
        ],
        [("labelled infected", pictures(1)), ("labelled uninfected", pictures(0))],
    )


def _table(result: dict[str, Any], out: Path) -> list[str]:
    """What was found, for reading."""
    sure = result["mean_self_confidence"]
    lines = [
        f"{result['images']} images ranked by how little their label is believed",
        f"confident learning takes {result['label_errors']} labels for errors",
        f"listed: {result['listed']}, {result['listed_infected']} labelled infected and "
        f"{result['listed_uninfected']} labelled uninfected",
        f"  of these {result['listed_of_healthy_patients']} belong to patients without any infected cell: "
        "their labels are probably right, and the list names them in comments only",
        f"mean belief in the label: uninfected {sure[0]:.4f}, infected {sure[1]:.4f}",
    ]
    if "against" in result:
        other = result["against"]
        lines += [
            "",
            f"the other list has {other['listed']} of these images, {other['of_healthy_patients']} of them "
            f"of patients without any infected cell; {other['on_both_lists']} are on both lists",
            f"average precision {other['average_precision']:.3f} "
            f"(a random order: {other['listed'] / other['images']:.3f})",
            f"{'first':>7}{'hits':>7}{'precision':>11}{'recall':>8}",
        ]
        lines += [
            f"{cut['count']:>7}{cut['hits']:>7}{cut['precision']:>11.3f}{cut['recall']:>8.3f}"
            for cut in other["cut_offs"]
        ]
    return [*lines, "", f"written to {out}: doubtful.txt, ranking.csv, gallery.html"]
