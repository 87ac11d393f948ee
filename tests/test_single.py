"""One image at a time, compiled: the answers of the NumPy kernels, for every model the kernel can express."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from tinynet.models import autoencoder, classifier, small_cnn

import tinynet as tn
from tinynet import deploy, kernels, single
from tinynet.errors import ArgumentError, ShapeError, TinynetError
from tinynet.layers import Chain

if kernels.numba_problem() is not None:
    pytest.skip("the single-image path is Numba's", allow_module_level=True)


@pytest.fixture(autouse=True)
def numba_by_name(monkeypatch):
    """Otherwise `predict` takes this way only once the kernel is compiled."""
    monkeypatch.setenv("TINYNET_KERNELS", "numba")


seeds = st.integers(0, 10**6)
BUILDS = [autoencoder, classifier, small_cnn]


def randomise(model: tn.Sequential, seed: int) -> tn.Sequential:
    """Biases and batch-norm statistics that are not 0 and 1; weights stay as they are."""
    rng = np.random.default_rng(seed)
    for layer in model.chain.leaves():
        for name, parameter in layer.parameters.items():
            if name != "weight":
                parameter.data[...] = rng.normal(name == "scale", 0.3, parameter.shape)
        for name, buffer in layer.buffers.items():
            buffer[...] = rng.uniform(0.5, 1.5, buffer.shape) if "variance" in name else rng.normal(0, 0.3)
    return model


def images_for(model: tn.Sequential, count: int, seed: int, of_bytes: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if of_bytes:
        return rng.integers(0, 256, (count, *model.input_shape), dtype=np.uint8)
    return rng.standard_normal((count, *model.input_shape)).astype(np.float32)


def plainly(model: tn.Sequential, images: np.ndarray) -> np.ndarray:
    with kernels.using("numpy"):
        return model.predict(images)


def assert_close(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape and got.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


sides = st.integers(1, 3)
pairs = st.tuples(sides, sides)
rectifiers = st.sampled_from([None, "relu", "relu6"])
activations = st.sampled_from([None, "relu", "relu6", "sigmoid", "tanh"])
paddings = st.sampled_from(["same", "valid", 1, ((0, 1), (2, 0))])


@st.composite
def convolutions(draw):
    if draw(st.booleans()):  # those that Winograd's method is for
        return tn.Conv2D(
            draw(st.integers(4, 17)), 3, padding=draw(paddings), activation=draw(rectifiers),
            use_bias=draw(st.booleans()),
        )  # fmt: skip
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return tn.Conv2D(
        groups * draw(st.integers(1, 9)), draw(pairs), stride=draw(pairs), padding=draw(paddings),
        dilation=draw(st.sampled_from([1, 1, 2])), groups=groups, activation=draw(activations),
        use_bias=draw(st.booleans()),
    )  # fmt: skip


image_layers = st.one_of(
    convolutions(),
    convolutions(),
    convolutions(),
    st.builds(tn.MaxPool2D, st.just(2)),
    st.builds(tn.MaxPool2D, pairs, stride=pairs, padding=st.sampled_from(["same", "valid"])),
    st.builds(tn.AveragePool2D, pairs, stride=pairs, padding=st.sampled_from(["same", "valid"])),
    st.builds(tn.BatchNorm),
    st.builds(tn.UpSample2D, pairs),
    st.builds(tn.Dropout, st.just(0.3)),
    st.sampled_from([tn.ReLU, tn.ReLU6, tn.Sigmoid, tn.Tanh]).map(lambda kind: kind()),
)
vector_layers = st.one_of(
    st.builds(tn.Dense, st.integers(1, 40), activations, use_bias=st.booleans()),
    st.builds(tn.BatchNorm),
    st.builds(tn.Dropout, st.just(0.3)),
    st.sampled_from([tn.ReLU, tn.ReLU6, tn.Sigmoid, tn.Tanh]).map(lambda kind: kind()),
)
endings = st.one_of(
    st.just([]),
    st.tuples(st.builds(tn.Dense, st.integers(1, 9), st.sampled_from(["softmax", "sigmoid"]))),
    st.tuples(st.builds(tn.Softmax)),
)


@st.composite
def networks(draw):
    """A model of any layers that a plan can express, with images or vectors at either end."""
    layers: list[tn.Layer] = []
    if draw(st.integers(0, 9)):
        channels = draw(st.sampled_from([3, 3, 1, 2, 8, 9]))
        shape: tuple[int, ...] = (draw(st.integers(1, 21)), draw(st.integers(1, 40)), channels)
        layers += draw(st.lists(image_layers, max_size=6))
        if draw(st.booleans()):
            layers = [Chain(layers)]
        to_vector = draw(st.sampled_from([tn.Flatten, tn.GlobalAveragePool2D, None]))
    else:
        shape, to_vector = (draw(st.integers(1, 40)),), Chain
    if to_vector is not None:
        layers += [to_vector(), *draw(st.lists(vector_layers, max_size=3)), *draw(endings)]
    assume(layers)
    try:
        model = tn.Sequential(layers, shape, seed=draw(seeds))
    except TinynetError:  # a window that does not fit, channels that do not divide into groups
        assume(False)
    size = shape[0] * shape[1] if len(shape) == 3 else shape[0]
    for layer in model.chain.leaves():
        output = layer.output_shape(layer.input_shape)
        assume(np.prod(output) < 40 * size * 20)
    model.temperature = draw(st.sampled_from([1.0, 1.7]))
    return randomise(model, draw(seeds))


@settings(max_examples=80)
@given(networks(), seeds)
def test_any_network_answers_as_with_the_numpy_kernels(model, seed):
    note(f"{model.layers}")
    program = single.Program(model)
    kinds = [False] + ([True] if model.preprocessing is not None else [])
    for of_bytes in kinds:
        images = images_for(model, 3, seed, of_bytes)
        wanted = plainly(model, images)
        assert_close(program(images), wanted)
        with kernels.using("numba"):
            assert_close(model.predict(images), wanted)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("of_bytes", [False, True])
def test_the_models_of_the_house(build, of_bytes):
    model = randomise(build(), 1)
    images = images_for(model, 2, 0, of_bytes)
    wanted = plainly(model, images)
    alone = deploy.single(model)
    for image, answer in zip(images, wanted, strict=True):
        assert_close(alone(image), answer)
    with kernels.using("numba"):
        assert_close(model.predict(images), wanted)
        assert_close(model.predict(images[:1]), wanted[:1])


@pytest.mark.parametrize("name", ["autoencoder", "small-cnn"])
def test_the_shipped_models(name):
    model = tn.load(name)
    images = images_for(model, 4, 5, True)
    with kernels.using("numba"):
        assert_close(model.predict(images), plainly(model, images))


@pytest.mark.parametrize("name", ["cells-70k", "cells-10k"])
def test_a_model_in_int8_is_refused_in_one_sentence(name):
    with pytest.raises(ArgumentError, match=f"model '{name}' is not a float model.*model.predict answers"):
        deploy.single(tn.load(name))


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65])
@pytest.mark.parametrize("channels", [3, 8])
def test_any_width(width, channels):
    """Widths around whole vectors of pixels, directly (3 channels) and by Winograd's method (8)."""
    layers = [tn.Conv2D(5, 3, activation="relu"), tn.MaxPool2D(2, padding="same"), tn.Conv2D(4, 3)]
    model = randomise(tn.Sequential(layers, (6, width, channels)), width)
    images = images_for(model, 1, width, False)
    assert_close(single.Program(model)(images), plainly(model, images))


