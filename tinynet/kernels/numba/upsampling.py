"""Nearest-neighbour upsampling on 16 lanes."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty, flat
from tinynet.kernels.numba.parallel import over_blocks
from tinynet.kernels.numba.simd import LANES, add, load, store, zero

PIXEL = 20.0  # what a pixel costs, in multiply-adds


@kernel
def _upsample(x, first, last, height, width, fh, fw, y):
    for plane in range(first, last):
        for i in range(height * fh):
            for j in range(width):
                value = load(x, ((plane * height + i // fh) * width + j) * 16)
                target = ((plane * height * fh + i) * width + j) * fw * 16
                for v in range(fw):
                    store(y, target + v * 16, value)


@kernel
def _upsample_backward(dy, first, last, height, width, fh, fw, dx):
    for plane in range(first, last):
        for i in range(height):
            for j in range(width):
                total = zero(dy)
                for u in range(fh):
                    source = ((plane * height * fh + i * fh + u) * width + j) * fw * 16
                    for v in range(fw):
                        total = add(total, load(dy, source + v * 16))
                store(dx, ((plane * height + i) * width + j) * 16, total)


def upsample(x: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """(B, C, H, W, 16) -> (B, C, H * fh, W * fw, 16); y[i, j] = x[i // fh, j // fw]."""
    blocks, channels, height, width, _ = x.shape
    y = empty((blocks, channels, height * factor[0], width * factor[1], LANES), x.dtype)
    _over_planes(_upsample, x, y, height, width, factor)
    return y


def upsample_backward(dy: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """(B, C, H * fh, W * fw, 16) -> (B, C, H, W, 16): the sum over each rectangle."""
    blocks, channels = dy.shape[:2]
    height, width = dy.shape[2] // factor[0], dy.shape[3] // factor[1]
    dx = empty((blocks, channels, height, width, LANES), dy.dtype)
    _over_planes(_upsample_backward, dy, dx, height, width, factor)
    return dx


def _over_planes(
    function, x: np.ndarray, y: np.ndarray, height: int, width: int, factor: tuple[int, int]
) -> None:
    blocks, channels = x.shape[:2]
    source, target = flat(x), y.reshape(-1)
    over_blocks(
        lambda first, last: function(
            source, first * channels, last * channels, height, width, *factor, target
        ),
        blocks,
        float(blocks) * channels * height * width * factor[0] * factor[1] * PIXEL,
    )
