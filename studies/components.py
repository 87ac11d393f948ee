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

    The right singular vectors of the centred data; where there are more rows than columns, from the singular
    value decomposition of the d x d covariance, which is smaller and has the same vectors.  Sums are in
    float64.  Source: Jolliffe, Principal Component Analysis, 2002, section 3.5.
    """
    d = x.shape[1]
    if len(x) <= d:
        mean = as_numbers(x).mean(axis=0, dtype=np.float64)
        _, singular, axes = np.linalg.svd(as_numbers(x) - mean, full_matrices=False)
        return _largest(mean, axes, singular**2, count)
    total, products = np.zeros(d), np.zeros((d, d))
    for at in range(0, len(x), _CHUNK):
        total += as_numbers(x[at : at + _CHUNK]).sum(axis=0, dtype=np.float64)
    mean = total / len(x)
    for at in range(0, len(x), _CHUNK):
        centred = as_numbers(x[at : at + _CHUNK]) - mean
        products += centred.T @ centred
    axes, variances, _ = np.linalg.svd(products / len(x), hermitian=True)
    return _largest(mean, axes.T, variances, count)


def _largest(mean: np.ndarray, axes: np.ndarray, variances: np.ndarray, count: int) -> Components:
    """The first `count` of them; variances on any scale."""
    return Components(mean, axes[:count].copy(), variances[:count] / (variances.sum() or 1.0))


def as_numbers(x: np.ndarray) -> np.ndarray:
    """uint8 -> float64 from 0 to 1; others as they are."""
    return x / 255.0 if x.dtype == np.uint8 else x
