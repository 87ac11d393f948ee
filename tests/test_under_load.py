"""Threads, processes and many calls: the trials of robustness/load.py, short, and that they can fail."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from robustness import load
from tinynet import kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")

ROOT = Path(__file__).parent.parent
KERNELS = "numpy" if kernels.numba_problem() else "numba"


def trial(what: str, count: int, name: str = KERNELS) -> dict:
    """In a process of its own, where no other test has been."""
    child = subprocess.run(
        [sys.executable, "-m", "robustness.load", what, "--count", str(count), "--kernels", name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])},
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert child.stdout, child.stderr
    return json.loads(child.stdout)


def test_eight_threads_get_the_answers_of_one():
    told = trial("threads", 1600)  # too few for memory to have come to rest: the script's 10,000 show that
    assert told["wrong"] == 0 and told["failed"] == [], told


def test_four_processes_get_the_answers_of_one():
    told = trial("processes", 400)
    assert told["wrong"] == 0 and told["failed"] == [] and told["good"], told


def test_the_numpy_kernels_too():
    told = trial("threads", 160, "numpy")
    assert told["wrong"] == 0 and told["failed"] == []


@pytest.mark.parametrize(("what", "count"), [("training", 400), ("predictions", 1500)])
def test_memory_stays_flat(what, count):
    """An image is 768 bytes, its float32 3 kB, a batch's gradients 36 kB: one kept a call would be seen."""
    told = trial(what, count)
    assert told["good"], told


def test_a_call_that_keeps_its_pictures_would_be_found():
    kept = []

    def leaking(number: int) -> None:
        kept.append(mmap.mmap(-1, 1 << 12))  # a page of its own: small arrays may lie in memory given back
        kept[-1].write(bytes(1 << 12))

    assert load.growth(leaking, 2000) > load.GROWTH


def test_a_wrong_answer_and_a_failure_would_be_found(monkeypatch):
    predict, count = tn.Sequential.predict, [0]

    def sometimes_wrong(self, x):
        count[0] += 1
        return predict(self, x) + np.float32(count[0] == 150)

    monkeypatch.setattr(tn.Sequential, "predict", sometimes_wrong)
    assert load.threads(160, workers=2)["wrong"] == 1

    def fails(self, x):
        count[0] += 1
        if count[0] > 350:
            raise ZeroDivisionError
        return predict(self, x)

    monkeypatch.setattr(tn.Sequential, "predict", fails)
    told = load.threads(400, workers=2)
    assert told["failed"] and not told["good"]


def test_a_folder_of_many_pictures_is_predicted_in_little_memory_and_ctrl_c_leaves_a_table(
    tmp_path, monkeypatch
):
    pytest.importorskip("PIL")
    monkeypatch.setenv("TINYNET_LOAD_DIR", str(tmp_path))
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    told = load.folder(900)
    assert told["good"] and told["answers_of_a_cell"] == 1, told


def test_a_log_has_a_line_now_and_then(monkeypatch, capsys):
    from tinynet import progress

    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.0)
    with progress.bar(20, "pictures", enabled=True, log=True) as bar:
        bar.update(5)
        bar.update(15)
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition(",")[0] for line in told] == ["pictures: 5 of 20", "pictures: 20 of 20"]
    for options in ({"enabled": False, "log": True}, {"enabled": True}):
        with progress.bar(20, "pictures", **options) as bar:
            bar.update(20)
    assert capsys.readouterr().err == ""
