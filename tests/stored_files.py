"""What the tests of tinynet/files/ share: tensors to store, drawn and fixed, and what refusals look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinynet import files
from tinynet.errors import ModelFileError

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4", ">i8"]


property_test = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)


finite_arrays = arrays.filter(lambda array: bool(np.isfinite(array).all()))


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda n: n != "__metadata__")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


descriptions = st.dictionaries(
    names.filter(lambda n: n not in ("format", "version")), json_values, max_size=4
)


TENSORS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "conv1.bias": np.array([0.5, -1.25], np.float16),
    "steps": np.array(12345, np.int64),
    "nothing": np.zeros((0, 3), np.float64),
    "mask": np.array([True, False, True]),
}


METADATA = {"class_names": ["uninfected", "infected"], "threshold": 0.4375, "provenance": {"seed": 7}}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert sorted(first) == sorted(second)
    for name in first:
        wanted = first[name].astype(first[name].dtype.newbyteorder("="))
        assert wanted.dtype == second[name].dtype, name
        assert wanted.shape == second[name].shape, name
        assert wanted.tobytes() == second[name].tobytes(), name  # bytes: NaN and -0.0 count too


def assert_refused(path: Path, pattern: str, read=files.read_tensors) -> None:
    with pytest.raises(ModelFileError, match=pattern) as refusal:
        read(path)
    message = str(refusal.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message


def save_model(folder: Path) -> Path:
    """A model file of TENSORS and METADATA in the folder."""
    path = folder / "cells.safetensors"
    files.save_model_file(path, TENSORS, METADATA)
    return path
