"""`tinynet crossvalidate`: its division, what it leaves, and that a stop changes nothing of the result."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import hide_matplotlib

import tinynet as tn
from tinynet import cli, metrics
from tinynet.data import scan_folder
from tinynet.data.folder import read_list
from tinynet.data.splits import cross_validation_parts, folds_by_patient
from tinynet.errors import ArgumentError, DataError, ModelFileError
from tinynet.runs import RunConfig, pooled, predictions
from tinynet.runs.crossvalidation import best_threshold, cross_validate, fold_config
from tinynet.runs.data import load, load_as_trained
from tinynet.runs.predictions import Predictions

pytest.importorskip("PIL.Image")
from tinynet.data.synthetic import write_folder

FOLDS = 3


@pytest.fixture(autouse=True, scope="module")
def surroundings(tmp_path_factory):
    """NumPy's kernels, which compile nothing, and no plots: the runs are tiny."""
    with pytest.MonkeyPatch.context() as patch, tn.kernels.using("numpy"):
        patch.setenv("TINYNET_KERNELS", "numpy")
        patch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        hide_matplotlib(patch)
        yield


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """96 synthetic cells of 16 patients, one more file that is no image, and a list that doubts six."""
    folder = write_folder(tmp_path_factory.mktemp("cells"), 96, (30, 40), seed=1, patients=16)
    found = scan_folder(folder)
    (folder / "list.txt").write_text("# doubted\n" + "\n".join(found.names[5:90:16]) + "\n")
    return folder


@pytest.fixture(scope="module")
def config(cells):
    return RunConfig(
        data=str(cells), exclude=str(cells / "list.txt"), size=16, epochs=1, batch_size=32, folds=FOLDS
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder and the result of a cross-validation that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, cross_validate(config, folder, verbose=0)


def command(cells, folder, *more):
    return [
        "crossvalidate", "--data", str(cells), "--size", "16", "--epochs", "1", "--batch-size", "32",
        "--folds", str(FOLDS), "--out", str(folder), "--quiet", *more,
    ]  # fmt: skip


def same_bytes(one, other, names):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


TEST_FILES = [
    f"fold-{number}/{name}.csv" for number in range(1, FOLDS + 1) for name in ("validation", "test")
]


# The division.


def test_validation_patients_come_from_the_other_folds():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), rng.integers(20, 60, 60))
    labels = (rng.random(len(patients)) < 0.6) & (patients < 45)
    tested = []
    for fold in range(1, 6):
        parts = cross_validation_parts(labels.astype(int), patients, fold)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
        people = [set(patients[part]) for part in parts]
        assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
        for part, share in zip(parts, (0.72, 0.08, 0.20), strict=True):
            assert abs(len(part) / len(labels) - share) < 0.02
            assert abs(labels[part].mean() - labels.mean()) < 0.06
        tested.append(parts[2])
    assert all(
        np.array_equal(one, other)
        for one, other in zip(tested, folds_by_patient(labels.astype(int), patients), strict=True)
    )


def test_by_image_every_cell_is_tested_once():
    labels = np.tile([0, 1, 1], 60)
    tests = [cross_validation_parts(labels, None, fold, 4)[2] for fold in range(1, 5)]
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(180))


@pytest.mark.parametrize("fold", [0, 6, 1.0, True, None])
def test_a_fold_that_there_is_none_of(fold):
    with pytest.raises(ArgumentError, match="the fold must be an integer from 1 to 5"):
        cross_validation_parts(np.tile([0, 1], 50), None, fold)


@pytest.mark.parametrize("split", ["patient", "image"])
def test_what_is_excluded_moves_nobody_to_another_fold(config, split):
    """So that models trained with and without the doubted labels meet the same test cells."""
    for fold in range(1, FOLDS + 1):
        without = load(replace(config, fold=fold, split=split), 16, progress=False)
        with_all = load(replace(config, fold=fold, split=split, exclude=None, seed=9), 16, progress=False)
        assert 0 < (~without.kept).sum() == len(with_all.names) - without.kept.sum()
        for part in ("training", "validation", "test"):
            kept = [place for place in getattr(with_all, part) if without.kept[place]]
            assert getattr(without, part).tolist() == kept
        assert np.array_equal(without.test_with_excluded(), with_all.test)


# What it does and leaves.


