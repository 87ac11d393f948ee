"""tinynet inspect: show what a model's layers make of a picture: filters, activation maps and heat.

Into DIR go PNG files and index.html, which shows them: the filters of the first convolution; of each
layer its maps, their mean over the picture, and Grad-CAM, what in the picture speaks for a class
(infected, of two).
"""

from __future__ import annotations

import argparse
import contextlib

from tinynet.cli.options import add_model
from tinynet.errors import ArgumentError
from tinynet.texts import NOTICE, printable

SUMMARY = "show filters, activation maps and heatmaps of a model for a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)
    parser.add_argument("image", metavar="IMAGE", help="a picture")
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder that the pictures go to")
    parser.add_argument(
        "--layer",
        metavar="NAME",
        action="append",
        help="a layer whose maps to show (tinynet summary names them); again for more; "
        "default: all convolutions",
    )
    parser.add_argument(
        "--class",
        metavar="NAME",
        dest="explained",
        help="the class, or its number, that Grad-CAM explains; default: the second of two, "
        "of more the most probable",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from pathlib import Path

    import tinynet
    from tinynet.images import decode
    from tinynet.inspect import pictures
    from tinynet.network import Network

    model = tinynet.load(arguments.model)
    if not isinstance(model, Network):
        raise ArgumentError(
            f"{arguments.model} is an int8 model, without maps and gradients to show; "
            "inspect the model it was made from"
        )
    index = None if arguments.explained is None else _class_index(model.class_names, arguments.explained)
    picture = decode(arguments.image)
    name = Path(arguments.image).name
    page = pictures.write(Path(arguments.out), model, picture, name, arguments.layer, index)
    print(f"the page to open: {printable(str(page))}")
    print(NOTICE)
    return 0


def _class_index(names: list[str] | None, wanted: str) -> int:
    """The class called so, or with this number."""
    known = [str(name) for name in names or ()]
    if wanted in known:
        return known.index(wanted)
    with contextlib.suppress(ValueError):
        return int(wanted)
    listed = f"; the classes are {', '.join(known)}" if known else ""
    raise ArgumentError(f"--class: no class is called {wanted!r:.60}{listed}")
