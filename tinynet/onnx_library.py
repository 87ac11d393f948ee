"""The onnx package, which reads and writes ONNX's protobuf messages; an optional extra."""

from __future__ import annotations

from typing import Any

from tinynet.errors import MissingDependencyError


def onnx_library() -> Any:
    """The imported package.  Raises MissingDependencyError, with the command that installs it."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as problem:
        raise MissingDependencyError(
            f'ONNX files need the onnx package: pip install "tinynet-cnn[onnx]" ({problem})'
        ) from problem
    return onnx
