"""Starting: what is imported when, since starting is most of what predicting one picture takes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinynet as tn
from tinynet.data.synthetic import write_folder

ROOT = Path(tn.__file__).resolve().parent.parent


def imported(code: str, folder: Path, **environment: str) -> set[str]:
    """The modules that a fresh interpreter has imported after `code`."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("TINYNET_")}
    variables |= {"PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; sys.stderr.write(' '.join(sys.modules))"],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("\n")[2].split())


def test_predicting_one_png_imports_no_more_than_it_needs(tmp_path):
    folder = write_folder(tmp_path, 2)
    words = ["predict", "autoencoder", str(next(folder.rglob("*.png")))]
    code = f"from tinynet.cli import main; assert main({words}) == 0"
    beyond_numpy = imported(code, tmp_path) - imported("import numpy", tmp_path)
    needless = {
        "PIL", "cv2", "numba", "numpy.ma", "concurrent.futures", "importlib.metadata", "pathlib", "shutil",
        "statistics", "csv", "logging", "tinynet.training", "tinynet.callbacks", "tinynet.summaries",
        "tinynet.data", "tinynet.runs", "tinynet.cli.train", "tinynet.kernels.numba",
    }  # fmt: skip
    assert not needless & beyond_numpy


def test_what_only_training_needs_is_imported_when_asked_for(tmp_path):
    assert not {"tinynet.callbacks", "tinynet.training"} & imported("import tinynet", tmp_path)
    for code in ("tn.CSVLogger", "tn.callbacks.CSVLogger", "tn.History"):
        assert "tinynet.callbacks" in imported(f"import tinynet as tn; {code}", tmp_path)
    assert tn.CSVLogger is tn.callbacks.CSVLogger and tn.History is tn.training.History


def test_names_imported_later_are_listed_and_known_to_type_checkers():
    tree = ast.parse((ROOT / "tinynet" / "__init__.py").read_text(encoding="utf-8"))
    conditions = [node for node in tree.body if isinstance(node, ast.If)]
    (for_checkers,) = (node for node in conditions if isinstance(node.body[0], ast.ImportFrom))
    assert ast.unparse(for_checkers.test) == "_typing.TYPE_CHECKING"
    seen = {
        imports.module.rpartition(".")[2]: {alias.name for alias in imports.names}
        for imports in for_checkers.body
    }
    later = {module: set(names) for module, names in tn._WITH_TRAINING.items()}
    assert seen == later
    assert {name for names in later.values() for name in names} | {"Sequential", "load"} <= set(dir(tn))


def test_what_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LSTM'"):
        tn.LSTM  # noqa: B018
    assert not hasattr(tn, "lstm")
