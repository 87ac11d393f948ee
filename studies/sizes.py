"""The post's trade-off: the input's size against accuracy, arithmetic and time.

    python -m studies.sizes --data DIR [--exclude LIST] --out OUT

Both networks at 16, 24, 32, 48 and 64 pixels, every other choice the same, on the same folds by patient.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinynet as tn
from studies import drawing
from studies.folds import cross_validated, data_of, measured, model_of, who
from studies.study import Findings, Settings, kept, signed, with_interval
from tinynet import kernels
from tinynet.comparison import compare
from tinynet.deploy import single
from tinynet.report.evaluated import costs
from tinynet.runs.crossvalidation import Pooled
from tinynet.texts import number

TITLE = "The size of the input"
SIZES, QUICK_SIZES = (16, 24, 32, 48, 64), (16, 24)
NETWORKS = ("autoencoder", "small-cnn")
BATCH, ROUNDS = 512, 9


def run(settings: Settings, folder: Path, keep: Callable[[Findings], None]) -> Findings:
    """Small sizes first; what is measured so far is kept after each."""
    rows: list[dict[str, Any]] = []
    smaller: dict[str, Pooled] = {}
    found = Findings()
    for size in QUICK_SIZES if settings.quick else SIZES:
        for name in NETWORKS:
            row, answers = _one(settings, folder, name, size)
            row["gain"] = None if name not in smaller else _gain(smaller[name], answers, settings.seed)
            rows.append(row)
            smaller[name] = answers
            found = _findings(settings, folder, rows)
            keep(found)
    return found


def _one(settings: Settings, folder: Path, name: str, size: int) -> tuple[dict[str, Any], Pooled]:
    config = settings.config(name, size=size, epochs=settings.some(settings.sweep_epochs))
    answers = cross_validated(settings, config)
    figures = measured(answers)["sets"]
    model = model_of(settings, config, settings.tested()[0])
    data = data_of(settings, size)
    timed = kept(folder / f"time-{name}-{size}.json", lambda: microseconds(model, data.of(data.test[:BATCH])))
    spent = costs(model)
    row = {
        "network": name,
        "size": size,
        "epochs": config.epochs,
        "sets": {key: {k: v for k, v in one.items() if k != "folds"} for key, one in figures.items()},
        "multiply_accumulates": spent["multiply_accumulates"],
        "parameters": spent["parameters"],
        "file_bytes": spent["file_bytes"],
        "time": timed,
    }
    return row, answers


def _gain(smaller: Pooled, larger: Pooled, seed: int) -> dict[str, Any]:
    """What the larger size adds to the accuracy on the first label set: a paired bootstrap over patients."""
    one, other = (next(iter(pooled.predictions.sets().values())) for pooled in (smaller, larger))
    assert one.images == other.images
    answers = [(cells.probabilities, cells.thresholds) for cells in (one, other)]
    return compare(one.labels, *answers, one.patients, seed)["figures"]["accuracy"]


def microseconds(model: tn.Sequential, images: np.ndarray) -> dict[str, Any]:
    """Of an image in a batch, and of one alone where there is a compiled kernel: the best of the rounds.

    The least disturbed round says what the program takes; the others what else the machine did.
    """
    model.predict(images)

    def best(call: Callable[[], object], count: int) -> float:
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        return 1e6 * min(seconds) / count

    alone = None
    if kernels.numba_problem() is None and kernels.active().NAME == "numba":
        classify = single(model)
        few = images[:32]
        alone = best(lambda: [classify(image) for image in few], len(few))
    return {
        "batch": best(lambda: model.predict(images), len(images)),
        "images": len(images),
        "alone": alone,
        "threads": kernels.active().num_threads(),
        "kernels": kernels.active().NAME,
    }


def _findings(settings: Settings, folder: Path, rows: list[dict[str, Any]]) -> Findings:
    """Of the rows so far."""
    found = Findings(values={"rows": rows})
    label_set = next(iter(rows[0]["sets"]))  # suspicious removed, where there is a list
    lines, series = [], {name: [] for name in NETWORKS}
    for row in rows:
        figures, timed = row["sets"][label_set], row["time"]
        lines.append(
            [
                row["network"],
                f"{row['size']} x {row['size']}",
                with_interval(figures["accuracy"], figures["intervals"]["accuracy"]),
                "-" if row["gain"] is None else signed(row["gain"]),
                number(figures["auc"]),
                f"{row['multiply_accumulates']:,}",
                f"{row['file_bytes']:,}",
                number(timed["batch"], 1),
                number(timed["alone"], 1),
            ]
        )
        point = (
            row["size"],
            row["multiply_accumulates"],
            figures["accuracy"],
            figures["intervals"]["accuracy"],
        )
        series[row["network"]].append(point)
    header = [
        "network", "input", "accuracy (95 %)", "gain over the size before (95 %)", "AUC",
        "multiply-accumulates", "bytes of the file", "µs an image, in a batch", "µs, one image alone",
    ]  # fmt: skip
    timed = rows[0]["time"]
    found.table(
        "",
        f"Size against accuracy and cost, unseen patients, {label_set.replace('_', ' ')}",
        header,
        lines,
        f"{who(rows[0]['sets'][label_set])}; {rows[0]['epochs']} epochs for every size, fewer than the "
        "networks' own recipes: compare sizes with each other, not with Table 7. Intervals resample "
        "patients; the gain is a paired bootstrap over them, and where it holds 0 these patients show none.",
        f"Times: the best of {ROUNDS} rounds, {timed['kernels']} kernels, {timed['threads']} threads, "
        f"batches of {timed['images']}.",
    )
    drawing.sweep({name: points for name, points in series.items() if points}, folder / "sweep.png")
    found.picture("", "sweep.png", "Accuracy on unseen patients against arithmetic, by size of the input.")
    return found


if __name__ == "__main__":
    from studies.__main__ import alone

    raise SystemExit(alone("sizes"))
