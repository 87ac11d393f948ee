"""A trained model in smaller numbers: calibrated on its training patients, measured on its test patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.data import load_images, scan_folder
from tinynet.errors import ArgumentError, DataError
from tinynet.model import Sequential
from tinynet.runs.data import RunData, load_as_trained, training_seed
from tinynet.runs.run import for_the_file, measure_parts

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model

IMAGES = 1024  # to calibrate with: more changed nothing that could be measured (docs/int8.md)
FORMATS = ("int8", "float16")


@dataclass
class Quantized:
    """The new model, and the metrics of it and of the old one by part of the data, where there was data."""

    model: Sequential | Int8Model
    before: dict[str, Any]
    after: dict[str, Any]


def quantize(
    model: Sequential,
    name: str,
    number_format: str,
    data: str | None = None,
    exclude: str | None = None,
    *,
    part: str = "training",
    images: int = IMAGES,
    calibration: str | None = None,
    progress: bool = False,
) -> Quantized:
    """The model with its weights in int8 or float16.

    name         of the model file, for messages
    data         a folder of cells.  int8 needs it, to calibrate; where it is what the model was trained on,
                 both models are measured on the part that the training did not see
    part         what int8 is calibrated on: "training", the patients that the model was trained on, or
                 "all" pictures of another folder
    images       how many of them, drawn with the seed of the training; 0 for all

    Raises ArgumentError or DataError where there is nothing to calibrate with, or where it is not known
    which pictures the model was trained on.
    """
    if number_format not in FORMATS:
        raise ArgumentError(f"--to must be one of {', '.join(FORMATS)}, got {number_format!r:.40}")
    if not isinstance(model, Sequential) or model.number_format == number_format:
        raise ArgumentError(f"{name} is in {model.number_format} already: give the model that it was made of")
    if data is None and number_format == "int8":
        raise ArgumentError("int8 needs pictures of cells to calibrate with: give --data DIR")
    divided: RunData | None = None
    if data is not None and part == "training":
        try:
            divided = load_as_trained(model, name, data, exclude, "--part training", progress=progress)
        except (ArgumentError, DataError) as unknown:
            raise ArgumentError(f"{unknown}; --part all takes all pictures of a folder") from None
    if number_format == "float16":
        made = model.quantize("float16")
    else:
        assert data is not None
        if divided is not None:
            pictures = divided.images[_draw(divided.training, images, training_seed(model))]
        else:
            pictures = _all_pictures(model, data, exclude, images, progress)
        made = model.quantize("int8", pictures, calibration)
        made.provenance["calibration"]["part"] = part
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if divided is not None:
        split, seed = model.provenance["split"], training_seed(model)
        before, after = (measure_parts(one, divided, split, seed) for one in (model, made))
        made.metrics = {**for_the_file(after), **made.metrics}
    return Quantized(made, before, after)


def _draw(places: np.ndarray, count: int, seed: int) -> np.ndarray:
    """So many of the places, or all where `count` is 0 or above their number, in their order."""
    if not count or count >= len(places):
        return places
    return np.sort(np.random.default_rng(seed).choice(places, count, replace=False))


def _all_pictures(
    model: Sequential, data: str, exclude: str | None, count: int, progress: bool
) -> np.ndarray:
    """So many of all readable pictures of a folder, at the model's size."""
    assert model.input_shape is not None
    whole = scan_folder(data)
    folder = whole if exclude is None else whole.exclude(exclude)
    chosen = folder.select(_draw(np.arange(len(folder)), count, training_seed(model)))
    height, width = model.input_shape[:2]
    loaded = load_images(chosen, height, width, progress=progress)
    if not len(loaded.images):
        raise DataError(f"{data}: none of the pictures to calibrate with could be read")
    return loaded.images
