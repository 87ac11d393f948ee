"""Where tinynet has to work: no home, nothing that can be written, odd paths, odd folders, a broken Numba.

The kernels' side of it is in test_kernel_environment.py; other versions of Python and NumPy are tried by
`python -m robustness.environments`.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinynet as tn
from tinynet import cli, kernels
from tinynet.data.folder import scan_folder
from tinynet.data.synthetic import write_folder

pytest.importorskip("PIL")
ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="relies on POSIX")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("cells"), 24, (40, 60), seed=3, patients=8)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2, "softmax")]
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    tn.Sequential(layers, (16, 16, 3), class_names=("uninfected", "infected")).save(path)
    return path


@pytest.fixture
def cells(pictures, tmp_path, monkeypatch):
    """A copy, to put odd things into."""
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(pictures, tmp_path / "cells"))


@pytest.fixture
def run(capsys):
    def command(*arguments):
        with kernels.using("numpy"):
            status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def tinynet(*arguments, before: str = "", **environment: str | None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `before`: what is done there first; None: no such variable."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])}
    variables |= {"TINYNET_KERNELS": "numpy", **{k: v for k, v in environment.items() if v is not None}}
    for name, value in environment.items():
        if value is None:
            variables.pop(name, None)
    code = f"import os, sys\n{before}\nfrom tinynet.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=variables, capture_output=True, text=True,
        errors="surrogateescape",
    )  # fmt: skip


# Folders.


@posix
def test_links_that_lead_in_circles_or_nowhere_are_passed_over(run, cells, model_file, tmp_path):
    one = cells / "Parasitized"
    before = scan_folder(cells).names
    (one / "circle.png").symlink_to("circle.png")
    (one / "up").symlink_to("..")
    (one / "up.png").symlink_to("..")  # a folder with a picture's name
    (cells / "circle").symlink_to("circle")
    (one / "nowhere.png").symlink_to("nowhere at all.png")
    folder = scan_folder(cells)
    assert sorted(set(folder.names) - set(before)) == ["Parasitized/circle", "Parasitized/nowhere"]
    status, _, told = run("evaluate", model_file, "--data", cells)
    assert status == 0
    assert "circle.png: cannot be read: Too many levels of symbolic links" in told
    status, _, told = run("predict", model_file, cells, "--csv", tmp_path / "answers.csv")
    assert status == 0 and "2 of 26 pictures could not be read" in told
    with open(tmp_path / "answers.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 26  # none of them twice


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{model}", "{zip}"],
        ["evaluate", "{model}", "--data", "{zip}"],
        ["train", "--data", "{zip}"],
    ],
)
def test_a_zip_of_pictures_is_to_be_unpacked_first(run, cells, model_file, tmp_path, command):
    archive = shutil.make_archive(str(tmp_path / "cell_images"), "zip", cells)
    status, _, told = run(*(word.format(model=model_file, zip=archive) for word in command))
    assert status == 1
    assert told.splitlines()[-1].endswith(
        "cell_images.zip is a zip archive: unpack it first, and give the folder that comes of it"
    )


@posix
def test_deep_folders_with_any_names_in_a_c_locale(cells, model_file, tmp_path):
    """A path of 2,500 bytes, of letters that the locale does not know and bytes that no encoding does."""
    deep = tmp_path.joinpath(*["ж" * 100] * 12)
    deep.parent.mkdir(parents=True)
    shutil.move(cells, deep)
    odd = os.path.join(os.fsencode(deep / "Uninfected"), b"C1P1_\xff\xfe.png")
    os.rename(next((deep / "Uninfected").glob("C1*.png")), odd)
    locale = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = tinynet("predict", model_file, deep, "--csv", deep / "käse.csv", **locale)
    assert ran.returncode == 0, ran.stderr
    content = (deep / "käse.csv").read_bytes()
    assert content.count(b"\n") == 25 and b"C1P1_\xff\xfe.png" in content
    out = deep / "rün"
    ran = tinynet(
        "train", "--data", deep, "--out", out, "--model", "small-cnn", "--size", 16, "--epochs", 1, **locale
    )
    assert ran.returncode == 0, ran.stderr
    assert (out / "model.safetensors").exists()


@posix
def test_a_path_that_is_longer_than_the_system_allows_is_one_sentence(run, cells, model_file, tmp_path):
    far = Path(*["x" * 200] * 30)
    for command in (
        ["predict", model_file, far],
        ["predict", far / "m.safetensors", cells],
        ["predict", model_file, cells, "--csv", far],
        ["evaluate", model_file, "--data", far],
        ["train", "--data", cells, "--out", far, "--quiet"],
        ["train", "--resume", far, "--quiet"],
    ):
        status, _, told = run(*command)
        assert status == 1, command
        assert told.startswith(f"tinynet {command[0]}: ") and told.count("\n") == 1, told[:300]


# Nothing can be written.

NO_ROOM = (
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"  # no file may grow, /tmp neither
)


@pytest.fixture
def nowhere(tmp_path):
    """Variables that lead every home, cache and folder for temporary files to where there is none."""
    (tmp_path / "file").touch()
    names = ("HOME", "XDG_CACHE_HOME", "TINYNET_CACHE", "NUMBA_CACHE_DIR", "TMPDIR", "MPLCONFIGDIR")
    return dict.fromkeys(names, str(tmp_path / "file" / "nonexistent"))


@posix
def test_with_no_home_no_cache_and_no_room_anywhere_answers_are_given(pictures, model_file, nowhere):
    predicted = tinynet("predict", model_file, pictures, before=NO_ROOM, **nowhere)
    assert predicted.returncode == 0 and "24 cells" in predicted.stdout, predicted.stderr
    usual = tinynet("predict", model_file, pictures)
    assert usual.stdout == predicted.stdout
    evaluated = tinynet("evaluate", model_file, "--data", pictures, "--json", before=NO_ROOM, **nowhere)
    assert evaluated.returncode == 0 and '"accuracy"' in evaluated.stdout, evaluated.stderr
    info = tinynet("info", before=NO_ROOM, **nowhere)
    assert info.returncode == 0, info.stderr


@posix
def test_with_no_room_a_training_is_refused_in_one_sentence(pictures, tmp_path, nowhere):
    ran = tinynet(
        "train", "--data", pictures, "--quiet", "--out", tmp_path / "run", before=NO_ROOM, **nowhere
    )
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("tinynet train: ") and "file too large" in last


# As on a read-only system, whoever runs the tests: root may write anywhere, whatever permissions say.
READ_ONLY = """
def refuse(event, given):
    writing = event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and given[0] != os.devnull
    if writing or event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.utime"):
        refused.append(event)
        raise PermissionError(30, "Read-only file system", str(given[0]))
