"""`tinynet warmup`, and what is shown while kernels are compiled: on a terminal, in a log, and when quiet."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tinynet as tn
from tinynet import cli, kernels, progress

needs_numba = pytest.mark.skipif(kernels.numba_problem() is not None, reason="Numba is not installed")

# The command, with two operations instead of all: each is compiled in a moment.
TWO = """
import sys
from tinynet.kernels.numba import warmup
every = warmup._steps
warmup._steps = lambda dtype: [step for step in every(dtype) if step.func.__name__ in ("relu", "relu6")]
warmup._one_image_steps = warmup._batch_steps = list
from tinynet.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys):
    def command(*words):
        status = cli.main(["warmup", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def in_a_process(code, *words, cache):
    environment = {**os.environ, "TINYNET_CACHE": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    environment.pop("TINYNET_KERNELS", None)
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True
    )


@needs_numba
def test_warmup_compiles_the_first_time_and_loads_the_next(tmp_path):
    first = in_a_process(TWO, "warmup", "--dtype", "float64", "--json", cache=tmp_path)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert (found["compiled"], found["loaded"], found["dtype"]) == (2, 0, "float64")
    assert found["cache"].startswith(str(tmp_path)) and found["seconds"] > 0
    assert found["numba_problem"] is None
    assert first.stderr.splitlines() == ["compiling 1 of 2, relu: _relu", "compiling 2 of 2, relu6: _relu6"]
    again = in_a_process(TWO, "warmup", "--dtype", "float64", cache=tmp_path)
    assert "float64: 0 kernels compiled, 2 loaded, in " in again.stdout
    assert f"kept in {tmp_path}" in again.stdout and again.stderr == ""


@needs_numba
@pytest.mark.parametrize(("words", "dtype"), [((), "float32"), (("--dtype", "float64"), "float64")])
def test_warmup_is_for_float32_unless_told_otherwise(run, monkeypatch, tmp_path, words, dtype):
    from tinynet.kernels.numba import compile, warmup

    asked = []
    monkeypatch.setattr(compile, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(warmup, "warmup", lambda dtype, progress: asked.append(dtype) or 1.5)
    assert run(*words, "--json")[0] == 0
    assert asked == [dtype]


def test_without_numba_there_is_nothing_to_do(run, monkeypatch):
    monkeypatch.setattr(kernels, "numba_problem", lambda: "ModuleNotFoundError: No module named 'numba'")
    status, out, err = run()
    assert (status, err) == (0, "")
    assert out.startswith("nothing to compile: the NumPy kernels compute here") and "named 'numba'" in out
    status, out, _ = run("--json")
    assert (status, json.loads(out)["compiled"]) == (0, 0)
    assert "No module named 'numba'" in json.loads(out)["numba_problem"]


@needs_numba
def test_without_a_cache_folder_it_says_so_and_compiles_nothing(run, monkeypatch):
    from tinynet.kernels.numba import compile, warmup

    monkeypatch.setattr(compile, "cache_folder", lambda: None)
    monkeypatch.setattr(warmup, "warmup", lambda *arguments: pytest.fail("compiled for nothing"))
    status, out, err = run()
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "no cache folder can be written" in err and "TINYNET_CACHE" in err


@needs_numba
def test_where_these_kernels_are_not_used_it_says_so(run, monkeypatch, tmp_path):
    from tinynet.kernels.numba import compile, warmup

    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    monkeypatch.setattr(compile, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(warmup, "warmup", lambda *arguments: 0.0)
    status, out, err = run()
    assert status == 0 and str(tmp_path) in out
    assert "TINYNET_KERNELS is numpy" in err


@pytest.mark.parametrize("words", [["--dtype", "int8"], ["autoencoder"], ["--dtype"]])
def test_wrong_usage_is_status_2_and_one_line(run, words):
    status, out, err = run(*words)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1


# What is shown when training compiles.

FIT = """
import sys
import numpy as np
from tinynet import kernels, progress
kernels.use("numba")
with progress.compilation(shown=sys.argv[1] == "shown"):
    kernels.active().relu(np.zeros(16, np.float32))
    progress.end_of_compilation()
"""


@needs_numba
def test_a_first_run_says_that_it_compiles_and_the_next_nothing(tmp_path):
    first, again, quiet = (
        in_a_process(FIT, shown, cache=tmp_path / folder)
        for shown, folder in (("shown", "one"), ("shown", "one"), ("quiet", "two"))
    )
    assert first.stderr.splitlines()[0] == "compiling kernels, once ..."
    assert first.stderr.splitlines()[1].startswith("compiled 1 kernel in ")
    assert len(first.stderr.splitlines()) == 2
    assert again.stderr == quiet.stderr == ""
    assert first.stdout == again.stdout == quiet.stdout == ""


@needs_numba
class TestCompilation:
    @pytest.fixture(autouse=True)
    def reports(self, monkeypatch, tmp_path):
        from tinynet.kernels.numba import compile

        self.compile = compile
        monkeypatch.setattr(compile, "cache_folder_in_use", lambda: tmp_path)
        monkeypatch.setattr(compile, "compile_report", lambda: [])

    def shown(self, monkeypatch, stream, shown=True):
        """What two kernels, the end of the first step and one more kernel leave on standard error."""
        monkeypatch.setattr(sys, "stderr", stream)
        with kernels.using("numba"), progress.compilation(shown=shown):
            for name in ("conv_block", "relu"):
                self.announce(name)
            progress.end_of_compilation()
            self.announce("unpack")
        self.announce("afterwards")
        return stream.getvalue()

    def announce(self, name):
        for tell in tuple(self.compile._listeners):
            tell(name)

    def test_a_terminal_has_one_line_that_is_written_over(self, monkeypatch):
        text = self.shown(monkeypatch, Terminal())
        assert "\rcompiling kernels, once: 2, relu\033[K" in text
        assert "afterwards" not in text
        left = [line.rpartition("\033[K")[2] for line in text.split("\n")]
        assert left == ["compiled 2 kernels in 0.0 s", "compiled 1 kernel in 0.0 s", ""]

    def test_a_log_gets_whole_lines(self, monkeypatch):
        assert self.shown(monkeypatch, io.StringIO()).splitlines() == [
            "compiling kernels, once ...",
            "compiled 2 kernels in 0.0 s",
            "compiling kernels, once ...",
            "compiled 1 kernel in 0.0 s",
        ]

    def test_without_a_cache_once_would_be_a_lie(self, monkeypatch):
        monkeypatch.setattr(self.compile, "cache_folder_in_use", lambda: None)
        assert "so that every run has to" in self.shown(monkeypatch, io.StringIO())

    @pytest.mark.parametrize("stream", [Terminal, io.StringIO])
    def test_quiet_is_quiet(self, monkeypatch, stream):
        assert self.shown(monkeypatch, stream(), shown=False) == ""

    def test_an_error_inside_comes_through_and_ends_it(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with kernels.using("numba"), pytest.raises(KeyError), progress.compilation(shown=True):
            raise KeyError
        assert self.compile._listeners == [] and progress._current is None


@pytest.mark.parametrize("verbose", [0, 1])
def test_fit_shows_compilation_unless_it_is_silent(monkeypatch, kernel_set, verbose):
    asked, real = [], progress.compilation

    def watched(*, shown):
        asked.append(shown)
        return real(shown=shown)

    monkeypatch.setattr(progress, "compilation", watched)
    ended = []
    monkeypatch.setattr(progress, "end_of_compilation", lambda: ended.append(True))
    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (4, 4, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(np.zeros((6, 4, 4, 3), np.uint8), np.arange(6) % 2, batch_size=3, verbose=verbose)
    assert asked == [bool(verbose)] and ended


def test_the_bar_waits_for_the_first_step(monkeypatch):
    pytest.importorskip("tqdm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar(4, "epoch 1/2", enabled=True) as bar:
        assert stream.getvalue() == ""
        bar.update(1)
        bar.refresh()
        assert "1/4" in stream.getvalue()