# What stays in memory between calls.


@given(networks(), seeds)
def test_an_image_of_nan_leaves_nothing_behind(model, seed):
    program, images = single.Program(model), images_for(model, 1, seed, False)
    before = program(images)
    program(np.full_like(images, np.nan))
    np.testing.assert_array_equal(program(images), before)


@pytest.mark.parametrize("build", BUILDS)
def test_nan_comes_through(build):
    model = build()
    images = images_for(model, 1, 0, False)
    images[0, 5, 6, 1] = np.nan
    wanted = plainly(model, images)
    got = single.Program(model)(images)
    assert np.isnan(wanted).any() and np.isnan(got[np.isnan(wanted)]).all()


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "sigmoid", "tanh"])
@pytest.mark.parametrize("pool", [[], [tn.MaxPool2D], [tn.ReLU, tn.MaxPool2D]])
def test_nan_comes_through_each_activation(activation, pool):
    model = tn.Sequential([tn.Conv2D(4, 1, activation=activation), *[kind() for kind in pool]], (4, 4, 2))
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        images = np.ones((1, 4, 4, 2), np.float32)
        images[0, row, column, 0] = np.nan
        np.testing.assert_array_equal(
            np.isnan(single.Program(model)(images)), np.isnan(plainly(model, images))
        )


def test_winograd_is_not_used_where_it_is_not_the_same_convolution():
    """Strides, dilation, groups and other sizes are computed directly; these would differ at once."""
    for options in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"stride": (2, 1)}, {"stride": (1, 2)}):
        model = randomise(tn.Sequential([tn.Conv2D(8, 3, **options)], (9, 10, 8)), 0)
        images = images_for(model, 1, 0, False)
        assert_close(single.Program(model)(images), plainly(model, images))


