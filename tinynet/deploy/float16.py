"""Weights in half the bytes: rounded to float16 in the file, and float32 again wherever a model computes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tinynet.errors import ArgumentError
from tinynet.model import Sequential
from tinynet.network import Network
from tinynet.storage import is_weight


def convert(model: Sequential) -> Sequential:
    """A copy of the model whose weights are rounded to float16 (to nearest, ties to even), saved so.

    Biases and batch-norm's vectors, which are few, stay as they are.  Raises ArgumentError, naming the
    array, where a weight is beyond float16's 65,504, and for a model that is not a float one or has no
    weights yet.
    """
    if not isinstance(model, Sequential) or model.input_shape is None:
        raise ArgumentError(f"only a float model that has weights can be made float16, not {model!r:.80}")
    copied = copy.deepcopy(model)
    for name, array in copied.state().items():
        if not is_weight(array):
            continue
        with np.errstate(over="ignore"):
            rounded = array.astype(np.float16)
        if not np.isfinite(rounded).all():
            raise ArgumentError(f"{name} has values beyond float16's largest, 65,504")
        array[...] = rounded
    copied.number_format = "float16"
    copied.metrics = metrics_before(model)
    return copied


def metrics_before(model: Network) -> dict[str, Any]:
    """What the file of a model made from this one keeps of its metrics: {"float32": {...}}.

    Where this one was itself made float16, {"float32": {...}, "float16": {...}}.
    """
    earlier = {name: value for name, value in model.metrics.items() if name == "float32"}
    own = {name: value for name, value in model.metrics.items() if name != "float32"}
    return {**earlier, model.number_format: own} if own else earlier
