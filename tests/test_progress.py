"""The progress bar: on a terminal with tqdm, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from tinynet import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch, stream: io.StringIO, enabled: bool = True) -> str:
    """What using the bar as the training loop does leaves on standard error."""
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar(4, "epoch 1/2", enabled=enabled, unit="image") as bar:
        for _ in range(4):
            bar.update(1)
        bar.set_postfix_str("loss 0.5")
    bar.close()
    return stream.getvalue()


def test_on_a_terminal_it_says_what_and_how_far(monkeypatch):
    pytest.importorskip("tqdm")
    text = drawn(monkeypatch, Terminal())
    assert "epoch 1/2" in text
    assert "/4" in text


def test_a_log_file_gets_nothing(monkeypatch):
    assert drawn(monkeypatch, io.StringIO()) == ""


def test_what_is_asked_to_be_quiet_is(monkeypatch):
    assert drawn(monkeypatch, Terminal(), enabled=False) == ""


def test_without_tqdm_there_is_none_and_nothing_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert drawn(monkeypatch, Terminal()) == ""


def test_an_error_inside_is_not_swallowed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(KeyError), progress.bar(1, "epoch", enabled=True):
        raise KeyError("kept")
