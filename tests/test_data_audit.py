"""Doubtful labels: the ranking, its comparison with another list, and what `tinynet data audit` leaves."""

from __future__ import annotations

import base64
import csv
import json
import re

import numpy as np
import pytest
from conftest import hide_matplotlib
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynet import cli, kernels
from tinynet.data import scan_folder
from tinynet.data.audit import against, audit
from tinynet.errors import ArgumentError, DataError, ShapeError
from tinynet.runs import gallery
from tinynet.runs.predictions import Predictions

pytest.importorskip("PIL.Image")
from tinynet.data.synthetic import write_folder

answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 100)), min_size=2, max_size=40)


@settings(deadline=None, max_examples=60)
@given(answers)
def test_errors_are_the_confident_joint_off_its_diagonal(drawn):
    """Against equation 1 of the paper, written out for any number of classes."""
    labels = np.array([label for label, _ in drawn])
    chances = np.array([[1 - p / 100, p / 100] for _, p in drawn])
    if len(set(labels)) < 2:
        with pytest.raises(DataError, match="both classes"):
            audit(labels, chances[:, 1])
        return
    found = audit(labels, chances[:, 1])
    averages = [chances[labels == j, j].mean() for j in (0, 1)]
    assert found.averages == pytest.approx(averages)
    errors = {}
    for k, (label, row) in enumerate(zip(labels, chances, strict=True)):
        over = [j for j in (0, 1) if row[j] >= found.averages[j]]
        # A tie between the classes, both over their thresholds, speaks for the label it has.
        errors[k] = bool(over) and max(over, key=lambda j, row=row, own=label: (row[j], j == own)) != label
    assert [bool(error) for error in found.errors] == [errors[k] for k in found.order]
    own = chances[np.arange(len(labels)), labels]
    assert (np.diff(found.confidence) >= 0).all() and np.allclose(found.confidence, own[found.order])


def test_labels_that_were_turned_round_come_first():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 500)
    chances = np.clip(0.8 * truth + 0.1 + rng.normal(0, 0.08, 500), 0, 1)
    turned = rng.random(500) < 0.05
    found = audit(np.where(turned, 1 - truth, truth), chances)
    assert set(found.order[: turned.sum()]) == set(np.flatnonzero(turned))
    assert set(np.flatnonzero(turned)) >= set(found.order[found.errors])


def test_a_healthy_patient_has_no_infected_cell():
    found = audit([0, 1, 0, 0], [0.9, 0.8, 0.1, 0.2], np.array([1, 1, 2, -1]))
    assert found.healthy[np.argsort(found.order)].tolist() == [False, False, True, False]
    assert not audit([0, 1], [0.9, 0.8]).healthy.any()


def test_precision_recall_and_average_precision_by_hand():
    found = against(np.array([True, False, True, False, False, True]), [1, 3, 6, 3])
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert [(cut["count"], cut["hits"]) for cut in found["cut_offs"]] == [(1, 1), (3, 2), (6, 3)]
    assert found["cut_offs"][1]["precision"] == found["cut_offs"][1]["recall"] == pytest.approx(2 / 3)


def test_what_cannot_be_ranked_or_compared():
    with pytest.raises(ShapeError, match="must both have shape"):
        audit([0, 1], [0.5])
    with pytest.raises(DataError, match="names none"):
        against(np.zeros(3, bool), [1])
    with pytest.raises(ArgumentError, match="between 1 and 3 images, got 4"):
        against(np.array([True, False, False]), [4])


# The command.


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """48 cells of 8 patients (7 and 8 healthy), and predictions that doubt every eighth label."""
    folder = write_folder(tmp_path_factory.mktemp("cells"), 48, (30, 40), seed=1, patients=8)
    found = scan_folder(folder)
    doubt = np.arange(48) % 8 == 3
    chance = np.where((found.labels == 1) != doubt, 0.95, 0.05) + np.linspace(0, 0.04, 48)
    Predictions(
        found.names, found.patients, np.ones(48, int), found.labels, None, chance, np.full(48, 0.5)
    ).write(folder / "predictions.csv")
    (folder / "list.txt").write_text(
        "\n".join(np.array(found.names)[doubt][:4]) + "\nParasitized/elsewhere\n"
    )
    return folder, {name for name, bad in zip(found.names, doubt, strict=True) if bad}


def audited(cells, out, *more):
    folder, _ = cells
    words = ["data", "audit", folder, "--predictions", folder / "predictions.csv", "--out", out, *more]
    return cli.main([str(word) for word in words])


