"""The exported C program on one picture: built with gcc -O3 -march=native, called through ctypes.

    python -m bench.exported_c [MODEL] [--calls 20000]

`program(model)` is for other benchmarks: from one uint8 picture (1, h, w, 3) to probabilities (1, k).
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import tinynet as tn
from bench.common import Absent, Contestant, require_close, spread
from bench.works import Work
from tinynet.deploy import c_export

FLAGS = ("-O3", "-march=native")
NAME = "tinynet's C"


def build(model: tn.Sequential, flags: Sequence[str] = FLAGS, compiler: str = "gcc") -> ctypes.CDLL:
    """The model as a shared library with functions model_predict and so on."""
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder, "model.h")
        c_export.write(c_export.export(model, "model"), header, pair=True)
        library = Path(folder, "model.so")
        command = [
            compiler,
            *flags,
            "-shared",
            "-fPIC",
            str(header.with_suffix(".c")),
            "-o",
            str(library),
            "-lm",
        ]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))


def program(model: tn.Sequential, flags: Sequence[str] = FLAGS) -> Callable[[np.ndarray], np.ndarray]:
    """One uint8 picture of any size, (1, h, w, 3) and contiguous, to the model's answer, (1, outputs)."""
    function = build(model, flags).model_predict
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    shape = (1, *model.output_shape)

    def run(picture: np.ndarray) -> np.ndarray:
        answer = np.empty(shape, np.float32)
        function(_address(picture), picture.shape[1], picture.shape[2], _address(answer))
        return answer

    return run


def _address(array: np.ndarray) -> int:
    """Where its numbers lie; array.ctypes.data takes a microsecond longer."""
    return array.__array_interface__["data"][0]


def exported_c(work: Work, threads: int) -> list[Contestant | Absent]:
    """The contestant; on one picture, and one thread whatever is asked for."""
    if shutil.which("gcc") is None:
        return [Absent(NAME, "there is no gcc")]
    run, picture = program(work.model()), np.ascontiguousarray(work.data[0][:1])
    apart = require_close(NAME, "output", run(picture), work.model().predict(picture), 1e-5)
    return [Contestant(NAME, lambda: run(picture), 1, f"outputs within {apart:.1g}")]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the time of one picture, with and without what calling it from Python costs."""
    parser = argparse.ArgumentParser(description="time the exported C program on one picture")
    parser.add_argument("model", nargs="?", default="autoencoder")
    parser.add_argument("--calls", type=int, default=20000)
    arguments = parser.parse_args(argv)
    model = tn.load(arguments.model)
    picture = np.random.default_rng(0).integers(0, 256, (1, *(model.input_shape or ())), dtype=np.uint8)
    run = program(model)
    function = build(model).model_predict
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    answer = np.empty(model.output_shape, np.float32)
    plain = (picture.ctypes.data, picture.shape[1], picture.shape[2], answer.ctypes.data)
    for title, call in (
        ("NumPy array in, NumPy array out", lambda: run(picture)),
        ("addresses in, ctypes alone", lambda: function(*plain)),
    ):
        seconds = []
        for _ in range(arguments.calls):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        found = spread(seconds)
        print(f"{title}: median {found.median * 1e6:.1f} us, quartiles {found.low * 1e6:.1f} to "
              f"{found.high * 1e6:.1f}, fastest {found.minimum * 1e6:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
