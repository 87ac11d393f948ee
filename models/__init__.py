"""The networks tinynet is made for, as functions that build them; trained weights in weights/."""

from tinynet.models.autoencoder import autoencoder, classifier, encoder_layers
from tinynet.models.cells_10k import cells_10k
from tinynet.models.cells_70k import cells_70k
from tinynet.models.small_cnn import small_cnn

CLASS_NAMES = ("uninfected", "infected")

__all__ = [
    "CLASS_NAMES",
    "autoencoder",
    "cells_10k",
    "cells_70k",
    "classifier",
    "encoder_layers",
    "small_cnn",
]
