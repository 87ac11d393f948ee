"""How the time of an image grows with the batch, the image's size and the number of channels.

    python -m bench.scaling [--threads 2] [--repeats 7] [--json FILE] [--plot FILE]

Three series, each forward alone and as a whole training step, in GFLOP/s as compare.py counts them.
A point that reaches less than half of its series' best is flagged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import set_threads

if TYPE_CHECKING:
    import tinynet as tn

FLAG = 0.5  # of the best of the series
KINDS = ("forward", "training")


@dataclass(frozen=True)
class Series:
    """Points along one axis: `model(value)` is measured on batches of `batch(value)` images."""

    name: str
    title: str
    values: tuple[int, ...]
    model: Callable[[int], tn.Sequential]
    batch: Callable[[int], int]


def series() -> list[Series]:
    """Batch size of the classifier, image size of the small CNN, channels of one convolution."""
    from tinynet.models import classifier, small_cnn

    import tinynet as tn

    def convolution(channels: int) -> tn.Sequential:
        """Two 3x3 convolutions, so that one of them has an input gradient, and a small head."""
        layers = [tn.Conv2D(channels, 3, activation="relu") for _ in range(2)]
        head = [tn.GlobalAveragePool2D(), tn.Dense(2, "softmax")]
        return tn.Sequential([*layers, *head], (16, 16, channels))

    return [
        Series(
            "batch size", "classifier 32x32, images in a batch",
            (1, 2, 4, 8, 15, 16, 17, 32, 48, 64, 100, 128, 256, 512, 1024),
            lambda _: classifier(), lambda value: value,
        ),
        Series(
            "image size", "small CNN, batches of 32, side of the image in pixels",
            (32, 40, 48, 63, 64, 80, 96, 128, 160, 192, 224), small_cnn, lambda _: 32,
        ),
        Series(
            "channels", "two 3x3 convolutions at 16x16, batches of 64, channels in and out",
            (4, 5, 6, 8, 12, 13, 16, 24, 31, 32, 48, 64, 96, 128, 192, 256), convolution, lambda _: 64,
        ),
    ]  # fmt: skip


def measure(one: Series, repeats: int) -> list[dict[str, Any]]:
    """A point for each value and kind: median seconds an image, GFLOP/s, flagged or not."""
    from bench.common import Contestant, interleaved, spread
    from bench.works import CROSS_ENTROPY, operations, random_batch, step
    from tinynet.training_step import TrainingStep

    points: list[dict[str, Any]] = []
    for value in one.values:
        model, size = one.model(value), one.batch(value)
        model.compile("adamw", CROSS_ENTROPY)
        images, labels = random_batch(model, size)
        contestants = [
            Contestant("forward", partial(model.predict, images, batch_size=size), size),
            Contestant("training", partial(step, TrainingStep(model), images, labels), size),
        ]
        for kind, seconds in interleaved(contestants, repeats).items():
            median = spread(seconds).median
            rate = operations(model, training=kind == "training") / median / 1e9
            points.append({"value": value, "kind": kind, "seconds_per_image": median, "gflops": rate})
        if sys.stderr.isatty():
            print(f"\r{one.name} {value}\033[K", end="\r", file=sys.stderr)
    return flagged(points)


def flagged(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points, each with `slow`: whether it reaches less than half of the best of its kind."""
    best = {kind: max((p["gflops"] for p in points if p["kind"] == kind), default=0.0) for kind in KINDS}
    return [{**point, "slow": point["gflops"] < FLAG * best[point["kind"]]} for point in points]


def table(title: str, points: Sequence[dict[str, Any]]) -> str:
    """A series, to be read: a line a value."""
    lines = [title, f"{'':10}" + "".join(f"{kind + ': us/image':>22}{'GFLOP/s':>10}{'':6}" for kind in KINDS)]
    for value in dict.fromkeys(point["value"] for point in points):
        line = f"{value:10d}"
        for kind in KINDS:
            for point in points:
                if point["value"] == value and point["kind"] == kind:
                    flag = " SLOW " if point["slow"] else ""
                    line += f"{point['seconds_per_image'] * 1e6:22,.1f}{point['gflops']:10.1f}{flag:6}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """A column a series: GFLOP/s above, microseconds an image below; slow points are hollow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(results), 7), layout="constrained")
    rows = figure.subplots(2, len(results), squeeze=False)
    for column, result in enumerate(results):
        for axes, quantity, scale, label in (
            (rows[0][column], "gflops", 1, "GFLOP/s"),
            (rows[1][column], "seconds_per_image", 1e6, "microseconds an image"),
        ):
            for number, kind in enumerate(KINDS):
                chosen = [point for point in result["points"] if point["kind"] == kind]
                values, heights = [p["value"] for p in chosen], [p[quantity] * scale for p in chosen]
                axes.plot(values, heights, color=f"C{number}", label=kind)
                for value, height, point in zip(values, heights, chosen, strict=True):
                    face = "white" if point["slow"] else f"C{number}"
                    axes.plot(value, height, "o", color=f"C{number}", markerfacecolor=face)
            axes.set_xscale("log", base=2)
            if quantity == "gflops":
                axes.set_ylim(bottom=0)
                axes.set_title(result["title"].replace(", ", ",\n", 1), fontsize="medium")
            else:
                axes.set_yscale("log")
            axes.set_xlabel(result["series"])
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
    rows[0][0].legend()
    figure.savefig(path)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each point (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the points there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them (needs matplotlib)")
    arguments = parser.parse_args(words)
    if arguments.threads < 1 or arguments.repeats < 1:
        parser.error("--threads and --repeats: wanted at least 1")
    set_threads(arguments.threads)
    from bench.common import Others, surroundings
    from tinynet.files.atomic import write_atomically

    about, others = surroundings(arguments.threads) | {"repeats": arguments.repeats}, Others()
    results = []
    for one in series():
        points = measure(one, arguments.repeats)
        results.append({"series": one.name, "title": one.title, "points": points})
        print(f"\n{table(one.title, points)}", flush=True)
    about["others"] = others.share()
    if about["others"] is not None:
        print(f"\nother programs used {about['others']:.0%} of the processors meanwhile")
    if arguments.json is not None:
        text = json.dumps({"surroundings": about, "series": results}, indent=1) + "\n"
        write_atomically(arguments.json, [text.encode()])
    if arguments.plot is not None:
        draw(results, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
