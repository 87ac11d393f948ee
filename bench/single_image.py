"""One uint8 image, one thread: how long until its probabilities are there, tinynet beside its peers.

    python -m bench.single_image [--model NAME ...] [--repeats 21] [--compile-seconds 180] [--json FILE]

README.md in this folder says what is measured, how, and how to read the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import set_threads

if TYPE_CHECKING:
    from bench.common import Absent, Contestant
    from bench.works import Work

# Of the time of the fastest peer, what tinynet may take.
GOALS = {"classifier": 0.7, "small-cnn": 0.9}
DIRECT = "tinynet, deploy.single"
PREDICT = "tinynet, model.predict"
QUIET = 0.05  # of the processors: above it, figures are disturbed


def work_of(name: str) -> Work:
    """Inference of one image with this model."""
    from bench.works import WORKS

    return replace(WORKS[f"{name}-inference"], batch=1, title=f"{name}, one uint8 image, one thread")


def own(work: Work) -> list[Contestant]:
    """tinynet through `predict`, and through the function that deploy.single makes."""
    from bench.common import Contestant
    from tinynet.deploy import single

    images, model = work.data[0], work.model()
    frozen, image = single(model), images[0]
    return [
        Contestant(DIRECT, lambda: frozen(image), 1),
        Contestant(PREDICT, lambda: model.predict(images), 1),
    ]


def everybody(work: Work, compile_seconds: float) -> list[Contestant | Absent]:
    """tinynet, the C it exports, and the peers, present or absent."""
    from bench.common import peak
    from bench.exported_c import exported_c
    from bench.litert import litert
    from bench.onnx_peers import onnx_runtime, openvino
    from bench.pytorch import pytorch

    found = [peak(1), *own(work), *exported_c(work), *litert(work, 1)]
    return [*found, *onnx_runtime(work, 1), *openvino(work, 1), *pytorch(work, 1, compile_seconds)]


def measure(name: str, repeats: int, compile_seconds: float) -> dict[str, Any]:
    """A model's figures, as JSON holds them; raises Disagreement where a peer computes something else."""
    from bench.common import Absent, Others, interleaved

    work = work_of(name)
    found = everybody(work, compile_seconds)
    present = [one for one in found if not isinstance(one, Absent)]
    others = Others()
    seconds = interleaved(present, repeats)
    return {
        "model": name,
        "title": work.title,
        "goal": GOALS[name],
        "operations": work.operations(),
        "others": others.share(),
        "absent": {one.name: one.reason for one in found if isinstance(one, Absent)},
        "agreement": {one.name: one.agreement for one in present if one.agreement},
        "seconds": seconds,
        **figures(seconds),
    }


def figures(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What the rounds say: microseconds of each contestant, and tinynet's time over the best peer's.

    best    the peer, in whatever way it is run, with the smallest median
    ratios  of each of tinynet's ways, and of its C, to the best peer within the same round
    """
    from bench.common import PEAK, fastest, ratios, spread

    ours = [name for name in seconds if name.startswith(("tinynet", "exported C"))]
    best = fastest(seconds, [name for name in seconds if name not in (*ours, PEAK)])
    peak = spread([1 / value for value in seconds[PEAK]]) if PEAK in seconds else None
    return {
        "microseconds": {
            name: asdict(spread([1e6 * value for value in values]))
            for name, values in seconds.items()
            if name != PEAK
        },
        "best": best,
        "ratios": {name: asdict(ratios(seconds[name], seconds[best])) for name in ours} if best else {},
        "peak_gflops": None if peak is None else peak.median,
    }


def table(result: Mapping[str, Any]) -> str:
    """A model's figures, to be read."""
    peak, operations = result["peak_gflops"], result["operations"]
    lines = [f"{result['title']}: {operations / 1e6:.2f} MFLOP"]
    if peak is not None:
        lines[0] += f", which at the peak of {peak:.0f} GFLOP/s take {operations / peak / 1e3:.1f} us"
    lines.append(f"  {'':36}{'us':>8}{'quartiles':>18}{'extremes':>20}")
    for name, values in result["microseconds"].items():
        ends = f"{values['low']:.1f}..{values['high']:.1f}"
        extremes = f"{values['minimum']:.1f}..{values['maximum']:.1f}"
        lines.append(f"  {name:36}{values['median']:8.1f}{ends:>18}{extremes:>20}")
    lines += [f"  {name:36}absent: {reason:.100}" for name, reason in result["absent"].items()]
    lines += [f"  {name:36}computes the same: {said}" for name, said in result["agreement"].items()]
    others = result["others"]
    if others is not None and others > QUIET:
        lines.append(f"  NOT TO BE QUOTED: other programs used {others:.0%} of the processors meanwhile")
    if result["best"] is None:
        return "\n".join([*lines, f"  goal {result['goal']:g} x the best peer: none is here"])
    for name, ratio in result["ratios"].items():
        verdict = "reached" if ratio["median"] <= result["goal"] else "missed"
        lines.append(
            f"  goal {result['goal']:g} x the best peer, {result['best']}: {verdict} by {name}, "
            f"{ratio['median']:.2f} x ({ratio['low']:.2f}..{ratio['high']:.2f})"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """The command; 0 where everything agreed, 1 where a peer computes something else."""
    parser = argparse.ArgumentParser(prog="python -m bench.single_image", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=list(GOALS), default=list(GOALS), metavar="NAME",
                        help=f"some of {', '.join(GOALS)} (default all)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=21, help="rounds (default 21)")
    parser.add_argument("--compile-seconds", type=float, default=180, metavar="SECONDS",
                        help="for one torch.compile; 0 leaves it out (default 180)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every round's figures there")
    arguments = parser.parse_args(words)
    if arguments.repeats < 1 or arguments.compile_seconds < 0:
        parser.error("--repeats: wanted at least 1; --compile-seconds: at least 0")

    set_threads(1)
    from bench import common
    from tinynet import kernels
    from tinynet.files.atomic import write_atomically

    problem = kernels.numba_problem()
    if problem is not None:
        print(f"the single-image path needs Numba, which cannot be used here: {problem}", file=sys.stderr)
        return 1
    kernels.use("numba")
    about = common.surroundings(1) | {"repeats": arguments.repeats}
    for key, value in about.items():
        print(f"{key}: {value}")
    results = []
    for name in arguments.model:
        try:
            results.append(measure(name, arguments.repeats, arguments.compile_seconds))
        except common.Disagreement as disagreement:
            print(f"{name}: {disagreement}", file=sys.stderr)
            return 1
        print(f"\n{table(results[-1])}", flush=True)
        if arguments.json is not None:  # after every model, so that an interruption leaves the others
            text = json.dumps({"surroundings": about, "models": results}, indent=1) + "\n"
            write_atomically(arguments.json, [text.encode()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
