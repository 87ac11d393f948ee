"""A model from its file: bit for bit what was saved, or one sentence; never a claim taken on trust."""

from __future__ import annotations

import copy
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import files, storage
from tinynet.errors import ArgumentError, FileAccessError, ModelFileError, NonFiniteError


def every_layer() -> tn.Sequential:
    """A small classifier with one of everything."""
    model = tn.Sequential(
        [
            tn.Conv2D(4, 3, padding=1, stride=(2, 1)), tn.BatchNorm(), tn.ReLU(),
            tn.MaxPool2D(2, padding="same"),
            tn.Residual([tn.Conv2D(4, (1, 3), groups=2, use_bias=False), tn.ReLU6()], [tn.Conv2D(4, 1)]),
            tn.Concatenate([[tn.AveragePool2D(3, stride=1, padding="same")], [tn.Tanh()], [tn.Chain([])]]),
            tn.UpSample2D((1, 2)), tn.Conv2D(3, 3, dilation=2, activation="sigmoid"), tn.Dropout(0.25),
            tn.Concatenate([[tn.Sigmoid()], []]), tn.Flatten(), tn.Dense(5, "relu6"),
            tn.Dense(2), tn.Softmax(),
        ],
        (9, 8, 3),
        preprocessing=tn.Preprocessing(9, 8, mean=(0.5, 0.25, 0.125), deviation=(0.5, 0.3, 0.2)),
        class_names=["uninfected", "infected"],
        seed=4,
        name="everything",
    )  # fmt: skip
    model.threshold, model.temperature = 0.375, 1.5
    model.provenance = {"command": "none", "trained": "2026-01-01T00:00:00+00:00", "seed": 4}
    model.metrics = {"test": {"accuracy": [0.5, 0.4, 0.6], "auc": None}}
    loss = tn.sparse_categorical_crossentropy(smoothing=0.125)
    return model.compile(tn.AdamW(tn.OneCycle(0.01, 100), weight_decay=0.02), loss)


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 9, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    model = every_layer()
    model.fit(images(8), np.arange(8) % 2, verbose=0)
    path = tmp_path_factory.mktemp("storage") / "everything.safetensors"
    model.save(path)
    return path


def resigned(path: Path, folder: Path, change) -> Path:
    """A copy whose description and arrays `change` has edited, with a digest that holds."""
    arrays, description = files.load_model_file(path)
    change(arrays, description)
    result = folder / "changed.safetensors"
    files.save_model_file(result, arrays, description)
    return result


def test_a_model_comes_back_bit_for_bit(kernel_set, tmp_path):
    model = every_layer()
    model.fit(images(8), np.arange(8) % 2, verbose=0)
    model.save(tmp_path / "m.safetensors")
    loaded = tn.load(tmp_path / "m.safetensors")
    assert loaded.state().keys() == model.state().keys()
    for name, array in model.state().items():
        assert np.array_equal(loaded.state()[name], array) and loaded.state()[name].dtype == np.float32
    assert np.array_equal(loaded.predict(images()), model.predict(images()))
    for name in ("name", "input_shape", "output_shape", "preprocessing", "class_names", "threshold"):
        assert getattr(loaded, name) == getattr(model, name)
    assert (loaded.temperature, loaded.metrics) == (model.temperature, model.metrics)
    assert loaded.provenance == {"tinynet": tn.__version__, **model.provenance}
    assert loaded.optimizer.config() == model.optimizer.config()
    assert loaded.loss == model.loss
    assert [repr(layer) for layer in loaded.layers] == [repr(layer) for layer in model.layers]
    labels = np.arange(6) % 2
    assert loaded.evaluate(images(), labels) == model.evaluate(images(), labels)
    assert loaded.fit(images(), labels, verbose=0).epochs == 1  # and it can be trained on


def test_saved_twice_it_is_the_same_file_of_the_size_foretold(saved, tmp_path):
    model = tn.load(saved)
    model.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert storage.file_size(model) == saved.stat().st_size


def test_a_model_that_was_never_compiled_comes_back_so(tmp_path):
    tn.Sequential([tn.Dense(2)], (5,)).save(tmp_path / "m.safetensors")
    loaded = tn.load(str(tmp_path / "m.safetensors"))
    assert loaded.optimizer is None and loaded.loss is None and loaded.preprocessing is None
    assert loaded.predict(np.ones((1, 5), np.float32)).shape == (1, 2)


