"""What the studies found as one page: OUT/index.html, and the same as Markdown in OUT/index.md."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from studies.study import read_result
from tinynet import files, pages
from tinynet.errors import FileAccessError
from tinynet.texts import NOTICE

HEADING = "The seed studies, with tinynet"
# Tables with an interval beside every figure are wide.
_STYLE = "body { max-width: 84rem; } table { font-size: .85rem; } td:first-child { min-width: 12rem; }"
_INTERVAL = re.compile(r"(?<=\d) (?=\([-+]?\d)")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def write(out: Path, names: list[str]) -> Path:
    """Write both from the results that are there, in the order of `names`; returns the HTML page's path."""
    results = [(name, result) for name in names if (result := read_result(out / name)) is not None]
    marked = [f"# {HEADING}", "", NOTICE]
    body: list[str] = [
        "<nav>",
        *(f'<a href="#{name}">{pages.text(result["title"])}</a>' for name, result in results),
        "</nav>",
    ]
    for name, result in results:
        marked += ["", f"## {result['title']}", "", _about(result)]
        body += [f'<section id="{name}"><h2>{pages.text(result["title"])}</h2>']
        body.append(f'<p class="note">{pages.text(_about(result))}</p>')
        for part in result["parts"]:
            marked += ["", *_markdown(name, part)]
            body += _html(out, name, part)
        body.append("</section>")
    files.write_atomically(out / "index.md", ["\n".join(marked).encode() + b"\n"])
    target = out / "index.html"
    files.write_atomically(target, [pages.page(HEADING, body, _STYLE)])
    return target


def _about(result: dict[str, Any]) -> str:
    """When, how long and of which folds."""
    settings, folds = result["settings"], ", ".join(map(str, result["folds"]))
    told = [
        f"{result['date']}, {result['seconds']:.0f} s in the last call",
        f"folds {folds} of {result['of_folds']} by patient, seed {settings['seed']}",
        "all labels" if settings["exclude"] is None else f"exclusion list {settings['exclude']}",
    ]
    told += ["QUICK: one epoch, to see that it works; not a result"] if settings["quick"] else []
    told += [] if result["complete"] else ["not finished"]
    return "; ".join(told) + "."


def _title(part: dict[str, Any]) -> str:
    """ "Table 7: performance ..."."""
    return ". ".join(filter(None, [part["number"], part["title"]]))


def _markdown(name: str, part: dict[str, Any]) -> list[str]:
    if part["kind"] == "text":
        return [part["text"]]
    if part["kind"] == "picture":
        caption = ". ".join(filter(None, [part["number"], part["caption"]]))
        return [f"![{caption}]({name}/{part['file']})", "", f"*{caption}*"]
    if part["kind"] == "listing":
        return [f"**{_title(part)}**", "", "```", part["text"], "```"]
    lines = [f"**{_title(part)}**", ""]
    lines += [_line(part["header"]), "|---" * len(part["header"]) + "|"]
    lines += [_line(row) for row in part["rows"]]
    return lines + [line for note in part["notes"] if note for line in ("", note)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html(out: Path, name: str, part: dict[str, Any]) -> list[str]:
    if part["kind"] == "text":
        return [f"<p>{_linked(part['text'])}</p>"]
    if part["kind"] == "picture":
        caption = ". ".join(filter(None, [part["number"], part["caption"]]))
        file = f"{name}/{part['file']}"
        return [pages.figure(pages.picture(file, caption, _width(out / file)), pages.text(caption))]
    if part["kind"] == "listing":
        return [
            f"<h3>{pages.text(_title(part))}</h3>",
            f'<div class="wide"><pre>{html.escape(part["text"])}</pre></div>',
        ]
    rows = [[_cell(cell) for cell in row] for row in part["rows"]]
    return [
        f"<h3>{pages.text(_title(part))}</h3>",
        pages.table([pages.text(cell) for cell in part["header"]], rows),
        *(f'<p class="note">{_linked(note)}</p>' for note in part["notes"] if note),
    ]


def _cell(text: str) -> str:
    """A cell of a table; an interval stands under its figure, or tables would be wider than the page."""
    return _INTERVAL.sub("<br>", pages.text(text))


def _width(path: Path) -> int:
    """Of a PNG file in CSS pixels: plots have 140 pixels an inch, a page 96.  Raises FileAccessError."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as problem:
        raise FileAccessError(f"{path}: {problem.strerror or problem}") from None
    return round(int.from_bytes(head[16:20], "big") * 96 / 140)


def _linked(text: str) -> str:
    """Text whose [name](place) become links to files beside the page."""
    return _LINK.sub(r'<a href="\2">\1</a>', pages.text(text))
