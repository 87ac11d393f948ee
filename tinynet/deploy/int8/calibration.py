"""The range that each value of a model takes on calibration images, and how much of it int8 is to cover.

    max         all of it
    percentile  all but a share of 1e-5 of the values at either end
    mse         the part for which the mean squared error of rounding and clamping is smallest

All are over a histogram of each value.  Ranges always contain 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinynet.deploy import interpreter
from tinynet.deploy.graph import Graph
from tinynet.errors import ArgumentError, NonFiniteError

METHODS = ("max", "percentile", "mse")
SHARE = 1e-5
BINS = 4096
LEVELS = 255  # steps of int8
SMALLEST_SCALE = 1e-30  # that a value may have (values.py)
VALUES_AT_ONCE = 2**22  # of the largest value, so that memory does not grow with the images

Range = tuple[float, float]


def ranges(graph: Graph, images: np.ndarray, method: str) -> list[Range]:
    """(lowest, highest) of every value by its number, over images float32 as value 0 sees them.

    Raises NonFiniteError, naming the operation, where a value is not finite.
    """
    if method not in METHODS:
        raise ArgumentError(f"calibration must be one of {', '.join(METHODS)}, got {method!r:.40}")
    count = len(graph.operations) + 1
    found = [(0.0, 0.0)] * count
    for values in _batches(graph, images):
        for number, value in enumerate(values):
            low, high = float(value.min()), float(value.max())
            if not np.isfinite(low + high):
                raise NonFiniteError(f"calibration: {_label(graph, number)} has NaN or infinity")
            found[number] = (min(found[number][0], low), max(found[number][1], high))
    if method == "max":
        return found
    histograms = [np.zeros(BINS, np.int64) for _ in range(count)]
    for values in _batches(graph, images):
        for value, histogram, bounds in zip(values, histograms, found, strict=True):
            if _spread(bounds):
                histogram += np.histogram(value, BINS, bounds)[0]
    choose = _percentile if method == "percentile" else _least_error
    return [
        choose(histogram, bounds) if _spread(bounds) else bounds
        for histogram, bounds in zip(histograms, found, strict=True)
    ]


def _spread(bounds: Range) -> bool:
    """Whether there is anything to choose: not for values that are 0, or too small for any scale."""
    return bounds[1] - bounds[0] > SMALLEST_SCALE


def _batches(graph: Graph, images: np.ndarray) -> Iterator[list[np.ndarray]]:
    largest = max(int(np.prod(graph.shape(number))) for number in range(len(graph.operations) + 1))
    size = max(1, VALUES_AT_ONCE // largest)
    for first in range(0, len(images), size):
        yield interpreter.values(graph, images[first : first + size])


def _label(graph: Graph, number: int) -> str:
    return f"operation {graph.operations[number - 1].name!r}" if number else "the input"


def _percentile(histogram: np.ndarray, bounds: Range) -> Range:
    edges = np.linspace(*bounds, BINS + 1)
    below = np.cumsum(histogram) / histogram.sum()
    low = edges[int(np.searchsorted(below, SHARE, side="right"))]
    high = edges[1 + int(np.searchsorted(below, 1 - SHARE))]
    return min(float(low), 0.0), max(float(high), 0.0)


def _least_error(histogram: np.ndarray, bounds: Range) -> Range:
    """Both ends drawn in by the same share, from none to 70 %."""
    edges = np.linspace(*bounds, BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2

    def error(share: float) -> float:
        low, high = bounds[0] * share, bounds[1] * share
        clamped = np.clip(middles, low, high)
        step = (high - low) / LEVELS
        # Rounding: a uniform error in a step, except where a whole bin is clamped.
        inside = clamped == middles
        return float((histogram * ((middles - clamped) ** 2 + inside * step**2 / 12)).sum())

    best = min(np.linspace(1, 0.3, 71), key=error)
    return bounds[0] * float(best), bounds[1] * float(best)
