"""An ONNX graph as a Sequential, checked against the graph itself.

The graph is run once on a random input (structure.py), which gives every shape; its nodes become layers
(translation.py); and the model made of them has to give the graph's answer to that input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet.errors import ModelFileError, TinynetError
from tinynet.files import strict_json
from tinynet.images import Preprocessing
from tinynet.layers import Shape
from tinynet.limits import PASS_IN_A_GRAPH, allowed_operations
from tinynet.loading import check_costs
from tinynet.model import Sequential
from tinynet.onnx_import.graph import OnnxModel
from tinynet.onnx_import.place import Form
from tinynet.onnx_import.records import shown
from tinynet.onnx_import.structure import Structure
from tinynet.onnx_import.translation import Translation

TOLERANCE = 1e-4  # relative to the largest number of the answer, or to 1


def to_sequential(
    model: OnnxModel, preprocessing: Preprocessing | None, class_names: Sequence[str] | None
) -> Sequential:
    """See OnnxModel.to_sequential."""
    probe, form, shape = _probe(model)
    structure = Structure(model, probe)
    said = _said(model)
    translation = Translation(structure, form, said.get("temperature"))
    layers = translation.layers()
    if not layers:
        raise ModelFileError(f"{model.path}: it computes nothing that a layer does")
    try:
        if preprocessing is None:
            preprocessing = _preprocessing(translation, shape, said.get("preprocessing"))
        made = Sequential(
            layers,
            preprocessing=preprocessing,
            class_names=class_names if class_names is not None else said.get("class_names"),
            name=shown(model.name or "model", ""),
        )
        made.build(shape, placeholders=True)
        made.load_state(
            {
                f"{layer.path}.{key}": array
                for layer, arrays in translation.weights
                for key, array in arrays.items()
            }
        )
        check_costs(made, len(probe))
        made.threshold, made.temperature = said.get("threshold", 0.5), translation.temperature
        made.provenance = {**(said.get("provenance") or {}), "imported_from": f"ONNX opset {model.opset}"}
        made.metrics = said.get("metrics") or {}
        _check_answer(made, translation, probe, structure.answer)
    except TinynetError as problem:
        raise ModelFileError(f"{model.path}: it cannot be made a Sequential: {problem}") from None
    return made


def _probe(model: OnnxModel) -> tuple[np.ndarray, Form, Shape]:
    """A random input, how it is laid out, and the shape of one image in tinynet's order."""
    if len(model.inputs) != 1:
        raise ModelFileError(f"{model.path}: it has {len(model.inputs)} inputs; a Sequential has one")
    (source,) = model.inputs
    sides = source.shape or ()
    what = f"{model.path}: its input {shown(source.name)}"
    if len(sides) not in (2, 4) or not all(isinstance(side, int) and side > 0 for side in sides[1:]):
        listed = ", ".join("?" if side is None else str(side) for side in sides)
        raise ModelFileError(
            f"{what} has the shape ({listed}); wanted images or vectors whose sides but the first are numbers"
        )
    shape = (sides[0] if isinstance(sides[0], int) and sides[0] > 0 else 2, *map(int, sides[1:]))  # type: ignore[arg-type]
    numbers = sum(array.size for array in model.constants.values())
    if PASS_IN_A_GRAPH * math.prod(shape) > allowed_operations(numbers):
        raise ModelFileError(f"{what} has the shape {shape}, which is more than is sensible for one run")
    generator = np.random.default_rng(0)
    if source.dtype == np.uint8:
        probe = generator.integers(0, 256, shape, dtype=np.uint8)
    elif source.dtype in (np.float32, np.float64, np.float16):
        probe = generator.standard_normal(shape).astype(source.dtype)
    else:
        raise ModelFileError(f"{what} is {source.dtype}; wanted uint8 or floating point")
    if len(shape) == 2:
        return probe, Form("vector"), shape[1:]
    if _transposed_first(model):
        return probe, Form("nhwc"), shape[1:]
    return probe, Form("nchw"), (shape[2], shape[3], shape[1])


def _transposed_first(model: OnnxModel) -> bool:
    """Whether the graph begins by putting the channels of its input first: so they are last in it."""
    name = model.inputs[0].name
    for node in model.nodes:
        if name in node.inputs:
            if node.operator == "Transpose":
                return node.attributes["perm"] == (0, 3, 1, 2)
            if node.operator not in ("Cast", "Identity", "Mul", "Add", "Sub", "Div"):
                return False
            name = node.outputs[0]
    return False


def _said(model: OnnxModel) -> dict[str, Any]:
    """What the metadata of a file that tinynet wrote says, by name."""
    if model.producer != "tinynet":
        return {}
    said = {}
    for key in ("class_names", "threshold", "temperature", "preprocessing", "provenance", "metrics"):
        if key in model.metadata:
            try:
                said[key] = strict_json.parse(model.metadata[key])
            except ValueError as problem:
                raise ModelFileError(f"{model.path}: its metadata {key!r} {problem}") from None
    for key in ("provenance", "metrics"):
        if not isinstance(said.get(key, {}), dict):
            raise ModelFileError(f"{model.path}: its metadata {key!r} is not an object")
    return said


def _preprocessing(translation: Translation, shape: Shape, said: Any) -> Preprocessing | None:
    """What the graph does to bytes before the first layer; in the file's own words where they agree."""
    stated = None if said is None else Preprocessing.from_json(said)
    if not translation.from_bytes:
        return stated
    channels = shape[-1]
    scale, shift = (np.broadcast_to(array, channels) for array in translation.scaling)
    if len(shape) != 3 or channels != 3 or (scale <= 0).any():
        raise ModelFileError("its input is uint8, but no RGB picture, or is not scaled by positive numbers")
    if stated is not None:
        deviation = np.array(stated.deviation)
        own = stated.scale / deviation, -np.array(stated.mean) / deviation
        if np.allclose(own[0], scale, rtol=1e-5) and np.allclose(own[1], shift, rtol=1e-5, atol=1e-6):
            return stated
    if not shift.any() and (scale == scale[0]).all():
        return Preprocessing(shape[0], shape[1], scale=float(scale[0]))
    deviation = 1 / 255 / scale
    return Preprocessing(shape[0], shape[1], mean=(-shift * deviation).tolist(), deviation=deviation.tolist())


def _check_answer(made: Sequential, translation: Translation, probe: np.ndarray, answer: np.ndarray) -> None:
    """Raise ModelFileError unless the model answers the probe as the graph did."""
    images = probe.transpose(0, 2, 3, 1) if translation.start.axes == "nchw" else probe
    got = made.predict(images if images.dtype == np.uint8 else images.astype(np.float32))
    if translation.end.axes == "nchw":
        got = got.transpose(0, 3, 1, 2)
    if got.size != answer.size or got.shape not in (answer.shape, answer.shape[:2]):
        raise ModelFileError(f"it gives {got.shape} where the graph gives {answer.shape}")
    wanted = answer.reshape(got.shape).astype(np.float64)
    largest = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    if not np.abs(got - wanted).max() <= TOLERANCE * largest:  # not so for NaN
        raise ModelFileError("its answer to a random input is not the graph's")
