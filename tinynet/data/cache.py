"""Decode and resize a data set once, keep the result, and read it back in a second.

A cache is two files in one folder: `cells-KEY.npy` with the pictures and `cells-KEY.json` with what
else is known.  KEY is a digest of where the folder is; of every file's name, size, times of change and
inode; of the target size; and of this format's version.  So an image that is added, removed or edited
makes another cache, even where its size and modification time are kept, and no two folders share one:
a folder that is copied or moved is decoded again.  A cache that is damaged is made again; one that
cannot be written costs time, not the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DataError, FileAccessError, ImageError, MissingDependencyError
from ..images import decode, resize
from .folder import CellFolder

FORMAT_VERSION = 2
MAX_CACHES = 6
"""The least recently used caches beyond this many are removed when one is written."""

_CHUNK = 32  # images a task: enough that handing out tasks costs nothing


@dataclass(frozen=True, eq=False)
class Images:
    """The readable images of a folder, resized.

    images: uint8 (m, height, width, 3), RGB.
    kept: int64 (m,), which image of the folder each is: `folder.labels[kept]` are their labels.
    sizes: int32 (m, 2), height and width in pixels before resizing.
    unreadable: (path, reason) of the others; the reason goes on after the path: "is truncated: ...".
    """

    images: np.ndarray
    kept: np.ndarray
    sizes: np.ndarray
    unreadable: list[tuple[Path, str]]


def load_images(
    folder: CellFolder,
    height: int,
    width: int,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Images:
    """Every readable image of `folder`, resized to height x width.

    The cache holds all images that were found on disk (`folder.whole`), so exclusion lists and other
    selections need no decoding.  cache_dir: where caches are kept; by default the environment's
    TINYNET_CACHE, else `tinynet` in the user's cache folder.  Where none can be written, the
    selected images are decoded without one, after a warning.  progress: show it on standard error.

    An unreadable image is recorded and passed over.  Raises DataError if none is readable or they do
    not fit into memory, ArgumentError for a size that makes no sense, MissingDependencyError without
    an image decoder.
    """
    if not len(folder):
        raise DataError(f"no images of {folder.root} are left to load")
    resize(np.zeros((1, 1, 3), np.uint8), height, width)  # refuses a size that makes no sense
    whole = folder.whole or folder
    key = _digest(whole, height, width)
    directory = _directory(cache_dir)
    stored = None if directory is None else _read_cache(directory, key, whole, (height, width, 3))
    if stored is None:
        if directory is None or not _can_write(directory):
            return _select(folder, _decode_all(folder, height, width, progress), np.arange(len(folder)))
        stored = _decode_all(whole, height, width, progress)
        _write_cache(directory, key, stored)
    return _select(folder, stored, folder.positions)


@dataclass(frozen=True)
class _Stored:
    """Images of a folder as the cache has them: `reasons` tells why place i of the folder is missing."""

    images: np.ndarray
    sizes: np.ndarray
    reasons: dict[int, str]


def _select(folder: CellFolder, stored: _Stored, positions: np.ndarray) -> Images:
    """What `stored` has of the folder's images; positions: int (n,), where they are in `stored`."""
    count = len(stored.images) + len(stored.reasons)
    row = np.cumsum([place not in stored.reasons for place in range(count)]) - 1
    readable = np.array([place not in stored.reasons for place in positions.tolist()], bool)
    if not readable.any():
        place = int(positions[0])
        raise DataError(
            f"none of the {len(folder)} images of {folder.root} is readable: "
            f"{folder.paths[0]} {stored.reasons[place]}"
        )
    rows = row[positions[readable]]
    return Images(
        images=_take(stored.images, rows),
        kept=np.flatnonzero(readable),
        sizes=stored.sizes[rows],
        unreadable=[(folder.paths[i], stored.reasons[int(positions[i])]) for i in np.flatnonzero(~readable)],
    )


