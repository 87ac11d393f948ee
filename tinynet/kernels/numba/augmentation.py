"""Affine warping of uint8 images, with the integers of numpy/augmentation.py."""

from __future__ import annotations

import numpy as np

from tinynet.kernels.numba.compile import kernel
from tinynet.kernels.numba.memory import empty
from tinynet.kernels.numba.parallel import over_ranges

PIXEL = 60.0  # what a pixel costs, in multiply-adds


@kernel
def _warp(images, transforms, first, last, height, width, channels, warped):
    for n in range(first, last):
        xx, xy, x0 = transforms[n, 0, 0], transforms[n, 0, 1], transforms[n, 0, 2]
        yx, yy, y0 = transforms[n, 1, 0], transforms[n, 1, 1], transforms[n, 1, 2]
        for y in range(height):
            for x in range(width):
                source_x = xx * x + xy * y + x0
                source_y = yx * x + yy * y + y0
                left, top = source_x >> 16, source_y >> 16
                target = ((n * height + y) * width + x) * channels
                if left < -1 or left >= width or top < -1 or top >= height:
                    for c in range(channels):
                        warped[target + c] = 0
                    continue
                weight_x, weight_y = (source_x >> 8) & 255, (source_y >> 8) & 255
                # A corner outside the image weighs nothing, and is read from inside.
                w00 = (256 - weight_x) * (256 - weight_y) if left >= 0 and top >= 0 else 0
                w01 = weight_x * (256 - weight_y) if left + 1 < width and top >= 0 else 0
                w10 = (256 - weight_x) * weight_y if left >= 0 and top + 1 < height else 0
                w11 = weight_x * weight_y if left + 1 < width and top + 1 < height else 0
                row0 = (n * height + max(top, 0)) * width
                row1 = (n * height + min(top + 1, height - 1)) * width
                near, far = max(left, 0), min(left + 1, width - 1)
                for c in range(channels):
                    total = (
                        w00 * images[(row0 + near) * channels + c]
                        + w01 * images[(row0 + far) * channels + c]
                        + w10 * images[(row1 + near) * channels + c]
                        + w11 * images[(row1 + far) * channels + c]
                    )
                    warped[target + c] = (total + 32768) >> 16


def warp(images: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """uint8 (n, h, w, c), int32 (n, 2, 3) in 16.16 fixed point -> uint8 (n, h, w, c); black outside."""
    count, height, width, channels = images.shape
    warped = empty(images.shape, images.dtype)
    source, target = np.ascontiguousarray(images).reshape(-1), warped.reshape(-1)
    transforms = np.ascontiguousarray(transforms, np.int32)
    over_ranges(
        lambda first, last: _warp(source, transforms, first, last, height, width, channels, target),
        count,
        images.size / channels * PIXEL,
    )
    return warped
