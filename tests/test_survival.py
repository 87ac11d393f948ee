"""A training that is killed, interrupted, or robbed of its disk ends as if nothing had happened.

`python -m robustness.kills` does the same to whole runs, at many more moments (docs/robustness-training.md).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import cli, files, kernels
from tinynet.data.augment import Augmentation
from tinynet.data.cache import load_images
from tinynet.data.folder import scan_folder
from tinynet.data.synthetic import write_folder
from tinynet.errors import FileAccessError, ModelFileError
from tinynet.interruption import held_back
from tinynet.kernels import blas
from tinynet.optim import Optimizer

ROOT = Path(__file__).parent.parent
EPOCHS, STEPS = 4, 3  # steps an epoch
kills = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill without notice")

rng = np.random.default_rng(0)
X = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = rng.integers(0, 2, 40)


def network() -> tn.Sequential:
    layers = [
        tn.Conv2D(4, 3, activation="relu"),
        tn.BatchNorm(),
        tn.MaxPool2D(2),
        tn.Flatten(),
        tn.Dropout(0.3),
        tn.Dense(2, "softmax"),
    ]
    model = tn.Sequential(layers, (8, 8, 3), seed=3)
    return model.compile(tn.AdamW(tn.OneCycle(0.01, EPOCHS * STEPS)), "sparse_categorical_crossentropy")


def fit(path: Path, model: tn.Sequential | None = None, epochs: int = EPOCHS) -> tn.Sequential:
    """A training that can be resumed, with everything in it that draws random numbers or counts."""
    model = model or network()
    callbacks = [tn.EarlyStopping("val_loss", patience=None), tn.BackupAndRestore(path)]
    model.fit(
        X, LABELS, validation_data=(X[:9], LABELS[:9]), epochs=epochs, batch_size=16, seed=5, verbose=0,
        augmentation=Augmentation(), callbacks=callbacks,
    )  # fmt: skip
    return model


def bits(model: tn.Sequential) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.state().items()}


@pytest.fixture
def whole(kernel_set, tmp_path):
    """The weights that nothing interrupts, and the checkpoint that is left."""
    model = fit(tmp_path / "whole.safetensors")
    arrays, state = files.load_checkpoint(tmp_path / "whole.safetensors")
    return bits(model), {name: array.tobytes() for name, array in arrays.items()}, state


def assert_as_whole(whole, model: tn.Sequential, path: Path) -> None:
    weights, arrays, state = whole
    assert bits(model) == weights
    found, told = files.load_checkpoint(path)
    assert {name: array.tobytes() for name, array in found.items()} == arrays
    assert told == state


# Ctrl-C.


@pytest.fixture(autouse=True)
def ctrl_c_counts():
    """Shells have what they start with & ignore Ctrl-C, and what that starts in turn."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def at_step(monkeypatch):
    """Has something done in place of an optimiser's step of this number; counts the steps."""
    counted = []
    original = Optimizer.step

    def when(number: int, act) -> list[int]:
        def step(self, parameters):
            counted.append(self.iterations)
            if len(counted) == number:
                act()
            original(self, parameters)

        monkeypatch.setattr(Optimizer, "step", step)
        return counted

    return when


