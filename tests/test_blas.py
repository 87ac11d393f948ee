"""The threads of NumPy's own library change no bit of a training: it multiplies on one of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import kernels
from tinynet.kernels import blas

needs_calls = pytest.mark.skipif(blas.threads() is None, reason="NumPy's library cannot be asked")


@pytest.fixture
def several():
    """Three threads for matrix products, as on a larger machine."""
    get, set_ = blas._calls()
    before = get()
    set_(3)
    yield
    set_(before)


@needs_calls
def test_one_thread_until_the_last_block_has_ended_and_then_as_before(several):
    assert blas.threads() == 3
    with blas.one_thread():
        with pytest.raises(KeyError), blas.one_thread():
            raise KeyError
        assert blas.threads() == 1
    assert blas.threads() == 3


@needs_calls
def test_a_training_that_ends_leaves_another_thread_its_one(several):
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with blas.one_thread():
            entered.set()
            leave.wait(60)
            seen.append(blas.threads())

    with blas.one_thread():
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(60)
    assert blas.threads() == 1
    leave.set()
    thread.join()
    assert seen == [1] and blas.threads() == 3


@needs_calls
def test_fit_works_on_one_and_gives_them_back(several):
    class Seen(tn.Callback):
        threads = None

        def on_epoch_end(self, training, logs):
            self.threads = blas.threads()

    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (4, 4, 3), seed=0)
    model.compile(tn.SGD(0.1), "sparse_categorical_crossentropy")
    seen = Seen()
    model.fit(np.zeros((4, 4, 4, 3), np.uint8), np.array([0, 1, 0, 1]), verbose=0, callbacks=[seen])
    assert seen.threads == 1 and blas.threads() == 3


@needs_calls
def test_predict_on_the_numpy_kernels_works_on_one_too(several):
    with kernels.using("numpy"):
        assert blas.threads() == 1
    assert blas.threads() == 3


def test_a_library_that_cannot_be_asked_is_left_alone(monkeypatch):
    monkeypatch.setattr(blas, "CALLS", [])
    blas._calls.cache_clear()
    try:
        with blas.one_thread():
            assert blas.threads() is None
    finally:
        blas._calls.cache_clear()


# Trains up to an epoch and tells the weights and the answers; warnings are errors.
PROGRAM = """
import hashlib, sys, warnings
import numpy as np
import tinynet as tn
warnings.simplefilter("error")
path, epochs = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x, labels = rng.integers(0, 256, (96, 24, 24, 3), dtype=np.uint8), rng.integers(0, 2, 96)
layers = [tn.Conv2D(16, 3, activation="relu"), tn.Conv2D(32, 3, activation="relu"), tn.MaxPool2D(2),
          tn.Flatten(), tn.Dense(64, "relu"), tn.Dense(2, "softmax")]
model = tn.Sequential(layers, (24, 24, 3), seed=1)
model.compile(tn.AdamW(0.01), "sparse_categorical_crossentropy")
model.fit(x, labels, validation_data=(x[:40], labels[:40]), epochs=epochs, batch_size=48, verbose=0,
          callbacks=[tn.EarlyStopping("val_loss", patience=None), tn.BackupAndRestore(path)])
state = model.state()
state["answers"], state["loss"] = model.predict(x), np.array(list(model.evaluate(x, labels).values()))
print(hashlib.sha256(b"".join(state[name].tobytes() for name in sorted(state))).hexdigest())
"""


def trained(path: Path, epochs: int, threads: int) -> str:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}
    variables |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))
    variables |= {"TINYNET_KERNELS": "numpy", "TINYNET_NUM_THREADS": str(threads)}
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(epochs)], env=variables, capture_output=True,
        text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return child.stdout


@needs_calls
@pytest.mark.skipif(kernels.threads.processors() < 2, reason="libraries take no more threads than processors")
def test_the_library_s_threads_change_no_weight_straight_through_or_resumed(tmp_path):
    one = trained(tmp_path / "one.safetensors", 2, 1)
    assert trained(tmp_path / "two.safetensors", 2, 2) == one
    trained(tmp_path / "parts.safetensors", 1, 2)
    assert trained(tmp_path / "parts.safetensors", 2, 1) == one
