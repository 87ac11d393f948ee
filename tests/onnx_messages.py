"""Small ONNX messages for the tests, built with the onnx package's own helper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tinynet.onnx_import.graph import OnnxModel
from tinynet.onnx_import.reader import read_bytes

onnx = pytest.importorskip("onnx")  # who imports this module is skipped without it
helper, numpy_helper = pytest.importorskip("onnx.helper"), pytest.importorskip("onnx.numpy_helper")
TensorProto = onnx.TensorProto

Sides = Sequence[int | str | None]


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), list(outputs), name=f"a {operator}", **attributes)


def message(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sides] | None = None,
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    dtype: int = TensorProto.FLOAT,
    **more: Any,
) -> Any:
    """A ModelProto: from x, float32 (n, 4), to y, unless told otherwise."""
    inputs = {"x": ("n", 4)} if inputs is None else inputs
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, dtype, list(sides)) for name, sides in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)
    made.ir_version = ir_version
    return made


def read(made: Any) -> OnnxModel:
    return OnnxModel(read_bytes(made.SerializeToString(), "graph.onnx"))
