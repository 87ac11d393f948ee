"""One picture and one model: what the model's layers make of it, as PNG files and a page that shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinynet import files, kernels, pages
from tinynet.errors import ArgumentError, FileAccessError, NonFiniteError
from tinynet.inspect import drawing
from tinynet.inspect.gradcam import grad_cam
from tinynet.inspect.maps import activation_maps, enlarge, first_convolution, image_layer, last_maps, mean_map
from tinynet.layers import Conv2D
from tinynet.network import Network
from tinynet.pages import text
from tinynet.png import encode

_SIDE = 240  # pixels of a picture on the page


@dataclass(frozen=True)
class Shown:
    """A PNG file: its name, its pixels uint8 (h, w, 3), what it shows, and a caption in HTML.

    width: on the page, by default one pixel a pixel.
    """

    file: str
    pixels: np.ndarray
    alternative: str
    caption: str
    width: int | None = None


def write(
    folder: Path,
    model: Network,
    picture: np.ndarray,
    name: str,
    layers: list[str] | None = None,
    class_index: int | None = None,
) -> Path:
    """Write PNG files and index.html into `folder`, which is made if need be; returns the page's path.

    picture: uint8 (H, W, 3), RGB, of any size; name: what it is called, for the page.
    layers: whose maps are shown, by default all convolutions'.  class_index: what Grad-CAM explains, by
    default class 1 of two and the most probable of more.
    Raises ArgumentError, ShapeError for layers and classes that are none, and FileAccessError.
    """
    with kernels.using(kernels.for_images(8, model.multiply_adds()).NAME):
        parts = _parts(model, picture, layers, class_index)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FileAccessError(f"{folder}: {problem.strerror or problem}") from None
    body = []
    for title, introduction, shown in parts:
        body += [f"<h2>{text(title)}</h2>", *(f"<p>{line}</p>" for line in introduction)]
        body.append('<div class="row">')
        for one in shown:
            files.write_atomically(folder / one.file, [encode(one.pixels)])
            width = one.width or one.pixels.shape[1]
            image = pages.picture(one.file, one.alternative, width, pixels=True)
            body.append(pages.figure(image, one.caption, width))
        body.append("</div>")
    page = folder / "index.html"
    files.write_atomically(page, [pages.page(f"{model.name} looks at {name}", body)])
    return page


def _parts(
    model: Network, picture: np.ndarray, layers: list[str] | None, class_index: int | None
) -> list[tuple[str, list[str], list[Shown]]]:
    """Title, paragraphs and pictures of each part of the page."""
    if model.preprocessing is None:
        raise ArgumentError(f"model {model.name!r} cannot be given pictures: it has no preprocessing")
    prepared = model.preprocessing.prepare(picture)
    layers = layers or [layer.path for layer in model.chain.leaves() if isinstance(layer, Conv2D)]
    for layer in layers:
        image_layer(model, layer)  # a wrong name is told before anything is computed
    answer = model.predict(prepared[None])[0]
    if not np.isfinite(answer).all():
        raise NonFiniteError(f"model {model.name!r} gives NaN or infinity for this picture")
    explained = _explained(model, answer, class_index)
    parts = [("The picture", _said(model, answer), _seen(picture, prepared))]
    parts.append(_filters(model))
    for number, layer in enumerate(layers, start=1):
        parts.append(_layer(model, picture, prepared, layer, number, explained))
    return parts


def _class_name(model: Network, index: int) -> str:
    names = model.class_names or ()
    return str(names[index]) if index < len(names) else f"class {index}"


def _explained(model: Network, answer: np.ndarray, class_index: int | None) -> int | None:
    """The class that Grad-CAM explains; None for a model whose output is no scores."""
    if answer.ndim != 1:
        if class_index is not None:
            raise ArgumentError(f"model {model.name!r} has no classes: its output is {answer.shape}")
        return None
    if class_index is not None:
        return class_index
    if len(answer) > 2:
        return int(answer.argmax())
    return 1 if len(answer) == 2 or model.ending() == "sigmoid" else 0


def _said(model: Network, answer: np.ndarray) -> list[str]:
    """The model's answer in a sentence or two."""
    if answer.ndim != 1:
        return [f"The model's output is {' x '.join(map(str, answer.shape))} numbers, no classes."]
    if model.ending() not in ("softmax", "sigmoid"):
        return ["The model's output: " + ", ".join(f"{value:.4g}" for value in answer[:10])]
    two = [1 - answer[0], answer[0]] if len(answer) == 1 else answer
    chances = ", ".join(f"{text(_class_name(model, k))} {value:.4f}" for k, value in enumerate(two))
    lines = [f"The model's answer: {chances}."]
    if len(two) == 2:
        called = _class_name(model, int(two[1] >= model.threshold))
        lines.append(f"At its threshold of {model.threshold:.4g} it calls this <b>{text(called)}</b>.")
    return lines


