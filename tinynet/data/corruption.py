"""Images made worse, from which an autoencoder is to give the good ones.

Copying alone needs no idea of a cell; taking noise away, or filling in what is hidden, does: Vincent et al.,
"Extracting and composing robust features with denoising autoencoders" (ICML 2008); of hidden squares Pathak
et al., "Context encoders" (CVPR 2016, arXiv:1604.07379).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinynet import random
from tinynet.arguments import number, whole_number

Augment = Callable[[np.ndarray, int, int, np.ndarray], np.ndarray]
BANK = 1 << 20  # normal numbers drawn once, of which each image takes a stretch


@dataclass(frozen=True)
class Corruption:
    """An augmentation for `fit` of which the target is the image before it was made worse.

    noise         standard deviation of normal noise added to every number, a share of full scale
    hidden        share of the squares that are black
    square        their side in pixels
    augmentation  of both, first; None: none

    A function of (seed, epoch, image), as other augmentations are.
    """

    noise: float = 0.0
    hidden: float = 0.0
    square: int = 4
    augmentation: Augment | None = None

    def __post_init__(self) -> None:
        number("Corruption: noise", self.noise, 0.0, 1.0)
        number("Corruption: hidden", self.hidden, 0.0, 1.0)
        whole_number("Corruption: square", self.square, 1)

    def __call__(
        self, images: np.ndarray, seed: int, epoch: int, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (n, h, w, c) -> (made worse, as they were), both of the same shape and type."""
        clean = images if self.augmentation is None else self.augmentation(images, seed, epoch, indices)
        worse = clean
        if self.noise:
            worse = np.clip(clean + self._noise(clean.shape, seed, epoch, indices), 0, 255).astype(np.uint8)
        if self.hidden:
            worse = np.where(self._hidden(clean.shape, seed, epoch, indices), np.uint8(0), worse)
        return worse, clean

    def _noise(self, shape: tuple[int, ...], seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """int16 of this shape: for each image a stretch of the bank from a place of its own."""
        count = int(np.prod(shape[1:]))
        bank = _bank(max(BANK, 4 * count))
        start = random.uniform(seed, epoch, indices, "noise", 1)[:, 0] * (len(bank) - count)
        stretches = np.lib.stride_tricks.sliding_window_view(bank, count)[start.astype(np.int64)]
        return np.rint(stretches * np.float32(255 * self.noise)).astype(np.int16).reshape(shape)

    def _hidden(self, shape: tuple[int, ...], seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """bool (n, h, w, 1): True in the hidden squares."""
        n, height, width, _ = shape
        rows, columns = -(-height // self.square), -(-width // self.square)
        chance = random.uniform(seed, epoch, indices, "hidden squares", rows * columns)
        squares = (chance < self.hidden).reshape(n, rows, columns)
        whole = squares.repeat(self.square, axis=1).repeat(self.square, axis=2)
        return whole[:, :height, :width, None]


@lru_cache(maxsize=2)
def _bank(size: int) -> np.ndarray:
    """float32 (size,): normal numbers (Box and Muller, Ann. Math. Statist. 29, 1958), always the same."""
    u = random.uniform(0, 0, np.arange(size // 2), "noise bank", 2)
    radius, angle = np.sqrt(-2.0 * np.log1p(-u[:, 0])), 2.0 * np.pi * u[:, 1]
    bank = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).astype(np.float32)
    bank.flags.writeable = False
    return bank
