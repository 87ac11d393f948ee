"""The Numba kernels: NumPy's names and signatures, on float32 and float64 arrays with 16 lanes.

Importing this package imports Numba; nothing is compiled before it is called.
"""

from tinynet.kernels.numba.activation import relu, relu6, relu6_backward, relu_backward
from tinynet.kernels.numba.augmentation import warp
from tinynet.kernels.numba.block import conv_block, conv_block_backward
from tinynet.kernels.numba.convolution import (
    channel_sum,
    conv2d,
    conv2d_input_gradient,
    conv2d_weight_gradient,
)
from tinynet.kernels.numba.dropout import dropout
from tinynet.kernels.numba.lanes import lanes_for, pack, pack_bytes, unpack
from tinynet.kernels.numba.loss import softmax_cross_entropy, squared_error, squared_error_gradient
from tinynet.kernels.numba.normalization import (
    channel_moments,
    normalize,
    normalize_input_gradient,
    normalize_sums,
)
from tinynet.kernels.numba.optimizer import adamw, all_finite, rmsprop, sgd
from tinynet.kernels.numba.parallel import again, each_range, num_threads
from tinynet.kernels.numba.pooling import (
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
)
from tinynet.kernels.numba.upsampling import upsample, upsample_backward

NAME = "numba"

__all__ = [
    "NAME",
    "adamw",
    "again",
    "all_finite",
    "average_pool",
    "average_pool_backward",
    "channel_moments",
    "channel_sum",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "conv_block",
    "conv_block_backward",
    "dropout",
    "each_range",
    "lanes_for",
    "max_pool",
    "max_pool_backward",
    "normalize",
    "normalize_input_gradient",
    "normalize_sums",
    "num_threads",
    "pack",
    "pack_bytes",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "rmsprop",
    "sgd",
    "softmax_cross_entropy",
    "squared_error",
    "squared_error_gradient",
    "unpack",
    "upsample",
    "upsample_backward",
    "warp",
]
