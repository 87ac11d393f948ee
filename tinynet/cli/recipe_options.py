"""Options of training that add to a recipe: what each is called on the command line and in RunConfig."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinynet.runs import RunConfig

FLAGS = {"stain": "stain-augmentation", "calibrate": "calibrate"}  # without a value
_VALUES = ("min_sensitivity",)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """The options, on a parser of their own group."""
    group = parser.add_argument_group("additions to the recipe (docs/training.md)")
    group.add_argument(
        "--stain-augmentation",
        action="store_true",
        help="show cells in other colours too; the background stays black",
    )
    group.add_argument(
        "--calibrate", action="store_true", help="choose a temperature on the validation part, for the file"
    )
    group.add_argument(
        "--min-sensitivity",
        type=float,
        metavar="S",
        help="choose the threshold on the validation part: at least this sensitivity, the best specificity",
    )


def recipe_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, by their names in RunConfig."""
    given = {name: True for name, flag in FLAGS.items() if getattr(arguments, flag.replace("-", "_"))}
    values = {name: getattr(arguments, name) for name in _VALUES}
    return given | {name: value for name, value in values.items() if value is not None}


def words(config: RunConfig) -> list[str]:
    """The options of a configuration as they are typed."""
    typed = [f"--{flag}" for name, flag in FLAGS.items() if getattr(config, name)]
    for name in _VALUES:
        value = getattr(config, name)
        typed += [f"--{name.replace('_', '-')} {value}"] if value is not None else []
    return typed
