"""How close convolution comes to the processor's matrix product, layer by layer, on one core.

    python bench/convolution.py [--images 128] [--repeats 21] [--json FILE]

For every convolution and dense layer of the shipped models: forward, input gradient and weight
gradient in GFLOP/s (two operations a multiply-add, taps in the padding counted as all do), beside
NumPy's float32 matrix product of 1536 x 1536 on one thread.

    kernel   the inner loop alone: one block of 16 images, already padded, weights already packed
    call     what layers call, on all images: it allocates, pads and packs each time

A layer's measurements and the matrix product take turns within each repeat, so that a processor
that slows down slows all of them.  Time is the processor's (where its clock is fine enough), which
does not run while another program has the core.  Medians; a ratio is that of the repeats' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tinynet import __version__, kernels  # noqa: E402
from tinynet.files.atomic import write_atomically  # noqa: E402
from tinynet.kernels.window import Window  # noqa: E402

# One thread computes here, so the process's time is that thread's.  Windows counts it in 16 ms.
fine = time.get_clock_info("process_time").resolution < 1e-5
CLOCK, clock = ("processor time", time.process_time) if fine else ("time", time.perf_counter)
SHORTEST = 2e-3  # seconds a measurement takes at least: shorter calls are repeated within it
SIZE = 1536  # of the matrix product
PASSES = ("forward", "input gradient", "weight gradient")


class Layer(NamedTuple):
    """A 3x3 convolution that keeps the size, or (size 1) a dense layer."""

    model: str
    inputs: int
    outputs: int
    size: int

    @property
    def window(self) -> Window:
        return Window((1, 1)) if self.size == 1 else Window((3, 3), padding=((1, 1), (1, 1)))

    @property
    def name(self) -> str:
        kind = "dense" if self.size == 1 else f"3x3 at {self.size}x{self.size}"
        return f"{self.model} {self.inputs} -> {self.outputs} {kind}"

    def operations(self, images: int) -> float:
        taps = self.window.size[0] * self.window.size[1]
        return 2.0 * images * self.inputs * self.outputs * taps * self.size**2


LAYERS = [
    Layer("autoencoder", 3, 16, 32),
    Layer("autoencoder", 16, 8, 16),
    Layer("autoencoder", 8, 4, 8),
    Layer("small CNN", 3, 32, 64),
    Layer("small CNN", 32, 64, 32),
    Layer("small CNN", 64, 64, 16),
    Layer("small CNN", 64, 64, 8),
    Layer("classifier", 64, 216, 1),
    Layer("small CNN", 1024, 64, 1),
]


class Measurement(NamedTuple):
    """Something to time: `run()` does `operations` floating-point operations."""

    run: Callable[[], object]
    operations: float


def calls(layer: Layer, images: int) -> dict[str, Measurement]:
    """The public operations on all images, by pass."""
    from tinynet.kernels import numba as k

    x, dy, weight, bias = arrays(layer, -(-images // 16))
    window, size, work = layer.window, layer.size, layer.operations(x.shape[0] * 16)
    return {
        "forward": Measurement(lambda: k.conv2d(x, weight, bias, window, 1), work),
        "input gradient": Measurement(
            lambda: k.conv2d_input_gradient(dy, weight, window, 1, size, size), work
        ),
        "weight gradient": Measurement(lambda: k.conv2d_weight_gradient(x, dy, window, 1), work),
    }


def inner_loops(layer: Layer, images: int) -> dict[str, Measurement]:
    """The kernels alone, by pass: on one padded block, or for a dense layer (positions are blocks) on all.

    Forward is what the models run: a convolution is rectified and pooled 2x2 on the way out.
    """
    from tinynet.kernels.block import Block
    from tinynet.kernels.numba import block_tables, convolution
    from tinynet.kernels.numba import convolution_tables as t
    from tinynet.kernels.numba.products import kept_numbers

    dense, window, size = layer.size == 1, layer.window, layer.size
    blocks = -(-images // 16) if dense else 1
    x, dy, weight, bias = arrays(layer, blocks)
    around = ((0, 0), (0, 0)) if dense else ((1, 1), (1, 1))
    padded_x, padded_dy = (np.pad(a, ((0, 0), (0, 0), *around, (0, 0))).ravel() for a in (x, dy))
    side, plane = size + (0 if dense else 2), size * size * 16
    none, zeros = np.empty(0, x.dtype), np.zeros(layer.inputs, x.dtype)
    _, ((rows, columns, backward),) = t.backward_tables(layer.outputs, size, size, size, size, window)
    forward = t.forward_tables(layer.inputs, size, size, window)
    taps = t.whole_tiles(forward.taps)
    gradient = np.zeros((1, layer.outputs * taps.size), x.dtype)

    def sums(source, weights, added, tables, positions, targets, channels, outputs, numbers, pool):
        """A call of the kernel for `channels` -> `outputs`; `numbers` of an output channel."""
        kept = np.empty(kept_numbers(tables.size, outputs), x.dtype)
        y = np.empty(blocks * outputs * numbers, x.dtype)
        code = np.empty(y.size if pool else 0, np.uint8)
        return lambda: convolution.weighted_sums_of_blocks(
            source, weights, added, tables[None], positions, targets[None], tables.size, 0, positions.size,
            (channels, side, side), (0, 0, side, side), 1, outputs, numbers, 0, pool, pool, 0, 1, none, kept,
            y, code,
        )  # fmt: skip

    if dense:
        of_x, of_dy = (t.of_blocks(blocks, count) for count in (layer.inputs, layer.outputs))
        tiled_x, tiled_dy = t.whole_tiles(of_x), t.whole_tiles(of_dy)
        there = forward.taps, tiled_x, tiled_dy
        back, products, numbers = (backward.taps, tiled_dy, tiled_x), (of_x, of_dy, blocks), plane
    else:
        block = Block(window, relu=True, pool=True)
        fused = block_tables.tables_for(block, layer.inputs, layer.outputs, size, size)
        there, numbers = (forward.taps, fused.positions, fused.targets[0]), plane // 4
        back, products = tuple(backward[:3]), (forward.positions, forward.targets, size * size)
    packed = weight.ravel()[t.forward_order(weight.shape, 1)]
    transposed = weight.ravel()[t.backward_order(weight.shape, 1, rows, columns)]
    flat_dy, edges = dy.ravel(), np.array([0, 1])

    def weight_gradient() -> None:
        convolution._weight_gradient(
            padded_x, flat_dy, taps, *products, (layer.inputs, side, side), (0, 0, side, side), 1,
            layer.outputs, plane, edges, 0, 1, 0, layer.outputs, none, gradient,
        )  # fmt: skip

    runs = {
        "forward": sums(padded_x, packed, bias, *there, layer.inputs, layer.outputs, numbers, not dense),
        "input gradient": sums(
            padded_dy, transposed, zeros, *back, layer.outputs, layer.inputs, plane, False
        ),
        "weight gradient": weight_gradient,
    }
    work = layer.operations(blocks * 16)
    return {name: Measurement(run, work) for name, run in runs.items()}


def arrays(layer: Layer, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, dy, weight and bias of a layer, float32."""
    rng = np.random.default_rng(0)
    shapes = [
        (blocks, layer.inputs, layer.size, layer.size, 16),
        (blocks, layer.outputs, layer.size, layer.size, 16),
        (*layer.window.size, layer.inputs, layer.outputs),
        (layer.outputs,),
    ]
    x, dy, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return x, dy, weight, bias


