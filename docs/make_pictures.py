"""Draw the pictures of the README and the pages: `python docs/make_pictures.py`."""

from pathlib import Path

import numpy as np

import tinynet as tn
from tinynet import inspect
from tinynet.data.synthetic import synthetic_cells
from tinynet.inspect import drawing
from tinynet.plots import save_labelled_cells
from tinynet.png import encode

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """Synthetic cells, labelled, and where a network looks in some of them."""
    cells = synthetic_cells(8, size=96, seed=11)
    save_labelled_cells(
        cells.images, cells.labels, PICTURES / "cells.png", ("uninfected", "infected"), count=8, seed=5
    )
    (PICTURES / "looking.png").write_bytes(encode(looking()))


def looking() -> np.ndarray:
    """Four infected cells; below each the mean map of small-cnn's last convolution, and Grad-CAM."""
    cells = synthetic_cells(20, size=96, seed=14)
    chosen = cells.images[cells.labels == 1][:4]
    model = tn.load("small-cnn")
    means = inspect.mean_map(inspect.activation_maps(model, list(chosen)))
    heats = inspect.grad_cam(model, list(chosen))
    rows = [
        chosen,
        *(
            [drawing.overlay(cell, drawing.unit_range(one)) for cell, one in zip(chosen, some, strict=True)]
            for some in (means, heats)
        ),
    ]
    return drawing.mosaic(np.concatenate(rows), 4, 96)


if __name__ == "__main__":
    main()
