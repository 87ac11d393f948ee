"""Options of training that add to a recipe: what each is called on the command line and in RunConfig."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinynet.runs import RunConfig

FLAGS = {  # without a value
    "stain": "stain-augmentation",
    "calibrate": "calibrate",
    "teacher_once": "teacher-once",
}
_VALUES = ("denoise", "hide", "teacher_temperature", "teacher_weight", "keep", "min_sensitivity")


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """The options, on a parser of their own group."""
    group = parser.add_argument_group("additions to the recipe (docs/training.md)")
    group.add_argument(
        "--stain-augmentation",
        action="store_true",
        help="show cells in other colours too; the background stays black",
    )
    group.add_argument(
        "--denoise",
        type=float,
        metavar="S",
        help="show an autoencoder cells with noise, of this share of full scale, that it is to take away",
    )
    group.add_argument(
        "--hide", type=float, metavar="S", help="hide this share of a cell's squares, that it is to fill in"
    )
    group.add_argument(
        "--teacher",
        action="append",
        metavar="MODEL",
        help="learn from this model's probabilities, too; of several, given one by one, from their mean",
    )
    group.add_argument(
        "--teacher-temperature", type=float, metavar="T", help="that softens these; default: 2"
    )
    group.add_argument(
        "--teacher-weight", type=float, metavar="A", help="their share of the loss; default: 0.5"
    )
    group.add_argument(
        "--teacher-once",
        action="store_true",
        help="show teachers each cell once, as it is, instead of as the student sees it",
    )
    group.add_argument(
        "--keep",
        choices=("best", "last", "average"),
        help="the weights of the best epoch by validation loss (default), of the last, or a running mean",
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
    given |= {name: value for name, value in values.items() if value is not None}
    return given | ({"teachers": tuple(arguments.teacher)} if arguments.teacher else {})


def words(config: RunConfig) -> list[str]:
    """The options of a configuration as they are typed."""
    typed = [f"--{flag}" for name, flag in FLAGS.items() if getattr(config, name)]
    for name in _VALUES:
        value = getattr(config, name)
        if value != type(config).__dataclass_fields__[name].default:
            typed.append(f"--{name.replace('_', '-')} {value}")
    return [*typed, *(f"--teacher MODEL{number}" for number in range(1, len(config.teachers) + 1))]
