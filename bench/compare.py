"""tinynet beside its peers: the works of issue 3's table, in one run.

    python -m bench.compare [--work NAME ...] [--threads 2] [--repeats 11] [--json FILE]

README.md in this folder says what is measured, how, and how to read the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import set_threads

if TYPE_CHECKING:
    from bench.works import Work

NAMES = (
    "autoencoder-training",
    "classifier-training",
    "small-cnn-training",
    "classifier-inference",
    "small-cnn-inference",
    "classifier-epoch",
)

QUIET = 0.05  # of the processors: above it, figures are disturbed


def measure(work: Work, threads: int, repeats: int, compile_seconds: float) -> dict[str, Any]:
    """A work's figures, as JSON holds them; raises Disagreement where a peer computes something else."""
    from bench.common import Absent, Others, interleaved, peak
    from bench.peers import contestants
    from bench.works import tinynet_contestant

    everybody = [peak(threads), tinynet_contestant(work), *contestants(work, threads, compile_seconds)]
    present = [one for one in everybody if not isinstance(one, Absent)]
    others = Others()
    seconds = interleaved(present, repeats, _progress(work.title, repeats))
    return {
        "work": work.name,
        "title": work.title,
        "goal": work.goal,
        "operations": work.operations(),
        "others": others.share(),
        "absent": {one.name: one.reason for one in everybody if isinstance(one, Absent)},
        "agreement": {one.name: one.agreement for one in present if one.agreement},
        "seconds": seconds,
        **figures(seconds, work.operations(), work.goal),
    }


def figures(
    seconds: Mapping[str, Sequence[float]], operations: float, goal: tuple[str, float]
) -> dict[str, Any]:
    """What the rounds say: seconds an image, and for the peak seconds a billion operations, by contestant.

    contestants  images/s, GFLOP/s, the share of the peak and how many times as fast tinynet is
    best         of the goal's peer, the fastest way to run it (its plain name alone, if it has one)
    """
    from bench.common import PEAK, fastest, ratios, spread

    rows: dict[str, dict[str, Any]] = {}
    for name, values in seconds.items():
        if name == PEAK:
            continue
        rows[name] = {
            "images_per_second": asdict(spread([1 / value for value in values])),
            "gflops": spread([operations / value / 1e9 for value in values]).median,
            "share_of_peak": None,
            "tinynet_ratio": asdict(ratios(values, seconds["tinynet"])),
        }
        if PEAK in seconds:  # the peak's rate is 1 / seconds, in GFLOP/s
            pairs = zip(values, seconds[PEAK], strict=True)
            rows[name]["share_of_peak"] = spread([operations / v / 1e9 * p for v, p in pairs]).median
    peer = goal[0]
    ways = [peer] if peer in rows else [name for name in rows if name.startswith(peer)]
    best = fastest(seconds, ways)
    peak = spread([1 / value for value in seconds[PEAK]]) if PEAK in seconds else None
    return {
        "contestants": rows,
        "best": best,
        "reached": None if best is None else rows[best]["tinynet_ratio"]["median"],
        "peak_gflops": None if peak is None else asdict(peak),
    }


