"""The studies' own pictures, in the style of tinynet/plot_style.py, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tinynet.plot_style import BLUE, GREY, INK, ORANGE, new_figure, plain_axes, save, show_picture

_TILE, _GAP = 128, 8  # pixels of a picture in rows of them, and between
_KINDS = ((0, "uninfected", BLUE), (1, "infected", ORANGE))


def class_balance(counts: Mapping[str, int], path: Path) -> None:
    """A bar a class, with its number."""
    figure = new_figure(3.2, 3.4)
    axes = figure.add_subplot()
    names, values = list(counts), list(counts.values())
    axes.bar(names, values, color=[BLUE, ORANGE], width=0.6)
    for place, value in enumerate(values):
        axes.text(place, value, f"{value:,}", ha="center", va="bottom", fontsize=10, color=INK)
    plain_axes(axes, "", "cells")
    save(figure, path)


def sizes(heights_and_widths: np.ndarray, labels: np.ndarray, path: Path, marks: Sequence[int]) -> None:
    """How many pictures have which longest side, by class; int (n, 2); marks: sizes to draw a line at."""
    longest = heights_and_widths.max(axis=1)
    edges = np.arange(longest.min() // 10 * 10, longest.max() + 11, 10)
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    values = [longest[labels == label] for label, _, _ in _KINDS]
    axes.hist(values, edges, stacked=True, color=[k[2] for k in _KINDS], label=[k[1] for k in _KINDS])
    for mark in marks:
        axes.axvline(mark, color=GREY, linewidth=1, linestyle=":")
    plain_axes(axes, "longest side, pixels (dotted: the sizes that networks take)", "cells")
    axes.legend(frameon=False, fontsize=10)
    save(figure, path)


def patients(cells: Sequence[int], infected: Sequence[int], path: Path) -> None:
    """Cells of each patient, infected ones below; patients ordered by their infected share."""
    total, sick = np.array(cells), np.array(infected)
    order = np.lexsort((total, sick / total))
    figure = new_figure(8.4, 3.6)
    axes = figure.add_subplot()
    place = np.arange(len(total))
    axes.bar(place, sick[order], width=1, color=ORANGE, label="infected")
    axes.bar(place, (total - sick)[order], width=1, bottom=sick[order], color=BLUE, label="uninfected")
    plain_axes(axes, "patients, by the infected share of their cells", "cells")
    axes.set_xticks([])
    axes.legend(frameon=False, fontsize=10)
    save(figure, path)


def stain(colours: Sequence[Sequence[float]], path: Path) -> None:
    """The mean colour of each patient's uninfected cells: as stripes, and red against blue."""
    mean = np.array(colours)
    order = np.argsort(mean[:, 0] - mean[:, 2])
    figure = new_figure(8.4, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    left.imshow(np.clip(mean[order], 0, 255)[None] / 255, aspect="auto", interpolation="nearest")
    left.set_yticks([])
    left.set_xticks([])
    plain_axes(left, "mean colour of each patient's uninfected cells", "")
    right.scatter(mean[:, 0], mean[:, 2], c=np.clip(mean, 0, 255) / 255, edgecolors=INK, linewidths=0.4, s=34)
    plain_axes(right, "red", "blue")
    save(figure, path)


def sweep(series: Mapping[str, Sequence[tuple[int, int, float, Sequence[float] | None]]], path: Path) -> None:
    """Accuracy against multiply-accumulates: by network (size, multiply-accumulates, accuracy, interval)."""
    figure = new_figure(6.8, 4.2)
    axes = figure.add_subplot()
    for (name, points), colour, marker in zip(series.items(), (BLUE, ORANGE), "os", strict=False):
        across, up = [p[1] for p in points], [p[2] for p in points]
        errors = np.array([[0, 0] if p[3] is None else [p[2] - p[3][0], p[3][1] - p[2]] for p in points]).T
        axes.errorbar(
            across, up, yerr=errors, color=colour, marker=marker, capsize=3, linewidth=1.6, label=name
        )
        for point in points:
            axes.annotate(str(point[0]), (point[1], point[2]), (5, 5), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([1e5, 1e6, 1e7, 1e8], ["0.1 million", "1 million", "10 million", "100 million"])
    everything = [point[1] for points in series.values() for point in points]
    axes.set_xlim(min(everything) / 1.6, max(everything) * 1.6)
    plain_axes(axes, "multiply-accumulates an image (numbers: pixels a side)", "accuracy, unseen patients")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.legend(frameon=False, fontsize=10, loc="lower right")
    save(figure, path)


def latent(places: np.ndarray, labels: np.ndarray, shares: Sequence[float], path: Path) -> None:
    """Points (n, 2) by class; shares: of the variance that either axis has."""
    figure = new_figure(5.4, 4.8)
    axes = figure.add_subplot()
    for label, name, colour in _KINDS:
        own = places[labels == label]
        axes.scatter(own[:, 0], own[:, 1], s=5, color=colour, alpha=0.35, linewidths=0, label=name)
    names = [
        f"principal axis {k + 1} ({100 * share:.0f} % of the variance)" for k, share in enumerate(shares)
    ]
    plain_axes(axes, *names)
    axes.legend(frameon=False, fontsize=10, markerscale=3)
    save(figure, path)


def two_stages(
    histories: Mapping[str, tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]]], path: Path
) -> None:
    """Accuracy and loss by epoch, on frozen features and then unfrozen, a row a recipe."""
    figure = new_figure(5.2 * 2, 3.2 * len(histories))
    grid = figure.subplots(len(histories), 2, squeeze=False)
    for row, (name, (frozen, whole)) in zip(grid, histories.items(), strict=True):
        for axes, quantity in zip(row, ("accuracy", "loss"), strict=True):
            keys = ((quantity, "training", BLUE), (f"val_{quantity}", "validation", ORANGE))
            for key, what, colour in keys:
                values = [*frozen[key], *whole[key]]
                axes.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=1.6, label=what)
            axes.axvline(len(frozen["loss"]) + 0.5, color=GREY, linestyle=":", label="unfrozen from here")
            axes.set_title(name, fontsize=10, color=INK)
            plain_axes(axes, "epoch", quantity)
            axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def rows(
    pictures: Sequence[Sequence[np.ndarray]], left: Sequence[str], above: Sequence[str], path: Path
) -> None:
    """Square pictures, uint8 or floats in [0, 1], in rows; a name before each row and above each column.

    They are laid out as one: a plot for each would take seconds.
    """
    height, width = len(pictures), max(map(len, pictures))
    step = _TILE + _GAP
    whole = np.full((height * step - _GAP, width * step - _GAP, 3), 255, np.uint8)
    for row, line in enumerate(pictures):
        for column, picture in enumerate(line):
            top, start = row * step, column * step
            whole[top : top + _TILE, start : start + _TILE] = _tile(picture)
    beside = 1.7 if any(left) else 0.3
    figure = new_figure(1.15 * width + beside, 1.15 * height + (0.45 if any(above) else 0))
    axes = figure.add_subplot()
    show_picture(axes, whole)
    middle = _TILE / 2
    for row, name in enumerate(left):
        axes.text(-8, row * step + middle, name, ha="right", va="center", fontsize=9, color=INK)
    for column, name in enumerate(above):
        axes.text(column * step + middle, -8, name, ha="center", va="bottom", fontsize=9, color=INK)
    save(figure, path)


def _tile(picture: np.ndarray) -> np.ndarray:
    """A picture as uint8 (_TILE, _TILE, 3), each of its pixels a square or nearly."""
    levels = picture if picture.dtype == np.uint8 else np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    down, across = (np.arange(_TILE) * side // _TILE for side in levels.shape[:2])
    return levels[down[:, None], across]
