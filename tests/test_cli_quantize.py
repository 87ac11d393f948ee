"""tinynet quantize: a smaller file that the other commands take, calibrated on training patients only."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import tinynet as tn
from tinynet import cli, files
from tinynet.data.synthetic import write_folder
from tinynet.runs import RunConfig, quantization
from tinynet.runs.data import load

pytest.importorskip("PIL.Image")

NOTICE = "Not a medical device; for research and teaching."


@pytest.fixture(autouse=True)
def numpy_kernels(monkeypatch):
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder of 60 synthetic cells of 12 patients."""
    return write_folder(tmp_path_factory.mktemp("cells"), 60, (40, 60), seed=3, patients=12)


def classifier() -> tn.Sequential:
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2, "softmax")]
    return tn.Sequential(layers, (16, 16, 3), class_names=("uninfected", "infected"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cells):
    """A model file that says how its data was divided, one image left out; the file, the list, the data."""
    folder = tmp_path_factory.mktemp("trained")
    left_out = sorted(path.relative_to(cells) for path in cells.rglob("*.png"))[0]
    exclude = folder / "doubted.txt"
    exclude.write_text(f"{left_out.parent.name}/{left_out.stem}\n")
    data = load(RunConfig(data=str(cells), exclude=str(exclude), seed=5), 16, progress=False)
    model = classifier()
    model.provenance = {"split": "patient", "seed": 5, "data": data.digest()}
    model.metrics = {"test": {"n": 9, "specificity": [0.9, 0.8, 0.95]}}
    model.save(folder / "model.safetensors")
    return str(folder / "model.safetensors"), str(exclude), data


@pytest.fixture
def run(capsys):
    def command(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def quantized(run, trained, cells, out, *options, to="int8"):
    path, exclude, _ = trained
    return run("quantize", path, "--to", to, "--out", out, "--data", cells, "--exclude", exclude, *options)


@pytest.mark.parametrize("to", ["int8", "float16"])
def test_the_smaller_file_is_taken_by_the_other_commands(run, trained, cells, tmp_path, to):
    out = tmp_path / "small.safetensors"
    status, printed, _ = quantized(run, trained, cells, out, to=to)
    assert status == 0 and NOTICE in printed
    assert f"in {to}, {out.stat().st_size:,} bytes" in printed
    assert "test patients" in printed and "test patients, all labels" in printed
    assert files.load_model_file(out)[1]["number_format"] == to

    status, summary, _ = run("summary", out)
    assert status == 0 and f"file {out.stat().st_size:,} bytes" in summary
    assert "uninfected, infected" in summary

    pictures = sorted(cells.rglob("*.png"))[:5]
    status, printed, _ = run("predict", "--any-picture", "--json", out, *pictures)
    answers = json.loads(printed)
    images = [tn.load(trained[0]).preprocessing.prepare(tn.images.decode(path)) for path in pictures]
    float_answers = tn.load(trained[0]).predict(np.stack(images))[:, 1]
    assert status == 0
    assert [answer["probability"] for answer in answers] == pytest.approx(float_answers, abs=0.03)

    status, printed, _ = run(
        "evaluate", out, "--data", cells, "--exclude", trained[1], "--part", "test", "--json"
    )
    figures = json.loads(printed)
    assert status == 0
    kept = tn.load(out).metrics
    assert kept["test"]["accuracy"][0] == round(figures["accuracy"], 4)
    assert kept["float32"] == {"test": {"n": 9, "specificity": [0.9, 0.8, 0.95]}}


def test_int8_is_calibrated_on_pictures_of_training_patients_only(run, trained, cells, tmp_path, monkeypatch):
    from tinynet.deploy.int8 import conversion

    seen = []
    convert = conversion.convert

    def watched(model, images, calibration):
        seen.append(images)
        return convert(model, images, calibration)

    monkeypatch.setattr(conversion, "convert", watched)
    data = trained[2]
    assert quantized(run, trained, cells, tmp_path / "a.safetensors")[0] == 0
    assert np.array_equal(seen[0], data.images[data.training])  # fewer than 1,024: all of them
    assert quantized(run, trained, cells, tmp_path / "b.safetensors", "--images", 7)[0] == 0
    training = {image.tobytes() for image in data.images[data.training]}
    assert len(seen[1]) == 7 and all(image.tobytes() in training for image in seen[1])
    calibration = tn.load(tmp_path / "b.safetensors").provenance["calibration"]
    assert calibration == {"method": conversion.CALIBRATION, "images": 7, "part": "training"}


def test_json_has_the_figures_before_and_after(run, trained, cells, tmp_path):
    out = tmp_path / "small.safetensors"
    status, printed, err = quantized(run, trained, cells, out, "--json", "--calibration", "max")
    facts = json.loads(printed)
    assert status == 0 and NOTICE in err
    assert facts["bytes"] == out.stat().st_size and facts["to"] == "int8"
    for when in ("before", "after"):
        assert set(facts[when]) == {"test", "test_all_labels"}
        assert {"n", "accuracy", "sensitivity", "specificity", "auc", "loss"} == set(facts[when]["test"])
    assert tn.load(out).provenance["calibration"]["method"] == "max"


def test_another_folder_can_be_calibrated_with_when_asked(run, trained, cells, tmp_path):
    other = write_folder(tmp_path / "other", 20, (40, 50), seed=9, patients=4)
    out = tmp_path / "small.safetensors"
    status, printed, _ = run(
        "quantize", trained[0], "--to", "int8", "--out", out, "--data", other, "--part", "all"
    )
    assert status == 0 and "not measured" in printed
    assert tn.load(out).provenance["calibration"]["images"] == 20
    assert "specificity" not in tn.load(out).metrics and "float32" in tn.load(out).metrics


def test_float16_needs_no_pictures(run, trained, tmp_path):
    out = tmp_path / "half.safetensors"
    status, printed, _ = run("quantize", trained[0], "--to", "float16", "--out", out)
    assert status == 0 and "in float16" in printed and "not measured" in printed
    assert tn.load(out).number_format == "float16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "int8"], "int8 needs pictures of cells to calibrate with: give --data DIR"),
        (["--to", "int8", "--data", "CELLS"], "--part training: .* give the same --data and --exclude"),
        (["--to", "int8", "--data", "EMPTY"], "EMPTY"),
        (["--to", "int8", "--data", "NONE"], "NONE"),
        (["--to", "float16", "--data", "CELLS"], "give the same --data and --exclude"),
    ],
)
def test_without_the_right_pictures_it_is_one_sentence_and_no_file(
    run, trained, cells, tmp_path, options, message
):
    for name in ("Parasitized", "Uninfected"):
        (tmp_path / "EMPTY" / name).mkdir(parents=True)
    places = {"CELLS": cells, "EMPTY": tmp_path / "EMPTY", "NONE": tmp_path / "NONE"}
    out = tmp_path / "out" / "small.safetensors"
    out.parent.mkdir()
    status, printed, err = run("quantize", trained[0], "--out", out, *[places.get(o, o) for o in options])
    assert (status, printed) == (1, "")
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err)
    assert list(out.parent.iterdir()) == []


