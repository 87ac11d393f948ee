"""A trained network's layers as descriptions of cells, which a classical classifier tells apart.

The network stays as it is; nearest neighbours or a linear support-vector machine learn from what a layer says
(scikit-learn has them; it is not needed for anything else).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet.arguments import names, whole_number
from tinynet.errors import ArgumentError, DataError, MissingDependencyError, ShapeError
from tinynet.network import Network

BATCH = 256
RESIDUAL = "residual"
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
CLASSIFIERS = ("knn", "svm")


def features(
    model: Network, images: np.ndarray, layer: str | Sequence[str] | None = None, *, pooled: bool = False
) -> np.ndarray:
    """What a layer says of each image, float32 (n, d), an activation map's numbers in (h, w, c) order.

    images  uint8 or float32 (n, h, w, c), as `predict` takes them
    layer   a layer's name, or several, whose numbers then follow each other; None: `narrowest_layer`.
            "residual" is, of an autoencoder, the image less its reconstruction, 0 where the image is black
    pooled  whether to forget where in the image something is: of each channel of an activation map nine
            quantiles and the standard deviation over its positions, 10 numbers a channel.  A parasite may
            be anywhere in a cell, and cells lie in any direction.

    Raises ArgumentError for a name that no layer has, DataError without images.
    """
    chosen = [layer or narrowest_layer(model)] if layer is None or isinstance(layer, str) else list(layer)
    chosen = names("features: layer", chosen)
    if not chosen:
        raise ArgumentError("features: wanted at least one layer")
    if len(images) == 0:
        raise DataError("features: there are no images")
    if RESIDUAL in chosen and model.output_shape != model.input_shape:
        raise ArgumentError(f"features: model {model.name!r} reconstructs nothing, so it has no residual")
    parts = []
    for at in range(0, len(images), BATCH):
        found = _results(model, images[at : at + BATCH])
        missing = [name for name in chosen if name not in found]
        if missing:
            raise ArgumentError(
                f"features: model {model.name!r} has no layer {missing[0]!r}; it has {', '.join(found)}"
            )
        each = (_pooled(found[name]) if pooled and found[name].ndim == 4 else found[name] for name in chosen)
        parts.append(np.concatenate([array.reshape(len(array), -1) for array in each], axis=1))
    return np.concatenate(parts)


def _results(model: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's result, and what an autoencoder leaves out."""
    found = model.activations(images)
    if model.output_shape == model.input_shape:
        shown = images.max(axis=-1, keepdims=True) > 0
        *_, reconstruction = found.values()
        found[RESIDUAL] = (found["input"] - reconstruction) * shown
    return found


def _pooled(maps: np.ndarray) -> np.ndarray:
    """(n, h, w, c) -> (n, 10 c): each channel's quantiles over its positions, then its deviation."""
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    levels = np.quantile(flat, QUANTILES, axis=1)  # (9, n, c)
    return np.concatenate([*levels, flat.std(axis=1)], axis=1).astype(np.float32)


def narrowest_layer(model: Network) -> str:
    """The layer whose activation maps have the fewest numbers, the first of equals: its bottleneck."""
    if model.input_shape is None or len(model.input_shape) != 3:
        raise ArgumentError(f"features: model {model.name!r} is not one for images, so name a layer")
    found = model.activations(np.zeros((1, *model.input_shape), np.float32))
    sizes = {name: array.size for name, array in found.items() if array.ndim == 4 and name != "input"}
    if not sizes:
        raise ArgumentError(f"features: model {model.name!r} has no activation maps, so name a layer")
    return min(sizes, key=lambda name: sizes[name])


class FeatureClassifier:
    """k nearest neighbours or a linear support-vector machine on features, for classes 0 and 1.

    kind        "knn": the share of infected cells among the nearest, by Euclidean distance;
                "svm": the side of a plane with the widest margin, squared hinge loss
    neighbours  for "knn"
    penalty     for "svm", its C: what a cell on the wrong side costs, against a wide margin

    Features are first brought to mean 0 and deviation 1 over the training cells; one that never varies there
    counts for nothing.  Raises MissingDependencyError without scikit-learn.
    """

    def __init__(self, kind: str = "knn", neighbours: int = 15, penalty: float = 0.01):
        if kind not in CLASSIFIERS:
            raise ArgumentError(f"classifier must be one of {', '.join(CLASSIFIERS)}, got {kind!r:.40}")
        if (
            isinstance(penalty, bool)
            or not isinstance(penalty, int | float)
            or not 0 < penalty < float("inf")
        ):
            raise ArgumentError(f"penalty must be a number above 0, got {penalty!r:.40}")
        self.kind, self.penalty = kind, penalty
        self.neighbours = whole_number("neighbours", neighbours, 1)
        self._fitted: Any = None

    def fit(self, x: np.ndarray, labels: np.ndarray) -> FeatureClassifier:
        """Learn from features (n, d) and labels (n,) of 0 and 1, of which both must occur."""
        x, y = np.asarray(x, np.float32), np.asarray(labels)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ShapeError(f"wanted features (n, d) and n labels, got {x.shape} and {y.shape}")
        if set(np.unique(y).tolist()) != {0, 1}:
            raise DataError("a classifier learns from infected and uninfected cells; one kind is missing")
        mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
        self.mean, self.scale = mean.astype(np.float32), scale.astype(np.float32)
        self._fitted = self._made(len(x)).fit((x - self.mean) * self.scale, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """float64 (n,) from 0 to 1, from 0.5 on infected: a share of neighbours, or 1 / (1 + exp(-distance)).

        The second orders cells by their distance from the plane; it is not a probability.
        """
        if self._fitted is None:
            raise ArgumentError("the classifier has not been fitted yet")
        standard = (np.asarray(x, np.float32) - self.mean) * self.scale
        if self.kind == "knn":
            return np.asarray(self._fitted.predict_proba(standard)[:, 1])
        distance = np.clip(self._fitted.decision_function(standard), -500, 500)
        return 1.0 / (1.0 + np.exp(-distance))

    def _made(self, count: int) -> Any:
        try:
            if self.kind == "knn":
                from sklearn.neighbors import KNeighborsClassifier

                return KNeighborsClassifier(min(self.neighbours, count))
            from sklearn.svm import LinearSVC
        except ImportError as problem:
            raise MissingDependencyError(
                f"scikit-learn cannot be imported ({problem}); pip install 'tinynet-cnn[classical]' brings it"
            ) from None
        # The primal problem, whose solver is the same on every run; there are more cells than features.
        return LinearSVC(C=self.penalty, dual=False)
