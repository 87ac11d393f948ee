"""Temperature and threshold: the best ones, chosen on cells kept for that, in the file, used by commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import cli, kernels
from tinynet.calibration import HIGHEST, LOWEST, best_temperature, calibrate, log_loss
from tinynet.data.synthetic import write_folder
from tinynet.errors import ArgumentError, DataError, NonFiniteError, ShapeError
from tinynet.runs import RunConfig
from tinynet.runs.calibration import recalibrate
from tinynet.runs.data import load


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
    with kernels.using("numpy"):
        yield


def drawn(temperature: float, classes: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with the probabilities that softmax(logits / temperature) gives."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 3, (count, classes))
    powers = np.exp(logits / temperature)
    levels = np.cumsum(powers / powers.sum(axis=1, keepdims=True), axis=1)
    return logits, np.minimum((rng.random((count, 1)) > levels).sum(axis=1), classes - 1)


# The temperature.


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(truth, classes):
    assert best_temperature(*drawn(truth, classes)) == pytest.approx(truth, rel=0.12)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.3, 3.0))
def test_no_other_temperature_has_a_lower_loss(seed, classes, scale):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, scale, (60, classes)), rng.integers(0, classes, 60)
    logits[np.arange(60), labels] += 0.5
    found = best_temperature(logits, labels)
    tried = [log_loss(logits, labels, t) for t in np.geomspace(LOWEST, HIGHEST, 400)]
    if found is None:  # the least is at an end
        assert min(tried) in (pytest.approx(tried[0]), pytest.approx(tried[-1]))
    else:
        assert log_loss(logits, labels, found) <= min(tried) + 1e-12
        for other in (0.999 * found, 1.001 * found):
            assert log_loss(logits, labels, found) <= log_loss(logits, labels, other)


def test_the_loss_is_the_cross_entropy_of_the_loss_function():
    logits, labels = drawn(1.0, 3, 50)
    expected = tn.functional.softmax_cross_entropy(logits / 1.7, labels).item()
    assert log_loss(logits, labels, 1.7) == pytest.approx(expected)


def test_one_logit_of_a_sigmoid_is_two_of_a_softmax():
    logits, labels = drawn(1.6, 2)
    one = logits[:, 1:] - logits[:, :1]
    assert best_temperature(one, labels) == pytest.approx(best_temperature(logits, labels))
    expected = tn.functional.binary_cross_entropy(one / 2, labels).item()
    assert log_loss(one, labels, 2.0) == pytest.approx(expected)


def test_large_logits_do_not_overflow():
    logits, labels = drawn(1.0, 2, 200)
    assert best_temperature(logits * 1000, labels) is None  # it would be 1000
    assert np.isfinite(log_loss(logits * 1000, labels))
    assert best_temperature(logits * 15, labels) == pytest.approx(15 * best_temperature(logits, labels))


def test_where_no_temperature_is_best_there_is_none():
    right = np.array([[2.0, -1.0], [-1.0, 3.0]])
    assert best_temperature(right, np.array([0, 1])) is None  # the lower the better
    assert best_temperature(right, np.array([1, 0])) is None  # the higher the better
    assert best_temperature(np.zeros((4, 2)), np.array([0, 1, 0, 1])) is None  # all the same


@pytest.mark.parametrize(
    ("logits", "labels", "error"),
    [
        (np.zeros(3), np.zeros(3, int), ShapeError),
        (np.zeros((3, 2)), np.zeros(2, int), ShapeError),
        (np.zeros((0, 2)), np.zeros(0, int), ShapeError),
        (np.array([[np.nan, 1.0]]), np.array([0]), NonFiniteError),
        (np.zeros((2, 2)), np.array([0, 2]), ArgumentError),
    ],
)
def test_what_are_no_logits_and_labels_is_refused(logits, labels, error):
    with pytest.raises(error, match="calibration"):
        best_temperature(logits, labels)


# A model.


def classifier(ending: str = "softmax") -> tn.Sequential:
    last = tn.Dense(2, "softmax") if ending == "softmax" else tn.Dense(1, "sigmoid")
    return tn.Sequential(
        [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(4), tn.Flatten(), last],
        (16, 16, 3), class_names=("uninfected", "infected"),
    )  # fmt: skip


def images(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
    return x, (x[:, :, :, 0].mean(axis=(1, 2)) > x[:, :, :, 1].mean(axis=(1, 2))).astype(int)


@pytest.mark.parametrize("ending", ["softmax", "sigmoid"])
def test_a_model_has_the_best_temperature_then_the_threshold_of_its_probabilities(ending):
    model, (x, y) = classifier(ending), images()
    found = calibrate(model, x, y, min_sensitivity=0.9)
    best = best_temperature(model.logits(x), y)
    assert best is not None, "or the test shows nothing"
    assert model.temperature == found["temperature"] == pytest.approx(best, rel=1e-5)
    assert found["loss"][1] < found["loss"][0]
    called = model.predict(x)[:, -1] >= model.threshold
    assert called[y == 1].mean() >= 0.9
    assert found["sensitivity"] == round(called[y == 1].mean(), 4)
    assert found["specificity"] == round((~called[y == 0]).mean(), 4)
    scores = np.unique(model.predict(x)[:, -1])
    next_score = scores[scores >= model.threshold][1]
    assert (model.predict(x)[y == 1, -1] >= next_score).mean() < 0.9  # no higher threshold would do


def test_what_was_chosen_travels_in_the_file(tmp_path):
    model, (x, y) = classifier(), images()
    calibrate(model, x, y, min_sensitivity=0.9)
    model.save(tmp_path / "m.safetensors")
    loaded = tn.load(tmp_path / "m.safetensors")
    assert (loaded.temperature, loaded.threshold) == (model.temperature, model.threshold)
    assert loaded.provenance["calibrated"] == model.provenance["calibrated"]
    assert np.array_equal(loaded.predict(x), model.predict(x))


def test_without_a_least_sensitivity_the_threshold_stays_and_without_a_temperature_that_does():
    model, (x, y) = classifier(), images()
    model.threshold = 0.3
    assert "threshold" not in calibrate(model, x, y) and model.threshold == 0.3
    model = classifier()
    assert "temperature" not in calibrate(model, x, y, temperature=False, min_sensitivity=0.5)
    assert model.temperature == 1.0


def test_a_temperature_that_the_cells_do_not_determine_stays_and_that_is_said(capsys):
    model, (x, _) = classifier(), images(40)
    calibrate(model, x, model.logits(x).argmax(axis=1))  # all right
    assert model.temperature == 1.0
    assert "do not determine a temperature: it stays 1" in capsys.readouterr().err


def test_nothing_to_choose_with_is_refused():
    model, (x, _) = classifier(), images(4)
    with pytest.raises(DataError, match="no cells to calibrate with"):
        calibrate(model, x[:0], np.zeros(0, int))
    with pytest.raises(DataError, match="no infected cells"):
        calibrate(model, x, np.zeros(4, int), min_sensitivity=0.9)


# From a file, and by the command.


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("cells"), 120, (24, 30), seed=3, patients=24)


@pytest.fixture
def trained(cells, tmp_path):
    """A model that a training of `cells` might have left, and how it divided them."""
    data = load(RunConfig(data=str(cells), seed=5), 16, progress=False)
    model = classifier()
    model.provenance = {"split": "patient", "seed": 5, "data": data.digest()}
    model.metrics = {"test": {"n": 1}}
    model.save(tmp_path / "trained.safetensors")
    return str(tmp_path / "trained.safetensors"), data


def test_it_is_chosen_on_the_validation_patients_alone(trained, cells):
    path, data = trained
    model, expected = tn.load(path), tn.load(path)
    found = recalibrate(model, path, str(cells), min_sensitivity=0.95)
    part = data.validation
    calibrate(expected, data.images[part], data.labels[part], min_sensitivity=0.95)
    assert (model.temperature, model.threshold) == (expected.temperature, expected.threshold)
    assert found["calibrated"]["cells"] == len(part)
    assert found["test"]["n"] == len(data.test) == model.metrics["test"]["n"]
    assert found["test"]["threshold"] == model.threshold


def test_the_trainings_own_data_is_refused_as_a_whole(trained, cells):
    path, _ = trained
    with pytest.raises(ArgumentError, match="flatters their figures; --part validation"):
        recalibrate(tn.load(path), path, str(cells), part="all")


def test_a_file_that_does_not_say_how_its_data_was_divided_needs_another_folder(cells, tmp_path):
    with pytest.raises(ArgumentError, match="--part all takes all cells of a folder"):
        recalibrate(classifier(), "model", str(cells))
    model = classifier()
    model.metrics = {"test": {"n": 1}}
    found = recalibrate(model, "model", str(cells), part="all", min_sensitivity=0.9)
    assert found["calibrated"]["cells"] == 120 and model.metrics == {}


def test_the_command_makes_a_file_that_predict_evaluate_and_summary_take(trained, cells, tmp_path, capsys):
    path, _ = trained
    out = str(tmp_path / "new.safetensors")
    command = ["calibrate", path, "--data", str(cells), "--min-sensitivity", "0.95", "--out", out]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "temperature" in printed and "0.95 was asked for" in printed
    assert "with 1 % of cells infected: of 10,000 cells" in printed
    assert "Not a medical device; for research and teaching." in printed
    model = tn.load(out)
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibrated"]["threshold"] == model.threshold

    assert cli.main(["evaluate", out, "--data", str(cells), "--part", "test", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["threshold"] == model.threshold != figures["at_half"]["threshold"] == 0.5
    assert cli.main(["summary", out]) == 0
    said = capsys.readouterr().out
    assert f"{model.threshold:.4g} (of the last class; temperature {model.temperature:.4g})" in said
    assert '"min_sensitivity": 0.95' in said
    assert cli.main(["predict", out, str(cells), "--json", "--any-picture"]) == 0
    for entry in json.loads(capsys.readouterr().out):
        assert (entry["label"] == "infected") == (entry["probability"] >= model.threshold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-sensitivity", "99"], "--min-sensitivity must be a number from 0 to 1, got 99"),
        (["--keep-temperature"], "leaves nothing to choose"),
    ],
)
def test_senseless_options_of_the_command_are_refused(trained, cells, tmp_path, capsys, options, message):
    out = tmp_path / "new.safetensors"
    assert cli.main(["calibrate", trained[0], "--data", str(cells), "--out", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
