"""The best network found whose file is at most 70,000 bytes.

Four blocks halve the picture and widen it, a fifth convolution looks once more, and the mean over what is
left of the picture decides.  With H x W x C the shape behind each layer:

    layer                                 64 x 64 x 3    weights   multiply-adds
    conv1 3x3, ReLU, pool1 2x2, norm1     32 x 32 x 8        216         884,736
    conv2 3x3, ReLU, pool2 2x2, norm2     16 x 16 x 16     1,152       1,179,648
    conv3 3x3, ReLU, pool3 2x2, norm3      8 x  8 x 32     4,608       1,179,648
    conv4 3x3, ReLU, pool4 2x2, norm4      4 x  4 x 48    13,824         884,736
    conv5 3x3, norm5, ReLU                 4 x  4 x 64    27,648         442,368
    average, dropout                               64
    dense, softmax                                  2        128             128

A block computes, for each channel o of its output,

    y[o] = scale[o] * (p[o] - mean[o]) / sqrt(variance[o] + 0.001) + shift[o]
    p[o] = the largest of 2x2 neighbours of max(0, bias[o] + sum over c of weight[c, o] * x[c])

where * is a 3x3 convolution.  ReLU and pool come before batch-norm, as in the post's network (small_cnn.py):
the three are then computed as one, and the normalisation sees a quarter of the pixels.

A pixel behind norm4 sees 46 x 46 of the picture's, a parasite and what is around it, one behind conv5 the
whole cell.  The mean does not mind where in the cell a parasite lies, and needs 2 weights a channel where
flattening would take 32.

48,018 parameters: in int8 (docs/int8.md), in which it ships, a byte for a weight.
"""

from __future__ import annotations

import tinynet as tn

FILTERS = (8, 16, 32, 48)  # of the blocks
LAST = 64
SIZE = 64


def cells_70k(size: int = SIZE, dropout: float = 0.2, seed: int = 0) -> tn.Sequential:
    """Images (size, size, 3) -> probabilities of uninfected, infected."""
    layers: list[tn.Layer] = []
    for number, filters in enumerate(FILTERS, start=1):
        layers += [
            tn.Conv2D(filters, 3, activation="relu", name=f"conv{number}"),
            tn.MaxPool2D(2, name=f"pool{number}"),
            tn.BatchNorm(name=f"norm{number}"),
        ]
    layers += [
        tn.Conv2D(LAST, 3, use_bias=False, name="conv5"),
        tn.BatchNorm(name="norm5"),
        tn.ReLU(name="relu5"),
        tn.GlobalAveragePool2D(name="average"),
        tn.Dropout(dropout, name="dropout"),
        tn.Dense(2, "softmax", name="dense"),
    ]
    return tn.Sequential(
        layers, (size, size, 3), class_names=("uninfected", "infected"), seed=seed, name="cells-70k"
    )
