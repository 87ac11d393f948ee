"""tinynet predict: say of each picture of a cell whether it is infected.

PATHs are pictures, or folders of which every picture is taken, subfolders included.  A picture that
cannot be read, or does not look like one segmented cell on black, gets no answer but a reason.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tinynet.cli.options import add_model, add_views
from tinynet.cli.output import json_text, load_classifier, note
from tinynet.errors import DataError
from tinynet.texts import NOTICE, printable

if TYPE_CHECKING:
    from tinynet.cli.answers import Answer

SUMMARY = "say of pictures of cells which are infected"

Chunks = Iterable[list["Answer"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a picture, or a folder of pictures")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of {path, label, probability, error}")
    form.add_argument("--csv", metavar="FILE", type=_table_name, help="write the same as a table to FILE")
    parser.add_argument(
        "--any-picture",
        action="store_true",
        help="answer also where a picture does not look like one segmented cell on black",
    )
    add_views(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet import progress
    from tinynet.cli import answers
    from tinynet.views import wants_eight

    model = load_classifier(arguments.model)
    eight = wants_eight(model, arguments.views)  # refused before anything is read
    negative, positive = answers.class_names(model)
    tally = answers.Tally()
    waits = arguments.json or arguments.csv is not None  # nothing else shows that it goes on

    def chunks() -> Iterator[list[Answer]]:
        # Listing them beforehand takes little, and nothing is kept of it.
        total = sum(1 for _ in answers.find_pictures(arguments.paths, lambda text: None)) if waits else 0
        with progress.bar(total, "pictures", enabled=waits, unit="picture", log=True) as bar:
            for chunk in answers.answer_all(
                model,
                arguments.paths,
                check=not arguments.any_picture,
                views=arguments.views,
                warn=lambda text: note("predict", text),
            ):
                tally.count(chunk, positive)
                yield chunk
                bar.update(len(chunk))

    if arguments.json:
        print_json(chunks())
    elif arguments.csv is not None:
        write_csv(arguments.csv, chunks())
    else:
        print_lines(chunks(), max(len(negative), len(positive), len("no answer")))

    refused = tally.first_refused
    if not tally.answered and refused is not None:
        count = tally.pictures
        many = f"none of the {count} pictures has an answer; the first: " if count > 1 else ""
        raise DataError(f"{many}{refused.error}")
    if tally.unreadable:
        note("predict", f"{tally.unreadable} of {tally.pictures} pictures could not be read")
    if tally.unlike_a_cell:
        note(
            "predict",
            f"{tally.unlike_a_cell} of {tally.pictures} pictures do not look like one segmented cell",
        )
    out = sys.stderr if arguments.json else sys.stdout
    if tally.pictures > 1:
        print(*map(printable, answers.summary(tally, model)), sep="\n", file=out)
        if eight:
            print("each answer averages eight views; the model file's own figures are of one", file=out)
    print(NOTICE, file=out)
    return 0


def print_lines(chunks: Chunks, width: int) -> None:
    """A line a picture: label, probability of class 1, path."""
    for chunk in chunks:
        for answer in chunk:
            path = printable(answer.path)
            if answer.probability is None:
                print(f"{'no answer':<{width}}       -  {path} {printable(answer.reason or '')}")
            else:
                print(f"{printable(answer.label or ''):<{width}}  {answer.probability:.4f}  {path}")
        sys.stdout.flush()


def print_json(chunks: Chunks) -> None:
    """One JSON list, an entry a line; closed also when something stops it, so that it can be read."""
    opened = False
    try:
        for chunk in chunks:
            for answer in chunk:
                entry = json_text(_entry(answer), indent=None)
                sys.stdout.write(f"{',' if opened else '['}\n  {entry}")
                opened = True
            sys.stdout.flush()
    finally:
        if opened:
            sys.stdout.write("\n]\n")


def write_csv(path: str, chunks: Chunks) -> None:
    """A table with a header line, whole or not at all; Ctrl-C leaves the answers so far."""
    from tinynet.files import write_atomically
    from tinynet.interruption import held_back

    stopped = False

    with held_back() as ctrl_c:

        def lines() -> Iterator[bytes]:
            nonlocal stopped
            yield _csv_lines([["path", "label", "probability", "error"]])
            try:
                ctrl_c.holds = False  # pictures are worked on, which may take long
                for chunk in chunks:
                    ctrl_c.holds = True  # while lines are written, so that none is cut
                    yield _csv_lines([list(_entry(answer).values()) for answer in chunk])
                    ctrl_c.holds = False
                    if ctrl_c.asked:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                stopped = True
            ctrl_c.holds = True

        write_atomically(path, lines())
        if stopped or ctrl_c.asked:
            note("predict", f"the answers so far are in {path}")
            raise KeyboardInterrupt


def _csv_lines(rows: list[list]) -> bytes:
    import csv

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")  # undecodable names as they are on the disk


def _entry(answer: Answer) -> dict[str, str | float | None]:
    return {
        "path": answer.path,
        "label": answer.label,
        "probability": answer.probability,
        "error": answer.error,
    }


def _table_name(name: str) -> str:
    """Refuse to write a table over a picture: `--csv *.png` without FILE would."""
    from tinynet.image_files import EXTENSIONS

    if os.path.splitext(name)[1].lower() in EXTENSIONS | {".safetensors"}:
        raise argparse.ArgumentTypeError(f"wanted the name of the table to write, got {name}")
    return name
