"""The best network found whose file is at most 10,000 bytes.

Half of so small a file is its description, so what counts is how many operations there are as much as how
many weights: four convolutions, and in int8 (docs/int8.md) nothing else that has numbers of its own.  With
H x W x C the shape behind each layer:

    layer                                 64 x 64 x 3    weights   multiply-adds
    conv1 3x3, ReLU, pool1 2x2            32 x 32 x 8        216         884,736
    conv2 3x3, ReLU, pool2 2x2            16 x 16 x 12       864         884,736
    conv3 3x3, norm3, ReLU, pool3 2x2      8 x  8 x 16     1,728         442,368
    conv4 3x3, norm4, ReLU, pool4 2x2      4 x  4 x 16     2,304         147,456
    average                                        16
    dense, softmax                                  2         32              32

Once trained, batch-norm is scale[o] * y[o] + shift[o] for each channel o.  Right behind a convolution it
becomes part of it,

    scale[o] * (sum of w[o] * x) + shift[o]  =  (sum of (scale[o] * w[o]) * x) + shift[o]

and costs no bytes.  Behind a pool, where cells-70k has it, it could not, and would take 500 of them.  The
first two convolutions, whose pictures are large, do without: each is computed as one with ReLU and pool.

5,230 parameters.
"""

from __future__ import annotations

import tinynet as tn

FILTERS = (8, 12, 16, 16)
SIZE = 64


def cells_10k(size: int = SIZE, seed: int = 0) -> tn.Sequential:
    """Images (size, size, 3) -> probabilities of uninfected, infected."""
    layers: list[tn.Layer] = []
    for number, filters in enumerate(FILTERS, start=1):
        if number <= 2:
            layers.append(tn.Conv2D(filters, 3, activation="relu", name=f"conv{number}"))
        else:
            layers += [
                tn.Conv2D(filters, 3, use_bias=False, name=f"conv{number}"),
                tn.BatchNorm(name=f"norm{number}"),
                tn.ReLU(name=f"relu{number}"),
            ]
        layers.append(tn.MaxPool2D(2, name=f"pool{number}"))
    layers += [tn.GlobalAveragePool2D(name="average"), tn.Dense(2, "softmax", name="dense")]
    return tn.Sequential(
        layers, (size, size, 3), class_names=("uninfected", "infected"), seed=seed, name="cells-10k"
    )
