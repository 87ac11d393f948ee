"""Which neighbouring layers are computed as one: [UpSample2D,] Conv2D [with ReLU [, MaxPool2D 2x2]].

Only where nobody asked to see the results between them (`activations`, `gradients`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tinynet.functions.block import conv_block
from tinynet.functions.convolution import make_window
from tinynet.kernels.block import Block
from tinynet.layers.base import Context, Layer
from tinynet.layers.standard import Conv2D, MaxPool2D, UpSample2D
from tinynet.tensor import Tensor

NONE = (1, 1)


def fused(layers: Sequence[Layer], x: Tensor, context: Context) -> tuple[Tensor, int] | None:
    """The result of the first one to three layers and their number, or None where they do not fuse."""
    if context.record is not None or x.ndim != 4:
        return None
    first = layers[0]
    before = 1 if isinstance(first, UpSample2D) else 0
    convolution = layers[before] if len(layers) > before else None
    if not isinstance(convolution, Conv2D) or not _plain(convolution, context):
        return None
    after = layers[before + 1] if len(layers) > before + 1 else None
    relu = convolution.activation == "relu"
    pool = relu and not before and isinstance(after, MaxPool2D) and _halves(after)
    factor = first.factor if isinstance(first, UpSample2D) else NONE
    block = _block(
        convolution.label, x.shape[1:3], convolution.kernel_size, convolution.padding, convolution.dilation,
        factor, relu, pool,
    )  # fmt: skip
    if block is None:
        return None
    weight, bias = convolution.parameters["weight"], convolution.parameters.get("bias")
    if bias is None:
        bias = Tensor(np.zeros(convolution.filters, weight.dtype))
    return conv_block(x, weight, bias, block), before + 1 + pool


@lru_cache(maxsize=256)
def _block(where, size, kernel_size, padding, dilation, factor, relu, pool) -> Block | None:
    """The block for images of this size, or None where the kernels cannot do it; the same every step."""
    enlarged = (size[0] * factor[0], size[1] * factor[1])
    block = Block(make_window(where, enlarged, kernel_size, NONE, padding, dilation), factor, relu, pool)
    return block if block.fits(*size) else None


def _plain(layer: Conv2D, context: Context) -> bool:
    ends_here = context.logits and context.last is layer
    return layer.stride == NONE and layer.groups == 1 and layer.activation in (None, "relu") and not ends_here


def _halves(layer: MaxPool2D) -> bool:
    return layer.size == (2, 2) and layer.stride == (2, 2) and layer.padding in ("valid", 0)
