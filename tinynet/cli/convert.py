"""tinynet convert: make a tinynet model file of an ONNX file.

The graph must be made of what tinynet has layers for: convolutions, dense layers, pools, batch-norm,
enlarging by whole factors, ReLU, sigmoid, tanh, softmax, sums and concatenations of branches.  The model
made of it is checked against the graph before it is written.  docs/onnx.md tells more.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tinynet.cli.output import note
from tinynet.texts import NOTICE, printable

if TYPE_CHECKING:
    from tinynet.model import Sequential

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
    from tinynet.errors import ArgumentError

    if not arguments.out.lower().endswith(".safetensors"):
        raise ArgumentError(f"{arguments.out}: the model file's name must end in .safetensors")
    read = tinynet.from_onnx(arguments.onnx)
    model = read.to_sequential(class_names=arguments.classes)
    from_floats = read.inputs[0].dtype != "uint8"
    given = arguments.mean is not None or arguments.deviation is not None
    if given and not from_floats:
        raise ArgumentError(
            f"{arguments.onnx}: it takes bytes and scales them itself; no --mean or --deviation is wanted"
        )
    if given:
        _prepare(model, arguments)
    model.save(arguments.out)
    count = sum(array.size for array in model.state().values())
    print(printable(f"written  {arguments.out}, {len(list(model.chain.leaves()))} layers, {count:,} weights"))
    print(f"input    (n, {', '.join(map(str, model.input_shape or ()))})")
    print(f"output   (n, {', '.join(map(str, model.output_shape))})")
    if from_floats and not given and read.producer != "tinynet" and model.preprocessing is not None:
        note(
            "convert",
            "the graph takes floats and does not say how pictures become those; "
            "pixels will be divided by 255 (--mean and --deviation change that)",
        )
    print(NOTICE)
    return 0


def _prepare(model: Sequential, arguments: argparse.Namespace) -> None:
    """Take --mean and --deviation into the model's preprocessing."""
    from tinynet.errors import ArgumentError
    from tinynet.images import Preprocessing

    shape = model.input_shape or ()
    if len(shape) != 3 or shape[2] != 3:
        raise ArgumentError(
            f"{arguments.onnx}: --mean and --deviation are for RGB pictures, it takes {shape}"
        )
    mean, deviation = arguments.mean or (0, 0, 0), arguments.deviation or (1, 1, 1)
    model.preprocessing = Preprocessing(shape[0], shape[1], mean=mean, deviation=deviation)


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
