"""Principal components by singular value decomposition, as something to measure an autoencoder against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CHUNK = 2048  # images at a time


@dataclass(frozen=True)
class Components:
    """mean (d,); axes (k, d), orthonormal, the largest variance first; shares (k,) of the variance."""

    mean: np.ndarray
    axes: np.ndarray
    shares: np.ndarray

    def project(self, x: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, k)."""
        return (x - self.mean) @ self.axes.T

    def reconstruct(self, x: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, d): what k numbers keep of each."""
        return self.project(x) @ self.axes + self.mean


def principal_components(x: np.ndarray, count: int) -> Components:
    """Of rows x (n, d), numbers or uint8 (then divided by 255): the `count` axes of the largest variance.

    The right singular vectors of the centred data, from the singular value decomposition of its d x d
    covariance: with more images than pixels that is the smaller matrix, and has the same vectors.
    Sums are in float64.  Source: Jolliffe, Principal Component Analysis, 2002, section 3.5.
    """
    d = x.shape[1]
    total, products = np.zeros(d), np.zeros((d, d))
    for at in range(0, len(x), _CHUNK):
        total += as_numbers(x[at : at + _CHUNK]).sum(axis=0, dtype=np.float64)
    mean = total / len(x)
    for at in range(0, len(x), _CHUNK):
        centred = as_numbers(x[at : at + _CHUNK]) - mean
        products += centred.T @ centred
    axes, variances, _ = np.linalg.svd(products / len(x), hermitian=True)
    whole = variances.sum()
    return Components(mean, axes.T[:count].copy(), variances[:count] / (whole if whole else 1.0))


def as_numbers(x: np.ndarray) -> np.ndarray:
    """uint8 -> float64 from 0 to 1; others as they are."""
    return x / 255.0 if x.dtype == np.uint8 else x