def table(result: Mapping[str, Any]) -> str:
    """A work's figures, to be read."""
    peak = result["peak_gflops"]
    said = "absent" if peak is None else f"{peak['median']:.0f} GFLOP/s, at most {peak['maximum']:.0f}"
    lines = [
        f"{result['title']}: {result['operations'] / 1e6:.2f} MFLOP an image; peak {said}",
        f"  {'':34}{'images/s':>10}{'quartiles':>18}{'GFLOP/s':>9}{'of peak':>9}"
        f"{'tinynet is':>12}{'quartiles':>13}{'extremes':>15}",
    ]
    for name, row in result["contestants"].items():
        rate, ratio, share = row["images_per_second"], row["tinynet_ratio"], row["share_of_peak"]
        text = f"  {name:34}{rate['median']:10,.0f}{_range(rate, ('low', 'high'), ',.0f'):>18}"
        text += f"{row['gflops']:9.1f}" + (f"{'-':>9}" if share is None else f"{share:9.0%}")
        if name != "tinynet":
            text += f"{ratio['median']:10.2f} x{_range(ratio, ('low', 'high'), '.2f'):>13}"
            text += f"{_range(ratio, ('minimum', 'maximum'), '.2f'):>15}"
        lines.append(text)
    lines += [f"  {name:34}absent: {reason:.100}" for name, reason in result["absent"].items()]
    lines += [f"  {name:34}computes the same: {said}" for name, said in result["agreement"].items()]
    others = result["others"]
    if others is not None and others > QUIET:
        lines.append(
            f"  NOT TO BE QUOTED: other programs used {others:.0%} of the processors meanwhile; whoever"
        )
        lines.append("  waits by spinning, as PyTorch's threads do, then loses far more than its share")
    peer, times = result["goal"]
    goal = f"  goal {times:g} x {peer}: "
    if result["best"] is None:
        return "\n".join([*lines, goal + "absent"])
    verdict = "reached" if result["reached"] >= times else "missed"
    return "\n".join([*lines, f"{goal}{verdict}, {result['reached']:.2f} x {result['best']}"])


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """One line a work: the best of the goal's peer, tinynet, their ratio and the goal."""
    lines = [f"{'work':24}{'peer':34}{'its images/s':>13}{'tinynet':>10}{'ratio':>9}{'goal':>8}"]
    for result in results:
        rows, best = result["contestants"], result["best"]
        own = rows["tinynet"]["images_per_second"]["median"]
        theirs = "absent" if best is None else f"{rows[best]['images_per_second']['median']:,.0f}"
        ratio = "-" if best is None else f"{result['reached']:.2f} x"
        goal = f"{result['goal'][1]:g} x"
        lines.append(
            f"{result['work']:24}{best or result['goal'][0]:34}{theirs:>13}{own:10,.0f}{ratio:>9}{goal:>8}"
        )
    return "\n".join(lines)


def _range(values: Mapping[str, float], ends: tuple[str, str], form: str) -> str:
    return f"{values[ends[0]]:{form}}..{values[ends[1]]:{form}}"


def _progress(title: str, repeats: int) -> Any:
    if not sys.stderr.isatty():
        return None
    return lambda number: print(
        f"\r{title}: round {number + 1} of {repeats}\033[K", end="\r", file=sys.stderr
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command; 0 where everything agreed, 1 where a peer computes something else."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs="+", choices=NAMES, default=NAMES, metavar="NAME",
                        help=f"some of {', '.join(NAMES)} (default all)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2, help="of everybody (default 2)")
    parser.add_argument("--repeats", type=int, default=11, help="rounds (default 11)")
    parser.add_argument("--compile-seconds", type=float, default=180, metavar="SECONDS",
                        help="for one torch.compile; 0 leaves it out (default 180)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every round's figures there")
    arguments = parser.parse_args(words)
    if arguments.threads < 1 or arguments.repeats < 1 or arguments.compile_seconds < 0:
        parser.error("--threads and --repeats: wanted at least 1; --compile-seconds: at least 0")

    set_threads(arguments.threads)
    from bench import common
    from bench.works import WORKS
    from tinynet.files.atomic import write_atomically

    about = common.surroundings(arguments.threads) | {"repeats": arguments.repeats}
    for key, value in about.items():
        print(f"{key}: {value}")
    results = []
    for name in arguments.work:
        try:
            results.append(
                measure(WORKS[name], arguments.threads, arguments.repeats, arguments.compile_seconds)
            )
        except common.Disagreement as problem:
            print(f"{name}: {problem}", file=sys.stderr)
            return 1
        print(f"\n{table(results[-1])}", flush=True)
        if arguments.json is not None:  # after every work, so that an interruption leaves the others
            text = json.dumps({"surroundings": about, "works": results}, indent=1) + "\n"
            write_atomically(arguments.json, [text.encode()])
    print(f"\n{summary(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
