"""Options of a training run: what each changes, that it is recorded, that resuming still changes nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import cli, files, kernels
from tinynet.callbacks import CSVLogger
from tinynet.data.augment import STAINED, Augmentation
from tinynet.data.synthetic import write_folder
from tinynet.errors import ArgumentError, TinynetError
from tinynet.optim import Optimizer
from tinynet.runs import RunConfig, train

KERNELS = "numpy" if kernels.numba_problem() else "numba"

# 108 images for training: 2 steps an epoch.
CONFIG = RunConfig(model="small-cnn", synthetic=150, size=16, epochs=2, batch_size=64, seed=2)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """One kernel set; and no matplotlib, without which runs are faster."""
    monkeypatch.setenv("TINYNET_KERNELS", KERNELS)
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with kernels.using(KERNELS):
        yield


def weights(folder: Path) -> dict[str, bytes]:
    arrays, _ = files.load_model_file(folder / "model.safetensors")
    return {name: array.tobytes() for name, array in arrays.items()}


def interrupted_and_resumed(config: RunConfig, folder: Path, monkeypatch, step: int) -> Path:
    """A run that Ctrl-C stops at this optimiser step, counted from 1, and that --resume then ends."""
    original, count = Optimizer.step, [0]

    def counting(self, parameters):
        count[0] += 1
        if count[0] == step:
            raise KeyboardInterrupt
        original(self, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", counting)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, verbose=0)
    train(RunConfig.load(folder), folder, resume=True, verbose=0)
    return folder


def options_seen(monkeypatch, *arguments: str) -> tuple[RunConfig, str]:
    """What `tinynet train ARGUMENTS` would carry out: the configuration, and the command it records."""
    seen = []

    def stopped(config, folder, *, command, **options):
        seen.append((config, command))
        raise ArgumentError("enough")

    monkeypatch.setattr("tinynet.runs.train", stopped)
    assert cli.main(["train", *arguments]) == 1
    return seen[0]


# Stains.


def test_the_stain_option_trains_on_stained_cells_and_leaves_the_rest_as_it_was(tmp_path, monkeypatch):
    shown, original = [], Augmentation.__call__

    def recording(self, *arguments):
        shown.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(Augmentation, "__call__", recording)
    train(CONFIG, tmp_path / "plain", verbose=0)
    assert set(shown) == {Augmentation()}
    shown.clear()
    train(replace(CONFIG, stain=True), tmp_path / "stained", verbose=0)
    assert set(shown) == {STAINED}
    assert weights(tmp_path / "plain") != weights(tmp_path / "stained")


def test_a_stained_run_resumes_bitwise(tmp_path, monkeypatch):
    config = replace(CONFIG, stain=True)
    train(config, tmp_path / "whole", verbose=0)
    resumed = interrupted_and_resumed(config, tmp_path / "resumed", monkeypatch, step=4)
    assert weights(resumed) == weights(tmp_path / "whole")


def test_the_command_and_the_configuration_say_that_cells_were_stained(monkeypatch, tmp_path):
    config, command = options_seen(monkeypatch, "--stain-augmentation", "--out", str(tmp_path / "run"))
    assert config.stain and "--stain-augmentation" in command
    config.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["stain"] is True


def test_stains_without_augmentation_are_refused():
    with pytest.raises(ArgumentError, match="--stain-augmentation contradicts --no-augmentation"):
        RunConfig(augment=False, stain=True)


# Temperature and threshold.


def test_a_calibrated_run_has_the_same_weights_and_the_temperature_and_threshold_in_its_file(tmp_path):
    train(CONFIG, tmp_path / "plain", verbose=0)
    config = replace(CONFIG, calibrate=True, min_sensitivity=0.95)
    result = train(config, tmp_path / "chosen", verbose=0)
    assert weights(tmp_path / "plain") == weights(tmp_path / "chosen")
    model, chosen = tn.load(tmp_path / "chosen" / "model.safetensors"), result["calibrated"]
    assert (model.temperature, model.threshold) == (chosen["temperature"], chosen["threshold"])
    assert model.provenance["calibrated"] == chosen and chosen["part"] == "validation"
    assert result["validation"]["threshold"] == result["test"]["threshold"] == model.threshold
    assert result["validation"]["sensitivity"] >= 0.95
    assert result["validation"]["loss"] == pytest.approx(chosen["loss"][1], abs=1e-4)
    plain = tn.load(tmp_path / "plain" / "model.safetensors")
    assert (plain.temperature, plain.threshold) == (1.0, 0.5)
    assert "calibrated" not in plain.provenance


def test_train_prints_what_was_chosen_and_what_it_means(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    cells = write_folder(tmp_path / "cells", 120, (20, 24), seed=3, patients=24)
    options = ["--data", str(cells), "--model", "small-cnn", "--size", "16", "--epochs", "1", "--quiet"]
    out = ["--out", str(tmp_path / "run")]
    assert cli.main(["train", *options, "--calibrate", "--min-sensitivity", "0.95", *out]) == 0
    printed = capsys.readouterr().out
    assert "with 1 % of cells infected: of 10,000 cells" in printed
    assert "at least 0.95 was asked for" in printed


# Autoencoders shown less than they are to give, and which weights are kept.

AUTOENCODER = replace(CONFIG, model="autoencoder", epochs=2)


@pytest.mark.parametrize("option", [{"denoise": 0.1}, {"hide": 0.3}])
def test_a_reconstruction_from_less_trains_another_encoder_and_resumes_bitwise(tmp_path, monkeypatch, option):
    config = replace(AUTOENCODER, **option)
    train(AUTOENCODER, tmp_path / "plain", verbose=0)
    train(config, tmp_path / "whole", verbose=0)
    resumed = interrupted_and_resumed(config, tmp_path / "resumed", monkeypatch, step=2)
    reconstruction = "reconstruction.safetensors"
    arrays = [files.load_model_file(tmp_path / run / reconstruction)[0] for run in ("plain", "whole")]
    assert not np.array_equal(arrays[0]["encoder1.weight"], arrays[1]["encoder1.weight"])
    assert weights(resumed) == weights(tmp_path / "whole") != weights(tmp_path / "plain")


def test_only_an_autoencoder_can_be_shown_less(tmp_path):
    for option in ({"denoise": 0.1}, {"hide": 0.1}):
        with pytest.raises(
            ArgumentError, match=f"--{next(iter(option))} is for an autoencoder: model small-cnn"
        ):
            train(replace(CONFIG, **option), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def epochs_weights(config: RunConfig, folder: Path, monkeypatch) -> list[dict[str, np.ndarray]]:
    """Carry out a run; the weights that each epoch of its last stage ended with."""
    states, original = [], CSVLogger.on_epoch_end

    def recording(self, training, logs):
        states.append({name: array.copy() for name, array in training.model.state().items()})
        original(self, training, logs)

    with monkeypatch.context() as patch:
        patch.setattr(CSVLogger, "on_epoch_end", recording)
        train(config, folder, verbose=0)
    return states[-config.epochs :]


@pytest.mark.parametrize("keep", ["last", "average"])
def test_the_last_epochs_weights_or_an_average_are_kept_where_asked_for(tmp_path, monkeypatch, keep):
    config = replace(CONFIG, keep=keep, epochs=3)
    states = epochs_weights(config, tmp_path / "run", monkeypatch)
    shares = {"last": [0.0, 0.0, 1.0], "average": np.array([0.64, 0.8, 1.0]) / 2.44}[keep]
    found, _ = files.load_model_file(tmp_path / "run" / "model.safetensors")
    for name, array in found.items():
        expected = sum(share * state[name] for share, state in zip(shares, states, strict=True))
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-7)
    resumed = interrupted_and_resumed(config, tmp_path / "resumed", monkeypatch, step=5)
    assert weights(resumed) == weights(tmp_path / "run")


# Teachers.


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model that was trained on the same synthetic cells, at twice the size."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    with kernels.using(KERNELS):
        train(replace(CONFIG, size=32, epochs=1), folder, verbose=0)
    return str(folder / "model.safetensors")


def test_a_student_learns_from_teachers_of_another_size_and_resumes_bitwise(tmp_path, monkeypatch, teacher):
    config = replace(CONFIG, teachers=(teacher,), teacher_weight=0.9)
    train(CONFIG, tmp_path / "plain", verbose=0)
    train(config, tmp_path / "whole", verbose=0)
    assert weights(tmp_path / "plain") != weights(tmp_path / "whole")
    resumed = interrupted_and_resumed(config, tmp_path / "resumed", monkeypatch, step=3)
    assert weights(resumed) == weights(tmp_path / "whole")
    model = tn.load(tmp_path / "whole" / "model.safetensors")
    assert [told["name"] for told in model.provenance["teachers"]] == ["small-cnn"]
    assert model.loss.config() == {"name": "distillation", "temperature": 2.0, "weight": 0.9}


def test_a_student_whose_teacher_says_nothing_new_is_trained_as_without(tmp_path, teacher):
    train(CONFIG, tmp_path / "plain", verbose=0)
    train(replace(CONFIG, teachers=(teacher,), teacher_weight=0.0), tmp_path / "taught", verbose=0)
    plain, taught = (
        files.load_model_file(tmp_path / run / "model.safetensors")[0] for run in ("plain", "taught")
    )
    for name, array in plain.items():
        np.testing.assert_allclose(array, taught[name], rtol=0.02, atol=0.01)


def test_a_teacher_that_may_have_seen_the_test_patients_is_named(tmp_path, teacher, capsys):
    config = replace(CONFIG, teachers=(teacher,), epochs=1, teacher_once=True)
    train(config, tmp_path / "same", verbose=0)
    assert "was not trained on the same division" not in capsys.readouterr().err
    train(replace(config, seed=3), tmp_path / "other", verbose=0)
    assert f"teacher {teacher} was not trained on the same division" in capsys.readouterr().err


def test_models_that_cannot_teach_are_refused_before_anything_is_written(tmp_path):
    reconstructing = tn.Sequential([tn.Conv2D(3, 3)], (16, 16, 3))
    reconstructing.save(tmp_path / "autoencoder.safetensors")
    with pytest.raises(ArgumentError, match="is no teacher, it does not end in classes"):
        train(
            replace(CONFIG, teachers=(str(tmp_path / "autoencoder.safetensors"),)),
            tmp_path / "run",
            verbose=0,
        )
    with pytest.raises(TinynetError, match="no such file"):
        train(replace(CONFIG, teachers=("nobody",)), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_all_options_reach_the_configuration_the_command_and_the_file(monkeypatch, tmp_path, teacher):
    typed = "--denoise 0.1 --hide 0.2 --teacher-temperature 3 --teacher-weight 0.7 --teacher-once --keep last"
    arguments = [*typed.split(), "--teacher", teacher, "--teacher", "small-cnn", "--out", str(tmp_path / "r")]
    config, command = options_seen(monkeypatch, *arguments)
    assert config == RunConfig(
        denoise=0.1, hide=0.2, teacher_temperature=3.0, teacher_weight=0.7, teacher_once=True, keep="last",
        teachers=(teacher, "small-cnn"), epochs=20,
    )  # fmt: skip
    for words in (*typed.replace("ture 3", "ture 3.0").split(" --")[1:], "teacher MODEL1", "teacher MODEL2"):
        assert f"--{words}" in command
    assert str(tmp_path) not in command
    config.save(tmp_path)
    assert RunConfig.load(tmp_path) == config


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "worst"},
        {"denoise": -1},
        {"hide": 1.0},
        {"teacher_temperature": 0},
        {"teacher_weight": 2},
        {"min_sensitivity": "high"},
        {"calibrate": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_senseless_options_are_refused(options):
    with pytest.raises(ArgumentError, match=next(iter(options)).replace("_", ".")):
        RunConfig(**options)


def test_a_configuration_of_an_earlier_version_has_the_defaults_of_what_it_did_not_know(tmp_path):
    CONFIG.save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    known = {"model", "data", "exclude", "split", "epochs", "batch_size", "size", "learning_rate", "seed"}
    known |= {"augment", "synthetic"}
    values = {name: value for name, value in values.items() if name in known}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert RunConfig.load(tmp_path) == CONFIG