def test_what_the_numba_kernels_saved_the_numpy_kernels_reproduce(saved):
    with tn.kernels.using("numpy"):
        reference = tn.load(saved).predict(images())
    with tn.kernels.using("auto"):
        np.testing.assert_allclose(tn.load(saved).predict(images()), reference, rtol=1e-4, atol=1e-6)


# Not saved.


def test_weights_that_are_not_finite_are_not_saved_and_the_old_file_stays(saved, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(saved.read_bytes())
    model = tn.load(path)
    model.layer("dense1").parameters["bias"].data[1] = np.nan
    with pytest.raises(NonFiniteError, match=r"m\.safetensors: not written, dense1\.bias holds NaN"):
        model.save(path)
    assert path.read_bytes() == saved.read_bytes()
    model.layer("dense1").parameters["bias"].data[1] = 0
    model.layer("conv1").parameters["weight"].data[...] = 1e38
    model.layer("norm1").buffers["running_variance"][...] = 1e-30
    with pytest.raises(NonFiniteError, match="its answer to the self-test is not finite"):
        model.save(path)
    assert path.read_bytes() == saved.read_bytes()


def test_a_model_without_weights_is_not_saved(tmp_path):
    with pytest.raises(ArgumentError, match="model 'model' has no weights yet"):
        tn.Sequential([tn.Dense(2)]).save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


# Found.


def test_a_name_is_a_shipped_model_and_a_wrong_one_says_which_there_are(tmp_path, monkeypatch, saved):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "little.safetensors").write_bytes(saved.read_bytes())
    monkeypatch.setattr(storage, "weights_folder", lambda: tmp_path / "weights")
    assert tn.load("little").name == "everything"
    with pytest.raises(FileAccessError, match=r"large: no such file, and no shipped .* there are little"):
        tn.load("large")
    with pytest.raises(FileAccessError, match=r"missing\.safetensors could not be read"):
        tn.load(tmp_path / "missing.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "little").mkdir()  # a folder of that name is not in its way
    assert tn.load("little").name == "everything"
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileAccessError, match="folder could not be read: it is a folder"):
        tn.load("folder")


@pytest.mark.parametrize("model", [None, 3, b"x", ["a"]])
def test_what_can_be_no_path_is_refused(model):
    with pytest.raises(ArgumentError, match="wanted the path of a model file or a model's name"):
        tn.load(model)


# Tampered with.


@pytest.mark.parametrize(
    "name", ["conv1.weight", "dense2.bias", "norm1.running_mean", "residual1/branch2/conv1.bias"]
)
def test_changed_weights_are_found_by_the_self_test_where_the_digest_holds(saved, tmp_path, name):
    def change(arrays, description):
        arrays[name] = arrays[name] + np.float32(0.5) * np.arange(arrays[name].size).reshape(
            arrays[name].shape
        )

    with pytest.raises(ModelFileError, match=r"changed\.safetensors does not reproduce its self-test"):
        tn.load(resigned(saved, tmp_path, change))


@pytest.mark.parametrize(
    ("layer", "key", "value"),
    [(1, "epsilon", 0.9), (3, "size", [1, 2]), (7, "dilation", [1, 1]), (2, "type", "Tanh")],
)
def test_a_changed_layer_is_found_by_the_self_test(saved, tmp_path, layer, key, value):
    def change(arrays, description):
        description["architecture"]["layers"][layer][key] = value

    with pytest.raises(ModelFileError, match=r"changed\.safetensors"):
        tn.load(resigned(saved, tmp_path, change))


def test_a_changed_preprocessing_is_found_by_the_self_test(saved, tmp_path):
    def change(arrays, description):
        description["preprocessing"]["mean"] = [0.0, 0.0, 0.0]

    with pytest.raises(ModelFileError, match="does not reproduce its self-test"):
        tn.load(resigned(saved, tmp_path, change))


def drop(*path):
    def change(arrays, description):
        target = description
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return change


def put(value, *path):
    def change(arrays, description):
        target = description
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


