"""The commands as a user meets them: what is printed where, the exit status, what is left on the disk."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import cli, kernels
from tinynet.cli import answers
from tinynet.data import load_images, scan_folder
from tinynet.data.folder import EXTENSIONS
from tinynet.data.synthetic import write_folder
from tinynet.gradcheck import GradcheckReport, InputCheck
from tinynet.images import decode
from tinynet.metrics import evaluate_probabilities, wilson_interval

Image = pytest.importorskip("PIL.Image")

NOTICE = "Not a medical device; for research and teaching."


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("TINYNET_KERNELS", raising=False)  # few pictures: NumPy's, as for most users
    monkeypatch.setattr(kernels, "_chosen", None)  # a command has a process of its own


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder of 60 synthetic cells of 12 patients; returns the folder that holds the two classes."""
    return write_folder(tmp_path_factory.mktemp("cells"), 60, (40, 60), seed=3, patients=12)


def classifier(seed=0, **options):
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2, "softmax")]
    return tn.Sequential(layers, (16, 16, 3), class_names=("uninfected", "infected"), seed=seed, **options)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, cells):
    """A model nobody trained, with a threshold at which it calls half of the cells infected."""
    model = classifier()
    with kernels.using("numpy"):
        probabilities = model.predict([decode(path) for path in cells.rglob("*.png")])[:, 1]
    model.threshold = float(np.quantile(probabilities, 0.45))
    model.metrics = {"test": {"n": 100, "specificity": [0.9, 0.8, 0.95]}}
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    model.save(path)
    return str(path)


