"""The NIH folder as users have it: two folders of cropped cells, one a class, patients in the names.

The data set is Rajaraman et al. 2018, "Pre-trained convolutional neural networks as feature
extractors toward improved malaria parasite detection in thin blood smear images", PeerJ 6:e4568.
Its archive unpacks to `cell_images/Parasitized` and `cell_images/Uninfected` (one popular copy has
the pair once more inside `cell_images/cell_images`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import ArgumentError, DataError, FileAccessError
from ..image_files import EXTENSIONS, ZIP_SIGNATURE

CLASS_NAMES = ("Uninfected", "Parasitized")
"""Class 0 and class 1.  Parasitized is the positive class, everywhere."""

FOLDER_NAMES = {
    "uninfected": 0,
    "parasitized": 1,
    "parasitised": 1,
    "infected": 1,
}
"""Names a class's folder may have, in lower case (upper and lower case are not told apart)."""

_PATIENT = re.compile(r"C([0-9]{1,18})(?![0-9])")
_INSIDE = "cell_images"


def patient_of(name: str) -> int:
    """The patient in the name of an NIH image, the integer after its leading C; -1 if there is none.

    name: `C33P1thinF_IMG_20150619_114756a_cell_179`, with or without folders and extension.
    """
    match = _PATIENT.match(name.replace("\\", "/").rsplit("/", 1)[-1])
    return int(match[1]) if match else -1


def slide_of(name: str) -> str:
    """The slide in the name of an NIH image, what stands before its _IMG; "" if there is none."""
    slide, mark, _ = name.replace("\\", "/").rsplit("/", 1)[-1].partition("_IMG")
    return slide if mark else ""


@dataclass(frozen=True, eq=False)
class CellFolder:
    """The images of a data set, still unread, in a fixed order: class 0 first, then by name.

    root: the folder that holds the two class folders.
    paths: n files.  labels: int64 (n,), 0 uninfected and 1 infected.
    patients: int64 (n,), -1 where the name tells none.
    names: n strings "Class/stem" (the class in its canonical spelling), as exclusion lists have them.
    stray: how many files and folders among them are not images and were passed over.
    excluded: how many images exclusion lists have removed.
    whole, positions: what was found on disk, and where in it these images are, int64 (n,); so that
        one cache of decoded images serves every selection.  None and 0..n-1 as scanned.
    """

    root: Path
    paths: list[Path]
    labels: np.ndarray
    patients: np.ndarray
    names: list[str]
    stray: int
    positions: np.ndarray
    excluded: int = 0
    whole: CellFolder | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def class_counts(self) -> dict[str, int]:
        """How many images each class has: {"Uninfected": ..., "Parasitized": ...}."""
        return {name: int(np.sum(self.labels == label)) for label, name in enumerate(CLASS_NAMES)}

    def select(self, indices: np.ndarray | Sequence[int]) -> CellFolder:
        """The images at `indices` (int (m,), or bool (n,)), in that order.

        Raises ArgumentError if an index is not in 0..n-1.
        """
        chosen = np.asarray(indices)
        if chosen.dtype == bool and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        bad = chosen.ndim != 1 or chosen.dtype.kind not in "iu"
        if bad or np.any((chosen < 0) | (chosen >= len(self))):
            raise ArgumentError(f"select: indices must be integers from 0 to {len(self) - 1}")
        return replace(
            self,
            paths=[self.paths[i] for i in chosen],
            labels=self.labels[chosen],
            patients=self.patients[chosen],
            names=[self.names[i] for i in chosen],
            positions=self.positions[chosen],
            whole=self.whole or self,
        )

    def exclude(self, entries: str | os.PathLike[str] | Iterable[str]) -> CellFolder:
        """This folder without the images that a list names; `excluded` grows by how many those are.

        entries: the path of a text file, or the lines themselves.  A line is "Class/stem"; an
        extension is allowed, blank lines and those beginning with # are passed over, and entries
        for images that are not here do no harm as long as one is.
        Raises FileAccessError if the file cannot be read, DataError if no entry names an image here.
        """
        if isinstance(entries, str | os.PathLike):
            source = os.fspath(entries)
            lines = read_list(source)
        else:
            source, lines = "the exclusion list", _without_comments(map(str, entries))
        unwanted = {entry_key(line) for line in lines}
        if not unwanted:
            return self
        keep = np.array([entry_key(name) not in unwanted for name in self.names], bool)
        if keep.all():
            raise DataError(
                f"none of the {len(unwanted)} entries of {source} names an image of {self.root}; "
                f'a line must look like "{self.names[0] if self.names else "Parasitized/C1_cell_1"}"'
            )
        return replace(self.select(keep), excluded=self.excluded + int(np.sum(~keep)))


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """The entries of an exclusion list, without blank lines and comments; raises FileAccessError."""
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8-sig", errors="replace") as file:
            return _without_comments(file.read().splitlines())
    except FileNotFoundError:
        raise FileAccessError(f"the exclusion list {name} does not exist") from None
    except (OSError, ValueError) as problem:
        raise FileAccessError(f"the exclusion list {name} cannot be read: {problem}") from None


