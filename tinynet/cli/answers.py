"""From paths to answers: find the pictures, read, check and classify them, a few hundred at a time.

Memory does not grow with the number of pictures: answers leave as they are made.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinynet import kernels
from tinynet.cli.output import infected_probability
from tinynet.errors import DataError, FileAccessError, ImageError, MissingDependencyError, NonFiniteError
from tinynet.image_files import EXTENSIONS
from tinynet.images import decode, looks_like_a_cell
from tinynet.texts import percent

if TYPE_CHECKING:
    from tinynet.cli.output import Classifier

CLASS_NAMES = ("uninfected", "infected")
AT_A_TIME = 256  # pictures


class Answer(NamedTuple):
    """What is said of one picture: a label and the probability of class 1, or why there is none.

    reason      goes on after the path: "is truncated: ..."; None where there is an answer
    unreadable  whether the picture could not be read, rather than not be answered
    """

    path: str
    label: str | None = None
    probability: float | None = None
    reason: str | None = None
    unreadable: bool = False

    @property
    def error(self) -> str | None:
        """Why there is no answer, a sentence; None where there is one."""
        return None if self.reason is None else f"{self.path} {self.reason}"


@dataclass
class Tally:
    """What has been answered so far, for the summary."""

    pictures: int = 0
    positive: int = 0
    unreadable: int = 0
    unlike_a_cell: int = 0
    first_refused: Answer | None = field(default=None, repr=False)

    @property
    def answered(self) -> int:
        return self.pictures - self.unreadable - self.unlike_a_cell

    def count(self, answers: Sequence[Answer], positive: str) -> None:
        """Add these answers; positive: the name of class 1."""
        self.pictures += len(answers)
        self.positive += sum(answer.label == positive for answer in answers)
        self.unreadable += sum(answer.unreadable for answer in answers)
        self.unlike_a_cell += sum(answer.label is None and not answer.unreadable for answer in answers)
        if self.first_refused is None:
            self.first_refused = next((answer for answer in answers if answer.label is None), None)


def class_names(model: Classifier) -> tuple[str, str]:
    """What the model calls class 0 and class 1."""
    names = model.class_names or ()
    return (str(names[0]), str(names[1])) if len(names) == 2 else CLASS_NAMES


def find_pictures(paths: Sequence[str], warn: Callable[[str], None]) -> Iterator[str]:
    """The files among `paths`, and every picture in the folders among them, subfolders after files.

    In a folder, what is not a picture by its extension is passed over, and so is what is hidden; how
    many files that were, those in hidden folders uncounted, is told to `warn`.  So is a folder that
    cannot be listed, or holds no picture where others may.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        found, stray = False, 0

        def refuse(problem: OSError) -> None:
            warn(f"{problem.filename} cannot be listed: {problem.strerror or problem}")

        for folder, subfolders, files in os.walk(path, onerror=refuse):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(files):
                if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith("."):
                    found = True
                    yield os.path.join(folder, name)
                else:
                    stray += 1
        if stray:
            were = "that is not a picture was" if stray == 1 else "that are not pictures were"
            warn(f"{_counted(stray, 'file')} {were} passed over in {path}")
        if not found and len(paths) > 1:  # else there is nothing to answer, an error of its own
            warn(f"{path} holds no pictures")


def answer_all(
    model: Classifier, paths: Sequence[str], *, check: bool, views: int = 1, warn: Callable[[str], None]
) -> Iterator[list[Answer]]:
    """Answers for all pictures at `paths`, in order, some at a time; DataError if there is no picture.

    check: refuse to answer where a picture does not look like one segmented cell.
    views: 1, or 8 to average the logits over.
    """
    pictures = find_pictures(paths, warn)
    # Paths are looked at ahead, as far as it takes to see whether they are many.
    ahead = list(itertools.islice(pictures, kernels.enough_images(model.multiply_adds())))
    if not ahead:
        raise DataError(f"there is no picture ({', '.join(sorted(EXTENSIONS))}) in {', '.join(paths)}")
    pictures = itertools.chain(ahead, pictures)
    read = partial(_prepare, model, check=check)
    with _in_threads(read) if len(ahead) > 1 else contextlib.nullcontext(partial(map, read)) as prepare:
        while some := list(itertools.islice(pictures, AT_A_TIME)):
            prepared = list(prepare(some))
            with kernels.using(kernels.for_images(views * len(ahead), model.multiply_adds()).NAME):
                answers = _answer(model, some, prepared, views)
            yield answers


