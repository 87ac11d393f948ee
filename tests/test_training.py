"""The training loop: it learns, the same way every time, and refuses beforehand what it cannot train."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tinynet as tn
from tinynet import kernels, training
from tinynet.data.augment import Augmentation
from tinynet.errors import ArgumentError, DataError, NonFiniteError, ShapeError


def cells(count: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise; where the label is 1 with a dark spot somewhere."""
    rng = np.random.default_rng(seed)
    x = rng.integers(120, 200, (count, 12, 12, 3)).astype(np.uint8)
    labels = np.arange(count) % 2
    for image in np.flatnonzero(labels):
        row, column = rng.integers(0, 8, 2)
        x[image, row : row + 4, column : column + 4] = 10
    return x, labels


def network(seed: int = 0, dropout: float = 0.2) -> tn.Sequential:
    return tn.Sequential(
        [
            tn.Conv2D(8, activation="relu"), tn.MaxPool2D(), tn.BatchNorm(), tn.Dropout(dropout),
            tn.Conv2D(8, activation="relu"), tn.MaxPool2D(), tn.Flatten(),
            tn.Dense(8, "relu"), tn.Dense(2, "softmax"),
        ],
        (12, 12, 3),
        seed=seed,
    )  # fmt: skip


def trained(**options) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    model = network().compile(tn.AdamW(tn.OneCycle(0.01, 20)), "sparse_categorical_crossentropy")
    x, labels = cells()
    settings = {"epochs": 3, "batch_size": 20, "augmentation": Augmentation(), "seed": 7, "verbose": 0}
    history = model.fit(x, labels, **{**settings, **options})
    return {name: array.copy() for name, array in model.state().items()}, history.history


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_classifier_learns_and_generalises(kernel_set):
    model = network(dropout=0.0).compile(tn.AdamW(0.01), "sparse_categorical_crossentropy")
    x, labels = cells(96)
    held = cells(40, seed=1)
    history = model.fit(x, labels, validation_data=held, epochs=12, batch_size=16, verbose=0)
    assert history.epochs == 12
    assert history.history["loss"][-1] < 0.3 * history.history["loss"][0]
    assert history.history["accuracy"][-1] > 0.9
    assert history.history["val_accuracy"][-1] > 0.85
    measured = model.evaluate(*held)
    assert measured["loss"] == history.history["val_loss"][-1]
    assert measured["accuracy"] == history.history["val_accuracy"][-1]


def test_an_autoencoder_learns_with_images_for_validation(kernel_set):
    model = tn.Sequential(
        [tn.Conv2D(6, activation="relu"), tn.MaxPool2D(), tn.UpSample2D(), tn.Conv2D(3)], (12, 12, 3)
    ).compile("rmsprop", "mse")
    x, _ = cells()
    history = model.fit(x, validation_data=x[:16], epochs=6, batch_size=16, verbose=0).history
    assert set(history) == {"loss", "val_loss", "learning_rate"}
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert model.evaluate(x[:16])["loss"] == history["val_loss"][-1]


def test_the_target_of_an_augmented_reconstruction_is_the_augmented_image(kernel_set):
    seen = []

    def black(images, seed, epoch, indices):
        seen.append(indices)
        return np.zeros_like(images)

    model = tn.Sequential([tn.Conv2D(3)], (12, 12, 3)).compile(tn.SGD(0.1), "mse")
    x, _ = cells(10)
    assert model.fit(x, epochs=2, batch_size=4, augmentation=black, verbose=0).history["loss"] == [0.0, 0.0]
    each_epoch = np.concatenate(seen).reshape(2, 10)  # in however many calls
    assert (np.sort(each_epoch) == np.arange(10)).all()


def test_a_squared_error_against_given_numbers_is_regression(kernel_set):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 5)).astype(np.float32)
    y = x @ np.array([1, -2, 0.5, 0, 3], np.float32) + 1
    for target in (y, y[:, None], y.astype(np.float64)):
        model = tn.Sequential([tn.Dense(1)], (5,)).compile(tn.SGD(0.1), "mse")
        model.fit(x, target, epochs=40, batch_size=16, verbose=0)
        assert model.evaluate(x, target)["loss"] < 1e-4


