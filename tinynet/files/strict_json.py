"""JSON as tinynet writes it (one text for one value) and accepts it (nothing ambiguous)."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import numpy as np

from tinynet.errors import ArgumentError

MAXIMUM_DEPTH = 32
SMALLEST_INTEGER = -(2**63)
LARGEST_INTEGER = 2**64 - 1


def parse(text: str) -> Any:
    """The value of a JSON text.

    Beyond the json module, refuses names that occur twice in an object, NaN, Infinity, numbers
    that overflow, integers outside 64 bits, lone surrogates and deep nesting.

    Raises ValueError with a reason that continues "it ...".
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_int=_bounded_integer,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at character {error.pos})") from None


def dump(value: Any) -> str:
    """Compact ASCII JSON with sorted names and floats by `repr`; `value` is plain already."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value in None, bool, int, float, str, list and dict only, as `parse(dump(value))` gives it.

    Tuples become lists and NumPy scalars become Python's.  Raises ArgumentError, naming the
    place (`where` and what leads from it), for NaN, infinity, integers outside 64 bits, names
    that are not text, nesting deeper than 32 and everything that JSON has no form for.
    """
    if depth > MAXIMUM_DEPTH:
        raise ArgumentError(f"{where} is nested more than {MAXIMUM_DEPTH} deep.")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not is_text(value):
            raise ArgumentError(f"{where} is {value!r}, which is not valid Unicode text.")
        return str(value)
    if isinstance(value, int):
        if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
            raise ArgumentError(f"{where} is an integer that does not fit in 64 bits.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArgumentError(f"{where} is {value}; a file holds finite numbers only (use None).")
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str) or not is_text(name):
                raise ArgumentError(f"{where} has the name {name!r}; names must be text.")
        return {str(name): plain(item, f"{where}[{name!r}]", depth + 1) for name, item in value.items()}
    raise ArgumentError(
        f"{where} is of type {type(value).__name__}; a file holds None, bool, int, float, str, list and dict."
    )


def is_text(value: str) -> bool:
    """False if the string has a lone surrogate, which no other program could read."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"has the name {shortened(name)} twice")
        if not is_text(name) or not _has_only_text(value):
            raise ValueError(f"has text that is not valid Unicode at the name {shortened(name)}")
        result[name] = value
    return result


def _has_only_text(value: Any) -> bool:
    """Checks strings and lists of them; objects inside were checked when they were made."""
    if isinstance(value, list):
        return all(_has_only_text(item) for item in value)
    return not isinstance(value, str) or is_text(value)


def _bounded_integer(digits: str) -> int:
    # The length first: converting a million digits would take seconds.
    if len(digits) > 20 or not SMALLEST_INTEGER <= int(digits) <= LARGEST_INTEGER:
        raise ValueError("has an integer that does not fit in 64 bits")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"has the number {shortened(digits)}, which overflows")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which is not JSON")


def shortened(value: object) -> str:
    """The `repr` of something read from a file, short and without control characters, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