@contextlib.contextmanager
def _in_threads(function: Callable[[str], Any]) -> Iterator[Callable[[Sequence[str]], Iterable[Any]]]:
    """map(function, ...) in a few threads; what is still waiting at the end is dropped."""
    from concurrent.futures import ThreadPoolExecutor  # here: for one picture it is not worth importing

    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="tinynet-decode")
    try:
        yield partial(pool.map, function)
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(model: Classifier, path: str, check: bool) -> np.ndarray | Answer:
    """The picture at the model's size, uint8 (h, w, 3), or why there is none."""
    assert model.preprocessing is not None
    try:
        picture = decode(path)
        doubt = looks_like_a_cell(picture) if check else None
        if doubt is not None:
            return Answer(path, reason=f"does not look like one segmented cell: {doubt}")
        return model.preprocessing.prepare(picture)
    except (ImageError, FileAccessError, MissingDependencyError) as problem:
        return Answer(path, reason=str(problem).removeprefix(f"{path} "), unreadable=True)
    except MemoryError:
        return Answer(path, reason="does not fit into memory", unreadable=True)


def _answer(
    model: Classifier, paths: list[str], prepared: list[np.ndarray | Answer], views: int
) -> list[Answer]:
    images = [picture for picture in prepared if isinstance(picture, np.ndarray)]
    probabilities = iter(infected_probability(model, np.stack(images), views).tolist() if images else ())
    names, answers = class_names(model), []
    for path, picture in zip(paths, prepared, strict=True):
        if isinstance(picture, Answer):
            answers.append(picture)
            continue
        probability = next(probabilities)
        if not math.isfinite(probability):
            raise NonFiniteError(f"model {model.name!r} gives {probability} as the probability of {path}")
        answers.append(Answer(path, names[probability >= model.threshold], probability))
    return answers


def summary(tally: Tally, model: Classifier) -> list[str]:
    """How many cells, how many infected, and how many of those may be mistakes: lines of text."""
    from tinynet.metrics import wilson_interval

    cells, positive = tally.answered, class_names(model)[1]
    lines = []
    interval = wilson_interval(tally.positive, cells)
    if interval is not None:
        lines.append(
            f"{_counted(cells, 'cell')}: {tally.positive} {positive}, {percent(tally.positive / cells)} "
            f"(95 % interval {percent(interval[0])} to {percent(interval[1])}, cells taken as independent)"
        )
    refused = {"could not be read": tally.unreadable, "not like one segmented cell": tally.unlike_a_cell}
    if any(refused.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in refused.items() if count)
        lines.append(f"{_counted(tally.pictures - cells, 'picture')} without an answer: {reasons}")
    if cells:
        lines += _false_positives(cells, model, positive)
    return lines


def _false_positives(cells: int, model: Classifier, positive: str) -> list[str]:
    """How many false positives to expect.  Where images of doubtful label were excluded from the test,
    its specificity flatters, so the one on all images is told beside it, or that it is not known."""
    measured, on_all = (_specificity(model.metrics, part) for part in ("test", "test_all_labels"))
    if measured is None:
        return [
            f"how many would be called {positive} by mistake is not known: the model file has no specificity"
        ]
    if on_all is not None:
        tested = f"{measured[0]:.4f} on cells whose label nobody doubts, {on_all[0]:.4f} on all (when tested)"
        expected = f"{_expected(cells, measured)} or, by the second figure, {_expected(cells, on_all)}"
    else:
        tested, expected = f"{measured[0]:.4f} when tested", _expected(cells, measured)
    lines = [
        f"the model's specificity was {tested}: "
        f"if none of these {cells} were {positive}, about {expected} would be called so by mistake"
    ]
    if on_all is None and _excluded(model.provenance):
        lines.append(
            "images were excluded from that test (such as doubtful labels): on all, expect more mistakes; "
            "how many is not known"
        )
    return lines


def _expected(cells: int, shares: Sequence[float]) -> str:
    """How many of so many uninfected cells, at a specificity with or without an interval."""
    from tinynet.metrics import expected_false_positives

    estimate, *interval = (_rounded(expected_false_positives(cells, share)) for share in shares)
    return f"{estimate} ({interval[1]} to {interval[0]})" if interval else estimate


def _excluded(provenance: Any) -> bool:
    """Whether the model file says that images were left out of its training and test."""
    count = provenance.get("excluded") if isinstance(provenance, dict) else None
    return isinstance(count, int) and count > 0


def _specificity(metrics: Any, part: str) -> list[float] | None:
    """[specificity] or [specificity, low, high] of a part of the data, from what the model file says."""
    test = metrics.get(part) if isinstance(metrics, dict) else None
    value = test.get("specificity") if isinstance(test, dict) else None
    values = value if isinstance(value, list) else [value]
    if len(values) not in (1, 3):
        return None
    shares = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return shares if len(shares) == len(values) and all(0 <= share <= 1 for share in shares) else None


def _rounded(count: float) -> str:
    if count >= 10:
        return f"{count:.0f}"
    return f"{count:.1f}" if count >= 1 else f"{count:.2g}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