def test_the_list_can_be_excluded_and_spares_healthy_patients(cells, tmp_path, capsys):
    folder, doubted = cells
    assert audited(cells, tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    found = scan_folder(folder)
    healthy = set(found.patients) - set(found.patients[found.labels == 1])
    spared = {
        name for name, p in zip(found.names, found.patients, strict=True) if name in doubted and p in healthy
    }
    assert spared and told["listed"] == len(doubted) and told["listed_of_healthy_patients"] == len(spared)
    assert told["listed_infected"] + told["listed_uninfected"] == told["listed"]
    left = found.exclude(tmp_path / "doubtful.txt")
    assert set(found.names) - set(left.names) == doubted - spared
    text = (tmp_path / "doubtful.txt").read_text()
    assert all(f"# {name}\n" in text for name in spared)


def test_the_ranking_has_every_image_and_the_gallery_the_pictures(cells, tmp_path, capsys):
    folder, doubted = cells
    assert audited(cells, tmp_path, "--against", folder / "list.txt", "--gallery", "3") == 0
    ran = capsys.readouterr()
    with open(tmp_path / "ranking.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48 and {row["image"] for row in rows[: len(doubted)]} == doubted
    assert sum(int(row["listed"]) for row in rows) == 4
    page = (tmp_path / "gallery.html").read_text()
    assert "Not a medical device; for research and teaching." in page and "://" not in page
    assert "default-src 'none'" in page
    pictures = [base64.b64decode(code) for code in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    paths = dict(zip(scan_folder(folder).names, scan_folder(folder).paths, strict=True))
    assert sorted(pictures) == sorted(paths[row["image"]].read_bytes() for row in rows[:3])
    assert "the other list has 4 of these images" in ran.out and "average precision" in ran.out


def test_a_gallery_names_what_browsers_do_not_show_and_escapes_what_names_have(tmp_path):
    cells = [gallery.Picture(tmp_path / "<cell>.tif", "1. \x1b\udcff & <cell>")]
    gallery.write(tmp_path / "page.html", "A & B", ["<text>"], [("one", cells), ("none", [])])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<div>&lt;cell&gt;.tif</div><figcaption>1. \\x1b\\udcff &amp; &lt;cell&gt;</figcaption>" in page
    assert "<h1>A &amp; B</h1>" in page and "<p>&lt;text&gt;</p>" in page


def test_the_comparison_with_a_list(cells, tmp_path, capsys):
    folder, doubted = cells
    assert audited(cells, tmp_path, "--against", folder / "list.txt", "--json") == 0
    told = json.loads(capsys.readouterr().out)["against"]
    assert told["listed"] == told["on_both_lists"] == 4
    (cut,) = [cut for cut in told["cut_offs"] if cut["count"] == len(doubted)]
    assert cut["hits"] == 4 and cut["recall"] == 1 and cut["precision"] == pytest.approx(4 / len(doubted))


def test_a_count_may_be_asked_for(cells, tmp_path, capsys):
    assert audited(cells, tmp_path, "--count", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["listed"] == 2
    for option in ("count", "gallery"):
        assert audited(cells, tmp_path, f"--{option}", "-1") == 1
        assert f"--{option} must be 0 or more, got -1" in capsys.readouterr().err


def test_without_predictions_it_cross_validates_on_all_labels(cells, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    hide_matplotlib(monkeypatch)  # no plots: drawing takes longer than the training
    words = ["data", "audit", str(cells[0]), "--size", "16", "--epochs", "1", "--folds", "2", "--quiet"]
    with kernels.using("numpy"):
        assert cli.main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 48
    made = json.loads((tmp_path / "out" / "crossvalidation" / "crossvalidation.json").read_text())
    assert made["training_labels"] == "all labels" and made["folds_done"] == [1, 2]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--epochs", "3"], "--epochs makes predictions, which --predictions has"),
        (["--against", "no-list"], "no-list does not exist"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(cells, tmp_path, capsys, more, words):
    assert audited(cells, tmp_path, *more) == 1
    told = capsys.readouterr().err
    assert words in told and len(told.splitlines()) == 1


def test_predictions_for_other_images_are_refused(cells, tmp_path, capsys):
    other = write_folder(tmp_path / "other", 12, (30, 40), seed=2, patients=3)
    words = ["data", "audit", other, "--predictions", cells[0] / "predictions.csv", "--out", tmp_path / "out"]
    assert cli.main([str(word) for word in words]) == 1
    assert "of the 48 images predicted are not in" in capsys.readouterr().err
