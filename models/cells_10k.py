"""The best network found whose file is at most 10,000 bytes.

Half of so small a file is its description, so what counts is how many operations there are as much as how
many weights: four convolutions, and in int8 (docs/int8.md) nothing else that has numbers of its own.  With
H x W x C the shape behind each layer:

    layer                                 64 x 64 x 3    weights   multiply-adds
    conv1 3x3, ReLU, pool1 2x2, norm1     31 x 31 x 8        216         830,304
    conv2 3x3, ReLU, pool2 2x2, norm2     14 x 14 x 12       864         726,624
    conv3 3x3, ReLU, pool3 2x2, norm3      6 x  6 x 16     1,728         248,832
    conv4 3x3, norm4, ReLU                 4 x  4 x 16     2,304          36,864
    average                                        16
    dense, softmax                                  2         32              32

The convolutions have no padding.  So batch-norm, which is scale[c] * x[c] + shift[c] once trained, becomes
part of the convolution after it,

    sum of w[c] * (scale[c] * x[c] + shift[c])  =  sum of (w[c] * scale[c]) * x[c]  +  sum of w[c] * shift[c]

which does not hold where padding puts zeros between: those would have to be -shift / scale.  norm4, which
has nothing but a ReLU after it, becomes part of the convolution before it in the same way.

5,286 parameters.
"""

from __future__ import annotations

from tinynet.models.cells_70k import network

import tinynet as tn

FILTERS = (8, 12, 16)  # of the blocks
LAST = 16
SIZE = 64


def cells_10k(size: int = SIZE, seed: int = 0) -> tn.Sequential:
    """Images (size, size, 3) -> probabilities of uninfected, infected.

    size: at least 38, or three poolings leave less than conv4 looks at.
    """
    return network("cells-10k", FILTERS, LAST, size, 0.0, seed)