def test_a_target_may_be_given_as_flattened_images(kernel_set):
    model = tn.Sequential([tn.Conv2D(2), tn.Flatten()], (4, 4, 2)).compile(tn.SGD(0.1), "mse")
    x = np.random.default_rng(0).standard_normal((5, 4, 4, 2)).astype(np.float32)
    target = np.random.default_rng(1).standard_normal((5, 32)).astype(np.float32)
    by_hand = np.square(model.predict(x) - target).mean()
    assert model.evaluate(x, target)["loss"] == pytest.approx(by_hand, rel=1e-4)


def test_one_step_of_plain_gradient_descent_is_the_gradient_times_the_rate(kernel_set):
    x, labels = cells(12)
    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (12, 12, 3))
    model.compile(tn.SGD(0.5), "sparse_categorical_crossentropy")
    before = model.state()["dense1.weight"].copy()
    gradient = model.gradients(x, labels)["dense1.weight"]
    model.fit(x, labels, batch_size=12, verbose=0)
    np.testing.assert_allclose(model.state()["dense1.weight"], before - 0.5 * gradient, rtol=1e-4, atol=1e-6)


# Repeatable to the bit.


def test_the_same_seed_gives_bitwise_the_same_weights(kernel_set):
    one, history = trained()
    other, history_again = trained()
    assert same(one, other) and history == history_again
    changed, _ = trained(seed=8)
    assert not same(one, changed)


def test_preparing_ahead_does_not_change_a_bit(kernel_set, monkeypatch):
    ahead = trained()
    monkeypatch.setattr(training, "prepared_ahead", lambda items, prepare: map(prepare, items))
    one_by_one = trained()
    assert same(ahead[0], one_by_one[0]) and ahead[1] == one_by_one[1]


@pytest.mark.skipif(kernels.numba_problem() is not None, reason="only the Numba kernels have threads")
def test_the_number_of_threads_does_not_change_a_bit():

    before = tn.num_threads()
    x, labels = cells(300)
    results = []
    try:
        for threads in (1, 2, 3):
            tn.set_num_threads(threads)
            with kernels.using("numba"):
                model = tn.Sequential(
                    [
                        tn.Conv2D(16, activation="relu"), tn.BatchNorm(), tn.Dropout(0.1), tn.MaxPool2D(),
                        tn.Conv2D(16, activation="relu"), tn.GlobalAveragePool2D(), tn.Dense(2, "softmax"),
                    ],
                    (12, 12, 3),
                ).compile(tn.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")  # fmt: skip
                model.fit(x, labels, epochs=2, batch_size=150, augmentation=Augmentation(), verbose=0)
            results.append(model.state())
    finally:
        tn.set_num_threads(before)
    assert same(results[0], results[1]) and same(results[0], results[2])


def test_how_training_is_watched_does_not_change_it(capsys):
    quiet, _ = trained()
    loud, _ = trained(verbose=1, validation_data=cells(10))
    assert same(quiet, loud)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert "val_loss" in lines[0]


def test_every_image_is_seen_once_an_epoch_in_an_order_of_its_own():
    seen: dict[int, list[int]] = {}

    def watch(images, seed, epoch, indices):
        assert np.array_equal(images, x[indices])
        seen.setdefault(epoch, []).extend(indices.tolist())
        return images

    x, labels = cells(30)
    model = network().compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, labels, epochs=3, batch_size=7, augmentation=watch, verbose=0)
    assert [sorted(order) for order in seen.values()] == [list(range(30))] * 3
    assert seen[0] != seen[1] != seen[2] != list(range(30))


def test_two_calls_of_fit_continue_and_do_not_start_anew():
    model = network().compile(tn.SGD(0.01), "sparse_categorical_crossentropy")
    x, labels = cells()
    first = model.fit(x, labels, epochs=2, verbose=0)
    second = model.fit(x, labels, epochs=1, verbose=0)
    assert (first.epochs, second.epochs) == (2, 1)
    assert model.optimizer.iterations == 3


def test_running_statistics_move_with_every_epoch_and_are_saved(tmp_path):
    model = network().compile(tn.SGD(0.01), "sparse_categorical_crossentropy")
    x, labels = cells()
    seen = [model.state()["norm1.running_mean"].copy()]
    for _ in range(2):
        model.fit(x, labels, verbose=0)
        seen.append(model.state()["norm1.running_mean"].copy())
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], seen[2])
    model.save(tmp_path / "m.safetensors")
    assert np.array_equal(tn.load(tmp_path / "m.safetensors").state()["norm1.running_mean"], seen[2])


