"""Every function against PyTorch, forward and gradient, in float32 and float64, on thousands of drawn cases.

    python -m robustness.against_torch [--examples 200]

Runs tests/test_against_torch.py and tests/test_against_torch_general.py, whose configurations Hypothesis
draws, with so many examples a test, on every kernel set; sees that no function of tinynet.functional is
missing from them; and prints how many configurations agreed.  PyTorch is installed as bench/README.md says.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "tests" / "test_against_torch.py", ROOT / "tests" / "test_against_torch_general.py"]


class Counter:
    """A pytest plugin: how many drawn configurations there were, by what Hypothesis says of each test."""

    def __init__(self) -> None:
        self.configurations, self.tests, self.failed = 0, 0, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that has run."""
        if report.when == "call":
            self.tests += 1
            self.failed += report.failed
        said = str(getattr(report, "_hypothesis_stats", ""))  # what --hypothesis-show-statistics prints
        self.configurations += sum(map(int, re.findall(r"(\d+) passing", said)))


def uncompared() -> list[str]:
    """Functions of tinynet.functional that neither file names."""
    from tinynet import functional

    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    names = [name for name, value in vars(functional).items() if callable(value)]
    return [name for name in names if not re.search(rf'F\.{name}\b|"{name}"', text)]


def main() -> int:
    """Run them; the status tells whether all agreed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=200, help="a test")
    arguments = parser.parse_args()
    import numpy
    import torch
    from hypothesis import settings

    missing = uncompared()
    if missing:
        print("not compared:", ", ".join(missing))
    counter, began = Counter(), time.monotonic()
    settings.register_profile(
        "many", settings.get_profile("default"), max_examples=arguments.examples, deadline=None
    )
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=many", "--hypothesis-show-statistics"]
    status = pytest.main([*options, "--no-header", "-r", "f", *map(str, FILES)], plugins=[counter])
    print(
        f"{time.strftime('%Y-%m-%d')}: {counter.tests} tests, {counter.failed} failed; "
        f"{counter.configurations} drawn configurations agreed, forward and gradient, float32 and float64, "
        f"with PyTorch {torch.__version__} (NumPy {numpy.__version__}), {time.monotonic() - began:.0f} s"
    )
    return int(status) or bool(missing)


if __name__ == "__main__":
    sys.exit(main())
