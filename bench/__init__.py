"""tinynet beside its peers, on one machine in one run; README.md says how to read the figures."""

from __future__ import annotations

import os


def set_threads(threads: int) -> None:
    """The same number of threads for everybody; to be called before NumPy or a peer is imported."""
    for name in ("TINYNET", "OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
