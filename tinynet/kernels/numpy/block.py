"""The fused block, plainly: one kernel after another."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.block import Block
from tinynet.kernels.numpy.activation import relu, relu_backward
from tinynet.kernels.numpy.convolution import (
    channel_sum,
    conv2d,
    conv2d_input_gradient,
    conv2d_weight_gradient,
)
from tinynet.kernels.numpy.pooling import max_pool, max_pool_backward
from tinynet.kernels.numpy.upsampling import upsample, upsample_backward
from tinynet.kernels.window import Window

POOL = Window((2, 2), (2, 2))


def conv_block(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, block: Block
) -> tuple[np.ndarray, np.ndarray | None]:
    """(B, C, H, W, L) * (kh, kw, C, O) + (O,) -> (B, O, H', W', L), and with pooling codes.

    code: uint8, the place of the maximum in its 2x2 window, 0 to 3 row-major; 4 where rectified away.
    """
    y = conv2d(upsample(x, block.factor), weight, bias, block.window, 1)
    if not block.pool:
        return (relu(y) if block.relu else y), None
    y, tap = max_pool(y, POOL)
    code = tap.astype(np.uint8)
    code[y <= 0] = 4
    return relu(y), code


def conv_block_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    y: np.ndarray,
    code: np.ndarray | None,
    block: Block,
    needs_input: bool,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """The gradients for x (None unless needed), weight and bias; y and code as conv_block returned them."""
    height, width = x.shape[2:4]
    if code is not None:
        size = block.convolved_size(height, width)
        dy = max_pool_backward(dy, code, POOL, *size)  # code 4 is no tap: nothing is passed on
    elif block.relu:
        dy = relu_backward(dy, y)
    enlarged = upsample(x, block.factor)
    dx = None
    if needs_input:
        dx = conv2d_input_gradient(dy, weight, block.window, 1, *enlarged.shape[2:4])
        dx = upsample_backward(dx, block.factor)
    return dx, conv2d_weight_gradient(enlarged, dy, block.window, 1), channel_sum(dy)
