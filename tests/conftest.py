"""Every test that asks for `kernel_set` runs on both kernel sets; Hypothesis profiles."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tinynet import kernels

settings.register_profile(
    "default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "intense", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

kernels.active()  # chosen once a process: before a test changes the environment
AVAILABLE = ["numpy"] + ([] if kernels.numba_problem() else ["numba"])


@pytest.fixture(params=AVAILABLE, scope="module")
def kernel_set(request):
    """The kernel set's module, active for the duration of the module's tests."""
    with kernels.using(request.param) as active:
        yield active
