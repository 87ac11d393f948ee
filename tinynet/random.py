"""Random numbers as a function of (seed, epoch, image, purpose), not of the order of calls.

A stateful generator hands out numbers in the order it is asked, so a changed batch size, a
second thread or an interrupted run changes every draw after it.  Here each number is the
output of a mixing function of what it is *for*: no state, nothing to save, any order.

The mixing function is SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014, figure 13), in wrapping uint64 arithmetic.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np


def _constant(value: int) -> np.ndarray:
    """uint64 (): NumPy takes arrays without axes in half the time of its scalars."""
    return np.array(value, np.uint64)


_GOLDEN = _constant(0x9E3779B97F4A7C15)
_ROUNDS = tuple(
    (_constant(shift), _constant(factor))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
)
_ONE, _LAST_SHIFT, _NOT_IN_FLOAT64 = _constant(1), _constant(31), _constant(11)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, elementwise: uint64 of any shape -> uint64 of the same shape."""
    z = np.array(values, dtype=np.uint64)
    shifted = np.empty_like(z)
    for shift, factor in _ROUNDS:
        z ^= np.right_shift(z, shift, out=shifted)
        z *= factor  # wrapping is the point
    z ^= np.right_shift(z, _LAST_SHIFT, out=shifted)
    return z


@lru_cache(maxsize=64)
def _stem(seed: int, epoch: int, purpose: str) -> np.ndarray:
    """What the keys of all images have in common, uint64 (); every batch of an epoch asks for it."""
    parts = np.array([seed & 0xFFFFFFFFFFFFFFFF, epoch, zlib.crc32(purpose.encode())], np.uint64) + _GOLDEN
    key = mix(parts[:1])
    for part in parts[1:]:
        key = mix(key ^ part)
    return _constant(key[0])


def keys(seed: int, epoch: int, images: np.ndarray, purpose: str) -> np.ndarray:
    """One uint64 key an image, a function of (seed, epoch, image index, purpose) alone.

    images: int (n,), the images' indices in the data set, not their places in the batch.
    """
    own = np.asarray(images).astype(np.uint64)
    own *= _GOLDEN
    own += _ONE
    own ^= _stem(int(seed), int(epoch), purpose)
    return mix(own)


def uniform(seed: int, epoch: int, images: np.ndarray, purpose: str, count: int) -> np.ndarray:
    """(n, count) float64 in [0, 1): `count` numbers for each of the n images."""
    counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = mix(keys(seed, epoch, images, purpose) + counter[:, None])  # (count, n): a column is an image's
    bits >>= _NOT_IN_FLOAT64
    numbers = bits.view(np.int64).astype(np.float64)
    numbers *= 2.0**-53
    return numbers.T


def permutation(seed: int, epoch: int, images: np.ndarray, purpose: str = "shuffle") -> np.ndarray:
    """The images, reordered: sorted by their keys, so each one's key alone decides its place."""
    images = np.asarray(images)
    return images[np.argsort(keys(seed, epoch, images, purpose), kind="stable")]
