"""Every differentiable function by name, for `tn.functional.conv2d(x, w, b)`."""

from tinynet.functions import operators  # (gives Tensor its arithmetic)
from tinynet.functions.activation import log_softmax, relu, relu6, sigmoid, softmax, tanh
from tinynet.functions.arithmetic import (
    absolute,
    add,
    clip,
    divide,
    exp,
    log,
    matmul,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    sqrt,
    subtract,
)
from tinynet.functions.composition import add_images, concatenate_channels, flatten
from tinynet.functions.convolution import conv2d, dense
from tinynet.functions.lanes import pack, unpack
from tinynet.functions.loss import binary_cross_entropy, mean_squared_error, softmax_cross_entropy
from tinynet.functions.normalization import batch_norm, dropout
from tinynet.functions.pooling import average_pool2d, global_average_pool2d, max_pool2d, upsample2d
from tinynet.functions.reductions import logsumexp, max, mean, min, sum, var
from tinynet.functions.shaping import (
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    getitem,
    moveaxis,
    pad,
    reshape,
    squeeze,
    stack,
    swapaxes,
    transpose,
    where,
)
from tinynet.functions.soft_targets import distillation
