"""tinynet on other versions of Python and NumPy, each in a fresh virtual environment.

    python -m robustness.environments [--python 3.10=/usr/bin/python3.10 ...] [--only NAME] [--whole]

Every environment gets the packages of its line below from the package index, then runs a part of the tests
(or, with --whole, all of them), the command line on synthetic cells included.  Interpreters are looked for
on the PATH and among pyenv's; one that is not there is said to be missing, and the status is then 1.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["pytest>=7.4", "hypothesis>=6.90", "pillow", "safetensors"]

# Name, Python, what is installed.  Oldest: what pyproject.toml allows and that Python has wheels for.
ENVIRONMENTS = [
    ("oldest, without Numba", "3.10", ["numpy==1.24.*", "pillow==9.4.*"]),
    ("oldest, with Numba", "3.10", ["numpy==1.24.*", "numba==0.60.*"]),
    ("newest for 3.11, with Numba", "3.11", ["numpy", "numba"]),
    ("oldest for 3.12, without Numba", "3.12", ["numpy==1.26.*"]),
    ("newest for 3.12, with Numba", "3.12", ["numpy", "numba"]),
    ("newest for 3.13, without Numba", "3.13", ["numpy"]),
    ("newest for 3.13, with Numba", "3.13", ["numpy", "numba"]),
]
QUICK = [
    "tests/test_tensor.py", "tests/test_files_container.py", "tests/test_files_model_file.py",
    "tests/test_files_mutated.py", "tests/test_files_atomic.py", "tests/test_files_selftest.py",
    "tests/test_png.py", "tests/test_random.py", "tests/test_arithmetic.py", "tests/test_training.py",
    "tests/test_survival.py::test_ctrl_c_keeps_every_step_and_the_rest_gives_the_same_bits",
    "tests/test_same_in_same_out.py",
]  # fmt: skip
COMMANDS = """
import sys
from pathlib import Path
from tinynet.cli import main
from tinynet.data.synthetic import write_folder
place = Path(sys.argv[1])
write_folder(place / "cells", 60, (30, 50), patients=12)
run = ["train", "--data", str(place / "cells"), "--model", "small-cnn", "--size", "16", "--epochs", "1"]
assert main([*run, "--quiet", "--out", str(place / "run")]) == 0
assert main(["train", "--resume", str(place / "run"), "--quiet"]) == 0
assert main(["predict", str(place / "run" / "model.safetensors"), str(place / "cells")]) == 0
assert main(["predict", "autoencoder", str(place / "cells")]) == 0
assert main(["info"]) == 0
"""


def interpreter(version: str, given: dict[str, str]) -> str | None:
    """Where this Python is."""
    found = given.get(version) or shutil.which(f"python{version}")
    homes = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
    for candidate in [found, *homes]:
        if candidate and _version(candidate) == version:
            return candidate
    return None


def _version(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def attempt(name: str, python: str, packages: list[str], whole: bool) -> bool:
    """Install and test; prints one line, and what failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([python, "-m", "venv", place / "venv"], check=True)
        inside = str(place / "venv" / "bin" / "python")
        install = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pinned = [package for package in TOOLS if not any(_same(package, other) for other in packages)]
        made = subprocess.run([*install, *packages, *pinned], capture_output=True, text=True)
        if made.returncode:
            print(f"{name}: not installed: {made.stderr.strip().splitlines()[-1]}", flush=True)
            return False
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("TINYNET_", "PYTHON"))}
        environment |= {"PYTHONPATH": str(ROOT), "TINYNET_CACHE": str(place / "cache"), "MPLBACKEND": "agg"}
        tests = [inside, "-m", "pytest", "-p", "no:cacheprovider", *([] if whole else QUICK)]
        trials = [tests, [inside, "-c", COMMANDS, str(place)]]
        ran = [
            subprocess.run(trial, cwd=ROOT, env=environment, capture_output=True, text=True)
            for trial in trials
        ]
        asked = "import sys, numpy; print(sys.version.split()[0], numpy.__version__)"
        versions = subprocess.run([inside, "-c", asked], capture_output=True, text=True).stdout.split()
        counts = re.findall(r"^\d+ (?:passed|failed).*$", ran[0].stdout, re.MULTILINE)
        good = not any(one.returncode for one in ran)
        print(
            f"{name}: Python {versions[0]}, NumPy {versions[1]}: {counts[-1] if counts else 'no tests ran'}; "
            f"commands {'failed' if ran[1].returncode else 'good'} ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
        for one in ran:
            if one.returncode:
                print((one.stdout + one.stderr)[-3000:], flush=True)
        return good


def _same(one: str, other: str) -> bool:
    return re.split("[=<>]", one)[0] == re.split("[=<>]", other)[0]


def main() -> int:
    """Try them all; the status tells whether all were good."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", action="append", default=[], metavar="VERSION=PATH")
    parser.add_argument("--only", help="environments whose name holds this")
    parser.add_argument("--whole", action="store_true", help="run all tests")
    arguments = parser.parse_args()
    given = dict(entry.split("=", 1) for entry in arguments.python)
    good = True
    print(time.strftime("%Y-%m-%d"))
    for name, version, packages in ENVIRONMENTS:
        if arguments.only and arguments.only not in name:
            continue
        python = interpreter(version, given)
        if python is None:
            print(f"{name}: there is no Python {version} here", flush=True)
            good = False
        else:
            good = attempt(name, python, packages, arguments.whole) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