# Weights that change.


def halve(model):
    model.parameters()["encoder1.weight"].data[...] *= 0.5


def replace_array(model):
    model.parameters()["dense1.bias"].data = np.full(
        tn.load("autoencoder").layer("dense1").units, 0.5, np.float32
    )


def load_other(model):
    model.load_state({name: array + np.float32(0.01) for name, array in model.state().items()})


def train(model):
    model.compile(tn.RMSprop(0.01), "sparse_categorical_crossentropy")
    model.fit(images_for(model, 4, 3, True), np.array([0, 1, 0, 1]), epochs=1, verbose=0)


def warm(model):
    model.temperature = 2.5


def whiten(model):
    model.preprocessing = tn.Preprocessing(32, 32, mean=(0.5, 0.5, 0.5), deviation=(0.2, 0.3, 0.4))


def another_setting(model):
    model.layer("encoder2").activation = None


@pytest.mark.parametrize("change", [halve, replace_array, load_other, train, warm, whiten, another_setting])
def test_predict_sees_every_change_of_the_model(change):
    model, images = classifier(), images_for(classifier(), 1, 0, True)
    with kernels.using("numba"):
        before, frozen = model.predict(images), deploy.single(model)
        change(model)
        after = model.predict(images)
    assert not np.array_equal(before, after)
    assert_close(after, plainly(model, images))
    np.testing.assert_array_equal(frozen(images[0]), before[0])  # which is what freezing means


def test_running_statistics_are_seen_too():
    model, images = small_cnn(), images_for(small_cnn(), 1, 0, True)
    with kernels.using("numba"):
        before = model.predict(images)
        model.layer("norm2").buffers["running_mean"][3] += 1
        after = model.predict(images)
    assert not np.array_equal(before, after)
    assert_close(after, plainly(model, images))


def test_packed_weights_do_not_keep_a_model_alive():
    model = classifier()
    with kernels.using("numba"):
        model.predict(images_for(model, 1, 0, True))
    count = len(single._packed)
    del model
    gc.collect()
    assert len(single._packed) == count - 1


# Which way is taken.


def test_the_numpy_kernels_are_not_replaced(monkeypatch):
    model = classifier()
    monkeypatch.setattr(single, "Program", None)  # would raise
    plainly(model, images_for(model, 1, 0, True))


def test_a_larger_batch_is_for_the_batch_kernels(monkeypatch):
    model = classifier()
    monkeypatch.setattr(single, "predict", None)
    with kernels.using("numba"):
        model.predict(images_for(model, single.FEW + 1, 0, True))


BLOCKS = {
    "Residual": lambda: tn.Residual([tn.Conv2D(3, 3)]),
    "Concatenate": lambda: tn.Concatenate([[tn.Conv2D(2, 3)], [tn.Conv2D(2, 1)]]),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_model_with_branches_goes_the_ordinary_way(block):
    model = tn.Sequential([BLOCKS[block]()], (6, 7, 3))
    images = images_for(model, 2, 0, True)
    with kernels.using("numba"):
        assert_close(model.predict(images), plainly(model, images))
    with pytest.raises(ArgumentError, match=f"{block}.*single-image"):
        deploy.single(model)


def test_activations_that_take_too_much_memory_go_the_ordinary_way(monkeypatch):
    from tinynet.single import plan

    monkeypatch.setattr(plan, "MAX_NUMBERS", 10_000)
    model = classifier()
    images = images_for(model, 1, 0, True)
    with kernels.using("numba"):
        assert_close(model.predict(images), plainly(model, images))
    with pytest.raises(ArgumentError, match="10000 numbers"):
        deploy.single(model)


@pytest.mark.parametrize("arrange", [np.asfortranarray, lambda x: np.repeat(x, 2, 2)[:, :, ::2]])
def test_images_in_any_memory_order(arrange):
    model, images = classifier(), images_for(classifier(), 1, 0, True)
    wanted = plainly(model, images)
    arranged = arrange(images)
    with kernels.using("numba"):
        assert_close(model.predict(arranged), wanted)
    read_only = images[0].copy()
    read_only.flags.writeable = False
    alone = deploy.single(model)
    for image in (arranged[0], read_only, images[0].tolist()):
        image = np.asarray(image, np.uint8)
        assert_close(alone(image), wanted[0])


# The direct way.


def test_an_image_of_another_size_is_resized():
    model = classifier()
    picture = np.random.default_rng(0).integers(0, 256, (45, 50, 3), dtype=np.uint8)
    assert_close(deploy.single(model)(picture), plainly(model, [picture])[0])


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((31, 32, 3), np.float32), ShapeError, r"wants one image \(32, 32, 3\)"),
        (np.zeros((1, 32, 32, 3), np.float32), ShapeError, "wants one image"),
        (np.zeros((1, 32, 32, 3), np.uint8), ArgumentError, "picture"),
        (np.zeros((32, 32, 3), np.int64), ArgumentError, "int64"),
        (3, ArgumentError, "wanted an array"),
        ("cell.png", ArgumentError, "wanted an array"),
    ],
)
def test_what_is_no_image_is_refused(image, error, words):
    with pytest.raises(error, match=words):
        deploy.single(classifier())(image)


