"""Max-pooling and average-pooling."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tinynet.kernels.window import Window


def max_pool(x: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """(B, C, H, W, L) -> the window's maximum (B, C, H', W', L) and its tap's number, in x's dtype.

    The first maximum in row-major order is taken; a NaN counts as the maximum, so it is not hidden.
    Padding is never the maximum.
    """
    taps = _taps(x, window, -np.inf)  # (kh * kw, B, C, H', W', L)
    tap = taps.argmax(axis=0)  # the first maximum, or the first NaN
    y = np.take_along_axis(taps, tap[None], axis=0)[0]
    if any(map(any, window.padding)):  # a window of nothing but -inf: not the padding, which is -inf too
        first = _real_taps(window, *x.shape[2:4]).argmax(axis=0)
        tap = np.where(y == -np.inf, first, tap)
    return y, tap.astype(x.dtype)


def max_pool_backward(dy: np.ndarray, tap: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    """The cotangent goes to the position that was the maximum, added where windows overlap."""
    padded = _padded_zeros(dy, window, height, width)
    for number, (rows, across) in enumerate(_tap_positions(window, *dy.shape[2:4])):
        padded[:, :, rows, across] += np.where(tap == number, dy, 0)
    return _without_padding(padded, window, height, width)


def average_pool(x: np.ndarray, window: Window) -> np.ndarray:
    """(B, C, H, W, L) -> the mean over the window's real pixels (padding does not count, as in Keras)."""
    return _taps(x, window, 0.0).sum(axis=0) * _share(x, window, *x.shape[2:4])


def average_pool_backward(dy: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    """Every real pixel of a window gets an equal share of its cotangent."""
    shared = dy * _share(dy, window, height, width)
    padded = _padded_zeros(dy, window, height, width)
    for rows, across in _tap_positions(window, *dy.shape[2:4]):
        padded[:, :, rows, across] += shared
    return _without_padding(padded, window, height, width)


@lru_cache(maxsize=64)
def pixel_counts(window: Window, height: int, width: int) -> np.ndarray:
    """(H', W'): how many real pixels each window covers."""
    counts: np.ndarray = _real_taps(window, height, width).sum(axis=0)[0, 0, :, :, 0]
    counts.flags.writeable = False  # who asks next gets the same array
    return counts


def _share(like: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    return (1.0 / pixel_counts(window, height, width)).astype(like.dtype)[:, :, None]  # (H', W', 1)


def _real_taps(window: Window, height: int, width: int) -> np.ndarray:
    """(kh * kw, 1, 1, H', W', 1): 1 where a tap lies on the image, 0 where it lies on padding."""
    return _taps(np.ones((1, 1, height, width, 1)), window, 0.0)


def _taps(x: np.ndarray, window: Window, outside: float) -> np.ndarray:
    """(B, C, H, W, L) -> (kh * kw, B, C, H', W', L)."""
    padded = np.pad(x, ((0, 0), (0, 0), *window.padding, (0, 0)), constant_values=outside)
    out = window.output_size(*x.shape[2:4])
    return np.stack([padded[:, :, rows, across] for rows, across in _tap_positions(window, *out)])


def _tap_positions(window: Window, out_height: int, out_width: int) -> list[tuple[slice, slice]]:
    """For each tap, row-major: the padded rows and columns it reads."""
    (kh, kw), (sh, sw), (dh, dw) = window.size, window.stride, window.dilation
    return [
        (
            slice(u * dh, u * dh + (out_height - 1) * sh + 1, sh),
            slice(v * dw, v * dw + (out_width - 1) * sw + 1, sw),
        )
        for u in range(kh)
        for v in range(kw)
    ]


def _padded_zeros(dy: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    (top, bottom), (left, right) = window.padding
    return np.zeros((*dy.shape[:2], height + top + bottom, width + left + right, dy.shape[4]), dy.dtype)


def _without_padding(padded: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    (top, _), (left, _) = window.padding
    return np.ascontiguousarray(padded[:, :, top : top + height, left : left + width])
