"""Mutations of model files and checkpoints that keep the container whole, to reach what is behind it.

A byte changed at random in such a file is found by its SHA-256 nearly always.  Here the parts are taken
apart, one is changed, and lengths, offsets and digest are made to agree again (mostly: disagreeing is a
mutation too).
"""

from __future__ import annotations

import copy
import json
import struct
from random import Random
from typing import Any

import numpy as np

from tinynet.files.container import NUMPY_TYPES
from tinynet.files.model_file import digest

NUMBERS: list[Any] = [
    0, 1, -1, 2, 3, 7, 16, 127, 128, 255, 256, 4095, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32,
    2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 0.5, 1e-3, 1e-38, 5e-324, 1e38, 1e308, -1e308,
]  # fmt: skip
TEXTS = [
    "", "a", "x" * 300, "relu", "softmax", "same", "valid", "__class__", "../../etc/passwd", "\0",
    "\n", "é", "\u202e", "input", "Conv2D", "Chain", "int8", "float16", "numpy", "None",
]  # fmt: skip
VALUES: list[Any] = [None, True, False, [], {}, [[]], [0], [1, 1], [[1, 1], [1, 1]], {"a": 1}]
LAYERS: list[Any] = [
    {"type": "ReLU"}, {"type": "Sigmoid"}, {"type": "Softmax"}, {"type": "Flatten"}, {"type": "BatchNorm"},
    {"type": "GlobalAveragePool2D"}, {"type": "UpSample2D", "factor": [64, 64]},
    {"type": "UpSample2D", "factor": 3},
    {"type": "MaxPool2D", "size": [2, 2], "stride": 1, "padding": "same"},
    {"type": "AveragePool2D", "size": [3, 3], "padding": [[9, 9], [9, 9]]},
    {"type": "Conv2D", "filters": 1, "kernel_size": [1, 1], "dilation": 100, "padding": 5000},
    {"type": "Residual", "body": [{"type": "ReLU"}]}, {"type": "Chain", "layers": []},
    {"type": "Concatenate", "branches": [[], [], [], []]}, {"type": "Dense", "units": 2},
    {"type": "Dropout", "rate": 0.5},
]  # fmt: skip
FLOATS = np.array([0, -0.0, 1, -1, 1e-45, 1e-30, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan], np.float64)


def mutate(content: bytes, random: Random) -> bytes:
    """The container with one to four of its parts changed; content that is none comes back as it is."""
    try:
        parts = _Parts(content)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        struct.error,
        UnicodeDecodeError,
        RecursionError,
    ):
        return content
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        random.choice((_description, _description, _description, _layers, _values, _arrays, _header))(
            parts, random
        )
    return parts.content(random)


class _Parts:
    """A container taken apart: its header, its description, its arrays."""

    def __init__(self, content: bytes):
        (length,) = struct.unpack_from("<Q", content)
        self.header = json.loads(content[8 : 8 + length])
        self.data = content[8 + length :]
        self.metadata = self.header.pop("__metadata__")
        self.description = json.loads(self.metadata["tinynet"])
        self.arrays = {}
        for name, entry in self.header.items():
            begin, end = entry["data_offsets"]
            raw = np.frombuffer(self.data[begin:end], NUMPY_TYPES[entry["dtype"]])
            self.arrays[name] = raw.reshape(entry["shape"]).copy()
        self.changes: dict[str, dict[str, Any]] = {}  # to what the header says of an array
        self.raw_header: str | None = None

    def content(self, random: Random) -> bytes:
        header: dict[str, Any] = {}
        data = bytearray()
        for name, array in sorted(self.arrays.items()):
            begin = len(data)
            data += array.tobytes()
            kind = next(key for key, dtype in NUMPY_TYPES.items() if dtype == array.dtype)
            header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
            header[name].update(self.changes.get(name, {}))
        text = json.dumps(self.description, sort_keys=True, separators=(",", ":"))
        claimed = digest(text, self.arrays) if random.random() < 0.98 else "0" * 64
        encoded = json.dumps(
            {"__metadata__": {**self.metadata, "tinynet": text, "sha256": claimed}, **header}
        )
        if self.raw_header is not None:
            encoded = encoded[:-1] + "," + self.raw_header + "}"
        raw = encoded.encode()
        return struct.pack("<Q", len(raw)) + raw + bytes(data)


