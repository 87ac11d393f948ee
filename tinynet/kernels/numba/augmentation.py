"""Affine warping and staining of uint8 images, with the integers of numpy/augmentation.py.

An image is first copied into the middle of a black frame, four channels of a pixel in one word; then
no pixel is a special case, wherever it comes from.  Sixteen target pixels of a row are made at once.
"""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.integers import (
    clamp,
    load_word,
    ramp,
    squares,
    store_integers,
    store_word,
)
from tinynet.kernels.numba.memory import empty
from tinynet.kernels.numba.parallel import over_ranges
from tinynet.kernels.numba.simd import LANES, pointer
from tinynet.kernels.numpy.augmentation import COVER

PIXEL = 60.0  # what a pixel costs, in multiply-adds
AROUND = 2  # black pixels on each side: for both corners of a position outside


@kernel
def _warp(images, transforms, stains, whole_cell, first, last, height, width, channels, frame, row, warped):
    """frame: zeros, uint32 (height + 4, width + 4); row: scratch, uint32, the width in whole vectors.

    whole_cell: COVER, or 0 where there are no stains.
    """
    images, warped, frame, row = pointer(images), pointer(warped), pointer(frame), pointer(row)
    transforms, stains = pointer(transforms), pointer(stains)
    line, stride = width * channels, width + 2 * AROUND  # of the image and of the frame
    for n in range(first, last):
        xx, xy, x0 = transforms[6 * n], transforms[6 * n + 1], transforms[6 * n + 2]
        yx, yy, y0 = transforms[6 * n + 3], transforms[6 * n + 4], transforms[6 * n + 5]
        for first_channel in range(0, channels, 4):
            used = min(4, channels - first_channel)  # channels in a word
            kept = (1 << 8 * used) - 1
            start, end = n * height * line + first_channel, (n + 1) * height * line
            for y in range(height):
                source, target = start + y * line, (y + AROUND) * stride + AROUND
                whole = min(width, max(0, (end - source - 4) // channels + 1))  # have four bytes before `end`
                for x in range(whole):
                    frame[target + x] = load_word(images, source + x * channels) & kept
                for x in range(whole, width):
                    word = 0
                    for k in range(used):
                        word |= images[source + x * channels + k] << 8 * k
                    frame[target + x] = word
            for y in range(height):
                source_x, source_y = ramp(xy * y + x0, xx), ramp(yy * y + y0, yx)
                for x in range(0, width, LANES):
                    left = clamp(source_x >> 16, -AROUND, width) + AROUND
                    top = clamp(source_y >> 16, -AROUND, height) + AROUND
                    w, v = (source_x >> 8) & 255, (source_y >> 8) & 255  # weights: of right, of below
                    a, b, c, d = squares(frame, top * stride + left, stride)
                    words = w & 0
                    for bit in range(0, 8 * used, 8):
                        upper = ((a >> bit) & 255) * (256 - w) + ((b >> bit) & 255) * w
                        lower = ((c >> bit) & 255) * (256 - w) + ((d >> bit) & 255) * w
                        total = upper * (256 - v) + lower * v
                        words = words | (((total + 32768) >> 16) << bit)
                    if whole_cell:
                        cover = words & 255  # the pixel's largest channel, then how much of it is cell
                        for bit in range(8, 8 * used, 8):
                            cover = clamp(cover, (words >> bit) & 255, 255)
                        cover, colours = clamp(cover, 0, whole_cell), w & 0
                        stain = 2 * (n * channels + first_channel)
                        for bit in range(0, 8 * used, 8):
                            value = ((words >> bit) & 255) * stains[stain] + cover * stains[stain + 1]
                            colours = colours | (clamp((value + 32768) >> 16, 0, 255) << bit)
                            stain += 2
                        words = colours
                    store_integers(row, x, words)
                    source_x, source_y = source_x + LANES * xx, source_y + LANES * yx
                target = start + y * line
                # Four bytes at once, of which the next pixels overwrite what is not this one's.
                whole = max(0, (line - 4) // channels + 1) if channels <= 4 else 0
                for x in range(whole):
                    store_word(warped, target + x * channels, row[x])
                for x in range(whole, width):
                    for k in range(used):
                        warped[target + x * channels + k] = row[x] >> 8 * k


def warp(images: np.ndarray, transforms: np.ndarray, stains: np.ndarray | None = None) -> np.ndarray:
    """uint8 images, int32 (n, 2, 3), int32 (n, c, 2) -> uint8 (n, h, w, c), as numpy/augmentation.py."""
    count, height, width, channels = images.shape
    warped = empty(images.shape, images.dtype)
    source, target = np.ascontiguousarray(images).reshape(-1), warped.reshape(-1)
    transforms = np.ascontiguousarray(transforms, np.int32).reshape(-1)
    whole_cell = 0 if stains is None else COVER
    colours = np.ascontiguousarray(transforms[:0] if stains is None else stains, np.int32).reshape(-1)

    def task(first: int, last: int) -> None:
        frame = np.zeros((height + 2 * AROUND) * (width + 2 * AROUND), np.uint32)
        row = np.empty(-(-width // LANES) * LANES, np.uint32)
        _warp(
            source, transforms, colours, whole_cell, first, last, height, width, channels, frame, row, target
        )

    over_ranges(task, count, images.size / channels * PIXEL)
    return warped
