"""What users get wrong, one test each, where they meet it: one clear sentence on standard error, the
right status, nothing on standard output that looks like a result, and nothing lost that was there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import hide_matplotlib

import tinynet as tn
from tinynet import cli, files, kernels
from tinynet.data.synthetic import write_folder
from tinynet.errors import ArgumentError, DataError, FileAccessError, NonFiniteError, ShapeError
from tinynet.runs import RunConfig

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("TINYNET_KERNELS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Synthetic cells as files: 40 of 8 patients, in the folder that holds the two classes."""
    return write_folder(tmp_path_factory.mktemp("pictures"), 40, (60, 70), seed=4, patients=8)


@pytest.fixture
def cells(pictures, tmp_path):
    """A copy of them, to be spoilt."""
    return shutil.copytree(pictures, tmp_path / "cells")


@pytest.fixture
def cell(cells):
    """One of them as an array, uint8 (h, w, 3)."""
    return np.asarray(Image.open(sorted((cells / "Uninfected").iterdir())[0]))


def classifier():
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2, "softmax")]
    return tn.Sequential(layers, (16, 16, 3), class_names=("uninfected", "infected"))


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    classifier().save(path)
    return path


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def sentence(self):
        """The last line of standard error, which must be the only one that tells of a failure."""
        assert "Traceback" not in self.err
        return self.err.splitlines()[-1]


