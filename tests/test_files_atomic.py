"""A file is replaced whole or not at all: nothing that was there is lost."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stored_files import METADATA, TENSORS, assert_same, save_model

from tinynet import files
from tinynet.errors import FileAccessError


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_model(tmp_path)


def assert_old_file_intact(saved: Path, before: bytes) -> None:
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name], "the temporary file was left behind"


OTHER = {"w": np.ones(50_000, np.float32)}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("save", [files.save_model_file, files.save_checkpoint])
def test_disk_full_leaves_the_old_file(saved, monkeypatch, step, save):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = saved.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(FileAccessError, match=re.escape(f"{saved} could not be written: no space left")):
        save(saved, OTHER, {})
    monkeypatch.undo()
    assert_old_file_intact(saved, before)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_full_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("builtins.open", lambda *_: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
    try:
        with pytest.raises(FileAccessError, match=r"could not be written: no space left on device\."):
            files.save_model_file(saved, OTHER, {})
    finally:
        monkeypatch.undo()
    assert_old_file_intact(saved, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_write_stopped_by_the_system_half_way_leaves_the_old_file(saved):
    """Not a simulation: the system lets this process write 100,000 bytes of the 200,000."""
    before = saved.read_bytes()
    program = (
        "import resource, sys, numpy, tinynet.files as files\n"
        "from tinynet.errors import FileAccessError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    files.save_model_file(sys.argv[1], {'w': numpy.ones(50_000, numpy.float32)}, {})\n"
        "except FileAccessError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(saved)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert "could not be written: file too large." in result.stdout
    assert_old_file_intact(saved, before)


def test_ctrl_c_leaves_the_old_file(saved, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.save_model_file(saved, OTHER, {})
    monkeypatch.undo()
    assert_old_file_intact(saved, before)


def test_missing_folder_is_named(tmp_path):
    path = tmp_path / "no such folder" / "a.safetensors"
    with pytest.raises(FileAccessError, match=re.escape(f"{path} could not be written: no such file")):
        files.save_model_file(path, TENSORS, METADATA)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_read_only_folder_and_read_only_file_are_refused(saved):
    before = saved.read_bytes()
    saved.chmod(0o444)
    with pytest.raises(FileAccessError, match="it is read-only"):
        files.save_model_file(saved, OTHER, {})
    saved.chmod(0o644)
    saved.parent.chmod(0o555)
    try:
        with pytest.raises(FileAccessError, match="permission denied"):
            files.save_model_file(saved, OTHER, {})
    finally:
        saved.parent.chmod(0o755)
    assert_old_file_intact(saved, before)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(FileAccessError, match="it is a folder"):
        files.save_model_file(tmp_path, TENSORS, METADATA)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="device or a pipe"):
        files.save_model_file(tmp_path / "pipe", TENSORS, METADATA)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions and links")
def test_links_and_permissions_are_kept(saved):
    link = saved.with_name("latest")
    link.symlink_to(saved.name)
    saved.chmod(0o640)
    files.save_model_file(link, OTHER, {})
    assert link.is_symlink() and stat.S_IMODE(saved.stat().st_mode) == 0o640
    assert_same(OTHER, files.load_model_file(saved)[0])
    fresh = saved.with_name("fresh")
    files.save_model_file(fresh, OTHER, {})
    plain = saved.with_name("plain")
    plain.touch()
    assert fresh.stat().st_mode == plain.stat().st_mode, "a new file has the permissions of any new file"


@pytest.mark.parametrize("name", ["клетки крови.safetensors", "血球 🔬.bin", "a'b\"c$(d).x", "x" * 255])
def test_any_file_name_works(tmp_path, name):
    files.save_model_file(tmp_path / name, TENSORS, METADATA)
    assert_same(TENSORS, files.load_model_file(str(tmp_path / name))[0])
    assert os.listdir(tmp_path) == [name]


def test_whether_a_file_can_be_written_is_seen_without_touching_anything(tmp_path):
    from tinynet.files.atomic import check_writable

    (tmp_path / "old").write_bytes(b"as it was")
    check_writable(tmp_path / "old")
    check_writable(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"as it was"
    for wrong in (tmp_path, tmp_path / "no" / "folder", tmp_path / "old" / "below"):
        with pytest.raises(FileAccessError, match="could not be written"):
            check_writable(wrong)


# Paths that cannot be read


@pytest.mark.parametrize("read", [files.read_tensors, files.load_model_file, files.load_checkpoint])
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("missing", r"/missing could not be read: no such file"),
        ("folder", r"/folder could not be read: it is a folder"),
        ("", "the file name is empty"),
        ("nul\0byte", r"nul\\x00byte' cannot be the name of a file"),
        ("lone\ud800surrogate", r"lone\\ud800surrogate' cannot be the name of a file"),
        ("x" * 5000, "xxx could not be read: file name too long"),
    ],
)
def test_unreadable_paths_are_one_sentence(tmp_path, read, name, pattern):
    (tmp_path / "folder").mkdir()
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(FileAccessError, match=rf"{pattern}[^\n]*\.$"):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="device or a pipe"):
        files.read_tensors(tmp_path / "pipe")
