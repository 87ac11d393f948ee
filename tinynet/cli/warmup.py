"""tinynet warmup: compile every kernel ahead, so that no later command has to.

Compiled kernels are kept in a cache folder; those that are there already are loaded.  Without Numba there is
nothing to compile.
"""

from __future__ import annotations

import argparse
from typing import Any

from tinynet.cli.options import add_json
from tinynet.cli.output import json_text, note

SUMMARY = "compile every kernel ahead of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="float64 is for gradient checks only (default: float32)",
    )
    add_json(parser, "instead")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    import os

    from tinynet import kernels

    problem = kernels.numba_problem()
    if problem is None:
        done = _compile(arguments.dtype)
        if os.environ.get("TINYNET_KERNELS") == "numpy":
            note("warmup", "TINYNET_KERNELS is numpy: as long as it is, these kernels are not used")
    else:
        done = {"compiled": 0, "loaded": 0, "seconds": 0.0, "cache": None}
    done = {"dtype": arguments.dtype, **done, "numba_problem": problem}
    if arguments.json:
        print(json_text(done))
    elif problem is not None:
        print(f"nothing to compile: the NumPy kernels compute here, as Numba cannot be used ({problem})")
    else:
        print(
            f"{arguments.dtype}: {done['compiled']} kernels compiled, {done['loaded']} loaded, "
            f"in {done['seconds']:.1f} s\nkept in {done['cache']}"
        )
    return 0


def _compile(dtype: str) -> dict[str, Any]:
    """Compile or load everything; raises FileAccessError where that would be for nothing."""
    from tinynet import progress
    from tinynet.errors import FileAccessError
    from tinynet.kernels.numba.compile import cache_folder, compile_report, telling
    from tinynet.kernels.numba.warmup import warmup

    folder = cache_folder()
    if folder is None:
        raise FileAccessError(
            "no cache folder can be written, so every process compiles what it needs and nothing can be "
            "done ahead; TINYNET_CACHE names a folder that can be"
        )
    place = ""

    def advance(done: int, total: int, name: str) -> None:
        nonlocal place
        place = f"{done + 1} of {total}, {name}"
        progress.status(place if name else "")

    before = _counts(compile_report())
    with telling(lambda kernel: progress.line(f"compiling {place}: {kernel}")):
        seconds = warmup(dtype, advance)
    compiled, loaded = (b - a for a, b in zip(before, _counts(compile_report()), strict=True))
    return {"compiled": compiled, "loaded": loaded, "seconds": seconds, "cache": str(folder)}


def _counts(reports: Any) -> tuple[int, int]:
    return sum(report.compiled for report in reports), sum(report.loaded for report in reports)
