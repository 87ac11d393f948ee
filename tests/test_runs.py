"""A whole training run: its stages, its folder, and that an interruption changes nothing of the result."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tinynet.models import classifier

import tinynet as tn
from tinynet import cli, files, kernels
from tinynet.data.augment import Augmentation
from tinynet.data.synthetic import write_folder
from tinynet.errors import ArgumentError, ModelFileError, TinynetError
from tinynet.optim import Optimizer
from tinynet.runs import RunConfig, train
from tinynet.runs.data import load

KERNELS = "numpy" if kernels.numba_problem() else "numba"

# 108 images for training: 2 steps an epoch; 2 epochs of reconstruction, 1 frozen, 4 whole: 14 steps.
# At this learning rate the last epoch is clearly not the best one.
CONFIG = RunConfig(synthetic=150, size=16, epochs=4, batch_size=64, seed=2, learning_rate=0.05)
STEPS = 14

ENCODER = [f"encoder{number}.{kind}" for number in (1, 2, 3) for kind in ("weight", "bias")]


@pytest.fixture(autouse=True, scope="module")
def surroundings():
    with pytest.MonkeyPatch.context() as patch, kernels.using(KERNELS):
        patch.setenv("TINYNET_KERNELS", KERNELS)
        yield


def hide_matplotlib(monkeypatch):
    """As where matplotlib is not installed; runs are faster, too."""
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def no_matplotlib(monkeypatch):
    hide_matplotlib(monkeypatch)


@dataclass
class Run:
    """A finished run, the metrics it returned, and the (seed, epoch, image) of every augmentation."""

    folder: Path
    result: dict
    augmented: set

    def checkpoint(self, stage: str) -> dict[str, np.ndarray]:
        """The weights after the stage's last epoch."""
        arrays, _ = files.load_checkpoint(self.folder / "checkpoints" / f"{stage}.safetensors")
        return {name.removeprefix("model/"): a for name, a in arrays.items() if name.startswith("model/")}


