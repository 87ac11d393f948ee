"""HTML pages that open from a disk: no network, no script, nothing that a file's name could smuggle in.

Text is escaped where it enters (`text`), and each page forbids its reader's browser to load or run
anything but pictures (a Content-Security-Policy), so that neither depends on the other.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from tinynet.texts import NOTICE, printable

_STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 68rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #ddd; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
p { max-width: 46rem; margin: .45rem 0; }
.notice { font-weight: 600; background: #fff4e5; border-left: 4px solid #d55e00; padding: .5rem .8rem; }
.note { color: #555; font-size: .92rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .95rem; }
th, td { padding: .28rem .8rem .28rem 0; border-bottom: 1px solid #e4e4e4; text-align: left;
  vertical-align: top; }
th { font-weight: 600; border-bottom-color: #999; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: .5rem 0; }
figcaption { font-size: .88rem; color: #444; max-width: 44rem; }
img { display: block; max-width: 100%; }
img.pixels { image-rendering: pixelated; }
.row { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: flex-start; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .9rem .9rem; }
.gallery figure { margin: 0; }
.gallery figcaption { font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; }
nav { font-size: .95rem; } nav a { display: inline-block; margin-right: .9rem; color: #0072b2; }
summary { cursor: pointer; }
.scale { display: inline-block; width: 8rem; height: .8rem; vertical-align: middle; margin: 0 .4rem; }
"""


def text(value: object) -> str:
    """Any text, safe between tags and in quoted attributes.

    Control characters, undecodable bytes and marks that turn the direction of writing, all of which
    names of files can have, are shown as escapes.
    """
    return html.escape(printable(str(value)), quote=True)


def page(title: str, body: Iterable[str], head: str = "") -> bytes:
    """A whole document, UTF-8.  title: as text; body: HTML, one part after another; head: more style."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src 'self' data: file:; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{_STYLE}{head}</style></head><body>",
            f"<h1>{text(title)}</h1>",
            f'<p class="notice">{NOTICE}</p>',
            *body,
            "</body></html>\n",
        ]
    ).encode("utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> str:
    """A table of HTML cells; columns from `numbers_from` on stand flush right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="n"' if k >= numbers_from else "" for k in range(len(cells))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    lines = [f"<tr>{line(header, 'th')}</tr>"] + [f"<tr>{line(row, 'td')}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def address(data: bytes, kind: str = "png") -> str:
    """Where a page finds a picture that it holds itself: the bytes of a file of this kind, png, jpeg, ..."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture(source: bytes | str, alternative: str, width: int, pixels: bool = False) -> str:
    """A picture, `width` CSS pixels wide: the bytes of a PNG, which go into the page, or its path beside it.

    alternative: what it shows, as text.  pixels: enlarge without smoothing.
    """
    place = address(source) if isinstance(source, bytes) else text(source)
    kind = ' class="pixels"' if pixels else ""
    return f'<img src="{place}" alt="{text(alternative)}" width="{width}"{kind}>'


def figure(content: str, caption: str, width: int | None = None) -> str:
    """HTML with a caption, which is HTML too; `width` CSS pixels wide, by default as wide as need be."""
    style = "" if width is None else f' style="width:{width}px"'
    return f"<figure{style}>{content}<figcaption>{caption}</figcaption></figure>"
