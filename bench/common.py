"""Measuring several programs side by side: taking turns, medians, ratios with their spread.

A processor slows down when it is hot or shared.  So nobody is measured alone: in every round each
contestant has one turn, and a ratio is taken within a round, between neighbours in time.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

TURN = 0.1  # seconds a turn takes at least: shorter calls are repeated within it
SETTLE = 0.02  # seconds of calls before them that are not timed
PEAK = "peak"
OUTPUTS = 1e-5  # how far a peer's outputs and losses may be from tinynet's, relative to the norm
LIBRARIES = (
    "tinynet-cnn",
    "numpy",
    "numba",
    "llvmlite",
    "torch",
    "onnxruntime",
    "onnx",
    "openvino",
    "ai-edge-litert",
)


@dataclass(frozen=True)
class Contestant:
    """A program that does the work: `run()` processes `images` images.

    agreement  what was compared with tinynet before timing, and how far apart they were
    """

    name: str
    run: Callable[[], object]
    images: float
    agreement: str = ""


@dataclass(frozen=True)
class Absent:
    """A program that is not measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles and extremes around it."""

    median: float
    low: float
    high: float
    minimum: float
    maximum: float


class Disagreement(ValueError):
    """A peer computes something else than tinynet: there is nothing to compare."""


def spread(values: Sequence[float]) -> Spread:
    """Of at least one number; quartiles are interpolated between neighbours."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(low), float(high), float(min(values)), float(max(values)))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The spread of the ratios within each round."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def fastest(seconds: Mapping[str, Sequence[float]], names: Sequence[str]) -> str | None:
    """The name, among `names`, with the smallest median; None where none was measured."""
    measured = [name for name in names if name in seconds]
    return min(measured, key=lambda name: statistics.median(seconds[name]), default=None)


def interleaved(
    contestants: Sequence[Contestant], rounds: int, progress: Callable[[int], None] | None = None
) -> dict[str, list[float]]:
    """Seconds an image of each contestant, one number a round.

    A turn starts with SETTLE seconds of calls that are not timed: they bring back what the others drove
    out of the caches, and outlast the time their threads spin before they sleep (after PyTorch's turn
    on two cores, measured with calls of 3.5 ms: the first took 4.4 ms more, the second 1 ms, the third 0.1).
    """
    calls = {}
    for contestant in contestants:
        contestant.run()  # compiles
        contestant.run()
        calls[contestant.name] = max(1, round(TURN / _timed(contestant.run, 1)))
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        if progress is not None:
            progress(number)
        for contestant in contestants:
            settled = time.perf_counter() + SETTLE
            while True:
                contestant.run()
                if time.perf_counter() >= settled:
                    break
            taken = _timed(contestant.run, calls[contestant.name])
            seconds[contestant.name].append(taken / contestant.images)
    return seconds


def _timed(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def distance(got: Any, wanted: Any) -> float:
    """How far two arrays are apart: the norm of the difference, relative to that of `wanted`."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if got.shape != wanted.shape:
        raise Disagreement(f"shapes {got.shape} and {wanted.shape}")
    size = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(got - wanted)) / (size if size > 0 else 1.0)


def require_close(peer: str, what: str, got: Any, wanted: Any, tolerance: float) -> float:
    """The distance; raises Disagreement where it is above `tolerance` or not a number."""
    apart = distance(got, wanted)
    if not apart <= tolerance:
        raise Disagreement(
            f"{peer}: its {what} is {apart:.2g} from tinynet's (relative), allowed {tolerance:g}"
        )
    return apart


# The machine.


class Others:
    """How much of the processors other programs used, from now on; on Linux."""

    def __init__(self) -> None:
        self.start = _processor_seconds()

    def share(self) -> float | None:
        """From 0 to 1, of all processors; None where the system does not tell."""
        now = _processor_seconds()
        if self.start is None or now is None:
            return None
        busy, own, total = (after - before for before, after in zip(self.start, now, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else None


def _processor_seconds() -> tuple[float, float, float] | None:
    """Seconds since the start: busy, of this process and those it waited for, and all processors' summed."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    per_second = os.sysconf("SC_CLK_TCK")
    idle = (ticks[3] + ticks[4]) / per_second  # idle, and waiting for a disk
    total = sum(ticks) / per_second
    return total - idle, sum(os.times()[:4]), total


def peak(threads: int) -> Contestant | Absent:
    """Fused multiply-adds in registers, on all threads: what no program can exceed.

    Its "images" are billions of floating-point operations.
    """
    from tinynet import kernels

    problem = kernels.numba_problem()
    if problem is not None:
        return Absent(PEAK, f"it is measured with Numba: {problem}")
    from tinynet.kernels.numba.peak import Peak

    measured = Peak(threads)
    return Contestant(PEAK, measured.run, measured.billions)


def versions() -> dict[str, str]:
    """Of Python and of every library that takes part, or "absent"."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    if found["tinynet-cnn"] == "absent":  # a checkout that is not installed
        import tinynet

        found["tinynet-cnn"] = tinynet.__version__
    return found


def surroundings(threads: int) -> dict[str, Any]:
    """What someone needs to know who compares two runs."""
    from bench.convolution import processor
    from tinynet import kernels

    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "threads": threads,
        "kernels": kernels.active().NAME,
        "versions": versions(),
        "load": load(),
    }


def load() -> list[float] | None:
    """How many processes wanted to run, over the last 1, 5 and 15 minutes, where the system tells."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