def carry_out(config: RunConfig, folder: Path) -> Run:
    seen: set[tuple[int, int, int]] = set()
    original = Augmentation.__call__

    def counting(self, images, seed, epoch, indices):
        seen.update((seed, epoch, int(index)) for index in indices)
        return original(self, images, seed, epoch, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Augmentation, "__call__", counting)
        return Run(folder, train(config, folder, command="the command", verbose=0), seen)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing interrupts; with plots where there is matplotlib."""
    return carry_out(CONFIG, tmp_path_factory.mktemp("runs") / "whole")


def column(path: Path, name: str) -> list[float]:
    with open(path, newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def weights(path: Path) -> dict[str, np.ndarray]:
    return files.load_model_file(path)[0]


def assert_same(one: Path, other: Path) -> None:
    """The two runs left bitwise the same, but for the time."""
    assert (one / "metrics.json").read_bytes() == (other / "metrics.json").read_bytes()
    histories = sorted(path.name for path in one.glob("history*.csv"))
    assert histories == sorted(path.name for path in other.glob("history*.csv"))
    assert "history.csv" in histories
    for name in histories:
        assert (one / name).read_bytes() == (other / name).read_bytes()
    models = sorted(path.name for path in one.glob("*.safetensors"))
    assert models == sorted(path.name for path in other.glob("*.safetensors"))
    assert "model.safetensors" in models
    for name in models:
        (first, told), (second, told_other) = (files.load_model_file(run / name) for run in (one, other))
        assert first.keys() == second.keys()
        assert all(first[key].tobytes() == second[key].tobytes() for key in first)
        for description in (told, told_other):
            description["provenance"].pop("trained", None)
        assert told == told_other


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The stages.


def test_the_frozen_stage_keeps_the_encoder_that_reconstruction_left(whole):
    reconstruction, frozen = weights(whole.folder / "reconstruction.safetensors"), whole.checkpoint("frozen")
    untrained = classifier(16, seed=CONFIG.seed).state()
    for name in ENCODER:
        assert np.array_equal(frozen[name], reconstruction[name])
    assert not np.array_equal(frozen["encoder1.weight"], untrained["encoder1.weight"])
    assert not np.array_equal(frozen["dense1.weight"], untrained["dense1.weight"])


def test_the_last_stage_trains_every_layer(whole):
    frozen, last = whole.checkpoint("frozen"), whole.checkpoint("classifier")
    assert [name for name in frozen if np.array_equal(frozen[name], last[name])] == []


def test_the_file_holds_the_epoch_of_the_lowest_validation_loss_not_the_last(whole):
    losses = column(whole.folder / "history.csv", "val_loss")
    assert len(losses) == CONFIG.epochs and losses[-1] > 1.01 * min(losses)  # else the test shows nothing
    data = load(CONFIG, 16, progress=False)
    model = tn.load(whole.folder / "model.safetensors")
    measured = model.evaluate(data.images[data.validation], data.labels[data.validation])
    assert measured["loss"] == pytest.approx(min(losses), rel=1e-5)
    assert whole.result["validation"]["loss"] == pytest.approx(min(losses), rel=1e-4)


def test_augmentation_shows_every_training_image_in_every_epoch_unless_refused(whole, tmp_path):
    training = len(load(CONFIG, 16, progress=False).training)
    seen = {(epoch, image) for seed, epoch, image in whole.augmented if seed == CONFIG.seed}
    assert {(epoch, image) for epoch in range(4) for image in range(training)} <= seen
    plain = carry_out(replace(CONFIG, augment=False, epochs=1), tmp_path / "plain")
    assert plain.augmented == set()
    losses = [column(run.folder / "history-reconstruction.csv", "loss")[0] for run in (whole, plain)]
    assert losses[0] != losses[1]
    assert not (plain.folder / "plots" / "augmented.png").exists()


def test_the_small_cnn_has_one_stage(tmp_path, no_matplotlib):
    config = replace(CONFIG, model="small-cnn", epochs=1, learning_rate=None)
    train(config, tmp_path / "run", verbose=0)
    assert [path.name for path in (tmp_path / "run").glob("history*")] == ["history.csv"]
    model = tn.load(tmp_path / "run" / "model.safetensors")
    assert any(isinstance(layer, tn.BatchNorm) for layer in model.layers)


# What the folder holds.


def test_the_metrics_file_is_what_train_returns(whole):
    stored = json.loads((whole.folder / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(whole.result))
    assert stored["file_bytes"] == (whole.folder / "model.safetensors").stat().st_size
    assert stored["images"] == {"training": 108, "validation": 12, "test": 30}


def test_the_measured_figures_are_those_of_the_stored_model(whole):
    data = load(CONFIG, 16, progress=False)
    model = tn.load(whole.folder / "model.safetensors")
    for name in ("validation", "test"):
        part = getattr(data, name)
        called = model.predict(data.images[part])[:, 1] >= model.threshold
        assert whole.result[name]["n"] == len(part)
        assert whole.result[name]["accuracy"] == pytest.approx((called == data.labels[part]).mean())


def test_the_model_file_carries_provenance_and_the_tests_figures(whole):
    data = load(CONFIG, 16, progress=False)
    model = tn.load(whole.folder / "model.safetensors")
    told = model.provenance
    assert told["command"] == "the command"
    assert (told["split"], told["seed"], told["excluded"]) == ("patient", CONFIG.seed, 0)
    assert (told["data"], told["images"]) == (data.digest(), [108, 12, 30])
    assert told["trained"].endswith("+00:00")
    test, carried = whole.result["test"], model.metrics["test"]
    assert (carried["n"], carried["patients"]) == (30, len(set(data.patients[data.test])))
    for name in ("accuracy", "sensitivity", "specificity", "auc"):
        assert carried[name] == [round(value, 4) for value in (test[name], *test["intervals"][name])]


def test_the_plots_folder_has_every_picture(whole):
    pytest.importorskip("matplotlib")
    pictures = whole.folder / "plots"
    assert {path.name for path in pictures.iterdir()} == {
        "cells.png", "augmented.png", "reconstructions.png", "confusion.png", "roc.png",
        "curves-reconstruction.png", "curves-frozen.png", "curves-classifier.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for path in pictures.iterdir())


def test_without_matplotlib_everything_is_left_but_the_plots(whole, tmp_path, no_matplotlib, capsys):
    train(CONFIG, tmp_path / "run", command="the command", verbose=0)
    assert_same(whole.folder, tmp_path / "run")
    assert list((tmp_path / "run").rglob("*.png")) == []
    assert "tinynet-cnn[plots]" in capsys.readouterr().err


def test_a_second_run_into_the_folder_is_refused_and_nothing_is_lost(whole):
    before = contents(whole.folder)
    with pytest.raises(ArgumentError, match="already holds a run"):
        train(replace(CONFIG, seed=3), whole.folder, verbose=0)
    assert contents(whole.folder) == before


@pytest.mark.parametrize(
    "wrong",
    [{"model": "resnet"}, {"data": "no/such/folder"}, {"synthetic": 3}, {"size": 20}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_trained_leaves_no_folder(tmp_path, wrong):
    with pytest.raises(TinynetError):
        train(replace(CONFIG, **wrong), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


# Interrupted and resumed.


def interrupted_at(step: int, monkeypatch, act) -> None:
    """Have `act` called in place of the run's optimiser step of this number, counted from 1."""
    original, count = Optimizer.step, [0]

    def counting(self, parameters):
        count[0] += 1
        if count[0] == step:
            act()
        original(self, parameters)

    monkeypatch.setattr(Optimizer, "step", counting)


