"""The NumPy kernels: the readable reference, and the whole engine where Numba is absent.

Arrays are in lane layout (blocks, channels, height, width, lanes), any number of lanes, float32
or float64.  Nothing is checked here: shapes are validated where users' arguments arrive.
"""

from tinynet.kernels.numpy.activation import relu, relu6, relu6_backward, relu_backward
from tinynet.kernels.numpy.augmentation import warp
from tinynet.kernels.numpy.block import conv_block, conv_block_backward
from tinynet.kernels.numpy.convolution import (
    channel_sum,
    conv2d,
    conv2d_input_gradient,
    conv2d_weight_gradient,
)
from tinynet.kernels.numpy.dropout import dropout
from tinynet.kernels.numpy.lanes import lanes_for, pack, pack_bytes, unpack
from tinynet.kernels.numpy.loss import softmax_cross_entropy, squared_error, squared_error_gradient
from tinynet.kernels.numpy.normalization import (
    channel_moments,
    normalize,
    normalize_input_gradient,
    normalize_sums,
)
from tinynet.kernels.numpy.optimizer import adamw, all_finite, rmsprop, sgd
from tinynet.kernels.numpy.parallel import each_range, num_threads
from tinynet.kernels.numpy.pooling import (
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
)
from tinynet.kernels.numpy.upsampling import upsample, upsample_backward

NAME = "numpy"

__all__ = [
    "NAME",
    "adamw",
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
