"""What several commands share: what they print and how, and the models and kernels they use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tinynet.texts import NOTICE, interval, metric, percent, printable

if TYPE_CHECKING:
    import numpy as np

    from tinynet.deploy.int8.model import Int8Model
    from tinynet.model import Sequential

    Classifier = Sequential | Int8Model


def note(command: str, text: str) -> None:
    """A message on standard error, where nothing that a program reads is printed."""
    print(f"tinynet {command}: {printable(text)}", file=sys.stderr, flush=True)


def json_text(value: Any, indent: int | None = 2) -> str:
    """The value as JSON in ASCII; NaN and infinity, which JSON does not have, are refused."""
    return json.dumps(value, indent=indent, allow_nan=False)


def print_result(as_json: bool, facts: Any, table: Callable[[], Iterable[str]]) -> None:
    """What a command found, on standard output: as JSON, or the lines that `table` makes of it."""
    print(json_text(facts) if as_json else "\n".join(map(printable, table())))


def print_notice(as_json: bool) -> None:
    """The notice, on standard error where a program reads standard output."""
    print(NOTICE, file=sys.stderr if as_json else sys.stdout)


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


def float_model(model: Classifier, name: str, more: str = "") -> Sequential:
    """The model, loaded by this name; ArgumentError for one in int8.  more: words behind "in int8"."""
    from tinynet.errors import ArgumentError
    from tinynet.model import Sequential

    if not isinstance(model, Sequential):
        raise ArgumentError(f"{name} is in int8{more}: give the float model that it was made of")
    return model


def infected_probability(model: Classifier, images: np.ndarray, views: int = 1) -> np.ndarray:
    """The probability of class 1 for prepared images, uint8 (n, h, w, 3) -> float32 (n,)."""
    return model.predict(images, views=views)[:, -1]


def metric_lines(figures: dict[str, Any], names: Sequence[str]) -> list[str]:
    """A line for each of these metrics that is defined, with its interval."""
    ends = figures["intervals"]
    return [
        f"  {name:<12} {figures[name]:.4f}  (95 % interval {interval(ends[name])})"
        for name in names
        if figures[name] is not None
    ]


def at_one_in_a_hundred(figures: dict[str, Any]) -> list[str]:
    """A line: what sensitivity and specificity mean where one cell in a hundred is infected, as in blood."""
    from tinynet.metrics import positive_predictive_value

    sensitivity, specificity = figures["sensitivity"], figures["specificity"]
    if sensitivity is None or specificity is None:
        return []
    right = positive_predictive_value(sensitivity, specificity, 0.01)
    meant = "no cell would be called infected" if right is None else f"{percent(right)} of those are infected"
    called = 100 * sensitivity + 9900 * (1 - specificity)
    return [f"with 1 % of cells infected: of 10,000 cells {called:.0f} are called infected; {meant}"]


def chosen_lines(calibrated: dict[str, Any]) -> list[str]:
    """The temperature and the threshold that tinynet.calibration.calibrate chose, a line each."""
    where, lines = f"chosen on {calibrated['cells']} cells ({calibrated['part']})", []
    if "temperature" in calibrated:
        before, after = calibrated["loss"]
        lines.append(
            f"temperature {calibrated['temperature']:.4g}, {where}: loss {after:.4f}, was {before:.4f}"
        )
    if "threshold" in calibrated:
        lines.append(
            f"threshold {calibrated['threshold']:.4g}, {where}: sensitivity {calibrated['sensitivity']:.4f}, "
            f"at least {calibrated['min_sensitivity']:g} was asked for, "
            f"specificity {metric(calibrated['specificity'])}"
        )
    return lines
