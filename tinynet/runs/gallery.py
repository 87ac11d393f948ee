"""Pictures of cells with a line under each, as one HTML page that opens without a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinynet import files
from tinynet.errors import FileAccessError
from tinynet.texts import NOTICE

# What browsers show, by extension; files of other kinds are named instead.
_TYPES = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif", ".bmp": "bmp",
}  # fmt: skip

_STYLE = """\
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; max-width: 75em; color: #222; }
figure { display: inline-block; vertical-align: top; width: 150px; margin: 0 8px 14px 0; }
figure div { background: #000; height: 150px; display: flex; align-items: center; justify-content: center; }
img { max-width: 150px; max-height: 150px; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Picture:
    """A picture's file and what is said under it."""

    path: Path
    caption: str


def write(path: Path, title: str, text: Sequence[str], sections: Sequence[tuple[str, list[Picture]]]) -> None:
    """Write the page: a title, paragraphs, and under each heading its pictures, unchanged, inside the page.

    Raises FileAccessError where a picture cannot be read or the page not be written.
    """
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(line)}</p>" for line in (*text, NOTICE))]
    for heading, pictures in sections:
        body += [f"<h2>{html.escape(heading)}</h2>", *map(_figure, pictures)]
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>\n{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    files.write_atomically(path, [page.encode("utf-8", "replace")])


def _figure(picture: Picture) -> str:
    kind = _TYPES.get(picture.path.suffix.lower())
    shown = html.escape(picture.path.name)
    if kind is not None:
        try:
            data = base64.b64encode(picture.path.read_bytes()).decode()
        except OSError as problem:
            raise FileAccessError(f"{picture.path}: {problem.strerror or problem}") from None
        shown = f'<img src="data:image/{kind};base64,{data}" alt="">'
    return f"<figure><div>{shown}</div><figcaption>{html.escape(picture.caption)}</figcaption></figure>"
