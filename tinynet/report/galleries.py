"""The report's pictures of cells: what was got wrong, and where the network looked (Figures 7 to 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinynet import kernels
from tinynet.images import resize
from tinynet.inspect import activation_maps, drawing, enlarge, grad_cam, last_maps, mean_map
from tinynet.network import Network
from tinynet.pages import figure, picture, text
from tinynet.png import encode
from tinynet.random import permutation
from tinynet.report.evaluated import Evaluated

SHOWN = 60  # mistakes of each kind
EXAMPLES = 4  # of each field of the confusion matrix, with their maps
_CHANNELS = 16  # maps of a layer
_SIDE = 120  # pixels, of a cell on the page

TITLES = {
    "tp": "Infected, found",
    "tn": "Uninfected, left alone",
    "fp": "False positives: uninfected, called infected",
    "fn": "False negatives: infected, missed",
}


def mistakes(answers: Evaluated, field: str) -> list[str]:
    """A gallery of one kind of mistake ("fp" or "fn"), the surest first."""
    cells = answers.fields()[field]
    if not len(cells):
        return ["<p>None.</p>"]
    lines = [
        f"<p>{len(cells):,}, the surest first."
        + (f" The first {SHOWN}:" if len(cells) > SHOWN else "")
        + "</p>"
    ]
    if answers.load_image is None:
        return [*lines, "<p>The pictures are not at hand.</p>"]
    lines.append('<div class="gallery">')
    for cell in cells[:SHOWN].tolist():
        small = thumbnail(answers.load_image(cell))
        lines.append(
            _shown(small, answers.name(cell), f"{_chance(answers, cell)}<br>{text(answers.name(cell))}")
        )
    return [*lines, "</div>"]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The picture with its longer side at most _SIDE pixels, its proportions kept."""
    longer = max(image.shape[:2])
    if longer <= _SIDE:
        return image
    height, width = (max(1, round(side * _SIDE / longer)) for side in image.shape[:2])
    return resize(image, height, width)


@dataclass
class _Example:
    """A cell: its number, its picture as shown, and the layer's maps, their mean and Grad-CAM."""

    cell: int
    small: np.ndarray
    maps: np.ndarray
    mean: np.ndarray
    heat: np.ndarray


def explained(answers: Evaluated, model: Network) -> list[str]:
    """Maps of the last layer that has some, their mean and Grad-CAM over the cell, for cells of every field.

    Right answers are drawn at random, wrong ones are the surest.
    """
    assert answers.load_image is not None and model.preprocessing is not None
    layer, chosen = last_maps(model), examples(answers)
    cells = [cell for some in chosen.values() for cell in some]
    pictures = [answers.load_image(cell) for cell in cells]
    prepared = np.stack([model.preprocessing.prepare(one) for one in pictures])
    with kernels.using(kernels.for_images(4 * len(cells), model.multiply_adds()).NAME):
        maps, heat = activation_maps(model, prepared, layer), grad_cam(model, prepared, 1, layer)
    mean = mean_map(maps)
    shown = np.sort(np.argsort(-maps.max(axis=(0, 1, 2)), kind="stable")[:_CHANNELS])
    many = "" if len(shown) == maps.shape[3] else f" (the {len(shown)} most active of {maps.shape[3]})"
    lines = [
        f"<p>Layer <b>{text(layer)}</b>, {maps.shape[1]} x {maps.shape[2]} pixels{many}. From left to right: "
        "the cell; the mean of all maps over it (where the layer is active, for or against); Grad-CAM over "
        "it (what speaks for <b>infected</b>); the maps. Every picture has its own scale, from its least (of "
        f'Grad-CAM 0) <span class="scale" style="background:{drawing.SCALE_CSS}"></span> to its most, which '
        "stands below it: between cells compare the numbers, not the colours.</p>"
    ]
    by_cell = {
        cell: _Example(cell, thumbnail(pictures[k]), maps[k][..., shown], mean[k], heat[k])
        for k, cell in enumerate(cells)
    }
    for field, some in chosen.items():
        how = "drawn at random" if field in ("tp", "tn") else "the surest"
        lines.append(f"<h3>{TITLES[field]}</h3>")
        lines.append(f'<p class="note">{how}</p>' if some else "<p>None.</p>")
        for cell in some:
            lines += _row(answers, by_cell[cell])
    return lines


def examples(answers: Evaluated) -> dict[str, list[int]]:
    """At most EXAMPLES cells of each field: of the right ones drawn by the seed, of the wrong the surest."""
    chosen = {}
    for field, cells in answers.fields().items():
        if field in ("tp", "tn"):
            cells = permutation(answers.seed, 0, np.sort(cells), "report examples")
        chosen[field] = cells[:EXAMPLES].tolist()
    return {field: chosen[field] for field in TITLES}


def _row(answers: Evaluated, one: _Example) -> list[str]:
    height, width = one.small.shape[:2]
    name = answers.name(one.cell)
    overlays = {}
    for key, values, low in (("mean map", one.mean, None), ("Grad-CAM", one.heat, 0.0)):
        large = enlarge(drawing.unit_range(values, low)[None], height, width)[0]
        overlays[key] = drawing.overlay(one.small, large), f"{key}, at most {values.max():.3g}"
    maps = drawing.mosaic(drawing.map_tiles(one.maps), 8, 56)
    return [
        f'<p class="cell">{_chance(answers, one.cell)} {text(name)}</p>',
        '<div class="row">',
        _shown(one.small, name, "", _SIDE),
        *(_shown(seen, f"{key} of {name}", caption, 150) for key, (seen, caption) in overlays.items()),
        figure(
            picture(encode(maps), f"maps of {name}", maps.shape[1], pixels=True),
            f"maps, at most {one.maps.max():.3g}",
        ),
        "</div>",
    ]


def _shown(pixels: np.ndarray, alternative: str, caption: str, width: int | None = None) -> str:
    """A picture in its proportions, as large as _SIDE allows."""
    across = max(1, round(_SIDE * pixels.shape[1] / max(pixels.shape[:2])))
    return figure(picture(encode(pixels), alternative, across), caption, width)


def _chance(answers: Evaluated, cell: int) -> str:
    """The probability, with as many digits as tell it from 0 and 1."""
    value = float(answers.probabilities[cell])
    if 0 < value < 0.00005:
        return "<b>below 0.0001</b>"
    if 0.99995 <= value < 1:
        return "<b>above 0.9999</b>"
    return f"<b>{value:.4f}</b>"