def test_every_cell_is_predicted_once_by_a_model_that_saw_none_of_its_patient(whole, config):
    folder, result = whole
    found = result.predictions
    assert sorted(found.images) == sorted(scan_folder(config.data).names)
    assert result.done == [1, 2, 3]
    for number in result.done:
        data = load(replace(config, fold=number), 16, progress=False)
        learned = set(data.patients[np.concatenate([data.training, data.validation])])
        assert not learned & set(found.patients[found.folds == number])
        model = tn.load(folder / f"fold-{number}" / "model.safetensors")
        own = found.select(found.folds == number)
        assert own.images == [data.names[place] for place in data.test_with_excluded()]
        said = model.predict(data.images[data.test_with_excluded()])[:, 1]
        assert own.probabilities.astype(np.float32) == pytest.approx(said, abs=1e-7)


def test_excluded_cells_are_predicted_and_marked_but_not_learned_from(whole, config):
    folder, result = whole
    listed = read_list(config.exclude)
    found = result.predictions
    assert sorted(np.array(found.images)[found.doubted]) == sorted(listed)
    told = json.loads((folder / "fold-1" / "metrics.json").read_text())
    own = found.select(found.folds == 1)
    assert told["test"]["n"] == (~own.doubted).sum() and told["test_all_labels"]["n"] == len(own)
    assert told["images"]["training"] + told["images"]["validation"] + told["test"]["n"] == 96 - len(listed)


def test_every_fold_starts_from_another_network(config):
    seeds = [fold_config(replace(config, seed=seed), fold).seed for seed in (0, 1) for fold in (1, 2, 3)]
    assert seeds == list(range(6))


def test_a_fold_is_a_run_that_evaluate_can_divide_as_it_was(whole, config, capsys):
    folder, result = whole
    model = folder / "fold-2" / "model.safetensors"
    words = [
        "evaluate",
        model,
        "--data",
        config.data,
        "--exclude",
        config.exclude,
        "--part",
        "test",
        "--json",
    ]
    assert cli.main([str(word) for word in words]) == 0
    told = json.loads(capsys.readouterr().out)
    own = result.predictions.select((result.predictions.folds == 2) & ~result.predictions.doubted)
    assert told["n"] == len(own)
    assert told["auc"] == metrics.auc(own.labels, own.probabilities)


@pytest.mark.parametrize("fold", ["1 of 3", [1], [1.0, 3], [4, 3]])
def test_a_model_file_that_names_no_possible_fold_is_not_divided(whole, config, tmp_path, fold):
    folder, _ = whole
    model = tn.load(folder / "fold-2" / "model.safetensors")
    model.provenance["fold"] = fold
    with pytest.raises(ArgumentError, match="fold"):
        load_as_trained(model, "the model", config.data, config.exclude, "--part test", progress=False)


def test_a_stop_in_a_fold_changes_nothing_and_what_is_done_is_not_done_again(
    whole, config, tmp_path, monkeypatch
):
    folder, result = whole
    from tinynet.callbacks import BackupAndRestore

    saved, original = [], BackupAndRestore.on_epoch_end

    def stopping(self, *arguments, **named):
        original(self, *arguments, **named)
        saved.append(None)
        if len(saved) == 5:  # a fold has 1 + 1 + 1 epochs: in the second stage of the second
            raise KeyboardInterrupt

    monkeypatch.setattr(BackupAndRestore, "on_epoch_end", stopping)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(config, tmp_path, verbose=0)
    assert [(tmp_path / name).exists() for name in ("fold-1/test.csv", "fold-2/test.csv", "fold-3")] == [
        True, False, False,
    ]  # fmt: skip
    before = (tmp_path / "fold-1" / "test.csv").stat().st_mtime_ns
    again = cross_validate(config, tmp_path, verbose=0)
    assert len(saved) == 5 + 1 + 3
    assert (tmp_path / "fold-1" / "test.csv").stat().st_mtime_ns == before
    assert same_bytes(folder, tmp_path, TEST_FILES)
    assert again.thresholds == result.thresholds


def test_a_stop_after_training_and_before_predicting_trains_nothing_again(
    whole, config, tmp_path, monkeypatch
):
    folder, _ = whole
    from tinynet.callbacks import BackupAndRestore
    from tinynet.runs import crossvalidation

    def stop(*arguments):
        raise KeyboardInterrupt

    def trained(*arguments):
        raise AssertionError("an epoch was trained again")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(crossvalidation, "_predict", stop)
        cross_validate(config, tmp_path, 3, verbose=0)
    assert not (tmp_path / "fold-3" / "test.csv").exists()
    monkeypatch.setattr(BackupAndRestore, "on_epoch_end", trained)
    assert cross_validate(config, tmp_path, 3, verbose=0).done == [3]
    assert same_bytes(folder, tmp_path, ["fold-3/validation.csv", "fold-3/test.csv"])


