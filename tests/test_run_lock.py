"""One process at a time writes in a run's folder; a killed one leaves nothing that has to be tidied up."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from tinynet import cli, files, kernels
from tinynet.data.synthetic import write_folder
from tinynet.errors import FolderInUseError
from tinynet.runs import lock
from tinynet.runs.lock import NAME, locked

pytest.importorskip("PIL")
ROOT = Path(__file__).parent.parent
kills = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill without notice")
posix = pytest.mark.skipif(os.name != "posix", reason="relies on POSIX")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("cells"), 96, (16, 24), seed=4, patients=16)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)


def run(*words: object) -> int:
    with kernels.using("numpy"):
        return cli.main([*map(str, words)])


# The command, which stays in an optimiser's step of this number until it is killed.
STAYING = """
import sys, time
from pathlib import Path
for name in ("matplotlib", "matplotlib.figure"):
    sys.modules[name] = None
from tinynet.cli import main
from tinynet.optim import Optimizer
here, number, original = Path(sys.argv[1]), int(sys.argv[2]), Optimizer.step
def step(self, parameters):
    global number
    number -= 1
    if number == 0:
        here.touch()
        time.sleep(600)
    original(self, parameters)
Optimizer.step = step
sys.exit(main(sys.argv[3:]))
"""


@contextlib.contextmanager
def staying(place: Path, step: int, *words: object):
    """A process that has come to this step of the command and goes no further; killed in the end."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])}
    child = subprocess.Popen(
        [sys.executable, "-c", STAYING, str(place / "here"), str(step), *map(str, words)], env=variables,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while not (place / "here").exists():
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.02)
        yield child
    finally:
        child.kill()
        child.communicate()


def training(cells: Path) -> list[object]:
    return ["train", "--quiet", "--data", cells, "--model", "small-cnn", "--size", 16, "--epochs", 2]


def validating(cells: Path, out: Path, *more: object) -> list[object]:
    shape = ["--model", "small-cnn", "--size", 16, "--epochs", 1, "--folds", 3]
    return ["crossvalidate", "--quiet", "--data", cells, *shape, "--out", out, *more]


def weights(path: Path) -> dict[str, bytes]:
    arrays, _ = files.load_model_file(path)
    return {name: array.tobytes() for name, array in arrays.items()}


@kills
def test_the_second_is_refused_and_after_a_kill_the_run_goes_on_by_itself(cells, tmp_path, capsys):
    folder = tmp_path / "a run"
    assert run(*training(cells), "--out", tmp_path / "whole") == 0
    with staying(tmp_path, 2, *training(cells), "--out", folder) as child:  # a step an epoch: one is kept
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        capsys.readouterr()
        for words in (["train", "--quiet", "--resume", folder], [*training(cells), "--out", folder]):
            assert run(*words) == 1
            told = capsys.readouterr().err
            assert told.count("\n") == 1 and f"{folder} is in use by process {child.pid}: wait" in told
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert child.returncode == -signal.SIGKILL and (folder / NAME).exists()
    assert run("train", "--quiet", "--resume", folder) == 0
    assert weights(folder / "model.safetensors") == weights(tmp_path / "whole" / "model.safetensors")
    assert not (folder / NAME).exists()


@kills
def test_of_two_cross_validations_in_one_folder_only_the_same_fold_is_refused(cells, tmp_path, capsys):
    out = tmp_path / "folds"
    with staying(tmp_path, 1, *validating(cells, out, "--fold", 1)) as child:
        assert run(*validating(cells, out, "--fold", 2)) == 0
        capsys.readouterr()
        for words in (["--fold", 1], []):
            assert run(*validating(cells, out, *words)) == 1
            told = capsys.readouterr().err
            assert f"{out / 'fold-1'} is in use by process {child.pid}: " in told and told.count("\n") == 1
    assert run(*validating(cells, out)) == 0
    assert "| 1 |" in (out / "crossvalidation.md").read_text() and not list(out.rglob(NAME))


# The lock itself.


