"""The number of threads: chosen in Python or by a variable, known without Numba, obeyed by it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import tinynet as tn
from tinynet import kernels
from tinynet.errors import ArgumentError
from tinynet.kernels import threads

needs_numba = pytest.mark.skipif(kernels.numba_problem() is not None, reason="Numba is not installed")


@pytest.fixture
def undecided(monkeypatch):
    """As where nobody has chosen yet."""
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.delenv(threads.VARIABLE, raising=False)


def in_a_process(code: str, **variables: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k != threads.VARIABLE} | variables
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return child.stdout.split()


def test_choosing_imports_no_numba():
    code = "import sys, tinynet as tn; tn.set_num_threads(3); print(tn.num_threads(), 'numba' in sys.modules)"
    assert in_a_process(code) == ["3", "False"]


@needs_numba
@pytest.mark.parametrize(
    "code", ["tn.set_num_threads(3); kernels.use('numba')", "kernels.use('numba'); tn.set_num_threads(3)"]
)
def test_numba_obeys_whenever_it_is_imported(code):
    show = "from tinynet.kernels.numba import parallel; print(tn.num_threads(), parallel.num_threads())"
    code = f"import tinynet as tn; from tinynet import kernels; {code}; {show}"
    assert in_a_process(code) == ["3", "3"]
    assert in_a_process(code, TINYNET_NUM_THREADS="2") == ["3", "3"]  # Python's word comes last


@needs_numba
def test_the_variable_reaches_numba():
    code = "import tinynet as tn; from tinynet import kernels; kernels.use('numba'); print(tn.num_threads())"
    assert in_a_process(code, TINYNET_NUM_THREADS="5") == ["5"]


@needs_numba
def test_a_choice_is_that_of_the_pool(monkeypatch):
    from tinynet.kernels.numba import parallel

    monkeypatch.setattr(threads, "_chosen", 1)
    tn.set_num_threads(np.int64(4))
    assert parallel.num_threads() == tn.num_threads() == 4


def test_the_default_is_every_processor(undecided):
    affinity = getattr(os, "sched_getaffinity", None)
    assert tn.num_threads() == (len(affinity(0)) if affinity else os.cpu_count())


def test_the_variable_is_read_without_numba(undecided, monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, "7")
    assert tn.num_threads() == 7
    tn.set_num_threads(2)
    assert tn.num_threads() == 2


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5", "\u00b2"])
def test_a_senseless_variable_is_named(undecided, monkeypatch, wanted):
    monkeypatch.setenv(threads.VARIABLE, wanted)
    with pytest.raises(ArgumentError, match="TINYNET_NUM_THREADS: wanted a whole number"):
        tn.num_threads()


@pytest.mark.parametrize("wanted", [0, -1, 1.5, "2", True, None])
def test_a_senseless_choice_is_refused_and_changes_nothing(undecided, wanted):
    tn.set_num_threads(3)
    with pytest.raises(ArgumentError, match="set_num_threads: wanted a whole number of at least 1"):
        tn.set_num_threads(wanted)
    assert tn.num_threads() == 3
