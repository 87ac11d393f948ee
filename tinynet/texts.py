"""How every table and page writes a number, an interval, a name from outside, and the notice."""

from __future__ import annotations

from collections.abc import Sequence

NOTICE = "Not a medical device; for research and teaching."


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes, which file names may have, as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def number(value: float | None, digits: int = 4) -> str:
    """0.98765 -> "0.9877"; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def metric(value: float | None) -> str:
    """0.98765 -> "0.9877"; "undefined" for a metric that is, as sensitivity without an infected cell."""
    return "undefined" if value is None else number(value)


def percent(share: float) -> str:
    """0.98765 -> "98.8 %"."""
    return f"{100 * share:.1f} %"


def interval(ends: Sequence[float] | None, digits: int = 4) -> str:
    """[0.98, 0.99] -> "0.9800 to 0.9900"; "-" where there is none."""
    return "-" if ends is None else f"{number(ends[0], digits)} to {number(ends[1], digits)}"
