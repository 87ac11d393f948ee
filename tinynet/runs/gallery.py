"""Pictures of cells with a line under each, as one HTML page that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinynet import files, pages
from tinynet.errors import FileAccessError

# What browsers show, by extension; files of other kinds are named instead.
_TYPES = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif", ".bmp": "bmp",
}  # fmt: skip

_STYLE = """
.gallery div { background: #000; color: #fff; height: 9rem; display: flex; align-items: center;
  justify-content: center; }
.gallery img { max-height: 9rem; }
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
    body = [f"<p>{pages.text(line)}</p>" for line in text]
    for heading, pictures in sections:
        body.append(f'<h2>{pages.text(heading)}</h2><div class="gallery">')
        body += [*map(_figure, pictures), "</div>"]
    files.write_atomically(path, [pages.page(title, body, _STYLE)])


def _figure(picture: Picture) -> str:
    kind = _TYPES.get(picture.path.suffix.lower())
    shown = pages.text(picture.path.name)
    if kind is not None:
        try:
            data = picture.path.read_bytes()
        except OSError as problem:
            raise FileAccessError(f"{picture.path}: {problem.strerror or problem}") from None
        shown = f'<img src="{pages.address(data, kind)}" alt="">'
    return pages.figure(f"<div>{shown}</div>", pages.text(picture.caption))
