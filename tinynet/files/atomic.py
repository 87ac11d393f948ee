"""Replace a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from tinynet.errors import FileAccessError
from tinynet.files import packaged

PathLike = str | os.PathLike[str]


TEMPORARY = (".tinynet-", ".tmp")
"""How names begin and end that files have while they are written; only a killed process leaves one."""


def write_atomically(
    path: PathLike, chunks: Iterable[bytes | memoryview], keep: PathLike | None = None
) -> None:
    """Write the chunks, one after the other, as the new content of `path`.

    They go to a temporary name in the same folder, reach the disk (fsync), and only then
    take the file's name, so that a reader, a full disk, Ctrl-C or a power cut meets the whole
    old file or the whole new one.  A symbolic link goes on pointing where it did, and a file
    that is replaced keeps its permissions.

    Raises FileAccessError, naming the path, when the folder is missing, the disk is full,
    permission is lacking or `path` is something other than a file.  The old file is then
    untouched and the temporary one is gone.
    """
    name = path_text(path)
    target = os.path.realpath(name)
    # The temporary name does not contain the file's own, which may already be as long as allowed.
    temporary = os.path.join(os.path.dirname(target), os.urandom(8).hex().join(TEMPORARY))
    try:
        mode = _mode_to_keep(target)
        with _removed_on_failure(temporary):
            with open(temporary, "xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                with contextlib.suppress(OSError):  # a FAT memory card has no permissions to set
                    os.chmod(temporary, mode)
            if keep is not None and mode is not None:
                with contextlib.suppress(OSError):  # the new file matters more
                    os.replace(target, path_text(keep))
            os.replace(temporary, target)
    except OSError as error:
        raise FileAccessError(f"{name} could not be written: {_reason(error)}.") from error


def check_writable(path: PathLike) -> None:
    """Raise FileAccessError where `write_atomically` would, a full disk apart; for use before long work."""
    name = path_text(path)
    target = os.path.realpath(name)
    temporary = os.path.join(os.path.dirname(target), os.urandom(8).hex().join(TEMPORARY))
    try:
        _mode_to_keep(target)
        with _removed_on_failure(temporary), open(temporary, "xb"):
            pass
        os.unlink(temporary)
    except OSError as error:
        raise FileAccessError(f"{name} could not be written: {_reason(error)}.") from error


def remove_temporaries(folder: PathLike) -> None:
    """Remove what processes that were killed while writing have left in `folder`; nobody may be writing."""
    with contextlib.suppress(OSError), os.scandir(path_text(folder)) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(TEMPORARY[0])]
        for path in left:
            if path.endswith(TEMPORARY[1]):
                os.unlink(path)


@contextlib.contextmanager
def open_to_read(path: PathLike) -> Iterator[BinaryIO]:
    """Open an existing regular file; any OSError on the way or inside becomes a FileAccessError.

    It may lie in the zip that tinynet itself is imported from.
    """
    name = path_text(path)
    try:
        if packaged.in_archive(name):
            yield packaged.open_in_archive(name)
            return
        # Checked before opening, because opening a named pipe would wait for ever.
        _require_regular_file(os.stat(name).st_mode)
        with open(name, "rb") as file:
            yield file
    except FileAccessError:
        raise
    except OSError as error:
        raise FileAccessError(f"{name} could not be read: {_reason(error)}.") from error


def read_exactly(file: BinaryIO, buffer: memoryview) -> bool:
    """Fill the whole buffer from the file; False if the file ends first."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not count:
            return False
        filled += count
    return True


def path_text(path: PathLike) -> str:
    """The path as text for messages; raises FileAccessError where no file can have such a name."""
    name = os.fsdecode(path)
    if not name:
        raise FileAccessError("the file name is empty.")
    try:
        possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise FileAccessError(f"{name!r} cannot be the name of a file.")
    return name


def _mode_to_keep(target: str) -> int | None:
    """The permissions of the file about to be replaced; None if there is none."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    # Renaming over /dev/null would succeed for the superuser and break the machine.
    _require_regular_file(mode)
    # Renaming needs only a writable folder; a file that someone made read-only is still protected.
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only")
    return stat.S_IMODE(mode)


def _require_regular_file(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")


@contextlib.contextmanager
def _removed_on_failure(temporary: str) -> Iterator[None]:
    try:
        yield
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _reason(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    return text[0].lower() + text[1:]
