"""Loading a model: it is the one that was saved, or it is refused by name and before it costs anything."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinynet as tn
from tinynet import files, limits, loading, storage
from tinynet.errors import FileAccessError, ModelFileError


@pytest.fixture(scope="module")
def model():
    made = tn.Sequential(
        [
            tn.Conv2D(4, activation="relu"), tn.BatchNorm(), tn.MaxPool2D(), tn.Dropout(0.1), tn.Flatten(),
            tn.Dense(2, "softmax"),
        ],
        (8, 8, 3),
        class_names=("uninfected", "infected"),
        seed=3,
        name="small",
    )  # fmt: skip
    made.compile(tn.AdamW(tn.OneCycle(0.01, 40)), tn.sparse_categorical_crossentropy(smoothing=0.05))
    made.threshold, made.temperature = 0.375, 1.5
    made.provenance, made.metrics = {"seed": 7}, {"test": {"n": 12}}
    return made


@pytest.fixture
def altered(model, tmp_path):
    """Write the model's file with a changed description; returns its path."""

    def write(change, arrays=None):
        description = copy.deepcopy(storage.describe(model))
        change(description)
        path = tmp_path / "altered.safetensors"
        files.save_model_file(path, model.state() if arrays is None else arrays, description)
        return path

    return write


def test_a_loaded_model_is_the_saved_one(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    loaded = tn.load(tmp_path / "m.safetensors")
    x = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(loaded.predict(x), model.predict(x))
    assert (loaded.name, loaded.threshold, loaded.temperature) == ("small", 0.375, 1.5)
    assert tuple(loaded.class_names) == ("uninfected", "infected")
    assert loaded.provenance["seed"] == 7
    assert loaded.metrics == {"test": {"n": 12}}
    assert loaded.optimizer.config() == model.optimizer.config()
    assert loaded.loss == model.loss
    assert {**storage.describe(loaded), "provenance": 0} == {**storage.describe(model), "provenance": 0}


def test_an_unaltered_description_loads(altered):
    assert loading.load(altered(lambda description: None)).name == "small"


@pytest.mark.parametrize("name", ["architecture", "preprocessing", "class_names", "threshold", "training"])
def test_what_is_missing_is_named(altered, name):
    with pytest.raises(ModelFileError, match=f"does not describe a model: it has no '{name}'"):
        loading.load(altered(lambda description: description.pop(name)))


@pytest.mark.parametrize("name", ["architecture", "provenance", "metrics"])
def test_what_should_be_an_object_is_one(altered, name):
    with pytest.raises(ModelFileError, match=f"{name} is not an object"):
        loading.load(altered(lambda description: description.update({name: [1]})))


def test_weights_of_another_shape_are_refused(altered, model):
    arrays = dict(model.state())
    name = next(name for name in arrays if name.endswith("weight"))
    arrays[name] = arrays[name][..., :1].copy()
    with pytest.raises(ModelFileError, match=name):
        loading.load(altered(lambda description: None, arrays))


def test_a_self_test_that_is_not_reproduced_is_refused(altered):
    def other_answer(description):
        description["self_test"]["outputs"][0] += 0.5

    with pytest.raises(ModelFileError, match="self-test"):
        loading.load(altered(other_answer))


def test_without_a_self_test_it_is_refused(altered):
    with pytest.raises(ModelFileError, match="has no self-test"):
        loading.load(altered(lambda description: description.pop("self_test")))


@pytest.mark.parametrize(
    ("layer", "limit"),
    [
        (lambda: tn.UpSample2D(2), "MAXIMUM_VALUES"),
        (lambda: tn.MaxPool2D(5, stride=1, padding="same"), "MAXIMUM_OPERATIONS"),
    ],
    ids=["values", "operations"],
)
def test_a_model_that_costs_more_than_the_limit_is_refused_before_it_runs(
    tmp_path, monkeypatch, layer, limit
):
    path = tmp_path / "m.safetensors"
    tn.Sequential([layer(), tn.Flatten(), tn.Dense(2)], (8, 8, 3), name="costly").save(path)
    assert loading.load(path).name == "costly"
    # 768 values after upsampling; 4096 operations a tap at least
    monkeypatch.setattr(loading if limit == "MAXIMUM_VALUES" else limits, limit, 700)
    monkeypatch.setattr(storage, "check_selftest", lambda *_: pytest.fail("the model was run"))
    with pytest.raises(ModelFileError, match=r"would need .* for one image; at most"):
        loading.load(path)


def test_a_deep_description_is_refused(altered, monkeypatch):
    path = altered(lambda description: None)
    monkeypatch.setattr(loading, "MAXIMUM_DEPTH", 3)  # the layers' settings lie deeper
    with pytest.raises(ModelFileError, match="nested more than 3 deep"):
        loading.load(path)


def test_no_file_and_no_shipped_model_of_the_name(tmp_path):
    with pytest.raises(FileAccessError):
        loading.load(tmp_path / "none.safetensors")
    with pytest.raises(FileAccessError, match="autoencoder"):
        loading.load("autoencoderr")
