"""The data: what the post and the report show of it, and what they left out.

    python -m studies.data --data DIR [--exclude LIST] --out OUT

Random labelled cells, sizes and class balance (the post); the report's Tables 1 and 2 and Figure 2; cells
and infected share by patient; how much the stain varies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from studies import drawing, published
from studies.study import Findings, Settings
from tinynet import plots
from tinynet.data import load_images, scan_folder, split_by_image, summary
from tinynet.data.augment import TABLE_2, Augmentation
from tinynet.data.folder import CellFolder
from tinynet.data.splits import cross_validation_parts
from tinynet.random import permutation
from tinynet.runs.data import SHARES
from tinynet.texts import number

TITLE = "The data"


def run(settings: Settings, folder: Path, keep: Callable[[Findings], None]) -> Findings:
    """Look at every picture once."""
    whole = scan_folder(settings.data)
    listed = whole if settings.exclude is None else whole.exclude(settings.exclude)
    loaded = load_images(listed, summary.SIDE, summary.SIDE, progress=bool(settings.verbose))
    cells = listed.select(loaded.kept)
    held = summary.classes_and_patients(whole)
    found = Findings()
    found.values = {
        "all": held,
        "excluded": len(whole) - len(listed),
        "used": summary.classes_and_patients(cells),
        "unreadable": len(loaded.unreadable),
        "sizes": summary.sizes(loaded),
        "stain": summary.stain(listed, loaded),
    }
    _cells(found, folder, loaded.images, cells.labels, settings.seed)
    _balance(found, folder, loaded.sizes, cells.labels)
    _table_1(found, settings, whole, np.isin(whole.names, cells.names))
    _augmentation(found, folder, loaded.images, settings.seed)
    _patients(found, folder)
    _stain(found, folder)
    return found


def _cells(found: Findings, folder: Path, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
    plots.save_labelled_cells(images, labels, folder / "cells.png", count=8, seed=seed)
    found.picture("", "cells.png", "Eight cells drawn at random, each under its label, as in the post.")


def _balance(found: Findings, folder: Path, sizes: np.ndarray, labels: np.ndarray) -> None:
    values = found.values
    counts, size = values["used"]["classes"], values["sizes"]
    drawing.class_balance(counts, folder / "balance.png")
    drawing.sizes(sizes, labels, folder / "sizes.png", (16, 24, 32, 48, 64))
    left_out = f", {values['excluded']:,} more are left out by --exclude" if values["excluded"] else ""
    found.picture("", "balance.png", f"Class balance: {values['used']['cells']:,} cells{left_out}.")
    found.picture("", "sizes.png", "The post's question before resizing: how large are the pictures?")
    header = ["pixels", "least", "5 %", "median", "95 %", "most"]
    keys = ("min", "p5", "median", "p95", "max")
    rows = [
        [name.replace("_", " "), *(number(size[name][key], 0) for key in keys)]
        for name in ("height", "width", "longest_side")
    ]
    found.table(
        "",
        "Sizes of the pictures",
        header,
        rows,
        "The post gives 46 x 46 to 384 x 395 for the whole set of 27,558.",
    )


def _table_1(found: Findings, settings: Settings, whole: CellFolder, used: np.ndarray) -> None:
    """The report's split, and ours: the same shares by image, and the first fold by patient.

    used: bool (n,); folds are of all files, so that a cell is in the same one whatever is left out.
    """
    labels, patients, fold = whole.labels, whole.patients, settings.tested()[0]
    places = np.flatnonzero(used)
    by_image = [places[part] for part in split_by_image(labels[places], SHARES, seed=settings.seed)]
    parts = cross_validation_parts(labels, patients, fold, settings.of_folds)
    by_patient = [part[used[part]] for part in parts]
    lines = {"the report": [_counts(*stated) for _, *stated in published.TABLE_1]}
    for name, divided in (("ours, by image", by_image), (f"ours, fold {fold} by patient", by_patient)):
        own = [labels[part] for part in divided]
        lines[name] = [_counts(int(one.sum()), int((one == 0).sum()), len(one)) for one in own]
    found.values["table_1"] = lines
    rows = [[name, *counts] for name, counts in lines.items()]
    people = [str(len(np.unique(patients[part]))) for part in by_patient]
    found.table(
        "Table 1",
        "Training, validation and test: parasitized + uninfected of all",
        ["", *(name.lower() for name, *_ in published.TABLE_1)],
        [*rows, [f"patients of fold {fold}", *people]],
        "The report says 0.9/0.1 for training and test and 0.8/0.2 for training and validation; its numbers "
        "are 0.72/0.08/0.20, which ours by image follow. The two classes of its test part do not add up to "
        "its 5,266 cells; those of its Table 9, 2,719 and 2,547, do.",
        "Every other figure of these studies is of folds by patient: cells of one patient are alike, and a "
        "split by image has them on both sides.",
    )


def _counts(sick: int, well: int, both: int) -> str:
    """ "9,389 + 9,496 of 18,885"."""
    return f"{sick:,} + {well:,} of {both:,}"


def _augmentation(found: Findings, folder: Path, images: np.ndarray, seed: int) -> None:
    ours = Augmentation()
    span = "[0, {}]".format
    either = "[-{0}, {0}]".format
    values = (
        f"{ours.rotation:g}",
        span(ours.scale),
        either(ours.shift),
        either(ours.shear),
        str(ours.horizontal_flip),
    )
    rows = [[name, theirs, own] for (name, theirs), own in zip(published.TABLE_2, values, strict=True)]
    rows.append(["Vertical flip", "-", str(ours.vertical_flip)])
    found.table(
        "Table 2",
        "Augmentation",
        ["", "the report", "ours"],
        rows,
        "Cells have no up, so ours turn by any angle. Reconstruction is trained with the report's "
        "(tinynet.data.augment.TABLE_2), classifiers with ours.",
    )
    few = permutation(seed, 0, np.arange(len(images)), "studies augmented")[:4]
    for name, chosen in (("as the report", TABLE_2), ("ours", ours)):
        variants = [chosen(images[few], seed, epoch, few) for epoch in range(6)]
        file = f"augmented-{name.replace(' ', '-')}.png"
        shown = [[cell, *(variant[k] for variant in variants)] for k, cell in enumerate(images[few])]
        drawing.rows(shown, [], ["original", "augmented"], folder / file)
        found.picture("Figure 2", file, f"Augmented cells, {name}.")


def _patients(found: Findings, folder: Path) -> None:
    used = found.values["used"]
    if not used["patients"]:
        found.text("No patient is known: the pictures' names tell none.")
        return
    rows = used["by_patient"]
    drawing.patients(
        [row["cells"] for row in rows], [row["infected"] for row in rows], folder / "patients.png"
    )
    found.picture("", "patients.png", "What neither the post nor the report shows: who the cells are of.")
    keys = ("min", "p5", "median", "p95", "max")
    lines = [["cells a patient", *(number(used["cells_a_patient"][key], 0) for key in keys)]]
    share = used["infected_share_of_infected_patients"]
    if share is not None:
        lines.append(["infected share, of infected patients", *(number(share[key], 3) for key in keys)])
    found.table(
        "",
        f"{used['patients']} patients, {used['infected_patients']} with infected cells and "
        f"{used['healthy_patients']} without",
        ["", "least", "5 %", "median", "95 %", "most"],
        lines,
        _concentration([row["infected"] for row in rows]),
    )


def _concentration(infected: list[int]) -> str:
    """A sentence: which share of the infected cells an eighth of the patients has."""
    few = -(-len(infected) // 8)
    share = sum(sorted(infected, reverse=True)[:few]) / max(1, sum(infected))
    return f"The {few} patients with most infected cells have {100 * share:.0f} % of them."


def _stain(found: Findings, folder: Path) -> None:
    stain: dict[str, Any] = found.values["stain"]
    if len(stain["by_patient"]) < 2:
        return
    drawing.stain([one["colour"] for one in stain["by_patient"]], folder / "stain.png")
    found.picture("", "stain.png", "The stain: the mean colour inside each patient's uninfected cells.")
    names = {
        "uninfected cells, mean": stain["cells"]["Uninfected"]["mean"],
        "infected cells, mean": stain["cells"]["Parasitized"]["mean"],
        "infected - uninfected of the same patient": stain["infected_minus_uninfected"],
        "deviation of patients' means": stain["between"],
        "deviation within a patient": stain["within"],
    }
    rows = [[name, *(number(v, 1) for v in values)] for name, values in names.items() if values is not None]
    if stain["share"] is not None:
        rows.append(["share of the variance between patients", *(number(v, 2) for v in stain["share"])])
    found.table("", "Colour inside the cells, 0 to 255", ["", "red", "green", "blue"], rows)


if __name__ == "__main__":
    from studies.__main__ import alone

    raise SystemExit(alone("data"))
