"""Dropout whose mask is a function of each image's key, so that no mask is stored and no order matters."""

from __future__ import annotations

import numpy as np


def dropout(x: np.ndarray, keys: np.ndarray, rate: float) -> np.ndarray:
    """x / (1 - rate) where an element is kept, else 0; backward is the same call on dy.

    x: (B, C, H, W, L); keys: uint32 (B, L), one an image.  Element e of the image with key k
    (e counts channels, rows, columns) is kept where hash(k + e * 0x9E3779B9) >= rate * 2**32.
    """
    elements = np.arange(x[0, ..., 0].size, dtype=np.uint32) * np.uint32(0x9E3779B9)
    bits = _hash(keys[:, None, :] + elements[:, None])  # (B, C * H * W, L)
    kept = (bits >= threshold(rate)).reshape(x.shape)
    return np.where(kept, x * x.dtype.type(1.0 / (1.0 - rate)), x.dtype.type(0))


def threshold(rate: float) -> np.uint32:
    """The smallest hash that is kept."""
    return np.uint32(min(int(rate * 2**32), 2**32 - 1))


def _hash(values: np.ndarray) -> np.ndarray:
    """A 32-bit integer mixing function ("lowbias32": C. Wellons, Prospecting for Hash Functions, 2018)."""
    values = values ^ (values >> np.uint32(16))
    values = values * np.uint32(0x7FEB352D)
    values = values ^ (values >> np.uint32(15))
    values = values * np.uint32(0x846CA68B)
    return values ^ (values >> np.uint32(16))
