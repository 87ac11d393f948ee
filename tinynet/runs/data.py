"""The data of a run: images decoded at the model's size, divided into training, validation and test."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinynet.data import load_images, scan_folder, split_by_image, split_by_patient
from tinynet.data.folder import CellFolder
from tinynet.data.synthetic import synthetic_cells
from tinynet.errors import ArgumentError, DataError
from tinynet.runs.config import SPLITS, RunConfig

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.network import Network

SHARES = (0.72, 0.08, 0.20)  # of training, validation and test: the report's section 4.1


@dataclass
class RunData:
    """Images (n, size, size, 3) uint8, labels and patients (n,), and which of them are in which part.

    kept      False for the images that --exclude names; they are in no part, but are loaded, so that
              the test patients can be evaluated with and without them

    Indices count images in the folder's order.  `of(indices)` gives their pictures, wherever they are.
    """

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    names: list[str]
    kept: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    source: str
    unreadable: int = 0
    rows: np.ndarray | None = None  # where each image is in `images`, -1: forgotten; None: in its place

    def gather(self) -> None:
        """Lay the pictures of each part one after another, so that `of` a part takes no memory.

        For a moment all pictures are there twice; afterwards no part is ever copied, which would keep
        most of them twice all through training.
        """
        if self.rows is None:
            parts = (self.training, self.validation, self.test)
            rest = np.setdiff1d(np.arange(len(self.images)), np.concatenate(parts))
            order = np.concatenate([*parts, rest])
            self.images, self.rows = self.images[order], np.argsort(order)

    def keep(self, indices: np.ndarray) -> None:
        """Forget the pictures of all images but these."""
        places = indices if self.rows is None else self.rows[indices]
        self.images, rows = self.images[places], np.full(len(self.names), -1)  # a copy, not a view
        rows[indices] = np.arange(len(indices))
        self.rows = rows

    def of(self, indices: np.ndarray) -> np.ndarray:
        """The pictures at these indices, uint8 (n, size, size, 3): a view where they lie together."""
        rows = indices if self.rows is None else self.rows[indices]
        assert (rows >= 0).all(), "pictures were asked for that have been forgotten"
        if len(rows) and np.all(np.diff(rows) == 1):
            return self.images[rows[0] : rows[-1] + 1]
        return self.images[rows]

    def digest(self) -> str:
        """Of names, labels and which are kept: a resumed run must find the same."""
        text = hashlib.sha256("\n".join(self.names).encode("utf-8", "surrogateescape"))
        text.update(self.labels.astype("<i8").tobytes() + self.kept.astype("u1").tobytes())
        return text.hexdigest()[:16]

    def test_with_excluded(self) -> np.ndarray:
        """The test part, and what --exclude left out of the same patients."""
        patients = np.unique(self.patients[self.test])
        return np.flatnonzero(np.isin(self.patients, patients))


def load(config: RunConfig, size: int, progress: bool = True) -> RunData:
    """Read or draw the images and divide them; raises DataError, ImageError or FileAccessError."""
    if config.data is None:
        cells = synthetic_cells(config.synthetic, size=size, seed=config.seed, patients=100)
        parts = split(config, cells.labels, cells.patients)
        kept = np.ones(len(cells.labels), bool)
        source = f"{config.synthetic} synthetic cells"
        return _divided(cells.images, cells.labels, cells.patients, cells.names, kept, parts, source)
    folder = scan_folder(config.data)
    wanted = folder if config.exclude is None else folder.exclude(config.exclude)
    loaded = load_images(folder, size, size, progress=progress)
    readable = folder.select(loaded.kept)
    for path, reason in loaded.unreadable[:5]:
        print(f"passed over: {path} {reason}", file=sys.stderr)
    if len(loaded.unreadable) > 5:
        print(f"passed over: {len(loaded.unreadable) - 5} more unreadable images", file=sys.stderr)
    kept = np.isin(readable.names, wanted.names)
    places = np.flatnonzero(kept)
    parts = split(config, readable.labels[places], readable.patients[places])
    if progress:
        _describe(folder, readable.select(places), len(folder) - len(wanted), len(loaded.unreadable))
    return _divided(
        loaded.images,
        readable.labels,
        readable.patients,
        list(readable.names),
        kept,
        tuple(places[part] for part in parts),
        str(config.data),
        len(loaded.unreadable),
    )


def load_as_trained(
    model: Network | Int8Model, name: str, data: str, exclude: str | None, part: str, progress: bool = True
) -> RunData:
    """The data divided as this model's training divided it; raises where that is not known.

    name, part: the model file and what is wanted of it ("--part test"), for messages.
    Raises ArgumentError where the file says nothing of it, DataError for other data than it was.
    """
    assert model.input_shape is not None
    height, width = model.input_shape[:2]
    split = model.provenance.get("split")
    if split not in SPLITS or "data" not in model.provenance or height != width:
        raise ArgumentError(f"{part}: the model file {name} does not say how its data was divided")
    config = RunConfig(data=data, exclude=exclude, split=split, seed=training_seed(model))
    cells = load(config, height, progress=progress)
    if cells.digest() != model.provenance["data"]:
        raise DataError(
            f"{part}: {data} {'with this' if exclude else 'without an'} exclusion list is not what "
            f"{name} was trained on, so its parts are not known; give the same --data and --exclude"
        )
    return cells


def training_seed(model: Network | Int8Model) -> int:
    """The seed of a model's training, from its file; 0 where it says none."""
    seed = model.provenance.get("seed", 0)
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63 else 0


def _divided(images, labels, patients, names, kept, parts, source: str, unreadable: int = 0) -> RunData:
    training, validation, test = parts
    return RunData(images, labels, patients, names, kept, training, validation, test, source, unreadable)


def split(
    config: RunConfig, labels: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation and test; of a split "none", the last two are empty."""
    if config.split == "none":
        nothing = np.arange(0)
        return np.arange(len(labels)), nothing, nothing
    if config.split == "patient":
        return split_by_patient(labels, patients, SHARES, seed=config.seed)
    print(
        "note: a split by image puts cells of one patient on both sides, so its figures are optimistic; "
        "--split patient, the default, does not",
        file=sys.stderr,
    )
    return split_by_image(labels, SHARES, seed=config.seed)


def _describe(folder: CellFolder, used: CellFolder, excluded: int, unreadable: int) -> None:
    """Say what of a folder is used, neither excluded nor unreadable, and what is not."""
    listed = ", ".join(f"{count} {name}" for name, count in used.class_counts().items())
    notes = [f"{excluded} excluded"] if excluded else []
    notes += [f"{folder.stray} other files passed over"] if folder.stray else []
    notes += [f"{unreadable} unreadable"] if unreadable else []
    print(f"data: {listed}" + (f" ({', '.join(notes)})" if notes else ""), file=sys.stderr)
