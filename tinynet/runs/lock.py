"""One process at a time writes in a run's folder.

A process holds an open file, `.lock`, in the folder and a lock of the system on it, which the system takes
back when the process ends, however it ends: after kill -9 nobody has to tidy up.  Sources: flock(2) of Linux
and BSD; _locking of Microsoft's C library.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from tinynet.errors import FileAccessError, FolderInUseError

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads of this one, from the run in `folder` while inside.

    The folder is made if there is none, and goes again if nothing has come into it.  Where the system or
    the file system has no locks, a warning says so and work goes on.

    Raises FolderInUseError, which names the folder and the other process, where another has it; and
    FileAccessError where the folder cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FileAccessError(
            f"{folder}: cannot make the run's folder: {problem.strerror or problem}"
        ) from None
    descriptor = _held(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            _give_back(folder / NAME, descriptor)
        with contextlib.suppress(OSError):  # there is something in it, as there should be
            for place in missing:
                place.rmdir()


def _held(folder: Path) -> int | None:
    """The descriptor of the folder's lock, which is held; None where there can be none."""
    path = folder / NAME
    descriptor = None
    try:
        while True:
            # Not through a link: what it points to is not the run's.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            if not _lock(descriptor):
                os.close(descriptor)
                raise FolderInUseError(
                    f"{folder} is in use by {_holder(path)}: wait until that has ended, or stop it, "
                    "or choose another folder"
                )
            if _is_at(descriptor, path):
                break
            os.close(descriptor)  # who had it has removed the file in the meantime
    except FolderInUseError:
        raise
    except OSError as problem:
        if descriptor is not None:
            _give_back(path, descriptor)
        # Where nothing can be written there is nothing to protect, and the run will say so itself.
        if os.access(folder, os.W_OK):
            warnings.warn(
                f"{folder} cannot be locked ({problem.strerror or problem}): see that no other process "
                "trains in this folder at the same time",
                stacklevel=4,
            )
        return None
    with contextlib.suppress(OSError):  # a full disk: others will be told "another process"
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {platform.node()}\n".encode(errors="replace"))
    return descriptor


def _lock(descriptor: int) -> bool:
    """Take the lock; False where somebody has it, OSError where there are no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # A byte far behind the text, which others could not read if it were locked itself.
            os.lseek(descriptor, 2**30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        raise OSError(errno.ENOSYS, "this system has no locks") from None
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still has this name; on Windows an open file cannot lose it."""
    if sys.platform == "win32":
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """What the one who has the lock has written about itself, as words."""
    try:
        with open(path, errors="replace") as file:
            process, computer = file.read(300).split()
        where = "" if computer == platform.node() else f" on {computer}"
        return f"process {int(process)}{where}"
    except (OSError, ValueError):
        return "another process"


def _give_back(path: Path, descriptor: int) -> None:
    """Remove the file while it is still locked, so that nobody's new file goes; on Windows after it."""
    with contextlib.suppress(OSError):
        if sys.platform != "win32":
            os.unlink(path)
    with contextlib.suppress(OSError):
        os.close(descriptor)
        if sys.platform == "win32":
            os.unlink(path)
