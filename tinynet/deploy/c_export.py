"""A model as a C99 program: one header in the style of the stb libraries, or a header and a source file.

The program allocates nothing, needs nothing but `expf`, and works in one static array, the arena.
docs/c-export.md shows how it is used.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tinynet
from tinynet.deploy import c_kernels, c_shell
from tinynet.deploy.c_float import FloatProgram
from tinynet.deploy.graph import lower
from tinynet.errors import ArgumentError
from tinynet.files import write_atomically
from tinynet.network import Network
from tinynet.texts import NOTICE

if TYPE_CHECKING:
    from tinynet.deploy.c_int8 import Int8Program
    from tinynet.deploy.int8.model import Int8Model

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True)
class CExport:
    """A program and what it costs.

    name                   what its functions begin with
    numbers                "float32" or "int8"
    declarations           what a user's source file includes
    definitions            the functions, weights and arena
    constants              bytes of weights, in flash; the code comes on top
    arena                  bytes of RAM, besides the stack
    multiply_accumulates   for one picture
    """

    name: str
    numbers: str
    declarations: str
    definitions: str
    constants: int
    arena: int
    multiply_accumulates: int

    def header(self) -> str:
        """One file: declarations, and with NAME_IMPLEMENTATION defined the rest."""
        wanted, done = (f"{self.name.upper()}_{word}" for word in ("IMPLEMENTATION", "IMPLEMENTED"))
        return (
            f"{self.declarations}\n#if defined({wanted}) && !defined({done})\n#define {done}\n\n"
            f"{self.definitions}\n#endif /* {wanted} */\n"
        )

    def pair(self, header: str) -> tuple[str, str]:
        """The same as a header and a source file that includes the header by the name given."""
        return self.declarations, f'#include "{header}"\n\n{self.definitions}'


def export(model: Network | Int8Model, name: str) -> CExport:
    """The model in C, with functions called NAME_predict and so on.

    Raises ArgumentError for a name that cannot begin a C identifier, and as `lower` does for a model that
    cannot be expressed.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ArgumentError(
            f"{name!r:.60} cannot begin the names of C functions: wanted a letter, then letters, digits "
            "and _, 40 at most"
        )
    if isinstance(model, Network):
        graph = lower(model, target="C")
        total = sum(graph.multiply_accumulates(place) for place in range(len(graph.operations)))
        return _assemble(FloatProgram(graph), name, total)
    from tinynet.deploy.c_int8 import Int8Program

    known = model.program
    total = sum(operation.multiply_accumulates(known.inputs(operation)) for operation in known.operations)
    return _assemble(Int8Program(model), name, total)


def write(exported: CExport, path: str | os.PathLike[str], *, pair: bool = False) -> list[Path]:
    """Write the header, and with `pair` NAME.c beside it; the files written.

    Raises ArgumentError unless the path ends in .h, FileAccessError where it cannot be written.
    """
    target = Path(path)
    if target.suffix != ".h":
        raise ArgumentError(f"{target}: the C header's name must end in .h")
    if not pair:
        write_atomically(target, [exported.header().encode()])
        return [target]
    header, source = exported.pair(target.name)
    beside = target.with_suffix(".c")
    before = beside.read_bytes() if beside.is_file() else None
    write_atomically(beside, [source.encode()])
    try:
        write_atomically(target, [header.encode()])
    except BaseException:  # the two belong together
        if before is None:
            beside.unlink()
        else:
            write_atomically(beside, [before])
        raise
    return [target, beside]


def default_name(path: str | os.PathLike[str]) -> str:
    """What functions begin with where nothing was chosen: the file's name, made a C identifier."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", Path(path).stem)
    return name[:40] if NAME.fullmatch(name[:40]) else f"model_{name}"[:40]


def _assemble(program: FloatProgram | Int8Program, name: str, total: int) -> CExport:
    graph, shell = program.graph, program.shell()
    begin = program.begin
    for kernel in c_shell.kernels(graph):
        program.use(kernel)
    guard = f"{name.upper()}_H"
    declarations = [
        _title(program, total),
        f"#ifndef {guard}\n#define {guard}\n",
        c_shell.declarations(graph, shell, program.arena),
        f"\n#endif /* {guard} */\n",
    ]
    definitions = [
        "#include <math.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <string.h>\n",
        c_kernels.MACROS,
        STORAGE,
        program.memory,
        *program.functions,
        *program.data,
        *program.steps,
        c_shell.implementation(graph, shell, len(program.steps), begin),
    ]
    return CExport(
        name,
        program.numbers,
        _named("\n".join(declarations), name),
        _named("\n".join(definitions), name),
        program.constants,
        program.arena,
        total,
    )


STORAGE = """\
/* All memory there is.  Two threads must not use it at once; -DP_STORAGE="static _Thread_local"
   (C11) gives each its own. */
#ifndef P_STORAGE
#define P_STORAGE static
#endif"""


def _title(program: FloatProgram | Int8Program, total: int) -> str:
    model = re.sub(r"[^\w .-]", "?", program.graph.name, flags=re.ASCII)
    return f"""\
/* {model}, {program.numbers}, written by tinynet {tinynet.__version__}.  {NOTICE}

   constants {program.constants} bytes, arena {program.arena} bytes, {total} multiply-accumulates a picture.

   Include it where it is used.  In one C file, #define P_IMPLEMENTATION before that; not where a .c file
   came with it: compile that instead. */
"""


def _named(text: str, name: str) -> str:
    """p_ and P_ replaced by the program's own prefix."""
    text = re.sub(r"\bp_(?=\w)", f"{name}_", text)
    return re.sub(r"\bP_(?=\w)", f"{name.upper()}_", text).replace("-DP_", f"-D{name.upper()}_")
