"""The package as it is installed: models inside it, nothing else taken, nothing heavy imported."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn

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