@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_ctrl_c_keeps_every_step_and_the_rest_gives_the_same_bits(whole, at_step, tmp_path, step):
    path = tmp_path / "run.safetensors"
    steps = at_step(step, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        fit(path)
    assert len(steps) == step
    # In the very first step there is nothing yet to keep, and Ctrl-C is obeyed at once.
    assert path.exists() == (step > 1)
    assert_as_whole(whole, fit(path), path)
    done_again = 1 if step == 1 else 0
    assert len(steps) == EPOCHS * STEPS + done_again


def test_pressed_while_validating_the_epoch_is_kept(whole, tmp_path, monkeypatch):
    path, evaluate = tmp_path / "run.safetensors", tn.Sequential.evaluate
    monkeypatch.setattr(tn.Sequential, "evaluate", lambda *given: press_ctrl_c() or evaluate(*given))
    with pytest.raises(KeyboardInterrupt):
        fit(path)
    monkeypatch.undo()
    assert files.load_checkpoint(path)[1]["epoch"] == 1
    assert_as_whole(whole, fit(path), path)


def test_pressed_twice_it_is_obeyed_at_once(whole, at_step, tmp_path):
    path = tmp_path / "run.safetensors"

    def twice():
        press_ctrl_c()
        press_ctrl_c()

    steps = at_step(5, twice)
    with pytest.raises(KeyboardInterrupt):
        fit(path)
    assert files.load_checkpoint(path)[1]["part"] is None  # the last epoch's end
    assert_as_whole(whole, fit(path), path)
    assert len(steps) == EPOCHS * STEPS + 2


@pytest.mark.parametrize("optimizer", [
    lambda: tn.SGD(tn.Plateau(0.1, patience=1, factor=0.5), momentum=0.9),
    lambda: tn.RMSprop(tn.Cosine(0.01, EPOCHS * STEPS), momentum=0.5),
])  # fmt: skip
def test_the_rate_of_an_interrupted_epoch_is_told_as_it_began(optimizer, at_step, tmp_path):
    def compiled():
        return network().compile(optimizer(), "sparse_categorical_crossentropy")

    uninterrupted = fit(tmp_path / "whole.safetensors", compiled())
    at_step(5, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run.safetensors", compiled())
    resumed = fit(tmp_path / "run.safetensors", compiled())
    assert bits(resumed) == bits(uninterrupted)
    one, other = (files.load_checkpoint(tmp_path / f"{name}.safetensors")[1] for name in ("whole", "run"))
    assert one["history"] == other["history"]


def test_where_nothing_can_be_kept_ctrl_c_is_as_ever(at_step):
    at_step(2, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, LABELS, batch_size=16, verbose=0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_as_ever_after_it_was_held_back():
    with held_back() as ctrl_c:
        press_ctrl_c()
        assert ctrl_c.asked
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), held_back(holds=False):
        press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_that_handles_ctrl_c_itself_goes_on_doing_so(monkeypatch):
    seen = []
    before = signal.signal(signal.SIGINT, lambda *given: seen.append(given))
    try:
        with held_back() as ctrl_c:
            press_ctrl_c()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 1 and not ctrl_c.asked


def test_training_in_another_thread_leaves_ctrl_c_alone(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(tmp_path / "run.safetensors", epochs=1)))
    thread.start()
    thread.join()
    assert len(results) == 1


# The checkpoint before the newest.


def damage(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize("how", ["damaged", "empty", "missing"])
def test_where_the_newest_is_lost_the_one_before_is_taken_and_that_is_said(whole, tmp_path, how):
    path = tmp_path / "run.safetensors"
    fit(path, epochs=3)
    if how == "damaged":
        damage(path)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.warns(UserWarning, match=r"run\.safetensors.*; going on from .*run\.previous.*, of epoch 2"):
        model = fit(path)
    assert_as_whole(whole, model, path)


def test_a_damaged_one_never_takes_the_place_of_the_good_one_before_it(tmp_path, monkeypatch):
    """Killed while the first checkpoint after the damage is written, there is still the good one."""
    path = tmp_path / "run.safetensors"
    fit(path, epochs=2)
    damage(path)
    good, replace = (tmp_path / "run.previous.safetensors").read_bytes(), os.replace

    def interrupted(source, target):
        if os.fspath(target) == str(path):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.warns(UserWarning, match="going on from"), pytest.raises(KeyboardInterrupt):
        fit(path)
    assert (tmp_path / "run.previous.safetensors").read_bytes() == good


def test_where_both_are_damaged_the_newest_is_named(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(path, epochs=2)
    damage(path)
    damage(tmp_path / "run.previous.safetensors")
    with pytest.raises(ModelFileError, match=r"run\.safetensors was damaged"):
        fit(path)


def test_the_one_before_is_no_way_round_the_settings(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(path, epochs=2)
    damage(path)
    other = network().compile(tn.SGD(0.1), "sparse_categorical_crossentropy")
    with (
        pytest.warns(UserWarning, match="going on"),
        pytest.raises(ModelFileError, match=r"previous.*had optimizer"),
    ):
        fit(path, other)


@pytest.mark.parametrize(
    "part", [{"steps": -1}, {"steps": 1.5}, {"right": True}, {"more": 1}, [], {"loss": "x"}]
)
def test_a_senseless_part_of_an_epoch_is_refused(tmp_path, part):
    path = tmp_path / "run.safetensors"
    fit(path, epochs=1)
    arrays, state = files.load_checkpoint(path)
    right = {"steps": 1, "loss": 1.0, "right": 3, "rate": 0.1}
    state["part"] = {**right, **part} if isinstance(part, dict) else part
    files.save_checkpoint(path, arrays, state)
    with pytest.raises(ModelFileError, match=r"run\.safetensors"):
        fit(path)


@pytest.mark.skipif(kernels.numba_problem() is not None, reason="there is one kernel set")
def test_going_on_with_other_kernels_is_said(tmp_path):
    path = tmp_path / "run.safetensors"
    with kernels.using("numpy"):
        fit(path, epochs=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(path, epochs=2)
    with kernels.using("numba"), pytest.warns(UserWarning, match="began on the numpy kernels"):
        fit(path)


def test_going_on_with_other_threads_for_matrix_products_is_said_where_they_cannot_be_held(
    tmp_path, monkeypatch
):
    """TINYNET_NUM_THREADS changes no bit; the threads of a library that has no calls to set them may."""
    monkeypatch.setattr(blas, "_calls", lambda: None)
    path = tmp_path / "run.safetensors"
    with kernels.using("numpy"):
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
        fit(path, epochs=1)
        monkeypatch.setattr(tn.kernels.threads, "_chosen", 5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(path, epochs=2)
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
        with pytest.warns(
            UserWarning, match="with 1 threads for matrix products and goes on .* with 2 threads"
        ):
            fit(path, epochs=3)


# Killed.

# Forked from a process that has its kernels loaded, which is much quicker than a new one for every kill.
PROGRAM = """
import os, random, signal, sys, warnings
from pathlib import Path
import test_survival
import tinynet as tn
from robustness import killer
from tinynet import files, kernels

warnings.simplefilter("ignore")  # that the newest is missing, after a kill between two renames
path, wanted, draw, died = Path(sys.argv[1]), int(sys.argv[2]), random.Random(2), 0
with kernels.using(sys.argv[3]):
    tn.set_num_threads(1)
    test_survival.fit(path.with_name("first.safetensors"), epochs=1)
    for number in range(10 * wanted):
        child = os.fork()
        if child == 0:
            tn.set_num_threads(1 + number % 2)
            if died < wanted:
                if number % 3:
                    killer.arm(draw.choice(killer.MOMENTS), draw.randint(1, 2))
                else:  # unhandled, it ends a process as SIGKILL does, wherever it is
                    signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.01, 0.3))
            test_survival.fit(path)
            os._exit(0)
        draw.random()  # the child's draws are not seen here
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for found in (path, path.with_name("run.previous.safetensors")):
            if found.exists():
                files.load_checkpoint(found)  # whole, or it raises
        if code == 0:
            arrays, _ = files.load_checkpoint(path)
            ended = {name: array.tobytes() for name, array in arrays.items()}
            whole, _ = files.load_checkpoint(sys.argv[4])
            assert ended == {name: array.tobytes() for name, array in whole.items()}
            if died >= wanted:
                break
            for found in path.parent.glob("run.*"):
                found.unlink()
        else:
            assert code in (-signal.SIGKILL, -signal.SIGALRM), code
            died += 1
print(died)
"""


def in_a_process(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    places = [str(ROOT), str(ROOT / "tests"), *(place for place in sys.path if place)]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), **environment},
    )  # fmt: skip


@kills
def test_killed_two_dozen_times_it_ends_the_same(kernel_set, tmp_path):
    """At random times and inside the writing of checkpoints, with one thread and two by turns."""
    fit(tmp_path / "whole.safetensors")
    child = in_a_process(
        PROGRAM, tmp_path / "run.safetensors", 24, kernel_set.NAME, tmp_path / "whole.safetensors"
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) >= 24


@kills
@pytest.mark.parametrize("moment", ["half", "written", "synced", "kept", "renamed"])
def test_after_a_kill_in_a_checkpoints_writing_there_is_a_whole_one(tmp_path, moment):
    path, previous = tmp_path / "run.safetensors", tmp_path / "run.previous.safetensors"
    code = (
        "import os, sys; import numpy as np; from tinynet import files; from robustness import killer\n"
        "moment, path, previous = sys.argv[1:]\n"
        "for number in range(10):\n"
        "    if os.fork() == 0:\n"
        "        if number:  # the first one only leaves something to be lost\n"
        "            killer.arm(moment, number)\n"
        "        for again in range(3 if number == 0 else 99):\n"
        "            content = {'a': np.full(1000, number + again, np.float32)}\n"
        "            files.save_checkpoint(path, content, {'a': number + again}, previous)\n"
        "        os._exit(0)\n"
        "    code = os.waitstatus_to_exitcode(os.wait()[1])\n"
        "    assert code == (-9 if number else 0), code\n"
        "    found = [one for one in (path, previous) if os.path.exists(one)]\n"
        "    assert found\n"
        "    for one in found:\n"
        "        arrays, state = files.load_checkpoint(one)\n"
        "        assert (arrays['a'] == state['a']).all()\n"
    )
    child = in_a_process(code, moment, path, previous)
    assert child.returncode == 0, child.stderr


def test_what_a_killed_process_left_half_written_goes_when_the_run_goes_on(tmp_path):
    left, other = tmp_path / ".tinynet-0123456789abcdef.tmp", tmp_path / ".tinynet-notes"
    for path in (left, other):
        path.write_bytes(b"half of it")
    files.remove_temporaries(tmp_path)
    assert not left.exists() and other.exists()
    files.remove_temporaries(tmp_path / "nowhere")


# A disk that is full, a folder that is gone.


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
            patch.setitem(sys.modules, name, None)  # runs are faster without plots
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    pytest.importorskip("PIL")
    return write_folder(tmp_path_factory.mktemp("pictures"), 60, (16, 24), seed=4, patients=20)


@pytest.fixture
def cells(pictures, tmp_path, monkeypatch):
    """A folder of cells, to be lost."""
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(pictures, tmp_path / "cells" / pictures.name))


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    """What the training of `begin` leaves."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYNET_CACHE", str(folder / "cache"))
        assert begin(pictures, folder / "whole") == 0
    return result(folder / "whole")


def train(*arguments: object) -> int:
    with kernels.using("numpy"):
        return cli.main(["train", "--quiet", *map(str, arguments)])


def begin(cells: Path, out: Path) -> int:
    return train("--data", cells, "--model", "small-cnn", "--size", 16, "--epochs", 2, "--out", out)


def result(folder: Path) -> tuple[dict[str, bytes], bytes]:
    arrays, _ = files.load_model_file(folder / "model.safetensors")
    return {name: array.tobytes() for name, array in arrays.items()}, (folder / "metrics.json").read_bytes()


def test_a_disk_that_fills_up_stops_the_run_with_what_to_do_and_loses_nothing(
    undisturbed, cells, tmp_path, capsys
):
    fsync = os.fsync

    def full(count):
        def sync(descriptor):
            full.left -= 1
            if full.left < 0:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        full.left = count
        return sync

    run = tmp_path / "a run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            os, "fsync", full(4)
        )  # after data, config, and the first epoch's history and checkpoint
        capsys.readouterr()
        assert begin(cells, run) == 1
    told = capsys.readouterr().err
    assert "no space left on device; what was trained before is kept" in told and told.count("\n") == 1
    assert f"tinynet train --resume '{run}'" in told
    assert list(run.rglob(".tinynet-*")) == []
    assert train("--resume", run) == 0
    assert result(run) == undisturbed


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_checkpoint_that_really_cannot_grow_leaves_the_one_before(tmp_path):
    """The system itself cuts the write off, in the middle of the second checkpoint."""
    path = tmp_path / "run.safetensors"
    with kernels.using("numpy"):
        expected = bits(fit(tmp_path / "whole.safetensors"))
        fit(path, epochs=2)
    before = path.read_bytes()
    code = (
        "import resource, sys; from pathlib import Path; import test_survival; from tinynet import kernels\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2)\n"
        "with kernels.using('numpy'): test_survival.fit(Path(sys.argv[1]))\n"
    )
    child = in_a_process(code, path)
    assert child.returncode == 1 and "FileAccessError" in child.stderr and "file too large" in child.stderr
    assert path.read_bytes() == before and list(tmp_path.glob(".tinynet-*")) == []
    with kernels.using("numpy"):
        assert bits(fit(path)) == expected


def test_a_data_folder_that_is_gone_is_named_and_elsewhere_it_goes_on(
    undisturbed, cells, tmp_path, capsys, at_step
):
    run = tmp_path / "run"
    at_step(2, press_ctrl_c)
    assert begin(cells, run) == 130
    assert "go on with: tinynet train --resume" in capsys.readouterr().err
    moved = tmp_path / "elsewhere" / "cells"
    shutil.copytree(cells, moved)
    shutil.rmtree(cells)
    assert train("--resume", run) == 1
    told = capsys.readouterr().err
    assert str(cells) in told and "does not exist" in told and "--data" in told and told.count("\n") == 1
    assert train("--resume", run, "--data", moved) == 0
    assert result(run) == undisturbed


def test_a_data_folder_that_goes_while_a_run_trains_is_not_missed(undisturbed, cells, tmp_path, at_step):
    at_step(2, lambda: shutil.rmtree(cells))
    assert begin(cells, tmp_path / "run") == 0
    assert result(tmp_path / "run") == undisturbed


def test_a_data_folder_that_goes_while_it_is_read_is_no_smaller_data_set(cells, tmp_path, monkeypatch):
    from tinynet.data import cache

    folder, decode, seen = scan_folder(cells), cache.decode, []

    def losing(path):
        seen.append(path)
        if len(seen) == 50:
            shutil.rmtree(folder.root)
        return decode(path)

    monkeypatch.setattr(cache, "decode", losing)
    with pytest.raises(FileAccessError, match="was there and is gone"):
        load_images(folder, 16, 16, tmp_path / "store", progress=False)
    assert list((tmp_path / "store").glob("cells-*")) == []


def test_ctrl_c_before_the_run_has_begun_promises_nothing(cells, tmp_path, capsys, monkeypatch):
    from tinynet.data import cache

    pressed = iter([press_ctrl_c])
    decoded = np.zeros((16, 16, 3), np.uint8)
    monkeypatch.setattr(cache, "decode", lambda path: next(pressed, lambda: None)() or decoded)
    assert begin(cells, tmp_path / "run") == 130
    assert "the run had not begun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
