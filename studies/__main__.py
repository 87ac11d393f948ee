"""python -m studies --data DIR [--exclude LIST] [--only NAME ...] [--quick] --out OUT

All studies one after another, or those named; what is done is not done again, what was stopped goes on.
OUT/index.html (and index.md) shows what they found so far.  docs/studies.md says how long each takes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = ("data", "sizes", "autoencoder", "small-cnn", "evaluation", "specks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command; 1 where a study could not be done, 2 for wrong usage."""
    return _run(_parser("python -m studies", one=False).parse_args(arguments))


def alone(name: str) -> int:
    """The command of one study's file."""
    parser = _parser(f"python -m studies.{name.replace('-', '_')}", one=True)
    return _run(argparse.Namespace(**vars(parser.parse_args()), only=[name]))


def _parser(program: str, one: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=None if one else (__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--data", metavar="DIR", required=True, help="the folder of cells")
    parser.add_argument(
        "--exclude", metavar="LIST", help="images whose label is doubted, one Class/name a line"
    )
    parser.add_argument("--out", metavar="OUT", required=True, type=Path, help="where everything goes")
    if not one:
        parser.add_argument("--only", metavar="NAME", nargs="+", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="an epoch of everything, to see that it works")
    parser.add_argument(
        "--folds", metavar="K", nargs="+", type=int, default=[1, 2, 3, 4, 5], choices=range(1, 6),
        help="the folds to test on, of the five (default: all); others can follow with the same --out",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=_count, metavar="N", help="of every classifier but the sweep's (default: its own)"
    )
    parser.add_argument(
        "--sweep-epochs", type=_count, metavar="N", default=6, help="of the sweep of sizes (default: 6)"
    )
    parser.add_argument(
        "--reconstruction-epochs", type=_count, metavar="N", default=400,
        help="of the autoencoders (default: 400, as the report)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="default: 0")
    parser.add_argument("--again", action="store_true", help="work the tables out anew from what is trained")
    parser.add_argument(
        "--quiet", action="store_true", help="say only what went wrong, and where the page is"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _run(given: argparse.Namespace) -> int:
    from studies import page
    from studies.study import Settings, carry_out
    from tinynet.errors import TinynetError
    from tinynet.report import require_charts

    values: dict[str, Any] = {
        name: getattr(given, name)
        for name in (
            "data",
            "out",
            "exclude",
            "quick",
            "epochs",
            "sweep_epochs",
            "reconstruction_epochs",
            "seed",
        )
    }
    settings = Settings(**values, folds=tuple(sorted(set(given.folds))), verbose=0 if given.quiet else 1)

    def show() -> None:
        page.write(settings.out, list(NAMES))

    try:
        require_charts()
        for name in given.only or NAMES:
            study = import_module(f"studies.{name.replace('-', '_')}")
            _say(given, f"study {name}")
            if carry_out(name, study.TITLE, study.run, settings, given.again, show):
                _say(given, f"study {name}: done before")
        show()
    except TinynetError as problem:
        print(f"studies: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command again goes on where it was", file=sys.stderr)
        return 130
    print(settings.out / "index.html")
    return 0


def _say(given: argparse.Namespace, text: str) -> None:
    if not given.quiet:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
