"""What all plots share: colours, axes, how pictures are shown and how a Figure becomes a PNG file.

Colours are Okabe and Ito's ("Color Universal Design", 2008), told apart with any colour vision.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np

from .errors import MissingDependencyError
from .files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"


def new_figure(width: float, height: float) -> Figure:
    """An empty one, so many inches large; raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError('plots need matplotlib: pip install "tinynet-cnn[plots]"') from error
    figure = Figure(figsize=(width, height), dpi=140, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    return memory.getvalue()


def save(figure: Figure, path: PathLike) -> None:
    """Write the figure as a PNG file, whole or not at all; raises FileAccessError."""
    write_atomically(path, [png_bytes(figure)])


def unit_range(picture: np.ndarray) -> np.ndarray:
    """Of any shape, uint8 or floats -> float64 in [0, 1]; NaN becomes 0."""
    if picture.dtype == np.uint8:
        return picture / 255.0
    return np.clip(np.nan_to_num(picture.astype(np.float64)), 0, 1)


def show_picture(axes: Axes, picture: np.ndarray) -> None:
    """The picture alone, uint8 or floats in [0, 1] (h, w, 3), without scales or frame."""
    axes.imshow(unit_range(picture), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def plain_axes(axes: Axes, across: str, up: str) -> None:
    """Name the axes, and take the frame's upper and right side away."""
    axes.set_xlabel(across, fontsize=11, color=INK)
    axes.set_ylabel(up, fontsize=11, color=INK)
    axes.tick_params(labelsize=10, color=GREY, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
