"""Model files and checkpoints: named arrays and a description, in a file that cannot run code.

docs/model-file.md is the format, byte by byte.  `container` is the safetensors layout,
`model_file` what tinynet puts in it, `selftest` the input that a model file must
reproduce its answer on, `atomic` how a file is replaced without ever losing the old one,
`packaged` how tinynet finds its own, unpacked or in a zip,
`strict_json` the JSON that is accepted and written.
"""

from __future__ import annotations

from tinynet.files.atomic import open_to_read, remove_temporaries, write_atomically
from tinynet.files.container import read_tensors, write_tensors
from tinynet.files.model_file import (
    file_bytes,
    load_checkpoint,
    load_model_file,
    save_checkpoint,
    save_model_file,
)
from tinynet.files.selftest import check_selftest, selftest_input

__all__ = [
    "check_selftest",
    "file_bytes",
    "load_checkpoint",
    "load_model_file",
    "open_to_read",
    "read_tensors",
    "remove_temporaries",
    "save_checkpoint",
    "save_model_file",
    "selftest_input",
    "write_atomically",
    "write_tensors",
]
