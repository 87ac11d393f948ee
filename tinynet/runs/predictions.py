"""Predictions for cells whose label is known, as a CSV file that other commands read back.

One line a cell: its image as exclusion lists have it, patient, fold, label, whether somebody doubts the
label, the probability of class 1 and the threshold at or above which that is called infected.
"""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tinynet import files
from tinynet.data.folder import CLASS_NAMES, entry_key, patient_of
from tinynet.errors import DataError, FileAccessError

COLUMNS = ("image", "patient", "fold", "label", "doubted", "probability", "threshold")


@dataclass(frozen=True, eq=False)
class Predictions:
    """n cells and what a model that did not learn from them says.

    images         n names "Class/stem"
    patients       int64 (n,), -1 where the name tells none
    folds          int64 (n,), the fold that each was the test of, from 1; 0 where there were none
    labels         int64 (n,), 0 uninfected and 1 infected
    doubted        bool (n,), whether a list doubts the label; None where there was no list
    probabilities  float64 (n,) of class 1
    thresholds     float64 (n,)
    """

    images: list[str]
    patients: np.ndarray
    folds: np.ndarray
    labels: np.ndarray
    doubted: np.ndarray | None
    probabilities: np.ndarray
    thresholds: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def select(self, chosen: np.ndarray) -> Predictions:
        """Those at `chosen`, int (m,) or bool (n,)."""
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Predictions(
            [self.images[place] for place in places],
            self.patients[places],
            self.folds[places],
            self.labels[places],
            None if self.doubted is None else self.doubted[places],
            self.probabilities[places],
            self.thresholds[places],
        )

    def sets(self) -> dict[str, Predictions]:
        """By label set: "suspicious_removed" where a list doubts some, and "all_labels"."""
        if self.doubted is None:
            return {"all_labels": self}
        return {"suspicious_removed": self.select(~self.doubted), "all_labels": self}

    def doubt(self, lines: list[str]) -> Predictions:
        """These, with the cells that a list names as the doubted ones; DataError where it names none."""
        named = {entry_key(line) for line in lines}
        doubted = np.array([entry_key(image) in named for image in self.images], bool)
        if not doubted.any():
            raise DataError(f"none of the {len(named)} entries of the list names a cell that was predicted")
        return replace(self, doubted=doubted)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write them as CSV; raises FileAccessError."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        doubted = [""] * len(self) if self.doubted is None else self.doubted.astype(int).tolist()
        rows.writerows(
            zip(
                self.images,
                self.patients.tolist(),
                self.folds.tolist(),
                self.labels.tolist(),
                doubted,
                (f"{value:.9g}" for value in self.probabilities),  # enough for any float32
                (f"{value:.17g}" for value in self.thresholds),  # a decision must not change
                strict=True,
            )
        )
        files.write_atomically(path, [text.getvalue().encode("utf-8", "surrogateescape")])


def join(parts: list[Predictions]) -> Predictions:
    """The predictions of several folds; DataError where a cell is among two."""
    images = [image for part in parts for image in part.images]
    if len(set(images)) != len(images):
        raise DataError("a cell is in the test part of two folds: these are not folds of one division")
    known = all(part.doubted is not None for part in parts)
    return Predictions(
        images,
        np.concatenate([part.patients for part in parts]),
        np.concatenate([part.folds for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.doubted for part in parts if part.doubted is not None]) if known else None,
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.thresholds for part in parts]),
    )


def read(path: str | os.PathLike[str]) -> Predictions:
    """Read what `write` wrote; FileAccessError or DataError, which name the file and the line."""
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as problem:
        raise FileAccessError(f"{name}: {problem.strerror or problem}") from None
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        header = next(rows, [])
        if tuple(header) != COLUMNS:
            raise DataError(
                f"{name} holds no predictions: its first line must be {','.join(COLUMNS)}, "
                f"as tinynet crossvalidate writes it"
            )
        cells = [_cell(row, f"{name}, line {rows.line_num}") for row in rows]
    except csv.Error as problem:
        raise DataError(f"{name}, line {rows.line_num}: {problem}") from None
    if not cells:
        raise DataError(f"{name} holds no predictions, only a first line")
    images, patients, folds, labels, doubted, probabilities, thresholds = zip(*cells, strict=True)
    if len(set(images)) != len(images):
        raise DataError(f"{name}: a cell is there twice")
    return Predictions(
        list(images),
        np.array(patients, np.int64),
        np.array(folds, np.int64),
        np.array(labels, np.int64),
        np.array(doubted, bool) if None not in doubted else None,
        np.array(probabilities, np.float64),
        np.array(thresholds, np.float64),
    )


def _cell(row: list[str], where: str) -> tuple[str, int, int, int, bool | None, float, float]:
    """The values of one line, checked."""
    if len(row) != len(COLUMNS):
        raise DataError(f"{where}: {len(row)} values, wanted are {len(COLUMNS)}")
    image, patient, fold, label, doubted, probability, threshold = row
    if label not in ("0", "1") or doubted not in ("0", "1", ""):
        raise DataError(f"{where}: label must be 0 or 1, and doubted 0, 1 or nothing")
    if image.partition("/")[0] != CLASS_NAMES[int(label)]:
        raise DataError(
            f"{where}: image must begin with {CLASS_NAMES[int(label)]}/ where the label is {label}"
        )
    if patient != str(patient_of(image)):
        raise DataError(f"{where}: patient {patient!r:.40} is not the one in the image's name")
    if not fold.isascii() or not fold.isdigit() or len(fold) > 4:
        raise DataError(f"{where}: fold must be a whole number, not {fold!r:.40}")
    chance, cut = _share(probability, "probability", where), _share(threshold, "threshold", where)
    return image, int(patient), int(fold), int(label), doubted == "1" if doubted else None, chance, cut


def _share(text: str, column: str, where: str) -> float:
    """A number from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise DataError(f"{where}: {column} must be a number from 0 to 1, not {text!r:.40}")
    return share
