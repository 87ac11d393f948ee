"""The studies: each runs on a handful of cells, what is done is not done again, the page shows all."""

from __future__ import annotations

import json
import re
from importlib import import_module

import numpy as np
import pytest

import tinynet as tn
from tinynet.errors import ArgumentError

pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

from tinynet.models import classifier

from studies import components, page, published, specks
from studies.__main__ import NAMES, main
from studies.fitting import at_best, fit, one_cycle
from studies.folds import cross_validated, data_of
from studies.study import Findings, Settings, carry_out, kept, signed, with_interval
from tinynet.data import scan_folder
from tinynet.data.synthetic import write_folder


@pytest.fixture(autouse=True, scope="module")
def surroundings(tmp_path_factory):
    """NumPy's kernels, which compile nothing, and no plots of the runs beneath, tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch, tn.kernels.using("numpy"):
        patch.setenv("TINYNET_KERNELS", "numpy")
        patch.setenv("TINYNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("tinynet.runs.pictures.draw", lambda *_: None)
        patch.setattr("matplotlib.figure.Figure.set_layout_engine", lambda *_, **__: None)  # takes seconds
        yield


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """96 synthetic cells of 16 patients, and a list that doubts six of them."""
    folder = write_folder(tmp_path_factory.mktemp("cells"), 96, (30, 40), seed=1, patients=16)
    (folder / "list.txt").write_text("\n".join(scan_folder(folder).names[5:90:16]) + "\n")
    return folder


def arguments(cells, out, *more):
    return [
        "--data", str(cells), "--exclude", str(cells / "list.txt"), "--quick", "--quiet",
        "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(cells, tmp_path_factory):
    """The folder that the whole command leaves."""
    folder = tmp_path_factory.mktemp("studies")
    assert main(arguments(cells, folder)) == 0
    return folder


def result(out, name):
    return json.loads((out / name / "result.json").read_text())


def parts(out, name, kind="table"):
    return [part for part in result(out, name)["parts"] if part["kind"] == kind]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_whole_and_its_pictures_are_there(out, name):
    found = result(out, name)
    assert found["complete"] and found["folds"] == [1] and found["of_folds"] == 3
    assert found["settings"]["quick"] and "data" not in found["settings"]
    for picture in parts(out, name, "picture"):
        assert (out / name / picture["file"]).read_bytes().startswith(b"\x89PNG")


def test_every_table_and_figure_of_the_report_is_on_the_page(out):
    shown = {part.get("number") for name in NAMES for kind in ("table", "picture", "listing")
             for part in parts(out, name, kind)}  # fmt: skip
    wanted = {f"Table {n}" for n in range(1, 10)} | {f"Figure {n}" for n in (2, 5, 6, 7, 8)}
    assert wanted | {"Figures 3 and 4"} <= shown
    text = (out / "index.html").read_text()
    for number in wanted:
        assert number in text
    assert "Not a medical device; for research and teaching." in text
    assert "QUICK" in text  # nobody takes an epoch's figures for results
    for source in re.findall(r'(?:src|href)="([^"#]+)"', text):
        assert (out / source).exists(), source


def test_the_larger_networks_have_room_in_the_tables(out):
    for name, number in (("small-cnn", "Table 3"), ("evaluation", "Table 7"), ("evaluation", "Table 8")):
        (table,) = (part for part in parts(out, name) if part["number"] == number)
        for network in ("ResNet50", "MobileNetV2", "SqueezeNet"):
            (row,) = (row for row in table["rows"] if row[0] == f"ours: {network}")
            assert set(row[1:]) == {"-"}


def test_the_swapped_columns_are_named_where_they_are_compared(out):
    (table,) = (part for part in parts(out, "evaluation") if part["number"] == "Table 7")
    assert any("swapped" in note for note in table["notes"])
    (row,) = (row for row in table["rows"] if row[0].endswith("from its Table 9"))
    place = table["header"].index
    assert (row[place("sensitivity")], row[place("specificity")]) == ("0.971", "0.989")


def test_the_published_confusion_matrix_gives_the_published_accuracy():
    figures = published.table_9()
    assert round(figures["accuracy"], 3) == 0.979 == float(published.TABLE_7[-1][1])
    assert (
        round(figures["sensitivity"], 3) == 0.971 == float(published.TABLE_7[-1][5])
    )  # in specificity's place
    assert round(figures["specificity"], 3) == 0.989 == float(published.TABLE_7[-1][6])
    assert f"{figures['precision']:.3f}" in published.SWAPPED


def test_the_parts_of_table_1_add_up(out):
    (table,) = (part for part in parts(out, "data") if part["number"] == "Table 1")
    counts = [
        [[int(n.replace(",", "")) for n in re.findall("[0-9,]+", cell)] for cell in row[1:]]
        for row in table["rows"][:3]
    ]
    for ours in counts[1:]:
        assert all(sick + well == both for sick, well, both in ours)
        assert sum(both for *_, both in ours) == 90
    sick, well, both = counts[0][2]  # the report's test part, as it stands there
    assert (sick + well, both, published.TABLE_9["tn"] + published.TABLE_9["fp"]) == (5246, 5266, 2547)


def test_what_is_done_is_not_done_again(out, cells, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    for name in NAMES:
        monkeypatch.setattr(import_module(f"studies.{name.replace('-', '_')}"), "run", None)
    assert main(arguments(cells, out)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}


def test_tables_are_made_anew_without_training(out, cells, monkeypatch):
    monkeypatch.setattr(tn.Sequential, "fit", None)
    for name in ("autoencoder", "specks"):
        before = result(out, name)
        assert main(arguments(cells, out, "--only", name, "--again")) == 0
        assert result(out, name)["parts"] == before["parts"]


def test_other_settings_in_the_same_folder_are_refused(out, cells, capsys):
    assert main([*arguments(cells, out), "--seed", "1"]) == 1
    assert "--seed (0, now 1)" in capsys.readouterr().err
    assert main(["--data", str(cells), "--quick", "--quiet", "--out", str(out)]) == 1
    assert "another --exclude" in capsys.readouterr().err


def test_a_missing_folder_or_list_is_one_sentence(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "does not exist" in capsys.readouterr().err
    listed = ["--exclude", str(tmp_path / "list")]
    assert main(["--data", str(tmp_path), *listed, "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "list" in capsys.readouterr().err


def test_unfinished_findings_are_shown_and_taken_up_again(tmp_path):
    settings = Settings("cells", tmp_path, quick=True, verbose=0)

    def stopped(settings, folder, keep):
        found = Findings()
        found.text("so far")
        keep(found)
        raise ArgumentError("stopped")

    with pytest.raises(ArgumentError, match="stopped"):
        carry_out("data", "The data", stopped, settings)
    page.write(tmp_path, ["data"])
    assert "so far" in (tmp_path / "index.md").read_text()
    assert "not finished" in (tmp_path / "index.html").read_text()
    assert not carry_out("data", "The data", lambda *_: Findings(), settings)
    assert carry_out("data", "The data", stopped, settings)


def test_further_folds_run_a_study_again(tmp_path):
    calls = []

    def run(settings, folder, keep):
        calls.append(settings.tested())
        return Findings()

    for folds in ((1,), (1,), (1, 2)):
        carry_out("data", "The data", run, Settings("cells", tmp_path, folds=folds, verbose=0))
    assert calls == [(1,), (1, 2)]


def test_an_interval_stands_under_its_figure(tmp_path):
    def run(*_):
        found = Findings()
        found.table("", "One", ["", "accuracy (95 %)"], [["<a (b)>", with_interval(0.9, [0.8, 1.0])]])
        return found

    carry_out("data", "The data", run, Settings("cells", tmp_path, verbose=0))
    text = page.write(tmp_path, ["data"]).read_text()
    assert "0.9000<br>(0.8000 to 1.0000)" in text and "&lt;a (b)&gt;" in text


def test_a_kept_value_is_made_once(tmp_path):
    assert kept(tmp_path / "value.json", lambda: {"a": 1}) == kept(tmp_path / "value.json", lambda: {"a": 2})


@pytest.mark.parametrize("count", [50, 8], ids=["more rows than columns", "fewer"])
def test_principal_components_are_those_of_the_data(count):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 12)) @ rng.normal(size=(12, 12)) + 3
    made = components.principal_components(x, 4)
    _, singular, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    assert np.allclose(made.shares, (singular**2)[:4] / (singular**2).sum())
    assert np.allclose(np.abs(np.sum(made.axes * axes[:4], axis=1)), 1)
    best = (x - x.mean(axis=0)) @ axes[:4].T @ axes[:4] + x.mean(axis=0)
    assert np.allclose(made.reconstruct(x), best)
    assert np.allclose(components.principal_components(x, 12).reconstruct(x), x)


def test_bytes_are_shares_of_full_scale():
    x = np.random.default_rng(0).integers(0, 256, (40, 6), np.uint8)
    assert np.allclose(
        components.principal_components(x, 2).mean, components.principal_components(x / 255.0, 2).mean
    )


def test_only_the_folds_that_are_tested_on_are_pooled(cells, tmp_path):
    both, first = (Settings(str(cells), tmp_path, folds=folds, verbose=0) for folds in ((1, 2), (1,)))
    config = both.config("autoencoder", size=16, epochs=1)
    whole, part = cross_validated(both, config), cross_validated(first, config)
    assert (whole.done, part.done, len(part.thresholds)) == ([1, 2], [1], 1)
    assert set(part.predictions.folds) == {1}
    assert len(part.predictions) < len(whole.predictions)


def test_a_training_that_is_kept_is_loaded(cells, tmp_path):
    settings = Settings(str(cells), tmp_path, quick=True, verbose=0)
    data = data_of(settings, 16)
    given = (settings, tmp_path, "one", lambda: classifier(16, hidden=4), data, one_cycle, 2, None)
    first, history = fit(*given)
    (tmp_path / "one.checkpoint.safetensors").unlink()
    again, told = fit(*given)
    assert told == history and len(history["loss"]) == 2
    for name, array in first.state().items():
        assert np.array_equal(array, again.state()[name])
    assert at_best(history)["val_loss"] == min(history["val_loss"])


def test_the_specks_are_uninfected_training_cells(out, cells):
    data = data_of(Settings(str(cells), out, str(cells / "list.txt"), quick=True, verbose=0), 32)
    names = json.loads((out / "specks" / "fold-1" / "mistaken.json").read_text())
    own = {data.names[place] for place in data.training if data.labels[place] == 0}
    assert set(names) <= own


def test_specks_are_shown_more_often_and_as_many_others_at_random(cells, tmp_path, monkeypatch):
    settings = Settings(str(cells), tmp_path, str(cells / "list.txt"), quick=True, verbose=0)
    data = data_of(settings, specks.SIZE)
    uninfected = [place for place in data.training.tolist() if data.labels[place] == 0]
    chosen = uninfected[2:5]
    (tmp_path / "specks" / "fold-1").mkdir(parents=True)
    names = json.dumps([data.names[place] for place in chosen])
    (tmp_path / "specks" / "fold-1" / "mistaken.json").write_text(names)
    shown = {}

    def noted(settings, folder, name, *given, training, **options):
        shown[name] = training
        return fit(settings, folder, name, *given, training=training, **options)

    monkeypatch.setattr(specks, "fit", noted)
    assert main(arguments(cells, tmp_path, "--only", "specks")) == 0
    assert set(shown) == set(specks.ARMS)  # which were found is known: no inner folds
    whole = len(data.training)
    assert np.array_equal(shown["plain"], data.training)
    assert sorted(shown["specks"][whole:].tolist()) == sorted(chosen * specks.COPIES)
    others = shown["random"][whole:]
    assert len(others) == 3 * specks.COPIES and set(others.tolist()) <= set(uninfected)
    assert len(set(others.tolist())) == 3
    assert (tmp_path / "specks" / "mistaken.png").exists()
    assert "3 of" in (tmp_path / "index.md").read_text()


def test_numbers_as_tables_have_them():
    assert with_interval(0.98765, [0.9, 0.99]) == "0.9877 (0.9000 to 0.9900)"
    assert with_interval(None, None) == "-"
    assert signed({"difference": 0.00125, "interval": [-0.001, 0.002]}) == "+0.0013 (-0.0010 to +0.0020)"
