"""The benchmarks: they build, peers compute the same, figures are made as described; no clock is read."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinynet.models import autoencoder, classifier, small_cnn

from bench import common, compare, memory, predict_startup, scaling, startup, works
from bench.common import Absent, Contestant, Disagreement
from bench.works import WORKS
from tinynet import kernels
from tinynet.data import scan_folder
from tinynet.training_step import TrainingStep

rates = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)


def small(name: str, batch: int = 5):
    """The work on a few images; the image size stays, being the models' own."""
    return replace(WORKS[name], batch=batch, count=12 if WORKS[name].kind == "epoch" else 0)


def test_the_command_knows_every_work():
    assert tuple(WORKS) == compare.NAMES


@pytest.mark.parametrize("name", WORKS)
def test_a_work_runs_on_either_kernel_set(name, kernel_set):
    work = small(name)
    contestant = works.tinynet_contestant(work)
    result = contestant.run()
    assert contestant.images == work.images
    if work.kind == "training":
        assert math.isfinite(result)
    elif work.kind == "inference":
        assert result.shape == (5, 2)
    else:
        assert math.isfinite(result.history["loss"][0])


@pytest.mark.parametrize("name", WORKS)
def test_numba_does_the_same_work_as_numpy(name):
    if kernels.numba_problem():
        pytest.skip("Numba is absent")
    work = small(name)
    found = []
    for kernel_set in ("numpy", "numba"):
        with kernels.using(kernel_set):
            model = work.model()
            with works.without_dropout(model):
                if work.kind == "inference":
                    found.append(model.predict(work.data[0]))
                else:
                    found.append(works.loss_and_gradients(model, *work.data))
    assert common.distance(found[1], found[0]) < 1e-5


def test_a_step_changes_every_weight():
    model = small("classifier-training").model()
    before = {name: parameter.data.copy() for name, parameter in model.parameters().items()}
    works.step(TrainingStep(model), *small("classifier-training").data)
    for name, parameter in model.parameters().items():
        assert parameter.grad is None
        assert not np.array_equal(parameter.data, before[name]), name


def test_operations_are_counted_by_hand():
    # 3x3 taps, inputs, outputs, pixels; dense layers; two operations each
    first = 2 * 9 * 3 * 16 * 32 * 32
    rest = 2 * (9 * 16 * 8 * 16 * 16 + 9 * 8 * 4 * 8 * 8 + 64 * 216 + 216 * 2)
    assert works.operations(classifier(), training=False) == first + rest
    assert works.operations(classifier(), training=True) == 2 * first + 3 * rest


def test_dropout_is_off_within_the_block_only():
    model = small_cnn()
    with works.without_dropout(model):
        assert model.layer("dropout1").rate == 0
    assert model.layer("dropout1").rate == 0.2


# Peers.


@pytest.mark.parametrize("name", WORKS)
def test_pytorch_computes_the_same(name):
    pytest.importorskip("torch")
    from bench.pytorch import pytorch

    found = pytorch(small(name), 1, 0)
    assert [type(one) for one in found] == [Contestant, Contestant, Absent, Absent]
    assert all("within" in one.agreement for one in found[:2])


@pytest.mark.parametrize("name", ["classifier-inference", "small-cnn-inference"])
@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_a_runtime_computes_the_same(name, peer):
    pytest.importorskip("onnx")
    pytest.importorskip(peer)
    from bench import onnx_peers

    peers = {"onnxruntime": onnx_peers.onnx_runtime, "openvino": onnx_peers.openvino}
    found = peers[peer](small(name), 1)
    assert len(found) == 3
    assert all(isinstance(one, Contestant) for one in found)