def ctrl_c(*_):
    raise KeyboardInterrupt


def resume(folder: Path) -> None:
    """As `tinynet train --resume` does; a folder interrupted before it was a run begins anew."""
    begun = (folder / "config.json").exists()
    config = RunConfig.load(folder) if begun else CONFIG
    train(config, folder, resume=begun, command="the command", verbose=0)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_interrupted_at_any_step_and_resumed_it_ends_the_same(whole, tmp_path, no_matplotlib, step):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_at(step, patch, ctrl_c)
        train(CONFIG, folder, command="the command", verbose=0)
    assert not (folder / "metrics.json").exists()
    resume(folder)
    assert_same(whole.folder, folder)


def test_interrupted_before_any_of_its_files_is_written_it_ends_the_same(whole, tmp_path, no_matplotlib):
    original, number = os.replace, 0
    while True:
        number += 1
        folder, count = tmp_path / f"run{number}", [0]

        def counting(source, target, count=count, number=number):
            count[0] += 1
            if count[0] == number:
                raise KeyboardInterrupt
            original(source, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", counting)
            try:
                train(CONFIG, folder, command="the command", verbose=0)
            except KeyboardInterrupt:
                pass
            else:
                break
        resume(folder)
        assert_same(whole.folder, folder)
        assert list(folder.rglob("*.part")) == []
    assert number > 2 * 7  # an epoch writes its history and its checkpoint


def test_interrupted_twice_it_ends_the_same(whole, tmp_path, no_matplotlib):
    folder = tmp_path / "run"
    for step in (9, 3):  # the second is the third step after the resumption
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupted_at(step, patch, ctrl_c)
            resume(folder)
    resume(folder)
    assert_same(whole.folder, folder)


def test_resuming_a_finished_run_changes_nothing(whole, tmp_path, no_matplotlib):
    folder = tmp_path / "run"
    resume(folder)
    resume(folder)
    assert_same(whole.folder, folder)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill without notice")
@pytest.mark.parametrize("step", [4, 10])
def test_a_killed_run_resumes_to_the_same(whole, tmp_path, no_matplotlib, step):
    """In a process of its own, which gets no chance to tidy up."""
    program = (
        "import os, signal, sys; from pathlib import Path; import pytest, test_runs\n"
        "act = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "test_runs.interrupted_at(int(sys.argv[1]), pytest.MonkeyPatch(), act)\n"
        "test_runs.train(test_runs.CONFIG, Path(sys.argv[2]), command='the command', verbose=0)\n"
    )
    places = [str(Path(__file__).parent), *(place for place in sys.path if place)]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(step), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "run" / "checkpoints" / "reconstruction.safetensors").exists()
    resume(tmp_path / "run")
    assert_same(whole.folder, tmp_path / "run")


def test_resuming_with_other_data_is_refused_even_before_the_first_checkpoint(tmp_path, no_matplotlib):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_at(1, patch, ctrl_c)
        train(CONFIG, folder, verbose=0)
    before = contents(folder)
    with pytest.raises(
        ModelFileError, match=r"data has changed since this run began .150 images then, 160 now"
    ):
        train(replace(CONFIG, synthetic=160), folder, resume=True, verbose=0)
    assert contents(folder) == before


