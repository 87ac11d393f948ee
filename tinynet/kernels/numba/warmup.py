"""Compiling every kernel ahead of time, by running each on a few numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError
from tinynet.kernels import numba as kernels
from tinynet.kernels.block import Block
from tinynet.kernels.numba import batch_plan
from tinynet.kernels.numba.batch import BYTES, images_of_batch
from tinynet.kernels.numba.single import one_image, unchanged
from tinynet.kernels.numba.single_plan import RECORD
from tinynet.kernels.numba.winograd import MANY
from tinynet.kernels.window import Window


def warmup(dtype: Any = np.float32, progress: Callable[[int, int, str], None] | None = None) -> float:
    """Compile every kernel for `dtype`, or load it from the cache; the seconds that took.

    progress: called as progress(done, total, name) before each operation and once after the
    last, with an empty name.  compile.compile_report() tells what was compiled and what was
    loaded.  Raises ArgumentError for a dtype other than float32 and float64.
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ArgumentError(f"warmup: wanted dtype float32 or float64, got {np.dtype(dtype)}")
    steps = _steps(np.dtype(dtype))
    if np.dtype(dtype) == np.float32:
        steps += _one_image_steps() + _batch_steps()
    started = time.perf_counter()
    for done, step in enumerate(steps):
        if progress is not None:
            progress(done, len(steps), step.func.__name__)
        step()
    if progress is not None:
        progress(len(steps), len(steps), "")
    return time.perf_counter() - started


def _one_image_steps() -> list[partial]:
    """The two kernels behind tinynet.single, with a plan of no operation."""
    empty, numbers = np.zeros((0, 2), np.int64), np.zeros(1, np.float32)
    plan, codes = np.zeros(RECORD, np.int64), np.zeros(1, np.uint8)
    return [
        partial(one_image, plan, numbers, numbers, codes, numbers, 1, numbers),
        partial(unchanged, empty, numbers[:0].view(np.int32)),
    ]


def _batch_steps() -> list[partial]:
    """The kernel behind tinynet.batch, with a plan of no operation and no image."""
    numbers, codes, bytes_ = np.zeros(1, np.float32), np.zeros(1, np.uint8), np.zeros(BYTES, np.uint8)
    plan = np.zeros(batch_plan.RECORD, np.int64)
    return [partial(images_of_batch, plan, numbers, numbers, codes, numbers, bytes_, 1, 0, 0, numbers)]


def _steps(dtype: np.dtype) -> list[partial]:
    """A call of every operation.  A kernel is compiled for types, so the smallest shapes will do."""
    k, count = kernels, 1
    x, y = np.zeros((1, 2, 2, 2, 16), dtype), np.zeros((1, 1, 2, 2, 16), dtype)
    weight, bias = np.zeros((3, 3, 2, 1), dtype), np.zeros(1, dtype)
    padded = Window((3, 3), padding=((1, 1), (1, 1)))
    half, pooled = Window((2, 2), (2, 2)), np.zeros((1, 2, 1, 1, 16), dtype)
    block, code = Block(padded, relu=True, pool=True), np.zeros((1, 1, 1, 1, 16), np.uint8)
    many, square = np.zeros((1, MANY, 2, 2, 16), dtype), np.zeros((3, 3, MANY, MANY), dtype)
    maximum, channel = np.zeros(code.shape, dtype), np.ones(2)
    keys = np.zeros((1, 16), np.uint32)
    images, codes = np.zeros((1, 2, 2, 2), dtype), np.zeros((1, 2, 2, 2), np.uint8)
    identity = np.array([[[1 << 16, 0, 0], [0, 1 << 16, 0]]], np.int32)
    return [
        partial(k.conv2d, x, weight, bias, padded, 1),
        partial(k.conv2d_input_gradient, y, weight, padded, 1, 2, 2),
        partial(k.conv2d_weight_gradient, x, y, padded, 1),
        partial(k.channel_sum, x),
        partial(k.conv_block, x, weight, bias, block),
        partial(k.conv_block, many, square, square[0, 0, 0], block),  # by Winograd's method
        partial(k.conv_block_backward, maximum, x, weight, maximum, code, block, True),
        partial(k.relu, x),
        partial(k.relu_backward, x, x),
        partial(k.relu6, x),
        partial(k.relu6_backward, x, x),
        partial(k.max_pool, x, half),
        partial(k.max_pool_backward, pooled, pooled, half, 2, 2),
        partial(k.average_pool, x, half),
        partial(k.average_pool_backward, pooled, half, 2, 2),
        partial(k.upsample, x, (2, 2)),
        partial(k.upsample_backward, x, (2, 2)),
        partial(k.channel_moments, x, count),
        partial(k.normalize, x, channel, channel, channel, channel, count),
        partial(k.normalize_sums, x, x, channel, channel, count),
        partial(k.normalize_input_gradient, x, x, channel, channel, channel, channel, channel, count),
        partial(k.dropout, x, keys, 0.5),
        partial(k.softmax_cross_entropy, x[0, :, :, 0, 0], x[0, :, :, 0, 0]),
        partial(k.squared_error, x, x, count),
        partial(k.squared_error_gradient, x, x, 1.0, count),
        partial(k.sgd, bias, bias, None, 0.1, 0.0, 0.0, False),
        partial(k.sgd, bias, bias, bias, 0.1, 0.0, 0.9, False),
        partial(k.rmsprop, bias, bias, bias, None, 0.1, 0.0, 0.9, 1e-7, 0.0),
        partial(k.rmsprop, bias, bias, bias, bias, 0.1, 0.0, 0.9, 1e-7, 0.9),
        partial(k.adamw, bias, bias, bias, bias, 0.1, 0.0, 0.9, 0.999, 1e-8, 1),
        partial(k.all_finite, bias),
        partial(k.pack, images, 16),
        partial(k.unpack, x, count),
        partial(k.pack_bytes, codes, channel, channel, 16),
        partial(k.warp, codes, identity),
    ]
