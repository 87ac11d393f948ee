"""The data of a run: images decoded at the model's size, divided into training, validation and test."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.data import (
    cross_validation_parts,
    load_images,
    scan_folder,
    split_by_image,
    split_by_patient,
)
from tinynet.data.folder import CellFolder
from tinynet.data.synthetic import synthetic_cells
from tinynet.errors import ArgumentError, DataError
from tinynet.runs.config import SPLITS, RunConfig

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.network import Network

SHARES = (0.72, 0.08, 0.20)  # of training, validation and test: the report's section 4.1


def takes_square_pictures(model: Network) -> bool:
    """Whether the model takes what is loaded here: square RGB pictures, which it prepares itself."""
    shape = model.input_shape or ()
    return len(shape) == 3 and shape[0] == shape[1] and shape[2] == 3 and model.preprocessing is not None


@dataclass
class RunData:
    """Images (n, size, size, 3) uint8, labels and patients (n,), and which of them are in which part.

    kept      False for the images that --exclude names; they are in no part, but are loaded, so that
              the test patients can be evaluated with and without them
    held_out  the test fold with what --exclude left out of it; None where the test part is no fold

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
    held_out: np.ndarray | None = None
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
        return digest_of(self.names, self.labels, self.kept)

    def test_with_excluded(self) -> np.ndarray:
        """The test part, and what --exclude left out of the same patients, or of the same fold."""
        if self.held_out is not None:
            return self.held_out
        patients = np.unique(self.patients[self.test])
        return np.flatnonzero(np.isin(self.patients, patients))


def digest_of(names: list[str], labels: np.ndarray, kept: np.ndarray) -> str:
    """What a model file says of the data it was trained on, by which that is known again."""
    text = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape"))
    text.update(labels.astype("<i8").tobytes() + kept.astype("u1").tobytes())
    return text.hexdigest()[:16]


def load(config: RunConfig, size: int, progress: bool = True) -> RunData:
    """Read or draw the images and divide them; raises DataError, ImageError or FileAccessError."""
    if config.data is None:
        cells = synthetic_cells(config.synthetic, size=size, seed=config.seed, patients=100)
        drawn = split(config, cells.labels, cells.patients)
        kept = np.ones(len(cells.labels), bool)
        source = f"{config.synthetic} synthetic cells"
        return _divided(cells.images, cells.labels, cells.patients, cells.names, kept, drawn, source)
    folder = scan_folder(config.data)
    wanted = folder if config.exclude is None else folder.exclude(config.exclude)
    loaded = load_images(folder, size, size, progress=progress)
    readable = folder.select(loaded.kept)
    for path, reason in loaded.unreadable[:5]:
        print(f"passed over: {path} {reason}", file=sys.stderr)
    if len(loaded.unreadable) > 5:
        print(f"passed over: {len(loaded.unreadable) - 5} more unreadable images", file=sys.stderr)
    kept = np.isin(readable.names, wanted.names)
    places, held_out = np.flatnonzero(kept), None
    if config.fold is None:
        divided = split(config, readable.labels[places], readable.patients[places])
        parts = [places[part] for part in divided]
    else:
        part_of = _fold(config, folder)[loaded.kept]
        parts = [np.flatnonzero(kept & (part_of == part)) for part in range(3)]
        held_out = np.flatnonzero(part_of == 2)
    if progress:
        _describe(folder, readable.select(places), len(folder) - len(wanted), len(loaded.unreadable))
    return _divided(
        loaded.images,
        readable.labels,
        readable.patients,
        list(readable.names),
        kept,
        parts,
        str(config.data),
        len(loaded.unreadable),
        held_out,
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
    fold, folds = _fold_in(model.provenance, part, name)
    seed = training_seed(model)
    config = RunConfig(data=data, exclude=exclude, split=split, seed=seed, fold=fold, folds=folds)
    cells = load(config, height, progress=progress)
    if cells.digest() != model.provenance["data"]:
        raise DataError(
            f"{part}: {data} {'with this' if exclude else 'without an'} exclusion list is not what "
            f"{name} was trained on, so its parts are not known; give the same --data and --exclude"
        )
    return cells


def require_kept_apart(places: np.ndarray, what: str) -> None:
    """Raise ArgumentError if a part of the data is empty.  what: who asks, the option and the model."""
    if not len(places):
        raise ArgumentError(f"{what} was trained on all of its data, and nothing was kept apart")


def training_seed(model: Network | Int8Model) -> int:
    """The seed of a model's training, from its file; 0 where it says none."""
    seed = model.provenance.get("seed", 0)
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63 else 0


def _fold_in(provenance: dict[str, Any], part: str, name: str) -> tuple[int | None, int]:
    """The fold that a model was tested on, None where it was none, and of how many."""
    fold = provenance.get("fold")
    if fold is None:
        return None, 5
    if not isinstance(fold, list) or [type(number) for number in fold] != [int, int]:
        raise ArgumentError(f"{part}: the model file {name} says that it was tested on fold {fold!r:.40}")
    return fold[0], fold[1]


def _divided(
    images, labels, patients, names, kept, parts, source: str, unreadable: int = 0, held_out=None
) -> RunData:
    training, validation, test = parts
    return RunData(
        images, labels, patients, names, kept, training, validation, test, source, unreadable, held_out
    )


def split(
    config: RunConfig, labels: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation and test; of a split "none", the last two are empty."""
    if config.split == "none":
        nothing = np.arange(0)
        return np.arange(len(labels)), nothing, nothing
    if config.split == "patient":
        return split_by_patient(labels, patients, SHARES, seed=config.seed)
    _note_optimism()
    return split_by_image(labels, SHARES, seed=config.seed)


def _fold(config: RunConfig, folder: CellFolder) -> np.ndarray:
    """Which part each image of a folder is in, where a fold is the test: 0, 1, 2, int (n,).

    All files count, those too that --exclude names or that turn out unreadable: so an image is in the
    same fold whatever is left out, and two models can be compared on the same cells.
    """
    assert config.fold is not None
    if config.split == "image":
        _note_optimism()
    patients = folder.patients if config.split == "patient" else None
    part_of = np.empty(len(folder), np.int64)
    for number, part in enumerate(cross_validation_parts(folder.labels, patients, config.fold, config.folds)):
        part_of[part] = number
    return part_of


def _note_optimism() -> None:
    print(
        "note: a split by image puts cells of one patient on both sides, so its figures are optimistic; "
        "--split patient, the default, does not",
        file=sys.stderr,
    )


def _describe(folder: CellFolder, used: CellFolder, excluded: int, unreadable: int) -> None:
    """Say what of a folder is used, neither excluded nor unreadable, and what is not."""
    listed = ", ".join(f"{count} {name}" for name, count in used.class_counts().items())
    notes = [f"{excluded} excluded"] if excluded else []
    notes += [f"{folder.stray} other files passed over"] if folder.stray else []
    notes += [f"{unreadable} unreadable"] if unreadable else []
    print(f"data: {listed}" + (f" ({', '.join(notes)})" if notes else ""), file=sys.stderr)
