"""What is written in a model file, or is a picture's name, leads nowhere and runs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinynet as tn
from tinynet.data.synthetic import write_folder

pytest.importorskip("PIL")

ROOT = Path(__file__).parent.parent
EVIL = "..\\..\\evil\x1b[31m\n*/ <script>alert(1)</script> %n \u202e'\"$(touch evil)"

# Commands one after another; an audit hook (PEP 578) tells what was opened to write, removed, renamed or run.
PROGRAM = """
import contextlib, json, os, sys
with contextlib.suppress(ImportError):
    import matplotlib.font_manager  # which asks the system for its fonts
from tinynet.cli import main
seen = []
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def watch(event, given):
    if event == "open" and isinstance(given[0], (str, bytes)) and (given[2] or 0) & writing:
        seen.append(os.fsdecode(given[0]))
    elif event in ("os.rename", "os.link", "os.symlink"):
        seen.extend(map(os.fsdecode, given[:2]))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
        seen.append(os.fsdecode(given[0]))
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
        seen.append(f"{event} {given}")
sys.addaudithook(watch)
for words in json.loads(sys.stdin.read()):
    status = main(words)
    assert status == 0, (words, status)
seen.append("the end")
print(json.dumps(seen), file=sys.stderr)
"""


@pytest.fixture
def evil(tmp_path):
    """A model file in which every text is hostile, and a picture with such a name."""
    layers = [
        tn.Conv2D(4, 3, activation="relu", name=EVIL.replace(".", "").replace("/", "")),
        tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2, "softmax", name="\\\\evil"),
    ]  # fmt: skip
    model = tn.Sequential(layers, (16, 16, 3), name=EVIL, class_names=(EVIL, EVIL + "2"))
    model.provenance = {"command": EVIL, "trained": EVIL}
    model.save(tmp_path / "model.safetensors")
    cells = write_folder(tmp_path, 24, (30, 40), seed=1, patients=8)
    if os.name == "posix":  # others have no such names
        for path in [*(cells / "Parasitized").iterdir()][:3]:
            path.rename(path.with_name(f"{path.stem}{EVIL.replace('/', '')}.png"))
    return tmp_path


def test_nothing_is_written_outside_of_the_output_folder_and_nothing_run(evil):
    model, cells, out = str(evil / "model.safetensors"), str(evil / "cell_images"), evil / "out"
    out.mkdir()
    picture = str(max((evil / "cell_images" / "Parasitized").iterdir(), key=lambda path: len(path.name)))
    commands = [
        ["summary", model],
        ["predict", model, picture, "--csv", str(out / "answers.csv")],
        ["evaluate", model, "--data", cells, "--report", str(out / "report")],
        ["inspect", model, picture, "--out", str(out / "looking")],
        ["export", model, "--to", "c", "--out", str(out / "model.h")],
        ["quantize", model, "--to", "float16", "--out", str(out / "half.safetensors")],
        ["quantize", model, "--to", "int8", "--part", "all", "--data", cells, "--out", str(out / "int8")],
        ["export", str(out / "int8"), "--to", "c", "--out", str(out / "int8.h")],
    ]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])}
    variables |= {"TINYNET_KERNELS": "numpy", "TINYNET_CACHE": str(evil / "cache")}
    variables |= {"MPLCONFIGDIR": str(evil / "fonts")}
    child = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM], input=json.dumps(commands), env=variables, cwd=evil,
        capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    seen = json.loads(child.stderr.splitlines()[-1])
    assert seen.pop() == "the end" and len(seen) > 20
    allowed = [os.path.realpath(place) for place in (out, evil / "cache", os.devnull)]
    outside = [path for path in seen if not os.path.realpath(path).startswith(tuple(allowed))]
    assert outside == []
    assert "\x1b" not in child.stdout + child.stderr and "\u202e" not in child.stdout + child.stderr
    for page in out.rglob("*.html"):
        assert "<script" not in page.read_text(encoding="utf-8")
    names = {path.name for path in evil.iterdir()}
    assert names - {"cache", "fonts"} == {"cell_images", "model.safetensors", "out"}
