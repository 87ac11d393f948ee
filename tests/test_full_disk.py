"""A disk that is really full: a small file system in memory, mounted where nobody else sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import hide_matplotlib

from tinynet import cli, files, kernels
from tinynet.data.synthetic import write_folder

pytest.importorskip("PIL")
ROOT = Path(__file__).parent.parent


def own_mounts() -> bool:
    """Whether a process may mount what it alone sees (Linux, where the system allows it to users)."""
    if shutil.which("unshare") is None or sys.platform != "linux":
        return False
    with_mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(with_mount, capture_output=True).returncode == 0


# The run goes to a disk that holds two checkpoints and a half; then the disk gets larger.
PROGRAM = """
import shutil, subprocess, sys
from pathlib import Path
for name in ("matplotlib", "matplotlib.figure"):
    sys.modules[name] = None
from tinynet.cli import main
disk, size, out, words = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
assert main(["train", "--quiet", *words, "--out", str(disk / "run")]) == 1
print(*sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file()))
subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
assert main(["train", "--quiet", "--resume", str(disk / "run")]) == 0
shutil.copytree(disk / "run", out)
"""


@pytest.mark.skipif(not own_mounts(), reason="needs Linux that lets a process mount for itself")
def test_a_run_on_a_full_disk_ends_in_one_sentence_and_with_room_again_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    hide_matplotlib(monkeypatch)
    cells = write_folder(tmp_path / "cells", 60, (16, 24), seed=4, patients=20)
    words = ["--data", str(cells), "--model", "small-cnn", "--size", "16", "--epochs", "4"]
    with kernels.using("numpy"):
        assert cli.main(["train", "--quiet", *words, "--out", str(tmp_path / "whole")]) == 0
    (checkpoint,) = (p for p in (tmp_path / "whole" / "checkpoints").iterdir() if "previous" not in p.name)
    disk = tmp_path / "disk"
    disk.mkdir()
    child = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", PROGRAM, str(disk), str(checkpoint.stat().st_size * 5 // 2),
         str(tmp_path / "ended"), *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    told = child.stderr.splitlines()[0]
    assert "no space left on device; what was trained before is kept, go on with: tinynet train" in told
    left = [Path(name).name for name in child.stdout.splitlines()[0].split()]
    assert {checkpoint.name, "config.json", "data.json", "history.csv"} <= set(left)
    assert not [name for name in left if name.startswith((".tinynet", ".lock"))]
    results = [
        files.load_model_file(tmp_path / where / "model.safetensors")[0] for where in ("whole", "ended")
    ]
    one, other = ({name: array.tobytes() for name, array in found.items()} for found in results)
    assert one == other
    for name in ("history.csv", "metrics.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "ended" / name).read_bytes()
