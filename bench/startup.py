"""How long one waits: from process start to the first finished training step, and for the first compilation.

    python -m bench.startup [--repeats 5] [--cold-repeats 2] [--threads 2] [--json FILE]

A process imports tinynet, builds the autoencoder and calls `fit` (batches of 128, augmentation and
validation on, as `tinynet train` does).  "Cached" processes find the compiled kernels in a cache folder,
"first" ones an empty folder.  Times begin when the process is asked for, the interpreter's own start
included.  Medians, and the extremes beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"cached": ("first step done", 1.5), "first": ("compiling", 15.0)}
MOMENTS = ("tinynet imported", "first step done", "fit done")
TIMES = (*MOMENTS, "compiling", "loading")

# Prints seconds since the epoch: the only clock that two processes share on every system.
CHILD = """
import json, time
import numpy as np
import tinynet as tn
from tinynet.models import autoencoder
imported = time.time()
from tinynet.data.augment import Augmentation

class Watched(tn.RMSprop):
    first = None
    def step(self, parameters):
        super().step(parameters)
        Watched.first = Watched.first or time.time()

model = autoencoder().compile(Watched(1e-3), "mse")
images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
model.fit(images, validation_data=images[:100], batch_size=128, augmentation=Augmentation(), verbose=0)
done = time.time()
from tinynet.kernels.numba.compile import compile_report
reports = compile_report()
compiled = [r for r in reports if r.compiled]
print(json.dumps({
    "tinynet imported": imported, "first step done": Watched.first, "fit done": done,
    "compiling": sum(r.seconds for r in compiled), "loading": sum(r.seconds for r in reports if r.loaded),
    "kernels": len(reports), "compiled": len(compiled),
}))
"""


def measure(cache: Path, threads: int) -> dict[str, Any]:
    """One process with that cache folder: seconds by the names of TIMES, kernels needed and compiled."""
    import time

    variables = {
        **os.environ,
        "TINYNET_CACHE": str(cache),
        "TINYNET_KERNELS": "numba",
        "TINYNET_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    started = time.time()
    child = subprocess.run(
        [sys.executable, "-c", CHILD], env=variables, check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(child.stdout)
    return found | {name: found[name] - started for name in MOMENTS}


def summary(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A table: medians and extremes of both kinds of processes, and the goals."""
    titles = [f"{kind}, {len(found)} runs" for kind, found in runs.items()]
    lines = [f"{'seconds':20}" + "".join(f"{title:>28}" for title in titles)]
    for name in TIMES:
        line = f"{name:20}"
        for found in runs.values():
            values = [run[name] for run in found]
            spread = f"({min(values):.2f} to {max(values):.2f})"
            line += f"{statistics.median(values):10.2f} {spread:>17}"
        lines.append(line)
    for kind, found in runs.items():
        name, goal = GOALS[kind]
        median = statistics.median(run[name] for run in found)
        verdict = "reached" if median <= goal else "missed"
        lines.append(f"{kind}, {name}: {median:.2f} s, goal {goal:g} s {verdict}")
        lines.append(f"  kernels compiled: {found[0]['compiled']} of {found[0]['kernels']}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes with a full cache (default 5)")
    parser.add_argument("--cold-repeats", type=int, default=2, help="with an empty one (default 2)")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every process's figures there")
    arguments = parser.parse_args(words)
    if min(arguments.repeats, arguments.cold_repeats, arguments.threads) < 1:
        parser.error("--repeats, --cold-repeats and --threads: wanted at least 1")
    from bench.common import Others, surroundings
    from tinynet import kernels
    from tinynet.files.atomic import write_atomically

    if kernels.numba_problem() is not None:
        print(f"without Numba nothing is compiled: {kernels.numba_problem()}", file=sys.stderr)
        return 1
    about, others = surroundings(arguments.threads), Others()
    for key, value in about.items():
        print(f"{key}: {value}")
    runs: dict[str, list[dict[str, Any]]] = {"cached": [], "first": []}
    for _ in range(arguments.cold_repeats):
        with tempfile.TemporaryDirectory(prefix="tinynet-cache-") as cache:
            runs["first"].append(measure(Path(cache), arguments.threads))
            if len(runs["first"]) == arguments.cold_repeats:  # the last one's cache is full now
                runs["cached"] = [measure(Path(cache), arguments.threads) for _ in range(arguments.repeats)]
    about["others"] = others.share()
    print(f"\n{summary(runs)}")
    if about["others"] is not None:
        print(f"other programs used {about['others']:.0%} of the processors meanwhile")
    if arguments.json is not None:
        text = json.dumps({"surroundings": about, "runs": runs}, indent=1) + "\n"
        write_atomically(arguments.json, [text.encode()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
