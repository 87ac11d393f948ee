"""The command line: one command a module, each with SUMMARY, add_arguments(parser) and run(arguments).

Exit status: 0 done; 1 it could not be done, with one sentence on standard error; 2 wrong usage;
130 stopped by Ctrl-C.  Command modules import what they need inside `run`, so that asking for help
or predicting one picture waits for nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

import tinynet
from tinynet.errors import TinynetError
from tinynet.texts import NOTICE, printable

COMMANDS = (
    "train", "crossvalidate", "compare", "evaluate", "predict", "calibrate", "features", "data", "quantize",
    "export", "convert", "summary", "inspect", "gradcheck", "profile", "warmup", "info",
)  # fmt: skip

_DESCRIPTION = f"""\
Small convolutional networks that tell malaria-infected red blood cells from uninfected ones.
{NOTICE}"""

_EPILOG = """\
tinynet COMMAND --help tells more about a command.
With TINYNET_DEBUG=1 in the environment an error also shows where it arose."""


# With a width given, argparse does not import shutil to ask the terminal for it.
_HELP = functools.partial(argparse.RawDescriptionHelpFormatter, width=78)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage lines in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}; {self.prog} --help shows what can be given\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; argv: the arguments, by default the process's."""
    _let_every_path_be_printed()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser(words[:1]).parse_args(words)
    except SystemExit as asked:  # --help, --version: 0; wrong usage: 2
        return asked.code if isinstance(asked.code, int) else 0
    name = f"tinynet {arguments.command}"
    try:
        with _warnings_in_a_line(name):
            status = importlib.import_module(f"tinynet.cli.{arguments.command}").run(arguments)
            sys.stdout.flush()  # a full disk shows here, not after the status has been decided
        return status
    except (TinynetError, OSError, KeyboardInterrupt, MemoryError) as problem:
        if os.environ.get("TINYNET_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        status, sentence = _explain(problem)
    _abandon_a_broken_output()
    print(f"{name}: {printable(' '.join(sentence.split()))}", file=sys.stderr)
    return status


def _explain(problem: BaseException) -> tuple[int, str]:
    """Exit status and sentence for what a command raised."""
    if isinstance(problem, KeyboardInterrupt):
        return 130, "stopped by Ctrl-C"
    if isinstance(problem, MemoryError):
        return 1, "there is not enough memory for this"
    if isinstance(problem, TinynetError) or not isinstance(problem, OSError):
        return 1, str(problem)
    # The library names the file in exceptions of its own; what is left is standard output.
    what = problem.filename if problem.filename is not None else "the output could not be written"
    stopped = isinstance(problem, BrokenPipeError)
    return 1, f"{what}: {'whatever reads it has stopped' if stopped else problem.strerror or problem}"


def _parser(first: Sequence[str] = ()) -> _Parser:
    """For all commands, or for one alone where the first word names it: the others' would take it 20 ms."""
    names = tuple(first) if set(first) & set(COMMANDS) else COMMANDS
    modules = {name: importlib.import_module(f"tinynet.cli.{name}") for name in names}
    listed = "\n".join(f"  {name:<13} {module.SUMMARY}" for name, module in modules.items())
    parser = _Parser(
        prog="tinynet",
        description=f"{_DESCRIPTION}\n\ncommands:\n{listed}",
        epilog=_EPILOG,
        formatter_class=_HELP,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tinynet {tinynet.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help="see above")
    for name, module in modules.items():
        explained = (module.__doc__ or "").partition(": ")[2]
        command = commands.add_parser(
            name,
            description=explained[:1].upper() + explained[1:],
            formatter_class=_HELP,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


def _let_every_path_be_printed() -> None:
    """Where the locale cannot express a character of a file's name, print its code instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _warnings_in_a_line(name: str) -> Iterator[None]:
    """Show warnings as "tinynet COMMAND: warning: ..." instead of with a line of source code."""

    def show(message, category, filename, lineno, file=None, line=None):  # warnings.showwarning's signature
        print(f"{name}: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _abandon_a_broken_output() -> None:
    """If standard output cannot take what is left, drop it: the interpreter would complain at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
