"""Packing images into 16 lanes, and out again."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty, flat
from tinynet.kernels.numba.parallel import over_blocks
from tinynet.kernels.numba.simd import LANES, multiply_add, offset, splat, store, transpose_bytes, widen_bytes
from tinynet.kernels.recording import given

ELEMENT = 8.0  # what an element of such a pass costs, in multiply-adds


@kernel
def _pack(images, count, pixels, channels, first, last, packed):
    for block in range(first, last):
        real = min(16, count - block * 16)
        for p in range(pixels):
            for c in range(channels):
                target = ((block * channels + c) * pixels + p) * 16
                source = (block * 16 * pixels + p) * channels + c
                for lane in range(real):
                    packed[target + lane] = images[source + lane * pixels * channels]
                for lane in range(real, 16):
                    packed[target + lane] = 0


@kernel
def _pack_bytes(images, scale, shift, count, pixels, channels, first, last, bytes_, packed):
    """packed = images * scale + shift, of 16 pixels of 16 images at a time.

    bytes_: 256 bytes of scratch a channel, for those pixels with the images side by side.
    """
    size = pixels * channels  # bytes of an image
    for block in range(first, last):
        real = min(16, count - block * 16)
        start = block * 16 * size
        whole = pixels // 16 * 16 if real == 16 else 0
        for p in range(0, whole, 16):
            for tile in range(channels):
                part = offset(bytes_, tile * 256)
                transpose_bytes(images, start + p * channels + tile * 16, size, part)
            for c in range(channels):
                target = ((block * channels + c) * pixels + p) * 16
                factor, summand = splat(scale[c]), splat(shift[c])
                for k in range(16):
                    value = widen_bytes(bytes_, (k * channels + c) * 16)
                    store(packed, target + k * 16, multiply_add(value, factor, summand))
        for p in range(whole, pixels):  # what is left of the images, or of a block that is not full
            for c in range(channels):
                target = ((block * channels + c) * pixels + p) * 16
                for lane in range(real):
                    value_of_one = np.float32(images[start + lane * size + p * channels + c])
                    packed[target + lane] = value_of_one * scale[c] + shift[c]
                for lane in range(real, 16):
                    packed[target + lane] = 0


@kernel
def _unpack(packed, count, pixels, channels, first, last, images):
    for block in range(first, last):
        real = min(16, count - block * 16)
        for p in range(pixels):
            for c in range(channels):
                source = ((block * channels + c) * pixels + p) * 16
                target = (block * 16 * pixels + p) * channels + c
                for lane in range(real):
                    images[target + lane * pixels * channels] = packed[source + lane]


def lanes_for(count: int) -> int:
    """Always 16: a vector is as wide for one image as for sixteen."""
    return LANES


def pack(images: np.ndarray, lanes: int) -> np.ndarray:
    """(n, h, w, c) -> (blocks, c, h, w, 16); lanes after the last image hold zeros."""
    count, height, width, channels = images.shape
    blocks, pixels = -(-count // LANES), height * width
    packed = empty((blocks, channels, height, width, LANES), images.dtype)
    source, target = flat(images), packed.reshape(-1)
    over_blocks(
        lambda first, last: _pack(source, count, pixels, channels, first, last, target),
        blocks,
        packed.size * ELEMENT,
    )
    return packed


def unpack(x: np.ndarray, count: int) -> np.ndarray:
    """(blocks, c, h, w, 16) -> (count, h, w, c)."""
    blocks, channels, height, width, _ = x.shape
    images = empty((count, height, width, channels), x.dtype)
    source, target = flat(x), images.reshape(-1)
    over_blocks(
        lambda first, last: _unpack(source, count, height * width, channels, first, last, target),
        blocks,
        x.size * ELEMENT,
    )
    return images


def pack_bytes(images: np.ndarray, scale: np.ndarray, shift: np.ndarray, lanes: int) -> np.ndarray:
    """uint8 (n, h, w, c) -> float32 lanes of images * scale + shift, with one scale and shift a channel."""
    count, height, width, channels = images.shape
    blocks = -(-count // LANES)
    packed = empty((blocks, channels, height, width, LANES), np.float32)
    source, target = given(np.ascontiguousarray(images)), packed.reshape(-1)
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)

    def task(first: int, last: int) -> None:
        bytes_ = np.empty(256 * channels, np.uint8)
        _pack_bytes(
            source.array.ravel(), scale, shift, count, height * width, channels, first, last, bytes_, target
        )

    over_blocks(task, blocks, packed.size * ELEMENT)
    return packed
