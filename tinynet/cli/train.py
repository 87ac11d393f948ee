"""tinynet train: train a model on a folder of cells, or on synthetic ones, and leave a run folder."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinynet.cli.options import add_data, add_exclude, add_quiet
from tinynet.cli.output import at_one_in_a_hundred, chosen_lines
from tinynet.cli.recipe_options import FLAGS, add_recipe_options, recipe_options, words
from tinynet.texts import NOTICE

if TYPE_CHECKING:
    from tinynet.runs import RunConfig

SUMMARY = "train a model on a folder of cells, or on synthetic cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_training_arguments(parser)
    parser.add_argument(
        "--out", metavar="RUN", help="the run's folder (default: runs/MODEL, runs/MODEL-2, ...)"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with an interrupted run, whose options hold; --data and --exclude may have moved",
    )
    add_quiet(parser)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what is trained, and on what: of this command and of crossvalidate."""
    add_data(parser, "else synthetic cells")
    parser.add_argument("--model", help="autoencoder (default), small-cnn, cells-70k or cells-10k")
    parser.add_argument(
        "--split",
        choices=("patient", "image", "none"),
        help="default: patient; none trains on all cells and measures nothing",
    )
    add_exclude(parser)
    parser.add_argument("--epochs", type=int, help="of the last stage; the stages before it follow")
    parser.add_argument("--batch-size", type=int, help="default: 128")
    parser.add_argument("--size", type=int, help="height and width of the model's input in pixels")
    parser.add_argument("--learning-rate", type=float, help="the highest of the last stage")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--no-augmentation", action="store_true", help="show every cell as it is")
    add_recipe_options(parser)
    parser.add_argument(
        "--fold",
        type=int,
        metavar="K",
        help="test on this fold of one fixed division (tinynet crossvalidate)",
    )
    parser.add_argument("--folds", type=int, help="how many folds that division has; default: 5")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.errors import ArgumentError, NonFiniteError
    from tinynet.runs import RunConfig, train

    verbose = 0 if arguments.quiet else 1
    given = given_options(arguments)
    if arguments.resume is not None:
        folder = Path(arguments.resume)
        config = _resumed(RunConfig.load(folder), folder, given, arguments.out)
    else:
        if "folds" in given and "fold" not in given:
            raise ArgumentError("--folds divides for --fold K: give both, or neither")
        config = RunConfig(**given)
        folder = Path(arguments.out) if arguments.out else _free_folder(config.model)
    if config.data is None:
        if arguments.epochs is None and arguments.resume is None:
            config = replace(config, epochs=20)
        print(
            f"no --data given: training on {config.synthetic} synthetic cells, drawn here; "
            "they show that everything works, not how well it works on real cells",
            file=sys.stderr,
        )
    try:
        result = train(
            config, folder, resume=arguments.resume is not None, command=command_of(config), verbose=verbose
        )
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_how_to_go_on(folder)}", file=sys.stderr)
        return 130
    except OSError as problem:  # a full disk, most often
        raise _kept(problem, folder) from None
    except NonFiniteError as problem:
        raise NonFiniteError(diverged(str(problem), config.learning_rate)) from None
    print(_report(result, folder))
    return 0


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by their names in RunConfig."""
    names = (
        "model",
        "data",
        "exclude",
        "split",
        "epochs",
        "batch_size",
        "size",
        "learning_rate",
        "seed",
        "fold",
        "folds",
    )
    given = {name: getattr(arguments, name) for name in names}
    given["augment"] = False if arguments.no_augmentation else None
    return {name: value for name, value in given.items() if value is not None} | recipe_options(arguments)


def _resumed(config: RunConfig, folder: Path, given: dict[str, Any], out: str | None) -> RunConfig:
    """The configuration of a run to go on with; ArgumentError where a given option contradicts it.

    Data folders, exclusion lists and teachers move: these may be given anew, and what they hold is compared.
    """
    from tinynet.errors import ArgumentError, FileAccessError

    if out is not None and Path(out).resolve() != folder.resolve():
        raise ArgumentError(f"--out {out} cannot be given with --resume {folder}: a run stays in its folder")
    moved = {name: given.pop(name) for name in ("data", "exclude", "teachers") if name in given}
    for name, value in given.items():
        if value != getattr(config, name):
            flags = {"augment": "no-augmentation", **FLAGS}
            option = flags.get(name, f"{name.replace('_', '-')} {value}")
            raise ArgumentError(
                f"--{option} contradicts the run in {folder}, which goes on as it began; "
                "leave the option out, or start another run"
            )
    config = replace(config, **moved)
    for name, what in (("data", "data folder"), ("exclude", "exclusion list")):
        path = getattr(config, name)
        if name not in moved and path is not None and not os.path.exists(path):
            raise FileAccessError(
                f"the {what} of the run in {folder}, {path}, does not exist; when it is back, or with "
                f"--{name} and where it is now, the run can go on"
            )
    return config


def _how_to_go_on(folder: Path) -> str:
    from tinynet.runs.config import FILE

    if not (folder / FILE).exists():
        return "the run had not begun, there is nothing to go on with"
    return f"go on with: tinynet train --resume {shlex.quote(str(folder))}"


def _kept(problem: OSError, folder: Path) -> OSError:
    """The problem with what can be done about it, where a run has begun."""
    from tinynet.errors import FileAccessError, FolderInUseError
    from tinynet.runs.config import FILE

    if isinstance(problem, FolderInUseError) or not (folder / FILE).exists():
        return problem
    if isinstance(problem, FileAccessError):
        sentence = str(problem).rstrip(".")
    else:
        sentence = f"{problem.filename or 'the output'}: {problem.strerror or problem}"
    return FileAccessError(f"{sentence}; what was trained before is kept, {_how_to_go_on(folder)}")


def diverged(problem: str, rate: float | None) -> str:
    """What to do about it: the run would diverge again, so not --resume but a new one."""
    which = "a --learning-rate lower than the recipe's" if rate is None else f"--learning-rate below {rate:g}"
    return f"{problem}; resuming repeats this: start another run with {which}"


def _tested(result: dict[str, Any]) -> list[str]:
    test = result["test"]
    if result["split"] == "patient":
        lines = [f"test: {test['n']} cells of {test['patients']} patients not used in training"]
    else:
        lines = [f"test: {test['n']} cells not used in training, of patients who were: optimistic"]
    for name in ("accuracy", "sensitivity", "specificity", "auc"):
        value, interval = test[name], test["intervals"].get(name)
        if value is not None:
            spread = f"  (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
            lines.append(f"  {name:<12} {value:.4f}{spread}")
    lines += [f"  {line}" for line in at_one_in_a_hundred(test)]
    if "calibrated" in result:
        lines += chosen_lines(result["calibrated"])
    return lines


def _report(result: dict[str, Any], folder: Path) -> str:
    lines = _tested(result) if "test" in result else [
        f"trained on all {result['images']['training']} cells: nothing is left to measure this model on"
    ]  # fmt: skip
    if "test_all_labels" in result:
        full = result["test_all_labels"]
        lines.append(
            f"  with the excluded images of the same patients: accuracy {full['accuracy']:.4f}, "
            f"AUC {full['auc']:.4f} on {full['n']} cells"
        )
    plots = folder / "plots"  # absent without matplotlib
    lines.append(
        f"model: {folder / 'model.safetensors'} ({result['file_bytes']:,} bytes)"
        + (f"; plots: {plots}" if plots.is_dir() else "")
    )
    lines.append(NOTICE)
    return "\n".join(lines)


def command_of(config: RunConfig) -> str:
    """The command that makes this run, without this machine's paths."""
    parts = ["tinynet train", f"--model {config.model}"]
    parts += ["--data DIR"] if config.data else []
    parts += ["--exclude LIST"] if config.exclude else []
    parts += [f"--split {config.split}"] if config.split != "patient" else []
    for name in ("epochs", "size", "learning_rate"):
        value = getattr(config, name)
        parts += [f"--{name.replace('_', '-')} {value}"] if value is not None else []
    parts += [f"--batch-size {config.batch_size}"] if config.batch_size != 128 else []
    parts += ["--no-augmentation"] if not config.augment else []
    parts += [f"--fold {config.fold}"] if config.fold is not None else []
    parts += [f"--folds {config.folds}"] if config.fold is not None and config.folds != 5 else []
    return " ".join([*parts, *words(config), f"--seed {config.seed}"])


def _free_folder(model: str) -> Path:
    """runs/MODEL, or the first of runs/MODEL-2, -3, ... that does not exist."""
    folder, number = Path("runs") / model, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{model}-{number}"
    return folder