def arrays_with(name, value):
    def change(arrays, description):
        arrays[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("architecture"), "it has no 'architecture'"),
        (drop("threshold"), "it has no 'threshold'"),
        (drop("training"), "it has no 'training'"),
        (drop("architecture", "layers"), "it has no 'layers'"),
        (drop("self_test"), "no self-test"),
        (drop("self_test", "seed"), "no self-test"),
        (put([], "architecture"), "architecture is not an object"),
        (put({}, "architecture", "layers"), "layers are not a list"),
        (put(5, "architecture", "name"), "name is not text"),
        (put([9, 8], "architecture", "input_shape"), "input_shape"),
        (put([9, 8, True], "architecture", "input_shape"), "input_shape"),
        (put([9, 8, 4], "architecture", "input_shape"), "preprocessing makes images"),
        (put([], "architecture", "layers"), "at least one layer"),
        (put("Pickle", "architecture", "layers", 0, "type"), "unknown layer type 'Pickle'"),
        (put(1, "architecture", "layers", 0, "cleverness"), "Conv2D has no option 'cleverness'"),
        (put(5, "architecture", "layers", 0, "filters"), "does not describe a model"),
        (put("norm1", "architecture", "layers", 0, "name"), "two layers are called 'norm1'"),
        (put("ab", "class_names"), "class_names must be a list"),
        (put(["a", "a"], "class_names"), "a name twice"),
        (put(["a", "b", "c"], "class_names"), "3 names, the model 2 classes"),
        (put(1.5, "threshold"), "threshold must be a number from 0 to 1, got 1.5"),
        (put(True, "threshold"), "threshold"),
        (put("0.5", "threshold"), "threshold"),
        (put(0, "temperature"), "temperature"),
        (put(1e-300, "temperature"), "temperature"),
        (put([], "provenance"), "provenance is not an object"),
        (put("", "metrics"), "metrics is not an object"),
        (put([], "training"), "training is not an object"),
        (put({"loss": "mse"}, "training"), "it has no 'optimizer'"),
        (put("huber", "training", "loss"), "loss must be one of"),
        (put({"name": "sgd", "learning_rate": -1}, "training", "optimizer"), "learning_rate is -1"),
        (put({"name": "os.system"}, "training", "optimizer"), "wanted one of"),
        (put({}, "preprocessing"), "preprocessing has missing or unknown entries"),
        (put(-1, "self_test", "seed"), "self-test seed is -1"),
        (put(True, "self_test", "seed"), "self-test seed is True"),
        (put(0.5, "self_test", "seed"), "self-test seed is 0.5"),
        (put([], "self_test", "outputs"), "expects 0 logits"),
        (put(["1", "2"], "self_test", "outputs"), "outputs of the self-test are not numbers"),
        (put([True, False], "self_test", "outputs"), "outputs of the self-test are not numbers"),
        (put(0.5, "self_test", "outputs"), "no self-test"),
        (arrays_with("conv9.weight", np.zeros(3, np.float32)), "the model has no conv9.weight"),
        (arrays_with("conv1.bias", np.zeros(5, np.float32)), r"conv1.bias has shape \(5,\)"),
        (arrays_with("conv1.bias", np.zeros(4, np.int32)), "conv1.bias has dtype int32"),
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused_in_a_sentence(saved, tmp_path, change, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        tn.load(resigned(saved, tmp_path, change))
    assert str(caught.value).startswith(str(tmp_path / "changed.safetensors"))


CLAIMS = {
    "filters": put(10**9, "architecture", "layers", 0, "filters"),
    "more filters than memory has addresses": put(2**62, "architecture", "layers", 0, "filters"),
    "units": put(10**9, "architecture", "layers", 11, "units"),
    "input": put([10**6, 10**6, 3], "architecture", "input_shape"),
    "channels": put([9, 8, 2**60], "architecture", "input_shape"),
    "kernel": put([10**6, 10**6], "architecture", "layers", 0, "kernel_size"),
    "padding": put([[10**8, 10**8], [10**8, 10**8]], "architecture", "layers", 0, "padding"),
    "dilation": put([10**9, 10**9], "architecture", "layers", 7, "dilation"),
    "pool": put([10**8, 10**8], "architecture", "layers", 3, "size"),
    "upsampling": put([10**9, 10**9], "architecture", "layers", 6, "factor"),
    "some upsampling": put([2000, 4000], "architecture", "layers", 6, "factor"),
}


@pytest.mark.parametrize("change", CLAIMS.values(), ids=CLAIMS)
@pytest.mark.parametrize("preprocessing", [True, False])
def test_absurd_sizes_cost_nothing(saved, tmp_path, change, preprocessing):
    def both(arrays, description):
        change(arrays, description)
        if not preprocessing:
            description["preprocessing"] = None

    path = resigned(saved, tmp_path, both)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            tn.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def fully_convolutional(layers: list[dict], input_shape: list[int]):
    def change(arrays, description):
        arrays.clear()
        description["architecture"].update(layers=layers, input_shape=input_shape)
        description.update(preprocessing=None, class_names=None, training={})

    return change


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([{"type": "UpSample2D", "factor": 1000}, {"type": "GlobalAveragePool2D"}], [100, 100, 3]),
        ([{"type": "Concatenate", "branches": [[]] * 1000}] * 4, [8, 8, 3]),
        ([{"type": "MaxPool2D", "size": [5000, 5000], "padding": "same"}], [5000, 5000, 1]),
        ([{"type": "AveragePool2D", "size": 3000, "stride": 1, "padding": "valid"}], [4000, 4000, 1]),
        ([{"type": "ReLU"}], [10**6, 10**6, 3]),
        ([{"type": "Flatten"}, {"type": "Dropout", "rate": 0.5}], [2**20, 2**20, 2**20]),
    ],
)
def test_layers_without_weights_cannot_ask_for_memory_or_time(saved, tmp_path, layers, shape):
    path = resigned(saved, tmp_path, fully_convolutional(layers, shape))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            tn.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [30, 200])
