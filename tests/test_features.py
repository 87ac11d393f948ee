"""A layer's numbers as features, and the classical classifiers that learn from them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from tinynet.models import autoencoder

import tinynet as tn
from tinynet import cli, kernels
from tinynet.data.synthetic import synthetic_cells, write_folder
from tinynet.errors import ArgumentError, DataError, MissingDependencyError, ShapeError
from tinynet.features import FeatureClassifier, features, narrowest_layer
from tinynet.runs import RunConfig
from tinynet.runs.data import load


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
    with kernels.using("numpy"):
        yield


MODEL = autoencoder(16, seed=1)
CELLS = synthetic_cells(300, size=16, seed=4)


def test_features_are_the_layers_activations_in_order_of_the_images():
    found = features(MODEL, CELLS.images, "encoder2")
    with_all = MODEL.activations(CELLS.images[250:300])["encoder2"]
    assert found.shape == (300, 8 * 8 * 8) and found.dtype == np.float32
    np.testing.assert_allclose(found[250:], with_all.reshape(50, -1), rtol=1e-5, atol=1e-6)


def test_several_layers_are_joined_and_none_is_the_narrowest():
    assert narrowest_layer(MODEL) == "pool3"
    joined = features(MODEL, CELLS.images[:20], ["pool3", "pool1"])
    assert np.array_equal(joined[:, : 2 * 2 * 4], features(MODEL, CELLS.images[:20]))
    assert np.array_equal(joined[:, 2 * 2 * 4 :], features(MODEL, CELLS.images[:20], "pool1"))


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("pool9", ArgumentError, "has no layer 'pool9'; it has input, encoder1"),
        ([], ArgumentError, "at least one layer"),
        (["pool1", "pool1"], ArgumentError, "twice"),
    ],
)
def test_layers_that_are_not_there_are_refused(layer, error, message):
    with pytest.raises(error, match=message):
        features(MODEL, CELLS.images[:2], layer)


def test_what_has_no_features_is_refused():
    with pytest.raises(DataError, match="no images"):
        features(MODEL, CELLS.images[:0])
    vectors = tn.Sequential([tn.Dense(2, "softmax")], (5,))
    with pytest.raises(ArgumentError, match="so name a layer"):
        narrowest_layer(vectors)


def test_pooled_features_are_each_channels_quantiles_and_deviation():
    maps = MODEL.activations(CELLS.images[:9])["encoder1"].reshape(9, -1, 16)
    found = features(MODEL, CELLS.images[:9], "encoder1", pooled=True).reshape(9, 10, 16)
    np.testing.assert_allclose(found[:, 0], maps.min(axis=1))
    np.testing.assert_allclose(found[:, 4], np.median(maps, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found[:, 8], maps.max(axis=1))
    np.testing.assert_allclose(found[:, 9], maps.std(axis=1), rtol=1e-4, atol=1e-6)


def test_pooled_pixels_do_not_tell_how_a_cell_lies():
    turned = np.ascontiguousarray(np.rot90(CELLS.images[:9], 1, axes=(1, 2)))
    before, after = (features(MODEL, x, "input", pooled=True) for x in (CELLS.images[:9], turned))
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


def test_the_residual_is_what_the_reconstruction_leaves_out_of_the_cell():
    x = CELLS.images[:9]
    found = features(MODEL, x, "residual").reshape(x.shape)
    cell = x.max(axis=-1) > 0
    assert not found[~cell].any() and (~cell).any()
    np.testing.assert_allclose(found[cell], (x / 255 - MODEL.predict(x))[cell], atol=1e-5)
    with pytest.raises(ArgumentError, match="reconstructs nothing, so it has no residual"):
        features(tn.Sequential([tn.Flatten(), tn.Dense(2)], (16, 16, 3)), x, "residual")


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of very different widths along the axes; the last feature never varies."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    x = rng.normal(0, 1, (count, 3))
    x[:, 0] += 3 * labels
    x[:, 1] *= 1000
    x[:, 2] = 7
    return x, labels


@pytest.mark.parametrize("kind", ["knn", "svm"])
def test_each_classifier_tells_two_clouds_apart_whatever_their_scale(kind):
    pytest.importorskip("sklearn")
    fitted = FeatureClassifier(kind).fit(*drawn(400, 0))
    x, labels = drawn(400, 1)
    answers = fitted.predict(x)
    assert answers.min() >= 0 and answers.max() <= 1
    assert ((answers >= 0.5) == labels).mean() > 0.88  # the best possible is 0.933
    assert np.array_equal(answers, FeatureClassifier(kind).fit(*drawn(400, 0)).predict(x))


def test_a_share_of_neighbours_is_what_is_predicted():
    pytest.importorskip("sklearn")
    x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1]])
    fitted = FeatureClassifier("knn", neighbours=3).fit(x, np.array([0, 1, 1, 0, 0]))
    np.testing.assert_allclose(fitted.predict([[0.1], [8.0]]), [2 / 3, 1 / 3])
    everyone = FeatureClassifier("knn", neighbours=50).fit(x, np.array([0, 1, 1, 0, 0]))
    np.testing.assert_allclose(everyone.predict([[0.1]]), [2 / 5])


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: FeatureClassifier("forest"), ArgumentError, "one of knn, svm"),
        (lambda: FeatureClassifier("svm", penalty=0), ArgumentError, "penalty"),
        (lambda: FeatureClassifier(neighbours=0), ArgumentError, "neighbours"),
        (lambda: FeatureClassifier().predict(np.zeros((1, 2))), ArgumentError, "not been fitted"),
        (lambda: FeatureClassifier().fit(np.zeros((3, 2)), np.zeros(2)), ShapeError, "n labels"),
        (lambda: FeatureClassifier().fit(np.zeros((3, 2)), np.zeros(3)), DataError, "one kind is missing"),
    ],
)
def test_what_cannot_be_learned_is_refused(act, error, message):
    with pytest.raises(error, match=message):
        act()


@pytest.mark.parametrize("kind", ["knn", "svm"])
def test_without_scikit_learn_the_sentence_says_what_brings_it(kind, monkeypatch):
    for name in ["sklearn", *(name for name in sys.modules if name.startswith("sklearn."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"tinynet-cnn\[classical\]"):
        FeatureClassifier(kind).fit(*drawn(40, 0))


# The command.


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("cells"), 150, (20, 24), seed=3, patients=30)


@pytest.fixture
def trained(cells, tmp_path):
    data = load(RunConfig(data=str(cells), seed=5), 16, progress=False)
    model = autoencoder(16, seed=1)
    model.provenance = {"split": "patient", "seed": 5, "data": data.digest()}
    model.save(tmp_path / "reconstruction.safetensors")
    return str(tmp_path / "reconstruction.safetensors"), data


def test_the_command_learns_from_the_training_part_and_measures_the_others(trained, cells, capsys):
    pytest.importorskip("sklearn")
    path, data = trained
    assert cli.main(["features", path, "--data", str(cells), "--classifier", "svm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == ["pool3"] and found["features"] == 16
    x = features(tn.load(path), data.images)
    fitted = FeatureClassifier("svm").fit(x[data.training], data.labels[data.training])
    for part in ("validation", "test"):
        places = getattr(data, part)
        right = ((fitted.predict(x[places]) >= 0.5) == data.labels[places]).mean()
        assert found[part]["n"] == len(places)
        assert found[part]["accuracy"] == pytest.approx(right)
    assert found["test"]["patients"] == len(set(data.patients[data.test]))
    assert "loss" not in found["test"]


def test_the_table_says_what_was_measured(trained, cells, capsys):
    pytest.importorskip("sklearn")
    options = ["--data", str(cells), "--layer", "pool3", "--layer", "pool2", "--neighbours", "5"]
    assert cli.main(["features", trained[0], *options]) == 0
    printed = capsys.readouterr().out
    assert "knn on 144 features of pool3 and pool2, " in printed
    assert cli.main(["features", trained[0], "--data", str(cells), "--layer", "residual", "--pool"]) == 0
    assert "knn on 30 pooled features of residual, " in capsys.readouterr().out
    assert "95 % interval" in printed and "Not a medical device" in printed


def test_a_division_that_the_file_does_not_know_is_given_and_one_it_knows_is_not(
    trained, cells, tmp_path, capsys
):
    pytest.importorskip("sklearn")
    MODEL.save(tmp_path / "unknown.safetensors")
    options = ["--data", str(cells), "--seed", "5"]
    assert cli.main(["features", str(tmp_path / "unknown.safetensors"), *options, "--split", "image"]) == 0
    said = capsys.readouterr()
    assert "no test cell may be among that" in said.err and "optimistic" in said.out
    assert cli.main(["features", trained[0], *options]) == 1
    assert "--split and --seed are in" in capsys.readouterr().err


def test_a_model_that_takes_no_pictures_is_refused(tmp_path, cells, capsys):
    tn.Sequential([tn.Dense(2, "softmax")], (5,)).save(tmp_path / "m.safetensors")
    assert cli.main(["features", str(tmp_path / "m.safetensors"), "--data", str(cells)]) == 1
    assert "does not take square RGB pictures" in capsys.readouterr().err
