"""Runs `tinynet` and kills its own process at a chosen moment of writing a file, as a power cut would.

    python -m robustness.killer MOMENT COUNT ARGUMENTS...

MOMENT  half      half of a piece of a file has been written
        written   all of a file has been written, and may not have reached the disk
        synced    it is on the disk, under its temporary name
        kept      the old checkpoint has its other name, the new one not yet its own
        renamed   the new file has taken the old one's place
        step      a training step is about to change the weights
COUNT   at the how-manieth of these moments, from 1

Files are written in one place (tinynet/files/atomic.py); its calls to the system are watched, nothing in
tinynet knows of this.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

MOMENTS = ("half", "written", "synced", "kept", "renamed", "step")


def kill_myself() -> None:
    """No handler, no `finally`, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, count: int, act: Callable[[], Any] = kill_myself) -> None:
    """Have `act` called at that moment of this process; for good."""
    from tinynet.files import atomic
    from tinynet.optim import Optimizer

    left = count

    def passing(now: str) -> None:
        nonlocal left
        if now == moment:
            left -= 1
            if left == 0:
                act()

    class Watched:
        """A file being written."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> None:
            half = len(data) // 2
            self.file.write(data[:half])
            self.file.flush()
            passing("half")
            self.file.write(data[half:])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *exception: object) -> None:
            self.file.close()

    def watched_open(path: Any, mode: str = "r", **options: Any) -> Any:
        file = builtins.open(path, mode, **options)  # noqa: SIM115
        return Watched(file) if "x" in mode else file

    sync, replace, step = os.fsync, os.replace, Optimizer.step

    def watched_sync(descriptor: int) -> None:
        passing("written")
        sync(descriptor)
        passing("synced")

    def watched_replace(source: Any, target: Any) -> None:
        replace(source, target)
        passing("renamed" if os.fspath(source).endswith(atomic.TEMPORARY[1]) else "kept")

    def watched_step(self: Optimizer, parameters: Any) -> None:
        passing("step")
        step(self, parameters)

    atomic.open = watched_open  # type: ignore[attr-defined]
    os.fsync, os.replace = watched_sync, watched_replace
    Optimizer.step = watched_step  # type: ignore[method-assign]


def main() -> int:
    """Arm and run the command line."""
    from tinynet.cli import main as tinynet

    arm(sys.argv[1], int(sys.argv[2]))
    return tinynet(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
