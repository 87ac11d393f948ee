"""Random numbers as a function of (seed, epoch, image, purpose), not of the order of calls.

A stateful generator hands out numbers in the order it is asked, so a changed batch size, a
second thread or an interrupted run changes every draw after it.  Here each number is the
output of a mixing function of what it is *for*: no state, nothing to save, any order.

The mixing function is SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014, figure 13), in wrapping uint64 arithmetic.
"""

from __future__ import annotations

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, elementwise: uint64 of any shape -> uint64 of the same shape."""
    z = np.asarray(values, dtype=np.uint64)
    with np.errstate(over="ignore"):  # wrapping is the point
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keys(seed: int, epoch: int, images: np.ndarray, purpose: str) -> np.ndarray:
    """One uint64 key an image, a function of (seed, epoch, image index, purpose) alone.

    images: int (n,), the images' indices in the data set, not their places in the batch.
    """
    with np.errstate(over="ignore"):
        key = mix(np.full(1, seed & 0xFFFFFFFFFFFFFFFF, np.uint64) + _GOLDEN)
        for part in (np.uint64(epoch), np.uint64(zlib.crc32(purpose.encode()))):
            key = mix(key ^ (part + _GOLDEN))
        return mix(key ^ (np.asarray(images).astype(np.uint64) * _GOLDEN + np.uint64(1)))


def uniform(seed: int, epoch: int, images: np.ndarray, purpose: str, count: int) -> np.ndarray:
    """(n, count) float64 in [0, 1): `count` numbers for each of the n images."""
    key = keys(seed, epoch, images, purpose)[:, None]  # (n, 1)
    with np.errstate(over="ignore"):
        counter = (np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)[None, :]  # (1, count)
        bits = mix(key + counter)  # (n, count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, images: np.ndarray, purpose: str = "shuffle") -> np.ndarray:
    """The images, reordered: sorted by their keys, so each one's key alone decides its place."""
    images = np.asarray(images)
    return images[np.argsort(keys(seed, epoch, images, purpose), kind="stable")]