def _without_comments(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]


def entry_key(line: str) -> tuple[int | str, str]:
    """(class, stem) of an exclusion list's entry; any accepted folder name stands for its class."""
    folder, _, file = line.strip().replace("\\", "/").rpartition("/")
    folder = folder.rsplit("/", 1)[-1]
    stem, extension = os.path.splitext(file)
    return FOLDER_NAMES.get(folder.lower(), folder), stem if extension.lower() in EXTENSIONS else file


def scan_folder(path: str | os.PathLike[str]) -> CellFolder:
    """Find the images of both classes in `path`, `path/cell_images` or `path/cell_images/cell_images`.

    Class folders may have any name in FOLDER_NAMES, in upper or lower case.  Files that are not
    images (by extension) and folders inside a class folder are passed over and counted.
    Raises FileAccessError if `path` is missing or cannot be listed; DataError if there are no
    class folders, only one class has images, or two folders claim the same class.
    """
    start = Path(path)
    if not os.path.lexists(start):
        raise FileAccessError(f"the data folder {start} does not exist")
    if _is_zip(start):
        raise FileAccessError(
            f"{start} is a zip archive: unpack it first, and give the folder that comes of it"
        )
    if not os.path.isdir(start):
        raise FileAccessError(
            f"{start} is not a folder; wanted is the one with Parasitized and Uninfected in it"
        )
    root, folders = _find_class_folders(start)
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    stray = 0
    for label, class_name in enumerate(CLASS_NAMES):
        files, passed_over = _list_images(folders[label])
        if not files:
            raise DataError(
                f"{folders[label]} holds no images ({', '.join(sorted(EXTENSIONS))}); both classes are needed"
            )
        stray += passed_over
        paths += [folders[label] / file for file in files]
        labels += [label] * len(files)
        names += [f"{class_name}/{os.path.splitext(file)[0]}" for file in files]
    return CellFolder(
        root=root,
        paths=paths,
        labels=np.array(labels, np.int64),
        patients=np.array([patient_of(name) for name in names], np.int64),
        names=names,
        stray=stray,
        positions=np.arange(len(paths)),
    )


def _is_zip(path: Path) -> bool:
    """Whether it is an archive, as the data set comes in.  Importing zipfile takes longer than this."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE
    except OSError:
        return False


def _find_class_folders(start: Path) -> tuple[Path, dict[int, Path]]:
    """The first of the places looked in that has class folders: (it, {label: folder})."""
    seen: list[str] = []
    place: Path | None = start
    for _ in range(3):
        if place is None:
            break
        subfolders = sorted(entry.name for entry in _entries(place) if _is_folder(entry))
        found: dict[int, Path] = {}
        for name in subfolders:
            label = FOLDER_NAMES.get(name.lower())
            if label in found:
                raise DataError(
                    f"{place} has two folders for the class {CLASS_NAMES[label]}: "
                    f"{found[label].name} and {name}"
                )
            if label is not None:
                found[label] = place / name
        if len(found) == 2:
            return place, found
        if found:
            ((label, folder),) = found.items()
            raise DataError(
                f"{place} has only one class, {folder.name}; {CLASS_NAMES[1 - label]} is missing"
                f" (folders found: {_enumerate(subfolders)})"
            )
        seen += [str(Path(place, name).relative_to(start)) for name in subfolders]
        place = next((place / name for name in subfolders if name.lower() == _INSIDE), None)
    if not any(True for _ in _entries(start)):
        raise DataError(f"the data folder {start} is empty; wanted are folders Parasitized and Uninfected")
    hint = ""
    if start.name.lower() in FOLDER_NAMES:
        hint = f"; did you mean the folder above it, {start.parent}?"
    raise DataError(
        f"{start} has no folders Parasitized and Uninfected; folders found: {_enumerate(seen)}{hint}"
    )


def _enumerate(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 8 else shown or "none"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as problem:
        raise FileAccessError(
            f"the folder {folder} cannot be listed: {problem.strerror or problem}"
        ) from None


def _list_images(folder: Path) -> tuple[list[str], int]:
    """The names of the images in a folder, sorted, and how many other entries there are."""
    entries = _entries(folder)
    images = [entry.name for entry in entries if _is_image(entry)]
    return sorted(images), len(entries) - len(images)


def _is_image(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith(".")  # "._x.png" is what macOS leaves in archives
    return not hidden and os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link that leads to one; a link that leads to itself leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False
