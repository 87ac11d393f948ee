"""What a user holds: building, predicting, looking inside, freezing, and one sentence for each mistake."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet import kernels
from tinynet.errors import ArgumentError, DataError, ShapeError
from tinynet.losses import LOSSES, loss_from_config


def classifier(**options) -> tn.Sequential:
    return tn.Sequential(
        [
            tn.Conv2D(4, activation="relu"), tn.BatchNorm(), tn.MaxPool2D(), tn.Dropout(0.3),
            tn.Flatten(), tn.Dense(3, "softmax"),
        ],
        (8, 6, 3),
        **options,
    )  # fmt: skip


def pictures(count: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 6, 3)).astype(np.uint8)


# Building.


def test_a_model_without_input_shape_is_built_by_the_first_batch():
    model = tn.Sequential([tn.Conv2D(4), tn.GlobalAveragePool2D()])
    assert model.input_shape is None and model.parameters() == {}
    assert model.predict(pictures()).shape == (20, 4)
    assert model.input_shape == (8, 6, 3)


def test_weights_are_a_function_of_the_seed():
    one, same, other = classifier(seed=1), classifier(seed=1), classifier(seed=2)
    for name, array in one.state().items():
        assert np.array_equal(array, same.state()[name])
    assert not np.array_equal(one.state()["conv1.weight"], other.state()["conv1.weight"])


@pytest.mark.parametrize(
    "shape", [(8, 6), 8, None, "8x8", (8, 6, 3, 1), (8, 0, 3), (8, -1, 3), (8.0, 6, 3), (True, 6, 3)]
)
def test_a_senseless_input_shape_is_refused(shape):
    with pytest.raises(ArgumentError, match="input_shape"):
        tn.Sequential([tn.ReLU()]).build(shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": 0.5}, "seed"),
        ({"class_names": "abc"}, "class_names must be a list of names, got 'abc'"),
        ({"class_names": [1, 2, 3]}, "class_names must be a list of names"),
        ({"class_names": ["a", "b"]}, "class_names has 2 names, the model 3 classes"),
        ({"class_names": ["a", "b", "a"]}, "class_names has a name twice"),
        ({"preprocessing": tn.Preprocessing(6, 8)}, r"makes images \(6, 8, 3\), the model takes \(8, 6, 3\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        classifier(**options)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", True, None])
def test_threshold_is_a_probability(value):
    with pytest.raises(ArgumentError, match="threshold must be a number from 0 to 1, got"):
        classifier().threshold = value


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "1", True])
def test_temperature_is_above_zero(value):
    with pytest.raises(ArgumentError, match=r"temperature must be a number from 0\.001 to 1000, got"):
        classifier().temperature = value


def test_a_layer_is_found_by_name_and_an_unknown_one_named():
    model = classifier()
    assert model.layer("norm1") is model.layers[1]
    with pytest.raises(ArgumentError, match=r"no layer is called 'conv9'; there are conv1, norm1, pool1"):
        model.layer("conv9")


# Predicting.


def test_predict_gives_probabilities_for_any_batch_size(kernel_set):
    model, x = classifier(), pictures(37)
    whole = model.predict(x)
    assert whole.shape == (37, 3) and whole.dtype == np.float32
    np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-5)
    for size in (1, 5, 16, 36, 1000):
        np.testing.assert_allclose(model.predict(x, batch_size=size), whole, rtol=1e-4, atol=1e-6)


def test_bytes_and_scaled_floats_are_the_same_images(kernel_set):
    model, x = classifier(), pictures()
    scaled = (x / 255).astype(np.float32)
    np.testing.assert_allclose(model.predict(scaled), model.predict(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.predict(scaled.astype(np.float64)), model.predict(scaled), rtol=1e-6)


def test_the_models_own_preprocessing_applies_to_bytes(kernel_set):
    prepared = tn.Preprocessing(8, 6, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4))
    model, x = classifier(preprocessing=prepared), pictures()
    np.testing.assert_allclose(model.predict(prepared.normalise(x)), model.predict(x), rtol=1e-4, atol=1e-6)


def test_a_list_of_pictures_of_any_size_is_resized(kernel_set):
    rng = np.random.default_rng(0)
    model = classifier()
    sizes = [(8, 6), (1, 1), (30, 21), (7, 50)]
    found = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    expected = model.predict(np.stack([model.preprocessing.prepare(picture) for picture in found]))
    assert np.array_equal(model.predict(found), expected)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), ShapeError, r"batch \(n, 8, 6, 3\), got .* \(2, 8, 8, 3\)"),
        (np.zeros((8, 6, 3), np.uint8), ShapeError, r"wants a batch \(n, 8, 6, 3\), got .* \(8, 6, 3\)"),
        (np.zeros((2, 8, 6, 1), np.uint8), ShapeError, r"wants a batch"),
        (np.zeros((2, 8, 6, 3), np.int64), ArgumentError, "wants uint8 images or float32 .* got int64"),
        (np.zeros((2, 8, 6, 3), bool), ArgumentError, "got bool"),
        (np.zeros((2, 8, 6, 3), complex), ArgumentError, "got complex128"),
        (np.zeros((0, 8, 6, 3), np.uint8), DataError, "no images"),
        ([], DataError, "no images"),
        ([np.zeros((8, 6, 4), np.uint8)], ArgumentError, r"uint8 array .*, got uint8 \(8, 6, 4\)"),
        ([np.zeros((8, 6, 3)), np.zeros((8, 7, 3))], ArgumentError, "different shapes"),
        (None, ArgumentError, "wanted an array"),
        ("cell.png", ArgumentError, "wanted an array .* got 'cell.png'"),
    ],
)  # fmt: skip
def test_predict_names_what_it_cannot_take(x, error, message):
    with pytest.raises(error, match=message):
        classifier().predict(x)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None, "8"])
def test_a_senseless_batch_size_is_refused(size):
    model = classifier().compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ArgumentError, match="batch_size must be a whole number of at least 1, got"):
        model.predict(pictures(), batch_size=size)
    with pytest.raises(ArgumentError, match="batch_size"):
        model.evaluate(pictures(), np.zeros(20, int), batch_size=size)


def test_bytes_are_refused_where_nothing_says_how_to_scale_them():
    model = tn.Sequential([tn.Flatten(), tn.Dense(2)], (8, 6, 1))
    with pytest.raises(ArgumentError, match="no preprocessing for uint8"):
        model.predict(np.zeros((2, 8, 6, 1), np.uint8))
    with pytest.raises(ArgumentError, match="no preprocessing for a list"):
        model.predict([np.zeros((8, 6, 3), np.uint8)])


def test_predict_neither_records_nor_changes_anything(kernel_set):
    model, x = classifier(), pictures()
    before = {name: array.copy() for name, array in model.state().items()}
    model.predict(x)
    assert all(np.array_equal(array, before[name]) for name, array in model.state().items())
    assert all(parameter.grad is None for parameter in model.parameters().values())
    with tn.no_grad():
        assert model(x).creator is None
    assert model(x).creator is not None  # what predict must not build


def test_eight_threads_predict_what_one_does(kernel_set):
    model = classifier()
    batches = [pictures(70, seed) for seed in range(8)]
    expected = [model.predict(batch) for batch in batches]
    found: list = [None] * 8
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        with kernels.using(kernel_set.NAME):  # a choice of kernels belongs to a thread
            for _ in range(5):
                found[number] = model.predict(batches[number], batch_size=32)

    alone = [model.predict(batch, batch_size=32) for batch in batches]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, same, near in zip(found, alone, expected, strict=True):
        assert np.array_equal(got, same)
        np.testing.assert_allclose(got, near, rtol=1e-4, atol=1e-6)


def test_predicting_during_training_in_another_thread_disturbs_neither(kernel_set):
    def trained(disturbed: bool) -> tuple[dict, list]:
        model = classifier().compile(tn.SGD(0.01), "sparse_categorical_crossentropy")
        other, answers, stop = classifier(seed=5), [], threading.Event()

        def predict() -> None:
            while not stop.is_set():
                answers.append(other.predict(pictures(3)))
                time.sleep(0.001)

        thread = threading.Thread(target=predict)
        if disturbed:
            thread.start()
        model.fit(pictures(40), np.arange(40) % 3, epochs=3, batch_size=8, verbose=0)
        stop.set()
        if disturbed:
            thread.join()
        return model.state(), answers

    alone, _ = trained(False)
    beside, answers = trained(True)
    assert all(np.array_equal(array, beside[name]) for name, array in alone.items())
    assert answers and all(np.array_equal(answer, answers[0]) for answer in answers)


@given(st.floats(0.05, 20))
def test_temperature_divides_the_logits(temperature):
    model, x = classifier(), pictures(4)
    logits = model.logits(x).astype(np.float64)
    model.temperature = temperature
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    np.testing.assert_allclose(
        model.predict(x), powers / powers.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )


def test_softmax_as_a_layer_of_its_own_is_the_same_model(kernel_set):
    inside = tn.Sequential([tn.Flatten(), tn.Dense(3, "softmax")], (8, 6, 3))
    outside = tn.Sequential([tn.Flatten(), tn.Dense(3), tn.Softmax()], (8, 6, 3))
    outside.load_state(inside.state())
    inside.temperature = outside.temperature = 2.5
    x = pictures()
    assert np.array_equal(inside.predict(x), outside.predict(x))
    assert np.array_equal(inside.logits(x), outside.logits(x))
    for model in (inside, outside):
        model.compile(tn.SGD(0.1), "sparse_categorical_crossentropy")
        model.fit(x, np.arange(20) % 3, verbose=0)
    assert np.array_equal(inside.state()["dense1.weight"], outside.state()["dense1.weight"])


def test_a_binary_model_ends_in_one_sigmoid(kernel_set):
    x, labels = pictures(32), np.arange(32) % 2
    x[labels == 1] //= 4
    model = tn.Sequential([tn.Flatten(), tn.Dense(1, "sigmoid")], (8, 6, 3), class_names=["bright", "dark"])
    model.compile(tn.AdamW(0.01), "binary_crossentropy")
    history = model.fit(x, labels, validation_data=(x, labels), epochs=25, batch_size=8, verbose=0).history
    assert history["val_accuracy"][-1] == 1.0
    probability = model.predict(x)
    assert probability.shape == (32, 1)
    assert ((probability[:, 0] >= 0.5) == labels).all()
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-model.logits(x).astype(float))), rtol=1e-4)
    by_hand = -np.log(np.where(labels == 1, probability[:, 0], 1 - probability[:, 0])).mean()
    assert model.evaluate(x, labels)["loss"] == pytest.approx(by_hand, rel=1e-3)


# Looking inside.


def test_activations_are_ordinary_arrays_by_name(kernel_set):
    model, x = classifier(), pictures(5)
    found = model.activations(x)
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {
        "input": (5, 8, 6, 3), "conv1": (5, 8, 6, 4), "norm1": (5, 8, 6, 4), "pool1": (5, 4, 3, 4),
        "dropout1": (5, 4, 3, 4), "flatten1": (5, 48), "dense1": (5, 3),
    }  # fmt: skip
    np.testing.assert_allclose(found["input"], x / 255, rtol=1e-5)
    np.testing.assert_allclose(found["dense1"], model.predict(x), rtol=1e-5)
    pooled = found["norm1"].reshape(5, 4, 2, 3, 2, 4).max(axis=(2, 4))
    assert np.array_equal(found["pool1"], pooled)
    assert np.array_equal(found["flatten1"], found["pool1"].reshape(5, -1))


def test_activations_and_gradients_name_what_is_inside_blocks(kernel_set):
    model = tn.Sequential(
        [tn.Residual([tn.Conv2D(3)]), tn.GlobalAveragePool2D(), tn.Dense(2), tn.Softmax()], (8, 6, 3)
    ).compile(loss="sparse_categorical_crossentropy")
    x = pictures(4)
    found = model.activations(x)
    both = found["residual1/branch1/conv1"] + found["residual1/branch2"]
    np.testing.assert_allclose(found["residual1"], both, rtol=1e-5)
    gradients = model.gradients(x, np.arange(4) % 2)
    assert set(gradients) == set(found) | set(model.parameters())
    for name, array in found.items():
        assert gradients[name].shape == array.shape


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_finite_differences(kernel_set, seed):
    model = tn.Sequential(
        [tn.Conv2D(4, activation="tanh"), tn.BatchNorm(), tn.Flatten(), tn.Dense(3, "softmax")],
        (8, 6, 3),
        seed=seed,
    )
    model.compile(loss="sparse_categorical_crossentropy")
    x = np.random.default_rng(seed).random((6, 8, 6, 3)).astype(np.float32)
    labels = np.arange(6) % 3
    gradients = model.gradients(x, labels)
    rng = np.random.default_rng(seed)
    for name in ("conv1.weight", "dense1.weight", "norm1.scale", "dense1.bias"):
        data = model.parameters()[name].data
        place = np.unravel_index(rng.integers(data.size), data.shape)
        kept, step = float(data[place]), 1e-2
        losses = []
        for value in (kept + step, kept - step):
            data[place] = value
            losses.append(model.evaluate(x, labels)["loss"])
        data[place] = kept
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(
            gradients[name][place], rel=0.03, abs=2e-4
        )
    place = (2, 3, 4, 1)
    losses = []
    for step in (1e-2, -1e-2):
        moved = x.copy()
        moved[place] += step
        losses.append(model.evaluate(moved, labels)["loss"])
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(gradients["input"][place], rel=0.03, abs=2e-4)


def test_gradients_leave_the_parameters_own_alone(kernel_set):
    model = classifier().compile(loss="sparse_categorical_crossentropy")
    kept = np.full((4,), 7, np.float32)
    model.parameters()["conv1.bias"].grad = kept
    found = model.gradients(pictures(4), np.arange(4) % 3)
    assert model.parameters()["conv1.bias"].grad is kept
    assert model.parameters()["conv1.weight"].grad is None
    assert not np.array_equal(found["conv1.bias"], kept)
    model.freeze("conv1")
    assert "conv1.weight" not in model.gradients(pictures(4), np.arange(4) % 3)


# Freezing.


def step(model: tn.Sequential) -> dict[str, np.ndarray]:
    model.compile(tn.SGD(0.1, momentum=0.9, weight_decay=0.01), "sparse_categorical_crossentropy")
    model.fit(pictures(), np.arange(20) % 3, epochs=2, batch_size=8, verbose=0)
    return {name: array.copy() for name, array in model.state().items()}


def test_frozen_layers_stay_as_they_are_to_the_bit(kernel_set):
    model = classifier()
    before = {name: array.copy() for name, array in model.state().items()}
    model.freeze("conv1", "norm1")
    after = step(model)
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    assert kept == {
        "conv1.weight", "conv1.bias", "norm1.scale", "norm1.shift",
        "norm1.running_mean", "norm1.running_variance",
    }  # fmt: skip
    model.unfreeze()
    again = step(model)
    assert not any(np.array_equal(after[name], again[name]) for name in after)


def test_freezing_before_the_weights_exist_holds():
    model = tn.Sequential([tn.Conv2D(4), tn.BatchNorm(), tn.Flatten(), tn.Dense(3, "softmax")])
    model.freeze("conv1", "norm1")
    after = step(model)
    fresh = tn.Sequential(
        [tn.Conv2D(4), tn.BatchNorm(), tn.Flatten(), tn.Dense(3, "softmax")], (8, 6, 3)
    ).state()
    assert np.array_equal(after["conv1.weight"], fresh["conv1.weight"])
    assert np.array_equal(after["norm1.running_mean"], fresh["norm1.running_mean"])
    assert not np.array_equal(after["dense1.weight"], fresh["dense1.weight"])


def test_trainable_may_be_set_on_a_layer_as_in_keras():
    model = classifier()
    model.layer("conv1").trainable = False
    before = model.state()["conv1.weight"].copy()
    assert np.array_equal(step(model)["conv1.weight"], before)


def test_a_block_is_frozen_with_all_that_is_in_it():
    def make() -> tn.Sequential:
        body = [tn.Conv2D(3), tn.Residual([tn.Conv2D(3), tn.BatchNorm()])]
        return tn.Sequential([tn.Residual(body), tn.Flatten(), tn.Dense(3, "softmax")], (8, 6, 3))

    model, fresh = make(), make().state()
    model.freeze("residual1")
    changed = {name for name, array in step(model).items() if not np.array_equal(array, fresh[name])}
    assert changed == {"dense1.weight", "dense1.bias"}
    model = make()
    model.freeze("residual1/branch1/residual1")
    changed = {name for name, array in step(model).items() if not np.array_equal(array, fresh[name])}
    assert changed == {
        "dense1.weight", "dense1.bias", "residual1/branch1/conv1.weight", "residual1/branch1/conv1.bias",
    }  # fmt: skip


def test_a_model_with_nothing_to_train_says_so():
    model = classifier().compile(loss="sparse_categorical_crossentropy")
    model.freeze()
    with pytest.raises(ArgumentError, match="no weights to train, or all are frozen"):
        model.fit(pictures(), np.zeros(20, int), verbose=0)


# Compiling, evaluating, taking weights.


def test_compile_refuses_what_it_does_not_know():
    model = classifier()
    with pytest.raises(ArgumentError, match=r"loss must be one of mse, .* got 'huber'"):
        model.compile(loss="huber")
    with pytest.raises(ArgumentError, match="loss must be one of"):
        model.compile(loss=["mse"])
    with pytest.raises(ArgumentError, match="optimizer is 'adam', wanted"):
        model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ArgumentError, match=r"'binary_crossentropy' wants .* sigmoid, .* softmax"):
        model.compile(loss="binary_crossentropy")
    headless = tn.Sequential([tn.Flatten(), tn.Dense(2)], (8, 6, 3))
    with pytest.raises(ArgumentError, match="ends in softmax, this one ends in no activation"):
        headless.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ArgumentError, match=r"call compile\(\) first"):
        headless.fit(pictures(), np.zeros(20, int))


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_comes_back_from_its_configuration(name):
    assert loss_from_config(LOSSES[name].config()) == LOSSES[name]
    smooth = tn.sparse_categorical_crossentropy(smoothing=0.1)
    assert loss_from_config(smooth.config()) == smooth


@pytest.mark.parametrize(
    "config",
    [
        None, 3, [], {}, {"name": "mse", "smoothing": 0.1}, {"name": "sparse_categorical_crossentropy"},
        {"name": "sparse_categorical_crossentropy", "smoothing": 1},
        {"name": "sparse_categorical_crossentropy", "smoothing": "0"},
    ],
)  # fmt: skip
def test_a_configuration_of_no_loss_is_refused(config):
    with pytest.raises(ArgumentError):
        loss_from_config(config)


def test_evaluate_is_the_mean_over_images_whatever_the_batches(kernel_set):
    model = classifier().compile(loss="sparse_categorical_crossentropy")
    x, labels = pictures(23), np.arange(23) % 3
    probability = model.predict(x).astype(np.float64)
    loss = -np.log(probability[np.arange(23), labels]).mean()
    accuracy = (probability.argmax(axis=1) == labels).mean()
    for size in (1, 7, 23, 100):
        found = model.evaluate(x, labels, batch_size=size)
        assert found["loss"] == pytest.approx(loss, rel=1e-4)
        assert found["accuracy"] == accuracy
    one_hot = np.eye(3, dtype=np.float32)[labels]
    model.compile(loss="categorical_crossentropy")
    assert model.evaluate(x, one_hot) == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-4)


def test_evaluate_of_a_reconstruction_compares_with_the_images_themselves(kernel_set):
    model = tn.Sequential([tn.Conv2D(3)], (8, 6, 3)).compile(loss="mse")
    x = pictures(9)
    by_hand = np.square(model.predict(x) - x / 255).mean()
    assert model.evaluate(x) == {"loss": pytest.approx(by_hand, rel=1e-4)}
    assert model.evaluate(x, x)["loss"] == pytest.approx(by_hand, rel=1e-4)
    scaled = (x / 255).astype(np.float32)
    assert model.evaluate(scaled, scaled)["loss"] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("count", [19, 21])
def test_evaluate_wants_a_label_for_each_image(count):
    model = classifier().compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ShapeError, match=f"20 images and {count} labels"):
        model.evaluate(pictures(), np.zeros(count, int), batch_size=8)
    with pytest.raises(ArgumentError, match="needs labels y"):
        model.evaluate(pictures())
    with pytest.raises(DataError, match="no images"):
        model.evaluate(pictures(0), np.zeros(0, int))


def test_weights_are_taken_only_if_every_one_fits():
    model = classifier()
    before = {name: array.copy() for name, array in model.state().items()}
    good = {name: array + 1 for name, array in before.items()}
    for change, message in (
        (lambda a: a.pop("conv1.bias"), "conv1.bias is missing"),
        (lambda a: a.update({"conv9.bias": np.zeros(1)}), "the model has no conv9.bias"),
        (
            lambda a: a.update({"dense1.bias": np.zeros(4)}),
            r"dense1.bias has shape \(4,\), the model wants \(3,\)",
        ),
        (lambda a: a.update({"norm1.shift": np.zeros(4, int)}), "norm1.shift has dtype int64"),
    ):
        arrays = dict(good)
        change(arrays)
        with pytest.raises(ShapeError, match=message):
            model.load_state(arrays)
    assert all(np.array_equal(array, before[name]) for name, array in model.state().items())
    model.load_state(good)
    assert np.array_equal(model.state()["norm1.running_mean"], before["norm1.running_mean"] + 1)
    good["conv1.weight"][...] = 0  # the model has its own copy
    assert model.state()["conv1.weight"].any()
