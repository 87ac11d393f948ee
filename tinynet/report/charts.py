"""The report's curves, as PNG bytes; in the style of the other plots, with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.metrics import roc_curve
from tinynet.plot_style import BLUE, GREY, INK, ORANGE, new_figure, plain_axes, png_bytes
from tinynet.plots import roc_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EDGES = (0.001, 0.999)  # of the thresholds shown: beyond them a logarithmic axis has no end


def roc(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> list[bytes]:
    """The ROC curve, and once more its upper left corner, where both classes occur and there is one."""
    whole = png_bytes(roc_figure(labels, probabilities, threshold))
    if labels.min() == labels.max():
        return [whole]
    called = probabilities >= threshold
    miss = max(float(called[labels == 0].mean()), 1 - float(called[labels == 1].mean()))
    reach = next((side for side in (0.02, 0.05, 0.1, 0.2) if miss < 0.7 * side), None)
    if reach is None:
        return [whole]
    corner = roc_figure(labels, probabilities, threshold)
    axes = corner.axes[0]
    for line in axes.get_lines()[:2]:  # the curve and chance, not the mark
        line.set_clip_on(True)
    axes.set(xlim=(-0.01 * reach, reach), ylim=(1 - reach, 1 + 0.01 * reach))
    axes.set_title(f"the upper left {100 * reach:.0f} %", fontsize=11, color=INK)
    return [whole, png_bytes(corner)]


def thresholds(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> bytes | None:
    """Sensitivity and specificity against the threshold; None with one class only."""
    return png_bytes(thresholds_figure(labels, probabilities, threshold)) if _both(labels) else None


def thresholds_figure(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """See thresholds.  The axis is logarithmic towards 0 and 1 (a logit axis)."""
    fpr, tpr, levels = roc_curve(labels, probabilities)
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    _logit_axis(axes)
    # Cells count that score >= t, so a level's values hold from above the next lower level up to itself.
    shown = []
    for values, name, colour, style in (
        (tpr, "sensitivity", ORANGE, "-"),
        (1 - fpr, "specificity", BLUE, "--"),
    ):
        across = np.concatenate([[_EDGES[0]], np.clip(levels[:0:-1], *_EDGES)])
        up = np.concatenate([values[-1:], values[:0:-1]])
        last = int(np.argmax(across >= _EDGES[1])) + 1 if across[-1] >= _EDGES[1] else len(across)
        across, up = across[:last], up[:last]
        if across[-1] < _EDGES[1]:  # above the highest score no cell is called infected
            across, up = np.append(across, _EDGES[1]), np.append(up, values[0])
        axes.step(across, up, where="pre", color=colour, linewidth=2, linestyle=style, label=name)
        shown.append(up[(across > _EDGES[0]) & (across < _EDGES[1])])
    lowest = min((float(values.min()) for values in shown if values.size), default=0.0)
    axes.set_ylim(max(0.0, np.floor((lowest - 0.01) * 20) / 20), 1.005)
    axes.axvline(float(np.clip(threshold, *_EDGES)), color=GREY, linewidth=1.4, linestyle=":",
                 label=f"threshold {threshold:.3g}")  # fmt: skip
    plain_axes(axes, "threshold", "share")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.legend(frameon=True, facecolor="white", edgecolor="none", framealpha=0.9, fontsize=10)
    return figure


def histogram(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> bytes:
    """How many cells of each class were given which probability, on a logarithmic scale."""
    return png_bytes(histogram_figure(labels, probabilities, threshold))


def histogram_figure(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """See histogram."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, 26)
    width = edges[1] * 0.42
    for label, name, colour in ((0, "uninfected", BLUE), (1, "infected", ORANGE)):
        counts = np.histogram(probabilities[labels == label], edges)[0]
        axes.bar(edges[:-1] + edges[1] * (0.28 + 0.44 * label), counts, width, color=colour, label=name)
    axes.set_yscale("log")
    axes.set_ylim(0.7, None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.axvline(threshold, color=GREY, linewidth=1.4, linestyle=":", label=f"threshold {threshold:.3g}")
    plain_axes(axes, "probability of infected", "cells (logarithmic)")
    axes.legend(facecolor="white", edgecolor="none", framealpha=0.9, fontsize=10, loc="upper center")
    return figure


def reliability(calibration: dict[str, Any]) -> bytes:
    """The share of infected cells against the probability they were given, before and after temperature."""
    return png_bytes(reliability_figure(calibration))


def reliability_figure(calibration: dict[str, Any]) -> Figure:
    """See reliability.  calibration: as report.measure gives it."""
    figure = new_figure(4.8, 4.7)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=":", label="perfect")
    if calibration["before"] is not None:
        _draw_bins(axes, calibration["before"]["bins"], BLUE, "s", "before temperature")
    after = "the probabilities" if calibration["before"] is None else "after temperature"
    _draw_bins(axes, calibration["bins"], ORANGE, "o", after)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    plain_axes(axes, "mean probability of infected", "share of infected cells")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    return figure


def _draw_bins(axes: Axes, bins: list[dict[str, Any]], colour: str, marker: str, name: str) -> None:
    across, up = ([point[key] for point in bins] for key in ("probability", "share"))
    ends = np.array([point["interval"] for point in bins]).reshape(-1, 2).T
    errors = np.maximum(np.abs(ends - np.array(up)), 0)
    axes.errorbar(across, up, yerr=errors, color=colour, marker=marker, markersize=5, linewidth=1.6,
                  elinewidth=1, capsize=2.5, label=name)  # fmt: skip


def _logit_axis(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("logit")
    axes.set_xlim(*_EDGES)
    axes.xaxis.set_major_locator(FixedLocator([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _both(labels: np.ndarray) -> bool:
    return bool(labels.min() != labels.max())
