"""What weeks of use would show: many threads and processes at once, memory after 100,000 calls, many files.

    python -m robustness.load threads|processes|training|predictions|folder [--count N] [--kernels NAME]

threads      `predict` from eight Python threads at once gives the answers of one, and memory stays flat
processes    the same from four processes, forked after the parent has predicted
training     memory after 10,000 training steps
predictions  memory after 100,000 calls of `predict`, of one image and of several by turns
folder       `tinynet predict --csv` of a folder with 100,000 pictures (links to a few synthetic cells): the
             most memory, and what Ctrl-C half way leaves

Growth is what the process holds after the last step more than after the first tenth of them.  Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COUNTS = {
    "threads": 10_000,
    "processes": 10_000,
    "training": 10_000,
    "predictions": 100_000,
    "folder": 100_000,
}
GROWTH = 1e6  # bytes
FOLDER_MEMORY = 300e6


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(step: Callable[[int], Any], count: int) -> int:
    """The memory gained in nine tenths of `count` steps; the first tenth fills what is used again."""
    for number in range(count // 10):
        step(number)
    before = resident()
    for number in range(count // 10, count):
        step(number)
    return resident() - before


def network() -> Any:
    """A small classifier with a layer of every kind that has a state."""
    import tinynet as tn

    layers = [
        tn.Conv2D(8, 3, activation="relu"),
        tn.BatchNorm(),
        tn.MaxPool2D(2),
        tn.Flatten(),
        tn.Dropout(0.2),
        tn.Dense(2, "softmax"),
    ]
    return tn.Sequential(layers, (16, 16, 3), seed=1).compile("adamw", "sparse_categorical_crossentropy")


def images(count: int) -> np.ndarray:
    """uint8 (count, 16, 16, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def training(count: int) -> dict[str, Any]:
    """Memory gained in so many steps, in calls of `fit` of ten steps each."""
    model, x = network(), images(160)
    labels = np.arange(160) % 2
    grown = growth(
        lambda number: model.fit(x, labels, epochs=1, batch_size=16, verbose=0), max(count // 10, 10)
    )
    return {"steps": count, "growth": grown, "good": grown < GROWTH}


def predictions(count: int) -> dict[str, Any]:
    """Memory gained in so many calls of `predict`."""
    model, x = network(), images(40)
    sizes = (1, 3, 16, 40, 1)
    grown = growth(lambda number: model.predict(x[: sizes[number % 5]]), count)
    return {"calls": count, "growth": grown, "good": grown < GROWTH}


def _calls(model: Any, x: np.ndarray, count: int, first: int) -> Iterator[tuple[int, bytes]]:
    """(which images, the answer) of so many calls; which images differ from call to call."""
    for number in range(first, first + count):
        place = number % 5
        yield place, model.predict(x[place : place + (1, 2, 16, 17, 33)[place]]).tobytes()


def threads(count: int, workers: int = 8) -> dict[str, Any]:
    """Wrong answers and memory gained when so many threads predict at once."""
    model, x = network(), images(40)
    expected = dict(_calls(model, x, 5, 0))
    wrong: list[int] = []
    failed: list[BaseException] = []

    here = threading.Barrier(workers + 1)

    def work(first: int) -> None:
        each = count // workers
        try:
            list(
                _calls(model, x, max(each // 2, 20), first)
            )  # the memory that is used again, for all at once
            here.wait()
            here.wait()
            wrong.extend(
                place for place, answer in _calls(model, x, each, first) if answer != expected[place]
            )
            here.wait()
        except BaseException as problem:
            failed.append(problem)
            here.abort()

    started = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in started:
        thread.start()
    before = after = 0
    try:
        here.wait()
        before = resident()
        here.wait()
        here.wait()
        after = resident()
    except threading.BrokenBarrierError:
        pass
    for thread in started:
        thread.join()
    return {
        "calls": count, "threads": workers, "wrong": len(wrong), "failed": [repr(one) for one in failed],
        "growth": after - before, "good": not wrong and not failed and after - before < GROWTH,
    }  # fmt: skip


def processes(count: int, workers: int = 4) -> dict[str, Any]:
    """Wrong answers when so many forked processes predict at once."""
    model, x = network(), images(40)
    expected = dict(_calls(model, x, 5, 0))
    context = multiprocessing.get_context("fork")

    def work(first: int, results: Any) -> None:
        each = count // workers
        list(_calls(model, x, max(each // 10, 5), first))
        before = resident()
        wrong = sum(answer != expected[place] for place, answer in _calls(model, x, each, first))
        results.put((wrong, resident() - before))

    results: Any = context.SimpleQueue()
    started = [context.Process(target=work, args=(number, results)) for number in range(workers)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    failed = [process.exitcode for process in started if process.exitcode]
    answers = [] if failed else [results.get() for _ in started]
    wrong, grown = sum(answer[0] for answer in answers), max((answer[1] for answer in answers), default=0)
    return {
        "calls": count, "processes": workers, "wrong": wrong, "failed": failed, "growth": grown,
        "good": not wrong and not failed and grown < GROWTH,
    }  # fmt: skip


def folder(count: int, model: str = "autoencoder") -> dict[str, Any]:
    """The most memory that predicting a folder takes, and whether Ctrl-C half way leaves a valid table."""
    from tinynet.data.synthetic import write_folder

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells do to what they start with &
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TINYNET_LOAD_DIR")) as name:
        place = Path(name)
        cells = sorted(write_folder(place / "cells", 16, (100, 140), seed=1, patients=4).rglob("*.png"))
        (place / "many").mkdir()
        for number in range(count):
            os.link(cells[number % len(cells)], place / "many" / f"cell_{number:06}.png")
        began = time.monotonic()
        most, told = _predict(model, place, "all.csv", None)
        seconds = time.monotonic() - began
        rows = _rows(place / "all.csv")
        by_cell = {number: {row[1:3] for row in rows[number :: len(cells)]} for number in range(len(cells))}
        _, told_after = _predict(model, place, "part.csv", (place / "all.csv").stat().st_size // 4)
        part = _rows(place / "part.csv")
        return {
            "pictures": count, "rows": len(rows), "bytes": most, "seconds": round(seconds, 1),
            "answers_of_a_cell": max(map(len, by_cell.values())), "lines_of_progress": told,
            "rows_after_ctrl_c": len(part), "same_as_before": part == rows[: len(part)],
            "good": len(rows) == count and most < FOLDER_MEMORY and part == rows[: len(part)]
            and 0 < len(part) < count and "the answers so far are in" in told_after[-2],
        }  # fmt: skip


def _predict(model: str, place: Path, table: str, interrupt: int | None) -> tuple[int, list[str]]:
    """(bytes resident at most, lines on standard error) of `tinynet predict`; Ctrl-C after so many bytes."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tinynet", "predict", model, str(place / "many"), "--csv", str(place / table)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    most, asked = 0, False
    # Its own high-water mark, looked at often: what wait4 tells begins with this process's memory.
    marks = Path(f"/proc/{child.pid}/status")

    def watch() -> None:
        nonlocal most, asked
        while child.returncode is None:
            with contextlib.suppress(OSError, ValueError, IndexError):  # gone meanwhile, or not yet begun
                if str(place) in Path(f"/proc/{child.pid}/cmdline").read_text():
                    most = max(most, int(marks.read_text().split("VmHWM:")[1].split()[0]) * 1024)
            written = [path.stat().st_size for path in place.glob(".tinynet-*.tmp")]
            if interrupt is not None and not asked and max(written, default=0) >= interrupt:
                child.send_signal(signal.SIGINT)
                asked = True
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    assert child.stderr is not None
    told = child.stderr.read().splitlines()
    code = child.wait()
    if code != (0 if interrupt is None else 130):
        raise SystemExit(f"tinynet predict ended with {code}: {told}")
    return most, told


def _rows(path: Path) -> list[tuple[str, ...]]:
    """(path, label, probability, error) of every line; raises where one is not whole."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = (tuple(row) for row in csv.reader(file))
    assert header == ("path", "label", "probability", "error") and all(len(row) == 4 for row in rows)
    return rows


def main() -> int:
    """Print one JSON object; the status tells whether it is good."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=list(COUNTS))
    parser.add_argument("--count", type=int)
    parser.add_argument("--kernels", choices=("numpy", "numba"))
    arguments = parser.parse_args()
    count = arguments.count or COUNTS[arguments.what]
    from tinynet import kernels

    if arguments.kernels:
        os.environ["TINYNET_KERNELS"] = arguments.kernels
    began = time.monotonic()
    result = globals()[arguments.what](count)
    about = {"date": time.strftime("%Y-%m-%d"), "what": arguments.what, "kernels": kernels.active().NAME}
    print(json.dumps(about | result | {"elapsed": round(time.monotonic() - began, 1)}))
    return 0 if result["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
