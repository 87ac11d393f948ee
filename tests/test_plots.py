from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import hide_matplotlib

from tinynet import plots
from tinynet.errors import ArgumentError, FileAccessError, MissingDependencyError, ShapeError

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

generator = np.random.default_rng(0)
IMAGES = generator.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(12) % 2
AUGMENTED = generator.random((3, 4, 16, 16, 3))
HISTORY = {
    "loss": [0.9, 0.5, 0.3, 0.2],
    "val_loss": [0.8, 0.6, 0.45, 0.55],
    "accuracy": [0.6, 0.8, 0.9, 0.95],
    "val_accuracy": [0.55, 0.7, 0.8, 0.78],
}
COUNTS = {"tn": 90, "fp": 10, "fn": 4, "tp": 1196}
TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])

SAVERS = {
    "save_labelled_cells": lambda path: plots.save_labelled_cells(IMAGES, LABELS, path),
    "save_augmented": lambda path: plots.save_augmented(IMAGES[:3], AUGMENTED, path),
    "save_curves": lambda path: plots.save_curves(HISTORY, path),
    "save_reconstructions": lambda path: plots.save_reconstructions(IMAGES[:4], IMAGES[4:8], path),
    "save_confusion": lambda path: plots.save_confusion(COUNTS, path),
    "save_roc": lambda path: plots.save_roc(TRUTH, PROBABILITIES, path, 0.5),
}


