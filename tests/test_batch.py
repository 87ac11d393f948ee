"""Batches in one compiled call: the answers of the layers, for every model that the kernel can express."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from tinynet.models import autoencoder, classifier, small_cnn

import tinynet as tn
from tinynet import batch, kernels
from tinynet.errors import ArgumentError

if kernels.numba_problem() is not None:
    pytest.skip("the compiled batch is Numba's", allow_module_level=True)

from test_single import assert_close, images_for, networks, plainly, randomise, seeds

from tinynet.kernels.numba.compile import compile_report
from tinynet.kernels.numba.tiles import WIDTH

BUILDS = [autoencoder, classifier, small_cnn]
counts = st.integers(1, 40) | st.sampled_from([WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH])


@pytest.fixture(autouse=True)
def numba_kernels():
    with kernels.using("numba"):
        yield


def layer_by_layer(model: tn.Sequential, images: np.ndarray, kernel_set: str) -> np.ndarray:
    """The plain twin: what the layers make of the images, up to the logits."""
    with kernels.using(kernel_set):
        return model.logits(images)


@settings(max_examples=80)
@given(networks(), counts, seeds)
def test_any_network_gives_the_logits_of_its_layers(model, count, seed):
    note(f"{model.layers}")
    for of_bytes in [False] + [True] * (model.preprocessing is not None):
        images = images_for(model, count, seed, of_bytes)
        got = batch.logits(model, images)
        if got is None:
            with pytest.raises(ArgumentError, match="between its layers"):
                batch.Program(model)
            continue
        assert_close(got, layer_by_layer(model, images, "numpy"))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("of_bytes", [False, True])
def test_the_models_of_the_house(build, of_bytes):
    model = randomise(build(), 1)
    images = images_for(model, 27, 0, of_bytes)
    wanted = plainly(model, images)
    assert_close(model.predict(images), wanted)
    assert_close(model.predict(images[:9]), wanted[:9])


@pytest.mark.parametrize("of_bytes", [False, True])
def test_the_classifier_has_the_bits_of_its_layers(of_bytes):
    """Nothing is folded or merged there, so every sum has the same order."""
    model = randomise(classifier(), 2)
    images = images_for(model, 33, 0, of_bytes)
    np.testing.assert_array_equal(batch.logits(model, images), layer_by_layer(model, images, "numba"))


@given(networks(), st.integers(WIDTH, 40), seeds)
def test_an_answer_does_not_depend_on_threads_ranges_and_neighbours(model, count, seed):
    images = images_for(model, count, seed, False)
    whole = batch.logits(model, images)
    if whole is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "WORTH_A_RANGE", 1)  # as many ranges as there are groups of images
        np.testing.assert_array_equal(batch.logits(model, images), whole)
    np.testing.assert_array_equal(batch.logits(model, images[::-1])[::-1], whole)
    np.testing.assert_array_equal(batch.logits(model, images[:1]), whole[:1])


@given(networks(), seeds)
def test_nan_stays_with_its_image(model, seed):
    images = images_for(model, WIDTH + 3, seed, False)
    before = batch.logits(model, images)
    if before is None:
        return
    images[4] = np.nan
    after, others = batch.logits(model, images), np.arange(len(images)) != 4
    np.testing.assert_array_equal(after[others], before[others])
    wanted = layer_by_layer(model, images[4:5], "numpy")
    assert np.isnan(after[4:5][np.isnan(wanted)]).all()


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("pool", [[], [tn.MaxPool2D]])
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_nan_comes_through_each_end_of_a_tile(activation, pool, place):
    model = tn.Sequential([tn.Conv2D(4, 1, activation=activation), *[kind() for kind in pool]], (4, 4, 2))
    images = np.ones((9, 4, 4, 2), np.float32)
    images[0, place[0], place[1], 0] = np.nan
    wanted = np.isnan(layer_by_layer(model, images, "numpy"))
    np.testing.assert_array_equal(np.isnan(batch.logits(model, images)), wanted)


@pytest.mark.parametrize("channels", [32, 35, 64])
@pytest.mark.parametrize("outputs", [32, 37, 61])
@pytest.mark.parametrize("pool", [False, True])
def test_many_channels(channels, outputs, pool):
    """Winograd's method, with numbers of channels and outputs that fill no tile and no part."""
    layers = [tn.Conv2D(outputs, 3, activation="relu"), *[tn.MaxPool2D(2)] * pool, tn.BatchNorm()]
    model = randomise(tn.Sequential(layers, (6, 10, channels)), 1)
    images = images_for(model, 10, 0, False)
    assert_close(batch.logits(model, images), layer_by_layer(model, images, "numpy"))


def test_many_taps_come_in_passes():
    model = randomise(tn.Sequential([tn.Conv2D(7, 5, activation="relu6"), tn.MaxPool2D(2)], (6, 7, 17)), 1)
    images = images_for(model, 10, 0, False)
    assert_close(batch.logits(model, images), layer_by_layer(model, images, "numpy"))


def test_the_ends_of_a_model_are_left_to_its_answer():
    """softmax, sigmoid and tanh make the answer of the logits, with the temperature; a rectifier stays."""
    for activation in ("softmax", "sigmoid", "tanh", "relu", None):
        layers = [tn.Flatten(), tn.Dense(3, activation)]
        model = randomise(tn.Sequential(layers, (4, 5, 3)), 0)
        model.temperature = 1.7
        images = images_for(model, 12, 0, True)
        assert batch.logits(model, images) is not None
        assert_close(model.predict(images), plainly(model, images))


