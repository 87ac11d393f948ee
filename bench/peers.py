"""Whoever tinynet is compared with, by work: PyTorch, and for inference ONNX Runtime and OpenVINO.

Each twin is built from a tinynet model layer by layer, with its weights, in float32, and compared
with it before it is timed.
"""

from __future__ import annotations

from bench.common import Absent, Contestant
from bench.onnx_peers import onnx_runtime, openvino
from bench.pytorch import pytorch
from bench.works import Work


def contestants(work: Work, threads: int, compile_seconds: float) -> list[Contestant | Absent]:
    """Every peer for this work, present or absent; raises Disagreement if one computes something else."""
    found = pytorch(work, threads, compile_seconds)
    if work.kind == "inference":
        found += onnx_runtime(work, threads) + openvino(work, threads)
    return found