@pytest.mark.parametrize("build", [autoencoder, classifier, small_cnn])
def test_a_twin_with_another_weight_is_refused(build):
    pytest.importorskip("torch")
    import torch

    from bench.pytorch import pytorch_twin

    model = build()
    images = np.random.default_rng(0).random((3, *model.input_shape), np.float32)
    twin = pytorch_twin(model).eval()
    wanted = model.logits(images)

    def outputs():
        with torch.no_grad():
            made = twin(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        return made.transpose(0, 2, 3, 1) if made.ndim == 4 else made

    common.require_close("twin", "output", outputs(), wanted, common.OUTPUTS)
    with torch.no_grad():
        next(twin.parameters())[0] += 0.01
    with pytest.raises(Disagreement, match="twin: its output is"):
        common.require_close("twin", "output", outputs(), wanted, common.OUTPUTS)


def test_a_compilation_that_takes_too_long_is_ended():
    pytest.importorskip("torch")
    import time

    from bench.pytorch import _at_most

    if not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip("the system has no such clock")
    with pytest.raises(TimeoutError, match="not done after"), _at_most(0.01):
        time.sleep(60)


# Statistics.


@given(rates)
def test_a_spread_is_ordered(values):
    found = common.spread(values)
    ends = [found.minimum, found.low, found.median, found.high, found.maximum]
    assert ends == sorted(ends)
    assert found.minimum == min(values) and found.maximum == max(values)


@given(rates, st.floats(0.01, 100), st.data())
def test_a_ratio_is_taken_within_a_round(values, factor, data):
    # The machine slows down by another factor each round; the ratio does not notice.
    slow = data.draw(st.lists(st.floats(0.1, 10), min_size=len(values), max_size=len(values)))
    numerators = [value * factor * s for value, s in zip(values, slow, strict=True)]
    found = common.ratios(numerators, [value * s for value, s in zip(values, slow, strict=True)])
    assert found.minimum == pytest.approx(factor) and found.maximum == pytest.approx(factor)


def test_contestants_take_turns():
    calls = []

    def contestant(name):
        return Contestant(name, lambda: calls.append(name), 2)

    seconds = common.interleaved([contestant("a"), contestant("b")], 3)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    turns = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert turns == ["a", "b"] * 4  # warming up, and three rounds


def test_a_turn_is_not_timed_until_others_threads_have_stopped_spinning(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(common.time, "perf_counter", lambda: now[0])
    slow_until = {"a": 0.0, "b": 0.0}

    def run(name, other):
        now[0] += 0.009 if now[0] < slow_until[name] else 0.003
        slow_until[other] = now[0] + 0.01

    contestants = [Contestant("a", lambda: run("a", "b"), 1), Contestant("b", lambda: run("b", "a"), 1)]
    seconds = common.interleaved(contestants, 2)
    assert seconds["a"] == pytest.approx([0.003] * 2) and seconds["b"] == pytest.approx([0.003] * 2)


@pytest.mark.parametrize(
    ("got", "apart"), [([3.0, 4.0], 0.0), ([3.0, 4.5], 0.1), ([math.nan, 4.0], math.nan)]
)
def test_distance_is_relative_to_what_is_wanted(got, apart):
    assert common.distance(got, [3.0, 4.0]) == pytest.approx(apart, nan_ok=True)


@pytest.mark.parametrize("got", [[3.0, 4.5], [math.nan, 4.0], [3.0]])
def test_what_is_apart_is_refused(got):
    with pytest.raises(Disagreement):
        common.require_close("peer", "output", got, [3.0, 4.0], 0.01)


# Tables.

SECONDS = {
    common.PEAK: [0.01, 0.01, 0.02],
    "tinynet": [1e-4, 2e-4, 1e-4],
    "PyTorch contiguous": [5e-4, 8e-4, 6e-4],
    "PyTorch channels_last": [4e-4, 8e-4, 4e-4],
}


def test_figures_come_from_the_rounds():
    found = compare.figures(SECONDS, 5e6, ("PyTorch", 3.0))
    assert found["best"] == "PyTorch channels_last"
    assert found["reached"] == pytest.approx(4.0)
    row = found["contestants"]["tinynet"]
    assert row["images_per_second"]["median"] == pytest.approx(10_000)
    assert row["gflops"] == pytest.approx(50)
    assert row["share_of_peak"] == pytest.approx(0.5)  # of 0.5, 0.25 and 1
    assert found["peak_gflops"]["maximum"] == pytest.approx(100)


def test_the_goals_peer_is_its_plain_name_where_it_has_one():
    seconds = {"tinynet": [1.0], "ONNX Runtime": [3.0], "ONNX Runtime from uint8 (graph)": [2.0]}
    assert compare.figures(seconds, 1.0, ("ONNX Runtime", 2.5))["best"] == "ONNX Runtime"


def test_the_peak_is_the_packages_own_or_absent():
    found = common.peak(1)
    if kernels.numba_problem():
        assert isinstance(found, Absent) and "measured with Numba" in found.reason
    else:
        assert found.name == common.PEAK and found.images > 0
        found.run()


def result(seconds, **changes):
    return {
        "work": "w", "title": "a work", "goal": ("PyTorch", 4.5), "operations": 5e6, "others": 0.0,
        "absent": {"OpenVINO": "No module named 'openvino'"}, "agreement": {},
        **compare.figures(seconds, 5e6, ("PyTorch", 4.5)),
        **changes,
    }  # fmt: skip


def test_the_table_says_who_is_absent_and_whether_the_goal_is_reached():
    text = compare.table(result(SECONDS))
    assert "10,000" in text and "50%" in text
    assert "absent: No module named 'openvino'" in text
    assert "goal 4.5 x PyTorch: missed, 4.00 x PyTorch channels_last" in text
    assert "NOT TO BE QUOTED" not in text
    assert "reached, 4.00 x" in compare.table(result(SECONDS, goal=("PyTorch", 4.0)))
    assert "NOT TO BE QUOTED: other programs used 60%" in compare.table(result(SECONDS, others=0.6))


def test_the_table_without_any_peer():
    alone = result({"tinynet": [1e-4, 2e-4]})
    assert "goal 4.5 x PyTorch: absent" in compare.table(alone)
    assert "peak absent" in compare.table(alone)
    assert "absent" in compare.summary([alone])


def test_the_summary_has_a_line_a_work():
    lines = compare.summary([result(SECONDS), result(SECONDS)]).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["w", "PyTorch", "channels_last", "2,500", "10,000", "4.00", "x", "4.5", "x"]


def test_results_can_be_kept_as_json():
    assert json.loads(json.dumps(result(SECONDS)))["best"] == "PyTorch channels_last"


def test_wrong_usage_ends_before_anything_is_measured(capsys):
    for words in (["--threads", "0"], ["--repeats", "0"], ["--work", "nothing"]):
        with pytest.raises(SystemExit) as ended:
            compare.main(words)
        assert ended.value.code == 2
    assert "wanted at least 1" in capsys.readouterr().err


# Scaling.


def test_slow_points_are_those_below_half_the_best_of_their_kind():
    points = [
        {"value": value, "kind": kind, "seconds_per_image": 1.0, "gflops": gflops}
        for kind, rates in (("forward", (100, 49, 50)), ("training", (10, 6, 4)))
        for value, gflops in enumerate(rates)
    ]
    found = scaling.flagged(points)
    assert [point["slow"] for point in found] == [False, True, False, False, False, True]
    lines = scaling.table("a series", found).splitlines()
    assert lines[0] == "a series" and len(lines) == 5
    assert ["SLOW" in line for line in lines[2:]] == [False, True, True]


def test_scaling_series_build_and_draw(tmp_path):
    pytest.importorskip("matplotlib")
    for one in scaling.series():
        smallest = one.values[0]
        images, _ = works.random_batch(one.model(smallest), one.batch(smallest))
        assert len(images) == one.batch(smallest)
    points = [
        {"value": 2**n, "kind": kind, "seconds_per_image": 1e-3, "gflops": 10.0 * n + 1}
        for kind in scaling.KINDS
        for n in range(3)
    ]
    drawn = {"series": "batch size", "title": "a title", "points": scaling.flagged(points)}
    scaling.draw([drawn], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# Waiting, and memory.


def process(first, compiling):
    times = {"tinynet imported": 0.5, "first step done": first, "fit done": 9.0, "loading": 0.1}
    return {**times, "compiling": compiling, "kernels": 7, "compiled": 7 if compiling else 0}


def test_waiting_is_summed_up_by_medians_and_held_against_the_goals():
    cached, first = [process(t, 0.0) for t in (1.0, 1.2, 9.0)], [process(30.0, 16.0)]
    lines = startup.summary({"cached": cached, "first": first}).splitlines()
    assert lines[0].split() == ["seconds", "cached,", "3", "runs", "first,", "1", "runs"]
    assert "first step done           1.20    (1.00 to 9.00)     30.00  (30.00 to 30.00)" in lines
    assert "cached, first step done: 1.20 s, goal 1.5 s reached" in lines
    assert "first, compiling: 16.00 s, goal 15 s missed" in lines
    assert lines[-1].strip() == "kernels compiled: 7 of 7"


def test_a_process_tells_its_times():
    if kernels.numba_problem():
        pytest.skip("Numba is absent")
    from tinynet.kernels.numba.compile import cache_folder

    folder = cache_folder()
    if folder is None:
        pytest.skip("no cache folder can be written")
    found = startup.measure(folder.parent, 1)
    moments = [found[name] for name in startup.MOMENTS]
    assert 0 < moments[0] < moments[1] < moments[2]
    assert found["kernels"] >= found["compiled"]


def test_memory_is_measured_on_as_many_pictures_as_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    pytest.importorskip("resource")
    data = memory.write_images(tmp_path, 121, 40)
    folder = scan_folder(data)
    assert folder.class_counts() == {"Parasitized": 60, "Uninfected": 61}
    assert len(set(folder.names)) == 121 and len(set(folder.patients)) > 5
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    work = tmp_path / "work"
    work.mkdir()
    parts = memory.measure(data, work, "autoencoder", 1)
    assert [name for name, _ in parts if name != "between"] == [
        "imports", "reading the images", "fit", "fit", "fit", "measuring", "drawing", "end",
    ]  # fmt: skip
    assert all(1e6 < size < 1e10 for _, size in parts)


@pytest.mark.parametrize(("size", "verdict"), [(399_000_000, "reached"), (401_000_000, "missed")])
def test_the_most_memory_is_held_against_the_goal(size, verdict):
    lines = memory.table([("imports", 40_000_000), ("fit", size)], "a title").splitlines()
    assert lines[0] == "a title" and lines[1].split() == ["imports", "40", "MB"]
    assert lines[-1].endswith(f"{size // 1_000_000} MB; goal 400 MB {verdict}")


@pytest.mark.parametrize(
    ("command", "words"),
    [(startup, ["--repeats", "0"]), (memory, ["--images", "3"]), (memory, ["--model", "nothing"])],
)
def test_wrong_usage_of_these_ends_too(command, words, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2


# Starting.


def starts(seconds, megabytes, line="infected 0.9"):
    return [predict_startup.Start(value, value + 1, megabytes, line) for value in seconds]


def test_what_starting_takes_beyond_numpy_is_a_difference_within_rounds():
    found = {
        predict_startup.NUMPY: starts([0.2, 0.4, 0.3], 25),
        predict_startup.TINYNET: starts([0.25, 0.47, 0.39], 31),
    }
    assert math.isclose(predict_startup.beyond_numpy(found, predict_startup.TINYNET).median, 0.07)
    text = predict_startup.table(found, [Absent("a peer", "not installed")])
    assert "0.07, reached" in text and "31, reached" in text and "a peer" in text
    found[predict_startup.TINYNET] = starts([0.35, 0.57, 0.49], 41)
    assert predict_startup.table(found, []).count("MISSED") == 2


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell the memory of a process")
def test_a_start_is_measured_to_the_first_line_and_with_its_own_memory(tmp_path):
    code = "import time; print('first', flush=True); time.sleep(0.3); print('second')"
    program = predict_startup.Program("x", (sys.executable, "-c", code), (("A", "b"),))
    start = predict_startup.start(program, dict(os.environ))
    assert start.line == "first" and start.ended > start.answered + 0.3
    assert 3 < start.megabytes < 60  # this process has more
    fails = predict_startup.Program("x", (sys.executable, "-c", "import nothing_of_that_name"))
    with pytest.raises(Disagreement, match="nothing_of_that_name"):
        predict_startup.start(fails, dict(os.environ))


def test_starts_that_answer_differently_are_refused():
    predict_startup.check_answers(
        {predict_startup.NUMPY: "2.4.6", "a": "infected 0.93", "b": "infected 0.95"}
    )
    for other in ("uninfected 0.1", "infected 0.8"):
        with pytest.raises(Disagreement, match="differ"):
            predict_startup.check_answers({"a": "infected 0.93", "b": other})


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell the memory of a process")
def test_the_startup_comparison_runs(tmp_path, capsys):
    pytest.importorskip("PIL.Image")
    assert predict_startup.main(["--rounds", "1", "--json", str(tmp_path / "starts.json")]) == 0
    assert "seconds beyond bare NumPy" in capsys.readouterr().out
    kept = json.loads((tmp_path / "starts.json").read_text())["starts"]
    assert list(kept)[:2] == ["import numpy", "tinynet predict"]
    assert len(kept["tinynet predict"]) == 1 and kept["tinynet predict"][0]["line"].endswith("cell.png")


def test_a_wheel_is_started_as_a_file_ahead_of_all_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    wheel = tmp_path / "tinynet.whl"
    _, installed, from_wheel, *_ = predict_startup.programs(tmp_path / "cell.png", tmp_path, wheel)
    assert from_wheel.words == installed.words and from_wheel.name == predict_startup.FROM_WHEEL
    assert dict(from_wheel.variables)["PYTHONPATH"] == os.pathsep.join([str(wheel), "elsewhere"])
