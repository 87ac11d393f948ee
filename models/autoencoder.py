"""The report's autoencoder (section 4.3.1) and its classifier.

The encoder is three convolutions 3x3 with 16, 8 and 4 filters, each with ReLU and a 2x2 max-pool.
The decoder is four with 4, 8, 16 and 3.  Three pools mean three upsamplings, although the report
says that one follows each decoder convolution: the last has none.  For the classifier the decoder
is replaced by two dense layers.

The report's text says 64x64, its tables 32x32; 32x32 is the default here.
"""

from __future__ import annotations

import tinynet as tn
from tinynet.arguments import whole_number
from tinynet.errors import ArgumentError

HIDDEN = 216  # with 32x32 input a file of at most 70,000 bytes; 256 would not fit


def encoder_layers() -> list[tn.Layer]:
    """(h, w, 3) -> (h / 8, w / 8, 4)."""
    return [
        tn.Conv2D(16, 3, activation="relu", name="encoder1"),
        tn.MaxPool2D(2, name="pool1"),
        tn.Conv2D(8, 3, activation="relu", name="encoder2"),
        tn.MaxPool2D(2, name="pool2"),
        tn.Conv2D(4, 3, activation="relu", name="encoder3"),
        tn.MaxPool2D(2, name="pool3"),
    ]


def decoder_layers() -> list[tn.Layer]:
    """(h / 8, w / 8, 4) -> (h, w, 3)."""
    return [
        tn.Conv2D(4, 3, activation="relu", name="decoder1"),
        tn.UpSample2D(2, name="up1"),
        tn.Conv2D(8, 3, activation="relu", name="decoder2"),
        tn.UpSample2D(2, name="up2"),
        tn.Conv2D(16, 3, activation="relu", name="decoder3"),
        tn.UpSample2D(2, name="up3"),
        tn.Conv2D(3, 3, name="decoder4"),
    ]


def autoencoder(size: int = 32, seed: int = 0) -> tn.Sequential:
    """The autoencoder: images (size, size, 3) -> reconstructions of the same shape.

    size: a multiple of 8, or three poolings and upsamplings would not give the same size back.
    """
    if whole_number("autoencoder: size", size, 8) % 8:
        raise ArgumentError(f"autoencoder: size must be a multiple of 8, got {size}")
    return tn.Sequential(
        [*encoder_layers(), *decoder_layers()], (size, size, 3), seed=seed, name="autoencoder"
    )


def classifier(size: int = 32, hidden: int = HIDDEN, seed: int = 0) -> tn.Sequential:
    """The encoder and two dense layers: images (size, size, 3) -> probabilities of uninfected, infected."""
    return tn.Sequential(
        [
            *encoder_layers(),
            tn.Flatten(name="flatten"),
            tn.Dense(hidden, "relu", name="dense1"),
            tn.Dense(2, "softmax", name="dense2"),
        ],
        (size, size, 3),
        class_names=("uninfected", "infected"),
        seed=seed,
        name="autoencoder-classifier",
    )


def take_encoder(target: tn.Sequential, source: tn.Sequential) -> None:
    """Copy the encoder's weights of one model into another."""
    for name in ("encoder1", "encoder2", "encoder3"):
        for key, parameter in source.layer(name).parameters.items():
            target.layer(name).parameters[key].data[...] = parameter.data
