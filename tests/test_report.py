"""The report: its figures, its page, and what the page must not do."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import hide_matplotlib

import tinynet as tn
from tinynet import cli, kernels, png, report
from tinynet.data.synthetic import synthetic_cells, write_folder
from tinynet.errors import ArgumentError, FileAccessError, MissingDependencyError, ShapeError
from tinynet.metrics import evaluate_probabilities
from tinynet.report import charts, galleries
from tinynet.report.evaluated import costs

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

NOTICE = "Not a medical device; for research and teaching."


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("TINYNET_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "_chosen", None)


class Page(HTMLParser):
    """What a browser would make of a page: tags, addresses, tables as rows of texts, all text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.addresses, self.rows, self.words, self.open = [], [], [], [], []
        self.feed(source)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "input", "link"):
            self.open.append(tag)
        for key, value in attributes:
            assert not key.startswith("on"), f"{key} is a script"
            if key in ("src", "href", "action", "data", "poster", "srcset", "background"):
                self.addresses.append(value)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "url(" not in data and "@import" not in data
            return
        self.words.append(data)
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The one table row that begins so."""
        (found,) = [row for row in self.rows if row[0].startswith(first)]
        return found

    def pictures(self) -> list[np.ndarray]:
        start = "data:image/png;base64,"
        data = [base64.b64decode(a[len(start) :]) for a in self.addresses if a.startswith(start)]
        return [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in data]


def checked(path) -> Page:
    """The page, once it is known to be whole and to need nothing but itself."""
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not page.open, f"never closed: {page.open}"
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in page.addresses)
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", source)
    assert NOTICE in page.text
    return page


def run(capsys, *words):
    status = cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("cells"), 60, (40, 60), seed=3, patients=12)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, cells):
    """The shipped autoencoder with a threshold and a temperature of its own."""
    model = tn.load("autoencoder")
    model.threshold, model.temperature = 0.9, 2.5
    path = tmp_path_factory.mktemp("model") / "own.safetensors"
    model.save(path)
    return path


@pytest.fixture
def undrawn(monkeypatch):
    """Charts are made and not drawn, which is most of the time that a page takes."""
    blank = png.encode(np.zeros((1, 1, 3), np.uint8))
    monkeypatch.setattr(charts, "png_bytes", lambda figure: blank)


def invented(n=300, seed=0, **options):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    probabilities = np.clip(0.25 * generator.standard_normal(n) + 0.2 + 0.6 * labels, 0, 1)
    options = {"patients": generator.integers(0, 12, n), **options}
    return report.Evaluated(labels, probabilities, **options)


def test_the_pages_figures_are_those_of_evaluate(undrawn, capsys, cells, model_file, tmp_path):
    words = ("evaluate", model_file, "--data", cells, "--report", tmp_path / "r", "--json")
    status, out, err = run(capsys, *words)
    figures = json.loads(out)
    assert status == 0 and str(tmp_path / "r" / "index.html") in err
    told = json.loads((tmp_path / "r" / "report.json").read_text())
    assert {key: told[key] for key in figures} == figures

    page = checked(tmp_path / "r" / "index.html")
    for key, name in (
        ("accuracy", "accuracy"), ("f1", "F1 score"), ("precision", "precision"),
        ("sensitivity", "sensitivity"), ("specificity", "specificity"),
    ):  # fmt: skip
        first = next(row for row in page.rows if row[0] == name)
        assert first[1] == f"{figures[key]:.4f}" and first[3] == f"{figures['at_half'][key]:.4f}"
        ends = figures["intervals"][key]
        assert first[2] == f"{ends[0]:.4f} to {ends[1]:.4f}"
    for key, name in (("loss", "loss"), ("auc", "AUC")):
        assert page.row(name)[1] == f"{figures[key]:.4f}"
    for key, name in (
        ("sensitivity_at_specificity", "sensitivity at specificity 0.99"),
        ("specificity_at_sensitivity", "specificity at sensitivity 0.99"),
    ):
        assert page.row(name)[1] == f"{told[key]['value']:.4f}"
    counts = figures["confusion"]
    uninfected, infected = (next(row for row in page.rows if row[0] == c) for c in ("uninfected", "infected"))
    assert [cell.split(" ")[0] for cell in uninfected[1:3]] == [str(counts["tn"]), str(counts["fp"])]
    assert [cell.split(" ")[0] for cell in infected[1:3]] == [str(counts["fn"]), str(counts["tp"])]
    assert page.row("a cell called infected is")[1] == f"{told['predictive_values']['positive']:.4f}"
    assert "60 cells of 12 patients" in page.text

    # The temperature's before is the network without it; the model is the shipped one otherwise.
    plain = tn.load("autoencoder")
    before = run(capsys, "evaluate", "autoencoder", "--data", cells, "--json")[1]
    assert told["calibration"]["before"]["loss"] == pytest.approx(json.loads(before)["loss"], rel=1e-5)
    assert told["calibration"]["loss"] == pytest.approx(figures["loss"])
    assert page.row("at temperature 1")[2] == f"{told['calibration']['before']['loss']:.4f}"
    assert page.row("at the model's temperature 2.5")[2] == f"{figures['loss']:.4f}"

    cost = told["costs"]
    assert cost["file_bytes"] == model_file.stat().st_size
    assert cost["multiply_accumulates"] == plain.multiply_adds() == 769_968
    assert cost["first_layer_multiply_accumulates"] == 32 * 32 * 16 * 27
    assert cost["parameters"] == 16_374
    for words in (
        "16,374",
        "769,968",
        "442,368",
        "cannot be a forward pass",
        f"{cost['file_bytes']:,} bytes",
    ):
        assert words in page.text


def test_the_page_shows_charts_maps_and_every_mistake(capsys, cells, model_file, tmp_path):
    run(capsys, "evaluate", model_file, "--data", cells, "--report", tmp_path)
    page, told = checked(tmp_path / "index.html"), json.loads((tmp_path / "report.json").read_text())
    wrong = told["confusion"]["fp"] + told["confusion"]["fn"]
    assert wrong == len(told["mistakes"]) > 0
    for mistake in told["mistakes"]:
        assert mistake["name"] in page.text
        assert mistake["label"] == int(mistake["name"].startswith("Parasitized"))
        called = mistake["probability"] >= told["threshold"]
        assert called != bool(mistake["label"])
    fields = {name: min(4, count) for name, count in told["confusion"].items()}
    drawings = 4 * sum(fields.values()) + min(60, told["confusion"]["fp"]) + min(60, told["confusion"]["fn"])
    assert len(page.pictures()) in (drawings + 4, drawings + 5)  # the ROC curve's corner may be left out
    assert "encoder3" in page.text and "Grad-CAM" in page.text
    rows = {row["patient"]: row for row in told["by_patient"]}
    assert sum(row["cells"] for row in rows.values()) == 60 and len(rows) == 12
    for key, field in (("false_positives", "fp"), ("false_negatives", "fn")):
        assert sum(row[key] for row in rows.values()) == told["confusion"][field]
    assert sum(len(row) == 6 and row[0].isdigit() for row in page.rows) == 12


def test_a_gallery_shows_the_file_itself_in_its_proportions():
    wide = synthetic_cells(1, size=64).images[0][:32]
    answers = report.Evaluated(np.array([0, 1]), np.array([0.9, 0.9]), load_image=lambda cell: wide)
    page = Page("\n".join(galleries.mistakes(answers, "fp")))
    (shown,) = page.pictures()
    assert np.array_equal(shown, wide) and "0.9000" in page.text and "cell 0" in page.text
    large = galleries.thumbnail(np.zeros((400, 300, 3), np.uint8))
    assert large.shape == (120, 90, 3)
    none = report.Evaluated(np.array([0, 1]), np.array([0.1, 0.9]), load_image=lambda cell: wide)
    assert galleries.mistakes(none, "fn") == ["<p>None.</p>"]


def test_names_of_files_are_text_whatever_they_are(undrawn, tmp_path):
    nasty = [
        '<script>alert(1)</script>"', "a'onerror='x", "&lt;", "\x1b[31m", "\u202etxt.exe", "\udcff.png",
        "x" * 300,
    ]  # fmt: skip
    labels = np.array([0, 1] * 4)[:7]
    answers = report.Evaluated(
        labels, 1.0 - labels, names=nasty, load_image=lambda cell: np.zeros((9, 9, 3), np.uint8)
    )
    report.write(tmp_path, answers, "<img src=x>", {"model": nasty[5]}, [nasty[0]])
    page = checked(tmp_path / "index.html")
    source = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in source and "onerror='" not in source and "\x1b" not in source
    assert "\u202e" not in source
    assert nasty[0] in page.text and "&lt;" in page.text and "\\udcff.png" in page.text
    assert json.loads((tmp_path / "report.json").read_text())["mistakes"][0]["name"] in nasty


def test_pooled_answers_of_several_models_need_no_model_and_no_pictures(undrawn, tmp_path):
    answers = invented(threshold=0.4, uncalibrated=None)
    report.write(tmp_path, answers, "pooled")
    page, told = checked(tmp_path / "index.html"), json.loads((tmp_path / "report.json").read_text())
    assert told["costs"] is None and "no single model" in page.text and "not at hand" in page.text
    expected = evaluate_probabilities(answers.labels, answers.probabilities, 0.4, answers.patients)
    assert {key: told[key] for key in expected} == json.loads(json.dumps(expected))


def test_without_patients_intervals_are_called_too_narrow(undrawn, tmp_path):
    report.write(tmp_path, invented(patients=None), "no patients")
    page = checked(tmp_path / "index.html")
    assert "too narrow" in page.text and "not known here" in page.text


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_makes_a_page_too(tmp_path, label):
    answers = report.Evaluated(np.full(5, label), np.linspace(0.1, 0.9, 5))
    report.write(tmp_path, answers, "one class")
    page = checked(tmp_path / "index.html")
    assert "undefined" in page.text
    json.loads((tmp_path / "report.json").read_text())


def test_everything_right_makes_a_page_too(tmp_path):
    labels = np.tile([0, 1], 10)
    answers = report.Evaluated(labels, labels * 1.0, patients=np.repeat(np.arange(4), 5))
    report.write(tmp_path, answers, "perfect")
    page = checked(tmp_path / "index.html")
    assert "None." in page.text and page.row("sensitivity at specificity 0.99")[1] == "1.0000"


def test_an_int8_model_gets_a_report_without_maps(undrawn, capsys, cells, tmp_path):
    model = tn.load("autoencoder").quantize("int8", synthetic_cells(16, size=32).images)
    model.save(tmp_path / "int8.safetensors")
    words = ("evaluate", tmp_path / "int8.safetensors", "--data", cells, "--report", tmp_path / "r")
    assert run(capsys, *words)[0] == 0
    page = checked(tmp_path / "r" / "index.html")
    assert "has no gradients" in page.text and "int8" in page.text and "769,968" in page.text
    assert costs(model)["multiply_accumulates"] == model.multiply_adds()


def test_pictures_whose_names_differ_in_their_extension_alone(undrawn, capsys, tmp_path):
    """Their names tell them not apart, so the page shows what the model was given."""
    root = write_folder(tmp_path / "cells", 12, (40, 50), seed=1, patients=4)
    for path in sorted((root / "Uninfected").iterdir()):
        Image.open(path).save(path.with_suffix(".bmp"))
    status, _, _ = run(capsys, "evaluate", "autoencoder", "--data", root, "--report", tmp_path / "r")
    assert status == 0
    checked(tmp_path / "r" / "index.html")


@pytest.mark.parametrize("reach", [0.005, 0.06, 0.5])
def test_the_roc_curve_is_enlarged_where_there_is_something_to_see(reach):
    labels = np.repeat([0, 1], 1000)
    probabilities = np.where(np.arange(2000) % 1000 < 1000 * reach, 1 - labels, labels).astype(float)
    assert len(charts.roc(labels, probabilities, 0.5)) == (1 if reach == 0.5 else 2)


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_curves_are_the_shares_at_each_threshold(seed):
    answers = invented(200, seed)
    labels, probabilities = answers.labels, np.round(answers.probabilities, 2)
    (axes,) = charts.thresholds_figure(labels, probabilities, 0.5).axes
    sensitivity, specificity, _ = axes.get_lines()
    for level in np.random.default_rng(seed).uniform(0.002, 0.998, 30):
        called = probabilities >= level
        for line, expected in (
            (sensitivity, called[labels == 1].mean()),
            (specificity, (~called[labels == 0]).mean()),
        ):
            across, up = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            assert line.get_drawstyle() == "steps-pre" and (np.diff(across) >= 0).all()
            assert up[np.searchsorted(across, level)] == pytest.approx(expected)


def test_the_histogram_counts_every_cell():
    answers = invented(250)
    (axes,) = charts.histogram_figure(answers.labels, answers.probabilities, 0.5).axes
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    assert [sum(some) for some in heights] == np.bincount(answers.labels).tolist()


def test_the_reliability_curve_draws_the_bins():
    figures = report.measure(invented(500, uncalibrated=invented(500).probabilities ** 2))
    (axes,) = charts.reliability_figure(figures["calibration"]).axes
    before, after = (container.lines[0] for container in axes.containers)
    for line, bins in (
        (after, figures["calibration"]["bins"]),
        (before, figures["calibration"]["before"]["bins"]),
    ):
        assert list(line.get_xdata()) == [point["probability"] for point in bins]
        assert list(line.get_ydata()) == [point["share"] for point in bins]


def test_examples_are_the_surest_mistakes_and_drawn_right_answers():
    answers = invented(400)
    shown = galleries.examples(answers)
    scores = answers.probabilities
    false = np.flatnonzero((answers.labels == 0) & (scores >= 0.5))
    assert sorted(scores[shown["fp"]]) == sorted(scores[false])[-4:]
    assert set(shown["tp"]) != set(answers.fields()["tp"][:4])
    assert galleries.examples(invented(400, seed=0)) == shown


def test_without_matplotlib_nothing_is_begun(capsys, cells, tmp_path, monkeypatch):
    hide_matplotlib(monkeypatch)
    status, out, err = run(capsys, "evaluate", "no-such-model", "--data", cells, "--report", tmp_path / "r")
    assert (status, out) == (1, "") and "tinynet-cnn[plots]" in err
    with pytest.raises(MissingDependencyError):
        report.require_charts()


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ShapeError, match="names"):
        report.Evaluated(np.array([0, 1]), np.array([0.1, 0.9]), names=["a"])
    with pytest.raises(ArgumentError, match="at least one cell"):
        report.measure(report.Evaluated(np.array([]), np.array([])))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match="file"):
        report.write(tmp_path / "file" / "r", invented(), "no folder")
