"""Every test that asks for `kernel_set` runs on both kernel sets; Hypothesis profiles."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from tinynet import kernels

# Slow is a busy or emulated machine; too large is what older Hypotheses (Debian 12's) think of arrays.
SUPPRESSED = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=SUPPRESSED)
settings.register_profile("intense", deadline=None, max_examples=500, suppress_health_check=SUPPRESSED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

kernels.active()  # chosen once a process: before a test changes the environment
AVAILABLE = ["numpy"] + ([] if kernels.numba_problem() else ["numba"])


@pytest.fixture(params=AVAILABLE, scope="module")
def kernel_set(request):
    """The kernel set's module, active for the duration of the module's tests."""
    with kernels.using(request.param) as active:
        yield active


def hide_matplotlib(patch: pytest.MonkeyPatch) -> None:
    """As if it were not installed: also what is loaded already would be found by its own name."""
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        patch.setitem(sys.modules, name, None)
