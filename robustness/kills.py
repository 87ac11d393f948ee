"""Training that is killed again and again, and ends as if nothing had happened.

    python -m robustness.kills [--kills 60] [--kernels numpy,numba] [--model autoencoder] [--seed 0]

A folder of synthetic cells is trained on once without disturbance.  Then the same training is started and
killed (SIGKILL: nothing is tidied up), resumed and killed, until it ends; and that anew until there were
so many kills with each kernel set.  Every second kill comes at a random time; the others at a random one
of the moments of `robustness.killer`, inside the writing of a file.  The parts run with 1 and 2 threads
by turns, BLAS's too.  In the end every weight, the history and the metrics must be the same to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def outcome(folder: Path) -> dict[str, str]:
    """A digest of all that a run is judged by; model files without the time they were made at."""
    from tinynet import files

    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            arrays, _ = files.load_model_file(path)
            content = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
        elif path.name.startswith(("history", "metrics")):
            content = path.read_bytes()
        else:
            continue
        found[path.name] = hashlib.sha256(content).hexdigest()
    return found


class Trial:
    """One training with one kernel set, started as often as it takes."""

    def __init__(self, place: Path, kernels: str, model: str, epochs: int, batch_size: int) -> None:
        self.place, self.kernels = place, kernels
        self.options = ["--data", str(place / "cells"), "--model", model, "--epochs", str(epochs)]
        self.options += ["--batch-size", str(batch_size), "--seed", "7"]

    def start(self, folder: Path, threads: int, moment: tuple[str, int] | None) -> subprocess.Popen[bytes]:
        """Begin or resume the run in `folder`, to be killed at `moment` if it gets there."""
        begun = (folder / "config.json").exists()
        arguments = ["train", "--quiet"]
        arguments += ["--resume", str(folder)] if begun else ["--out", str(folder), *self.options]
        program = ["tinynet"] if moment is None else ["robustness.killer", moment[0], str(moment[1])]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "TINYNET_KERNELS": self.kernels,
            "TINYNET_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "MPLBACKEND": "agg",
        }
        return subprocess.Popen(
            [sys.executable, "-m", *program, *arguments], env=environment, cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip


def undisturbed(trial: Trial, threads: int) -> tuple[dict[str, str], float]:
    """What the training leaves when it is left alone, and the seconds it takes."""
    folder = trial.place / f"whole-{trial.kernels}-{threads}"
    began = time.monotonic()
    child = trial.start(folder, threads, None)
    _, errors = child.communicate()
    if child.returncode:
        raise SystemExit(f"the training fails by itself: {errors.decode()}")
    return outcome(folder), time.monotonic() - began


def disturbed(trial: Trial, kills: int, seconds: float, draw: random.Random) -> tuple[Counter[str], int, int]:
    """(kills by moment, trainings that ended, of them different ones)."""
    from robustness.killer import MOMENTS

    expected, _ = undisturbed(trial, 1)
    counted: Counter[str] = Counter()
    ended = different = 0
    folder, number, gone = trial.place / f"run-{trial.kernels}", 0, 0
    while counted.total() < kills or gone:
        number += 1
        enough = counted.total() >= kills  # the last one is left to end
        moment = None
        if not enough and number % 2:
            moment = (draw.choice(MOMENTS), draw.randint(1, 6))
        child = trial.start(folder, 1 + number % 2, moment)
        kind = "any time" if moment is None else moment[0]
        try:
            wait = None if enough or moment else draw.uniform(0, seconds)
            _, errors = child.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            child.kill()
            _, errors = child.communicate()
        if child.returncode == -signal.SIGKILL:
            counted[kind] += 1
            gone += 1
        elif child.returncode == 0:
            ended += 1
            same = outcome(folder) == expected
            left = [str(path) for path in folder.rglob(".tinynet-*")]
            different += not same or bool(left)
            print(
                f"{trial.kernels}: a training that was killed {gone} times ended "
                f"{'the same to the bit' if same else 'DIFFERENT'}{' and left ' + str(left) if left else ''}",
                flush=True,
            )
            shutil.rmtree(folder)
            gone = 0
        else:
            raise SystemExit(f"resumed after {counted.total()} kills ({kind}), it failed: {errors.decode()}")
    return counted, ended, different


def main() -> int:
    """Print how many kills were survived, by moment; the status tells whether all were."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=60, help="of each kernel set")
    parser.add_argument("--kernels", default="numpy,numba")
    parser.add_argument("--model", default="autoencoder")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    from tinynet.data.synthetic import write_folder

    draw, failed, began = random.Random(arguments.seed), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_folder(place / "cells", arguments.images, seed=1, patients=40)
        for kernels in arguments.kernels.split(","):
            trial = Trial(place, kernels, arguments.model, arguments.epochs, arguments.batch_size)
            whole, seconds = undisturbed(trial, 1)
            threads = undisturbed(trial, 2)[0] == whole
            print(
                f"{kernels}: 1 and 2 threads, undisturbed: {'the same' if threads else 'DIFFERENT'}",
                flush=True,
            )
            shutil.rmtree(place / f"whole-{kernels}-1")
            counted, ended, different = disturbed(trial, arguments.kills, seconds, draw)
            failed += different + (not threads)
            by_moment = ", ".join(f"{moment} {count}" for moment, count in sorted(counted.items()))
            print(
                f"{kernels}: {counted.total()} kills ({by_moment}); {ended} trainings ended, "
                f"{different} of them different from the undisturbed one",
                flush=True,
            )
    print(f"{time.strftime('%Y-%m-%d')}, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
