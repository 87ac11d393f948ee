"""A trained model's temperature and threshold, chosen anew on cells that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.calibration import calibrate
from tinynet.data import load_images, scan_folder
from tinynet.errors import ArgumentError, DataError
from tinynet.runs.data import digest_of, load_as_trained, require_kept_apart, training_seed
from tinynet.runs.run import for_the_file, measure_parts

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.model import Sequential


def recalibrate(
    model: Sequential | Int8Model,
    name: str,
    data: str,
    exclude: str | None = None,
    *,
    part: str = "validation",
    temperature: bool = True,
    min_sensitivity: float | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """`calibrate` a model from its file, and measure it anew where its test patients are known.

    part  "validation": of the data that the model was trained on, divided as it was then; "all": every cell
          of another folder.  That may not be the training's, which holds patients trained and tested on.

    Returns {"calibrated": ..., "test": ...} and "test_all_labels" as runs.run.measure_parts has them.
    The file's old metrics, which were of another threshold, are replaced; with "all" they go.
    """
    choices: dict[str, Any] = {"temperature": temperature, "min_sensitivity": min_sensitivity, "part": part}
    if part == "validation":
        try:
            divided = load_as_trained(model, name, data, exclude, "--part validation", progress=progress)
            require_kept_apart(divided.validation, f"--part validation: {name}")
        except (ArgumentError, DataError) as unknown:
            raise ArgumentError(
                f"{unknown}; --part all takes all cells of a folder that it has never seen"
            ) from None
        cells = divided.of(divided.validation)
        found = calibrate(model, cells, divided.labels[divided.validation], **choices)
        measured = measure_parts(model, divided, model.provenance["split"], training_seed(model))
        model.metrics = for_the_file(measured)
        return {"calibrated": found} | measured
    assert model.input_shape is not None
    whole = scan_folder(data)
    folder = whole if exclude is None else whole.exclude(exclude)
    height, width = model.input_shape[:2]
    loaded = load_images(whole, height, width, progress=progress)
    readable = whole.select(loaded.kept)
    kept = np.isin(readable.names, folder.names)
    if digest_of(list(readable.names), readable.labels, kept) == model.provenance.get("data"):
        raise ArgumentError(
            f"--part all: {name} was trained and tested on the cells in {data}, and a threshold chosen on "
            "test patients flatters their figures; --part validation takes the patients kept for this"
        )
    found = calibrate(model, loaded.images[kept], readable.labels[kept], **choices)
    model.metrics = {}
    return {"calibrated": found}
