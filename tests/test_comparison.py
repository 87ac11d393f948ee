"""Two models on the same cells: the paired bootstrap, and what `tinynet compare` says of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynet import cli, comparison, metrics
from tinynet.comparison import compare
from tinynet.errors import ArgumentError, ShapeError
from tinynet.resampling import Resampling
from tinynet.runs.predictions import Predictions

quick = settings(deadline=None, max_examples=30)
scores = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])
rows = st.lists(st.tuples(st.integers(0, 1), scores, scores, st.integers(1, 5)), min_size=1, max_size=30)


def columns(drawn):
    return tuple(np.array(column) for column in zip(*drawn, strict=True))


@quick
@given(rows, st.integers(0, 50))
def test_the_differences_are_those_of_evaluating_the_drawn_patients_again(drawn, seed):
    labels, one, other, patients = columns(drawn)
    found = compare(labels, (one, 0.5), (other, 0.6), patients, seed=seed, resamples=15)
    units = np.unique(patients, return_inverse=True)[1].reshape(-1)
    if units.max() == 0:  # one patient: cells are drawn
        units = np.arange(len(labels))
    each = {name: [] for name in comparison.FIGURES}
    for times in Resampling(units, seed, 15).each(lambda times: times):
        cells = np.repeat(np.arange(len(labels)), times[units])
        first, second = (
            metrics.evaluate_probabilities(labels[cells], answers[cells], cut, resamples=1)
            for answers, cut in ((one, 0.5), (other, 0.6))
        )
        for name in each:
            if first[name] is not None and second[name] is not None:
                each[name].append(second[name] - first[name])
    whole = [
        metrics.evaluate_probabilities(labels, answers, cut, resamples=1)
        for answers, cut in ((one, 0.5), (other, 0.6))
    ]
    for name, values in found["figures"].items():
        assert (values["first"], values["second"]) == (whole[0][name], whole[1][name])
        if values["difference"] is None:
            assert None in (whole[0][name], whole[1][name])
            continue
        expected = np.percentile([*each[name]] or [values["difference"]], [2.5, 97.5])
        low, high = values["interval"]
        assert low == pytest.approx(min(expected[0], values["difference"]), abs=1e-12)
        assert high == pytest.approx(max(expected[1], values["difference"]), abs=1e-12)
        assert values["inside"] == (low <= 0 <= high)


@quick
@given(rows)
def test_turned_round_every_difference_is_its_negative(drawn):
    labels, one, other, patients = columns(drawn)
    there = compare(labels, (one, 0.5), (other, 0.5), patients, resamples=25)
    back = compare(labels, (other, 0.5), (one, 0.5), patients, resamples=25)
    for name, values in there["figures"].items():
        if values["difference"] is None:
            continue
        assert values["difference"] == -back["figures"][name]["difference"]
        assert values["interval"] == pytest.approx(
            [-end for end in reversed(back["figures"][name]["interval"])], abs=1e-12
        )
        assert values["inside"] == back["figures"][name]["inside"]
    assert there["changed"] == {
        "worse": back["changed"]["better"], "better": back["changed"]["worse"],
    }  # fmt: skip


def test_the_same_answers_do_not_differ():
    labels, answers = np.tile([0, 1], 20), np.linspace(0, 1, 40)
    found = compare(labels, (answers, 0.5), (answers, 0.5), np.arange(40) // 4)
    for values in found["figures"].values():
        assert values["difference"] == 0 and values["interval"] == [0, 0] and values["inside"]


def one_better_patient(patients, better):
    """Labels, two answers and patients of 20 cells: the second gets one cell more right with some of them."""
    labels = np.tile(np.tile([0, 1], 10), patients)
    groups = np.repeat(np.arange(patients), 20)
    right = np.where(labels == 1, 0.9, 0.1)
    first = np.where(np.arange(len(labels)) % 20 == 5, 1 - right, right)
    second = np.where(groups < better, right, first)
    return labels, (first, 0.5), (second, 0.5), groups


def test_a_gain_with_every_patient_is_outside_and_one_with_a_single_patient_inside():
    everywhere = compare(*one_better_patient(30, 30))["figures"]["accuracy"]
    assert everywhere["difference"] == pytest.approx(0.05) and not everywhere["inside"]
    once = compare(*one_better_patient(30, 1))["figures"]["accuracy"]
    assert once["difference"] == pytest.approx(0.05 / 30) and once["inside"]


def test_pairing_sees_what_separate_intervals_do_not():
    """Patients differ far more than the models do."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 50)
    labels = np.tile([0, 1], 1000)
    hard = rng.random(40)[groups] * 0.6
    wrong = rng.random(2000) < hard
    mended = wrong & (rng.random(2000) < 0.85)
    answers = [np.where(bad, 1 - labels, labels).astype(float) for bad in (wrong, mended)]
    alone = [
        metrics.evaluate_probabilities(labels, each, 0.5, groups)["intervals"]["accuracy"] for each in answers
    ]
    assert alone[1][0] < alone[0][1]  # they overlap
    assert not compare(labels, (answers[0], 0.5), (answers[1], 0.5), groups)["figures"]["accuracy"]["inside"]


