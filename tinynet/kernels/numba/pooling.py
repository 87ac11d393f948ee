"""Max-pooling and average-pooling on 16 lanes."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty, flat
from tinynet.kernels.numba.parallel import over_blocks
from tinynet.kernels.numba.simd import (
    LANES,
    add,
    load,
    multiply_add,
    splat,
    store,
    where_equal,
    where_greater,
    zero,
)
from tinynet.kernels.numpy.pooling import pixel_counts
from tinynet.kernels.window import Window

TAP = 20.0  # what a tap costs, in multiply-adds


@kernel
def _max_pool(x, numbers, first, last, height, width, geometry, out_height, out_width, y, tap):
    """geometry: kh, kw, stride, dilation, top and left padding; first..last count (block, channel) planes."""
    kh, kw, sh, sw, dh, dw, top, left = geometry
    for plane in range(first, last):
        for i in range(out_height):
            for j in range(out_width):
                best = splat(-numbers[kh * kw])  # -inf
                which = zero(x)
                found = False
                for u in range(kh):
                    row = i * sh + u * dh - top
                    if row < 0 or row >= height:
                        continue
                    for v in range(kw):
                        column = j * sw + v * dw - left
                        if column < 0 or column >= width:
                            continue
                        value = load(x, ((plane * height + row) * width + column) * 16)
                        number = splat(numbers[u * kw + v])
                        if not found:
                            best, which, found = value, number, True
                        else:
                            which = where_greater(value, best, number, which)
                            best = where_greater(value, best, value, best)
                target = ((plane * out_height + i) * out_width + j) * 16
                store(y, target, best)
                store(tap, target, which)


@kernel
def _max_pool_backward(dy, tap, numbers, first, last, height, width, geometry, out_height, out_width, dx):
    kh, kw, sh, sw, dh, dw, top, left = geometry
    nothing = zero(dy)
    for plane in range(first, last):
        for at in range(plane * height * width * 16, (plane + 1) * height * width * 16, 16):
            store(dx, at, nothing)
        for i in range(out_height):
            for j in range(out_width):
                source = ((plane * out_height + i) * out_width + j) * 16
                cotangent, which = load(dy, source), load(tap, source)
                for u in range(kh):
                    row = i * sh + u * dh - top
                    if row < 0 or row >= height:
                        continue
                    for v in range(kw):
                        column = j * sw + v * dw - left
                        if column < 0 or column >= width:
                            continue
                        target = ((plane * height + row) * width + column) * 16
                        share = where_equal(which, splat(numbers[u * kw + v]), cotangent)
                        store(dx, target, add(load(dx, target), share))


@kernel
def _average_pool(x, shares, first, last, height, width, geometry, out_height, out_width, y):
    """shares: (H' * W',), one over the number of real pixels in each window."""
    kh, kw, sh, sw, dh, dw, top, left = geometry
    for plane in range(first, last):
        for i in range(out_height):
            for j in range(out_width):
                total = zero(x)
                for u in range(kh):
                    row = i * sh + u * dh - top
                    if row < 0 or row >= height:
                        continue
                    for v in range(kw):
                        column = j * sw + v * dw - left
                        if column < 0 or column >= width:
                            continue
                        total = add(total, load(x, ((plane * height + row) * width + column) * 16))
                share = splat(shares[i * out_width + j])
                store(y, ((plane * out_height + i) * out_width + j) * 16, multiply_add(total, share, zero(x)))


@kernel
def _average_pool_backward(dy, shares, first, last, height, width, geometry, out_height, out_width, dx):
    kh, kw, sh, sw, dh, dw, top, left = geometry
    nothing = zero(dy)
    for plane in range(first, last):
        for at in range(plane * height * width * 16, (plane + 1) * height * width * 16, 16):
            store(dx, at, nothing)
        for i in range(out_height):
            for j in range(out_width):
                source = load(dy, ((plane * out_height + i) * out_width + j) * 16)
                share = multiply_add(source, splat(shares[i * out_width + j]), zero(dy))
                for u in range(kh):
                    row = i * sh + u * dh - top
                    if row < 0 or row >= height:
                        continue
                    for v in range(kw):
                        column = j * sw + v * dw - left
                        if column < 0 or column >= width:
                            continue
                        target = ((plane * height + row) * width + column) * 16
                        store(dx, target, add(load(dx, target), share))


def max_pool(x: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """(B, C, H, W, 16) -> the window's maximum (B, C, H', W', 16) and its tap's number, in x's dtype."""
    y = _outputs(x, window)
    tap = empty(y.shape, y.dtype)
    _over_planes(_max_pool, x, (x, _numbers(window, x)), (y, tap), window, x.shape[2:4])
    return y, tap


def max_pool_backward(dy: np.ndarray, tap: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    """The cotangent goes to the position that was the maximum, added where windows overlap."""
    dx = empty((*dy.shape[:2], height, width, LANES), dy.dtype)
    _over_planes(_max_pool_backward, dy, (dy, tap, _numbers(window, dy)), (dx,), window, (height, width))
    return dx


def average_pool(x: np.ndarray, window: Window) -> np.ndarray:
    """(B, C, H, W, 16) -> the mean over the window's real pixels (padding is not counted)."""
    y = _outputs(x, window)
    _over_planes(_average_pool, x, (x, _shares(window, x, *x.shape[2:4])), (y,), window, x.shape[2:4])
    return y


def average_pool_backward(dy: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    """Every real pixel of a window gets an equal share of its cotangent."""
    dx = empty((*dy.shape[:2], height, width, LANES), dy.dtype)
    arrays = (dy, _shares(window, dy, height, width))
    _over_planes(_average_pool_backward, dy, arrays, (dx,), window, (height, width))
    return dx


def _outputs(x: np.ndarray, window: Window) -> np.ndarray:
    return empty((*x.shape[:2], *window.output_size(*x.shape[2:4]), LANES), x.dtype)


def _numbers(window: Window, like: np.ndarray) -> np.ndarray:
    """0, 1, ... one a tap, and infinity."""
    return np.append(np.arange(window.size[0] * window.size[1]), np.inf).astype(like.dtype)


def _shares(window: Window, like: np.ndarray, height: int, width: int) -> np.ndarray:
    return (1.0 / pixel_counts(window, height, width)).astype(like.dtype).reshape(-1)


def _over_planes(function, like, inputs, outputs, window: Window, size: tuple[int, int]) -> None:
    """Run a pooling kernel over every (block, channel) plane; threads take ranges of planes."""
    (top, _), (left, _) = window.padding
    geometry = (*window.size, *window.stride, *window.dilation, top, left)
    out_height, out_width = window.output_size(*size)
    arrays = [flat(array) for array in inputs]
    targets = [array.reshape(-1) for array in outputs]
    blocks, channels = like.shape[:2]
    work = float(blocks) * channels * out_height * out_width * window.size[0] * window.size[1] * TAP
    over_blocks(
        lambda first, last: function(
            *arrays, first * channels, last * channels, *size, geometry, out_height, out_width, *targets
        ),
        blocks,
        work,
    )