@dataclass
class Ran:
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run(capsys):
    def command(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return command


def in_a_process(*arguments, env=(), **options):
    """Run Python with these arguments; what it prints is captured unless `options` send it elsewhere."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **dict(env)}
    environment.pop("PYTHONUNBUFFERED", None)  # buffered, what is left unwritten shows at the exit
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [sys.executable, *(os.fspath(argument) for argument in arguments)]
    return subprocess.run(command, env=environment, **options)


# The whole.


def test_help_has_a_line_for_every_command_and_every_command_has_help(run):
    whole = run("--help")
    assert whole.status == 0
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} +\S", whole.out, re.MULTILINE)
        one = run(name, "--help")
        assert one.status == 0
        assert f"usage: tinynet {name}" in one.out


def test_version(run):
    assert run("--version").out.strip() == f"tinynet {tn.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["predict"],
        ["predict", "m.safetensors"],
        ["evaluate", "m.safetensors"],
        ["predict", "m", "x.png", "--json", "--csv", "x.csv"],
        ["predict", "m", "x.png", "--unknown"],
        ["evaluate", "m", "--data", "d", "--part", "none"],
        ["gradcheck", "--kernels", "fast"],
    ],
)
def test_wrong_usage_is_status_2_and_one_line(run, arguments):
    ran = run(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert "--help" in ran.err


@pytest.mark.parametrize(
    ("problem", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (MemoryError(), 1, "there is not enough memory for this"),
        (PermissionError(13, "Permission denied", "some/file"), 1, "some/file: Permission denied"),
        (tn.TinynetError("a sentence\nin two lines"), 1, "a sentence in two lines"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_status(run, monkeypatch, problem, status, sentence):
    def fail(arguments):
        raise problem

    monkeypatch.setattr("tinynet.cli.info.run", fail)
    assert run("info") == Ran(status, "", f"tinynet info: {sentence}\n")


def test_a_mistake_in_tinynet_itself_is_not_hidden(run, monkeypatch):
    monkeypatch.setattr("tinynet.cli.info.run", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("info")


def test_debugging_shows_where_an_error_arose(run, monkeypatch):
    monkeypatch.setenv("TINYNET_DEBUG", "1")
    ran = run("summary", "no-such-file.safetensors")
    assert ran.status == 1
    assert "Traceback" in ran.err
    assert "no-such-file.safetensors" in ran.err.splitlines()[-1]


def test_warnings_are_one_line_without_source_code(run, monkeypatch):
    def warn(arguments):
        warnings.warn("mind this", stacklevel=1)
        return 0

    monkeypatch.setattr("tinynet.cli.info.run", warn)
    assert run("info").err == "tinynet info: warning: mind this\n"


# predict


def test_predict_one_picture_as_json_is_what_the_model_says_of_it(run, cells, model_file):
    path = str(sorted((cells / "Parasitized").iterdir())[0])
    ran = run("predict", model_file, path, "--json")
    model = tn.load(model_file)
    with kernels.using("numpy"):
        expected = float(model.predict([decode(path)])[0, 1])
    label = "infected" if expected >= model.threshold else "uninfected"
    assert ran.status == 0
    assert ran.json == [{"path": path, "label": label, "probability": expected, "error": None}]
    assert ran.err == f"{NOTICE}\n"


def test_predict_prints_a_line_a_picture_and_the_notice(run, cells, model_file):
    path = str(sorted((cells / "Parasitized").iterdir())[0])
    entry = run("predict", model_file, path, "--json").json[0]
    ran = run("predict", model_file, path)
    assert ran.out.splitlines() == [f"{entry['label']:<10}  {entry['probability']:.4f}  {path}", NOTICE]


def test_a_folder_gives_its_pictures_sorted_subfolders_included_and_stray_files_not(
    run, cells, model_file, tmp_path
):
    names = ["b.png", "a.png", "sub/c.png", "sub/deeper/d.PNG"]
    picture = Image.open(next((cells / "Uninfected").iterdir()))
    for name in [*names, ".hidden/e.png", "._a.png"]:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, format="PNG")
    (tmp_path / "Thumbs.db").write_bytes(b"stray")
    ran = run("predict", model_file, tmp_path, "--json")
    wanted = ["a.png", "b.png", "sub/c.png", "sub/deeper/d.PNG"]
    assert [entry["path"] for entry in ran.json] == [str(tmp_path / name) for name in wanted]
    assert f"2 files that are not pictures were passed over in {tmp_path}\n" in ran.err


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_every_format_that_is_answered_when_named_is_answered_in_a_folder(
    run, cells, model_file, tmp_path, extension
):
    path = tmp_path / f"cell{extension}"
    picture = Image.open(next((cells / "Uninfected").iterdir()))
    if extension == ".pbm":
        picture = picture.convert("1")
    elif extension == ".pgm":
        picture = picture.convert("L")
    picture.save(path, format="PPM" if extension == ".pnm" else None)
    named = run("predict", model_file, path, "--any-picture", "--json")
    assert named.status == 0, named.err
    assert run("predict", model_file, tmp_path, "--any-picture", "--json").json == named.json
    assert "passed over" not in named.err


def test_paths_are_answered_in_the_order_given(run, cells, model_file):
    paths = [str(path) for path in sorted((cells / "Uninfected").iterdir())[:4]]
    shuffled = [paths[2], paths[0], paths[3], paths[0]]
    ran = run("predict", model_file, *shuffled, "--json")
    assert [entry["path"] for entry in ran.json] == shuffled
    assert ran.json[1]["probability"] == ran.json[3]["probability"]


def test_the_three_forms_say_the_same(run, cells, model_file, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    table = tmp_path / "answers.csv"
    given = [str(cells), str(tmp_path / "broken.png")]
    entries = run("predict", model_file, *given, "--json").json
    printed = run("predict", model_file, *given).out.splitlines()
    assert run("predict", model_file, *given, "--csv", table).status == 0

    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    assert [row["path"] for row in rows] == [entry["path"] for entry in entries]
    for entry, row, line in zip(entries, rows, printed, strict=False):
        assert row["label"] == (entry["label"] or "")
        assert row["probability"] == ("" if entry["probability"] is None else repr(entry["probability"]))
        assert row["error"] == (entry["error"] or "")
        assert line.startswith(entry["label"] or "no answer")
        assert entry["path"] in line
    assert len(entries) == 61
    assert entries[-1]["error"].startswith(f"{given[1]} is not an image that can be read")


def test_the_summary_counts_cells_and_infected_with_wilsons_interval(run, cells, model_file, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    given = [cells, tmp_path / "broken.png"]
    entries = run("predict", model_file, *given, "--json")
    infected = sum(entry["label"] == "infected" for entry in entries.json)
    assert 0 < infected < 60  # else this test would see little
    low, high = wilson_interval(infected, 60)
    lines = run("predict", model_file, *given).out.splitlines()
    assert lines[61:63] == [
        f"60 cells: {infected} infected, {infected / 0.6:.1f} % "
        f"(95 % interval {100 * low:.1f} % to {100 * high:.1f} %, cells taken as independent)",
        "1 picture without an answer: 1 could not be read",
    ]
    assert lines[-1] == NOTICE
    assert entries.err.splitlines()[-4:] == lines[61:]


def test_the_summary_tells_how_many_false_positives_to_expect(run, cells, model_file):
    # Specificity 0.9, between 0.8 and 0.95, of 60 cells.
    assert "about 6.0 (3.0 to 12) would be called so by mistake" in run("predict", model_file, cells).out


def test_where_images_were_excluded_the_specificity_on_all_is_told_too(run, cells, tmp_path):
    model = classifier()
    model.provenance = {"excluded": 7}
    model.metrics = {"test": {"specificity": [0.99]}}
    model.save(tmp_path / "m.safetensors")
    out = run("predict", tmp_path / "m.safetensors", cells).out
    assert "about 0.6 would be called so" in out
    assert "images were excluded from that test" in out

    model.metrics = {"test": {"specificity": [0.99]}, "test_all_labels": {"specificity": [0.9, 0.8, 0.95]}}
    model.save(tmp_path / "m.safetensors")
    out = run("predict", tmp_path / "m.safetensors", cells).out
    assert "was 0.9900 on cells whose label nobody doubts, 0.9000 on all (when tested)" in out
    assert "about 0.6 or, by the second figure, 6.0 (3.0 to 12) would be called so by mistake" in out
    assert "images were excluded" not in out


def test_a_test_without_exclusions_says_nothing_of_them(run, cells, tmp_path):
    model = classifier()
    model.provenance = {"excluded": 0}
    model.metrics = {"test": {"specificity": [0.99]}}
    model.save(tmp_path / "m.safetensors")
    out = run("predict", tmp_path / "m.safetensors", cells).out
    assert "was 0.9900 when tested" in out and "excluded" not in out


def test_a_trained_model_carries_the_figures_with_and_without_exclusions():
    from tinynet.runs.run import for_the_file

    generator = np.random.default_rng(0)
    labels, patients = generator.integers(0, 2, 60), np.arange(60) % 6
    measured = evaluate_probabilities(labels, generator.random(60), 0.5, patients, seed=0)
    assert set(for_the_file({"test": measured})) == {"test"}
    carried = for_the_file({"test": measured, "test_all_labels": measured})
    assert carried["test_all_labels"] == carried["test"]
    assert carried["test"]["specificity"][0] == round(measured["specificity"], 4)


@pytest.mark.parametrize("test", [{}, {"specificity": None}, {"specificity": [2, 0, 1]}, "none", [0.9]])
def test_without_a_specificity_the_summary_says_so(run, cells, tmp_path, test):
    model = classifier()
    model.metrics = {"test": test}
    model.save(tmp_path / "m.safetensors")
    assert "the model file has no specificity" in run("predict", tmp_path / "m.safetensors", cells).out


@pytest.mark.parametrize(("threshold", "label"), [(0.0, "infected"), (1.0, "uninfected")])
def test_the_models_threshold_decides(run, cells, tmp_path, threshold, label):
    model = classifier()
    model.threshold = threshold
    model.save(tmp_path / "m.safetensors")
    entries = run("predict", tmp_path / "m.safetensors", cells, "--json").json
    assert {entry["label"] for entry in entries} == {label}


def test_a_whole_field_gets_no_confident_answer(run, cells, model_file, tmp_path):
    field = tmp_path / "field.png"
    Image.fromarray(np.full((300, 400, 3), 210, np.uint8)).save(field)
    ran = run("predict", model_file, cells, field, "--json")
    entry = ran.json[-1]
    assert (entry["label"], entry["probability"]) == (None, None)
    assert entry["error"].startswith(f"{field} does not look like one segmented cell: ")
    assert ran.status == 0
    assert "1 of 61 pictures do not look like one segmented cell" in ran.err
    assert "60 cells:" in ran.err

    alone = run("predict", model_file, field)
    assert alone.status == 1
    assert alone.err == f"tinynet predict: {entry['error']}\n"
    assert run("predict", model_file, field, "--any-picture", "--json").json[0]["label"] is not None


def test_unreadable_pictures_among_others_are_counted_and_passed_over(run, cells, model_file, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    ran = run("predict", model_file, tmp_path / "empty.png", tmp_path / "missing.png", cells, "--json")
    assert ran.status == 0
    assert [bool(entry["error"]) for entry in ran.json] == [True, True] + [False] * 60
    assert "2 of 62 pictures could not be read" in ran.err


def test_if_no_picture_can_be_read_the_status_is_1_and_the_list_still_there(run, model_file, tmp_path):
    paths = [tmp_path / "missing.png", tmp_path / "gone.png"]
    ran = run("predict", model_file, *paths, "--json")
    assert ran.status == 1
    assert [entry["error"] for entry in ran.json] == [f"{path} does not exist" for path in paths]
    assert ran.err == (
        f"tinynet predict: none of the 2 pictures has an answer; the first: {paths[0]} does not exist\n"
    )


def test_many_pictures_are_answered_as_few_are_and_read_as_they_are_needed(cells, model_file, monkeypatch):
    model = tn.load(model_file)
    paths = [str(path) for path in sorted(cells.rglob("*.png"))]
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    at_once = answers.answer_all(model, [str(cells)], check=True, warn=pytest.fail)
    (whole,) = list(at_once)

    read = Counter()
    monkeypatch.setattr(answers, "decode", lambda path: read.update([path]) or decode(path))
    monkeypatch.setattr(answers, "AT_A_TIME", 8)
    chunks = answers.answer_all(model, paths, check=True, warn=pytest.fail)
    first = next(chunks)
    assert sorted(read) == sorted(paths[:8])
    rest = [answer for chunk in chunks for answer in chunk]
    assert sorted(read.elements()) == sorted(paths)
    assert {answer.path: answer.label for answer in [*first, *rest]} == {a.path: a.label for a in whole}
    assert [answer.path for answer in [*first, *rest]] == paths
    np.testing.assert_allclose(
        [answer.probability for answer in sorted([*first, *rest], key=lambda answer: answer.path)],
        [answer.probability for answer in sorted(whole, key=lambda answer: answer.path)],
        rtol=1e-5,
    )


def test_the_kernels_are_chosen_for_all_pictures_not_for_those_read_at_once(cells, model_file, monkeypatch):
    asked = []
    choose = kernels.for_images
    monkeypatch.setattr(answers, "AT_A_TIME", 8)
    monkeypatch.setattr(kernels, "for_images", lambda count, work: asked.append(count) or choose(count, work))
    monkeypatch.setattr(kernels, "enough_images", lambda work: 10)
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    first = next(answers.answer_all(tn.load(model_file), [str(cells)], check=False, warn=pytest.fail))
    assert len(first) == 8 and asked[0] == 10  # there are 60: enough
    asked.clear()
    paths = [str(path) for path in sorted(cells.rglob("*.png"))[:3]]
    next(answers.answer_all(tn.load(model_file), paths, check=False, warn=pytest.fail))
    assert asked[0] == 3


@pytest.fixture
def interrupted(monkeypatch, cells):
    """Ctrl-C while the 21st picture is read; pictures are taken eight at a time."""
    fatal = sorted((cells / "Parasitized").iterdir())[20]

    def read(path):
        if path == str(fatal):
            raise KeyboardInterrupt
        return decode(path)

    monkeypatch.setattr(answers, "AT_A_TIME", 8)
    monkeypatch.setattr(answers, "decode", read)


def test_ctrl_c_leaves_a_table_with_the_answers_so_far(run, interrupted, cells, model_file, tmp_path):
    table = tmp_path / "answers.csv"
    ran = run("predict", model_file, cells, "--csv", table)
    assert ran.status == 130
    assert ran.err == (
        f"tinynet predict: the answers so far are in {table}\ntinynet predict: stopped by Ctrl-C\n"
    )
    assert len(list(csv.DictReader(table.open(encoding="utf-8")))) == 16
    assert os.listdir(tmp_path) == ["answers.csv"]


def test_ctrl_c_leaves_valid_json(run, interrupted, cells, model_file):
    ran = run("predict", model_file, cells, "--json")
    assert ran.status == 130
    assert len(ran.json) == 16


def test_a_table_is_not_written_over_a_picture(run, cells, model_file, tmp_path):
    first, second = sorted((cells / "Uninfected").iterdir())[:2]
    before = first.read_bytes()
    ran = run("predict", model_file, "--csv", first, second)  # FILE forgotten
    assert ran.status == 2
    assert first.read_bytes() == before


def test_a_table_that_cannot_be_written_is_one_sentence_before_anything_is_read(
    run, cells, model_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(answers, "decode", lambda path: pytest.fail("read a picture"))
    table = tmp_path / "no such folder" / "answers.csv"
    ran = run("predict", model_file, cells, "--csv", table)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"tinynet predict: {table} could not be written: no such file or directory.\n"


def test_a_model_of_another_kind_is_refused(run, cells, tmp_path):
    from tinynet.models import autoencoder

    path = tmp_path / "reconstruction.safetensors"
    autoencoder().save(path)
    for arguments in (["predict", path, cells], ["evaluate", path, "--data", cells]):
        ran = run(*arguments)
        assert (ran.status, ran.out) == (1, "")
        assert f"{path} is not a classifier of two classes: its output is 32 x 32 x 3" in ran.err


def test_a_model_with_one_sigmoid_output_is_a_classifier_too(run, cells, tmp_path):
    model = tn.Sequential([tn.Flatten(), tn.Dense(1, "sigmoid")], (8, 8, 3))
    model.save(tmp_path / "m.safetensors")
    path = next((cells / "Uninfected").iterdir())
    (entry,) = run("predict", tmp_path / "m.safetensors", path, "--json").json
    with kernels.using("numpy"):
        assert entry["probability"] == float(model.predict([decode(path)])[0, 0])
    assert entry["label"] == ("infected" if entry["probability"] >= 0.5 else "uninfected")


def test_predicting_a_few_pictures_imports_neither_numba_nor_matplotlib(cells, model_file):
    program = (
        "import sys; from tinynet.cli import main; status = main(sys.argv[1:]); "
        "print(status, [name for name in ('numba', 'matplotlib', 'tqdm') if name in sys.modules])"
    )
    ran = in_a_process("-c", program, "predict", model_file, next((cells / "Uninfected").iterdir()))
    assert ran.stdout.decode().splitlines()[-1] == "0 []"


@pytest.mark.skipif(sys.platform == "win32", reason="file names in bytes")
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
@pytest.mark.parametrize("encoding", ["", "ascii:strict", "utf-8:strict"])
@pytest.mark.parametrize("utf8", ["0", "1"])
def test_any_file_name_can_be_printed_in_any_locale(cells, model_file, tmp_path, form, encoding, utf8):
    data = next((cells / "Uninfected").iterdir()).read_bytes()
    names = ["b\u00e4d-\u0416-\u764c.png".encode(), b"new\nline.png", b"\xff\xfe.png"]
    folder = tmp_path / "cells"
    folder.mkdir()
    written = []
    for name in names:
        try:
            Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(data)
            written.append(name)
        except OSError:  # a file system that knows only UTF-8
            continue
    table = tmp_path / "answers.csv"
    form = [*form, table] if form == ["--csv"] else form
    environment = {
        "LC_ALL": "C",
        "PYTHONUTF8": utf8,
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": encoding,
    }
    ran = in_a_process("-m", "tinynet", "predict", model_file, folder, *form, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert b"Traceback" not in ran.stderr
    if form == ["--json"]:
        found = {os.path.basename(entry["path"]) for entry in json.loads(ran.stdout.decode("ascii"))}
        assert len(found) == len(written)
        if b"new\nline.png" in written:
            assert "new\nline.png" in found
    elif form:
        rows = list(csv.DictReader(io.StringIO(table.read_bytes().decode("utf-8", "surrogateescape"))))
        assert len(rows) == len(written)
    else:
        assert len(ran.stdout.splitlines()) == len(written) + 3  # a line each, the summary, the notice


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["predict"], ["predict", "--json"], ["summary"]])
def test_a_full_disk_under_standard_output_is_one_sentence(cells, model_file, command):
    name, *options = command
    arguments = [model_file, cells, *options] if name == "predict" else [model_file]
    with open("/dev/full", "wb") as full:
        ran = in_a_process("-m", "tinynet", name, *arguments, stdout=full, text=True)
    assert ran.returncode == 1
    assert ran.stderr == f"tinynet {name}: the output could not be written: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are others there")
def test_a_reader_that_goes_away_is_one_sentence(cells, model_file):
    reading, writing = os.pipe()
    os.close(reading)
    ran = in_a_process("-m", "tinynet", "predict", model_file, cells, stdout=writing, text=True)
    os.close(writing)
    assert ran.returncode == 1
    assert ran.stderr == "tinynet predict: the output could not be written: whatever reads it has stopped\n"


# evaluate


def expected_figures(model_file, folder, keep=None, seed=0):
    """What evaluate should say, computed the straight way."""
    model = tn.load(model_file)
    scanned = scan_folder(folder)
    if keep is not None:
        scanned = scanned.select(keep)
    images = load_images(scanned, 16, 16, progress=False).images
    with kernels.using("numpy"):
        probabilities = model.predict(images)[:, 1]
    return evaluate_probabilities(scanned.labels, probabilities, model.threshold, scanned.patients, seed=seed)


def test_evaluate_as_json_is_one_object_with_every_figure(run, cells, model_file):
    ran = run("evaluate", model_file, "--data", cells, "--json")
    expected = expected_figures(model_file, cells)
    assert ran.status == 0
    assert {key: ran.json[key] for key in expected} == json.loads(json.dumps(expected))
    wanted = "n accuracy sensitivity specificity precision f1 auc loss threshold confusion patients at_half"
    assert set(wanted.split()) <= set(ran.json)
    assert ran.json["n"] == 60
    assert ran.json["patients"] == 12
    assert ran.json["part"] == "all"


def test_evaluate_prints_the_same_figures_as_a_table(run, cells, model_file):
    figures = run("evaluate", model_file, "--data", cells, "--json").json
    out = run("evaluate", model_file, "--data", cells).out
    assert "on all pictures of" in out
    assert "60 cells of 12 patients" in out
    for name in ("accuracy", "sensitivity", "specificity"):
        low, high = figures["intervals"][name]
        assert re.search(rf"^{name} +{figures[name]:.4f} +{low:.4f} to {high:.4f} +", out, re.MULTILINE)
    assert re.search(rf"^infected, found +{figures['confusion']['tp']} ", out, re.MULTILINE)
    assert out.splitlines()[-1] == NOTICE


def test_evaluate_leaves_out_what_is_excluded_and_what_is_unreadable(run, model_file, tmp_path):
    root = write_folder(tmp_path, 20, (40, 50), seed=1, patients=4)
    first, second = sorted((root / "Parasitized").iterdir())[:2]
    (tmp_path / "list.txt").write_text(f"Parasitized/{first.stem}\n")
    second.write_bytes(second.read_bytes()[:100])
    (root / "Uninfected" / "Thumbs.db").write_bytes(b"stray")
    ran = run("evaluate", model_file, "--data", tmp_path, "--exclude", tmp_path / "list.txt", "--json")
    assert ran.status == 0
    assert (ran.json["n"], ran.json["excluded"], ran.json["unreadable"]) == (18, 1, 1)
    assert ran.json["confusion"]["tp"] + ran.json["confusion"]["fn"] == 8
    assert f"1 of 19 pictures could not be read and were passed over; the first, {second}: " in ran.err
    assert "1 files that are not pictures were passed over" in ran.err


@pytest.fixture
def trained(cells, tmp_path):
    """A model file that tells how a training divided `cells`, one picture excluded, and that division."""
    from tinynet.runs import RunConfig
    from tinynet.runs.data import load

    doubtful = tmp_path / "doubtful.txt"
    doubtful.write_text(f"Uninfected/{sorted((cells / 'Uninfected').iterdir())[3].stem}\n")
    data = load(RunConfig(data=str(cells), exclude=str(doubtful), seed=5), 16, progress=False)
    model = classifier()
    model.provenance = {"split": "patient", "seed": 5, "data": data.digest()}
    model.save(tmp_path / "trained.safetensors")
    return tmp_path / "trained.safetensors", doubtful, data


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_a_part_of_the_trainings_split_is_found_again(run, cells, trained, part):
    path, doubtful, data = trained
    ran = run("evaluate", path, "--data", cells, "--exclude", doubtful, "--part", part, "--json")
    expected = expected_figures(path, cells, getattr(data, part), seed=5)
    assert ran.status == 0
    assert {key: ran.json[key] for key in expected} == json.loads(json.dumps(expected))
    assert ran.json["n"] < 59


def test_a_part_of_a_split_by_image_is_measured_as_training_does_and_called_optimistic(run, cells, tmp_path):
    from tinynet.runs import RunConfig
    from tinynet.runs.data import load
    from tinynet.runs.run import measure

    config = RunConfig(data=str(cells), split="image", seed=5)
    data = load(config, 16, progress=False)
    model = classifier()
    model.provenance = {"split": "image", "seed": 5, "data": data.digest()}
    path = tmp_path / "by-image.safetensors"
    model.save(path)
    with kernels.using("numpy"):
        expected = measure(model, data, config)["test"]
    figures = run("evaluate", path, "--data", cells, "--part", "test", "--json").json
    assert figures["interval_method"] == "wilson" and figures["patients"] is None
    assert {key: figures[key] for key in expected} == json.loads(json.dumps(expected))
    printed = run("evaluate", path, "--data", cells, "--part", "test").out
    assert "optimistic: the split was by image" in printed
    assert "whole patients" not in printed and " patients (" not in printed


def test_the_test_patients_can_be_evaluated_with_all_labels(run, cells, trained):
    path, doubtful, data = trained
    options = ["--data", cells, "--exclude", doubtful, "--json"]
    test = run("evaluate", path, *options, "--part", "test").json
    whole = run("evaluate", path, *options, "--part", "test-all-labels").json
    back = int(np.isin(data.patients[~data.kept], data.patients[data.test]).sum())
    assert whole["n"] == test["n"] + back
    assert (whole["patients"], whole["excluded"]) == (test["patients"], 0)


def test_evaluating_on_everything_says_what_that_means(run, cells, trained, model_file):
    assert "--part test" in run("evaluate", trained[0], "--data", cells).err
    assert "--part test" not in run("evaluate", model_file, "--data", cells).err


def test_parts_of_other_data_or_of_an_unknown_split_are_refused(run, cells, trained, model_file, tmp_path):
    path = trained[0]
    without_list = run("evaluate", path, "--data", cells, "--part", "test")
    assert (without_list.status, without_list.out) == (1, "")
    assert "give the same --data and --exclude" in without_list.err
    other = write_folder(tmp_path / "other", 60, (40, 50), seed=9, patients=12)
    assert "give the same --data" in run("evaluate", path, "--data", other, "--part", "test").err
    unknown = run("evaluate", model_file, "--data", cells, "--part", "test")
    assert unknown.status == 1
    assert "does not say how its data was divided" in unknown.err


# train


@pytest.fixture
def begun(cells, tmp_path):
    """The folder of a run that was interrupted before it had done anything."""
    from tinynet.runs import RunConfig

    folder = tmp_path / "run"
    folder.mkdir()
    RunConfig(model="small-cnn", data=str(cells), size=16, epochs=1, split="image").save(folder)
    return folder


@pytest.mark.parametrize(
    "option",
    [
        "--model autoencoder",
        "--split patient",
        "--epochs 2",
        "--batch-size 64",
        "--size 32",
        "--learning-rate 0.1",
        "--seed 1",
        "--no-augmentation",
        "--out elsewhere",
    ],
)
def test_an_option_that_contradicts_the_run_to_be_resumed_is_refused(run, begun, option):
    ran = run("train", "--resume", begun, *option.split())
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"tinynet train: {option} c") and ran.err.count("\n") == 1
    assert str(begun) in ran.err


def test_a_resumed_run_takes_moved_data_a_moved_list_and_what_it_has_anyway(
    run, begun, cells, tmp_path, monkeypatch
):
    seen = []

    def train(config, folder, **options):
        seen.append((config, folder))
        raise tn.TinynetError("enough")

    monkeypatch.setattr("tinynet.runs.train", train)
    same = ["--model", "small-cnn", "--epochs", "1", "--seed", "0", "--split", "image", "--out", begun]
    run("train", "--resume", begun, "--data", "moved", "--exclude", "list.txt", "--quiet", *same)
    ((config, folder),) = seen
    assert (config.data, config.exclude, folder) == ("moved", "list.txt", begun)
    assert (config.model, config.epochs, config.size) == ("small-cnn", 1, 16)


def test_a_run_keeps_absolute_paths(tmp_path, monkeypatch):
    from tinynet.runs import RunConfig

    monkeypatch.chdir(tmp_path)
    RunConfig(data="cells", exclude="lists/doubtful.txt").save(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    config = RunConfig.load(tmp_path)
    assert (config.data, config.exclude) == (
        str(tmp_path / "cells"),
        str(tmp_path / "lists" / "doubtful.txt"),
    )


# summary, info


def test_summary_shows_layers_costs_and_what_the_file_says(run, model_file):
    ran = run("summary", model_file)
    assert ran.status == 0
    assert re.search(r"^conv1 +Conv2D +16 x 16 x 4 +112 ", ran.out, re.MULTILINE)
    assert f"file {Path(model_file).stat().st_size:,} bytes" in ran.out
    assert "uninfected, infected" in ran.out
    assert '"specificity": [0.9, 0.8, 0.95]' in ran.out


def test_info_tells_versions_kernels_folders_and_machine(run):
    ran = run("info", "--json")
    assert ran.status == 0
    assert ran.json["versions"]["tinynet"] == tn.__version__
    assert ran.json["versions"]["NumPy"] == np.__version__
    assert ran.json["kernels"]["in use"] == kernels.active().NAME
    assert ran.json["folders"]["decoded images"] == os.environ["TINYNET_CACHE"]
    printed = run("info").out
    for title, entries in ran.json.items():
        assert re.search(rf"^{title}$", printed, re.MULTILINE)
        for name, value in entries.items():
            assert re.search(rf"^  {re.escape(name)} +{re.escape(str(value))}$", printed, re.MULTILINE)


def test_info_says_why_numbas_kernels_are_not_in_use(run, monkeypatch):
    monkeypatch.setattr(kernels, "numba_problem", lambda: "ImportError: no wheel for this machine")
    with kernels.using("numpy"):
        facts = run("info", "--json").json["kernels"]
    assert facts == {"in use": "numpy", "why": "Numba cannot be used: ImportError: no wheel for this machine"}


# gradcheck


@dataclass
class StubCase:
    name: str
    verdict: str

    def run(self, seed):
        detail = "" if self.verdict == "ok" else f"the gradient is {self.verdict} (seed {seed})"
        check = InputCheck("x", (2,), 3, 1e-9, 1e-8, self.verdict, detail)
        return GradcheckReport(self.name, kernels.active().NAME, True, (check,))


def gradient_cases(monkeypatch, *cases):
    module = type(sys)("tinynet.gradient_cases")
    module.CASES = list(cases)
    monkeypatch.setitem(sys.modules, "tinynet.gradient_cases", module)
    monkeypatch.setattr(tn, "gradient_cases", module, raising=False)


def available():
    return ["numpy"] + ([] if kernels.numba_problem() else ["numba"])


def test_gradcheck_prints_a_line_a_case_with_the_kernels_that_ran(run, monkeypatch):
    gradient_cases(monkeypatch, StubCase("one", "ok"), StubCase("two", "ok"))
    ran = run("gradcheck")
    assert ran.status == 0
    lines = ran.out.splitlines()
    expected = [(case, name) for name in available() for case in ("one", "two")]
    assert [tuple(line.split()[:2]) for line in lines[:-1]] == expected
    assert all(line.endswith("1.0e-09  ok") for line in lines[:-1])
    assert lines[-1] == f"{len(expected)} of {len(expected)} gradients agree with difference quotients"


def test_a_wrong_gradient_is_status_1_and_told(run, monkeypatch):
    gradient_cases(monkeypatch, StubCase("one", "ok"), StubCase("two", "wrong"))
    ran = run("gradcheck", "--kernels", "numpy", "--seed", "7")
    assert ran.status == 1
    assert re.search(r"^two  numpy  .*FAILED\n  the gradient is wrong \(seed 7\)$", ran.out, re.MULTILINE)
    assert ran.out.splitlines()[-1] == "1 of 2 gradients agree with difference quotients"


def test_gradcheck_verbose_prints_the_reports(run, monkeypatch):
    case = StubCase("one", "ok")
    gradient_cases(monkeypatch, case)
    with kernels.using("numpy"):
        assert str(case.run(0)) in run("gradcheck", "--kernels", "numpy", "--verbose").out


def test_gradcheck_without_numba_checks_numpys_kernels_and_says_so(run, monkeypatch):
    gradient_cases(monkeypatch, StubCase("one", "ok"))
    monkeypatch.setattr(kernels, "numba_problem", lambda: "ModuleNotFoundError: No module named 'numba'")
    ran = run("gradcheck")
    assert ran.status == 0
    assert ran.out.splitlines()[-1] == "1 of 1 gradients agree with difference quotients"
    assert "the Numba kernels are not checked" in ran.err


def test_the_self_test_catches_a_wrong_gradient_on_every_kernel_set(run):
    ran = run("gradcheck", "--self-test")
    assert ran.status == 0
    wanted = [["right", "gradient", name, "passed", "ok"] for name in available()]
    wanted += [["wrong", "gradient", name, "caught", "ok"] for name in available()]
    assert sorted(line.split() for line in ran.out.splitlines()) == sorted(wanted)


def test_the_self_test_fails_where_the_check_is_blind(run, monkeypatch):
    blind = GradcheckReport("anything", "numpy", True, ())
    monkeypatch.setattr(sys.modules["tinynet.gradcheck"], "gradcheck", lambda *args, **options: blind)
    ran = run("gradcheck", "--self-test", "--kernels", "numpy")
    assert ran.status == 1
    assert "wrong gradient  numpy  passed  FAILED" in ran.out
