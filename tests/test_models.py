"""The networks tinynet is made for: what their sources say of them, and the bytes they take."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from tinynet.models import CLASS_NAMES, autoencoder, cells_10k, cells_70k, classifier, small_cnn
from tinynet.models.autoencoder import take_encoder
from tinynet.models.recipes import RECIPES

import tinynet as tn
from tinynet import summaries
from tinynet.errors import ArgumentError, ShapeError


def shapes(model: tn.Sequential) -> dict[str, tuple[int, ...]]:
    return {row.name: row.output_shape for row in summaries.rows(model)}


@pytest.mark.parametrize("size", [8, 32, 64])
def test_the_autoencoder_has_the_reports_filters_and_gives_the_size_back(size):
    model = autoencoder(size)
    found = shapes(model)
    assert [found[f"encoder{n}"][2] for n in (1, 2, 3)] == [16, 8, 4]
    assert [found[f"decoder{n}"][2] for n in (1, 2, 3, 4)] == [4, 8, 16, 3]
    assert found["pool3"] == (size // 8, size // 8, 4)
    assert model.output_shape == (size, size, 3)
    x = np.random.default_rng(0).integers(0, 256, (3, size, size, 3)).astype(np.uint8)
    model.compile(loss="mse").fit(x, verbose=0)


@pytest.mark.parametrize("size", [0, 7, 20, 33, 32.0, "32"])
def test_the_autoencoder_refuses_a_size_it_could_not_give_back(size):
    with pytest.raises(ArgumentError, match="autoencoder: size must be a"):
        autoencoder(size)


def test_the_classifier_takes_the_autoencoders_features():
    source, target = autoencoder(seed=1), classifier(seed=2)
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    assert not np.array_equal(source.activations(x)["pool3"], target.activations(x)["pool3"])
    take_encoder(target, source)
    assert np.array_equal(source.activations(x)["pool3"], target.activations(x)["pool3"])
    before = source.state()["encoder1.weight"].copy()
    target.layer("encoder1").parameters["weight"].data += 1
    assert np.array_equal(source.state()["encoder1.weight"], before)  # copied, not shared


def test_the_small_cnn_is_four_blocks_and_two_dense_layers():
    model = small_cnn()
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Conv2D", "MaxPool2D", "BatchNorm", "Dropout"] * 4 + [
        "Flatten", "Dense", "Dropout", "Dense",
    ]  # fmt: skip
    assert [model.layer(f"conv{n}").filters for n in (1, 2, 3, 4)] == [32, 64, 64, 64]
    assert {layer.rate for layer in model.layers if isinstance(layer, tn.Dropout)} == {0.2}
    with pytest.raises(ShapeError, match="pool4"):
        small_cnn(size=8)


@pytest.mark.parametrize("make", [classifier, small_cnn, cells_70k, cells_10k])
def test_class_1_is_infected(make):
    model = make()
    assert tuple(model.class_names) == CLASS_NAMES == ("uninfected", "infected")
    assert model.output_shape == (2,)


def test_the_classifiers_file_is_at_most_70000_bytes_with_all_it_says(tmp_path):
    model = classifier().compile(
        tn.AdamW(tn.OneCycle(0.005, 4560), weight_decay=0.01),
        tn.sparse_categorical_crossentropy(smoothing=0.05),
    )
    model.threshold, model.temperature = 0.4375208616256714, 1.2345678901234567
    model.provenance = {
        "command": "tinynet train --data cell_images --model autoencoder --exclude suspicious.txt "
        "--split patient --epochs 40 --batch-size 128 --seed 0 --out runs/autoencoder",
        "data": "0123456789abcdef" * 4, "split": "patient", "seed": 0, "excluded": 1244,
        "trained": "2026-01-01T00:00:00+00:00", "images": [14_625, 1625, 4063],
    }  # fmt: skip
    interval = [0.9912, 0.9871, 0.9943]
    model.metrics = {
        "test": {"n": 4063, "patients": 40, "accuracy": interval, "sensitivity": interval,
                 "specificity": interval, "auc": interval},
    }  # fmt: skip
    model.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size <= 70_000


@pytest.mark.parametrize(("make", "behind"), [
    (cells_70k, {"pool1": (32, 32, 8), "pool2": (16, 16, 16), "pool3": (8, 8, 32), "pool4": (4, 4, 48),
                 "relu5": (4, 4, 64), "average": (64,), "dense": (2,)}),
    (cells_10k, {"pool1": (32, 32, 8), "pool2": (16, 16, 12), "pool3": (8, 8, 16), "pool4": (4, 4, 16),
                 "average": (16,), "dense": (2,)}),
])  # fmt: skip
def test_shapes_are_those_of_the_table(make, behind):
    found = shapes(make())
    assert {name: found[name] for name in behind} == behind


@pytest.mark.parametrize("make", [cells_70k, cells_10k])
def test_weights_and_multiply_adds_are_those_of_the_table(make):
    """What the module's page says of each convolution and of the dense layer, and of all parameters."""
    text = sys.modules[make.__module__].__doc__
    told = {line.split()[0].rstrip(","): [int(n.replace(",", "")) for n in line.split()[-2:]]
            for line in text.splitlines() if line.startswith(("    conv", "    dense"))}  # fmt: skip
    model = make()
    for layer in model.layers:
        if isinstance(layer, tn.Conv2D | tn.Dense):
            weights = layer.parameters["weight"].size
            assert told.pop(layer.name) == [weights, layer.multiply_accumulates(layer.input_shape)]
    assert not told
    parameters = sum(parameter.size for parameter in model.parameters().values())
    assert f"{parameters:,} parameters" in text


@pytest.mark.parametrize(("name", "limit"), [("cells-70k", 70_000), ("cells-10k", 10_000)])
def test_the_int8_file_of_a_finished_run_is_within_its_bytes(name, limit, tmp_path):
    recipe = RECIPES[name]
    (stage,) = recipe.stages(recipe.size, recipe.epochs, 0, None)
    model = stage.build(None).compile(stage.optimizer(1), stage.loss)
    x = np.random.default_rng(0).integers(0, 256, (32, recipe.size, recipe.size, 3)).astype(np.uint8)
    model.fit(x, np.arange(32) % 2, verbose=0)
    model.provenance = {
        "command": f"tinynet train --model {name} --data DIR --exclude LIST --split none "
        "--batch-size 64 --stain-augmentation --seed 0",
        "data": "0123456789abcdef", "split": "none", "seed": 0, "excluded": 1095,
        "trained": "2026-01-01T00:00:00+00:00", "images": [19_218, 0, 0],
    }  # fmt: skip
    small = model.quantize("int8", x)
    small.threshold, small.temperature = 0.4375208616256714, 1.2345678901234567
    small.provenance["calibration"]["part"] = "training"
    small.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size <= limit
