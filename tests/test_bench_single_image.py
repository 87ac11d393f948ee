"""bench.single_image: peers compute the same, ratios come from the rounds, goals are judged; no clock."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess

import numpy as np
import pytest
from tinynet.models import classifier, small_cnn

from bench import common, exported_c, single_image
from bench.common import Absent, Contestant, Disagreement
from tinynet import kernels

needs_numba = pytest.mark.skipif(
    kernels.numba_problem() is not None, reason="the single-image path is Numba's"
)


@needs_numba
@pytest.mark.parametrize("name", single_image.GOALS)
def test_both_ways_of_tinynet_answer_the_same(name):
    work = single_image.work_of(name)
    assert work.images == 1
    direct, predict = (one.run() for one in single_image.own(work))
    np.testing.assert_array_equal(direct, predict[0])
    with kernels.using("numpy"):
        np.testing.assert_allclose(direct, work.model().predict(work.data[0])[0], atol=1e-5)


@pytest.mark.parametrize("name", single_image.GOALS)
def test_litert_computes_the_same(name):
    pytest.importorskip("ai_edge_litert")
    from bench.litert import litert

    found = litert(single_image.work_of(name), 1)
    assert len(found) == 3 and all(isinstance(one, Contestant) for one in found)


@pytest.mark.parametrize("build", [classifier, small_cnn])
def test_a_litert_model_with_another_weight_is_refused(build):
    """The comparison notices: a twin of another model is further away than is allowed."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    from bench.litert import litert_model

    model, other = build(), build(seed=1)
    image = np.random.default_rng(0).random((1, *model.input_shape), np.float32)
    twin = interpreter.Interpreter(model_content=litert_model(other), num_threads=1)
    twin.allocate_tensors()
    twin.set_tensor(twin.get_input_details()[0]["index"], image)
    twin.invoke()
    got = twin.get_tensor(twin.get_output_details()[0]["index"])
    with pytest.raises(Disagreement):
        common.require_close("LiteRT", "output", got, model.predict(image), common.OUTPUTS)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
@pytest.mark.parametrize("right", [True, False])
def test_a_shared_library_takes_part_if_it_answers_the_same(tmp_path, right):
    work = single_image.work_of("classifier")
    first, second = work.model().predict(work.data[0])[0]
    source, library = tmp_path / "cells.c", tmp_path / "cells.so"
    source.write_text(
        "int cells_predict(const unsigned char *rgb, int height, int width, float *outputs) {\n"
        f"  outputs[0] = {first if right else second:.9g}; outputs[1] = {second if right else first:.9g};\n"
        "  return rgb == 0 || height != 32 || width != 32;\n}\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", library], check=True)
    made = ctypes.CDLL(str(library))
    if right:
        (one,) = exported_c.contestants(work, made)
        assert one.images == 1 and "within" in one.agreement
    else:
        with pytest.raises(Disagreement, match="exported C"):
            exported_c.contestants(work, made)


def test_without_a_compiler_the_exported_c_is_absent():
    (found,) = exported_c.exported_c(single_image.work_of("classifier"), compiler="no-such-compiler")
    assert isinstance(found, Absent)


SECONDS = {
    common.PEAK: [0.01, 0.01, 0.02],
    single_image.DIRECT: [20e-6, 40e-6, 21e-6],
    "exported C": [30e-6, 60e-6, 30e-6],
    "LiteRT": [40e-6, 80e-6, 42e-6],
    "ONNX Runtime": [90e-6, 99e-6, 90e-6],
}


def test_ratios_are_taken_within_a_round_to_the_fastest_peer():
    found = single_image.figures(SECONDS)
    assert found["best"] == "LiteRT"  # neither tinynet's own C nor the peak is a peer
    assert found["ratios"][single_image.DIRECT]["median"] == pytest.approx(0.5)
    assert found["ratios"]["exported C"]["maximum"] == pytest.approx(0.75)
    assert found["microseconds"]["LiteRT"]["median"] == pytest.approx(42)
    assert found["peak_gflops"] == pytest.approx(100)
    assert json.loads(json.dumps(found))["best"] == "LiteRT"


def result(seconds, **changes):
    return {
        "title": "a model", "goal": 0.7, "operations": 1.5e6, "others": 0.0,
        "absent": {"OpenVINO": "No module named 'openvino'"}, "agreement": {"LiteRT": "outputs within 1e-07"},
        **single_image.figures(seconds),
        **changes,
    }  # fmt: skip


def test_the_table_judges_each_way_by_the_goal():
    text = single_image.table(result(SECONDS))
    assert "which at the peak of 100 GFLOP/s take 15.0 us" in text
    assert f"goal 0.7 x the best peer, LiteRT: reached by {single_image.DIRECT}, 0.50 x" in text
    assert "missed by exported C, 0.75 x" in text
    assert "absent: No module named 'openvino'" in text and "NOT TO BE QUOTED" not in text
    assert "NOT TO BE QUOTED: other programs used 60%" in single_image.table(result(SECONDS, others=0.6))


def test_the_table_without_any_peer():
    alone = result({single_image.DIRECT: [20e-6]})
    assert "none is here" in single_image.table(alone)


def test_wrong_usage_ends_before_anything_is_measured(capsys):
    for words in (["--repeats", "0"], ["--model", "nothing"], ["--compile-seconds", "-1"]):
        with pytest.raises(SystemExit) as ended:
            single_image.main(words)
        assert ended.value.code == 2
    assert "wanted at least 1" in capsys.readouterr().err
