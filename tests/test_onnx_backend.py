"""The ONNX project's own tests: every one that applies passes, or is refused for a reason written down."""

from __future__ import annotations

from collections import Counter

import onnx_backend as backend
import pytest
from onnx_messages import onnx

from tinynet import kernels
from tinynet.onnx_import.registry import MAXIMUM_OPSET, OPERATORS


@pytest.fixture(scope="module")
def outcomes():
    """All of them, on the NumPy kernels."""
    with kernels.using("numpy"):
        return [backend.outcome(case) for case in backend.cases()]


def test_every_test_that_applies_passes_or_is_refused_for_a_known_reason(outcomes):
    applying = [found for found in outcomes if found.case.applies]
    failed = [f"{found.case.name}: {found.message}" for found in applying if found.result == "failed"]
    assert not failed
    unexpected = [
        f"{found.case.name}: {found.message}"
        for found in applying
        if found.result == "refused" and backend.reason(found) is None and not newer(found)
    ]
    assert not unexpected
    assert sum(found.result == "passed" for found in applying) >= 500


def test_a_test_with_another_operator_is_refused_by_a_sentence_that_names_one(outcomes):
    for found in outcomes:
        if not found.case.applies:
            assert found.result == "refused", found.case.name
            other = [name for name in found.case.operators if name not in OPERATORS]
            named = any(f"({name}): " in found.message for name in other)
            assert named or "domain" in found.message or newer(found), found.message


def test_every_supported_operator_has_a_test_that_passes(outcomes):
    passed = Counter(name for found in outcomes if found.result == "passed" for name in found.case.operators)
    without = sorted(set(OPERATORS) - set(passed))
    assert without == []


def test_the_page_says_what_the_tests_gave(outcomes):
    first = backend.written().partition(",")[0]
    if first != f"onnx {onnx.__version__}":
        pytest.skip(f"docs/onnx.md was written with {first}, here is onnx {onnx.__version__}")
    assert backend.report(outcomes) == backend.written()


def test_every_version_of_an_operator_is_one_it_was_written_against():
    """A change of meaning in a newer opset must not go unnoticed."""
    schemas = onnx.defs.get_all_schemas_with_history()
    for name, operator in OPERATORS.items():
        versions = sorted(
            schema.since_version
            for schema in schemas
            if schema.name == name
            and schema.domain == ""
            and operator.versions[0] <= schema.since_version <= MAXIMUM_OPSET
        )
        known = [version for version in operator.versions if version <= onnx.defs.onnx_opset_version()]
        assert versions == known, name


@pytest.mark.skipif(
    onnx.defs.onnx_opset_version() < MAXIMUM_OPSET, reason="the installed onnx package has older opsets only"
)
def test_every_attribute_of_a_supported_operator_is_one_that_onnx_has():
    schemas = onnx.defs.get_all_schemas_with_history()
    for name, operator in OPERATORS.items():
        known = {key for schema in schemas if schema.name == name for key in schema.attributes}
        assert set(operator.attributes) <= known | {"axis", "broadcast"}, name


KERNELS = ("Conv", "MaxPool", "AveragePool", "Relu", "Softmax", "LogSoftmax", "GlobalAveragePool")


def test_what_uses_kernels_passes_on_both_kernel_sets(kernel_set):
    ran = 0
    for case in backend.cases():
        if case.applies and set(case.operators) <= set(KERNELS):
            found = backend.outcome(case)
            assert found.result != "failed", f"{case.name}: {found.message}"
            ran += found.result == "passed"
    assert ran > 40


def newer(found):
    """Whether the installed onnx package has opsets that we do not read yet."""
    return any(entry.version > MAXIMUM_OPSET for entry in found.case.model.opset_import)
