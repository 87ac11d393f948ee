"""An exported ONNX file gives the model's answers in ONNX Runtime, and says what a graph cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import NAMED, networks, randomised

import tinynet as tn
from tinynet.data.synthetic import synthetic_cells
from tinynet.deploy.onnx_export import export_onnx, to_onnx
from tinynet.errors import ArgumentError, FileAccessError, NonFiniteError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-5


def answer(made: bytes, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of the graph's only input."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    (result,) = session.run(None, {source.name: x})
    return result


def assert_same_answers(model, x, **options):
    made = to_onnx(model, **options)
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    wanted, got = model.predict(x), answer(made, x)
    assert got.dtype == np.float32 and got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE * max(1, np.abs(wanted).max()))
    return onnx.load_from_string(made)


def floats(model, count=3):
    return np.random.default_rng(3).standard_normal((count, *model.input_shape)).astype(np.float32)


@pytest.mark.parametrize("name", NAMED)
def test_named_networks(name):
    model = randomised(tn.Sequential(NAMED[name](), (9, 8, 6)))
    assert_same_answers(model, floats(model))


@given(networks())
def test_drawn_networks(model):
    assert_same_answers(model, floats(model), input_type="float32")


@given(networks(), st.integers(0, 99))
def test_drawn_networks_from_bytes(model, seed):
    if model.preprocessing is not None:
        codes = np.random.default_rng(seed).integers(0, 256, (2, *model.input_shape), dtype=np.uint8)
        assert_same_answers(model, codes)


@pytest.mark.parametrize("name", ["autoencoder", "small-cnn"])
def test_shipped_models_on_synthetic_cells(name):
    model = tn.load(name)
    cells = synthetic_cells(60, size=model.input_shape[0]).images
    made = assert_same_answers(model, cells)
    assert [source.name for source in made.graph.input] == ["images"]
    assert [source.name for source in made.graph.output] == ["probabilities"]
    single = answer(made.SerializeToString(), cells[:1])
    np.testing.assert_allclose(single, model.predict(cells[:1]), atol=TOLERANCE)


def test_the_preprocessing_is_the_model_s_own():
    made = tn.Preprocessing(height=4, width=5, scale=0.02, mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.6, 0.7))
    model = tn.Sequential([tn.Conv2D(2, 3)], (4, 5, 3), preprocessing=made)
    codes = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    assert_same_answers(model, codes)
    assert_same_answers(model, made.normalise(codes), input_type="float32")


def test_vectors_in_two_orders_are_added_in_one():
    branch = [tn.Flatten(), tn.Dense(60, use_bias=False)]
    model = randomised(tn.Sequential([tn.Residual([tn.Flatten()], branch), tn.Tanh()], (4, 5, 3)))
    assert_same_answers(model, floats(model), input_type="float32")


def test_features_go_in_as_vectors():
    model = randomised(tn.Sequential([tn.Dense(5, "relu"), tn.BatchNorm(), tn.Dense(2, "softmax")], (7,)))
    assert_same_answers(model, floats(model))


def test_what_a_graph_cannot_say_is_in_the_metadata(tmp_path):
    model = tn.load("autoencoder")
    model.threshold, model.temperature = 0.25, 1.5
    export_onnx(model, tmp_path / "model.onnx")
    made = onnx.load(tmp_path / "model.onnx")
    properties = {entry.key: entry.value for entry in made.metadata_props}
    assert json.loads(properties["class_names"]) == ["uninfected", "infected"]
    assert json.loads(properties["threshold"]) == 0.25
    assert json.loads(properties["temperature"]) == 1.5
    assert json.loads(properties["preprocessing"]) == model.preprocessing.to_json()
    assert json.loads(properties["provenance"])["tinynet"] == tn.__version__
    assert properties["notice"] == made.doc_string == "Not a medical device; for research and teaching."
    assert made.producer_name == "tinynet" and made.opset_import[0].version == 17


def test_the_same_model_gives_the_same_bytes():
    assert to_onnx(tn.load("autoencoder")) == to_onnx(tn.load("autoencoder"))


def test_an_impossible_input_type():
    model = tn.Sequential([tn.Dense(2)], (3,))
    with pytest.raises(ArgumentError, match="no preprocessing for uint8"):
        to_onnx(model, input_type="uint8")
    with pytest.raises(ArgumentError, match="one of uint8, float32, got 'int8'"):
        to_onnx(model, input_type="int8")


def test_nothing_is_left_behind_where_it_cannot_be_written(tmp_path):
    model = tn.Sequential([tn.Dense(2)], (3,))
    with pytest.raises(FileAccessError, match="no-such-folder"):
        export_onnx(model, tmp_path / "no-such-folder" / "model.onnx")
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    model.parameters()["dense1.weight"].data[0, 0] = np.inf
    with pytest.raises(NonFiniteError, match=r"dense1\.weight"):
        export_onnx(model, target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_layer_that_is_not_ours_is_named():
    class Odd(tn.Layer):
        kind = "odd"

    with pytest.raises(ArgumentError, match=r"layer 'odd1' \(Odd\) cannot be exported to ONNX"):
        to_onnx(tn.Sequential([tn.Conv2D(2, 1), Odd()], (4, 4, 3)))


def test_the_command(tmp_path, capsys):
    from tinynet import cli

    out = tmp_path / "cells.onnx"
    assert cli.main(["export", "autoencoder", "--to", "onnx", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for part in (str(out), f"{out.stat().st_size:,} bytes", "images, uint8 (n, 32, 32, 3)", "probabilities"):
        assert part in printed
    assert "Not a medical device; for research and teaching." in printed
    options = ["export", "autoencoder", "--to", "onnx", "--out", str(out), "--input", "float32"]
    assert cli.main(options) == 0
    assert "input, float32 (n, 32, 32, 3), already scaled" in capsys.readouterr().out


def test_the_command_does_not_write_over_a_model(tmp_path, capsys):
    from tinynet import cli

    path = tmp_path / "model.safetensors"
    tn.Sequential([tn.Dense(2)], (3,)).save(path)
    before = path.read_bytes()
    assert cli.main(["export", str(path), "--to", "onnx", "--out", str(path)]) == 1
    assert "must end in .onnx" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_an_int8_model_is_refused():
    from tinynet.deploy.int8.conversion import convert

    model = convert(tn.load("autoencoder"), synthetic_cells(32, size=32).images)
    with pytest.raises(ArgumentError, match="int8 model cannot be exported to ONNX; export the float model"):
        to_onnx(model)