# Which way is taken.

ELSEWHERE = {
    "branches": lambda: [tn.Residual([tn.Conv2D(3, 3)])],
    "a sigmoid between layers": lambda: [tn.Conv2D(3, 3, activation="sigmoid"), tn.Conv2D(3, 3)],
    "softmax before the end": lambda: [tn.Flatten(), tn.Dense(3, "softmax"), tn.Dense(3)],
    "softmax, then dropout": lambda: [tn.Flatten(), tn.Dense(3, "softmax"), tn.Dropout(0.5)],
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_a_plan_cannot_say_goes_layer_by_layer(name):
    model = tn.Sequential(ELSEWHERE[name](), (6, 7, 3))
    images = images_for(model, 12, 0, True)
    assert batch.logits(model, images) is None
    assert_close(model.predict(images), plainly(model, images))


@pytest.mark.parametrize("limit", ["MAX_NUMBERS", "MAX_TABLES"])
def test_what_takes_too_much_memory_goes_layer_by_layer(monkeypatch, limit):
    from tinynet.batch import plan

    monkeypatch.setattr(plan, limit, 1000)
    model = classifier()
    images = images_for(model, 12, 0, True)
    with pytest.raises(ArgumentError, match="1000"):
        batch.Program(model)
    assert_close(model.predict(images), plainly(model, images))


def test_the_numpy_kernels_are_not_replaced(monkeypatch):
    model = classifier()
    monkeypatch.setattr(batch, "Program", None)  # would raise
    plainly(model, images_for(model, 12, 0, True))


def test_predict_goes_this_way_and_says_what_is_wrong_as_before(monkeypatch):
    model, calls = classifier(), []
    real = batch.Program.__call__
    monkeypatch.setattr(batch.Program, "__call__", lambda self, images: calls.append(1) or real(self, images))
    images = images_for(model, 12, 0, True)
    model.predict(images)
    model.predict(images, batch_size=5)  # which bounds memory layer by layer; here nothing depends on it
    assert len(calls) == 2
    for wrong in (images[:, :-1], images.astype(np.int64), images[..., 0]):
        with pytest.raises(tn.errors.TinynetError):
            model.predict(wrong)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "arrange", [np.asfortranarray, lambda x: np.repeat(x, 2, 2)[:, :, ::2], lambda x: x.astype(np.float64)]
)
@pytest.mark.parametrize("of_bytes", [False, True])
def test_images_in_any_memory_order_and_precision(arrange, of_bytes):
    model = classifier()
    images = images_for(model, 12, 0, of_bytes)
    arranged = arrange(images)
    if of_bytes and arranged.dtype != np.uint8:
        arranged = images.copy()
        arranged.flags.writeable = False
    assert_close(model.predict(arranged), plainly(model, images))
    (report,) = (row for row in compile_report() if row.name == "batch.images_of_batch")
    assert report.compiled + report.loaded == 1  # whatever the images, it is compiled once


# Weights that change, threads, memory.


def test_predict_sees_every_change_of_the_model():
    model = small_cnn()
    images = images_for(model, 9, 0, True)
    answers = [model.predict(images)]
    for change in (
        lambda: model.layer("norm2").buffers["running_mean"].__setitem__(3, 1.0),
        lambda: model.parameters()["conv1.weight"].data.__imul__(np.float32(0.5)),
        lambda: model.load_state({name: array * np.float32(1.1) for name, array in model.state().items()}),
        lambda: setattr(model.layer("norm1"), "epsilon", 5.0),
        lambda: setattr(model, "temperature", 2.5),
        lambda: setattr(model, "preprocessing", tn.Preprocessing(64, 64, mean=(0.5, 0.4, 0.3))),
    ):
        change()
        answers.append(model.predict(images))
        assert not np.array_equal(answers[-1], answers[-2])
        assert_close(answers[-1], plainly(model, images))


def test_packed_weights_do_not_keep_a_model_alive():
    model = classifier()
    model.predict(images_for(model, 12, 0, True))
    count = len(batch._packed)
    del model
    gc.collect()
    assert len(batch._packed) == count - 1


def test_threads_at_once_do_not_disturb_each_other():
    model, other = classifier(), randomise(classifier(), 3)
    images = images_for(model, 200, 0, True)
    wanted = {id(m): m.predict(images) for m in (model, other)}
    failures = []

    def work(which: tn.Sequential) -> None:
        with kernels.using("numba"):
            for _ in range(20):
                if not np.array_equal(which.predict(images), wanted[id(which)]):
                    failures.append(which)

    threads = [threading.Thread(target=work, args=(m,)) for m in (model, other, model)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_ranges_cover_all_images_in_whole_groups():
    for count in (8, 9, 16, 255, 256, 1000, 10_000):
        for work in (1, 10**5, 10**7):
            ranges = batch._ranges(count, 8, work)
            assert [first for first, _ in ranges] == [0, *[last for _, last in ranges[:-1]]]
            assert ranges[-1][1] == count and all(first % 8 == 0 < last - first for first, last in ranges)
            assert max(last - first for first, last in ranges) <= batch.MOST_IMAGES + 8
