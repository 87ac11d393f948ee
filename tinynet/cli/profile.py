"""tinynet profile: where the time of a training step goes, layer by layer.

Training steps on random images, forward and backward, with the kernels in use: milliseconds, GFLOP/s, the
share of this machine's peak (fused multiply-adds in registers, measured between the steps), and megabytes
read and written.  Layers that the engine computes as one stand together: "conv1+pool1".
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tinynet.cli.options import add_json
from tinynet.cli.output import float_model, json_text, note
from tinynet.texts import number, percent, printable

if TYPE_CHECKING:
    from tinynet.model import Sequential
    from tinynet.profiling import Pass, Profile

SUMMARY = "measure where the time of a training step goes, layer by layer"

RECONSTRUCTION = "reconstruction"  # as the run's folder calls what the first stage of training makes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"a model file, the name of a shipped model, or {RECONSTRUCTION}: "
        "the plain autoencoder, with its decoder",
    )
    parser.add_argument("--batch-size", type=_count, default=128, metavar="N", help="images (default: 128)")
    parser.add_argument("--repeats", type=_count, default=20, metavar="N", help="steps (default: 20)")
    parser.add_argument(
        "--threads", type=_count, metavar="N", help="default: TINYNET_NUM_THREADS, or every processor"
    )
    add_json(parser, "instead")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet import kernels, profiling, progress

    model = _model(arguments.model)
    if arguments.threads is not None and kernels.active().NAME == "numpy":
        note("profile", "--threads has no effect on the NumPy kernels: BLAS has its own threads")
    with progress.compilation(shown=True):
        measured = profiling.profile(model, arguments.batch_size, arguments.repeats, arguments.threads)
    print(json_text(_as_json(measured)) if arguments.json else _table(measured))
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got {text!r}")
    return int(text)


def _model(name: str) -> Sequential:
    import tinynet

    if name == RECONSTRUCTION:
        from tinynet.models import autoencoder

        return autoencoder().compile(tinynet.RMSprop(1e-3), "mse")  # as recipes.py trains it
    return float_model(tinynet.load(name), name, ", which is not trained")


def _as_json(measured: Profile) -> dict[str, Any]:
    def one(values: Pass) -> dict[str, Any]:
        share = measured.share_of_peak(values.gflops)
        return {**asdict(values), "gflops": values.gflops, "share_of_peak": share}

    return {
        "model": measured.model,
        "input_shape": list(measured.input_shape),
        "batch_size": measured.batch_size,
        "repeats": measured.repeats,
        "kernels": measured.kernels,
        "threads": measured.threads,
        "peak_gflops": measured.median_peak,
        "peak_gflops_extremes": [min(measured.peak), max(measured.peak)] if measured.peak else None,
        "peak_threads": measured.peak_threads or None,
        "seconds": measured.seconds,
        "images_per_second": measured.images_per_second,
        "operations": measured.operations,
        "gflops": measured.operations / measured.seconds / 1e9,
        "share_of_peak": measured.share_of_peak(measured.operations / measured.seconds / 1e9),
        "layers": [
            {
                "name": row.name,
                "layers": list(row.layers),
                "method": row.method,
                "forward": one(row.forward),
                "backward": one(row.backward),
            }
            for row in measured.rows
        ],
        "outside_seconds": measured.outside,
    }


_OUTSIDE = {
    "packing": "packing the images",
    "loss": "loss, both ways",
    "optimiser": "optimiser",
    "Python": "between functions: Python",
}


def _table(measured: Profile) -> str:
    width = max([len(row.name) for row in measured.rows] + [len(text) for text in _OUTSIDE.values()])
    half = f"{'ms':>9}{'GFLOP/s':>9}{'of peak':>9}{'MB':>8}"
    lines = [
        *_heading(measured),
        "",
        f"{'':{width}}{'forward':>21}{'':14}{'backward':>21}",
        f"{'layer':{width}}{half}{half}{'of the step':>13}",
    ]
    for row in measured.rows:
        text = f"{printable(row.name):{width}}{_half(measured, row.forward)}{_half(measured, row.backward)}"
        lines.append(text + _share(measured, row.forward.seconds + row.backward.seconds))
    for part, seconds in measured.outside.items():
        text = f"{_OUTSIDE[part]:{width}}{seconds * 1e3:9.3f}{'':61}"
        lines.append(text + _share(measured, seconds))
    rate = measured.operations / measured.seconds / 1e9
    share = measured.share_of_peak(rate)
    lines += [
        f"{'the step':{width}}{measured.seconds * 1e3:9.3f}",
        "",
        f"{measured.images_per_second:,.0f} images/s, {rate:.1f} GFLOP/s"
        + ("" if share is None else f", {percent(share)} of the peak"),
    ]
    return "\n".join([*lines, *_notes(measured)])


def _heading(measured: Profile) -> list[str]:
    shape = " x ".join(map(str, measured.input_shape))
    threads = "BLAS's threads" if measured.threads is None else _plural(measured.threads, "thread")
    lines = [
        f"{printable(measured.model)}: training steps of {_plural(measured.batch_size, 'image')} "
        f"({shape}), the middle half of {measured.repeats}",
        f"kernels: {measured.kernels}, {threads}",
    ]
    if measured.median_peak is None:
        return [*lines, "peak: not measured, which takes Numba"]
    lines.append(
        f"peak: {measured.median_peak:.1f} GFLOP/s on {_plural(measured.peak_threads, 'thread')} "
        f"({min(measured.peak):.1f} to {max(measured.peak):.1f} between the steps)"
    )
    return lines


def _half(measured: Profile, values: Pass) -> str:
    if not values.seconds:
        return f"{'-':>9}{'-':>9}{'-':>9}{'-':>8}"
    share = measured.share_of_peak(values.gflops)
    return (
        f"{values.seconds * 1e3:9.3f}{number(values.gflops, 1):>9}"
        f"{'-' if share is None else percent(share):>9}{values.bytes / 1e6:8.2f}"
    )


def _share(measured: Profile, seconds: float) -> str:
    return f"{percent(seconds / measured.seconds):>13}"


def _notes(measured: Profile) -> list[str]:
    lines = []
    for method in dict.fromkeys(row.method for row in measured.rows if row.method):
        rows = [row for row in measured.rows if row.method == method]
        lines.append(
            f"{', '.join(printable(row.name) for row in rows)}: {method}; counted is what is done, forward "
            f"{percent(rows[0].forward.share)} of a plain implementation's operations, "
            f"backward {percent(rows[0].backward.share)}"
        )
    if measured.peak and max(measured.peak) > 1.2 * min(measured.peak):
        lines.append(
            "the peak varied by more than a fifth: other programs had the processors, or it was throttled"
        )
    return lines


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
