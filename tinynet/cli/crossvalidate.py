"""tinynet crossvalidate: train on all folds but one, test on that one, for every fold; pool what was found.

The division into folds is one and always the same, by patient unless --split image, so that models can
be compared cell by cell (tinynet compare).  Options that tinynet train has mean the same here.  The same
command again goes on where it was stopped; folds that are done are not done again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinynet.cli.options import add_json, add_quiet, add_views
from tinynet.cli.output import json_text
from tinynet.cli.train import add_training_arguments, command_of, diverged, given_options
from tinynet.errors import ArgumentError, NonFiniteError
from tinynet.texts import printable

if TYPE_CHECKING:
    from tinynet.runs import RunConfig

SUMMARY = "train and test on every fold of one division by patient"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_training_arguments(parser)
    parser.add_argument(
        "--doubted",
        metavar="LIST",
        help="images whose label is doubted: learned from, but results are given without them too",
    )
    parser.add_argument(
        "--threshold",
        choices=("accuracy", "model"),
        default="accuracy",
        help="chosen on each fold's validation part: that with the best accuracy there (default), or "
        "the one that the training stored in the model",
    )
    parser.add_argument(
        "--quantize",
        choices=("int8", "float16"),
        help="measure the trained models with their weights in this number format",
    )
    add_views(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="for the folds' runs, the pooled predictions and the tables",
    )
    add_json(parser, "instead of tables")
    add_quiet(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.runs import RunConfig, pooled
    from tinynet.runs.crossvalidation import cross_validate

    given = given_options(arguments)
    fold, folder = given.pop("fold", None), Path(arguments.out)
    if "data" not in given:
        raise ArgumentError("there is nothing to divide into folds: give --data DIR")
    if arguments.exclude and arguments.doubted:
        raise ArgumentError("--exclude's images count as doubted: give it or --doubted, not both")
    config = RunConfig(**given)
    RunConfig(**given, fold=fold)  # refuses a fold that there is none of
    try:
        found = cross_validate(
            config,
            folder,
            fold,
            doubted=arguments.doubted,
            threshold=arguments.threshold,
            number_format=arguments.quantize or "float32",
            views=arguments.views,
            command=command_of,
            verbose=0 if arguments.quiet else 1,
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command again goes on where it was", file=sys.stderr)
        return 130
    except NonFiniteError as problem:
        raise NonFiniteError(diverged(str(problem), config.learning_rate)) from None
    result = pooled.measure(found, _command(config, arguments), arguments.threshold)
    pooled.write(folder, found, result)
    print(json_text(result) if arguments.json else printable_lines(pooled.table(result)))
    names = (pooled.PREDICTIONS_FILE, pooled.JSON_FILE, pooled.TABLE_FILE)
    written = ", ".join(name.format(found.suffix) for name in names)
    print(f"written to {printable(str(folder))}: {written}", file=sys.stderr)
    return 0


def printable_lines(text: str) -> str:
    """The text with what cannot be shown as escapes, but for the ends of its lines."""
    return "\n".join(map(printable, text.split("\n")))


def _command(config: RunConfig, arguments: Any) -> str:
    """The command that makes all this, without this machine's paths."""
    words = command_of(config).replace("tinynet train", "tinynet crossvalidate", 1)
    words += " --doubted LIST" if arguments.doubted else ""
    words += f" --folds {config.folds}" if config.folds != 5 else ""
    words += f" --quantize {arguments.quantize}" if arguments.quantize else ""
    words += f" --views {arguments.views}" if arguments.views != 1 else ""
    words += f" --threshold {arguments.threshold}" if arguments.threshold != "accuracy" else ""
    return f"{words} --out DIR"