def test_an_answer_is_written_where_the_caller_says_and_nothing_is_allocated():
    model, images = classifier(), images_for(classifier(), 1, 0, True)
    alone, out = deploy.single(model), np.empty(2, np.float32)
    assert alone(images[0], out) is out
    assert_close(out, plainly(model, images)[0])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        alone(images[0], out=out)
    highest = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert highest < 1000  # bytes: views of arrays, as Python makes them; activations are 40,000


@pytest.mark.parametrize(
    "out",
    [
        np.empty(2), np.empty(3, np.float32), np.empty((1, 2), np.float32), np.empty(4, np.float32)[::2],
        np.frombuffer(bytes(8), np.float32), np.empty(2, ">f4"), [0.0, 0.0],
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_written_to_is_refused(out):
    with pytest.raises(ArgumentError, match=r"out must be a C-contiguous, writeable float32 array \(2,\)"):
        deploy.single(classifier())(np.zeros((32, 32, 3), np.uint8), out)


def test_uint8_without_preprocessing_is_refused():
    model = tn.Sequential([tn.Conv2D(2, 3)], (5, 5, 2))
    with pytest.raises(ArgumentError, match="no preprocessing"):
        deploy.single(model)(np.zeros((5, 5, 2), np.uint8))


def test_a_model_without_a_shape_is_refused():
    with pytest.raises(ArgumentError, match="input shape"):
        deploy.single(tn.Sequential([tn.Flatten()]))


def test_without_numba_the_error_says_what_works(monkeypatch):
    monkeypatch.setattr(kernels, "numba_problem", lambda: "ModuleNotFoundError: No module named 'numba'")
    with pytest.raises(tn.errors.MissingDependencyError, match="predict works without"):
        deploy.single(classifier())


# Threads and processes.


def test_threads_at_once_do_not_disturb_each_other():
    model = classifier()
    images = images_for(model, 40, 0, True)
    alone = deploy.single(model)
    wanted = [alone(image) for image in images]
    failures = []

    def work(first: int) -> None:
        for _ in range(20):
            for i in range(first, len(images), 2):
                if not np.array_equal(alone(images[i]), wanted[i]):
                    failures.append(i)
                with kernels.using("numba"):
                    if not np.array_equal(model.predict(images[i : i + 1])[0], wanted[i]):
                        failures.append(i)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def _in_a_child(alone, image, queue):
    queue.put(alone(image))


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_after_a_fork_a_child_answers_the_same():
    model = classifier()
    image = images_for(model, 1, 0, True)[0]
    alone = deploy.single(model)
    wanted = alone(image)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(alone, image, queue))
    child.start()
    got = queue.get()
    child.join(60)
    np.testing.assert_array_equal(got, wanted)


# The processor.


def test_lanes_are_those_of_a_register():
    from tinynet.kernels.numba.pixels import lanes_of

    assert lanes_of("+avx2,+fma,-avx512f") == 8
    assert lanes_of("+avx2,+avx512f,+avx512vl") == 16
    assert lanes_of("+neon") == lanes_of("") == 8


SIXTEEN = """
import numba.core.config
import tinynet.kernels.numba.simd  # what is compiled is for this processor; only the lanes are another's
numba.core.config.CPU_FEATURES = "+avx512f"
from tinynet.kernels.numba import pixels
numba.core.config.CPU_FEATURES = None
assert pixels.LANES == 16
import test_single
test_single.test_any_width(33, 8)
test_single.test_any_width(15, 3)
for build in test_single.BUILDS:
    test_single.test_the_models_of_the_house(build, True)
"""


@pytest.mark.skipif("NUMBA_CPU_FEATURES" in os.environ, reason="it sets them itself")
def test_sixteen_lanes_answer_the_same(tmp_path):
    """As on a processor with AVX-512; here a vector may be two registers."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TINYNET_CACHE": str(tmp_path)}
    child = subprocess.run(
        [sys.executable, "-c", SIXTEEN], env=environment, cwd=here.parent, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
