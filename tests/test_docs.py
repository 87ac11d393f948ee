"""Every Python block of the README and the pages runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tinynet.data.synthetic import synthetic_cells

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/prediction.md",
    "docs/looking-inside.md",
    "docs/int8.md",
    "docs/onnx.md",
    "docs/evaluation.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    if page == "docs/onnx.md":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    if page == "docs/evaluation.md":
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    cells = synthetic_cells(48, size=32)
    image.fromarray(synthetic_cells(1, size=90).images[0]).save("cell.png")
    names = {
        "images": cells.images[:32],
        "labels": cells.labels[:32],
        "held_images": cells.images[32:],
        "held_labels": cells.labels[32:],
    }
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_every_link_leads_somewhere():
    pages = [
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("models/**/*.md"),
        *ROOT.glob("bench/*.md"),
    ]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
