"""The post's small CNN: four blocks of convolution, ReLU, max-pool, batch-norm and dropout, two dense layers.

The post gives 32 filters for the first convolution; the others, and the dense layer's width, are those
of the code it goes with: 64, 64, 64, and 64.
"""

from __future__ import annotations

import tinynet as tn

FILTERS = (32, 64, 64, 64)


def small_cnn(size: int = 64, dropout: float = 0.2, seed: int = 0) -> tn.Sequential:
    """Images (size, size, 3) -> probabilities of uninfected, infected."""
    layers: list[tn.Layer] = []
    for number, filters in enumerate(FILTERS, start=1):
        layers += [
            tn.Conv2D(filters, 3, activation="relu", name=f"conv{number}"),
            tn.MaxPool2D(2, name=f"pool{number}"),
            tn.BatchNorm(name=f"norm{number}"),
            tn.Dropout(dropout, name=f"dropout{number}"),
        ]
    layers += [
        tn.Flatten(name="flatten"),
        tn.Dense(64, "relu", name="dense1"),
        tn.Dropout(dropout, name="dropout5"),
        tn.Dense(2, "softmax", name="dense2"),
    ]
    return tn.Sequential(
        layers, (size, size, 3), class_names=("uninfected", "infected"), seed=seed, name="small-cnn"
    )
