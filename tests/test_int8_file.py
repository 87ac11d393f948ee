"""int8 and float16 files: exactly what was saved, or one sentence; never a claim taken on trust."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import files
from tinynet.deploy.int8.file import contents
from tinynet.errors import ArgumentError, ModelFileError, TinynetError


def network() -> tn.Sequential:
    model = tn.Sequential(
        [
            tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.BatchNorm(), tn.Conv2D(4, 3),
            tn.Residual([tn.Conv2D(4, 3, activation="tanh")]),
            tn.Concatenate([[tn.AveragePool2D(3, stride=1, padding="same")], [tn.UpSample2D(1)]]),
            tn.Flatten(), tn.Dense(2, "softmax"),
        ],
        (8, 8, 3),
        class_names=("uninfected", "infected"),
        seed=3,
        name="small",
    )  # fmt: skip
    model.threshold, model.temperature = 0.375, 1.5
    model.provenance, model.metrics = {"seed": 7}, {"test": {"n": 12}}
    return model


def images(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    return network().quantize("int8", images())


@pytest.fixture
def altered(model, tmp_path):
    """Write the model's file with changed arrays and description, and a digest that holds; its path."""

    def write(change):
        arrays, description = contents(model)
        arrays, description = {name: a.copy() for name, a in arrays.items()}, copy.deepcopy(description)
        change(arrays, description)
        path = tmp_path / "altered.safetensors"
        files.save_model_file(path, arrays, description)
        return path

    return write


def operation(description, name):
    return next(entry for entry in description["architecture"]["operations"] if entry["name"] == name)


def test_every_kind_of_operation_is_in_this_model(model):
    from tinynet.deploy.int8.operations import KINDS

    assert {op.kind for op in model.program.operations} == set(KINDS)


def test_a_model_comes_back_exactly(model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path)
    loaded = tn.load(path)
    assert (loaded.number_format, loaded.name, loaded.threshold, loaded.temperature) == (
        "int8",
        "small",
        0.375,
        1.5,
    )
    assert loaded.class_names == ["uninfected", "infected"]
    assert loaded.preprocessing == model.preprocessing and loaded.ending() == "softmax"
    assert loaded.provenance["seed"] == 7 and loaded.provenance["calibration"] == {
        "images": 20,
        "method": "mse",
    }
    assert loaded.metrics == {"float32": {"test": {"n": 12}}}
    assert np.array_equal(loaded.integers(images()), model.integers(images()))
    assert np.array_equal(loaded.predict(images()), model.predict(images()))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert model.file_bytes() == path.stat().st_size
    assert f"file {path.stat().st_size:,} bytes" in loaded.summary(print_fn=None)


def test_it_predicts_as_a_float_model_does(model):
    probabilities = model.predict(images())
    assert probabilities.dtype == np.float32 and probabilities.shape == (20, 2)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(model.predict(images(), batch_size=3), probabilities)
    pictures = [np.full((30, 40, 3), level, np.uint8) for level in (10, 200)]
    prepared = np.stack([model.preprocessing.prepare(picture) for picture in pictures])
    assert np.array_equal(model.predict(pictures), model.predict(prepared))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), "wants uint8 pictures"),
        (np.zeros((1, 8, 9, 3), np.uint8), "wants a batch"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no images"),
    ],
)
def test_other_images_are_refused(model, x, message):
    with pytest.raises(TinynetError, match=message):
        model.predict(x)


def test_the_format_is_refused_by_name_where_it_is_unknown(altered):
    with pytest.raises(ModelFileError, match="its number format is 'int3'; made by a newer tinynet"):
        tn.load(altered(lambda arrays, description: description.update(number_format="int3")))


def test_another_answer_to_the_self_test_by_one_is_refused(altered):
    def off_by_one(arrays, description):
        description["self_test"]["outputs"][0] += 1

    with pytest.raises(ModelFileError, match="must give its integers exactly"):
        tn.load(altered(off_by_one))


def test_a_weight_off_by_one_is_found_by_the_self_test(altered):
    def off_by_one(arrays, description):
        weight = arrays["conv1.weight"].reshape(-1)
        weight[0] += 1 if weight[0] < 127 else -1

    with pytest.raises(ModelFileError, match="self-test"):
        tn.load(altered(off_by_one))


def set_array(name, value):
    def change(arrays, description):
        arrays[name] = value(arrays[name])

    return change


def set_entry(name, key, value):
    def change(arrays, description):
        operation(description, name)[key] = value

    return change


def set_architecture(key, value):
    return lambda arrays, description: description["architecture"].update({key: value})


