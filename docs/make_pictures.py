"""Draw the README's picture: `python docs/make_pictures.py`."""

from pathlib import Path

from tinynet.data.synthetic import synthetic_cells
from tinynet.plots import save_labelled_cells


def main() -> None:
    """Eight synthetic cells, labelled."""
    cells = synthetic_cells(8, size=96, seed=11)
    target = Path(__file__).parent / "pictures" / "cells.png"
    save_labelled_cells(cells.images, cells.labels, target, ("uninfected", "infected"), count=8, seed=5)


if __name__ == "__main__":
    main()
