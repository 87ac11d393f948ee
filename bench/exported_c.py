"""The C that `tinynet export --to c` writes, compiled for this processor and called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from bench.common import OUTPUTS, Absent, Contestant, require_close
from bench.works import Work

NAME = "exported C"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")


def exported_c(work: Work, compiler: str = "gcc") -> list[Contestant | Absent]:
    """The work's model as a shared library, fed one uint8 image from where it lies in memory."""
    try:
        from tinynet.deploy.c_export import export
    except ImportError as problem:
        return [Absent(NAME, str(problem))]
    if shutil.which(compiler) is None:
        return [Absent(NAME, f"there is no {compiler}")]
    library = _library(export(work.model(), "cells").header(), compiler)
    return contestants(work, library, f"{NAME}, {compiler} {' '.join(FLAGS[:2])}")


def contestants(work: Work, library: ctypes.CDLL, title: str = NAME) -> list[Contestant | Absent]:
    """A shared library that has the exported functions, named cells_predict and so on."""
    image, wanted = work.data[0][0], work.model().predict(work.data[0])[0]
    outputs = np.zeros(len(wanted), np.float32)
    height, width = image.shape[:2]
    # Pointers are made once: the image lies where it is, as it does in a C program.
    places = ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(outputs.ctypes.data)

    def run() -> np.ndarray:
        library.cells_predict(places[0], height, width, places[1])
        return outputs

    apart = require_close(title, "output", run(), wanted, OUTPUTS)
    return [Contestant(title, run, 1, f"outputs within {apart:.1g}")]


def _library(header: str, compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "cells.h").write_text(header)
        source, library = Path(folder, "cells.c"), Path(folder, "cells.so")
        source.write_text('#define CELLS_IMPLEMENTATION\n#include "cells.h"\n')
        subprocess.run([compiler, *FLAGS, source, "-o", library, "-lm"], check=True)
        return ctypes.CDLL(str(library))
