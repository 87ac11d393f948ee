"""A profile names what ran as one, its parts sum to the step, and it leaves the model alone."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from tinynet.models import autoencoder, classifier, small_cnn

import tinynet as tn
from tinynet import cli, kernels, profiling, tensor
from tinynet.kernels.threads import num_threads
from tinynet.profiling import profile
from tinynet.tensor import Observer, observed_by

needs_numba = pytest.mark.skipif(kernels.numba_problem() is not None, reason="Numba is not installed")
CLASSIFIER = ["encoder1+pool1", "encoder2+pool2", "encoder3+pool3", "flatten", "dense1", "dense2"]


def names(measured):
    return [row.name for row in measured.rows]


def row(measured, name):
    return measured.rows[names(measured).index(name)]


@pytest.fixture(scope="module")
def of_classifier(kernel_set):
    return profile(classifier(), batch_size=5, repeats=4)


# What is measured.


def test_layers_that_are_computed_as_one_stand_together(of_classifier):
    assert names(of_classifier) == CLASSIFIER
    assert row(of_classifier, "encoder1+pool1").layers == ("encoder1", "pool1")


def test_the_parts_sum_to_the_step(of_classifier):
    parts = [one.seconds for row in of_classifier.rows for one in (row.forward, row.backward)]
    assert sum(parts) + sum(of_classifier.outside.values()) == pytest.approx(of_classifier.seconds)
    assert list(of_classifier.outside) == ["packing", "loss", "optimiser", "Python"]
    assert min(*parts, *of_classifier.outside.values()) > 0
    assert of_classifier.images_per_second == pytest.approx(5 / of_classifier.seconds)


def test_it_says_which_kernels_ran_and_on_how_many_threads(of_classifier, kernel_set):
    assert of_classifier.kernels == kernel_set.NAME
    assert of_classifier.threads == (num_threads() if kernel_set.NAME == "numba" else None)
    assert (of_classifier.batch_size, of_classifier.repeats) == (5, 4)


def test_operations_are_those_of_convolutions_and_dense_layers(of_classifier):
    first = 2 * 9 * 3 * 16 * 32 * 32 * 5
    assert row(of_classifier, "encoder1+pool1").forward.operations == first
    assert row(of_classifier, "encoder1+pool1").backward.operations == first  # the images need no gradient
    dense = row(of_classifier, "dense1")
    assert (dense.forward.operations, dense.backward.operations) == (2 * 64 * 216 * 5, 4 * 64 * 216 * 5)
    assert row(of_classifier, "flatten").forward.gflops is None
    assert dense.forward.gflops == pytest.approx(dense.forward.operations / dense.forward.seconds / 1e9)


def test_bytes_are_those_of_arrays_read_and_written_once(of_classifier, kernel_set):
    lanes = 16 if kernel_set.NAME == "numba" else 5
    images, pooled, weights = 3 * 32 * 32 * lanes, 16 * 16 * 16 * lanes, 9 * 3 * 16 + 16
    code = pooled  # a byte each: where the maximum was
    forward = row(of_classifier, "encoder1+pool1").forward.bytes
    assert forward == pytest.approx(4 * (images + weights + pooled) + code, abs=64)
    assert row(of_classifier, "flatten").forward.bytes == 0  # it moves nothing
    assert row(of_classifier, "flatten").backward.bytes == 0


def test_upsampling_merged_into_a_convolution_is_counted_as_it_is_done(kernel_set):
    measured = profile(autoencoder(), batch_size=2, repeats=1)
    merged = row(measured, "up3+decoder4")
    share = 4 / 9 if kernel_set.NAME == "numba" else 1.0
    assert merged.forward.share == merged.backward.share == pytest.approx(share)
    assert merged.method == (profiling.MERGED if kernel_set.NAME == "numba" else None)
    assert merged.forward.operations == pytest.approx(share * 2 * 9 * 16 * 3 * 32 * 32 * 2)
    assert row(measured, "decoder1").method is None and row(measured, "decoder1").forward.share == 1.0


def test_winograds_convolution_is_counted_as_it_is_done(kernel_set):
    measured = profile(small_cnn(16), batch_size=2, repeats=1)
    conv, fast = row(measured, "conv2+pool2"), kernel_set.NAME == "numba"
    plain, share = 2 * 9 * 32 * 64 * 8 * 8 * 2, 4 / 9 if fast else 1.0
    assert conv.method == (profiling.WINOGRAD if fast else None)
    assert conv.forward.operations == pytest.approx(share * plain)
    assert conv.backward.operations == pytest.approx((1 + share) * plain)  # the weights' in the plain way
    assert row(measured, "conv1+pool1").method is None  # 3 channels


def test_layers_in_blocks_are_rows_of_their_own(kernel_set):
    body = [tn.Conv2D(3, 3, activation="relu"), tn.MaxPool2D(2), tn.UpSample2D(2), tn.Conv2D(3, 3)]
    model = tn.Sequential([tn.Residual(body), tn.Flatten(), tn.Dense(1, "sigmoid")], (8, 8, 3))
    measured = profile(model, batch_size=3, repeats=1)
    assert names(measured) == [
        "residual1/branch1/conv1+pool1",
        "residual1/branch1/upsample1+conv2",
        "residual1",
        "flatten1",
        "dense1",
    ]
    assert row(measured, "residual1").forward.operations == 0


def test_layers_that_do_not_fuse_are_rows_of_their_own(kernel_set):
    measured = profile(small_cnn(16), batch_size=3, repeats=1)
    assert names(measured)[:3] == ["conv1+pool1", "norm1", "dropout1"]
    layers = [tn.Conv2D(2, 3, stride=2), tn.ReLU(), tn.GlobalAveragePool2D(), tn.Dense(2, "softmax")]
    assert names(profile(tn.Sequential(layers, (8, 8, 3)), 3, 1)) == ["conv1", "relu1", "average1", "dense1"]


def test_frozen_layers_have_no_backward_pass(kernel_set):
    model = classifier()
    model.freeze("encoder1", "encoder2", "encoder3")
    measured = profile(model, batch_size=3, repeats=1)
    backward = {row.name: row.backward.seconds > 0 for row in measured.rows}
    assert backward == {**dict.fromkeys(CLASSIFIER[:4], False), "dense1": True, "dense2": True}
    dense = row(measured, "dense1")
    assert dense.backward.operations == dense.forward.operations  # weights only


@pytest.mark.parametrize("inputs, ending", [((6,), None), ((6,), "softmax"), ((4, 4, 2), "sigmoid")])
def test_any_model_that_can_be_trained_can_be_profiled(kernel_set, inputs, ending):
    layers = [tn.Flatten()] if len(inputs) == 3 else []
    measured = profile(tn.Sequential([*layers, tn.Dense(3, ending)], inputs), batch_size=2, repeats=1)
    assert measured.input_shape == inputs and names(measured)[-1] == "dense1"


# What is left alone.


def test_the_model_is_as_it_was(kernel_set):
    model = small_cnn(16)
    optimizer = tn.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    before = {name: array.copy() for name, array in model.state().items()}
    loss, threads = model.loss, num_threads()
    profile(model, batch_size=3, repeats=1, threads=threads + 1)
    assert model.optimizer is optimizer and optimizer.iterations == 0 and model.loss is loss
    for name, array in model.state().items():
        assert np.array_equal(array, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters().values())
    assert num_threads() == threads


def test_a_model_without_optimiser_is_left_without(kernel_set):
    model = classifier()
    profile(model, batch_size=2, repeats=1)
    assert model.optimizer is None and model.loss is None


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"repeats": 0}, {"threads": 0}, {"batch_size": 2.0}])
def test_senseless_numbers_are_refused(wrong):
    with pytest.raises(tn.TinynetError, match=f"profile: {next(iter(wrong))} must be a whole number"):
        profile(classifier(), **wrong)


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(tn.TinynetError, match="no input shape"):
        profile(tn.Sequential([tn.Dense(2)]))
    model = classifier()
    model.freeze()
    with pytest.raises(tn.TinynetError, match="no weights to train"):
        profile(model)


# Observing.


class Listener(Observer):
    def __init__(self):
        self.heard = []

    def forward(self, function, arrays):
        self.heard.append(function.label)
        return super().forward(function, arrays)

    def backward(self, function, cotangent):
        self.heard.append(f"{function.label} backward")
        return super().backward(function, cotangent)

    def layers(self, names):
        self.heard.append(names)


def gradients(model, images):
    model.compile("adamw", "sparse_categorical_crossentropy")
    return model.gradients(images, np.arange(len(images)) % 2)


def test_an_observer_hears_everything_in_order_and_changes_nothing(kernel_set):
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (8, 8, 3))
    alone, listener = gradients(model, images), Listener()
    with observed_by(listener):
        observed = gradients(model, images)
    assert listener.heard == [
        "Flatten", ("flatten1",), "Dense", ("dense1",), "Unpack", "SoftmaxCrossEntropy",
        "SoftmaxCrossEntropy backward", "Unpack backward", "Dense backward", "Flatten backward",
    ]  # fmt: skip
    assert all(np.array_equal(observed[name], alone[name]) for name in alone)


def test_an_observer_hears_its_own_thread_and_until_the_end_of_the_block():
    heard = []

    def compute():
        heard.append(tensor.observer())

    with pytest.raises(KeyError), observed_by(Listener()) as nothing:
        assert nothing is None
        compute()
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
        raise KeyError
    assert isinstance(heard[0], Listener)
    assert heard[1] is None and tensor.observer() is None


# The peak.


@needs_numba
@pytest.mark.parametrize("chains", [6, 10])
def test_the_peak_kernels_do_the_operations_that_are_counted(chains):
    from tinynet.kernels.numba import peak

    numbers = peak._numbers()
    factor, summand, wanted = numbers[:16], numbers[16:32], numbers.copy()
    for _ in range(3):
        wanted[32 : 32 + 16 * chains] = (
            wanted[32 : 32 + 16 * chains].reshape(chains, 16) * factor + summand
        ).ravel()
    peak._compiled(chains)(numbers, 3)
    np.testing.assert_allclose(numbers, wanted, rtol=1e-6)
    assert peak._billions(chains, 3) == 3 * chains * 16 * 2 / 1e9


@needs_numba
def test_the_peak_uses_every_thread_it_is_asked_for(monkeypatch):
    from tinynet.kernels.numba import peak

    measured = peak.Peak(3)
    measured._steps, calls = 7, []
    monkeypatch.setattr(measured, "_kernel", lambda numbers, steps: calls.append((id(numbers), steps)))
    measured.run()
    assert sorted(calls) == sorted((id(numbers), 7) for numbers in measured._numbers)
    assert len({place for place, _ in calls}) == 3


@needs_numba
def test_the_peaks_operations_are_those_of_all_its_threads():
    from tinynet.kernels.numba import peak

    measured = peak.Peak(2)
    assert any(measured.billions == 2 * peak._billions(chains, measured._steps) for chains in peak.CHAINS)
    assert measured.measure() > 0


def test_without_numba_there_is_no_peak(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "numba_problem", lambda: "ModuleNotFoundError: No module named 'numba'")
    with kernels.using("numpy"):
        measured = profile(classifier(), batch_size=2, repeats=1)
        assert measured.peak == [] and measured.median_peak is None
        assert measured.share_of_peak(10.0) is None
        assert cli.main(["profile", "reconstruction", "--batch-size", "2", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "peak: not measured, which takes Numba" in out and "of the peak" not in out


# The command.


@pytest.fixture
def run(capsys, monkeypatch):
    def command(*words):
        status = cli.main(["profile", *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


QUICK = ("--batch-size", 3, "--repeats", 2)


def test_the_command_prints_a_line_a_row_and_the_rest(run, kernel_set):
    status, out, _ = run("autoencoder", *QUICK)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("autoencoder-classifier: training steps of 3 images (32 x 32 x 3)")
    assert f"kernels: {kernel_set.NAME}, " in out
    for name in [*CLASSIFIER, "packing the images", "loss, both ways", "optimiser", "between functions"]:
        assert sum(line.startswith(name) for line in lines) == 1, name
    assert "images/s" in out
    shares = [float(line.split()[-2]) for line in lines if line.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_json_is_one_object_with_the_same_parts(run, kernel_set):
    status, out, _ = run("autoencoder", *QUICK, "--json")
    found = json.loads(out)
    assert status == 0
    assert [layer["name"] for layer in found["layers"]] == CLASSIFIER
    parts = [layer[way]["seconds"] for layer in found["layers"] for way in ("forward", "backward")]
    assert sum(parts) + sum(found["outside_seconds"].values()) == pytest.approx(found["seconds"])
    assert found["kernels"] == kernel_set.NAME
    if found["peak_gflops"] is not None:
        share = found["gflops"] / found["peak_gflops"]
        assert found["share_of_peak"] == pytest.approx(share)
        assert found["peak_gflops_extremes"][0] <= found["peak_gflops"] <= found["peak_gflops_extremes"][1]


def test_the_plain_autoencoder_has_a_name_too(run, kernel_set):
    status, out, _ = run("reconstruction", *QUICK)
    assert status == 0 and "up1+decoder2" in out
    merged = "up1+decoder2, up2+decoder3, up3+decoder4: upsampling is merged into the convolution"
    assert (merged in out) == (kernel_set.NAME == "numba")


def test_a_file_is_taken_and_left_alone(run, tmp_path):
    path = tmp_path / "m.safetensors"
    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (4, 4, 3), name="tiny")
    model.compile(tn.AdamW(tn.OneCycle(1e-3, 10)), "sparse_categorical_crossentropy")  # of fewer steps
    model.save(path)
    before = path.read_bytes()
    with kernels.using("numpy"):
        status, out, _ = run(path, "--batch-size", 2, "--repeats", 12)
    assert status == 0 and out.startswith("tiny: ")
    assert path.read_bytes() == before


def test_a_model_in_int8_is_refused(run, tmp_path):
    model, images = classifier(), np.zeros((4, 32, 32, 3), np.uint8)
    model.quantize("int8", images).save(tmp_path / "m.safetensors")
    status, out, err = run(tmp_path / "m.safetensors")
    assert (status, out) == (1, "") and "is in int8, which is not trained" in err


@pytest.mark.parametrize(
    "words",
    [[], ["m", "--repeats", "0"], ["m", "--threads", "two"], ["m", "--batch-size", "-1"], ["m", "--seed"]],
)
def test_wrong_usage_is_status_2_and_one_line(run, words):
    status, out, err = run(*words)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1


def test_a_model_that_is_not_there_is_one_sentence(run):
    status, out, err = run("no-such-model")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1 and "no-such-model" in err


def test_threads_are_said_to_have_no_effect_on_numpys_kernels(run):
    with kernels.using("numpy"):
        status, _, err = run("autoencoder", *QUICK, "--threads", 1)
    assert status == 0 and "--threads has no effect on the NumPy kernels" in err


@needs_numba
def test_threads_are_those_asked_for(run):
    before = num_threads()
    with kernels.using("numba"):
        found = json.loads(run("autoencoder", *QUICK, "--threads", 1, "--json")[1])
    assert (found["threads"], found["peak_threads"], num_threads()) == (1, 1, before)
    assert os.environ.get("TINYNET_NUM_THREADS") is None or before == int(os.environ["TINYNET_NUM_THREADS"])
