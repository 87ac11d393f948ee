"""tinynet export: write a model in a form that other programs run.

--to c writes a C99 header, or with --pair a header and a .c file: no memory is allocated, nothing but expf is
needed, pictures of any size go in.  docs/c-export.md shows how it is used.

--to onnx writes a graph for any ONNX runtime: from a picture of the model's size to class probabilities,
preprocessing and temperature inside.  docs/onnx.md shows how it is used.
"""

from __future__ import annotations

import argparse
import sys

from tinynet.cli.options import add_model
from tinynet.texts import NOTICE, printable

SUMMARY = "write a model in a form that other programs run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)
    parser.add_argument("--to", required=True, choices=["c", "onnx"], help="the form")
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="the file to write: it ends in .h for C, in .onnx for ONNX",
    )
    parser.add_argument(
        "--pair", action="store_true", help="C: write FILE.c beside the header, to be compiled by itself"
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="C: what its functions begin with (NAME_predict, ...); by default the file's name",
    )
    parser.add_argument(
        "--input",
        choices=("uint8", "float32"),
        help="ONNX: what the graph takes: uint8 pictures of the model's size (n, height, width, 3) with "
        "the preprocessing inside, the default where the model has one, or float32 already scaled",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    lines = {"c": to_c, "onnx": to_onnx}[arguments.to](arguments)
    print(*map(printable, lines), sep="\n")
    print(NOTICE, file=sys.stdout)
    return 0


def to_c(arguments: argparse.Namespace) -> list[str]:
    """Write a C program; what it costs, line by line."""
    import tinynet
    from tinynet.deploy import c_export

    name = c_export.default_name(arguments.out) if arguments.name is None else arguments.name
    exported = c_export.export(tinynet.load(arguments.model), name)
    files = c_export.write(exported, arguments.out, pair=arguments.pair)
    return [
        f"written              {' and '.join(map(str, files))}",
        f"functions            {name}_predict and others, {exported.numbers}",
        f"flash                {exported.constants:,} bytes of weights, and the code",
        f"RAM                  {exported.arena:,} bytes of static memory, and a little stack",
        f"multiply-accumulates {exported.multiply_accumulates:,} a picture",
    ]


def to_onnx(arguments: argparse.Namespace) -> list[str]:
    """Write an ONNX graph; what it takes and gives, line by line."""
    import tinynet
    from tinynet.deploy import onnx_export
    from tinynet.errors import ArgumentError
    from tinynet.files import write_atomically

    if not arguments.out.lower().endswith(".onnx"):
        raise ArgumentError(f"{arguments.out}: the ONNX file's name must end in .onnx")
    model = tinynet.load(arguments.model)
    source, kind = onnx_export.input_of(model, arguments.input)
    made = onnx_export.to_onnx(model, input_type=kind)
    write_atomically(arguments.out, [made])
    sides = [", ".join(map(str, shape)) for shape in (model.input_shape or (), model.output_shape)]
    return [
        f"written  {arguments.out}, {len(made):,} bytes, opset {onnx_export.OPSET}",
        f"input    {source}, {kind} (n, {sides[0]}){'' if kind == 'uint8' else ', already scaled'}",
        f"output   {onnx_export.output_of(model)}, float32 (n, {sides[1]})",
    ]