# A folder of cells.


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """120 pictures of 20 patients; what is decoded of them is kept with them."""
    pytest.importorskip("PIL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield write_folder(tmp_path_factory.mktemp("cells"), 120, (16, 24), seed=4, patients=20)


@pytest.fixture(scope="module")
def excluding(cells, tmp_path_factory):
    """A run's configuration that leaves every fifth picture out, and their names."""
    names = sorted(f"{path.parent.name}/{path.stem}" for path in cells.glob("*/*.png"))[::5]
    path = tmp_path_factory.mktemp("list") / "doubtful.txt"
    path.write_text("\n".join(names))
    return replace(CONFIG, data=str(cells), exclude=str(path), epochs=1), set(names)


def in_parts(data) -> list[np.ndarray]:
    return [data.training, data.validation, data.test]


def test_excluded_images_are_in_no_part_and_all_others_in_one(excluding):
    config, names = excluding
    data = load(config, 16, progress=False)
    used = np.sort(np.concatenate(in_parts(data)))
    assert len(data.names) == 120
    assert {data.names[place] for place in np.flatnonzero(~data.kept)} == names
    assert np.array_equal(used, np.flatnonzero(data.kept))


def test_the_test_with_all_labels_adds_the_excluded_images_of_its_patients(excluding):
    data = load(excluding[0], 16, progress=False)
    of_the_test = set(data.patients[data.test])
    expected = [place for place in range(120) if data.patients[place] in of_the_test]
    assert data.test_with_excluded().tolist() == expected
    assert len(data.test) < len(expected) < 120


@pytest.mark.parametrize("seed", range(3))
def test_parts_share_no_patient(excluding, seed):
    for config in (replace(excluding[0], seed=seed), replace(CONFIG, seed=seed)):
        data = load(config, 16, progress=False)
        owners = [set(data.patients[part]) for part in in_parts(data)]
        assert all(owners)
        assert sum(map(len, owners)) == len(set().union(*owners))


def test_a_split_by_image_divides_patients_and_says_that_it_flatters(tmp_path, capsys, no_matplotlib):
    config = replace(CONFIG, split="image", epochs=1)
    data = load(config, 16, progress=False)
    assert set(data.patients[data.training]) & set(data.patients[data.test])
    assert "optimistic" in capsys.readouterr().err
    result = train(config, tmp_path / "run", verbose=0)
    assert result["split"] == tn.load(tmp_path / "run" / "model.safetensors").provenance["split"] == "image"
    assert "test_all_labels" not in result
    assert result["test"].get("patients") is None


def test_a_run_with_exclusions_measures_with_and_without_them(excluding, tmp_path, no_matplotlib):
    config, names = excluding
    result = train(config, tmp_path / "run", verbose=0)
    data = load(config, 16, progress=False)
    assert result["excluded"] == len(names) == 24
    assert result["test"]["n"] == len(data.test)
    assert result["test_all_labels"]["n"] == len(data.test_with_excluded())
    assert tn.load(tmp_path / "run" / "model.safetensors").provenance["excluded"] == 24


def test_resuming_is_refused_where_a_picture_of_the_test_has_gone(cells, tmp_path, no_matplotlib):
    here = write_folder(tmp_path / "cells", 120, (16, 24), seed=4, patients=20)
    config = replace(CONFIG, data=str(here), epochs=1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_at(4, patch, ctrl_c)
        train(config, tmp_path / "run", verbose=0)
    data = load(config, 16, progress=False)
    (here / data.names[data.test[0]]).with_suffix(".png").unlink()
    with pytest.raises(
        ModelFileError, match=r"data has changed since this run began .120 images then, 119 now"
    ):
        train(RunConfig.load(tmp_path / "run"), tmp_path / "run", resume=True, verbose=0)


def test_the_command_says_how_to_go_on_and_goes_on(cells, tmp_path, no_matplotlib, capsys):
    options = ["--data", str(cells), "--size", "16", "--epochs", "2", "--batch-size", "64", "--quiet"]
    assert cli.main(["train", *options, "--out", str(tmp_path / "whole")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(5, patch, ctrl_c)
        assert cli.main(["train", *options, "--out", str(tmp_path / "run")]) == 130
    assert f"tinynet train --resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "patients not used in training" in capsys.readouterr().out
    assert_same(tmp_path / "whole", tmp_path / "run")


# The configuration.


def test_a_configuration_comes_back_as_it_was_written(tmp_path):
    config = replace(CONFIG, model="small-cnn", split="image", augment=False, learning_rate=0.25)
    config.save(tmp_path)
    assert RunConfig.load(tmp_path) == config


@pytest.mark.parametrize("text", ["{", "[]", '{"unknown": 1}', '{"epochs": 0}', '{"split": "cell"}'])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TinynetError):
        RunConfig.load(tmp_path)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(TinynetError, match="not a run folder"):
        RunConfig.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "cell"}, {"epochs": 0}, {"epochs": 1.5}, {"batch_size": True}, {"size": 8}, {"size": 513},
        {"seed": -1}, {"seed": 2**63}, {"learning_rate": 0}, {"learning_rate": float("nan")},
        {"synthetic": 0},
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_as_the_option(wrong):
    (name,) = wrong
    with pytest.raises(ArgumentError, match="--" + name.replace("_", "-")):
        RunConfig(**wrong)


def test_a_network_that_learned_nothing_is_not_passed_over(capsys):
    from tinynet.runs.run import _warn_of_guessing

    _warn_of_guessing({"auc": 0.51, "intervals": {"auc": [0.47, 0.55]}})
    assert "not learned" in capsys.readouterr().err
    _warn_of_guessing({"auc": 0.93, "intervals": {"auc": [0.9, 0.95]}})
    _warn_of_guessing({"auc": None, "intervals": {}})
    assert capsys.readouterr().err == ""


# Where the pictures are.


@pytest.fixture
def divided():
    data = load(CONFIG, 16, progress=False)
    data.training = data.training[::-1]  # parts need not be in order
    return data


def test_gathering_moves_pictures_and_changes_nothing_else(divided):
    parts = {name: getattr(divided, name) for name in ("training", "validation", "test")}
    everything, before = np.arange(len(divided.names)), divided.images.copy()
    digest = divided.digest()
    divided.gather()
    for _ in range(2):
        for name, part in parts.items():
            pictures = divided.of(part)
            assert np.array_equal(pictures, before[part])
            assert np.shares_memory(pictures, divided.images), name  # no copy
        assert np.array_equal(divided.of(everything), before)
        assert divided.digest() == digest
        divided.gather()  # a second time is one too many, and harmless


def test_what_is_forgotten_cannot_be_asked_for(divided):
    test, before = divided.test, divided.images.copy()
    divided.gather()
    divided.keep(test[::-1])
    assert len(divided.images) == len(test)
    assert np.array_equal(divided.of(test), before[test])
    with pytest.raises(AssertionError, match="forgotten"):
        divided.of(divided.training)


# All there is, to ship: nothing kept apart.


@pytest.fixture(scope="module")
def all_of_it(tmp_path_factory, excluding):
    """A run on every cell that is not excluded."""
    folder = tmp_path_factory.mktemp("runs") / "all"
    config = replace(excluding[0], split="none", epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        hide_matplotlib(patch)
        return carry_out(config, folder)


def test_a_split_none_trains_on_every_cell_that_is_not_excluded(all_of_it, excluding):
    data = load(replace(excluding[0], split="none"), 16, progress=False)
    assert np.array_equal(data.training, np.flatnonzero(data.kept)) and not data.kept.all()
    assert all_of_it.result["images"] == {"training": len(data.training), "validation": 0, "test": 0}
    assert {image for _, _, image in all_of_it.augmented} == set(range(len(data.training)))


def test_a_split_none_leaves_the_last_epoch_and_no_figure(all_of_it):
    stored, told = files.load_model_file(all_of_it.folder / "model.safetensors")
    last = all_of_it.checkpoint("classifier")
    assert all(np.array_equal(stored[name], last[name]) for name in stored)
    assert told["metrics"] == {} and told["provenance"]["split"] == "none"
    assert not {"validation", "test", "test_all_labels"} & set(all_of_it.result)
    assert not any("val_" in path.read_text() for path in all_of_it.folder.glob("history*.csv"))


def test_the_part_of_a_model_that_saw_everything_is_refused_in_one_sentence(all_of_it, excluding, capsys):
    model = str(all_of_it.folder / "model.safetensors")
    options = ["--data", excluding[0].data, "--exclude", excluding[0].exclude, "--part", "test"]
    assert cli.main(["evaluate", model, *options]) == 1
    assert "was trained on all of its data" in capsys.readouterr().err
