"""Options that several commands have, each worded once."""

from __future__ import annotations

import argparse

FOLDER = "a folder with Parasitized/ and Uninfected/"


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, as tinynet.load takes it."""
    parser.add_argument("model", metavar="MODEL", help="a model file, or the name of a shipped model")


def add_data(parser: argparse.ArgumentParser, without: str | None = None) -> None:
    """--data.  without: what holds where it is not given; None: it has to be."""
    told = FOLDER if without is None else f"{FOLDER}; {without}"
    parser.add_argument("--data", metavar="DIR", required=without is None, help=told)


def add_exclude(parser: argparse.ArgumentParser) -> None:
    """--exclude."""
    parser.add_argument(
        "--exclude", metavar="LIST", help="a file of images to leave out, one Class/name a line"
    )


def add_json(parser: argparse.ArgumentParser, instead: str = "instead of a table") -> None:
    """--json.  instead: the end of its help."""
    parser.add_argument("--json", action="store_true", help=f"print one JSON object {instead}")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """--quiet."""
    parser.add_argument("--quiet", action="store_true", help="print the result only")


def add_views(parser: argparse.ArgumentParser) -> None:
    """--views."""
    from tinynet.views import CHOICES

    parser.add_argument(
        "--views",
        type=int,
        choices=CHOICES,
        default=1,
        help="8: average the logits over the eight ways in which a square picture can lie, "
        "in eight times the time; default: 1",
    )
