"""tinynet data info: what a folder of labelled cells holds.

Cells and patients, class balance, sizes, how much the stain varies, files that cannot be read or look odd.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tinynet.cli.options import FOLDER, add_exclude, add_json
from tinynet.cli.output import print_result

SUMMARY = "count cells, patients, classes, sizes, stain and odd files"

_SHOWN = 10  # odd and unreadable files in the table; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("data", metavar="DIR", help=FOLDER)
    add_exclude(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="also what tinynet predict would not take for one segmented cell (four milliseconds a picture)",
    )
    parser.add_argument("--patients", action="store_true", help="add a line for every patient")
    add_json(parser, "instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.data import load_images, scan_folder, summary

    whole = scan_folder(arguments.data)
    folder = whole if arguments.exclude is None else whole.exclude(arguments.exclude)
    loaded = load_images(folder, summary.SIDE, summary.SIDE, progress=sys.stderr.isatty())
    result = {
        "data": arguments.data,
        **summary.classes_and_patients(folder),
        "excluded": folder.excluded,
        "other_files": folder.stray,
        "unreadable": [{"path": str(path), "reason": reason} for path, reason in loaded.unreadable],
        "sizes": summary.sizes(loaded),
        "stain": summary.stain(folder, loaded),
        "odd": summary.odd_pictures(folder, loaded, arguments.check),
    }
    print_result(arguments.json, result, lambda: _table(result, arguments.patients))
    return 0


def _table(result: dict[str, Any], every_patient: bool) -> list[str]:
    """The figures, for reading."""
    counts = result["classes"]
    lines = [
        f"{result['data']}: {result['cells']} cells, "
        + ", ".join(
            f"{count} {name} ({100 * count / result['cells']:.1f} %)" for name, count in counts.items()
        ),
    ]
    if result["excluded"]:
        lines.append(f"{result['excluded']} images are left out, as --exclude says")
    lines += _patients(result)
    size = result["sizes"]
    lines += ["", f"{'':<26}{'min':>8}{'5 %':>8}{'25 %':>8}{'median':>8}{'75 %':>8}{'95 %':>8}{'max':>8}"]
    lines += _row("cells a patient", result["cells_a_patient"], 0)
    lines += _row("infected share*", result["infected_share_of_infected_patients"], 3)
    lines += _row("height, pixels", size["height"], 0)
    lines += _row("width, pixels", size["width"], 0)
    lines += _row("width / height", size["aspect"], 2)
    if result["infected_share_of_infected_patients"] is not None:
        lines.append("* of the patients who have infected cells")
    lines += ["", *_stain(result["stain"])]
    lines += ["", *_files(result)]
    if every_patient:
        colours = {one["patient"]: one["colour"] for one in result["stain"]["by_patient"]}
        lines += [
            "",
            f"{'patient':>8}{'cells':>7}{'infected':>10}{'share':>8}{'slides':>8}  mean colour, uninfected",
        ]
        for one in result["by_patient"]:
            colour = colours.get(one["patient"])
            told = "-" if colour is None else " ".join(f"{value:.0f}" for value in colour)
            lines.append(
                f"{one['patient']:>8}{one['cells']:>7}{one['infected']:>10}{one['infected_share']:>8.3f}"
                f"{one['slides']:>8}  {told}"
            )
    return lines


def _patients(result: dict[str, Any]) -> list[str]:
    if not result["patients"]:
        return ["no patient is known: names do not begin with C and a patient's number"]
    lines = [
        f"{result['patients']} patients, {result['infected_patients']} with infected cells and "
        f"{result['healthy_patients']} without; {result['slides']} slides"
    ]
    if result["without_patient"]:
        lines.append(f"{result['without_patient']} images whose name tells no patient")
    return lines


def _row(name: str, found: dict[str, float] | None, digits: int) -> list[str]:
    if found is None:
        return []
    keys = ("min", "p5", "p25", "median", "p75", "p95", "max")
    return [f"{name:<26}" + "".join(f"{found[key]:>8.{digits}f}" for key in keys)]


def _stain(found: dict[str, Any]) -> list[str]:
    """Colours, red green blue."""
    rows = {
        "uninfected cells, mean": found["cells"]["Uninfected"]["mean"],
        "infected cells, mean": found["cells"]["Parasitized"]["mean"],
        "infected - uninfected": found["infected_minus_uninfected"],
        "deviation, of patients": found["between"],
        "deviation, within": found["within"],
    }
    lines = [f"{'colour inside the cell':<26}{'red':>8}{'green':>8}{'blue':>8}"]
    lines += [
        f"{name:<26}" + "".join(f"{value:>8.1f}" for value in values)
        for name, values in rows.items()
        if values is not None
    ]
    if found["share"] is not None:
        lines.append(
            f"{'variance between patients':<26}"
            + "".join(f"{100 * value:>6.0f} %" for value in found["share"])
        )
    return lines


def _files(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{len(result['unreadable'])} unreadable pictures, {len(result['odd'])} odd ones, "
        f"{result['other_files']} other files"
    ]
    told = [f"{one['path']} {one['reason']}" for one in result["unreadable"]]
    odd = [f"{one['image']}: {one['what']}" for one in result["odd"]]
    for list_ in (told, odd):
        lines += [f"  {line}" for line in list_[:_SHOWN]]
        lines += [f"  ... and {len(list_) - _SHOWN} more (--json)"] if len(list_) > _SHOWN else []
    return lines