refused = []
sys.addaudithook(refuse)
"""


@posix
def test_on_a_read_only_system_answers_are_given_and_trainings_refused(
    pictures, model_file, tmp_path, nowhere
):
    ran = tinynet("predict", model_file, pictures, before=READ_ONLY)
    assert ran.returncode == 0 and "24 cells" in ran.stdout, ran.stderr
    ran = tinynet("evaluate", model_file, "--data", pictures, before=READ_ONLY)
    assert ran.returncode == 0, ran.stderr
    ran = tinynet("train", "--data", pictures, "--quiet", "--out", tmp_path / "run", before=READ_ONLY)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("cannot make the run's folder: Read-only file system")


@posix
@pytest.mark.skipif(kernels.numba_problem() is not None, reason="Numba is not installed")
def test_on_a_read_only_system_kernels_are_compiled_without_a_cache(nowhere):
    code = READ_ONLY + (
        "import numpy as np; from tinynet import kernels; from tinynet.kernels.numba import compile\n"
        "assert (kernels.active().relu(np.array([-1, 2], np.float32)) == [0, 2]).all()\n"
        "assert refused and compile.cache_folder_in_use() is None\n"
    )
    ran = tinynet("info", before=code, TINYNET_KERNELS="numba")
    assert ran.returncode == 0, ran.stderr


@posix
def test_a_numba_that_fails_costs_a_warning_and_no_answer(pictures, model_file, tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise SystemError('initialization failed')")
    broken = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), *(p for p in sys.path if p)])}
    ran = tinynet("train", "--data", pictures, "--quiet", "--model", "small-cnn", "--size", 16, "--epochs", 1,
                  "--out", tmp_path / "run", TINYNET_KERNELS=None, **broken)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("tinynet uses its NumPy kernels, Numba failed") == 1
    assert "initialization failed" in ran.stderr
