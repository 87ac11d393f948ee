"""The pictures a run leaves for a person to look at, as PNG files.

Each `save_...` builds a matplotlib Figure of its own, never through pyplot, so that nothing global
changes and threads do not meet; the matching `..._figure` returns the Figure for a notebook.  A file
is written under another name and renamed: a failure leaves the old one.

Every function raises MissingDependencyError without matplotlib, ShapeError and ArgumentError for
arrays it cannot draw, and FileAccessError where the file cannot be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentError, ShapeError
from .metrics import auc, roc_curve
from .plot_style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PathLike,
    new_figure,
    plain_axes,
    save,
    show_picture,
    unit_range,
)
from .random import permutation
from .texts import NOTICE, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASS_NAMES = ("uninfected", "infected")


def save_labelled_cells(
    images: np.ndarray,
    labels: np.ndarray,
    path: PathLike,
    class_names: Sequence[str] = _CLASS_NAMES,
    count: int = 8,
    seed: int = 0,
) -> None:
    """Up to `count` cells drawn at random, each under its label.

    images: (n, height, width, 3), uint8 or floats in [0, 1]; labels: (n,) indices into class_names.
    """
    save(labelled_cells_figure(images, labels, class_names, count, seed), path)


def labelled_cells_figure(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] = _CLASS_NAMES,
    count: int = 8,
    seed: int = 0,
) -> Figure:
    """See save_labelled_cells."""
    images, labels = np.asarray(images), np.asarray(labels)
    _pictures("images", images, 4)
    if labels.shape != images.shape[:1]:
        raise ShapeError(f"labels must have shape ({len(images)},), one an image, not {labels.shape}")
    if count < 1:
        raise ArgumentError(f"count must be at least 1, not {count!r}")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ArgumentError(f"labels must be below the number of class names, {len(class_names)}")
    chosen = permutation(seed, 0, np.arange(len(images)), "labelled cells")[:count]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(columns * 1.75, rows * 2.0)
    for k, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, k + 1)
        label = int(labels[index])
        show_picture(axes, images[index])
        axes.set_title(class_names[label], fontsize=11, color=ORANGE if label == 1 else BLUE)
    return figure


def save_augmented(originals: np.ndarray, augmented: np.ndarray, path: PathLike) -> None:
    """One row a cell: the original, then its augmented variants.

    originals: (k, height, width, 3); augmented: (k, m, height, width, 3); uint8 or floats in [0, 1].
    """
    save(augmented_figure(originals, augmented), path)


def augmented_figure(originals: np.ndarray, augmented: np.ndarray) -> Figure:
    """See save_augmented."""
    originals, augmented = np.asarray(originals), np.asarray(augmented)
    _pictures("originals", originals, 4)
    _pictures("augmented", augmented, 5)
    if len(originals) != len(augmented):
        raise ShapeError(
            f"augmented must hold variants of each of the {len(originals)} originals, not of {len(augmented)}"
        )
    rows, variants = augmented.shape[:2]
    figure = new_figure((variants + 1.15) * 1.3, rows * 1.24 + 0.35)
    grid = figure.add_gridspec(rows, variants + 2, width_ratios=[1, 0.05] + [1] * variants)
    for row in range(rows):
        for column in range(variants + 1):
            axes = figure.add_subplot(grid[row, column + (column > 0)])
            show_picture(axes, augmented[row, column - 1] if column else originals[row])
            if row == 0 and column < 2:
                axes.set_title("augmented" if column else "original", fontsize=11, loc="left", color=INK)
    return figure


def save_curves(history: Mapping[str, Sequence[float]], path: PathLike) -> None:
    """Loss and, where there is one, accuracy by epoch.

    history: lists of one number an epoch under "loss" and optionally "val_loss", "accuracy",
    "val_accuracy".  The loss axis is logarithmic where its values span a factor of 20.  A dotted line
    marks the best epoch: the lowest validation loss, or training loss without validation.  Epochs
    whose value is NaN or infinite are left out of the line.
    """
    save(curves_figure(history), path)


def curves_figure(history: Mapping[str, Sequence[float]]) -> Figure:
    """See save_curves."""
    if "loss" not in history or not len(history["loss"]):
        raise ArgumentError('history must hold at least one epoch under "loss"')
    watched = np.asarray(history["val_loss" if len(history.get("val_loss", ())) else "loss"], np.float64)
    best = int(np.nanargmin(watched)) + 1 if np.isfinite(watched).any() else None
    quantities = [name for name in ("loss", "accuracy") if len(history.get(name, ()))]
    figure = new_figure(5.2 * len(quantities), 3.7)
    for k, quantity in enumerate(quantities):
        axes = figure.add_subplot(1, len(quantities), k + 1)
        _draw_curve(axes, history, quantity, best)
    return figure


def _draw_curve(axes: Axes, history: Mapping[str, Sequence[float]], quantity: str, best: int | None) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

    shown = []
    for key, name, colour in ((quantity, "training", BLUE), ("val_" + quantity, "validation", ORANGE)):
        if not len(history.get(key, ())):
            continue
        values = np.asarray(history[key], np.float64)
        values = np.where(np.isfinite(values), values, np.nan)
        epochs = np.arange(1, len(values) + 1)
        marker = "o" if len(values) < 30 else None
        axes.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=name)
        shown.append(values)
    every = np.concatenate(shown)
    every = every[np.isfinite(every)]
    if quantity == "loss" and every.size and every.min() > 0 and every.max() / every.min() > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if best is not None:
        watched = shown[-1]
        note = f"best epoch {best}"
        if best <= len(watched) and np.isfinite(watched[best - 1]):
            note += f": {watched[best - 1]:.4g}"
        axes.axvline(best, color=GREY, linewidth=1.2, linestyle=":", label=note, zorder=0)
    plain_axes(axes, "epoch", quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.legend(fontsize=9.5, facecolor="white", edgecolor="none", framealpha=0.9)


def save_reconstructions(originals: np.ndarray, reconstructed: np.ndarray, path: PathLike) -> None:
    """Originals above what the autoencoder makes of them, with each one's error.

    Both (k, height, width, 3), uint8 or floats in [0, 1].  The error is the root of the mean squared
    difference over pixels and colours, in per cent of the full range.
    """
    save(reconstructions_figure(originals, reconstructed), path)


def reconstructions_figure(originals: np.ndarray, reconstructed: np.ndarray) -> Figure:
    """See save_reconstructions."""
    originals, reconstructed = np.asarray(originals), np.asarray(reconstructed)
    _pictures("originals", originals, 4)
    if reconstructed.shape != originals.shape:
        raise ShapeError(
            f"reconstructed must have the originals' shape {originals.shape}, not {reconstructed.shape}"
        )
    columns = len(originals)
    figure = new_figure(columns * 1.4 + 0.3, 3.3)
    for k in range(columns):
        before, after = unit_range(originals[k]), unit_range(reconstructed[k])
        error = 100 * float(np.sqrt(np.mean((before - after) ** 2)))
        for row, picture in enumerate((before, after)):
            axes = figure.add_subplot(2, columns, row * columns + k + 1)
            show_picture(axes, picture)
            if k == 0:
                axes.set_ylabel(("original", "reconstructed")[row], fontsize=11, color=INK)
        axes.set_xlabel(f"error {error:.1f} %", fontsize=10, color=INK)
    return figure


def save_confusion(
    confusion: Mapping[str, int], path: PathLike, class_names: Sequence[str] = _CLASS_NAMES
) -> None:
    """The confusion matrix: how many, and what share of the true class (of the row).

    confusion: counts under "tn", "fp", "fn", "tp"; class_names: of class 0 and class 1.
    """
    save(confusion_figure(confusion, class_names), path)


def confusion_figure(confusion: Mapping[str, int], class_names: Sequence[str] = _CLASS_NAMES) -> Figure:
    """See save_confusion."""
    missing = [name for name in ("tn", "fp", "fn", "tp") if name not in confusion]
    if missing:
        raise ArgumentError(f"confusion must hold tn, fp, fn and tp; {missing[0]} is missing")
    if len(class_names) != 2:
        raise ArgumentError(f"class_names must be two names, not {len(class_names)}")
    counts = np.array([[confusion["tn"], confusion["fp"]], [confusion["fn"], confusion["tp"]]])
    if counts.min() < 0:
        raise ArgumentError("confusion must hold counts, 0 or more")
    total = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(total, 1)
    figure = new_figure(4.6, 4.3)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            colour = "white" if share[row, column] > 0.55 else INK
            per_cent = percent(share[row, column]) if total[row, 0] else "no cells"
            axes.text(
                column, row - 0.06, f"{counts[row, column]:,}",
                ha="center", va="center", fontsize=19, color=colour,
            )  # fmt: skip
            axes.text(column, row + 0.17, per_cent, ha="center", va="center", fontsize=11, color=colour)
    axes.set_xticks([0, 1], class_names)
    axes.set_yticks(
        [0, 1], [f"{name}\n(n = {n:,})" for name, n in zip(class_names, total[:, 0], strict=True)]
    )
    plain_axes(axes, "predicted", "true")
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    _notice(figure)
    return figure


def save_roc(labels: np.ndarray, probabilities: np.ndarray, path: PathLike, threshold: float = 0.5) -> None:
    """The ROC curve, its area, and the point at which `threshold` works.

    labels: (n,) of 0 and 1; probabilities: (n,) of class 1.  With one class only there is no curve;
    the picture then says so.
    """
    save(roc_figure(labels, probabilities, threshold), path)


def roc_figure(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> Figure:
    """See save_roc."""
    area = auc(labels, probabilities)
    figure = new_figure(4.6, 4.7)
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    plain_axes(axes, "false positives: 1 - specificity", "found: sensitivity")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    _notice(figure)
    if area is None:
        axes.text(0.5, 0.5, "no curve: one class only", ha="center", va="center", fontsize=12, color=INK)
        return figure
    fpr, tpr, levels = roc_curve(labels, probabilities)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=":", label="chance")
    axes.plot(fpr, tpr, color=BLUE, linewidth=2, label=f"AUC {area:.4f}", clip_on=False)
    at = int(np.searchsorted(-levels, -threshold, side="right")) - 1  # the last level >= threshold
    axes.plot(
        fpr[at], tpr[at],
        color=ORANGE, marker="o", markersize=8, linestyle="none", clip_on=False, zorder=5,
        label=f"threshold {threshold:.3g}\nsensitivity {tpr[at]:.3f}\nspecificity {1 - fpr[at]:.3f}",
    )  # fmt: skip
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[1:] + handles[:1], names[1:] + names[:1], frameon=False, loc="lower right", fontsize=10
    )
    return figure


def _pictures(name: str, array: np.ndarray, dimensions: int) -> None:
    wanted = "(k, height, width, 3)" if dimensions == 4 else "(k, m, height, width, 3)"
    if array.ndim != dimensions or array.shape[-1] != 3:
        raise ShapeError(f"{name} must have shape {wanted}, not {array.shape}")
    if 0 in array.shape:
        raise ShapeError(f"{name} must not be empty, but has shape {array.shape}")


def _notice(figure: Figure) -> None:
    artist: Any = figure.supxlabel(NOTICE, fontsize=8, color="#6B6B6B")
    artist.set_style("italic")