def texts(figure) -> list[str]:
    """Every text the figure shows, tick labels left out."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in axes.texts]
        if axes.get_legend():
            found += [text.get_text() for text in axes.get_legend().get_texts()]
    return [text for text in found if text]


def shown(axes) -> np.ndarray:
    (picture,) = axes.get_images()
    return np.asarray(picture.get_array())


@pytest.mark.parametrize("name", SAVERS)
def test_the_file_is_a_picture_with_something_in_it(name, tmp_path):
    SAVERS[name](tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert all(400 <= side <= 3000 for side in picture.size)
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    ink = (pixels != 255).any(axis=2)
    assert 0.02 < ink.mean() < 0.98
    # Nothing is cut off: a margin of white all round.
    assert not (ink[0].any() or ink[-1].any() or ink[:, 0].any() or ink[:, -1].any())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", SAVERS)
def test_the_same_input_gives_the_same_bytes(name, tmp_path):
    SAVERS[name](tmp_path / "a.png")
    SAVERS[name](str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", SAVERS)
def test_a_failure_keeps_the_old_file_and_leaves_no_litter(name, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(FileAccessError, match=r"a\.png could not be written: no space left"):
        SAVERS[name](tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileAccessError, match="nowhere"):
        plots.save_confusion(COUNTS, tmp_path / "nowhere" / "a.png")


@pytest.mark.parametrize("name", SAVERS)
def test_without_matplotlib_the_extra_is_named(name, tmp_path, monkeypatch):
    hide_matplotlib(monkeypatch)
    with pytest.raises(MissingDependencyError, match=r"tinynet-cnn\[plots\]"):
        SAVERS[name](tmp_path / "a.png")


def test_neither_import_nor_drawing_touches_pyplot(tmp_path):
    code = (
        "import sys, tinynet.plots as plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plots.save_confusion({COUNTS!r}, {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_labelled_cells_show_each_picture_under_its_own_label():
    figure = plots.labelled_cells_figure(IMAGES, LABELS, ("plain", "parasite"), count=8, seed=3)
    assert len(figure.axes) == 8
    seen = set()
    for axes in figure.axes:
        (index,) = (k for k in range(12) if np.array_equal(shown(axes), IMAGES[k] / 255))
        assert axes.get_title() == ("plain", "parasite")[LABELS[index]]
        seen.add(index)
    assert len(seen) == 8
    other = plots.labelled_cells_figure(IMAGES, LABELS, count=8, seed=4)
    assert any(not np.array_equal(shown(a), shown(b)) for a, b in zip(figure.axes, other.axes, strict=True))
    assert len(plots.labelled_cells_figure(IMAGES[:3], LABELS[:3]).axes) == 3


def test_augmented_rows_are_the_original_and_its_variants():
    figure = plots.augmented_figure(IMAGES[:3], AUGMENTED)
    assert len(figure.axes) == 15
    for row in range(3):
        first, *rest = figure.axes[5 * row : 5 * row + 5]
        assert np.array_equal(shown(first), IMAGES[row] / 255)
        for k, axes in enumerate(rest):
            assert np.array_equal(shown(axes), AUGMENTED[row, k])
    assert texts(figure) == ["original", "augmented"]


def test_curves_show_the_history_and_mark_the_lowest_validation_loss():
    figure = plots.curves_figure(HISTORY)
    loss, accuracy = figure.axes
    for axes, keys in ((loss, ("loss", "val_loss")), (accuracy, ("accuracy", "val_accuracy"))):
        training, validation, best = axes.get_lines()
        for line, key in ((training, keys[0]), (validation, keys[1])):
            assert line.get_xdata().tolist() == [1, 2, 3, 4]
            assert line.get_ydata().tolist() == HISTORY[key]
        assert set(best.get_xdata()) == {3}
    assert "best epoch 3: 0.45" in texts(figure) and "best epoch 3: 0.8" in texts(figure)
    assert loss.get_yscale() == "linear"


def test_a_history_of_reconstruction_has_one_panel_and_decades_a_logarithmic_axis():
    figure = plots.curves_figure({"loss": [1.0, 0.1, 0.01, 0.02], "accuracy": []})
    (axes,) = figure.axes
    assert axes.get_ylabel() == "loss" and axes.get_yscale() == "log"
    assert "best epoch 3: 0.01" in texts(figure)
    assert plots.curves_figure({"loss": [1.0, 0.0]}).axes[0].get_yscale() == "linear"


def test_curves_stand_epochs_without_a_number(tmp_path):
    figure = plots.curves_figure({"loss": [1.0, 0.5, float("nan")], "val_loss": [float("inf"), 0.7, 0.9]})
    assert "best epoch 2: 0.7" in texts(figure)
    figure = plots.curves_figure({"loss": [float("nan")]})
    assert not any("best" in text for text in texts(figure))
    plots.save_curves({"loss": [float("nan")]}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_reconstructions_tell_the_error_of_each_image():
    original = np.zeros((2, 8, 8, 3))
    made = original.copy()
    made[1, :4] = 0.5  # half of the pixels wrong by one half: root mean square 0.3536
    figure = plots.reconstructions_figure(original, made)
    assert sorted(texts(figure)) == ["error 0.0 %", "error 35.4 %", "original", "reconstructed"]
    assert [figure.axes[k].get_xlabel() for k in (1, 3)] == ["error 0.0 %", "error 35.4 %"]
    assert np.array_equal(shown(figure.axes[3]), made[1])


def test_confusion_shows_counts_and_row_shares():
    figure = plots.confusion_figure(COUNTS, ("plain", "parasite"))
    (axes,) = figure.axes
    at = {}
    for text in axes.texts:
        x, y = text.get_position()
        at.setdefault((round(y), round(x)), []).append(text.get_text())
    assert at == {
        (0, 0): ["90", "90.0 %"],
        (0, 1): ["10", "10.0 %"],
        (1, 0): ["4", "0.3 %"],
        (1, 1): ["1,196", "99.7 %"],
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["plain", "parasite"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "plain\n(n = 100)",
        "parasite\n(n = 1,200)",
    ]
    assert "Not a medical device; for research and teaching." in texts(figure)
    empty = plots.confusion_figure({"tn": 5, "fp": 0, "fn": 0, "tp": 0})
    assert texts(empty).count("no cells") == 2


@pytest.mark.parametrize(
    ("threshold", "point"),
    [
        (0.5, (0.25, 0.75)),
        (0.35, (0.25, 1.0)),
        (0.6, (0.25, 0.75)),
        (0.61, (0, 0.75)),
        (1.0, (0, 0)),
        (0, (1, 1)),
    ],
)
def test_roc_marks_where_the_threshold_works(threshold, point):
    figure = plots.roc_figure(TRUTH, PROBABILITIES, threshold)
    (axes,) = figure.axes
    _, curve, mark = axes.get_lines()
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == point
    assert np.allclose(curve.get_xdata(), [0, 0, 0, 0, 0.25, 0.25, 0.5, 0.75, 1])
    assert np.allclose(curve.get_ydata(), [0, 0.25, 0.5, 0.75, 0.75, 1, 1, 1, 1])
    assert "AUC 0.9375" in texts(figure)
    assert any(f"specificity {1 - point[0]:.3f}" in text for text in texts(figure))


def test_roc_of_one_class_says_so():
    figure = plots.roc_figure(np.zeros(5, int), np.linspace(0, 1, 5))
    assert "no curve: one class only" in texts(figure)
    assert not figure.axes[0].get_lines()


@pytest.mark.parametrize(
    ("draw", "error", "words"),
    [
        (lambda: plots.labelled_cells_figure(IMAGES[0], LABELS), ShapeError, "images"),
        (lambda: plots.labelled_cells_figure(IMAGES[:0], LABELS[:0]), ShapeError, "empty"),
        (lambda: plots.labelled_cells_figure(IMAGES, LABELS[:3]), ShapeError, "labels"),
        (lambda: plots.labelled_cells_figure(IMAGES, LABELS + 1), ArgumentError, "labels"),
        (lambda: plots.labelled_cells_figure(IMAGES, LABELS, count=0), ArgumentError, "count"),
        (lambda: plots.augmented_figure(IMAGES[:2], AUGMENTED), ShapeError, "augmented"),
        (lambda: plots.augmented_figure(IMAGES[:3], IMAGES[:3]), ShapeError, "augmented"),
        (lambda: plots.reconstructions_figure(IMAGES, IMAGES[:3]), ShapeError, "reconstructed"),
        (lambda: plots.curves_figure({"val_loss": [1.0]}), ArgumentError, "loss"),
        (lambda: plots.confusion_figure({"tn": 1, "fp": 1, "fn": 1}), ArgumentError, "tp is missing"),
        (lambda: plots.confusion_figure({**COUNTS, "fp": -1}), ArgumentError, "0 or more"),
        (lambda: plots.confusion_figure(COUNTS, ("one",)), ArgumentError, "class_names"),
        (lambda: plots.roc_figure(TRUTH, PROBABILITIES[:3]), ShapeError, "probabilities"),
    ],
)
def test_bad_input_is_named(draw, error, words):
    with pytest.raises(error, match=words):
        draw()
