"""tinynet train: train a model on a folder of cells, or on synthetic ones, and leave a run folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinynet.runs import RunConfig

SUMMARY = "train a model on a folder of cells, or on synthetic cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--data", metavar="DIR", help="a folder with Parasitized/ and Uninfected/; else synthetic cells"
    )
    parser.add_argument("--model", help="autoencoder (default), small-cnn, cells-70k or cells-10k")
    parser.add_argument(
        "--split",
        choices=("patient", "image", "none"),
        help="default: patient; none trains on all cells and measures nothing",
    )
    parser.add_argument(
        "--exclude", metavar="LIST", help="a file of images to leave out, one Class/name a line"
    )
    parser.add_argument("--epochs", type=int, help="of the last stage; the stages before it follow")
    parser.add_argument("--batch-size", type=int, help="default: 128")
    parser.add_argument("--size", type=int, help="height and width of the model's input in pixels")
    parser.add_argument("--learning-rate", type=float, help="the highest of the last stage")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--no-augmentation", action="store_true", help="show every cell as it is")
    parser.add_argument(
        "--out", metavar="RUN", help="the run's folder (default: runs/MODEL, runs/MODEL-2, ...)"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with an interrupted run, whose options hold; --data and --exclude may have moved",
    )
    parser.add_argument("--quiet", action="store_true", help="print the result only")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tinynet.errors import NonFiniteError
    from tinynet.runs import RunConfig, train

    verbose = 0 if arguments.quiet else 1
    given = _given(arguments)
    if arguments.resume is not None:
        folder = Path(arguments.resume)
        config = _resumed(RunConfig.load(folder), folder, given, arguments.out)
    else:
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
            config, folder, resume=arguments.resume is not None, command=_command(config), verbose=verbose
        )
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: tinynet train --resume {folder}", file=sys.stderr)
        return 130
    except NonFiniteError as problem:
        raise NonFiniteError(_diverged(str(problem), config.learning_rate)) from None
    print(_report(result, folder))
    return 0


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by their names in RunConfig."""
    names = ("model", "data", "exclude", "split", "epochs", "batch_size", "size", "learning_rate", "seed")
    given = {name: getattr(arguments, name) for name in names}
    given["augment"] = False if arguments.no_augmentation else None
    return {name: value for name, value in given.items() if value is not None}


def _resumed(config: RunConfig, folder: Path, given: dict[str, Any], out: str | None) -> RunConfig:
    """The configuration of a run to go on with; ArgumentError where a given option contradicts it.

    Data folders and exclusion lists move: these may be given anew, and what they hold is compared.
    """
    from tinynet.errors import ArgumentError

    if out is not None and Path(out).resolve() != folder.resolve():
        raise ArgumentError(f"--out {out} cannot be given with --resume {folder}: a run stays in its folder")
    moved = {name: given.pop(name) for name in ("data", "exclude") if name in given}
    for name, value in given.items():
        if value != getattr(config, name):
            option = "no-augmentation" if name == "augment" else f"{name.replace('_', '-')} {value}"
            raise ArgumentError(
                f"--{option} contradicts the run in {folder}, which goes on as it began; "
                "leave the option out, or start another run"
            )
    return replace(config, **moved)


def _diverged(problem: str, rate: float | None) -> str:
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
    lines.append("Not a medical device; for research and teaching.")
    return "\n".join(lines)


def _command(config: Any) -> str:
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
    return " ".join([*parts, f"--seed {config.seed}"])


def _free_folder(model: str) -> Path:
    """runs/MODEL, or the first of runs/MODEL-2, -3, ... that does not exist."""
    folder, number = Path("runs") / model, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{model}-{number}"
    return folder