@pytest.mark.parametrize("kind", ["Residual", "Chain"])
def test_nesting_however_deep_ends_in_a_sentence(saved, tmp_path, monkeypatch, depth, kind):
    layer: dict[str, Any] = {"type": "ReLU"}
    for _ in range(depth):
        layer = {"type": kind, ("body" if kind == "Residual" else "layers"): [layer]}
    # What tinynet writes is limited; a file from elsewhere need not be.
    monkeypatch.setattr(files.strict_json, "plain", lambda value, where, depth=0: value)
    path = resigned(saved, tmp_path, fully_convolutional([layer], [4, 4, 3]))
    with pytest.raises(ModelFileError, match="it is nested more than 32 deep"):
        tn.load(path)


# Nonsense anywhere.

NONSENSE = [
    -1, 0, 1, 3, 0.5, -0.5, 1e308, 2**63, True, False, None, "", "x", "relu", "same", [], {}, [[]], [0],
    [1, 2], [None], ["a"], [-1, -1], [2**40, 2**40], {"type": "ReLU"}, [{"type": "ReLU"}], {"name": "sgd"},
]  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value, as the keys that lead to it."""
    found = [path] if path else []
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        found += places(entry, (*path, key))
    return found


@given(st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nonsense_anywhere_is_refused_or_does_no_harm(saved, tmp_path, data):
    arrays, original = files.load_model_file(saved)
    description = copy.deepcopy(original)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(description)))
        target = description
        for key in place[:-1]:
            target = target[key]
        action = data.draw(st.sampled_from(["replace", "replace", "replace", "delete", "add"]))
        if action == "replace":
            target[place[-1]] = copy.deepcopy(data.draw(st.sampled_from(NONSENSE)))
        elif action == "delete":
            del target[place[-1]]
        elif isinstance(target, dict):
            target["unheard"] = copy.deepcopy(data.draw(st.sampled_from(NONSENSE)))
        else:
            target.append(copy.deepcopy(data.draw(st.sampled_from(NONSENSE))))
    path = tmp_path / "mutated.safetensors"
    files.save_model_file(path, arrays, description)
    tracemalloc.start()
    try:
        loaded = tn.load(path)
    except ModelFileError as problem:
        assert str(problem).startswith(str(path))
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000
    # What is taken is a whole model, which gives the stated answers and can be saved.
    if loaded.preprocessing is not None:
        assert np.isfinite(loaded.predict(images())).all()
    loaded.save(path)
    assert 0 <= loaded.threshold <= 1 and loaded.temperature > 0
