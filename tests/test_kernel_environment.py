"""Kernels where they are put to use: without Numba, without a cache, in threads, forks and fresh processes.

Whatever depends on environment variables or on what is imported runs in a child process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tinynet import kernels
from tinynet.errors import ArgumentError

ROOT = Path(__file__).parent.parent
NUMBA = kernels.numba_problem() is None
needs_numba = pytest.mark.skipif(not NUMBA, reason="Numba is not installed")
linux = pytest.mark.skipif(sys.platform != "linux", reason="relies on Linux")

# A few kernels of every kind, enough work for several threads, and a digest of every bit.
COMPUTE = """
import hashlib
import numpy as np
from tinynet import kernels
from tinynet.kernels.window import Window

def compute():
    k, rng = kernels.active(), np.random.default_rng(0)
    x = rng.standard_normal((9, 8, 16, 16, 16)).astype(np.float32)
    weight = rng.standard_normal((3, 3, 8, 8)).astype(np.float32)
    window, half = Window((3, 3), padding=((1, 1), (1, 1))), Window((2, 2), (2, 2))
    y = k.conv2d(x, weight, weight[0, 0, 0], window, 1)
    mean, variance = k.channel_moments(y, 140)
    results = [
        y, mean, variance, *k.max_pool(y, half), k.channel_sum(y), k.relu(y),
        k.conv2d_input_gradient(y, weight, window, 1, 16, 16), k.conv2d_weight_gradient(x, y, window, 1),
        k.conv2d_weight_gradient(x[..., :1, :1, :], y[..., :1, :1, :], Window((1, 1)), 1),
        *k.normalize_sums(x, y, mean, variance, 140), np.float64(k.squared_error(x, y, 140)),
    ]
    return hashlib.sha256(b"".join(np.ascontiguousarray(r).tobytes() for r in results)).hexdigest()
"""

# One kernel, quickly compiled; prints what became of it.
RELU = """
import numpy as np
from tinynet import kernels
from tinynet.kernels.numba import compile
assert (kernels.active().relu(np.array([-1, 2], np.float32)) == [0, 2]).all()
(report,) = compile.compile_report()
assert report.name == "activation._relu" and report.seconds > 0
print("compiled", report.compiled, "loaded", report.loaded)
"""


def run(code: str, *options: str, timeout: float = 120, check: bool = True, **environment: str | None):
    """Python on `code` in a child process, with the variables of `environment` set (None: unset)."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("TINYNET_", "NUMBA_"))}
    for name in ("TINYNET_CACHE", "NUMBA_CACHE_DIR"):  # so that children share compiled kernels
        if name in os.environ:
            variables[name] = os.environ[name]
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for name, value in environment.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    child = subprocess.run(
        [sys.executable, *options, "-c", code],
        env=variables, capture_output=True, text=True, timeout=timeout, cwd=ROOT,
    )  # fmt: skip
    if check:
        assert child.returncode == 0, child.stderr
    return child


# What is imported.


def test_import_is_light():
    heavy = ["numba", "llvmlite", "cv2", "matplotlib", "PIL", "tqdm", "torch"]
    code = f"import sys, tinynet, tinynet.kernels; print([m for m in {heavy} if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


# Few images: Numba is not waited for.

PREDICT = """
import sys, numpy as np, tinynet as tn
from tinynet import kernels
model = tn.Sequential([tn.Conv2D(8, 3, activation="relu"), tn.Flatten(), tn.Dense(2, "softmax")], (16, 16, 3))
images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
kernels.NUMBA_SECONDS = kernels.IMAGE_SECONDS * 30  # enough_images is then 30 or a few fewer
few = model.predict(images[:5])
print("numba" in sys.modules)
"""


@needs_numba
def test_a_few_images_are_predicted_without_importing_numba_and_many_with_it():
    code = """
many = model.predict(images)
print("numba" in sys.modules)
np.testing.assert_allclose(few, many[:5], rtol=1e-4, atol=1e-6)
used = []
from tinynet import batch
real = batch.logits
batch.logits = lambda *arguments: used.append(1) or real(*arguments)
model.predict(images[:9])  # more than tinynet.single computes one by one
print(bool(used))  # now that Numba's kernels are there, few images go through them too
"""
    assert run(PREDICT + code).stdout.split("\n")[:3] == ["False", "True", "True"]


