"""tinynet data: look at a folder of labelled cells, and at its labels.

tinynet data info --help and tinynet data audit --help tell more.
"""

from __future__ import annotations

import argparse
import importlib

SUMMARY = "look at a folder of labelled cells: what it holds, which labels are doubtful"

COMMANDS = ("info", "audit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands' options, each from its own module, data_NAME."""
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = _module(name)
        explained = (module.__doc__ or "").partition(": ")[2]
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=explained[:1].upper() + explained[1:],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    status: int = _module(arguments.data_command).run(arguments)
    return status


def _module(name: str):
    return importlib.import_module(f"tinynet.cli.data_{name}")
