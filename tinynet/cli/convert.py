"""tinynet convert: make a tinynet model file of an ONNX file.

The graph must be made of what tinynet has layers for: convolutions, dense layers, pools, batch-norm,
enlarging by whole factors, ReLU, sigmoid, tanh, softmax, sums and concatenations of branches.  The model
made of it is checked against the graph before it is written.  docs/onnx.md tells more.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tinynet.cli.output import NOTICE, note, printable

if TYPE_CHECKING:
    from tinynet.images import Preprocessing
    from tinynet.onnx_import.graph import OnnxModel

SUMMARY = "make a model file of an ONNX file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("onnx", metavar="FILE.onnx", help="the ONNX file")
    parser.add_argument("--out", metavar="MODEL.safetensors", required=True, help="the file to write")
    parser.add_argument(
        "--classes", metavar="NAME,NAME", type=_names, help="the names of the classes, in the outputs' order"
    )
    parser.add_argument(
        "--mean", metavar="R,G,B", type=_numbers, help="what is subtracted from pixels from 0 to 1"
    )
    parser.add_argument("--deviation", metavar="R,G,B", type=_numbers, help="what pixels are then divided by")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    import tinynet

    read = tinynet.from_onnx(arguments.onnx)
    preprocessing = _preprocessing(read, arguments)
    model = read.to_sequential(preprocessing=preprocessing, class_names=arguments.classes)
    model.save(arguments.out)
    count = sum(array.size for array in model.state().values())
    print(printable(f"written  {arguments.out}, {len(list(model.chain.leaves()))} layers, {count:,} weights"))
    print(f"input    (n, {', '.join(map(str, model.input_shape or ()))})")
    print(f"output   (n, {', '.join(map(str, model.output_shape))})")
    unsaid = read.producer != "tinynet" and read.inputs[0].dtype != "uint8"
    if unsaid and preprocessing is None and model.preprocessing is not None:
        note(
            "convert",
            "the graph takes floats and does not say how pictures become those; "
            "pixels will be divided by 255 (--mean and --deviation change that)",
        )
    print(NOTICE)
    return 0


def _preprocessing(read: OnnxModel, arguments: argparse.Namespace) -> Preprocessing | None:
    """What --mean and --deviation ask for, on pixels from 0 to 1; None where neither is given."""
    from tinynet.errors import ArgumentError
    from tinynet.images import Preprocessing as Made

    if arguments.mean is None and arguments.deviation is None:
        return None
    shape = read.inputs[0].shape if read.inputs else None
    if shape is None or len(shape) != 4 or read.inputs[0].dtype == "uint8":
        raise ArgumentError(
            f"{arguments.onnx}: --mean and --deviation are for graphs that take images of floats"
        )
    sides = shape[1:3] if shape[3] == 3 and shape[1] != 3 else shape[2:]
    height, width = (side if isinstance(side, int) else 0 for side in sides)
    return Made(height, width, mean=arguments.mean or (0, 0, 0), deviation=arguments.deviation or (1, 1, 1))


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"wanted three numbers with commas between them, got {text!r}")
    return values