def test_one_fold_alone_is_pooled_as_what_it_is(whole, cells, tmp_path, capsys):
    folder, _ = whole
    exclude = ["--exclude", str(cells / "list.txt")]
    assert cli.main(command(cells, tmp_path, *exclude, "--fold", "2", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folds_done"] == [2]
    assert same_bytes(folder, tmp_path, ["fold-2/test.csv"])
    assert "only 1 of 3 folds" in (tmp_path / "crossvalidation.md").read_text()


def test_quantized_models_are_measured_beside_the_trained_ones(whole, config, cells, tmp_path, capsys):
    folder, result = whole
    shutil.copytree(folder, tmp_path / "cv")
    words = command(
        cells, tmp_path / "cv", "--exclude", str(cells / "list.txt"), "--quantize", "int8", "--json"
    )
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["number_format"] == "int8" and told["folds_done"] == [1, 2, 3]
    assert same_bytes(folder, tmp_path / "cv", TEST_FILES)
    found = predictions.read(tmp_path / "cv" / "predictions-int8.csv")
    assert found.images == result.predictions.images
    model = tn.load(tmp_path / "cv" / "fold-2" / "model-int8.safetensors")
    assert model.number_format == "int8"
    data = load(replace(config, fold=2), 16, progress=False)
    said = model.predict(data.images[data.test_with_excluded()])[:, -1]
    assert found.probabilities[found.folds == 2] == pytest.approx(said, abs=1e-7)
    assert np.abs(found.probabilities - result.predictions.probabilities).max() < 0.1
    assert "measured in int8" in (tmp_path / "cv" / "crossvalidation-int8.md").read_text()
    assert not (tmp_path / "cv" / "predictions.csv").exists()


def test_trained_models_are_measured_again_in_eight_views(
    whole, config, cells, tmp_path, capsys, monkeypatch
):
    folder, result = whole
    shutil.copytree(folder, tmp_path / "cv")
    monkeypatch.setattr("tinynet.runs.crossvalidation.train_in", None)  # would raise
    words = command(cells, tmp_path / "cv", "--exclude", str(cells / "list.txt"), "--views", "8", "--json")
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["views"] == 8 and told["number_format"] == "float32" and told["folds_done"] == [1, 2, 3]
    assert "--views 8" in told["command"]
    found = predictions.read(tmp_path / "cv" / "predictions-8views.csv")
    assert found.images == result.predictions.images
    for number, threshold in zip(told["folds_done"], told["thresholds"], strict=True):
        place = tmp_path / "cv" / f"fold-{number}"
        model = tn.load(place / "model.safetensors")
        data = load(fold_config(config, number), 16, progress=False)
        said = model.predict(data.images[data.test_with_excluded()], views=8)[:, -1]
        assert found.probabilities[found.folds == number] == pytest.approx(said, abs=1e-7)
        held = predictions.read(place / "validation-8views.csv")
        said = model.predict(data.images[data.validation], views=8)[:, -1]
        assert held.probabilities == pytest.approx(said, abs=1e-7)
        assert threshold == best_threshold(held)
        assert set(held.thresholds) == {model.threshold}
    assert same_bytes(folder, tmp_path / "cv", TEST_FILES)
    assert "over 8 views of the cell" in (tmp_path / "cv" / "crossvalidation-8views.md").read_text()
    assert not (tmp_path / "cv" / "predictions.csv").exists()
    with pytest.raises(ArgumentError, match="--views must be 1 or 8, got 4"):
        cross_validate(config, tmp_path / "cv", views=4, verbose=0)


def test_quantized_models_are_measured_in_eight_views_as_they_are(whole, config, tmp_path, monkeypatch):
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "cv")
    options = {"number_format": "int8", "threshold": "model", "verbose": 0}
    one = cross_validate(config, tmp_path / "cv", 2, **options)
    made = tmp_path / "cv" / "fold-2" / "model-int8.safetensors"
    before = made.read_bytes()
    monkeypatch.setattr("tinynet.runs.crossvalidation.quantize", None)  # would raise
    eight = cross_validate(config, tmp_path / "cv", 2, views=8, **options)
    assert (one.suffix, eight.suffix) == ("-int8", "-int8-8views")
    assert made.read_bytes() == before and one.thresholds == eight.thresholds == [tn.load(made).threshold]
    data = load(fold_config(config, 2), 16, progress=False)
    said = tn.load(made).predict(data.images[data.test_with_excluded()], views=8)[:, -1]
    assert eight.predictions.probabilities == pytest.approx(said, abs=1e-7)
    assert (tmp_path / "cv" / "fold-2" / "validation-int8-8views.csv").exists()


# Thresholds.


def cells_of(labels, probabilities, **others):
    n = len(labels)
    names = [f"{('Uninfected', 'Parasitized')[label]}/C{k}_cell" for k, label in enumerate(labels)]
    values = {
        "images": names, "patients": np.arange(n), "folds": np.ones(n, np.int64),
        "labels": np.array(labels), "doubted": None, "probabilities": np.array(probabilities, float),
        "thresholds": np.full(n, 0.5),
    }  # fmt: skip
    return Predictions(**{**values, **others})


@pytest.mark.parametrize(
    ("labels", "probabilities", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], 0.25),
        ([0, 0, 1, 1], [0.1, 0.6, 0.8, 0.9], 0.7),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.5),
        ([0, 1, 0, 1, 1], [0.1, 0.3, 0.5, 0.7, 0.9], 0.6),  # 0.2 gets as many right
        ([1, 1], [0.2, 0.3], 0.0),
    ],
)
def test_the_best_threshold_is_the_one_nearest_to_one_half(labels, probabilities, threshold):
    assert best_threshold(cells_of(labels, probabilities)) == pytest.approx(threshold)


