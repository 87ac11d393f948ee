"""The summary's figures, against figures worked out by hand."""

from __future__ import annotations

import pytest
from tinynet.models import autoencoder, classifier, small_cnn

import tinynet as tn
from tinynet import summaries
from tinynet.errors import ArgumentError


def column(model: tn.Sequential, name: str) -> dict[str, int]:
    values = {row.name: getattr(row, name) for row in summaries.rows(model)}
    return {key: value for key, value in values.items() if value}


def test_the_autoencoders_classifier_by_hand():
    model = classifier()
    assert column(model, "multiply_accumulates") == {
        "encoder1": 32 * 32 * 16 * 3 * 3 * 3,
        "encoder2": 16 * 16 * 8 * 3 * 3 * 16,
        "encoder3": 8 * 8 * 4 * 3 * 3 * 8,
        "dense1": 64 * 216,
        "dense2": 216 * 2,
    }
    assert column(model, "parameters") == {
        "encoder1": 448, "encoder2": 1160, "encoder3": 292, "dense1": 14_040, "dense2": 434,
    }  # fmt: skip
    assert column(model, "activation_bytes") == {
        "encoder1": 65_536, "pool1": 16_384, "encoder2": 8192, "pool2": 2048, "encoder3": 1024,
        "pool3": 256, "flatten": 256, "dense1": 864, "dense2": 8,
    }  # fmt: skip
    totals = summaries.totals(model)
    assert totals["multiply_accumulates"] == 769_968
    assert totals["parameters"] == totals["trainable_parameters"] == 16_374


def test_the_autoencoder_by_hand():
    totals = summaries.totals(autoencoder())
    encoder = 442_368 + 294_912 + 18_432
    assert totals["multiply_accumulates"] == encoder + 2304 + 18_432 + 294_912 + 442_368
    assert totals["parameters"] == 448 + 1160 + 292 + 148 + 296 + 1168 + 435


def test_the_small_cnn_by_hand():
    model = small_cnn()
    assert column(model, "multiply_accumulates") == {
        "conv1": 64 * 64 * 32 * 27, "conv2": 32 * 32 * 64 * 288, "conv3": 16 * 16 * 64 * 576,
        "conv4": 8 * 8 * 64 * 576, "dense1": 1024 * 64, "dense2": 128,
    }  # fmt: skip
    assert summaries.totals(model)["multiply_accumulates"] == 34_275_456
    parameters = 896 + 18_496 + 36_928 + 36_928 + 2 * (32 + 64 + 64 + 64) + 65_600 + 130
    assert summaries.totals(model)["parameters"] == parameters == 159_426


def test_groups_divide_the_work():
    def work(**options) -> int:
        return summaries.totals(tn.Sequential([tn.Conv2D(8, 3, **options)], (10, 10, 8)))[
            "multiply_accumulates"
        ]

    assert work() == 10 * 10 * 8 * 9 * 8
    assert work(groups=8) == 10 * 10 * 8 * 9
    assert work(stride=2) == 5 * 5 * 8 * 9 * 8


def test_blocks_are_counted_once():
    body = [tn.Conv2D(3, 3, use_bias=False), tn.Concatenate([[tn.Conv2D(2, 1)], [tn.Conv2D(1, 1)]])]
    model = tn.Sequential([tn.Residual(body)], (4, 4, 3))
    assert [row.name for row in summaries.rows(model)] == [
        "residual1/branch1/conv1",
        "residual1/branch1/concatenate1/branch1/conv1",
        "residual1/branch1/concatenate1/branch2/conv1",
        "residual1/branch1/concatenate1",
        "residual1",
    ]
    totals = summaries.totals(model)
    assert totals["multiply_accumulates"] == 16 * (3 * 27 + 2 * 3 + 1 * 3)
    assert totals["multiply_accumulates"] == model.chain.multiply_accumulates((4, 4, 3))
    assert totals["parameters"] == 81 + 8 + 4
    assert totals["activation_bytes"] == 4 * 16 * (3 + 2 + 1 + 3 + 3)


def test_file_bytes_are_those_of_the_file(tmp_path):
    model = classifier()
    model.save(tmp_path / "m.safetensors")
    assert summaries.totals(model)["file_bytes"] == (tmp_path / "m.safetensors").stat().st_size


def test_the_table_says_all_of_it(capsys):
    model = classifier()
    model.freeze("encoder1")
    text = model.summary()
    assert capsys.readouterr().out == text + "\n"
    lines = text.splitlines()
    assert lines[0] == "autoencoder-classifier: input 32 x 32 x 3; costs of one image"
    assert lines[2].split("  ")[0] == "layer" and "multiply-adds" in lines[2]
    first = next(line for line in lines if line.startswith("encoder1"))
    assert "Conv2D (frozen)" in first and "32 x 32 x 16" in first
    assert [cell for cell in first.split() if cell[0].isdigit() and "," in cell] == ["442,368", "65,536"]
    assert "parameters 16,374 (15,926 trainable); multiply-adds 769,968;" in lines[-1]
    assert model.summary(print_fn=None) == text and not capsys.readouterr().out


def test_a_model_without_shape_has_no_figures_yet():
    with pytest.raises(ArgumentError, match="no input shape yet"):
        tn.Sequential([tn.Dense(3)]).summary()
