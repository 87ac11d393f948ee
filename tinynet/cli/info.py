"""tinynet info: versions, kernels, folders, shipped models: what to send along with a question."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from tinynet.cli.options import add_json
from tinynet.cli.output import json_text
from tinynet.texts import printable

SUMMARY = "show versions, the kernels in use and why, cache folders and shipped models"

_LIBRARIES = {  # as people call them: the distributions that bring them
    "NumPy": ("numpy",),
    "Numba": ("numba",),
    "Pillow": ("pillow",),
    "OpenCV": (
        "opencv-python",
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
    "matplotlib": ("matplotlib",),
    "tqdm": ("tqdm",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_json(parser, "instead")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    facts = _facts()
    if arguments.json:
        print(json_text(facts))
        return 0
    for title, entries in facts.items():
        print(title)
        for name, value in (entries or {"none": ""}).items():
            print(f"  {name:<16} {printable(str(value))}".rstrip())
    return 0


def _facts() -> dict[str, dict[str, Any]]:
    import platform

    import tinynet
    from tinynet import storage

    shipped = {name: f"{storage.size_in_bytes(name):,} bytes" for name in storage.shipped_names()}
    return {
        "versions": {
            "tinynet": tinynet.__version__,
            "Python": platform.python_version(),
            **{name: _version(distributions) for name, distributions in _LIBRARIES.items()},
        },
        "machine": {
            "system": platform.platform(),
            "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        },
        "kernels": _kernels(),
        "folders": {
            "tinynet": str(Path(tinynet.__file__).parent),
            "decoded images": _image_cache(),
            "compiled kernels": _kernel_cache(),
        },
        "shipped models": shipped,
    }


def _version(distributions: tuple[str, ...]) -> str:
    from importlib import metadata

    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _kernels() -> dict[str, Any]:
    from tinynet import kernels

    problem = kernels.numba_problem()
    chosen = os.environ.get("TINYNET_KERNELS")
    active = kernels.active().NAME
    if chosen and chosen != "auto":
        why = f"TINYNET_KERNELS is {chosen}"
    elif problem is not None:
        why = f"Numba cannot be used: {problem}"
    else:
        why = "Numba is there; predictions too few to wait for it use NumPy's"
    facts: dict[str, Any] = {"in use": active, "why": why}
    if problem is None:
        from tinynet.kernels.numba.parallel import num_threads

        facts["threads"] = num_threads()
    return facts


def _image_cache() -> str:
    from tinynet.data import cache_directory

    try:
        return str(cache_directory())
    except RuntimeError as problem:
        return f"none: {problem}"


def _kernel_cache() -> str:
    from tinynet import kernels

    if kernels.numba_problem() is not None:
        return "none: there is no Numba"
    from tinynet.kernels.numba.compile import cache_folder

    return str(cache_folder() or "none: no folder can be written")