def set_description(key, value):
    return lambda arrays, description: description.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_array("conv1.weight", lambda a: a.astype(np.int16)), "weight has dtype int16"),
        (set_array("conv1.weight", lambda a: np.full_like(a, -128)), "a weight is -128"),
        (set_array("conv1.weight", lambda a: a[..., :1].copy()), "weight has shape"),
        (set_array("conv1.bias", lambda a: np.full_like(a, 2**31 - 1)), "could overflow 32 bits"),
        (set_array("conv1.bias", lambda a: a.astype(np.float32)), "bias has dtype float32"),
        (set_array("conv1.multiplier", lambda a: -a), "a multiplier is .* below 0"),
        (set_array("conv1.multiplier", lambda a: a[:1].copy()), "multiplier has shape"),
        (set_array("conv1.multiplier", lambda a: a.astype(np.int64)), "multiplier has dtype int64"),
        (set_array("conv1.shift", lambda a: np.zeros_like(a)), "a shift is not from 1 to 62"),
        (set_array("conv1.shift", lambda a: np.full_like(a, 63)), "a shift is not from 1 to 62"),
        (set_array("conv1.shift", lambda a: a.astype(np.int8)), "shift has dtype int8"),
        (set_entry("conv1", "zero", 128), "zero is 128"),
        (set_entry("conv1", "zero", -128.0), "zero is -128.0"),
        (set_entry("conv1", "low", 127), "low 127 is above high|self-test"),
        (set_entry("conv1", "scale", 0), "the scale is 0"),
        (set_entry("conv1", "scale", "wide"), "the scale is 'wide'"),
        (set_entry("conv1", "groups", 2), "3 channels, 4 filters in 2 groups"),
        (set_entry("conv1", "groups", "1"), "groups is '1'"),
        (set_entry("conv1", "groups", 2**70 % 2**63), "groups is|self-test"),
        (set_entry("conv1", "stride", [0, 1]), "0 is not a whole number of at least 1"),
        (set_entry("conv1", "stride", [True, 1]), "True is not a whole number"),
        (set_entry("conv1", "size", [3, 3, 3]), "wanted two whole numbers"),
        (set_entry("conv1", "size", [2**40, 3]), "is not a whole number"),
        (set_entry("conv1", "padding", [[2**23, 0], [0, 2**23]]), "is too large"),
        (set_entry("conv1", "padding", [[2000, 0], [0, 2000]]), "values and .* operations for one image"),
        (set_entry("conv1", "padding", 1), "padding is 1"),
        (set_entry("conv1", "padding", [[-1, 0], [0, 0]]), "-1 is not a whole number of at least 0"),
        (set_entry("conv1", "inputs", [1]), "reads value 1, which is not there yet"),
        (set_entry("conv1", "inputs", [0, 0]), "wanted one input"),
        (set_entry("conv1", "inputs", 0), "the inputs 0"),
        (set_entry("conv1", "name", "pool1"), "is missing"),
        (set_entry("conv1", "name", 5), "has the name 5"),
        (set_entry("conv1", "surprise", 5), "unknown entry 'surprise'"),
        (set_entry("conv1", "kind", "eval"), "unknown kind of operation 'eval'"),
        (set_entry("conv1", "kind", ["dense"]), "not an object with a kind"),
        (set_entry("residual1", "inputs", [1]), "two or more inputs"),
        (lambda arrays, description: operation(description, "conv1").pop("low"), "it has no 'low'"),
        (lambda arrays, description: operation(description, "conv1").pop("stride"), "it has no 'stride'"),
        (lambda arrays, description: arrays.pop("conv1.weight"), "conv1.weight' is missing"),
        (lambda arrays, description: arrays.pop("conv1.shift"), "conv1.shift' is missing"),
        (lambda arrays, description: arrays.update(more=np.zeros(3)), "'more' belongs to no operation"),
        (set_architecture("operations", []), "no operations"),
        (set_architecture("operations", {}), "not a list"),
        (set_architecture("operations", [3]), "an operation is 3"),
        (set_architecture("activation", "exec"), "its activation is 'exec'"),
        (set_architecture("name", 3), "its name is not text"),
        (set_architecture("input", {"shape": [8, 8, 3], "scale": 1.0}), "missing or unknown entries: zero"),
        (set_architecture("input", {"shape": [8, 8], "scale": 1.0, "zero": -128}), "input's shape"),
        (set_architecture("input", {"shape": [0, 8, 3], "scale": 1.0, "zero": -128}), "input's shape"),
        (set_architecture("input", {"shape": [8, 8, 3], "scale": 1.0, "zero": 0}), "zero point of pictures"),
        (set_architecture("input", {"shape": [16, 8, 3], "scale": 1.0, "zero": -128}), "wanted|makes images"),
        (set_architecture("more", 1), "missing or unknown entries: more"),
        (set_description("architecture", []), "architecture is not an object"),
        (set_description("class_names", ["a"]), "class_names has 1 names, the model 2 classes"),
        (set_description("threshold", 2), "threshold must be"),
        (set_description("temperature", 0), "temperature must be"),
        (set_description("provenance", []), "provenance is not an object"),
        (set_description("metrics", None), "metrics is not an object"),
        (set_description("self_test", {}), "has no self-test"),
        (set_description("self_test", {"seed": -1, "outputs": [1]}), "seed is -1"),
        (set_description("self_test", {"seed": 1, "outputs": []}), "self-test"),
        (set_description("self_test", {"seed": 1, "outputs": [0.5, 1.0]}), "self-test"),
        (lambda arrays, description: description.pop("self_test"), "it has no 'self_test'"),
    ],
)  # fmt: skip
def test_hostile_values_are_refused_in_one_sentence(altered, change, message):
    path = altered(change)
    with pytest.raises(ModelFileError, match=message) as refused:
        tn.load(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_sums_where_a_multiplier_is_needed_are_refused(altered):
    def change(arrays, description):
        entry = operation(description, "residual1")
        for name in ("zero", "low", "high"):
            del entry[name]
        del arrays["residual1.multiplier"], arrays["residual1.shift"]

    with pytest.raises(ModelFileError, match="has no multipliers"):
        tn.load(altered(change))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_anywhere_in_the_description_loads_or_is_refused_by_name(model, tmp_path, data):
    arrays, description = contents(model)
    description = json.loads(json.dumps(description))
    place, key = description, data.draw(st.sampled_from(["architecture", *sorted(description)]))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 4)):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JSON)
    path = tmp_path / "any.safetensors"
    try:
        files.save_model_file(path, arrays, description)
    except ArgumentError:
        return  # no JSON form
    try:
        loaded = tn.load(path)
    except ModelFileError as problem:
        assert str(path) in str(problem)
    else:
        if loaded.preprocessing is not None:
            loaded.predict(images(1))