def test_a_plateau_lowers_the_rate_by_what_was_measured(kernel_set):
    x, labels = cells(16)
    schedule = tn.Plateau(0.5, factor=0.1, patience=1, min_delta=100.0)  # nothing improves by so much
    model = network().compile(tn.SGD(schedule), "sparse_categorical_crossentropy")
    history = model.fit(x, labels, validation_data=(x, labels), epochs=4, verbose=0).history
    assert history["learning_rate"] == pytest.approx([0.5, 0.5, 0.05, 0.005])


def test_a_schedule_is_followed_step_by_step():
    x, labels = cells(16)
    schedule = tn.ExponentialDecay(0.1, 0.5, every_steps=2)
    model = network().compile(tn.SGD(schedule), "sparse_categorical_crossentropy")
    history = model.fit(x, labels, epochs=3, batch_size=8, verbose=0).history
    assert history["learning_rate"] == pytest.approx([0.1, 0.05, 0.025])


# Refused before the first step.


def compiled() -> tn.Sequential:
    return network().compile("sgd", "sparse_categorical_crossentropy")


X, LABELS = cells(8)
REFUSED = [
    ({"epochs": 0}, ArgumentError, "fit: epochs must be a whole number of at least 1, got 0"),
    ({"epochs": -3}, ArgumentError, "epochs .* got -3"),
    ({"epochs": 1.5}, ArgumentError, "epochs"),
    ({"batch_size": 0}, ArgumentError, "fit: batch_size must be a whole number of at least 1, got 0"),
    ({"batch_size": True}, ArgumentError, "batch_size"),
    ({"seed": 0.5}, ArgumentError, "fit: seed .* got 0.5"),
    ({"seed": -1}, ArgumentError, "fit: seed .* got -1"),
    ({"callbacks": tn.TerminateOnNaN()}, ArgumentError, "callbacks must be a list"),
    ({"callbacks": [print]}, ArgumentError, "callbacks must be Callback objects"),
    ({"x": X[:0], "y": LABELS[:0]}, DataError, "fit: there are no images"),
    ({"x": X[:, :8]}, ShapeError, r"wants a batch \(n, 12, 12, 3\), got .* \(1, 8, 12, 3\)"),
    ({"x": X.astype(np.int32)}, ArgumentError, "got int32"),
    ({"x": [X[0], X[0][:3]]}, ArgumentError, "fit: x: .* different shapes"),
    ({"x": None}, ArgumentError, "fit: x: wanted an array"),
    ({"y": None}, ArgumentError, "loss 'sparse_categorical_crossentropy' needs labels y"),
    ({"y": LABELS[:7]}, ShapeError, "8 images and 7 labels"),
    ({"y": LABELS + 1}, ArgumentError, "labels run from 1 to 2, wanted 0 to 1"),
    ({"y": -LABELS}, ArgumentError, "labels run from -1 to 0"),
    ({"y": LABELS.astype(float)}, ArgumentError, "class labels must be integers, got float64"),
    ({"y": np.array(["a", "b"] * 4)}, ArgumentError, "must be numbers"),
    ({"y": np.full((8, 2), np.nan)}, ArgumentError, "sum to 1|NaN"),
    ({"y": np.zeros((8, 3), np.float32)}, ShapeError, r"labels \(1, 3\)"),
    ({"validation_data": (X, LABELS, LABELS)}, ArgumentError, r"validation_data must be .* got 3 things"),
    ({"validation_data": (X,)}, ArgumentError, "got 1 things"),
    ({"validation_data": X}, ArgumentError, "needs labels y"),
    ({"validation_data": (X[:0], LABELS[:0])}, DataError, "validation_data: there are no images"),
    ({"validation_data": (X, LABELS[:3])}, ShapeError, "validation_data: there are 8 images and 3 labels"),
    ({"validation_data": (X[:, :8], LABELS)}, ShapeError, "wants a batch"),
    ({"validation_data": (X, LABELS + 1)}, ArgumentError, "labels run from 1 to 2"),
    (
        {"x": X.astype(np.float32) / 255, "augmentation": Augmentation()},
        ArgumentError,
        "augmentation works on uint8 images, got float32",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_trained_is_refused_before_the_first_step(change, error, message):
    model = compiled()
    before = {name: array.copy() for name, array in model.state().items()}
    began = []

    class Watch(tn.Callback):
        def on_train_begin(self, training):
            began.append(True)

    options = {"x": X, "y": LABELS, "callbacks": [Watch()], "verbose": 0, "batch_size": 2, **change}
    with pytest.raises(error, match=message):
        model.fit(options.pop("x"), options.pop("y"), **options)
    assert same(model.state(), before) and not began and model.optimizer.iterations == 0


def test_a_wrong_label_at_the_very_end_is_found_too():
    x, labels = cells(10_000 // 100)
    labels[-1] = 2
    model = compiled()
    with pytest.raises(ArgumentError, match="labels run from 0 to 2"):
        model.fit(x, labels, batch_size=10, verbose=0)
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize("target", [X[:, :6], LABELS, X[:, :, :, :1].astype(np.float32)])
def test_a_target_of_another_shape_than_the_output_is_refused(target):
    model = tn.Sequential([tn.Conv2D(3)], (12, 12, 3)).compile("sgd", "mse")
    with pytest.raises(ShapeError, match=r"loss 'mse': the model gives \(12, 12, 3\), its target is"):
        model.fit(X, target, verbose=0)


def test_a_model_that_cannot_reconstruct_its_input_is_refused():
    model = tn.Sequential([tn.Conv2D(3), tn.MaxPool2D()], (12, 12, 3)).compile("sgd", "mse")
    with pytest.raises(ShapeError, match=r"gives \(6, 6, 3\), its target is \(12, 12, 3\)"):
        model.fit(X, verbose=0)


def test_augmenting_images_away_from_a_given_target_is_refused():
    model = tn.Sequential([tn.Conv2D(3)], (12, 12, 3)).compile("sgd", "mse")
    with pytest.raises(ArgumentError, match="augmentation would change x and not its target"):
        model.fit(X, X, augmentation=Augmentation(), verbose=0)


def test_validation_data_may_be_a_list_and_labels_too():
    history = compiled().fit(list(X), LABELS.tolist(), validation_data=[X, LABELS.tolist()], verbose=0)
    assert history.epochs == 1 and "val_accuracy" in history.history


# What is not finite.


def diverging(**options):
    model = tn.Sequential(
        [tn.Conv2D(4, name="first"), tn.Flatten(), tn.Dense(2, "softmax", name="last")], (12, 12, 3)
    ).compile(tn.SGD(1.0, check_finite=False), "sparse_categorical_crossentropy")
    return model, {"epochs": 3, "batch_size": 4, "verbose": 0, **options}


@pytest.fixture
def no_warnings():
    """One sentence is enough: NumPy must not add warnings of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_loss_that_is_not_finite_names_the_step_and_the_layer(kernel_set, no_warnings):
    model, options = diverging()
    model.layer("last").parameters["weight"].data[0, 0] = np.inf
    message = r"step 1: the loss is inf; the weights last\.weight are not finite"
    with pytest.raises(NonFiniteError, match=message):
        model.fit(X, LABELS, **options)


def test_the_first_layer_whose_result_overflows_is_named(kernel_set, no_warnings):
    model, options = diverging()
    for name in ("first", "last"):
        model.layer(name).parameters["weight"].data[...] = 3e38
    with pytest.raises(NonFiniteError, match=r"step 1: .* layer 'first' \(Conv2D\) is the first"):
        model.fit(X, LABELS, **options)


def test_the_step_is_counted_over_epochs(kernel_set, no_warnings):
    model, options = diverging()

    class Break(tn.Callback):
        def on_epoch_end(self, training, logs):
            training.model.layer("first").parameters["weight"].data[0, 0, 0, 0] = np.nan

    with pytest.raises(NonFiniteError, match=r"step 3: .*first\.weight"):
        model.fit(X, LABELS, **{**options, "callbacks": [Break()]})


def test_images_that_are_not_finite_are_named_as_the_cause(kernel_set, no_warnings):
    model, options = diverging()
    x = (X / 255).astype(np.float32)
    x[5, 3, 3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="the images themselves hold NaN"):
        model.fit(x, LABELS, **options)


def test_a_validation_loss_that_is_not_finite_names_the_layer(kernel_set, no_warnings):
    class Poison(tn.Callback):
        def on_epoch_begin(self, training):
            training.model.layer("norm").buffers["running_variance"][...] = np.nan

    _, options = diverging(validation_data=(X, LABELS), callbacks=[Poison()])
    model = tn.Sequential(
        [tn.BatchNorm(momentum=0.99, name="norm"), tn.Flatten(), tn.Dense(2, "softmax")], (12, 12, 3)
    ).compile("sgd", "sparse_categorical_crossentropy")
    message = r"epoch 1: the validation loss is nan; layer 'norm' \(BatchNorm\) is the first"
    with pytest.raises(NonFiniteError, match=message):
        model.fit(X, LABELS, **options)
