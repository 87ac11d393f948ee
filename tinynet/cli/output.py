"""What several commands share: what they print and how, and the models and kernels they use."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from tinynet.deploy.int8.model import Int8Model
    from tinynet.model import Sequential

    Classifier = Sequential | Int8Model

NOTICE = "Not a medical device; for research and teaching."


def note(command: str, text: str) -> None:
    """A message on standard error, where nothing that a program reads is printed."""
    print(f"tinynet {command}: {printable(text)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes, which file names may have, as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def json_text(value: Any, indent: int | None = 2) -> str:
    """The value as JSON in ASCII; NaN and infinity, which JSON does not have, are refused."""
    return json.dumps(value, indent=indent, allow_nan=False)


def load_classifier(name: str) -> Classifier:
    """The model file, or shipped model, of this name; ArgumentError unless it tells two classes apart."""
    import tinynet
    from tinynet.errors import ArgumentError

    model = tinynet.load(name)
    ending = model.ending()
    if (ending, model.output_shape) not in (("softmax", (2,)), ("sigmoid", (1,))):
        shape = " x ".join(map(str, model.output_shape))
        raise ArgumentError(
            f"{name} is not a classifier of two classes: its output is {shape}"
            f"{' after ' + ending if ending else ''}; wanted are 2 after softmax or 1 after sigmoid"
        )
    if model.preprocessing is None or model.input_shape is None or len(model.input_shape) != 3:
        raise ArgumentError(f"{name} cannot be given pictures: its file does not say how to prepare them")
    return model


def infected_probability(model: Classifier, images: np.ndarray) -> np.ndarray:
    """The probability of class 1 for prepared images, uint8 (n, h, w, 3) -> float32 (n,)."""
    return model.predict(images)[:, -1]


def percent(share: float) -> str:
    """0.98765 -> "98.8 %"."""
    return f"{100 * share:.1f} %"


def interval_text(interval: Sequence[float] | None, digits: int = 4) -> str:
    """[0.98, 0.99] -> "0.9800 to 0.9900"; "-" where there is none."""
    return "-" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