NUMBA_IN_USE = (
    PREDICT
    + """
from tinynet.kernels.numba import compile
assert kernels.active().NAME == "numba"
def one_image():
    return [(r.compiled, r.loaded) for r in compile.compile_report() if r.name == "single.one_image"]
"""
)


@needs_numba
def test_where_numba_is_in_use_a_few_images_do_not_wait_for_the_kernel_of_single_ones(tmp_path):
    code = """
answers = model.predict(images[:5])
assert not one_image() or one_image() == [(0, 0)]
assert (answers == few).all()  # NumPy's, bit for bit
with kernels.using("numba"):
    from tinynet import single
    assert single.predict(model, images[:1]) is None  # so that it is the batch kernels' work
assert one_image() in ([], [(0, 0)])
"""
    run(NUMBA_IN_USE + code, TINYNET_CACHE=str(tmp_path))


@needs_numba
def test_the_kernel_of_single_images_is_used_once_it_is_compiled_or_in_the_cache():
    compiling = """
from tinynet import deploy, single
deploy.single(model)
tn.set_kernels("numba")
answers = model.predict(images[:5])
tn.set_kernels("auto")
kernels.active()
assert (model.predict(images[:5]) == answers).all() and not (answers == few).all()
"""
    run(NUMBA_IN_USE + compiling)
    loading = """
answers = model.predict(images[:5])
assert one_image() == [(0, 1)], one_image()
tn.set_kernels("numba")
assert (model.predict(images[:5]) == answers).all()
"""
    run(NUMBA_IN_USE + loading)


@needs_numba
def test_training_and_explicit_choices_do_not_count_images():
    trained = 'model.compile(loss="sparse_categorical_crossentropy")\n'
    trained += 'model.fit(images[:4], np.zeros(4, int), verbose=0)\nprint("numba" in sys.modules)'
    assert run(PREDICT + trained).stdout.split() == ["False", "True"]
    assert run(PREDICT, TINYNET_KERNELS="numba").stdout.split() == ["True"]
    many = "model.predict(images)\nprint('numba' in sys.modules)"
    assert run(PREDICT + many, TINYNET_KERNELS="numpy").stdout.split() == ["False", "False"]
    chosen = 'tn.set_kernels("numpy")\n' + many
    assert run(PREDICT + chosen).stdout.split() == ["False", "False"]
    again = 'tn.set_kernels("numpy")\ntn.set_kernels("auto")\n' + many
    assert run(PREDICT + again).stdout.split() == ["False", "True"]


@needs_numba
@linux
def test_few_images_in_two_threads_and_a_forked_child_give_one_answer():
    code = """
import os, threading
answers = {}
def work(name):
    answers[name] = [model.predict(images[:5]).tobytes() for _ in range(20)]
threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
assert set(answers["a"] + answers["b"]) == {few.tobytes()}
child = os.fork()
if child == 0:
    same = model.predict(images[:5]).tobytes() == few.tobytes()
    many = model.predict(images)  # the child may start Numba though its parent has not
    os._exit(0 if same and np.allclose(many[:5], few, atol=1e-5) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "numba" in sys.modules)
"""
    assert run(PREDICT + code, "-W", "ignore").stdout.split() == ["False", "0", "False"]


# Without Numba.

ACTIVE = "from tinynet import kernels; print(kernels.active().NAME)"
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):  # they are installed together
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_without_numba_the_numpy_kernels_compute_and_nothing_is_said():
    child = run(ABSENT + ACTIVE, "-W", "error")
    assert child.stdout.strip() == "numpy" and child.stderr == ""


def test_without_numba_asking_for_it_names_the_extra():
    child = run(ABSENT + ACTIVE, TINYNET_KERNELS="numba", check=False)
    assert "MissingDependencyError" in child.stderr and "tinynet-cnn[fast]" in child.stderr


