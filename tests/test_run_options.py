"""Options of a training run: what each changes, that it is recorded, that resuming still changes nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tinynet as tn
from tinynet import cli, files, kernels
from tinynet.data.augment import STAINED, Augmentation
from tinynet.errors import ArgumentError
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


def test_train_prints_what_was_chosen_and_what_it_means(tmp_path, capsys):
    options = ["--model", "small-cnn", "--size", "16", "--epochs", "1", "--batch-size", "512"]
    status = cli.main(
        [
            "train",
            *options,
            "--calibrate",
            "--min-sensitivity",
            "0.95",
            "--quiet",
            "--out",
            str(tmp_path / "run"),
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert "with 1 % of cells infected: of 10,000 cells" in printed
    assert "at least 0.95 was asked for" in printed


def test_a_configuration_of_an_earlier_version_has_the_defaults_of_what_it_did_not_know(tmp_path):
    CONFIG.save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("stain", "calibrate", "min_sensitivity"):
        values.pop(name)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert RunConfig.load(tmp_path) == CONFIG