def test_no_threshold_gets_more_right():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 200)
    scores = np.round(np.clip(0.3 * labels + 0.7 * rng.random(200), 0, 1), 2)
    best = best_threshold(cells_of(labels, scores))
    right = [np.mean((scores >= cut) == labels) for cut in np.linspace(0, 1, 1001)]
    assert np.mean((scores >= best) == labels) == max(right)


def test_each_fold_is_judged_at_its_own_threshold(whole):
    folder, result = whole
    for number, threshold in zip(result.done, result.thresholds, strict=True):
        held = predictions.read(folder / f"fold-{number}" / "validation.csv")
        assert threshold == best_threshold(held)
        assert not set(held.images) & set(predictions.read(folder / f"fold-{number}" / "test.csv").images)
        assert not held.doubted.any()
        assert set(result.predictions.thresholds[result.predictions.folds == number]) == {threshold}


# The tables.


def test_json_and_table_hold_both_label_sets_and_every_fold(whole, tmp_path):
    _, result = whole
    told = pooled.measure(result, "the command", "accuracy")
    pooled.write(tmp_path, result, told)
    assert json.loads((tmp_path / "crossvalidation.json").read_text()) == told
    found = predictions.read(tmp_path / "predictions.csv")
    assert found.images == result.predictions.images
    assert np.array_equal(found.thresholds, result.predictions.thresholds)
    assert told["training_labels"] == "all labels but those of the 6 images that list.txt lists"
    for name, cells in {"suspicious_removed": found.select(~found.doubted), "all_labels": found}.items():
        part = told["sets"][name]
        right = (cells.probabilities >= cells.thresholds) == cells.labels
        assert part["n"] == len(cells) and part["accuracy"] == right.mean()
        assert part["patients"] == 16 and part["interval_method"] == "patient-bootstrap"
        for figure in pooled.FIGURES:
            assert part["intervals"][figure] is None or part["intervals"][figure][0] <= part[figure]
        assert [fold["n"] for fold in part["folds"]] == [int((cells.folds == k).sum()) for k in (1, 2, 3)]
        assert [fold["accuracy"] for fold in part["folds"]] == [
            right[cells.folds == k].mean() for k in (1, 2, 3)
        ]
    text = (tmp_path / "crossvalidation.md").read_text()
    assert "Tested on: suspicious removed (90 cells of 16 patients)" in text
    assert "Tested on: all labels (96 cells of 16 patients)" in text
    assert "at the threshold that gets most of that fold's validation part right. The 95 %" in text
    assert f"| accuracy | {told['sets']['all_labels']['accuracy']:.4f} |" in text
    assert text.rstrip().endswith("Not a medical device; for research and teaching.")


def test_doubted_labels_may_be_learned_from_and_marked_afterwards(cells, tmp_path, capsys):
    assert cli.main(command(cells, tmp_path, "--split", "image", "--json")) == 0
    ran = capsys.readouterr()
    first = json.loads(ran.out)
    assert "optimistic" in ran.err
    assert first["training_labels"] == "all labels" and list(first["sets"]) == ["all_labels"]
    listed = ["--split", "image", "--doubted", str(cells / "list.txt"), "--json"]
    assert cli.main(command(cells, tmp_path, *listed)) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["training_labels"] == "all labels, those of the 6 images whose label is doubted too"
    assert second["sets"]["all_labels"] == first["sets"]["all_labels"]
    assert second["sets"]["suspicious_removed"]["n"] == 90
    assert "Optimistic" in (tmp_path / "crossvalidation.md").read_text()


# What is refused.