def test_it_keeps_threads_of_one_process_apart_too(tmp_path):
    with locked(tmp_path):
        found = []

        def other():
            try:
                with locked(tmp_path):
                    pass
            except FolderInUseError as problem:
                found.append(str(problem))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(found) == 1 and f"process {os.getpid()}" in found[0]
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_folder_goes_again_if_nothing_came_into_it(tmp_path):
    folder = tmp_path / "runs" / "one"
    with pytest.raises(KeyError), locked(folder):
        assert folder.is_dir()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with locked(folder):
        (folder / "config.json").touch()
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    folder.parent.joinpath("empty").mkdir()
    with locked(folder.parent / "empty"):  # which was there before
        pass
    assert (folder.parent / "empty").is_dir()


def test_what_a_killed_process_left_is_taken_over_and_nothing_it_says_is_believed(tmp_path):
    (tmp_path / NAME).write_text("1 elsewhere\n" * 100)
    with locked(tmp_path):
        assert (tmp_path / NAME).read_text().split()[0] == str(os.getpid())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "another process:"),
        ("\xff\x00", "another process:"),
        ("one two", "another process:"),
        ("12 another-computer", "process 12 on another-computer:"),
        ("1" * 5000, "another process:"),
    ],
)
@posix
def test_whoever_has_it_is_named_as_well_as_it_can_be(tmp_path, text, words):
    with locked(tmp_path):
        (tmp_path / NAME).write_text(text, encoding="latin-1")
        with pytest.raises(FolderInUseError, match=words), locked(tmp_path):
            pass


@posix
def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "letter")
    with pytest.warns(UserWarning, match="cannot be locked"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "letter").read_text() == "dear"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@posix
def test_where_the_file_system_has_no_locks_it_goes_on_and_says_so(
    cells, tmp_path, code, monkeypatch, capsys
):
    import fcntl

    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.warns(UserWarning, match=r"cannot be locked .*see that no other process"), locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    if code == errno.ENOLCK:
        assert run(*training(cells), "--out", tmp_path / "run") == 0
        assert "tinynet train: warning: " in capsys.readouterr().err


@posix
def test_a_system_without_the_module_goes_on_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.warns(UserWarning, match="this system has no locks"), locked(tmp_path):
        pass


@posix
def test_where_nothing_can_be_written_it_leaves_the_complaint_to_the_run(tmp_path, monkeypatch):
    """root may write anywhere, so the system's answers are played here."""

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locked(tmp_path):
            pass


@posix
def test_a_lock_on_a_file_that_was_removed_in_the_meantime_counts_for_nothing(tmp_path, monkeypatch):
    """Between opening the file and locking it, one process leaves and another enters with a new file."""
    first, third, original = locked(tmp_path), locked(tmp_path), lock._lock
    passing = [lambda: first.__exit__(None, None, None), third.__enter__]

    def late(descriptor):
        while passing:
            passing.pop(0)()
        return original(descriptor)

    first.__enter__()
    monkeypatch.setattr(lock, "_lock", late)
    with pytest.raises(FolderInUseError), locked(tmp_path):
        pass
    third.__exit__(None, None, None)


def _contend(folder: Path, times: int, queue) -> None:
    """Enter and leave, as often as it takes; inside, nobody else may be."""
    entered = refused = broken = 0
    while entered < times:
        try:
            with locked(folder):
                mark = folder / "mark"
                try:
                    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    broken += 1
                else:
                    mark.unlink()
                entered += 1
        except FolderInUseError:
            refused += 1
    queue.put((entered, refused, broken))


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_never_two_at_once_while_files_of_the_lock_come_and_go(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_contend, args=(tmp_path, 100, queue)) for _ in range(4)]
    for child in children:
        child.start()
    counted = [queue.get() for _ in children]
    for child in children:
        child.join()
    assert [entered for entered, _, _ in counted] == [100] * 4
    assert sum(broken for _, _, broken in counted) == 0


def test_windows_calls_are_the_documented_ones(tmp_path, monkeypatch):
    """There is no Windows here: its two calls, played, with the errors that it documents."""
    from types import SimpleNamespace

    calls, held = [], []

    def locking(descriptor, mode, count):
        calls.append((mode, count, os.lseek(descriptor, 0, os.SEEK_CUR)))
        if held:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    with locked(tmp_path):
        assert int((tmp_path / NAME).read_text().split()[0]) == os.getpid()  # at the file's beginning
        held.append(True)
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"), locked(tmp_path):
            pass
    assert calls == [(2, 1, 2**30)] * 2 and list(tmp_path.iterdir()) == []