@pytest.fixture
def run(capsys):
    def command(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return command


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must fail: status, one sentence that has all of `words`, no output, no new file."""

    def command(*arguments, words, status=1):
        before = sorted(tmp_path.rglob("*"))
        ran = run(*arguments)
        assert (ran.status, ran.out) == (status, "")
        assert ran.err.count("\n") == 1, ran.err
        for word in words:
            assert str(word) in ran.sentence
        assert sorted(tmp_path.rglob("*")) == before
        return ran.sentence

    return command


@pytest.fixture
def no_answer(run, model):
    """Predict one picture that gets no answer: status 1, a sentence with the file and all of `words`."""

    def command(path, *words):
        listed = run("predict", model, path, "--json")
        entry = json.loads(listed.out)
        assert entry == [{"path": str(path), "label": None, "probability": None, "error": entry[0]["error"]}]
        for ran in (listed, run("predict", model, path)):
            assert ran.status == 1
            assert ran.err == f"tinynet predict: {entry[0]['error']}\n"
        for word in (str(path), *words):
            assert word in entry[0]["error"]

    return command


@pytest.fixture
def answer(run, model):
    """Predict one picture and return its probability."""

    def command(path, *options):
        ran = run("predict", model, path, "--json", *options)
        assert ran.status == 0, ran.err
        (entry,) = json.loads(ran.out)
        assert entry["error"] is None
        return entry["probability"]

    return command


# Folders.


@pytest.fixture(params=["evaluate", "train"])
def with_data(request, model, tmp_path):
    """A command that wants a data folder, but for the folder."""
    if request.param == "evaluate":
        return ["evaluate", model, "--data"]
    return ["train", "--out", tmp_path / "run", "--quiet", "--data"]


def test_an_empty_folder(refused, with_data, model, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(*with_data, empty, words=[f"{empty} is empty", "Parasitized and Uninfected"])


def test_an_empty_folder_to_predict(run, refused, model, pictures, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for options in ([], ["--json"], ["--csv", tmp_path / "answers.csv"]):
        refused("predict", model, empty, *options, words=["there is no picture", empty])
    beside = run("predict", model, empty, pictures)
    assert beside.status == 0
    assert f"{empty} holds no pictures" in beside.err
    assert "40 cells" in beside.out


def test_class_folders_without_pictures(refused, with_data, cells):
    shutil.rmtree(cells / "Parasitized")
    (cells / "Parasitized").mkdir()
    refused(*with_data, cells, words=[cells / "Parasitized", "holds no images"])


def test_a_folder_that_does_not_exist(refused, with_data, tmp_path):
    refused(*with_data, tmp_path / "missing", words=[tmp_path / "missing", "does not exist"])


def test_a_file_instead_of_a_folder(refused, with_data, model):
    refused(*with_data, model, words=[model, "is not a folder"])


def test_one_class_only(refused, with_data, cells):
    shutil.rmtree(cells / "Uninfected")
    refused(*with_data, cells, words=["only one class", "Parasitized", "Uninfected is missing"])


def test_label_folders_with_other_names(refused, with_data, cells):
    (cells / "Parasitized").rename(cells / "sick")
    (cells / "Uninfected").rename(cells / "healthy")
    refused(*with_data, cells, words=["no folders Parasitized and Uninfected", "healthy, sick"])


def test_label_folders_in_other_spellings_are_understood(run, model, cells):
    (cells / "Parasitized").rename(cells / "INFECTED")
    (cells / "Uninfected").rename(cells / "uninfected")
    ran = run("evaluate", model, "--data", cells, "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["n"] == 40


def test_an_exclusion_list_that_is_missing_or_names_nothing(refused, with_data, cells, tmp_path):
    missing = tmp_path / "missing.txt"
    refused(*with_data, cells, "--exclude", missing, words=["exclusion list", missing, "does not exist"])
    other = tmp_path / "other.txt"
    other.write_text("Parasitized/of_another_data_set\n")
    refused(*with_data, cells, "--exclude", other, words=["none of the 1 entries", other])


def test_names_without_patients_cannot_be_split_by_patient(refused, cells, tmp_path):
    for path in list(cells.rglob("*.png")):
        path.rename(path.with_name(f"cell{path.stem[1:]}.png"))
    options = ["--data", cells, "--out", tmp_path / "run", "--quiet"]
    refused("train", *options, words=["cannot be split by patient", "--split image"])


# Pictures.


def test_a_truncated_picture(no_answer, cells):
    path = sorted((cells / "Parasitized").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-200])
    no_answer(path, "is truncated")


def test_a_truncated_jpeg(no_answer, cell, tmp_path):
    path = tmp_path / "cell.jpg"
    Image.fromarray(cell).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    no_answer(path, "is truncated")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\nand nothing of the kind" * 9])
def test_a_file_that_is_not_a_picture(no_answer, tmp_path, content):
    path = tmp_path / "cell.png"
    path.write_bytes(content)
    no_answer(path)


def test_a_picture_that_does_not_exist(no_answer, tmp_path):
    no_answer(tmp_path / "missing.png", "does not exist")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read anything")
def test_a_picture_without_permission(no_answer, cells):
    path = sorted((cells / "Parasitized").iterdir())[0]
    path.chmod(0)
    no_answer(path, "no permission")


def test_a_grey_picture_gets_no_answer_unless_asked_for(no_answer, answer, cell, tmp_path):
    """Without the stain's colour cells look uninfected; asked all the same, it is three equal channels."""
    grey = np.asarray(Image.fromarray(cell).convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "colour.png")
    no_answer(tmp_path / "grey.png", "the picture is grey")
    assert answer(tmp_path / "grey.png", "--any-picture") == answer(tmp_path / "colour.png", "--any-picture")


def test_transparency_is_laid_over_black(answer, cell, tmp_path):
    outside = cell.max(axis=2) == 0
    bright = np.where(outside[..., None], np.uint8(255), cell)  # would be no cell without its alpha
    alpha = np.where(outside, np.uint8(0), np.uint8(255))
    Image.fromarray(np.dstack([bright, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(cell).save(tmp_path / "rgb.png")
    assert answer(tmp_path / "rgba.png") == answer(tmp_path / "rgb.png")


def test_sixteen_bits_keep_the_upper_eight(answer, cell, tmp_path):
    grey = np.asarray(Image.fromarray(cell).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(tmp_path / "sixteen.png")
    Image.fromarray(grey).save(tmp_path / "eight.png")
    assert answer(tmp_path / "sixteen.png", "--any-picture") == answer(
        tmp_path / "eight.png", "--any-picture"
    )


def test_a_picture_of_one_pixel(no_answer, run, model, tmp_path):
    path = tmp_path / "dot.png"
    Image.fromarray(np.full((1, 1, 3), 120, np.uint8)).save(path)
    no_answer(path, "only 1x1 pixels")
    assert run("predict", model, path, "--any-picture").status == 0


def huge_png(width, height):
    """The file of a PNG that claims to be huge, and is small."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_huge_picture_is_refused_before_memory_is_spent_on_it(no_answer, tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(60000, 60000))
    no_answer(path, "too large: 60000x60000 pixels")


def test_a_large_field_gets_no_answer(no_answer, tmp_path):
    path = tmp_path / "field.png"
    Image.fromarray(np.full((1200, 1600, 3), 200, np.uint8)).save(path)
    no_answer(path, "1600x1200 pixels: is it a whole field?")


def test_one_bad_picture_among_many_is_reported_and_passed_over(run, model, cells, tmp_path):
    bad = cells / "Uninfected" / "C1P1_bad_cell_1.png"
    bad.write_bytes(b"not a picture")

    predicted = run("predict", model, cells, "--json")
    entries = {entry["path"]: entry for entry in json.loads(predicted.out)}
    assert predicted.status == 0
    assert len(entries) == 41
    assert [path for path, entry in entries.items() if entry["error"]] == [str(bad)]
    assert "1 of 41 pictures could not be read" in predicted.err

    evaluated = run("evaluate", model, "--data", cells, "--json")
    assert evaluated.status == 0
    assert json.loads(evaluated.out)["n"] == 40
    assert "1 of 41 pictures could not be read" in evaluated.err
    assert str(bad) in evaluated.err


def test_training_passes_over_one_bad_picture(run, cells, tmp_path):
    bad = cells / "Uninfected" / "C1P1_bad_cell_1.png"
    bad.write_bytes(b"not a picture")
    options = ["--model", "small-cnn", "--size", "16", "--epochs", "1", "--split", "image"]
    with kernels.using("numpy"):
        ran = run("train", "--data", cells, *options, "--no-augmentation", "--out", tmp_path / "run")
    assert ran.status == 0, ran.err
    assert f"passed over: {bad} is not an image" in ran.err
    assert ran.err.count(str(bad)) == 1
    assert "data: 20 Uninfected, 20 Parasitized (1 unreadable)" in ran.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["unreadable"] == 1


def test_training_without_matplotlib_names_no_plots(run, cells, tmp_path, monkeypatch):
    hide_matplotlib(monkeypatch)
    options = ["--model", "small-cnn", "--size", "16", "--epochs", "1", "--no-augmentation", "--quiet"]
    with kernels.using("numpy"):
        ran = run("train", "--data", cells, *options, "--out", tmp_path / "run")
    assert ran.status == 0, ran.err
    assert "no plots: " in ran.err
    assert "model.safetensors" in ran.out and "plots" not in ran.out
    assert not (tmp_path / "run" / "plots").exists()


def test_a_data_set_of_which_no_picture_is_readable(refused, with_data, cells):
    for path in cells.rglob("*.png"):
        path.write_bytes(b"not a picture")
    refused(*with_data, cells, words=["none of the 40 images", "is readable", "not an image"])


# Arguments.


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--batch-size", "0", "at least 1, got 0"),
        ("--batch-size", "-3", "at least 1, got -3"),
        ("--epochs", "0", "at least 1, got 0"),
        ("--learning-rate", "-0.1", "above 0, got -0.1"),
        ("--learning-rate", "nan", "above 0, got nan"),
        ("--size", "1", "between 16 and 512 pixels, got 1"),
        ("--seed", "-1", "got -1"),
    ],
)
def test_a_number_that_makes_no_sense_for_training(refused, cells, tmp_path, option, value, words):
    arguments = ["train", "--data", cells, "--out", tmp_path / "run", f"{option}={value}"]
    refused(*arguments, words=[option, words])


def test_a_value_that_is_not_a_number_is_wrong_usage(refused, cells):
    refused("train", "--data", cells, "--batch-size", "many", words=["--batch-size", "many"], status=2)


def test_an_unknown_model_to_train(refused, cells, tmp_path):
    words = ["--model", "resnet", "autoencoder", "small-cnn"]
    refused("train", "--data", cells, "--model", "resnet", "--out", tmp_path / "run", words=words)


def test_a_run_is_not_written_over(refused, cells, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    words = [tmp_path / "run", "already holds a run", "--resume"]
    refused("train", "--data", cells, "--out", tmp_path / "run", words=words)
    assert (tmp_path / "run" / "config.json").read_text() == "{}"


def test_a_size_that_the_model_cannot_have_leaves_no_run_behind(refused, cells, tmp_path):
    arguments = ["train", "--data", cells, "--model", "autoencoder", "--out", tmp_path / "run"]
    refused(*arguments, "--size", "33", words=["size", "33"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not the configuration of a run"),
        ('{"colour": 1}', "not the configuration of a run"),
        ('{"model": ["a"]}', "--model must be a text"),
        ('{"data": 3}', "--data must be a text"),
        ('{"exclude": {}}', "--exclude must be a text"),
        ('{"split": ["patient"]}', "--split must be patient, image or none"),
        ('{"augment": "no"}', "augment must be true or false"),
        ('{"epochs": 1.5}', "--epochs must be a whole number"),
        ('{"learning_rate": true}', "--learning-rate must be a number"),
        ('{"learning_rate": 1%s}' % ("0" * 400), "--learning-rate must be a number"),
    ],
)
def test_a_damaged_configuration_of_a_run(refused, tmp_path, content, words):
    path = tmp_path / "run" / "config.json"
    path.parent.mkdir()
    path.write_text(content)
    refused("train", "--resume", path.parent, words=[path, words])


@pytest.mark.parametrize(("content", "words"), [("{", "not valid JSON"), ("[]", "not a JSON object")])
def test_a_damaged_note_of_a_runs_data(refused, cells, tmp_path, content, words):
    path = tmp_path / "run" / "data.json"
    path.parent.mkdir()
    path.write_text(content)
    RunConfig(model="small-cnn", data=str(cells), size=16, epochs=1).save(path.parent)
    refused("train", "--resume", path.parent, "--quiet", words=[path, words])
    assert path.read_text() == content


def test_a_learning_rate_at_which_training_diverges(run, cells, tmp_path):
    options = ["--model", "small-cnn", "--size", "16", "--epochs", "3", "--no-augmentation"]
    begun = ["--data", cells, *options, "--learning-rate", "1e12", "--out", tmp_path / "run"]
    with kernels.using("numpy"):
        for arguments in (begun, ["--resume", tmp_path / "run"]):
            ran = run("train", "--quiet", *arguments)
            assert (ran.status, ran.out) == (1, "")
            assert ran.sentence.startswith("tinynet train: ") and ran.err.count("\n") == 1
            assert "start another run with --learning-rate below 1e+12" in ran.sentence


def test_resuming_what_is_not_a_run(refused, cells):
    refused("train", "--resume", cells, words=[cells, "not a run folder"])


def images(count=4, size=16):
    return np.zeros((count, size, size, 3), np.uint8), np.arange(count) % 2


def test_batch_size_0_in_python():
    trained = classifier().compile("rmsprop", "sparse_categorical_crossentropy")
    x, y = images()
    for attempt in (lambda: trained.fit(x, y, batch_size=0), lambda: trained.predict(x, batch_size=0)):
        with pytest.raises(ArgumentError, match="batch_size must be a whole number of at least 1, got 0"):
            attempt()


@pytest.mark.parametrize("optimizer", [tn.SGD, tn.RMSprop, tn.AdamW])
@pytest.mark.parametrize("rate", [-0.1, float("nan")])
def test_a_negative_learning_rate_in_python(optimizer, rate):
    with pytest.raises(ArgumentError, match=f"(?s)learning.rate.*{rate}"):
        optimizer(rate)


def test_no_pictures_in_python():
    trained = classifier().compile("rmsprop", "sparse_categorical_crossentropy")
    x, y = images(0)
    for attempt in (
        lambda: trained.fit(x, y),
        lambda: trained.predict(x),
        lambda: trained.predict([]),
        lambda: trained.evaluate(x, y),
    ):
        with pytest.raises(DataError, match="there are no images"):
            attempt()


def test_pictures_of_the_wrong_size_in_python():
    model = classifier()
    for x in (images(size=15)[0], images()[0][..., :1], images()[0][0], images()[0].reshape(4, -1)):
        with pytest.raises(ShapeError) as caught:
            model.predict(x)
        assert "wants a batch (n, 16, 16, 3)" in str(caught.value)
        assert str(x.shape) in str(caught.value)


# Model files.


@pytest.fixture(params=["predict", "evaluate", "summary"])
def with_model(request, pictures):
    """A command that reads a model file, given that file."""
    after = {"predict": [pictures], "evaluate": ["--data", pictures], "summary": []}[request.param]
    return lambda path: [request.param, path, *after]


def test_a_model_file_that_is_missing(refused, with_model, tmp_path):
    path = tmp_path / "missing.safetensors"
    refused(*with_model(path), words=[path, "no such file"])


def test_a_model_name_that_is_not_shipped(refused, with_model):
    refused(*with_model("no-such-model"), words=["no-such-model", "no shipped model of that name"])


def test_a_folder_instead_of_a_model_file(refused, with_model, tmp_path):
    (tmp_path / "folder").mkdir()
    refused(*with_model(tmp_path / "folder"), words=[tmp_path / "folder", "folder"])


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1])
def test_a_truncated_model_file(refused, with_model, model, kept):
    model.write_bytes(model.read_bytes()[:kept])
    refused(*with_model(model), words=[model])


def test_a_file_of_another_kind(refused, with_model, pictures):
    path = next((pictures / "Uninfected").iterdir())
    refused(*with_model(path), words=[path, "not a"])


def test_a_checkpoint_instead_of_a_model(refused, with_model, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    files.save_checkpoint(path, {"weight": np.zeros(3, np.float32)}, {})
    refused(*with_model(path), words=[path, "is a tinynet checkpoint, not a tinynet model file"])


def test_a_safetensors_file_of_another_program(refused, with_model, tmp_path):
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "other.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(*with_model(path), words=[path, "not a tinynet model file"])


def test_a_tampered_header(refused, with_model, model):
    content = model.read_bytes()
    assert b'\\"threshold\\":0.5' in content
    model.write_bytes(content.replace(b'\\"threshold\\":0.5', b'\\"threshold\\":0.1'))
    refused(*with_model(model), words=[model, "SHA-256 does not match"])


def test_a_header_that_claims_to_be_longer_than_the_file(refused, with_model, model):
    content = model.read_bytes()
    model.write_bytes(struct.pack("<Q", 2**62) + content[8:])
    refused(*with_model(model), words=[model])


def test_a_changed_weight(refused, with_model, model):
    content = bytearray(model.read_bytes())
    content[-2] ^= 1
    model.write_bytes(content)
    refused(*with_model(model), words=[model, "SHA-256 does not match"])


def resaved(path, change):
    """Change a model file's arrays and description and save it as a file that is whole in itself."""
    arrays, description = files.load_model_file(path)
    change(arrays, description)
    files.save_model_file(path, arrays, description)


def test_a_weight_of_the_wrong_shape(refused, with_model, model):
    def change(arrays, description):
        arrays["conv1.weight"] = arrays["conv1.weight"][:, :, :, :3].copy()

    resaved(model, change)
    words = [model, "conv1.weight has shape (3, 3, 3, 3), the model wants (3, 3, 3, 4)"]
    refused(*with_model(model), words=words)


def test_a_weight_that_is_missing(refused, with_model, model):
    resaved(model, lambda arrays, description: arrays.pop("conv1.bias"))
    refused(*with_model(model), words=[model, "conv1.bias is missing"])


def test_a_model_that_does_not_reproduce_its_self_test(refused, with_model, model):
    def change(arrays, description):
        arrays["dense1.bias"] = arrays["dense1.bias"] + np.float32(0.5)

    resaved(model, change)
    refused(*with_model(model), words=[model, "self-test"])


def test_an_architecture_that_claims_absurd_sizes_costs_nothing(refused, with_model, model):
    def change(arrays, description):
        description["architecture"]["layers"][-1]["units"] = 2**40

    resaved(model, change)
    refused(*with_model(model), words=[model])


# Saving.


def full_disk(descriptor):
    """Stands in for os.fsync, which is where a full disk shows at the latest."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_saving_a_model_keeps_the_old_one(model, tmp_path, monkeypatch):
    before, listing = model.read_bytes(), sorted(os.listdir(tmp_path))
    changed = tn.load(model)
    changed.threshold = 0.25
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FileAccessError) as caught:
        changed.save(model)
    assert str(caught.value) == f"{model} could not be written: no space left on device."
    assert model.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == listing


def test_a_full_disk_under_a_table_keeps_the_old_one(run, model, pictures, tmp_path, monkeypatch):
    table = tmp_path / "answers.csv"
    table.write_text("yesterday's answers\n")
    listing = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(os, "fsync", full_disk)
    ran = run("predict", model, pictures, "--csv", table)
    assert (ran.status, ran.out) == (1, "")
    assert ran.sentence == f"tinynet predict: {table} could not be written: no space left on device."
    assert table.read_text() == "yesterday's answers\n"
    assert sorted(os.listdir(tmp_path)) == listing


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_file_that_really_cannot_grow_keeps_the_old_one(model, tmp_path):
    before, listing = model.read_bytes(), sorted(os.listdir(tmp_path))
    program = (
        "import resource, sys, tinynet; model = tinynet.load(sys.argv[1]); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); model.save(sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ran = subprocess.run(
        [sys.executable, "-c", program, str(model)], env=environment, capture_output=True, text=True
    )
    assert f"FileAccessError: {model} could not be written: file too large." in ran.stderr
    assert model.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == listing


def test_a_model_with_nan_is_not_saved_over_a_good_one(model):
    before = model.read_bytes()
    spoilt = tn.load(model)
    spoilt.parameters()["conv1.weight"].data[0, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"conv1\.weight.* NaN or infinity"):
        spoilt.save(model)
    assert model.read_bytes() == before


def test_a_run_folder_that_cannot_be_made(run, cells, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "run"
    ran = run("train", "--data", cells, "--quiet", "--out", folder)
    assert (ran.status, ran.out) == (1, "")
    assert str(folder) in ran.sentence
    assert (tmp_path / "file").read_text() == "in the way"