def _seen(picture: np.ndarray, prepared: np.ndarray) -> list[Shown]:
    height, width = picture.shape[:2]
    small = "x".join(map(str, prepared.shape[1::-1]))
    large, seen = (drawing.magnify(one, _SIDE) for one in (picture, prepared))
    return [
        Shown("picture.png", large, "the picture", f"The file, {width}x{height}.", _SIDE),
        Shown("input.png", seen, "what the model sees", f"What the model sees, {small}.", _SIDE),
    ]


def _filters(model: Network) -> tuple[str, list[str], list[Shown]]:
    layer = first_convolution(model)
    weights = layer.parameters["weight"].data
    tiles = drawing.filter_tiles(weights)
    largest = float(np.abs(weights).max())
    kernel = "x".join(map(str, weights.shape[:2]))
    meaning = (
        "Each tile is one filter in the colours it takes up: grey is 0, a red tinge a positive weight on red."
        if weights.shape[2] == 3
        else "Each tile is one filter's weights for one channel: grey is 0, white positive."
    )
    shown = Shown(
        "filters.png",
        drawing.mosaic(tiles, 8, 48),
        f"filters of {layer.path}",
        f"{layer.filters} filters of {kernel}; the largest weight is {largest:.3g}.",
    )
    return f"Filters of {layer.path}", [meaning], [shown]


def _layer(
    model: Network, picture: np.ndarray, prepared: np.ndarray, layer: str, number: int, explained: int | None
) -> tuple[str, list[str], list[Shown]]:
    maps = activation_maps(model, prepared[None], layer)
    height, width, channels = maps.shape[1:]
    stem = f"{number:02d}-{re.sub(r'[^A-Za-z0-9_-]', '-', layer)[:40]}"
    mean = mean_map(maps)[0]
    shown = [
        _over(picture, drawing.unit_range(mean), f"{stem}-mean.png", f"mean map of {layer}",
              f"The mean of the maps over the picture, from {mean.min():.3g} to {mean.max():.3g}: where the "
              "layer is active, whatever for.")
    ]  # fmt: skip
    introduction = []
    if explained is not None:
        heat = grad_cam(model, prepared[None], explained, layer)[0]
        name = text(_class_name(model, explained))
        most = float(heat.max())
        what = (
            f"what speaks for <b>{name}</b>, up to {most:.3g}" if most > 0 else f"nothing speaks for {name}"
        )
        shown.append(
            _over(picture, drawing.unit_range(heat, 0.0), f"{stem}-grad-cam.png", f"Grad-CAM of {layer}",
                  f"Grad-CAM: {what}.")
        )  # fmt: skip
        if layer == _usual(model):
            introduction.append(
                "Grad-CAM is usually taken of this layer, the last whose maps tell places apart."
            )
    shown.append(
        Shown(
            f"{stem}-maps.png",
            drawing.mosaic(drawing.map_tiles(maps[0]), 8, 80),
            f"activation maps of {layer}",
            f"{channels} maps of {height}x{width}, row by row; one scale from {maps.min():.3g} (dark) to "
            f"{maps.max():.3g} (yellow).",
        )
    )
    return f"{layer}: {height} x {width} x {channels}", introduction, shown


def _usual(model: Network) -> str | None:
    """The layer that Grad-CAM is usually taken of, if there is one."""
    try:
        return last_maps(model)
    except ArgumentError:
        return None


def _over(picture: np.ndarray, heat: np.ndarray, file: str, alternative: str, caption: str) -> Shown:
    """Heat from 0 to 1 over the picture, both enlarged."""
    large = drawing.magnify(picture, _SIDE)
    whole = enlarge(heat[None], *large.shape[:2])[0]
    return Shown(file, drawing.overlay(large, whole), alternative, caption, _SIDE)
