"""How much memory training takes: `tinynet train` on as many images as the NIH data set has.

    python -m bench.memory [--images 27558] [--model autoencoder] [--epochs 1] [--distinct 200] [--json FILE]

A folder of synthetic cells, each linked under many names, is given to `tinynet train` in a process of its
own: decoding, the three stages of the autoencoder and its classifier at 32x32 with augmentation and
validation, measuring and drawing.  Printed is the most memory that was resident in each part (on Linux,
where the system's mark can be set back) and in all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOAL = 400.0  # MB of 1,000,000 bytes
NIH = 27_558

# `tinynet train`, with a look at the memory whenever a part of it ends.
CHILD = """
import json, resource, sys

def most():
    # Bytes resident at most since the last call; since the start where the mark cannot be set back.
    try:
        with open("/proc/self/status") as file:
            kilobytes = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return kilobytes * 1024
    except OSError:
        most_of_all = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most_of_all * (1 if sys.platform == "darwin" else 1024)

marks = []

def watched(name, function):
    def call(*arguments, **options):
        marks.append(("between", most()))
        try:
            return function(*arguments, **options)
        finally:
            marks.append((name, most()))
    return call

from tinynet import cli
from tinynet.model import Sequential
from tinynet.runs import pictures, run
from tinynet.runs import data as run_data
marks.append(("imports", most()))
run_data.load = watched("reading the images", run_data.load)
Sequential.fit = watched("fit", Sequential.fit)
run.measure = watched("measuring", run.measure)
pictures.draw = watched("drawing", pictures.draw)
status = cli.main(sys.argv[1:])
marks.append(("end", most()))
print(json.dumps(marks))
sys.exit(status)
"""


def write_images(folder: Path, count: int, distinct: int) -> Path:
    """`count` PNG files of `distinct` synthetic cells (half a class each), linked where that is possible."""
    from tinynet.data.synthetic import write_folder

    drawn = write_folder(folder / "drawn", min(distinct, count), patients=20, seed=0)
    target = folder / "cell_images"
    for kind in ("Parasitized", "Uninfected"):
        files = sorted((drawn / kind).iterdir())
        (target / kind).mkdir(parents=True)
        for number in range(count // 2 if kind == "Parasitized" else count - count // 2):
            source = files[number % len(files)]
            patient, _, rest = source.name.partition("_")
            _link(source, target / kind / f"{patient}_{number:06d}{rest}")
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or with too many of one file
        shutil.copyfile(source, target)


def measure(data: Path, work: Path, model: str, epochs: int) -> list[tuple[str, int]]:
    """What the process's parts, in order, had resident at most, in bytes; the first with empty caches."""
    variables = {**os.environ, "TINYNET_CACHE": str(work / "cache")}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = ["train", "--data", str(data), "--model", model, "--epochs", str(epochs), "--quiet"]
    words += ["--out", str(work / f"run-{len(list(work.iterdir()))}")]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *words], env=variables, check=True, stdout=subprocess.PIPE, text=True
    )
    return [(name, size) for name, size in json.loads(child.stdout.splitlines()[-1])]


def table(parts: Sequence[tuple[str, int]], title: str) -> str:
    """The parts with more than nothing, and whether the most of them is within the goal."""
    lines = [title]
    lines += [f"  {name:22}{size / 1e6:8.0f} MB" for name, size in parts]
    most = max(size for _, size in parts) / 1e6
    verdict = "reached" if most <= GOAL else "missed"
    return "\n".join([*lines, f"  {'at most':22}{most:8.0f} MB; goal {GOAL:.0f} MB {verdict}"])


def main(words: Sequence[str] | None = None) -> int:
    """The command; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=NIH, help=f"default {NIH}")
    parser.add_argument("--distinct", type=int, default=200, help="different ones among them (default 200)")
    parser.add_argument("--model", choices=("autoencoder", "small-cnn"), default="autoencoder")
    parser.add_argument("--epochs", type=int, default=1, help="of the last stage (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures there")
    arguments = parser.parse_args(words)
    if min(arguments.images, arguments.distinct) < 100 or arguments.epochs < 1:
        parser.error("--images and --distinct: wanted at least 100; --epochs: at least 1")
    from bench.common import surroundings
    from tinynet.files.atomic import write_atomically

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tinynet-memory-") as folder:
        data, work = write_images(Path(folder), arguments.images, arguments.distinct), Path(folder) / "work"
        work.mkdir()
        for title in ("compiling kernels, decoding images", "both from the caches"):
            results[title] = measure(data, work, arguments.model, arguments.epochs)
            print(table(results[title], f"{arguments.images} images, {title}"), flush=True)
    if arguments.json is not None:
        text = json.dumps({"surroundings": surroundings(0), "bytes": results}, indent=1) + "\n"
        write_atomically(arguments.json, [text.encode()])
    return 0 if max(size for parts in results.values() for _, size in parts) <= GOAL * 1e6 else 1


if __name__ == "__main__":
    sys.exit(main())
