"""Files that belong to tinynet itself, which may be a zip: a wheel on sys.path runs without being unpacked.

importlib.resources reads both, but importing it is a sixth of a start; zipimport's loader has what is needed.
"""

from __future__ import annotations

import errno
import os
from io import BytesIO
from typing import Any

_loader: Any = __spec__.loader
_archive: str | None = getattr(_loader, "archive", None)  # the zip; None where tinynet is in a folder
_root = os.path.join(os.path.abspath(_archive), "") if _archive else ""


def in_archive(path: str) -> bool:
    """Whether a path leads into the zip that tinynet is imported from."""
    return bool(_root) and os.path.abspath(path).startswith(_root)


def open_in_archive(path: str) -> BytesIO:
    """A file of that zip, in memory; raises FileNotFoundError if there is none."""
    try:
        return BytesIO(_loader.get_data(os.path.join(_archive or "", _inside(path))))
    except OSError as problem:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from problem


def file_names(folder: str) -> list[str]:
    """The names in a folder, in the file system or in that zip, sorted; none if there is no such folder."""
    if not in_archive(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    from zipfile import ZipFile

    before = _inside(folder).replace(os.sep, "/") + "/"
    with ZipFile(_archive or "") as archive:
        return sorted(name.removeprefix(before) for name in archive.namelist() if name.startswith(before))


def _inside(path: str) -> str:
    return os.path.abspath(path).removeprefix(_root)
