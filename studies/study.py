"""What all studies share: their settings, what they find, and how it is kept."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinynet import files, storage
from tinynet.errors import ArgumentError, FileAccessError, ModelFileError
from tinynet.runs import RunConfig
from tinynet.texts import interval, number

RESULT_FILE, SETTINGS_FILE = "result.json", "settings.json"
FOLDS, QUICK_FOLDS = 5, 3


@dataclass(frozen=True)
class Settings:
    """What the studies were asked to do.

    data, exclude   the folder of cells; the list of images to leave out, or None
    out             where everything goes
    quick           an epoch of everything, on one fold of three: to see that it works
    folds           those of the one division by patient that are tested on, their predictions pooled
    epochs          of every classifier; None: each study's own
    sweep_epochs    of every classifier of the sweep of sizes
    reconstruction_epochs  of the autoencoders of the autoencoder study
    """

    data: str
    out: Path
    exclude: str | None = None
    quick: bool = False
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    epochs: int | None = None
    sweep_epochs: int = 6
    reconstruction_epochs: int = 400
    seed: int = 0
    verbose: int = 1

    @property
    def of_folds(self) -> int:
        """How many folds the division has."""
        return QUICK_FOLDS if self.quick else FOLDS

    def tested(self) -> tuple[int, ...]:
        """The folds that are tested on."""
        return (1,) if self.quick else self.folds

    def some(self, epochs: int) -> int:
        """So many epochs, or one."""
        return 1 if self.quick else epochs

    def config(self, model: str, **more: Any) -> RunConfig:
        """The run of a recipe on this data, with the one division into folds, without a fold."""
        batch = 32 if self.quick else 128
        return RunConfig(
            model=model, data=self.data, exclude=self.exclude, seed=self.seed, folds=self.of_folds,
            batch_size=batch, **more,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What a result depends on, but for the folds, as JSON has it and without this machine's paths."""
        told = asdict(self)
        for name in ("data", "out", "folds", "verbose"):
            del told[name]
        told["exclude"] = None if self.exclude is None else _digest(self.exclude)
        return told


@dataclass
class Findings:
    """What a study found.

    values  every figure, by name, as JSON has them
    parts   what a page shows, in order: tables, pictures, text
    """

    values: dict[str, Any] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)

    def table(
        self, number: str, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *notes: str
    ) -> None:
        """Add a table; number: "Table 7" as in the report, or "" for one that it does not have."""
        assert all(len(row) == len(header) for row in rows), (number, title)
        self.parts.append(
            {
                "kind": "table",
                "number": number,
                "title": title,
                "header": list(header),
                "rows": [list(row) for row in rows],
                "notes": list(notes),
            }
        )

    def picture(self, number: str, file: str, caption: str) -> None:
        """Add a picture, a file in the study's folder."""
        self.parts.append({"kind": "picture", "number": number, "file": file, "caption": caption})

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append({"kind": "text", "text": text})

    def listing(self, number: str, title: str, text: str) -> None:
        """Add lines whose spaces count."""
        self.parts.append({"kind": "listing", "number": number, "title": title, "text": text})


Run = Callable[[Settings, Path, Callable[[Findings], None]], Findings]


def carry_out(
    name: str,
    title: str,
    run: Run,
    settings: Settings,
    again: bool = False,
    changed: Callable[[], object] = lambda: None,
) -> bool:
    """Run a study and keep what it finds in OUT/NAME/result.json; returns whether it was there already.

    run     (settings, the study's folder, keep) -> findings; `keep` writes what there is so far
    again   run it although its result is there: trained models, and what else it keeps, are not made anew
    changed  called whenever the result has changed, to show it

    Raises ArgumentError where OUT holds studies of other settings.
    """
    folder = settings.out / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FileAccessError(f"{folder}: cannot be made: {problem.strerror or problem}") from None
    check_settings(settings)
    if not again:
        before = read_result(folder)
        if before is not None and before["complete"] and before["folds"] == list(settings.tested()):
            return True
    started = time.monotonic()

    def keep(findings: Findings, complete: bool = False) -> None:
        write_json(
            folder / RESULT_FILE,
            {
                "study": name,
                "title": title,
                "complete": complete,
                "date": storage.now(),
                "seconds": round(time.monotonic() - started, 1),
                "settings": settings.told(),
                "folds": list(settings.tested()),
                "of_folds": settings.of_folds,
                "values": findings.values,
                "parts": findings.parts,
            },
        )
        changed()

    keep(run(settings, folder, keep), complete=True)
    return False


def check_settings(settings: Settings) -> None:
    """Write OUT/settings.json; raises ArgumentError where it is there and says something else."""
    path, told = settings.out / SETTINGS_FILE, settings.told()
    if not path.exists():
        write_json(path, told)
        return
    before = read_json(path)
    for name, value in told.items():
        if before.get(name) != value:
            option = "--" + name.replace("_", "-")
            shown = f" ({before.get(name)}, now {value})" if name != "exclude" else ""
            raise ArgumentError(
                f"{settings.out} was made with another {option}{shown}: give the same to go on, "
                "or another --out"
            )


def read_result(folder: Path) -> dict[str, Any] | None:
    """What a study found, whole or so far; None where it has not begun."""
    path = folder / RESULT_FILE
    return read_json(path) if path.exists() else None


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returned when it was first called for this file, as JSON has it."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


def write_json(path: Path, value: Any) -> None:
    """As a whole or not at all; NaN is refused."""
    files.write_atomically(path, [json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"])


def read_json(path: Path) -> Any:
    """Raises FileAccessError or ModelFileError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise FileAccessError(f"{path}: {problem.strerror or problem}") from None
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path}: not valid JSON") from None


def with_interval(value: float | None, ends: Sequence[float] | None, digits: int = 4) -> str:
    """ "0.9912 (0.9880 to 0.9940)"."""
    if value is None or ends is None:
        return number(value, digits)
    return f"{number(value, digits)} ({interval(ends, digits)})"


def signed(difference: Mapping[str, Any]) -> str:
    """ "+0.0012 (-0.0003 to +0.0031)", of a figure of tinynet.comparison.compare."""
    if difference["difference"] is None:
        return "-"
    low, high = difference["interval"]
    return f"{difference['difference']:+.4f} ({low:+.4f} to {high:+.4f})"


def _digest(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as problem:
        raise FileAccessError(f"{path}: {problem.strerror or problem}") from None
