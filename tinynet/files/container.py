"""The safetensors container: named arrays and text metadata, with nothing in it that can run.

    8 bytes             length of the header, unsigned, little-endian
    that many bytes     JSON: {name: {"dtype", "shape", "data_offsets"}, "__metadata__": {text: text}}
    the rest            the arrays' values, little-endian, C order, without gaps

The layout is that of https://github.com/huggingface/safetensors, so that any tool opens these
files; the checks here are stricter than the ones made there.
"""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tinynet.errors import ArgumentError, FileAccessError, ModelFileError
from tinynet.files import strict_json
from tinynet.files.atomic import PathLike, open_to_read, path_text, read_exactly, write_atomically
from tinynet.files.strict_json import shortened

MAXIMUM_HEADER_BYTES = 2**20
MAXIMUM_FILE_BYTES = 2**31
MAXIMUM_DIMENSIONS = 32  # NumPy's own before version 2

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
TYPE_NAMES = {dtype.str: name for name, dtype in NUMPY_TYPES.items()}

# What other files begin with, to say what was given instead of only what it is not.
OTHER_KINDS = [
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"PK\x03\x04", "a zip archive, such as .keras, .npz and PyTorch files are"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as older Keras models are"),
    (0, b"\x93NUMPY", "a NumPy .npy file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not fetched"),
    (0, b"<", "a web page or XML"),
    (0, b"{", "a JSON text"),
    *((0, bytes([0x80, protocol]), "a Python pickle, which tinynet never opens") for protocol in range(2, 6)),
]


class Entry(NamedTuple):
    """One array as the header announces it; `begin` and `end` count from the first byte of data."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(
    path: PathLike,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    max_bytes: int = MAXIMUM_FILE_BYTES,
    keep: PathLike | None = None,
) -> None:
    """Write arrays of any shape and byte order, and text metadata, as one file, replaced atomically.

    keep: the name that the old file gets (`write_atomically`).

    Raises ArgumentError for a dtype outside `NUMPY_TYPES`, a name or metadata that is not text,
    a header above 1 MiB or a file above `max_bytes`, and FileAccessError where the file cannot
    be written; what was there before is then unchanged.
    """
    header = encode_header(tensors, metadata)
    total = len(header) + sum(np.asarray(array).nbytes for array in tensors.values())
    if total > max_bytes:
        raise ArgumentError(
            f"{path_text(path)} would be {total:,} bytes, more than the {max_bytes:,} allowed."
        )
    write_atomically(path, _chunks(header, tensors), keep)


def encode_header(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Everything before the data: the length and the JSON, padded so that data starts at a multiple of 8."""
    header: dict[str, Any] = {}
    if metadata:
        for name, text in metadata.items():
            if not all(isinstance(item, str) and strict_json.is_text(item) for item in (name, text)):
                raise ArgumentError(f"metadata {name!r} must be text under a name that is text.")
        header["__metadata__"] = dict(metadata)
    end = 0
    for name in _checked_names(tensors):
        array = np.asarray(tensors[name])
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": type_name(name, array),
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    encoded = strict_json.dump(header).encode("ascii")
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAXIMUM_HEADER_BYTES:
        raise ArgumentError(
            f"the names, shapes and metadata take {len(encoded):,} bytes, "
            f"more than the {MAXIMUM_HEADER_BYTES:,} that a file's header may have."
        )
    return struct.pack("<Q", len(encoded)) + encoded


