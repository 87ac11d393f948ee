"""Zeros around an image, so that no tap of a window has to ask whether it is inside."""

from __future__ import annotations

from tinynet.kernels.numba.compile import inlined
from tinynet.kernels.numba.simd import load, store, zero


@inlined
def fill(x, first, last):
    """x[first:last] = 0; first and last are multiples of 16."""
    nothing = zero(x)
    for at in range(first, last, 16):
        store(x, at, nothing)


@inlined
def copy_inside(x, channels, height, width, padding, scratch):
    """One block (C, H, W, 16) into the middle of a larger one that was filled with zeros before.

    padding: top, left, padded height, width.  The zeros around it serve one block after another.
    """
    top, left, padded_height, padded_width = padding
    for c in range(channels):
        for i in range(height):
            source = (c * height + i) * width * 16
            target = ((c * padded_height + i + top) * padded_width + left) * 16
            for j in range(0, width * 16, 16):
                store(scratch, target + j, load(x, source + j))