@given(st.integers(0, 10**9), st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_flipped_byte_is_found(model, tmp_path, place, change):
    path = tmp_path / "m.safetensors"
    model.save(path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        tn.load(path)


def test_another_program_opens_the_file(model, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model.save(tmp_path / "m.safetensors")
    found = safetensors.load_file(tmp_path / "m.safetensors")
    for name, array in contents(model)[0].items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def test_a_float_file_loads_and_predicts_without_the_int8_code(tmp_path):
    network().save(tmp_path / "m.safetensors")
    program = (
        "import sys, numpy, tinynet\n"
        "model = tinynet.load(sys.argv[1])\n"
        "model.predict(numpy.zeros((1, 8, 8, 3), numpy.uint8))\n"
        "print([name for name in sys.modules if name.startswith('tinynet.deploy')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m.safetensors")],
        capture_output=True, text=True, check=True, env={**os.environ, "TINYNET_KERNELS": "numpy"},
    )  # fmt: skip
    assert result.stdout.strip() == "[]"


# float16.


def test_float16_halves_the_weights_and_they_are_widened_on_loading(tmp_path):
    model = network()
    half = model.quantize("float16")
    half.save(tmp_path / "half.safetensors")
    arrays, description = files.load_model_file(tmp_path / "half.safetensors")
    assert description["number_format"] == "float16"
    for name, array in arrays.items():
        assert array.dtype == (np.float16 if array.ndim > 1 else np.float32), name
    loaded = tn.load(tmp_path / "half.safetensors")
    for name, array in loaded.state().items():
        assert array.dtype == np.float32
        wanted = model.state()[name]
        assert np.array_equal(array, wanted.astype(np.float16) if wanted.ndim > 1 else wanted)
    assert np.array_equal(loaded.predict(images()), half.predict(images()))
    assert np.abs(loaded.predict(images()) - model.predict(images())).max() < 2e-3


@given(st.floats(-65504, 65504, width=32))
def test_a_weight_in_float16_is_off_by_2_to_the_minus_11_of_itself(value):
    model = tn.Sequential([tn.Dense(1)], (2,))
    model.state()["dense1.weight"][0, 0] = value
    kept = model.quantize("float16").state()["dense1.weight"][0, 0]
    assert abs(kept - value) <= max(abs(value) * 2.0**-11, 2.0**-25)
    assert model.state()["dense1.weight"][0, 0] == np.float32(value)  # the model itself is left as it was


def test_a_float16_model_is_saved_as_such_until_it_is_trained(tmp_path):
    half = network().quantize("float16")
    half.save(tmp_path / "half.safetensors")
    loaded = tn.load(tmp_path / "half.safetensors")
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "half.safetensors").read_bytes()
    assert f"file {(tmp_path / 'half.safetensors').stat().st_size:,} bytes" in loaded.summary(print_fn=None)
    loaded.compile("sgd", "sparse_categorical_crossentropy")
    loaded.fit(images(4), np.array([0, 1, 0, 1]), verbose=0)
    loaded.save(tmp_path / "trained.safetensors")
    arrays, description = files.load_model_file(tmp_path / "trained.safetensors")
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    assert "number_format" not in description
    assert np.array_equal(
        tn.load(tmp_path / "trained.safetensors").predict(images()), loaded.predict(images())
    )


def test_a_weight_beyond_float16_is_refused_by_name():
    model = network()
    model.state()["conv2.weight"][0, 0, 0, 0] = 1e6
    with pytest.raises(ArgumentError, match=r"conv2\.weight has values beyond float16's largest"):
        model.quantize("float16")


def test_float16_of_a_model_without_weights_or_of_int8_is_refused(model):
    from tinynet.deploy import float16

    for wrong in (tn.Sequential([tn.Flatten()]), model):
        with pytest.raises(ArgumentError, match="only a float model that has weights"):
            float16.convert(wrong)
