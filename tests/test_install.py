"""The package as it is installed: models inside it, nothing else taken, nothing heavy imported."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import venv
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import kernels
from tinynet.data.synthetic import synthetic_cells

ROOT = Path(__file__).resolve().parent.parent

USE = """
import sys, pathlib
import tinynet, tinynet.models
from tinynet.models import autoencoder, classifier, small_cnn
from tinynet import storage
place = pathlib.Path(sys.argv[1]).resolve()
for module in (tinynet, tinynet.models):
    assert place in pathlib.Path(module.__file__).resolve().parents, module.__file__
model = classifier()
model.save("model.safetensors")
assert tinynet.load("model.safetensors").class_names == ["uninfected", "infected"]
assert place in pathlib.Path(storage.weights_folder()).resolve().parents
print(tinynet.__version__, *storage.shipped_names())
"""


def python(code: str, *arguments: str, path: list[Path], folder: Path) -> str:
    """What a fresh interpreter prints that finds packages in `path`, and NumPy where it is here."""
    libraries = Path(np.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, libraries]))}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy, so that building leaves nothing behind in this one."""
    if not (ROOT / "pyproject.toml").is_file() or not (ROOT / "models").is_dir():
        pytest.skip("these tests need a checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("tinynet", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder)
    if not (folder / "README.md").exists():
        (folder / "README.md").write_text("# tinynet\n")
    return folder


def built(checkout: Path, folder: Path, hook: str) -> Path:
    """What pip calls to build a wheel, without pip and the network; unpacked, as pip installs it."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    if hook == "build_editable" and importlib.util.find_spec("editables") is None:
        pytest.skip("editables, which hatchling needs for an editable wheel, is not installed")
    code = f"import sys, hatchling.build as build; build.{hook}(sys.argv[1])"
    libraries = Path(importlib.util.find_spec("hatchling").origin).parent.parent
    python(code, str(folder), path=[libraries], folder=checkout)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    """The wheel as a file."""
    folder = tmp_path_factory.mktemp("wheel")
    built(checkout, folder, "build_wheel")
    return next(folder.glob("*.whl"))


@dataclass
class Installed:
    """A virtual environment with NumPy and the wheel, and a folder with pictures in it."""

    environment: Path
    pictures: Path
    cells: np.ndarray  # what cell0.png, cell1.png, ... show, uint8 (n, h, w, 3)

    @property
    def programs(self) -> Path:
        return self.environment / ("Scripts" if sys.platform == "win32" else "bin")

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess:
        """One of the environment's programs, in the folder of pictures; it sees no other packages."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TINYNET_"))} | more
        return subprocess.run(
            [str(self.programs / words[0]), *words[1:]],
            cwd=self.pictures, env=variables, capture_output=True, text=True, timeout=60,
        )  # fmt: skip


def with_numpy_alone(folder: Path) -> Installed:
    """An environment that has NumPy and nothing else, and a folder with two cells and a JPEG's beginning."""
    environment, pictures = folder / "environment", folder / "pictures"
    venv.create(environment, symlinks=sys.platform != "win32")
    libraries = Path(np.__file__).parent.parent
    (site,) = [*environment.glob("lib/python*/site-packages"), *environment.glob("Lib/site-packages")]
    for part in [libraries / "numpy", *libraries.glob("numpy.libs"), *libraries.glob("numpy-*")]:
        if sys.platform == "win32":
            shutil.copytree(part, site / part.name)
        else:
            (site / part.name).symlink_to(part)
    made = Installed(environment, pictures, synthetic_cells(2, size=90).images)
    pictures.mkdir()
    for number, cell in enumerate(made.cells):
        (pictures / f"cell{number}.png").write_bytes(png(cell))
    (pictures / "cell.jpg").write_bytes(JPEG)
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    """The wheel installed by pip, without network, into an environment that has NumPy and nothing else."""
    made = with_numpy_alone(tmp_path_factory.mktemp("numpy-only"))
    python = str(made.programs / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if "No module named pip" in done.stderr or "no such option" in done.stderr:
        pytest.skip("pip 22.3 or newer, which installs the wheel, is not here")
    assert done.returncode == 0, done.stderr
    return made


def png(image: np.ndarray) -> bytes:
    """uint8 (h, w, 3) as a PNG file."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = image.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in image)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# A frame of 8 x 8 pixels and an empty scan: whoever decodes it will object, but nobody does here.
JPEG = bytes.fromhex("ffd8 ffc0000b080008000801011100 ffda0008010100003f00 00 ffd9")


def test_the_wheel_is_below_a_megabyte_weights_included(wheel):
    assert wheel.stat().st_size < 1_000_000


def test_with_numpy_alone_predict_answers_as_it_does_here(installed):
    code = (
        "from importlib.metadata import distributions as d; print(*sorted(x.metadata['Name'] for x in d()))"
    )
    assert installed.run("python", "-c", code).stdout.split() == ["numpy", "tinynet-cnn"]
    with kernels.using("numpy"):
        wanted = tn.load("autoencoder").predict(list(installed.cells))[:, 1]
    done = installed.run("tinynet", "predict", "autoencoder", "cell0.png", "cell1.png", "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [(answer["path"], answer["error"]) for answer in answers] == [
        ("cell0.png", None),
        ("cell1.png", None),
    ]
    np.testing.assert_allclose([answer["probability"] for answer in answers], wanted, atol=1e-5)
    assert {answer["label"] for answer in answers} <= {"infected", "uninfected"}
    done = installed.run("python", "-m", "tinynet", "predict", "autoencoder", "cell0.png")
    assert done.returncode == 0 and done.stderr == ""
    line, notice = done.stdout.splitlines()
    assert line.split() == [answers[0]["label"], f"{answers[0]['probability']:.4f}", "cell0.png"]
    assert notice == "Not a medical device; for research and teaching."


def test_with_numpy_alone_load_and_predict_work_in_python(installed):
    code = """
import tinynet as tn
from tinynet.images import decode
cells = [decode(f"cell{number}.png") for number in range(2)]
print(*(cell.tobytes().hex() for cell in cells))
for name in ("small-cnn", "cells-10k"):
    print(*tn.load(name).predict(cells)[:, 1])
"""
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    pixels, *probabilities = done.stdout.splitlines()
    assert pixels.split() == [cell.tobytes().hex() for cell in installed.cells]
    for name, line in zip(("small-cnn", "cells-10k"), probabilities, strict=True):
        with kernels.using("numpy"):
            wanted = tn.load(name).predict(list(installed.cells))[:, 1]
        np.testing.assert_allclose([float(word) for word in line.split()], wanted, atol=1e-5)


def test_with_numpy_alone_a_jpeg_gets_one_sentence_that_says_what_to_install(installed):
    done = installed.run("tinynet", "predict", "autoencoder", "cell.jpg")
    assert done.returncode == 1 and done.stderr == (
        "tinynet predict: cell.jpg is a JPEG picture, and reading those needs Pillow (or OpenCV), which is "
        'not installed: pip install pillow (or "tinynet-cnn[images]"); PNG is read without it\n'
    )
    # Among others it is an entry with an error, not a lost run.
    done = installed.run("tinynet", "predict", "autoencoder", ".", "--json")
    assert done.returncode == 0
    assert [answer["error"] is None for answer in json.loads(done.stdout)] == [False, True, True]


def files_below(folder: Path) -> dict[Path, int]:
    """Every file, of NumPy's too, and when it was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_from_the_wheel_file_nothing_is_installed_and_nothing_written(wheel, tmp_path):
    """The wheel on the search path, as it is: the whole path from the command line and in Python."""
    place = with_numpy_alone(tmp_path / "place")
    (tmp_path / "home").mkdir()
    from_wheel = {"PYTHONPATH": str(wheel), "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}
    before, bytes_before = files_below(tmp_path), wheel.read_bytes()
    for model in ("autoencoder", "cells-10k", "small-cnn"):  # cells-10k: int8
        with kernels.using("numpy"):
            wanted = tn.load(model).predict(list(place.cells))[:, 1]
        words = ["python", "-m", "tinynet", "predict", model, "cell0.png", "cell1.png", "--json"]
        done = place.run(*words, **from_wheel)
        assert done.returncode == 0, done.stderr
        found = [answer["probability"] for answer in json.loads(done.stdout)]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    code = """
import tinynet as tn, tinynet.models
from tinynet import storage
from tinynet.images import decode
print(tn.__file__, tinynet.models.__file__, storage.weights_folder())
print(*storage.shipped_names(), *map(storage.size_in_bytes, storage.shipped_names()))
print(*tn.load("small-cnn").predict([decode("cell0.png"), decode("cell1.png")])[:, 1])
"""
    done = place.run("python", "-c", code, **from_wheel)
    assert done.returncode == 0, done.stderr
    places, shipped, probabilities = done.stdout.splitlines()
    assert all(path.startswith(str(wheel) + os.sep) for path in places.split())
    weights = sorted((ROOT / "models" / "weights").glob("*.safetensors"))
    assert shipped.split() == [path.stem for path in weights] + [str(path.stat().st_size) for path in weights]
    np.testing.assert_allclose([float(word) for word in probabilities.split()], wanted, atol=1e-5)
    for words in (["info"], ["summary", "autoencoder"]):
        done = place.run("python", "-m", "tinynet", *words, **from_wheel)
        assert done.returncode == 0, done.stderr
    done = place.run("python", "-m", "tinynet", "predict", "nothing", "cell0.png", **from_wheel)
    assert done.returncode == 1
    assert done.stderr == (
        "tinynet predict: nothing: no such file, and no shipped model of that name; there are "
        f"{', '.join(path.stem for path in weights)}\n"
    )
    assert files_below(tmp_path) == before and wheel.read_bytes() == bytes_before


# Two processes: the second finds what the first compiled.
KERNEL_FROM_WHEEL = """
import numpy as np
from tinynet import kernels
from tinynet.kernels.numba import compile
assert (kernels.active().relu(np.array([-1, 2], np.float32)) == [0, 2]).all()
(report,) = compile.compile_report()
print("compiled", report.compiled, "loaded", report.loaded)
"""


@pytest.mark.skipif(kernels.numba_problem() is not None, reason="Numba is not installed")
def test_from_the_wheel_file_compiled_kernels_are_kept(wheel, tmp_path):
    cache = {
        **os.environ,
        "PYTHONPATH": str(wheel),
        "TINYNET_CACHE": str(tmp_path),
        "TINYNET_KERNELS": "numba",
    }
    for wanted in ("compiled 1 loaded 0", "compiled 0 loaded 1"):
        done = subprocess.run(
            [sys.executable, "-c", KERNEL_FROM_WHEEL], cwd=tmp_path, env=cache, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout.strip() == wanted, done.stderr
    (folder,) = tmp_path.iterdir()
    assert list(folder.glob("activation.*.nbi"))


def test_models_are_found_from_a_checkout(checkout, tmp_path):
    printed = python(USE, str(checkout), path=[checkout], folder=tmp_path)
    assert printed.split()[0] == tn.__version__


def test_a_wheel_has_the_models_inside_and_takes_no_other_name(checkout, tmp_path):
    site = built(checkout, tmp_path, "build_wheel")
    top = {path.name for path in site.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tinynet"}
    printed = python(USE, str(site), path=[site], folder=tmp_path)
    shipped = sorted(path.stem for path in (checkout / "models" / "weights").glob("*.safetensors"))
    assert printed.split() == [tn.__version__, *shipped]
    (metadata,) = site.glob("*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    assert "\nName: tinynet-cnn\n" in text and f"\nVersion: {tn.__version__}\n" in text
    needed = [line for line in re.findall(r"^Requires-Dist: (.*)$", text, re.M) if "extra ==" not in line]
    assert needed == ["numpy>=1.24"]
    assert "tinynet = tinynet.cli:main" in (metadata.parent / "entry_points.txt").read_text()


def test_an_editable_install_uses_the_checkout(checkout, tmp_path):
    site = built(checkout, tmp_path, "build_editable")
    # Ahead of the rest: a tinynet may be installed beside the NumPy that is used here.
    as_site = (
        "import site, sys; before = list(sys.path); "
        f"site.addsitedir({str(site)!r}); "
        "sys.path[:] = [path for path in sys.path if path not in before] + before\n"
    )
    printed = python(as_site + USE, str(checkout), path=[], folder=tmp_path)
    assert printed.split()[0] == tn.__version__


def test_importing_tinynet_is_light(checkout, tmp_path):
    code = (
        "import sys, tinynet, tinynet.models\n"
        "heavy = {'numba', 'PIL', 'cv2', 'matplotlib', 'tqdm', 'torch', 'llvmlite', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(code, path=[checkout], folder=tmp_path).strip() == "[]"


def test_the_version_is_said_once_and_the_same():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.*)"$', text, re.M).group(1) == tn.__version__
