"""The report as files: index.html, which needs nothing else, and report.json with every figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet import files, pages
from tinynet.errors import ArgumentError, FileAccessError, MissingDependencyError
from tinynet.pages import figure, picture, text
from tinynet.report import charts, galleries, tables
from tinynet.report.evaluated import Evaluated, costs, measure

if TYPE_CHECKING:
    from tinynet.deploy.int8.model import Int8Model
    from tinynet.network import Network

_STYLE = "p.cell { max-width: none; margin: 1rem 0 .2rem; font-size: .9rem; overflow-wrap: anywhere; }"


def require_charts() -> None:
    """Raise MissingDependencyError without matplotlib, before anything long is begun."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError('a report needs matplotlib: pip install "tinynet-cnn[plots]"') from error


def write(
    folder: Path,
    answers: Evaluated,
    title: str,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    model: Network | Int8Model | None = None,
    file_bytes: int | None = None,
    figures: dict[str, Any] | None = None,
) -> Path:
    """Write index.html and report.json into `folder`, which is made if need be; returns the page's path.

    title, notes  text: what was evaluated, and what a reader has to know before the figures
    about         what else report.json shall say, by name, as JSON takes it
    model         whose costs and, if it is a float model and pictures are at hand, whose maps are shown;
                  None for answers of several models
    file_bytes    of the model's file
    figures       what `measure` gave for these answers, where that is known already

    Raises MissingDependencyError without matplotlib, FileAccessError where a file cannot be written, and
    what measure raises.
    """
    require_charts()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FileAccessError(f"{folder}: {problem.strerror or problem}") from None
    figures = dict(measure(answers) if figures is None else figures)
    figures["costs"] = None if model is None else costs(model, file_bytes)
    content = {**(about or {}), **figures}
    page = pages.page(title, _body(answers, figures, notes, model), _STYLE)
    data = json.dumps(content, indent=2, allow_nan=False).encode("ascii")
    files.write_atomically(folder / "report.json", [data, b"\n"])
    target = folder / "index.html"
    files.write_atomically(target, [page])
    return target


def _body(
    answers: Evaluated, figures: dict[str, Any], notes: Sequence[str], model: Network | Int8Model | None
) -> list[str]:
    """The page's sections, as HTML."""
    labels = np.asarray(answers.labels)
    scores, threshold = np.asarray(answers.probabilities, np.float64), answers.threshold
    counts = figures["confusion"]
    infected = counts["fn"] + counts["tp"]
    single = figures["costs"] is not None
    spent = tables.costs(figures["costs"]) if single else ["<p>These are answers of no single model.</p>"]
    sections = [
        ("metrics", "How good it is", tables.metrics(figures)),
        ("confusion", "Confusion matrix", tables.confusion(figures)),
        ("worth", "What an answer is worth", tables.worth(figures)),
        ("thresholds", "The threshold", _threshold(labels, scores, threshold)),
        ("calibration", "Calibration: is 0.8 four of five?", _calibration(figures)),
        ("costs", "What it costs", spent),
        ("patients", "Patients", tables.patients(figures)),
        ("maps", "Where it looks", _maps(answers, model)),
        ("fp", galleries.TITLES["fp"], galleries.mistakes(answers, "fp")),
        ("fn", galleries.TITLES["fn"], galleries.mistakes(answers, "fn")),
    ]
    links = "".join(f'<a href="#{key}">{text(name)}</a> ' for key, name, _ in sections)
    body = [
        *(f"<p>{text(note)}</p>" for note in notes),
        f"<p>{infected:,} of {figures['n']:,} cells are infected. Infected is the positive class; a cell is "
        f"called infected from a probability of {threshold:.4g} on.</p>",
        f"<nav>{links}</nav>",
    ]
    for key, name, content in sections:
        body += [f'<section id="{key}"><h2>{text(name)}</h2>', *content, "</section>"]
    return body


def _threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> list[str]:
    lines = ['<div class="row">']
    for k, data in enumerate(charts.roc(labels, scores, threshold)):
        name = "ROC curve" if k == 0 else "ROC curve, its corner"
        lines.append(figure(picture(data, name, 400), f"{name}.", 400))
    by_threshold = charts.thresholds(labels, scores, threshold)
    if by_threshold is not None:
        lines.append(
            figure(
                picture(by_threshold, "sensitivity and specificity against the threshold", 500),
                "Sensitivity and specificity against the threshold, drawn out towards 0 and 1.",
                500,
            )
        )
    data = charts.histogram(labels, scores, threshold)
    caption = (
        "How many cells were given which probability. Orange left of the line is missed, blue right of it a "
        "false alarm."
    )
    return [*lines, figure(picture(data, "histogram of probabilities", 500), caption, 500), "</div>"]


def _calibration(figures: dict[str, Any]) -> list[str]:
    data = charts.reliability(figures["calibration"])
    caption = "Reliability curve: below the dotted line the probability was too high, above it too low."
    return [*tables.calibration(figures), figure(picture(data, "reliability curve", 400), caption)]


def _maps(answers: Evaluated, model: Network | Int8Model | None) -> list[str]:
    """Figures 7 to 9, or why they are not there."""
    from tinynet.network import Network

    if answers.load_image is None:
        return ["<p>The pictures are not at hand.</p>"]
    if model is None:
        return ["<p>These are answers of no single model, so there are no maps to show.</p>"]
    if not isinstance(model, Network):
        return ["<p>An int8 model has no gradients: look at the float model it was made from.</p>"]
    try:
        return galleries.explained(answers, model)
    except ArgumentError as reason:  # a network of dense layers only
        return [f"<p>{text(reason)}</p>"]