def matrix_product() -> Measurement:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE)).astype(np.float32) for _ in range(2))
    out = np.empty_like(a)
    return Measurement(lambda: np.matmul(a, b, out=out), 2.0 * SIZE**3)


def seconds(run: Callable[[], object], times: int) -> float:
    """Seconds of one of `times` calls."""
    start = clock()
    for _ in range(times):
        run()
    return (clock() - start) / times


def interleaved(measurements: dict[str, Measurement], repeats: int) -> dict[str, list[float]]:
    """GFLOP/s of each, once a repeat, taking turns."""
    times = {}
    for name, measurement in measurements.items():
        measurement.run()  # compiles, and touches memory for the first time
        times[name] = max(1, round(SHORTEST / seconds(measurement.run, 1)))
    rates: dict[str, list[float]] = {name: [] for name in measurements}
    for _ in range(repeats):
        for name, measurement in measurements.items():
            taken = seconds(measurement.run, times[name])
            rates[name].append(measurement.operations / taken / 1e9)
    return rates


def measure(layer: Layer, product: Measurement | None, images: int, repeats: int) -> dict[str, Any]:
    """A row of the table."""
    measurements = {} if product is None else {"sgemm": product}
    measurements |= {f"{name} kernel": m for name, m in inner_loops(layer, images).items()}
    measurements |= {f"{name} call": m for name, m in calls(layer, images).items()}
    rates = interleaved(measurements, repeats)
    row: dict[str, Any] = {"layer": layer.name, "sgemm": None, "gflops": {}, "ratio": {}}
    yardstick = rates.pop("sgemm", None)
    if yardstick is not None:
        row["sgemm"] = statistics.median(yardstick)
    for name, values in rates.items():
        row["gflops"][name] = statistics.median(values)
        row["ratio"][name] = (
            statistics.median(v / s for v, s in zip(values, yardstick, strict=True)) if yardstick else None
        )
    return row


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def surroundings(blas: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Versions and processor, for whoever compares two runs."""
    import llvmlite
    import llvmlite.binding
    import numba

    return {
        "processor": processor(),
        "llvm_processor": llvmlite.binding.get_host_cpu_name(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "tinynet": __version__,
        "blas": [f"{b['internal_api']} {b['version']} ({b.get('architecture')})" for b in blas or []],
    }


def one_blas_thread() -> tuple[Any, list[dict[str, Any]] | None]:
    """A context in which BLAS has one thread, and the libraries found; None without threadpoolctl."""
    try:
        import threadpoolctl
    except ImportError:
        return nullcontext(), None
    np.matmul(np.ones((2, 2)), np.ones((2, 2)))
    libraries = [b for b in threadpoolctl.threadpool_info() if b["user_api"] == "blas"]
    return threadpoolctl.threadpool_limits(limits=1, user_api="blas"), libraries


def heading() -> str:
    groups = "".join(f"{name:^28}" for name in PASSES)
    columns = "".join(f"{'kernel':>14}{'call':>14}" for _ in PASSES)
    return f"{'':46}{groups}\n{'layer':38}{'sgemm':>8}{columns}"


def line(row: dict[str, Any]) -> str:
    text = f"{row['layer']:38}" + ("  absent" if row["sgemm"] is None else f"{row['sgemm']:8.1f}")
    for name in PASSES:
        for kind in ("kernel", "call"):
            rate, ratio = row["gflops"][f"{name} {kind}"], row["ratio"][f"{name} {kind}"]
            text += f"{rate:8.1f}" + (" " * 6 if ratio is None else f" {ratio:5.2f}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128, help="images a call gets (default 128)")
    parser.add_argument("--repeats", type=int, default=21, help="measurements of each (default 21)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    if arguments.images < 1 or arguments.repeats < 1:
        parser.error("--images and --repeats: wanted at least 1")
    if kernels.numba_problem() is not None:
        print(f"the Numba kernels cannot be measured: {kernels.numba_problem()}", file=sys.stderr)
        return 1
    from tinynet.kernels.threads import set_num_threads

    set_num_threads(1)
    limit, libraries = one_blas_thread()
    about = surroundings(libraries) | {
        "clock": CLOCK,
        "images": arguments.images,
        "repeats": arguments.repeats,
    }
    for key, value in about.items():
        print(f"{key}: {value}")
    if libraries is None:
        print("sgemm: absent (one BLAS thread needs threadpoolctl: pip install threadpoolctl)")
    print(f"\nGFLOP/s, and beside it the ratio to sgemm\n{heading()}")
    rows = []
    with limit:
        product = matrix_product() if libraries is not None else None
        for layer in LAYERS:
            rows.append(measure(layer, product, arguments.images, arguments.repeats))
            print(line(rows[-1]), flush=True)
    if arguments.json is not None:
        figures = json.dumps({"surroundings": about, "layers": rows}, indent=2) + "\n"
        write_atomically(arguments.json, [figures.encode()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
