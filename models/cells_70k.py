"""The best network found whose file is at most 70,000 bytes.

Three blocks halve the picture and widen it, a fourth convolution looks at what they found, and the mean over
the picture decides.  With H x W x C the shape behind each layer:

    layer                                 64 x 64 x 3    weights   multiply-adds
    conv1 3x3, ReLU, pool1 2x2, norm1     31 x 31 x 8        216         830,304
    conv2 3x3, ReLU, pool2 2x2, norm2     14 x 14 x 16     1,152         968,832
    conv3 3x3, ReLU, pool3 2x2, norm3      6 x  6 x 32     4,608         663,552
    conv4 3x3, norm4, ReLU                 4 x  4 x 64    18,432         294,912
    average, dropout                               64
    dense, softmax                                  2        128             128

A block computes, for each channel o of its output,

    y[o] = scale[o] * (p[o] - mean[o]) / sqrt(variance[o] + 0.001) + shift[o]
    p[o] = the largest of 2x2 neighbours of max(0, bias[o] + sum over c of weight[c, o] * x[c])

where * is a 3x3 convolution.  ReLU and pool come before batch-norm, as in the post's network (small_cnn.py):
the three are then computed as one, and the normalisation sees a quarter of the pixels.  The convolutions
have no padding, so that once trained every batch-norm is part of a convolution (cells_10k.py says how).

A pixel behind conv4 sees 38 x 38 of the picture's, a parasite and what is around it; the mean does not mind
where in the cell it lies, and needs 2 weights a channel where flattening would take 32.

24,834 parameters.  In float16 (docs/model-file.md) the file holds them in two bytes each.
"""

from __future__ import annotations

import tinynet as tn

FILTERS = (8, 16, 32)  # of the blocks
LAST = 64
SIZE = 64


def cells_70k(size: int = SIZE, dropout: float = 0.1, seed: int = 0) -> tn.Sequential:
    """Images (size, size, 3) -> probabilities of uninfected, infected.

    size: at least 38, or three poolings leave less than conv4 looks at.
    """
    return network("cells-70k", FILTERS, LAST, size, dropout, seed)


def network(
    name: str, filters: tuple[int, ...], last: int, size: int, dropout: float, seed: int
) -> tn.Sequential:
    """Blocks with so many filters, then a convolution with `last`, and the mean: also cells-10k's."""
    layers: list[tn.Layer] = []
    for number, width in enumerate(filters, start=1):
        layers += [
            tn.Conv2D(width, 3, padding="valid", activation="relu", name=f"conv{number}"),
            tn.MaxPool2D(2, name=f"pool{number}"),
            tn.BatchNorm(name=f"norm{number}"),
        ]
    number = len(filters) + 1
    layers += [
        tn.Conv2D(last, 3, padding="valid", use_bias=False, name=f"conv{number}"),
        tn.BatchNorm(name=f"norm{number}"),
        tn.ReLU(name=f"relu{number}"),
        tn.GlobalAveragePool2D(name="average"),
        *([tn.Dropout(dropout, name="dropout")] if dropout else []),
        tn.Dense(2, "softmax", name="dense"),
    ]
    return tn.Sequential(
        layers, (size, size, 3), class_names=("uninfected", "infected"), seed=seed, name=name
    )