@pytest.mark.parametrize(
    "failure",
    [
        "ImportError('Numba needs NumPy 2.3 or less. Got NumPy 2.4.')",
        "RuntimeError('module compiled against API version 0x10')",
        "OSError('Could not find/load shared object file libllvmlite.so')",
        "SystemError('initialization of _internal raised unreported exception')",
        "AttributeError(\"module 'numpy' has no attribute 'long'\")",
        "KeyError('PATH')",
        "AssertionError()",
        "ModuleNotFoundError(\"No module named 'llvmlite'\", name='llvmlite')",
    ],
)
def test_a_numba_that_fails_is_gone_without_after_one_warning(tmp_path, failure):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(f"raise {failure}")
    code = (
        ACTIVE
        + """
kernels.active(); kernels.use("auto")
with kernels.using("auto"): pass
try:
    kernels.use("numba")
except ImportError: raise
except kernels.MissingDependencyError as problem: print(problem)
"""
    )
    child = run(code, "-W", "always", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert child.stdout.startswith("numpy\nNumba cannot be used here")
    assert child.stderr.count("tinynet uses its NumPy kernels, Numba failed") == 1
    assert failure.partition("(")[0] in child.stderr


@needs_numba
def test_numba_told_not_to_compile_is_gone_without_after_one_warning():
    child = run(ACTIVE, "-W", "always", NUMBA_DISABLE_JIT="1")
    assert child.stdout.strip() == "numpy"
    assert child.stderr.count("NUMBA_DISABLE_JIT is set") == 1


# TINYNET_KERNELS.


def test_numpy_kernels_do_not_import_numba():
    code = COMPUTE + "compute(); import sys; print(kernels.active().NAME, 'numba' in sys.modules)"
    assert run(code, TINYNET_KERNELS="numpy").stdout.strip() == "numpy False"


@needs_numba
@pytest.mark.parametrize("wanted", ["numba", "auto", "", None])
def test_numba_kernels_are_chosen(wanted):
    assert run(ACTIVE, TINYNET_KERNELS=wanted).stdout.strip() == "numba"


def test_a_kernel_set_that_does_not_exist_is_named():
    child = run(ACTIVE, TINYNET_KERNELS="cuda", check=False)
    assert "ArgumentError: kernels (TINYNET_KERNELS): wanted numpy, numba or auto, got 'cuda'" in child.stderr


def test_using_changes_this_thread_only_and_returns():
    before, seen = kernels.active().NAME, []
    with kernels.using("numpy") as chosen:
        assert kernels.active() is chosen and chosen.NAME == "numpy"
        thread = threading.Thread(target=lambda: seen.append(kernels.active().NAME))
        thread.start()
        thread.join()
    assert before == kernels.active().NAME
    assert seen == [run(ACTIVE, TINYNET_KERNELS=os.environ.get("TINYNET_KERNELS")).stdout.strip()]


# The cache.


@needs_numba
@pytest.mark.parametrize("variable", ["TINYNET_CACHE", "NUMBA_CACHE_DIR"])
def test_the_second_process_compiles_nothing(tmp_path, variable):
    places = {"TINYNET_CACHE": None, "NUMBA_CACHE_DIR": None, variable: str(tmp_path)}
    assert run(RELU, **places).stdout.strip() == "compiled 1 loaded 0"
    assert run(RELU, **places).stdout.strip() == "compiled 0 loaded 1"
    assert list(tmp_path.rglob("kernels-*/**/*.nbi"))


def nowhere(tmp_path: Path) -> dict[str, str]:
    """Variables that lead every cache into a file, where not even root can make a folder."""
    file = tmp_path / "file"
    file.touch()
    names = ("TINYNET_CACHE", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "USERPROFILE", "LOCALAPPDATA")
    return {name: str(file / "nonexistent") for name in names}


@needs_numba
def test_without_a_place_to_write_kernels_work_uncached(tmp_path):
    code = RELU + "print(compile.cache_folder())"
    child = run(code, "-W", "error", **nowhere(tmp_path))
    assert child.stdout.split("\n")[:2] == ["compiled 1 loaded 0", "None"]


@needs_numba
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_passed_over(tmp_path):
    (tmp_path / "read only").mkdir(mode=0o555)
    places = nowhere(tmp_path) | {"TINYNET_CACHE": str(tmp_path / "read only")}
    assert run(RELU, **places).stdout.strip() == "compiled 1 loaded 0"


@needs_numba
def test_the_first_place_that_can_be_written_is_used(tmp_path, monkeypatch):
    from tinynet.kernels.numba import compile

    for name, value in nowhere(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert compile.cache_folder() is None
    for name in ("NUMBA_CACHE_DIR", "TINYNET_CACHE"):  # the latter goes before
        monkeypatch.setenv(name, str(tmp_path / "new" / name))
        folder = compile.cache_folder()
        assert folder.parent == tmp_path / "new" / name and folder.is_dir() and not list(folder.iterdir())


def double(x):
    for i in range(x.size):
        x[i] *= 2


@needs_numba
@pytest.mark.parametrize("damage", [b"", b"\x80\x04garbage", None], ids=["empty", "garbage", "cut short"])
@pytest.mark.parametrize("which", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_costs_a_compilation_once(tmp_path, damage, which):
    import numba

    from tinynet.kernels.numba import compile

    def computed():
        """What a process with this cache does with a kernel: (compiled, loaded)."""
        dispatcher = numba.njit(nogil=True, error_model="numpy")(double)
        cache = dispatcher._cache = compile.KernelCache(double, tmp_path)
        x = np.array([-1, 2], np.float32)
        dispatcher(x)
        assert x.tolist() == [-2, 4]
        return cache.compiled, cache.loaded

    assert computed() == (1, 0)
    (file,) = tmp_path.rglob(which)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    assert computed() == (1, 0)
    assert computed() == (0, 1)


@needs_numba
@linux
def test_a_full_disk_costs_the_cache_only(tmp_path):
    """No file may grow beyond 100 bytes, which a probe for a writable folder cannot know."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    for _ in range(2):
        child = run(limit + RELU, TINYNET_CACHE=str(tmp_path))
        assert child.stdout.strip() == "compiled 1 loaded 0"


@needs_numba
def test_the_cache_folder_is_named_after_every_source(tmp_path, monkeypatch):
    from tinynet.kernels.numba import compile

    shutil.copytree(Path(compile.__file__).parent, tmp_path / "numba")
    monkeypatch.setattr(compile, "_sources", lambda: sorted((tmp_path / "numba").glob("*.py")))
    names, sources = {compile._digest()}, compile._sources()
    assert {"simd.py", "convolution.py", "pooling.py"} <= {source.name for source in sources}
    for source in sources:
        source.write_text(source.read_text() + "\n# edited\n")
        names.add(compile._digest())
    assert len(names) == len(sources) + 1


@needs_numba
def test_the_cache_folder_is_named_after_settings_that_change_code(monkeypatch):
    from tinynet.kernels.numba import compile

    before = compile._digest()
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert compile._digest() == before
    monkeypatch.setenv("NUMBA_OPT", "1")
    assert compile._digest() != before
    monkeypatch.delenv("NUMBA_OPT")
    monkeypatch.setattr(compile.numba, "__version__", "99")
    assert compile._digest() != before


@needs_numba
def test_the_cache_folder_of_other_numba_code_is_left_alone(tmp_path):
    code = RELU + "import numba; print(repr(numba.config.CACHE_DIR))"
    assert run(code, NUMBA_CACHE_DIR=None, TINYNET_CACHE=str(tmp_path)).stdout.split("\n")[1] == "''"


# Warming up.


@needs_numba
def test_warmup_compiles_everything_and_other_shapes_nothing_more():
    code = (
        COMPUTE
        + """
from tinynet.kernels.numba import compile, warmup
calls = []
seconds = warmup.warmup(np.float32, lambda *what: calls.append(what))
reports = compile.compile_report()
assert len(reports) == len(compile._registry), "a kernel is missing in warmup"
assert all(r.compiled + r.loaded == 1 for r in reports), reports
assert 0 < sum(r.seconds for r in reports) <= seconds
assert [done for done, _, _ in calls] == list(range(calls[0][1] + 1))
assert calls[0][2] == "conv2d" and calls[-1][2] == "" and len({total for _, total, _ in calls}) == 1
compute()
assert compile.compile_report() == reports, "a kernel has a second signature"
warmup.warmup("float32")
assert compile.compile_report() == reports
"""
    )
    run(code)


@needs_numba
def test_warmup_covers_the_public_operations():
    from tinynet.kernels import numba as fast
    from tinynet.kernels.numba.warmup import _steps

    operations = {step.func.__name__ for step in _steps(np.dtype(np.float32))}
    without_kernels = {"NAME", "again", "lanes_for", "each_range", "num_threads"}
    assert operations == set(fast.__all__) - without_kernels


@needs_numba
def test_warmup_refuses_other_dtypes():
    from tinynet.kernels.numba.warmup import warmup

    with pytest.raises(ArgumentError, match="float32 or float64, got int8"):
        warmup(np.int8)


@needs_numba
def test_a_kernel_with_vectors_refuses_an_array_with_gaps():
    """A vector at a flat index of an array with gaps would be other numbers."""
    from numba.core.errors import NumbaError

    from tinynet.kernels.numba.upsampling import _upsample

    with pytest.raises(NumbaError, match="C-contiguous"):
        _upsample(np.ones(64, np.float32)[::2], 0, 1, 1, 1, 1, 1, np.ones(64, np.float32))


@needs_numba
def test_bounds_checked_kernels_find_nothing(tmp_path):
    """Numba's own check, which sees scalar kernels and tables (vectors: test_kernel_bounds.py)."""
    code = """
import numpy as np
from tinynet.kernels import numba as k
from tinynet.kernels.numba.lanes import _unpack
rng = np.random.default_rng(0)
try:
    _unpack(np.ones(16, np.float32), 2, 1, 1, 0, 1, np.ones(1, np.float32))
except IndexError:
    pass
else:
    raise SystemExit("bounds are not checked: were unchecked kernels loaded from the cache?")
for count in (1, 16, 21):
    images = rng.standard_normal((count, 3, 2, 2)).astype(np.float32)
    x = k.pack(images, 16)
    assert (k.unpack(x, count) == images).all()
    k.relu_backward(k.relu(x), x)
    k.dropout(x, rng.integers(0, 2**32, (x.shape[0], 16), dtype=np.uint32), 0.3)
    k.normalize(x, *rng.random((4, 2)), count)
    k.squared_error(x, x, count)
    k.squared_error_gradient(x, x, 0.5, count)
    for velocity in (None, x):
        k.sgd(x, x, velocity, 0.1, 0.1, 0.9, True)
        k.rmsprop(x, x, abs(x), velocity, 0.1, 0.1, 0.9, 1e-7, 0.9)
    k.adamw(x, x, x, abs(x), 0.1, 0.1, 0.9, 0.999, 1e-8, 1)
    k.all_finite(x)
    transforms = np.round(rng.normal(0, 1, (count, 2, 3)) * 65536).astype(np.int32)
    k.warp(rng.integers(0, 256, images.shape, dtype=np.uint8), transforms)
    k.warp(np.ones(images.shape, np.uint8), transforms, np.ones((count, images.shape[3], 2), np.int32))
"""
    unchecked = "import numpy as np; from tinynet.kernels import numba as k; "
    unchecked += "k.unpack(np.ones((1, 1, 1, 1, 16), np.float32), 2)"
    run(unchecked, TINYNET_CACHE=str(tmp_path))  # leaves a kernel there
    run(code, TINYNET_CACHE=str(tmp_path), NUMBA_BOUNDSCHECK="1")


# Threads and processes.


@needs_numba
def test_same_bits_on_any_number_of_threads():
    digests = [
        run(COMPUTE + "print(compute())", TINYNET_KERNELS="numba", TINYNET_NUM_THREADS=n).stdout
        for n in ("1", "2", "3")
    ]
    assert len(set(digests)) == 1 and len(digests[0].strip()) == 64


@needs_numba
def test_two_python_threads_get_the_bits_of_one(monkeypatch):
    from tinynet.kernels import threads

    namespace: dict = {}
    exec(COMPUTE, namespace)
    monkeypatch.setattr(threads, "_chosen", 3)

    def compute():
        with kernels.using("numba"):
            results.append(namespace["compute"]())

    results: list[str] = []
    compute()
    others = [threading.Thread(target=compute, daemon=True) for _ in range(4)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(60)
    assert len(results) == 5 and len(set(results)) == 1


FORKED = (
    COMPUTE
    + """
import multiprocessing, os, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # that forking with threads may deadlock: the test

def child(expected):
    assert compute() == expected

if __name__ == "__main__":
    expected = compute()
    stop = threading.Event()
    def keep_computing():
        while not stop.is_set():
            assert compute() == expected
    busy = threading.Thread(target=keep_computing)
    if BUSY:
        busy.start()
    workers = [multiprocessing.get_context(METHOD).Process(target=child, args=(expected,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(40)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert compute() == expected
    stop.set()
    if BUSY:
        busy.join()
    print(codes)
"""
)


@needs_numba
@pytest.mark.parametrize(
    "method, busy",
    [pytest.param("fork", "0", marks=linux), pytest.param("fork", "1", marks=linux), ("spawn", "0")],
)
def test_another_process_computes_after_the_pool_was_used(tmp_path, method, busy):
    script = tmp_path / "script.py"
    script.write_text(f"METHOD, BUSY = {method!r}, {busy}\n{FORKED}")
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    child = run(code, TINYNET_KERNELS="numba", TINYNET_NUM_THREADS="2")
    assert child.stdout.strip() == "[0, 0]", child.stderr


@needs_numba
def test_kernels_run_while_the_interpreter_exits():
    code = (
        COMPUTE + "import atexit; expected = compute(); atexit.register(lambda: print(compute() == expected))"
    )
    child = run(code, TINYNET_KERNELS="numba", TINYNET_NUM_THREADS="2")
    assert child.stdout.strip() == "True" and child.stderr == ""


@needs_numba
class TestRanges:
    """parallel.over_ranges, without kernels."""

    ENOUGH = 1e9  # work that is worth every thread

    @pytest.fixture(autouse=True)
    def three_threads(self, monkeypatch):
        from tinynet.kernels import threads
        from tinynet.kernels.numba import parallel

        monkeypatch.setattr(threads, "_chosen", 3)
        self.parallel, self.threads = parallel, threads

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100])
    def test_every_index_is_covered_once(self, count):
        seen: list[int] = []
        self.parallel.over_ranges(lambda a, b: seen.extend(range(a, b)), count, self.ENOUGH)
        assert sorted(seen) == list(range(count))

    @pytest.mark.parametrize("blocks", [1, 5, 8, 9, 30])
    def test_groups_do_not_depend_on_threads(self, blocks, monkeypatch):
        seen = []
        for number in (1, 2, 5):
            monkeypatch.setattr(self.threads, "_chosen", number)
            calls: list[tuple[int, int, int]] = []
            self.parallel.over_groups(lambda *call, to=calls: to.append(call), blocks, self.ENOUGH)
            seen.append(sorted(calls))
        assert seen[0] == seen[1] == seen[2]
        assert [i for _, first, last in seen[0] for i in range(first, last)] == list(range(blocks))

    def test_ranges_within_ranges_do_not_wait_for_each_other(self):
        seen: list[int] = []

        def outer(first, last):
            for i in range(first, last):
                self.parallel.over_ranges(lambda a, b, i=i: seen.extend([i] * (b - a)), 5, self.ENOUGH)

        thread = threading.Thread(target=self.parallel.over_ranges, args=(outer, 8, self.ENOUGH), daemon=True)
        thread.start()
        thread.join(20)
        assert sorted(seen) == sorted(list(range(8)) * 5)

    def test_without_another_thread_the_caller_does_it_all(self, monkeypatch):
        def refuse(threads):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(self.parallel, "_workers", refuse)
        seen: list[int] = []
        self.parallel.over_ranges(lambda a, b: seen.extend(range(a, b)), 10, self.ENOUGH)
        assert seen == list(range(10))

    def test_a_failure_in_any_range_is_raised_after_all_are_done(self):
        seen: list[int] = []

        def task(first, last):
            seen.append(first)
            if first:
                raise ZeroDivisionError(first)

        with pytest.raises(ZeroDivisionError):
            self.parallel.over_ranges(task, 3, self.ENOUGH)
        assert sorted(seen) == [0, 1, 2]

    @pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5", "²"])
    def test_a_senseless_number_of_threads_is_named(self, wanted, monkeypatch):
        monkeypatch.setattr(self.threads, "_chosen", None)
        monkeypatch.setenv("TINYNET_NUM_THREADS", wanted)
        with pytest.raises(ArgumentError, match="TINYNET_NUM_THREADS: wanted a whole number"):
            self.parallel.num_threads()

    @pytest.mark.parametrize("wanted", [0, -1, 1.5, "2", True, None])
    def test_set_num_threads_refuses_it_too(self, wanted):
        with pytest.raises(ArgumentError, match="set_num_threads"):
            self.threads.set_num_threads(wanted)
        assert self.parallel.num_threads() == 3
