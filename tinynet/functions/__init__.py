"""Differentiable functions, forward and backward side by side, on ordinary arrays or lane layout."""

from tinynet.functions import operators  # (gives Tensor its arithmetic)
from tinynet.functions.activation import log_softmax, relu, relu6, sigmoid, softmax, tanh
from tinynet.functions.composition import add_images, concatenate_channels, flatten
from tinynet.functions.convolution import conv2d, dense
from tinynet.functions.lanes import pack, unpack
from tinynet.functions.loss import binary_cross_entropy, mean_squared_error, softmax_cross_entropy
from tinynet.functions.normalization import batch_norm, dropout
from tinynet.functions.pooling import average_pool2d, global_average_pool2d, max_pool2d, upsample2d
from tinynet.functions.soft_targets import distillation
