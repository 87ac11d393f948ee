"""How well a network's frozen features tell cells apart, measured on patients that it was not trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tinynet import metrics
from tinynet.errors import ArgumentError
from tinynet.features import FeatureClassifier, features, narrowest_layer
from tinynet.network import Network
from tinynet.runs import data as run_data
from tinynet.runs.config import RunConfig


def study(
    model: Network,
    name: str,
    data: str,
    exclude: str | None = None,
    *,
    layers: Sequence[str] = (),
    pooled: bool = False,
    classifier: FeatureClassifier,
    split: str | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Fit the classifier on the features of the training part and measure it on validation and test.

    layers       whose numbers are the features, one after another; none: the narrowest
    pooled       see features.features
    split, seed  of the division, for a model whose file does not say how its data was divided

    Returns {"layers", "features", "training", "validation", "test"}: the parts as
    metrics.evaluate_probabilities has them, without "loss", since a support-vector machine has none.
    """
    if "split" in model.provenance:
        if split is not None or seed is not None:
            raise ArgumentError(f"--split and --seed are in {name}: leave them out")
        cells = run_data.load_as_trained(model, name, data, exclude, "features", progress=progress)
        split, seed = model.provenance["split"], run_data.training_seed(model)
    else:
        print(f"{name} does not say what it was trained on; no test cell may be among that", file=sys.stderr)
        config = RunConfig(data=data, exclude=exclude, split=split or "patient", seed=seed or 0)
        split, seed = config.split, config.seed
        assert model.input_shape is not None
        cells = run_data.load(config, model.input_shape[0], progress=progress)
    chosen = list(layers) or [narrowest_layer(model)]
    parts = {part: getattr(cells, part) for part in ("training", "validation", "test")}
    run_data.require_kept_apart(parts["test"], name)
    found = {part: features(model, cells.of(places), chosen, pooled=pooled) for part, places in parts.items()}
    classifier.fit(found["training"], cells.labels[parts["training"]])
    result: dict[str, Any] = {
        "layers": chosen,
        "pooled": pooled,
        "features": found["training"].shape[1],
        "split": split,
    }
    for part in ("validation", "test"):
        measured = metrics.evaluate_probabilities(
            cells.labels[parts[part]],
            classifier.predict(found[part]),
            0.5,
            cells.patients[parts[part]] if split == "patient" else None,
            seed=seed,
        )
        result[part] = {key: value for key, value in measured.items() if key not in ("loss", "at_half")}
    result["training"] = {"n": len(parts["training"])}
    return result