def test_a_folder_of_another_cross_validation_is_not_gone_on_with(whole, config, tmp_path):
    folder, _ = whole
    for change, words in (
        ({"epochs": 2}, "--epochs 1, not 2"),
        ({"seed": 1}, "--seed 0, not 3"),
        ({"exclude": None}, "--exclude a list, not none"),
    ):
        with pytest.raises(ArgumentError, match=words):
            cross_validate(replace(config, **change), folder, verbose=0)


def test_folds_of_other_data_are_not_pooled(whole, config, tmp_path):
    folder, _ = whole
    for number in (1, 2):
        place = tmp_path / f"fold-{number}"
        place.mkdir()
        for name in ("config.json", "data.json", "test.csv", "validation.csv"):
            content = (folder / f"fold-{number}" / name).read_text()
            if number == 2 and name == "data.json":
                content = json.dumps({**json.loads(content), "digest": "another"})
            (place / name).write_text(content)
    with pytest.raises(ModelFileError, match="different data"):
        cross_validate(config, tmp_path, 1, verbose=0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "x"], "give --data DIR"),
        (["--data", "d", "--out", "x", "--exclude", "a", "--doubted", "b"], "not both"),
        (["--data", "d", "--out", "x", "--fold", "6"], "--fold must be a whole number from 1 to 5, got 6"),
        (["--data", "d", "--out", "x", "--folds", "1"], "--folds must be a whole number from 2 to 50"),
        (["--data", "d", "--out", "x", "--doubted", "no-such-list"], "no-such-list does not exist"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words, sentence, capsys):
    assert cli.main(["crossvalidate", *words]) == 1
    told = capsys.readouterr().err
    assert sentence in told and len(told.splitlines()) == 1


def test_train_takes_a_fold_and_no_folds_without_one(cells, tmp_path, capsys):
    assert cli.main(["train", "--data", str(cells), "--folds", "4", "--out", str(tmp_path / "x")]) == 1
    assert "give both, or neither" in capsys.readouterr().err
    assert cli.main(["train", "--fold", "1", "--out", str(tmp_path / "x")]) == 1
    assert "--fold needs a folder of cells" in capsys.readouterr().err


# The file of predictions.


def test_predictions_come_back_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.random(9).astype(np.float32).astype(np.float64)
    for doubted in (None, np.arange(9) % 2 == 0):
        written = cells_of([0, 1, 1] * 3, values, doubted=doubted, thresholds=rng.random(9))
        written.write(tmp_path / "p.csv")
        back = predictions.read(tmp_path / "p.csv")
        assert back.images == written.images
        for name in ("patients", "folds", "labels", "thresholds"):
            assert np.array_equal(getattr(back, name), getattr(written, name))
        assert np.array_equal(back.probabilities.astype(np.float32), values.astype(np.float32))
        assert (back.doubted is None) if doubted is None else np.array_equal(back.doubted, doubted)


HEADER = "image,patient,fold,label,doubted,probability,threshold\n"
GOOD = "Uninfected/C3_a,3,1,0,,0.25,0.5\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no predictions: its first line"),
        ("path,label,probability\n", "holds no predictions: its first line"),
        (HEADER, "only a first line"),
        (HEADER + GOOD + GOOD, "there twice"),
        (HEADER + GOOD + "Uninfected/C3_b,3,1\n", "line 3: 3 values, wanted are 7"),
        (HEADER + "Uninfected/C3_a,3,1,2,,0.25,0.5\n", "line 2: label must be 0 or 1"),
        (HEADER + "Uninfected/C3_a,3,1,1,,0.25,0.5\n", "line 2: image must begin with Parasitized/"),
        (HEADER + "Uninfected/C3_a,3,1,0,,nan,0.5\n", "line 2: probability must be a number from 0 to 1"),
        (HEADER + "Uninfected/C3_a,3,1,0,,0.25,2\n", "line 2: threshold must be a number from 0 to 1"),
        (HEADER + "Uninfected/C3_a,4,1,0,,0.25,0.5\n", "line 2: patient '4' is not"),
        (HEADER + "Uninfected/C3_a,3,one,0,,0.25,0.5\n", "line 2: fold must be a whole number"),
        (HEADER + '"Uninfected/C3_a', "line 2: "),
    ],
)
def test_a_file_that_holds_no_predictions_is_refused(text, words, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as refused:
        predictions.read(path)
    assert str(path) in str(refused.value)


def test_folds_that_share_a_cell_are_not_pooled():
    part = cells_of([0, 1], [0.1, 0.9])
    with pytest.raises(DataError, match="in the test part of two folds"):
        predictions.join([part, part])
