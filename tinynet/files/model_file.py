"""Model files and checkpoints: a container with a description, a version and a digest.

`__metadata__` holds two texts: "tinynet", the description as canonical JSON with "format" and
"version" in it, and "sha256", the digest over that text and every array.  The digest finds
damage and careless edits; it is no signature: whoever can write the file can compute it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError, ModelFileError, NonFiniteError
from tinynet.files import strict_json
from tinynet.files.atomic import PathLike, path_text
from tinynet.files.container import (
    MAXIMUM_FILE_BYTES,
    encode_header,
    raw_bytes,
    read_tensors,
    type_name,
    write_tensors,
)
from tinynet.files.strict_json import shortened

# Python's own SHA-256, which is also hashlib's where there is no OpenSSL: loading that is 4 ms and 3 MB
# of a start, and a model of 70 kB is hashed in less than one.
try:
    from _sha2 import sha256  # Python 3.12 and newer
except ImportError:
    try:
        from _sha256 import sha256
    except ImportError:
        from hashlib import sha256

MODEL = "tinynet-model"
CHECKPOINT = "tinynet-checkpoint"
VERSION = 1
KINDS = {MODEL: "a tinynet model file", CHECKPOINT: "a tinynet checkpoint"}
MAXIMUM_DESCRIPTION_BYTES = {MODEL: 2**16, CHECKPOINT: 2**19}


def save_model_file(path: PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write a model: its arrays by name and its description, a dictionary that JSON can express.

    Tuples in `metadata` come back as lists, NumPy scalars as Python's.  The names "format" and
    "version" are the format's own.  The file is replaced atomically.

    Raises NonFiniteError for NaN or infinity in an array (naming it), ArgumentError for what the
    format cannot hold or a description above 64 KiB, FileAccessError if it cannot be written.
    """
    _save(path, tensors, metadata, MODEL)


def load_model_file(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name and the description of a model, exactly as they were saved.

    Raises ModelFileError, naming the file and what is wrong, for a file that is damaged, changed,
    of another kind, of a newer version or with NaN or infinity in an array (naming it), and
    FileAccessError if it cannot be read.
    """
    return _load(path, MODEL)


def file_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> int:
    """The size in bytes of the file that `save_model_file` would write, without writing it."""
    header = encode_header(tensors, {"tinynet": _describe(metadata, MODEL), "sha256": "0" * 64})
    return len(header) + sum(array.nbytes for array in tensors.values())


def save_checkpoint(
    path: PathLike,
    tensors: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    keep: PathLike | None = None,
) -> None:
    """Write a training run's arrays and state (at most 512 KiB as JSON), at most 2 GiB in all.

    The previous checkpoint stays until the new one is whole on the disk, and then under the name `keep`,
    if one is given.  Raises as `save_model_file` does.
    """
    _save(path, tensors, state, CHECKPOINT, keep)


def load_checkpoint(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the state of a checkpoint; raises as `load_model_file` does."""
    return _load(path, CHECKPOINT)


def digest(description: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of the description and every array's name, dtype, shape and values.

    Every text is preceded by its length in bytes, and every number is an unsigned 64-bit
    little-endian integer, so that no two different contents are hashed as the same bytes.
    """
    result = sha256()

    def add_text(text: str) -> None:
        encoded = text.encode("utf-8")
        result.update(struct.pack("<Q", len(encoded)) + encoded)

    add_text(description)
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        add_text(name)
        add_text(type_name(name, array))
        result.update(struct.pack(f"<{1 + array.ndim}Q", array.ndim, *array.shape))
        result.update(raw_bytes(array))
    return result.hexdigest()


def _save(
    path: PathLike,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    kind: str,
    keep: PathLike | None = None,
) -> None:
    description = _describe(metadata, kind)
    encode_header(tensors, {})  # refuses names, types and dtypes before the arrays are looked into
    for name, array in tensors.items():
        if not _is_finite(array):
            raise NonFiniteError(f"{path_text(path)} was not written: tensor {name!r} has NaN or infinity.")
    container_metadata = {"tinynet": description, "sha256": digest(description, tensors)}
    write_tensors(path, tensors, container_metadata, MAXIMUM_FILE_BYTES, keep)


def _load(path: PathLike, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    name = path_text(path)
    tensors, container_metadata = read_tensors(path, MAXIMUM_FILE_BYTES)
    if "tinynet" not in container_metadata:
        raise ModelFileError(f"{name} is a safetensors file, but not {KINDS[kind]}.")
    metadata = _parse_description(container_metadata["tinynet"], name)
    found, version = metadata.pop("format", None), metadata.pop("version", None)
    if found != kind:
        what = KINDS.get(found) if isinstance(found, str) else None
        raise ModelFileError(f"{name} is {what or f'of format {shortened(found)}'}, not {KINDS[kind]}.")
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{name} is damaged: its format version is {shortened(version)}.")
    if version > VERSION:
        raise ModelFileError(
            f"{name} was made by a newer tinynet: its format version is {version}, "
            f"and this one reads up to {VERSION}."
        )
    if len(container_metadata["tinynet"]) > MAXIMUM_DESCRIPTION_BYTES[kind]:
        raise ModelFileError(f"{name} is damaged: its description is longer than the format allows.")
    if set(container_metadata) != {"tinynet", "sha256"}:
        raise ModelFileError(f"{name} is damaged: its __metadata__ is not exactly tinynet and sha256.")
    if digest(container_metadata["tinynet"], tensors) != container_metadata["sha256"]:
        raise ModelFileError(f"{name} was damaged or changed after it was saved: its SHA-256 does not match.")
    for tensor_name, array in tensors.items():
        if not _is_finite(array):
            raise ModelFileError(f"{name} has NaN or infinity in tensor {shortened(tensor_name)}.")
    return tensors, metadata


def _describe(metadata: Mapping[str, Any], kind: str) -> str:
    """The metadata with format and version, as the one JSON text that the file holds."""
    if not isinstance(metadata, Mapping):
        raise ArgumentError(f"metadata is of type {type(metadata).__name__}, not a dictionary.")
    for reserved in ("format", "version"):
        if reserved in metadata:
            raise ArgumentError(f"metadata has {reserved!r}, a name that the file format itself uses.")
    content = strict_json.plain(dict(metadata), "metadata")
    description = strict_json.dump({**content, "format": kind, "version": VERSION})
    if len(description) > MAXIMUM_DESCRIPTION_BYTES[kind]:
        raise ArgumentError(
            f"metadata takes {len(description):,} bytes as JSON, "
            f"more than the {MAXIMUM_DESCRIPTION_BYTES[kind]:,} that {KINDS[kind]} may have."
        )
    return description


def _parse_description(text: str, path: str) -> dict[str, Any]:
    try:
        metadata = strict_json.parse(text)
    except ValueError as error:
        raise ModelFileError(f"{path} is damaged: its description {error}.") from None
    if not isinstance(metadata, dict):
        raise ModelFileError(f"{path} is damaged: its description is not an object.")
    return metadata


def _is_finite(array: np.ndarray) -> bool:
    """In stretches, so that checking a large array needs little memory."""
    if array.dtype.kind != "f":
        return True
    values = np.asarray(array).reshape(-1)
    return all(np.isfinite(values[i : i + 2**20]).all() for i in range(0, values.size, 2**20))