def read_tensors(
    path: PathLike, max_bytes: int = MAXIMUM_FILE_BYTES
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays (own memory, C order, native byte order, in name order) and metadata of a file.

    The header is checked whole before any array is allocated, so that no file can ask for more
    memory than its own size.

    Raises ModelFileError, naming the file and what is wrong, unless every byte of it is
    accounted for, and FileAccessError where it cannot be read.
    """
    name = path_text(path)
    with open_to_read(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size > max_bytes:
            raise ModelFileError(f"{name} is {size:,} bytes, more than the {max_bytes:,} allowed.")
        header = _read_header(file, size, name)
        metadata = _checked_metadata(header, name)
        entries = [_checked_entry(key, value, name) for key, value in header.items()]
        entries.sort(key=lambda entry: (entry.begin, entry.end))
        _check_layout(entries, size - file.tell(), name)
        try:
            arrays = {entry.name: _read_array(file, entry, name) for entry in entries}
        except MemoryError:
            raise FileAccessError(f"{name} ({size:,} bytes) does not fit in memory.") from None
    return {key: arrays[key] for key in sorted(arrays)}, metadata


def type_name(name: str, array: np.ndarray) -> str:
    """The format's name of an array's dtype; raises ArgumentError if it has none."""
    try:
        return TYPE_NAMES[array.dtype.newbyteorder("<").str]
    except KeyError:
        raise ArgumentError(
            f"tensor {name!r} has dtype {array.dtype}; a file holds {', '.join(NUMPY_TYPES)}."
        ) from None


def raw_bytes(array: np.ndarray) -> memoryview:
    """The values, little-endian in C order; without a copy where the array is so already."""
    little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little_endian.reshape(-1).view(np.uint8).data


def _chunks(header: bytes, tensors: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    yield header
    for name in sorted(tensors):
        yield raw_bytes(np.asarray(tensors[name]))


def _checked_names(tensors: Mapping[str, np.ndarray]) -> list[str]:
    for name, array in tensors.items():
        if not isinstance(name, str) or not strict_json.is_text(name) or name == "__metadata__":
            raise ArgumentError(f"a tensor cannot be called {name!r}; its name must be text.")
        if not isinstance(array, np.ndarray | np.generic):
            raise ArgumentError(f"tensor {name!r} is of type {type(array).__name__}, not a NumPy array.")
        if array.ndim > MAXIMUM_DIMENSIONS:
            raise ArgumentError(
                f"tensor {name!r} has {array.ndim} dimensions, more than {MAXIMUM_DIMENSIONS}."
            )
    return sorted(tensors)


def _read_header(file: BinaryIO, size: int, path: str) -> dict[str, Any]:
    start = file.read(32)
    if size == 0:
        raise ModelFileError(f"{path} is empty.")
    if len(start) < 8:
        raise ModelFileError(f"{path}{_another_kind(start)} is too short for a model file ({size} bytes).")
    (length,) = struct.unpack("<Q", start[:8])
    if length > MAXIMUM_HEADER_BYTES:
        # Every other kind of file lands here: its first eight bytes make a huge number.
        kind = _another_kind(start)
        if kind:
            raise ModelFileError(f"{path}{kind} is not a model file.")
        raise ModelFileError(
            f"{path} is not a model file, or is damaged: its header claims {length:,} bytes, "
            f"more than the {MAXIMUM_HEADER_BYTES:,} allowed."
        )
    if length > size - 8:
        raise ModelFileError(
            f"{path} is truncated or damaged: its header claims {length:,} bytes and {size - 8:,} follow."
        )
    file.seek(8)
    raw = file.read(length)
    if len(raw) < length:
        raise ModelFileError(f"{path} became shorter while it was read.")
    if not raw.startswith(b"{"):
        raise ModelFileError(f"{path} is not a model file, or is damaged: its header does not start with {{.")
    try:
        return strict_json.parse(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ModelFileError(f"{path} is damaged: its header is not UTF-8 text.") from None
    except ValueError as error:
        raise ModelFileError(f"{path} is damaged: its header {error}.") from None


def _another_kind(start: bytes) -> str:
    """ ", which is a ...," for files that are recognised, else nothing."""
    for offset, magic, kind in OTHER_KINDS:
        if start[offset:].startswith(magic):
            return f", {kind},"
    return ""


def _checked_metadata(header: dict[str, Any], path: str) -> dict[str, str]:
    """Take `__metadata__` out of the header."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ModelFileError(f"{path} is damaged: its __metadata__ is not an object.")
    for name, text in metadata.items():
        if not isinstance(text, str):
            raise ModelFileError(f"{path} is damaged: its __metadata__ {shortened(name)} is not text.")
    return metadata


def _checked_entry(name: str, entry: Any, path: str) -> Entry:
    """One array of the header, with every field of the right kind and the sizes in agreement."""
    what = f"{path} is damaged: tensor {shortened(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{what} is not described by exactly dtype, shape and data_offsets.")
    dtype = NUMPY_TYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ModelFileError(f"{what} has the unknown dtype {shortened(entry['dtype'])}.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > MAXIMUM_DIMENSIONS:
        raise ModelFileError(f"{what} has the impossible shape {shortened(shape)}.")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFileError(f"{what} has the impossible data_offsets {shortened(offsets)}.")
    # Zeros count as ones because NumPy refuses (huge, 0) too.
    if math.prod(max(1, dimension) for dimension in shape) * dtype.itemsize > sys.maxsize:
        raise ModelFileError(f"{what} has the impossible shape {shortened(shape)}.")
    needed = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise ModelFileError(
            f"{what} of shape {shortened(shape)} needs {needed:,} bytes "
            f"and its data_offsets give it {offsets[1] - offsets[0]:,}."
        )
    return Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_layout(entries: list[Entry], data_bytes: int, path: str) -> None:
    """The arrays, in the order of their offsets, follow each other and fill the file."""
    end = 0
    for entry in entries:
        if entry.begin != end:
            problem = "overlaps another" if entry.begin < end else "leaves a gap before it"
            raise ModelFileError(f"{path} is damaged: the data of tensor {shortened(entry.name)} {problem}.")
        end = entry.end
    if end > data_bytes:
        raise ModelFileError(
            f"{path} is truncated: its tensors take {end:,} bytes and {data_bytes:,} are there."
        )
    if end < data_bytes:
        raise ModelFileError(f"{path} is damaged: {data_bytes - end:,} bytes follow its last tensor.")


def _read_array(file: BinaryIO, entry: Entry, path: str) -> np.ndarray:
    array = np.empty(entry.shape, entry.dtype)
    values = array.reshape(-1).view(np.uint8)
    if not read_exactly(file, values.data):
        raise ModelFileError(f"{path} became shorter while it was read.")
    if entry.dtype == np.bool_ and values.size and values.max() > 1:
        raise ModelFileError(f"{path} is damaged: tensor {shortened(entry.name)} is neither true nor false.")
    return array.astype(entry.dtype.newbyteorder("="), copy=False)
