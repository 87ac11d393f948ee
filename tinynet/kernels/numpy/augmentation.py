"""Affine warping and staining of small uint8 images, in integers: both kernel sets give the same bytes."""

from __future__ import annotations

import numpy as np

COVER = 64
"""From this value of its largest channel on, of 255, a pixel is cell and nothing else; black is none."""


def warp(images: np.ndarray, transforms: np.ndarray, stains: np.ndarray | None = None) -> np.ndarray:
    """Bilinear sampling of each image through its own affine transform, black outside; then its stain.

    images      uint8 (n, h, w, c)
    transforms  int32 (n, 2, 3) in 16.16 fixed point, from target to source pixel coordinates:
                source_x = t[0, 0] * x + t[0, 1] * y + t[0, 2], source_y = t[1, 0] * x + ...
    stains      int32 (n, c, 2), for each channel a gain and an offset as `_stain` takes them, or None;
                with it images have at most 4 channels
    Positions are int32, and wrap around as such beyond 32,767 pixels.  Weights have 8 bits; the result
    is rounded half up.
    """
    count, height, width, channels = images.shape
    framed = np.zeros((count, height + 2, width + 2, channels), np.int32)  # a black frame of one pixel
    framed[:, 1:-1, 1:-1] = images
    y, x = np.mgrid[:height, :width].astype(np.int32)
    t = transforms.astype(np.int32)[:, :, :, None, None]
    source_x = t[:, 0, 0] * x + t[:, 0, 1] * y + t[:, 0, 2]  # (n, h, w), 16.16
    source_y = t[:, 1, 0] * x + t[:, 1, 1] * y + t[:, 1, 2]
    left, top = source_x >> 16, source_y >> 16
    weight_x, weight_y = (source_x >> 8) & 255, (source_y >> 8) & 255
    inside = (left >= -1) & (left < width) & (top >= -1) & (top < height)
    left, top = np.clip(left, -1, width - 1) + 1, np.clip(top, -1, height - 1) + 1
    image = np.arange(count)[:, None, None]

    def corner(dy: int, dx: int, weight: np.ndarray) -> np.ndarray:
        return framed[image, top + dy, left + dx] * weight[..., None]

    total = corner(0, 0, (256 - weight_x) * (256 - weight_y)) + corner(0, 1, weight_x * (256 - weight_y))
    total += corner(1, 0, (256 - weight_x) * weight_y) + corner(1, 1, weight_x * weight_y)
    warped = np.where(inside[..., None], (total + (1 << 15)) >> 16, 0)
    return (warped if stains is None else _stain(warped, stains)).astype(np.uint8)


def _stain(images: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """int32 (n, h, w, c) from 0 to 255 -> the same with each channel's gain and offset, rounded half up.

    The gain is in 16.16 fixed point.  The offset is too, and counts for each of COVER parts of the pixel
    that are cell: none of the black surround, which stays black, and some of a pixel on the cell's edge.
    """
    cover = np.minimum(images.max(axis=-1, keepdims=True), COVER)
    gain, offset = np.moveaxis(stains.astype(np.int32)[:, None, None], -1, 0)  # each (n, 1, 1, c)
    return np.clip((images * gain + cover * offset + (1 << 15)) >> 16, 0, 255)