def _description(parts: _Parts, random: Random) -> None:
    """Change one place of the description."""
    places = list(_places(parts.description))
    if not places:
        return
    holder, key = random.choice(places)
    match random.randrange(8):
        case 0:
            holder[key] = random.choice(NUMBERS)
        case 1:
            holder[key] = random.choice(VALUES)
        case 2:
            holder[key] = random.choice(TEXTS)
        case 3:
            del holder[key]
        case 4:
            other, name = random.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = copy.deepcopy(other[name])
        case 5:
            if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            else:
                holder[random.choice(TEXTS)] = holder.pop(key)
        case 6:
            for _ in range(random.choice((1, 2, 40))):
                holder[key] = [holder[key]] if random.random() < 0.5 else {"layers": holder[key]}
        case 7:
            if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = random.choice((holder[key] + 1, holder[key] - 1, holder[key] * 2, -holder[key]))


def _layers(parts: _Parts, random: Random) -> None:
    """Add, repeat, remove or move a layer or operation in some list of them."""
    lists = [
        holder[key]
        for holder, key in _places(parts.description)
        if isinstance(holder[key], list) and key in ("layers", "body", "shortcut", "operations", "branches")
    ]
    if not lists:
        return
    chosen = random.choice(lists)
    place = random.randrange(len(chosen) + 1)
    match random.randrange(4):
        case 0:
            chosen.insert(place, copy.deepcopy(random.choice(LAYERS)))
        case 1:
            chosen[place:place] = [copy.deepcopy(random.choice(LAYERS))] * random.choice((2, 10, 300))
        case 2:
            del chosen[place : place + 1]
        case 3:
            random.shuffle(chosen)


def _values(parts: _Parts, random: Random) -> None:
    """Change numbers of an array."""
    arrays = [array for array in parts.arrays.values() if array.size]
    if arrays:
        flat = random.choice(arrays).reshape(-1)
        place = random.randrange(flat.size)
        if flat.dtype.kind == "f":
            with np.errstate(all="ignore"):
                flat[place] = random.choice(FLOATS.tolist())
        else:
            flat.view(np.uint8)[random.randrange(flat.nbytes)] = random.randrange(256)


def _arrays(parts: _Parts, random: Random) -> None:
    """Remove an array, add one, or give one another name, type or shape."""
    name = random.choice(sorted(parts.arrays)) if parts.arrays else ""
    array = parts.arrays.get(name, np.zeros((2, 3), np.float32))
    match random.randrange(6):
        case 0:
            parts.arrays.pop(name, None)
        case 1:
            parts.arrays[random.choice(TEXTS)] = array
        case 2:
            with np.errstate(all="ignore"):
                parts.arrays[name] = array.astype(random.choice(list(NUMPY_TYPES.values())))
        case 3:
            parts.arrays[name] = array.reshape(-1) if random.random() < 0.5 else array[None]
        case 4:
            parts.arrays[name] = np.zeros((0, *array.shape[1:]), array.dtype)
        case 5:
            parts.arrays[name] = np.repeat(array.reshape(-1), random.choice((2, 3)))[: 2**14]


def _header(parts: _Parts, random: Random) -> None:
    """Let the header say something else of an array than what is there, or say it twice."""
    if not parts.arrays:
        return
    name = random.choice(sorted(parts.arrays))
    change = parts.changes.setdefault(name, {})
    match random.randrange(6):
        case 0:
            change["shape"] = [random.choice(NUMBERS) for _ in range(random.choice((0, 1, 2, 4, 33)))]
        case 1:
            change["data_offsets"] = [random.choice(NUMBERS), random.choice(NUMBERS)]
        case 2:
            change["dtype"] = random.choice([*NUMPY_TYPES, "BF16", "F8_E4M3", "", None, 5, ["F32"]])
        case 3:
            change[random.choice(TEXTS)] = random.choice(VALUES)
        case 4:
            depth = random.choice((3, 100, 2000))
            parts.raw_header = '"deep":' + "[" * depth + "]" * depth
        case 5:
            parts.raw_header = f"{json.dumps(name)}:{json.dumps(change)}"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value inside a JSON value, without recursion."""
    found, level = [], [value]
    while level:
        inside = level.pop()
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        for key in keys:
            found.append((inside, key))
            if isinstance(inside[key], dict | list):
                level.append(inside[key])
    return found
