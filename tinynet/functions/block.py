"""A convolution with what stands around it, as one function: the engine chooses it, no user has to."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet.functions.lanes import LaneFunction
from tinynet.kernels.block import Block
from tinynet.tensor import Tensor


class ConvBlock(LaneFunction):
    """maxpool(relu(conv(upsample(x)))), each of the three around the convolution left out where not wanted.

    Forward and gradients are those of the functions it stands for (UpSample2D, Conv2D, ReLU and
    MaxPool2D), one after another; the numpy kernels compute exactly that.  Fused, what lies
    between them is never written to memory: see kernels/numba/block.py.
    """

    recorded = True

    def __init__(self, block: Block):
        self.block = block

    def forward(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        # (B, C, H, W, L), (kh, kw, C, O), (O,) -> (B, O, H', W', L)
        self.y, self.code = self.kernels.conv_block(x, weight, bias, self.block)
        self.x, self.weight = x, weight
        return self.y

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx, dw, db = self.kernels.conv_block_backward(
            dy, self.x, self.weight, self.y, self.code, self.block, self.needs[0]
        )
        return dx, dw if self.needs[1] else None, db if self.needs[2] else None


def conv_block(x: Any, weight: Any, bias: Any, block: Block) -> Tensor:
    """Images (n, h, w, c), weight (kh, kw, c, o), bias (o,) -> (n, h', w', o); see kernels/block.py."""
    return ConvBlock(block)(x, weight, bias)
