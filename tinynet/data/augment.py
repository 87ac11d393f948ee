"""Augmentation: every epoch shows each cell turned, mirrored, shifted, sheared and scaled anew.

If asked for, also stained anew: laboratories' dyes, microscopes and cameras differ, and a network that
has seen one laboratory's colours only takes them for granted (Tellez et al., Medical Image Analysis 58,
2019, arXiv:1902.06543, compare such augmentations: those of colour matter most).

The parameters are a function of (seed, epoch, image), not of the order of batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinynet import kernels, random
from tinynet.arguments import number
from tinynet.errors import ArgumentError, ShapeError
from tinynet.kernels.numpy.augmentation import COVER

LARGEST_SIDE = 8192
"""Pixels: positions in 16.16 fixed point reach 32,767, transforms of larger images might leave that."""


@dataclass(frozen=True)
class Augmentation:
    """Random affine transforms; called as (images, seed, epoch, indices) -> images.

    rotation         degrees, drawn from [-rotation, rotation]; 180 is every direction: cells have no up
    scale            enlargement, drawn from [1, 1 + scale]
    shift            a share of width and height, drawn from [-shift, shift]
    shear            drawn from [-shear, shear]
    horizontal_flip  whether half of the cells are mirrored left to right
    vertical_flip    whether half are mirrored top to bottom
    gain             of the stain: what a channel is multiplied by, drawn from [1 - gain, 1 + gain]
    offset           of the stain: what is then added to it, drawn from [-offset, offset] of full scale

    The defaults are the report's Table 2 with full rotation and vertical flips added; TABLE_2 is
    the table as it stands, STAINED the default with other stains.

    Gain and offset are one of each for a channel of an image, so a stain is

        value'[c] = gain[c] * value[c] + offset[c] * cover,    kept within 0 to 255

    It is of the cell alone.  cover is how much of the pixel is cell: 0 where it is black, as around the
    segmented cells of the NIH set, 1 where its brightest channel has a quarter of full scale or more (no
    cell is darker), between them on the cell's edge.  So the surround stays black.
    """

    rotation: float = 180.0
    scale: float = 0.05
    shift: float = 0.05
    shear: float = 0.05
    horizontal_flip: bool = True
    vertical_flip: bool = True
    gain: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotation", "scale", "shift", "shear", "gain", "offset"):
            highest = 180.0 if name == "rotation" else 1.0
            number(f"Augmentation: {name}", getattr(self, name), 0.0, highest)
        for name in ("horizontal_flip", "vertical_flip"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(
                    f"Augmentation: {name} must be True or False, got {getattr(self, name)!r}"
                )

    def __call__(self, images: np.ndarray, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """uint8 (n, h, w, c) -> uint8 (n, h, w, c); indices (n,): the images' places in the data set.

        Raises ArgumentError for another type, ShapeError for another shape.
        """
        if images.dtype != np.uint8:
            raise ArgumentError(f"Augmentation: wanted uint8 images, got {images.dtype}")
        if images.ndim != 4 or np.shape(indices) != images.shape[:1]:
            raise ShapeError(
                "Augmentation: wanted images (n, h, w, c) and n indices, "
                f"got {images.shape} and {np.shape(indices)}"
            )
        if max(images.shape[1:3]) > LARGEST_SIDE:
            raise ShapeError(
                f"Augmentation: wanted images of at most {LARGEST_SIDE} pixels a side, got {images.shape}"
            )
        transforms = self.transforms(images.shape[1:3], seed, epoch, indices)
        if not self.stains_cells:
            return kernels.active().warp(images, transforms)
        channels = images.shape[3]
        if channels > 4:
            raise ShapeError(f"Augmentation: a stain is for at most 4 channels, got {channels}")
        return kernels.active().warp(images, transforms, self.stains(channels, seed, epoch, indices))

    @property
    def stains_cells(self) -> bool:
        """Whether it changes colours too."""
        return bool(self.gain or self.offset)

    def transforms(self, size: tuple[int, ...], seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """int32 (n, 2, 3) in 16.16 fixed point: from a target pixel (x, y) to the source position."""
        height, width = size
        u = random.uniform(seed, epoch, indices, "augmentation", 7).T  # (7, n)
        turn, _, right, down, lean, *_ = 2.0 * u - 1.0  # from -1 to 1
        angle, zoom, shear = np.radians(turn * self.rotation), 1.0 + u[1] * self.scale, lean * self.shear
        shift_x, shift_y = right * (self.shift * width), down * (self.shift * height)
        flip_x = np.where(u[5] < 0.5, -1.0, 1.0) if self.horizontal_flip else 1.0
        flip_y = np.where(u[6] < 0.5, -1.0, 1.0) if self.vertical_flip else 1.0
        cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
        # rotation * shear * flips, about the middle of the picture
        matrix = np.empty((2, 3, u.shape[1]))
        (xx, xy, x0), (yx, yy, y0) = matrix
        xx[:], xy[:] = cosine * flip_x, (cosine * shear - sine) * flip_y
        yx[:], yy[:] = sine * flip_x, (sine * shear + cosine) * flip_y
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        x0[:] = middle_x + shift_x - (xx * middle_x + xy * middle_y)
        y0[:] = middle_y + shift_y - (yx * middle_x + yy * middle_y)
        matrix *= 65536.0
        return np.rint(matrix).astype(np.int32).transpose(2, 0, 1)

    def stains(self, channels: int, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """int32 (n, channels, 2) in 16.16 fixed point: gains, and offsets by COVER-th parts of a pixel."""
        u = 2.0 * random.uniform(seed, epoch, indices, "stain", 2 * channels) - 1.0  # from -1 to 1
        stains = u.reshape(len(u), channels, 2) * (self.gain, 255.0 * self.offset / COVER)
        stains[..., 0] += 1.0
        return np.rint(stains * 65536.0).astype(np.int32)


TABLE_2 = Augmentation(rotation=20.0, vertical_flip=False)
"""The report's Table 2, without what was added."""

STAINED = Augmentation(gain=0.25, offset=0.1)
"""The default, and stains: what `tinynet train --stain-augmentation` shows."""