def test_a_smaller_loss_is_better_and_a_smaller_anything_else_is_not():
    assert comparison.better("loss", -0.1) == comparison.better("auc", 0.1) == "second"
    assert comparison.better("loss", 0.1) == comparison.better("auc", -0.1) == "first"
    with pytest.raises(ArgumentError, match="must be one of"):
        comparison.better("recall", 0.1)


def test_nothing_to_compare():
    with pytest.raises(ShapeError, match="at least one"):
        compare(np.zeros(0, int), (np.zeros(0), 0.5), (np.zeros(0), 0.5), None)


# The command.


def predictions(labels, answers, patients, doubted=None):
    images = [
        f"{('Uninfected', 'Parasitized')[label]}/C{patient}_cell_{k}"
        for k, (label, patient) in enumerate(zip(labels, patients, strict=True))
    ]
    n = len(labels)
    return Predictions(images, patients, np.ones(n, int), labels, doubted, answers, np.full(n, 0.5))


@pytest.fixture
def files(tmp_path):
    labels, (first, _), (second, _), groups = one_better_patient(30, 30)
    doubted = np.arange(len(labels)) % 20 == 7
    predictions(labels, first, groups, doubted).write(tmp_path / "a.csv")
    other = predictions(labels, second, groups)
    other.select(np.arange(len(labels))[::-1][:-20]).write(
        tmp_path / "b.csv"
    )  # turned round, one patient less
    return str(tmp_path / "a.csv"), str(tmp_path / "b.csv")


def test_cells_are_matched_by_name_and_both_label_sets_told(files, capsys):
    assert cli.main(["compare", *files, "--json"]) == 0
    ran = capsys.readouterr()
    told = json.loads(ran.out)
    assert (told["only_first"], told["only_second"]) == (20, 0) and "left out: 20 cells" in ran.err
    assert [told["sets"][name]["n"] for name in ("suspicious_removed", "all_labels")] == [29 * 19, 29 * 20]
    full = told["sets"]["all_labels"]
    assert full["patients"] == 29 and full["changed"] == {"worse": 0, "better": 29}
    assert full["figures"]["accuracy"]["first"] == pytest.approx(0.95)
    assert full["figures"]["accuracy"]["second"] == 1


def test_a_difference_inside_its_interval_is_called_that(files, tmp_path, capsys):
    assert cli.main(["compare", *files]) == 0
    text = capsys.readouterr().out
    # In both label sets all but the specificity, which is the same, and the last line explains.
    assert text.count("B is better") == 10 and text.count("inside the interval") == 3
    labels, (first, _), (second, _), groups = one_better_patient(30, 1)
    predictions(labels, first, groups).write(tmp_path / "c.csv")
    predictions(labels, second, groups).write(tmp_path / "d.csv")
    assert cli.main(["compare", str(tmp_path / "c.csv"), str(tmp_path / "d.csv"), "--at-half"]) == 0
    text = capsys.readouterr().out
    assert "A is better" not in text and "B is better" not in text and "judged at 0.5" in text
    assert text.count("inside the interval") == 7
    assert text.rstrip().endswith("Not a medical device; for research and teaching.")


def test_files_without_a_common_cell_are_refused(files, tmp_path, capsys):
    labels = np.array([0, 1])
    predictions(labels, np.array([0.1, 0.9]), np.array([900, 901])).write(tmp_path / "other.csv")
    assert cli.main(["compare", files[0], str(tmp_path / "other.csv")]) == 1
    assert "no cell in common" in capsys.readouterr().err
