"""tinynet gradcheck: compare every function's gradient with difference quotients, on each kernel set.

Runs the cases of tinynet/gradient_cases.py in float64.  One line a case: its name, the kernels that
ran, the largest difference, and ok or FAILED.  --self-test spoils a gradient and wants to see it fail.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tinynet.cli.output import note

if TYPE_CHECKING:
    from tinynet.gradcheck import GradcheckReport

SUMMARY = "compare every function's gradient with difference quotients"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--kernels", choices=("numpy", "numba", "both"), default="both", help="default: both, where there are"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs, cotangents and directions")
    parser.add_argument("--verbose", action="store_true", help="print every check's whole report")
    parser.add_argument(
        "--self-test", action="store_true", help="check instead that a deliberately wrong gradient fails"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    sets = _kernel_sets(arguments.kernels)
    if arguments.self_test:
        return _self_test(sets, arguments.seed, arguments.verbose)
    from tinynet import kernels
    from tinynet.gradient_cases import CASES

    width = max(len(case.name) for case in CASES)
    failed = 0
    for name in sets:
        with kernels.using(name):
            for case in CASES:
                report = case.run(arguments.seed)
                failed += not report.passed
                _print_case(case.name.ljust(width), report, arguments.verbose)
    count = len(CASES) * len(sets)
    print(f"{count - failed} of {count} gradients agree with difference quotients")
    return 1 if failed else 0


def _kernel_sets(wanted: str) -> list[str]:
    """The kernel sets to check; "both" leaves out Numba's, after a note, where it cannot be used."""
    from tinynet import kernels

    if wanted != "both":
        return [wanted]
    problem = kernels.numba_problem()
    if problem is not None:
        note("gradcheck", f"the Numba kernels are not checked, they cannot be used here ({problem})")
        return ["numpy"]
    return list(kernels.NAMES)


def _print_case(name: str, report: GradcheckReport, verbose: bool) -> None:
    error = max((check.max_abs_error for check in report.inputs), default=0.0)
    verdict = "ok" if report.passed else "FAILED"
    print(f"{name}  {report.kernels:<5}  largest difference {error:.1e}  {verdict}")
    if verbose:
        print(report)
    elif not report.passed:
        print(*(f"  {sentence}" for sentence in report.sentences()), sep="\n")
    sys.stdout.flush()


def _self_test(sets: list[str], seed: int, verbose: bool) -> int:
    """On each kernel set a right convolution must pass, and one whose dw is 1 % too large must fail."""
    from tinynet import kernels

    missed = 0
    for name in sets:
        with kernels.using(name):
            for spoilt in (False, True):
                report = _convolution_report(spoilt, seed)
                as_it_should = report.passed != spoilt
                missed += not as_it_should
                kind = "wrong gradient" if spoilt else "right gradient"
                found = "passed" if report.passed else "caught"
                print(f"{kind}  {report.kernels:<5}  {found}  {'ok' if as_it_should else 'FAILED'}")
                if verbose or not as_it_should:
                    print(report)
    return 1 if missed else 0


def _convolution_report(spoilt: bool, seed: int) -> GradcheckReport:
    import numpy as np

    from tinynet.functions.convolution import Conv2D
    from tinynet.gradcheck import gradcheck
    from tinynet.kernels.window import Window
    from tinynet.tensor import Tensor

    class Spoilt(Conv2D):
        def backward(self, dy):
            dx, dw, db = super().backward(dy)
            return dx, 1.01 * np.asarray(dw), db

    rng = np.random.default_rng(seed)
    images, weight, bias = (
        Tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((3, 5, 6, 2), (3, 3, 2, 4), (4,))
    )
    kind = Spoilt if spoilt else Conv2D
    window = Window((3, 3), padding=((1, 1), (1, 1)))
    return gradcheck(
        lambda *inputs: kind(window, 1)(*inputs), (images, weight, bias), raise_exception=False, seed=seed
    )
