"""Nearest-neighbour upsampling by whole factors: every pixel becomes a rectangle of itself."""

from __future__ import annotations

import numpy as np


def upsample(x: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """(B, C, H, W, L) -> (B, C, H * fh, W * fw, L); y[i, j] = x[i // fh, j // fw]."""
    return np.repeat(np.repeat(x, factor[0], axis=2), factor[1], axis=3)


def upsample_backward(dy: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """(B, C, H * fh, W * fw, L) -> (B, C, H, W, L): the sum over each rectangle."""
    blocks, channels, height, width, lanes = dy.shape
    fh, fw = factor
    split = dy.reshape(blocks, channels, height // fh, fh, width // fw, fw, lanes)
    return split.sum(axis=(3, 5))
