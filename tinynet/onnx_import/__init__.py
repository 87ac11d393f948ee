"""Read ONNX files: `reader` checks the protobuf message, `graph` runs it, `layers` makes a Sequential of it.

Importing this imports nothing else; from_onnx imports the rest, and the onnx package, when it is called.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinynet.onnx_import.graph import OnnxModel


def from_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """The ONNX graph in this file, ready to run: .run(inputs), .predict(x), .to_sequential().

    Nothing in the file can run, and no claim of it takes memory before it is checked.
    Raises FileAccessError where the file cannot be read, ModelFileError where it is damaged, hostile,
    newer than opset 28 or has an operator, attribute or type that tinynet does not support (naming
    it), MissingDependencyError without the onnx package.
    """
    from tinynet.onnx_import.graph import OnnxModel
    from tinynet.onnx_import.reader import read_file

    return OnnxModel(read_file(path))
