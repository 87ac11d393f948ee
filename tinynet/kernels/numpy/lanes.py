"""Packing images into lanes, and out again: permutations of the same numbers."""

from __future__ import annotations

import numpy as np


def lanes_for(count: int) -> int:
    """How many lanes a batch of `count` images is packed into: no more than it needs, at most 16."""
    return max(1, min(count, 16))


def pack(images: np.ndarray, lanes: int) -> np.ndarray:
    """(n, h, w, c) -> (blocks, c, h, w, lanes); lanes after the last image hold zeros."""
    count, height, width, channels = images.shape
    blocks = -(-count // lanes)
    if blocks * lanes != count:
        padding = np.zeros((blocks * lanes - count, height, width, channels), images.dtype)
        images = np.concatenate([images, padding])
    # (B * L, H, W, C) -> (B, L, H, W, C) -> (B, C, H, W, L)
    split = images.reshape(blocks, lanes, height, width, channels)
    return np.ascontiguousarray(split.transpose(0, 4, 2, 3, 1))


def unpack(x: np.ndarray, count: int) -> np.ndarray:
    """(blocks, c, h, w, lanes) -> (count, h, w, c)."""
    blocks, channels, height, width, lanes = x.shape
    # (B, C, H, W, L) -> (B, L, H, W, C) -> (B * L, H, W, C)
    images = x.transpose(0, 4, 2, 3, 1).reshape(blocks * lanes, height, width, channels)
    return np.ascontiguousarray(images[:count])


def pack_bytes(images: np.ndarray, scale: np.ndarray, shift: np.ndarray, lanes: int) -> np.ndarray:
    """uint8 (n, h, w, c) -> float32 lanes of images * scale + shift, with one scale and shift a channel.

    Lanes after the last image hold zeros.
    """
    values = images.astype(np.float32) * scale.astype(np.float32) + shift.astype(np.float32)
    return pack(values, lanes)