def test_a_model_that_does_not_say_how_its_data_was_divided_needs_part_all(run, cells, tmp_path):
    classifier().save(tmp_path / "m.safetensors")
    command = [
        "quantize",
        tmp_path / "m.safetensors",
        "--to",
        "int8",
        "--out",
        tmp_path / "q",
        "--data",
        cells,
    ]
    status, _, err = run(*command)
    assert status == 1 and "does not say how its data was divided" in err and "--part all" in err
    assert run(*command, "--part", "all")[0] == 0


def test_int8_is_made_of_a_float16_file_too_and_keeps_every_form_s_figures(run, trained, cells, tmp_path):
    half, small = tmp_path / "half.safetensors", tmp_path / "small.safetensors"
    assert quantized(run, trained, cells, half, to="float16")[0] == 0
    assert quantized(run, (str(half), *trained[1:]), cells, small)[0] == 0
    metrics = tn.load(small).metrics
    assert set(metrics) == {"float32", "float16", "test", "test_all_labels"}
    assert metrics["float32"] == tn.load(trained[0]).metrics
    assert metrics["float16"] == {part: tn.load(half).metrics[part] for part in ("test", "test_all_labels")}
    status, _, err = quantized(run, (str(half), *trained[1:]), cells, tmp_path / "again", to="float16")
    assert status == 1 and f"{half} is in float16 already" in err


def test_what_is_int8_already_is_refused(run, trained, cells, tmp_path):
    out = tmp_path / "small.safetensors"
    quantized(run, trained, cells, out)
    status, _, err = run("quantize", out, "--to", "float16", "--out", tmp_path / "again.safetensors")
    assert status == 1 and "is in int8 already" in err


def test_a_place_that_cannot_be_written_is_one_sentence_before_the_work(
    run, trained, cells, tmp_path, monkeypatch
):
    monkeypatch.setattr(quantization, "quantize", None)  # would raise
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "no" / "folder" / "small.safetensors", tmp_path / "folder"):
        status, _, err = quantized(run, trained, cells, out)
        assert status == 1 and f"{out} could not be written" in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    "options", [["--to", "int4"], ["--images", "0"], ["--images", "many"], ["--calibration", "best"], []]
)
def test_wrong_usage_is_2(run, trained, tmp_path, options):
    given = options if "--to" in options or not options else ["--to", "int8", *options]
    assert run("quantize", trained[0], "--out", tmp_path / "q", *given)[0] == 2


def test_images_are_drawn_with_the_trainings_seed_and_kept_in_order():
    places = np.arange(100, 200)
    drawn = quantization._draw(places, 10, 3)
    assert len(set(drawn)) == 10 and (np.diff(drawn) > 0).all() and set(drawn) <= set(places)
    assert np.array_equal(drawn, quantization._draw(places, 10, 3))
    assert np.array_equal(quantization._draw(places, 0, 3), places)
