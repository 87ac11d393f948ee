"""tinynet export: write a model in a form that other programs run.

--to c writes a C99 header, or with --pair a header and a .c file: no memory is allocated, nothing but expf is
needed, pictures of any size go in.  docs/c-export.md shows how it is used.
"""

from __future__ import annotations

import argparse
import sys

from tinynet.cli.output import NOTICE, printable

SUMMARY = "write a model in a form that other programs run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("model", metavar="MODEL", help="a model file, or the name of a shipped model")
    parser.add_argument("--to", required=True, choices=["c"], help="the form")
    parser.add_argument("--out", metavar="FILE", required=True, help="the file to write (C: it ends in .h)")
    parser.add_argument(
        "--pair", action="store_true", help="C: write FILE.c beside the header, to be compiled by itself"
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="C: what its functions begin with (NAME_predict, ...); by default the file's name",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    print(*map(printable, to_c(arguments)), sep="\n")
    print(NOTICE, file=sys.stdout)
    return 0


def to_c(arguments: argparse.Namespace) -> list[str]:
    """Write a C program; what it costs, line by line."""
    import tinynet
    from tinynet.deploy import c_export

    name = c_export.default_name(arguments.out) if arguments.name is None else arguments.name
    exported = c_export.export(tinynet.load(arguments.model), name)
    files = c_export.write(exported, arguments.out, pair=arguments.pair)
    return [
        f"written              {' and '.join(map(str, files))}",
        f"functions            {name}_predict and others, {exported.numbers}",
        f"flash                {exported.constants:,} bytes of weights, and the code",
        f"RAM                  {exported.arena:,} bytes of static memory, and a little stack",
        f"multiply-accumulates {exported.multiply_accumulates:,} a picture",
    ]