def _take(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """images[rows].  Where rows ascend, as they mostly do, within the same memory: there may not be twice."""
    if np.any(np.diff(rows) <= 0):
        return images[rows]
    for first in range(0, len(rows), 256):
        some = rows[first : first + 256]
        if some[-1] != first + len(some) - 1:  # else these are in their places already
            images[first : first + len(some)] = images[some]
    return images[: len(rows)]


def _decode_all(folder: CellFolder, height: int, width: int, progress: bool) -> _Stored:
    count = len(folder)
    try:
        images = np.empty((count, height, width, 3), np.uint8)
    except (MemoryError, ValueError):
        size = count * height * width * 3 / 2**30
        raise DataError(
            f"{count} images at {height}x{width} need {size:.1f} GiB of memory, more than there is"
        ) from None
    sizes = np.zeros((count, 2), np.int32)
    reasons: dict[int, str] = {}

    def decode_chunk(first: int) -> int:
        last = min(first + _CHUNK, count)
        for place in range(first, last):
            try:
                image = decode(folder.paths[place])
            except (ImageError, FileAccessError) as problem:
                # Without the path: by the next time the folder may be given another way.
                reasons[place] = str(problem).removeprefix(f"{folder.paths[place]} ")
                continue
            sizes[place] = image.shape[:2]
            images[place] = resize(image, height, width)
        return last - first

    # Decoders and NumPy let other threads run while they work.
    workers = max(2, min(8, os.cpu_count() or 2))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tinynet-decode")
    try:
        with _progress(count, "decoding images", progress) as advance:
            for done in pool.map(decode_chunk, range(0, count, _CHUNK)):
                advance(done)
    finally:
        pool.shutdown(cancel_futures=True)
    for place in reasons:
        # One damaged picture is passed over; a disk that was unplugged must not leave half a data set.
        if not folder.paths[place].parent.is_dir():
            raise FileAccessError(f"{folder.paths[place].parent} was there and is gone: it was being read")
    if reasons:
        readable = np.array([place not in reasons for place in range(count)], bool)
        images, sizes = images[readable], sizes[readable]
    return _Stored(images, sizes, dict(sorted(reasons.items())))


@contextlib.contextmanager
def _progress(total: int, what: str, shown: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with how many more are done: tqdm's bar, or a line every 5 %."""
    if not shown:
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        count = 0
        began = time.monotonic()

        def advance(done: int) -> None:
            nonlocal count
            before, count = count, count + done
            if count * 20 // total > before * 20 // total:
                seconds = time.monotonic() - began
                print(f"{what}: {count} of {total}, {seconds:.0f} s", file=sys.stderr, flush=True)

        yield advance
        return
    with tqdm(total=total, desc=what, unit="image", file=sys.stderr, mininterval=0.5) as bar:
        yield lambda done: bar.update(done) and None


def cache_directory() -> Path:
    """Where caches are kept by default: TINYNET_CACHE, else `tinynet` in the user's cache folder.

    Raises RuntimeError if the user has no home folder.
    """
    chosen = os.environ.get("TINYNET_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) / "tinynet" / "cache" if local else Path.home() / "AppData/Local/tinynet/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tinynet"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "tinynet"


def _directory(chosen: str | os.PathLike[str] | None) -> Path | None:
    """The cache folder, which need not exist; None, after a warning, if there is no home to put it in."""
    try:
        return Path(chosen) if chosen is not None else cache_directory()
    except RuntimeError as problem:
        warnings.warn(f"images are decoded without a cache: {problem}", stacklevel=3)
        return None


def _can_write(directory: Path) -> bool:
    """Make the cache folder if need be; False, after a warning, if nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except (OSError, ValueError) as problem:
        warnings.warn(f"images are decoded without a cache: {problem}", stacklevel=3)
        return False


def _digest(folder: CellFolder, height: int, width: int) -> str:
    digest = hashlib.sha256(f"tinynet cells {FORMAT_VERSION} {height}x{width}\n".encode())
    digest.update(f"{os.path.realpath(folder.root)}\n".encode(errors="surrogateescape"))
    for path, name in zip(folder.paths, folder.names, strict=True):
        try:
            status = os.stat(path)
            # The modification time can be set, as archives and copies do; the time of change cannot.
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        except OSError:
            state = "missing"
        digest.update(f"{name}{path.suffix}\0{state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _cache_paths(directory: Path, key: str) -> tuple[Path, Path]:
    return directory / f"cells-{key}.npy", directory / f"cells-{key}.json"


def _read_cache(directory: Path, key: str, folder: CellFolder, shape: tuple[int, ...]) -> _Stored | None:
    """What the cache holds under `key`; None if there is nothing, or nothing that can be trusted."""
    array_path, index_path = _cache_paths(directory, key)
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        images = np.load(array_path, allow_pickle=False)
        sizes = np.array(index["sizes"], np.int32).reshape(-1, 2)
        reasons = {int(place): str(reason) for place, reason in index["reasons"].items()}
        places = range(len(folder))
        whole = (
            images.dtype == np.uint8
            and images.shape == (len(folder) - len(reasons), *shape)
            and len(sizes) == len(images)
            and all(place in places for place in reasons)
            and _checksum(images) == index["checksum"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, OverflowError, MemoryError):
        return None
    # An image may have become readable without changing: permission given, a decoder installed.
    if not whole or any(_is_readable(folder.paths[place]) for place in reasons):
        return None
    for path in (array_path, index_path):
        with contextlib.suppress(OSError):
            os.utime(path)  # tells which caches are in use
    return _Stored(images, sizes, reasons)


def _checksum(images: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(images).data)


def _is_readable(path: Path) -> bool:
    try:
        decode(path)
    except (ImageError, FileAccessError, MissingDependencyError):
        return False
    return True


def _write_cache(directory: Path, key: str, stored: _Stored) -> None:
    """Store under `key`; on failure (disk full, ...) warn and leave nothing behind."""
    array_path, index_path = _cache_paths(directory, key)
    index: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "checksum": _checksum(stored.images),
        "sizes": stored.sizes.tolist(),
        "reasons": {str(place): reason for place, reason in stored.reasons.items()},
    }
    try:
        _replace(array_path, lambda file: np.save(file, stored.images, allow_pickle=False))
        _replace(index_path, lambda file: file.write(json.dumps(index).encode()))
        _remove_old(directory)
    except OSError as problem:
        warnings.warn(f"decoded images were not kept in the cache: {problem}", stacklevel=3)


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write to a temporary file beside `path`, then rename it."""
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _remove_old(directory: Path) -> None:
    """Keep the MAX_CACHES caches used last; remove what a killed run left half written a day ago."""
    ages: list[tuple[float, Path]] = []
    for path in [*directory.glob("cells-*.json"), *directory.glob("cells-*.tmp")]:
        with contextlib.suppress(OSError):  # another run may have removed it
            ages.append((time.time() - path.stat().st_mtime, path))
    caches = sorted((age, path) for age, path in ages if path.suffix == ".json")
    doomed = [path for _, path in caches[MAX_CACHES:]]
    doomed += [path.with_suffix(".npy") for path in doomed]
    doomed += [path for age, path in ages if path.suffix == ".tmp" and age > 86400]
    for path in doomed:
        with contextlib.suppress(OSError):
            path.unlink()
