"""Convolution as a matrix product over columns of window contents ("im2col").

The layers' "convolution" is cross-correlation: the kernel is not flipped.  With p the padding,

    y[o, i, j] = bias[o] + sum_{c, u, v} w[u, v, c, o] * x[c, i * stride + u * dilation - p, ...]

Backward (Goodfellow, Bengio and Courville, Deep Learning, 2016, section 9.5): the weight gradient
is the same product with dy in the place of w, the input gradient the transpose of forward.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.window import Window


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """(B, C, H, W, L) * (kh, kw, C / groups, O) + (O,) -> (B, O, H', W', L)."""
    blocks, _, height, width, lanes = x.shape
    outputs = weight.shape[3]
    out_height, out_width = window.output_size(height, width)
    matrix = _weight_matrix(weight, groups)  # (G, O / G, taps)
    y = np.empty((blocks, outputs, out_height, out_width, lanes), x.dtype)
    for block in range(blocks):
        columns = _columns(x[block], window, groups)  # (G, taps, H' * W' * L)
        y[block] = (matrix @ columns).reshape(outputs, out_height, out_width, lanes)
        y[block] += bias[:, None, None, None]
    return y


def conv2d_input_gradient(
    dy: np.ndarray, weight: np.ndarray, window: Window, groups: int, height: int, width: int
) -> np.ndarray:
    """(B, O, H', W', L) * (kh, kw, C / groups, O) -> (B, C, H, W, L): each tap's share goes back."""
    blocks, outputs, out_height, out_width, lanes = dy.shape
    channels = weight.shape[2] * groups
    matrix = _weight_matrix(weight, groups).transpose(0, 2, 1)  # (G, taps, O / G)
    dx = np.empty((blocks, channels, height, width, lanes), dy.dtype)
    (top, bottom), (left, right) = window.padding
    for block in range(blocks):
        cotangent = dy[block].reshape(groups, outputs // groups, -1)  # (G, O / G, H' * W' * L)
        columns = (matrix @ cotangent).reshape(channels, *window.size, out_height, out_width, lanes)
        padded = np.zeros((channels, height + top + bottom, width + left + right, lanes), dy.dtype)
        for u in range(window.size[0]):
            for v in range(window.size[1]):
                rows = _positions(u, 0, window, out_height)
                across = _positions(v, 1, window, out_width)
                padded[:, rows, across] += columns[:, u, v]
        dx[block] = padded[:, top : top + height, left : left + width]
    return dx


def conv2d_weight_gradient(x: np.ndarray, dy: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """(B, C, H, W, L), (B, O, H', W', L) -> (kh, kw, C / groups, O), summed over images and positions."""
    blocks, channels = x.shape[:2]
    outputs = dy.shape[1]
    total = np.zeros(
        (groups, channels // groups * window.size[0] * window.size[1], outputs // groups), x.dtype
    )
    for block in range(blocks):
        columns = _columns(x[block], window, groups)  # (G, taps, H' * W' * L)
        cotangent = dy[block].reshape(groups, outputs // groups, -1)  # (G, O / G, H' * W' * L)
        total += columns @ cotangent.transpose(0, 2, 1)
    # (G, C / G * kh * kw, O / G) -> (kh, kw, C / G, G * O / G)
    split = total.reshape(groups, channels // groups, *window.size, outputs // groups)
    return np.ascontiguousarray(
        split.transpose(2, 3, 1, 0, 4).reshape(*window.size, channels // groups, outputs)
    )


def channel_sum(dy: np.ndarray) -> np.ndarray:
    """(B, O, H, W, L) -> (O,): the bias gradient."""
    return dy.sum(axis=(0, 2, 3, 4))


def _weight_matrix(weight: np.ndarray, groups: int) -> np.ndarray:
    """(kh, kw, C / G, O) -> (G, O / G, C / G * kh * kw)."""
    outputs = weight.shape[3]
    return weight.transpose(3, 2, 0, 1).reshape(groups, outputs // groups, -1)


def _columns(image: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """(C, H, W, L) -> (G, C / G * kh * kw, H' * W' * L): what each tap sees at each position."""
    channels, height, width, lanes = image.shape
    (top, bottom), (left, right) = window.padding
    padded = np.zeros((channels, height + top + bottom, width + left + right, lanes), image.dtype)
    padded[:, top : top + height, left : left + width] = image  # np.pad takes longer than all else here
    out_height, out_width = window.output_size(height, width)
    columns = np.empty((channels, *window.size, out_height, out_width, lanes), image.dtype)
    for u in range(window.size[0]):
        for v in range(window.size[1]):
            rows = _positions(u, 0, window, out_height)
            across = _positions(v, 1, window, out_width)
            columns[:, u, v] = padded[:, rows, across]
    return columns.reshape(groups, channels // groups * window.size[0] * window.size[1], -1)


def _positions(tap: int, axis: int, window: Window, count: int) -> slice:
    """The padded input positions that this tap reads, one an output position."""
    first = tap * window.dilation[axis]
    return slice(first, first + (count - 1) * window.stride[axis] + 1, window.stride[axis])
