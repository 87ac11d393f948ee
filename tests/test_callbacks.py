"""Callbacks: stop, restore the best, checkpoint, log, resume to the bit, forget an earlier training."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import tinynet as tn
from tinynet import files
from tinynet.callbacks import Best, Training
from tinynet.data.augment import Augmentation
from tinynet.errors import ArgumentError, FileAccessError, ModelFileError, NonFiniteError

RNG = np.random.default_rng(0)
X, LABELS = RNG.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8), np.arange(24) % 2
HELD = (RNG.integers(0, 256, (10, 8, 8, 3)).astype(np.uint8), np.arange(10) % 2)


def network() -> tn.Sequential:
    return tn.Sequential(
        [
            tn.Conv2D(4, activation="relu"), tn.BatchNorm(), tn.MaxPool2D(), tn.Dropout(0.3),
            tn.Residual([tn.Conv2D(4), tn.BatchNorm()]), tn.Flatten(), tn.Dense(2, "softmax"),
        ],
        (8, 8, 3),
    )  # fmt: skip


def compiled(optimizer=None) -> tn.Sequential:
    return network().compile(optimizer or tn.AdamW(tn.OneCycle(0.01, 18)), "sparse_categorical_crossentropy")


def fit(model: tn.Sequential, callbacks: list, **options) -> tn.History:
    settings = {
        "validation_data": HELD, "epochs": 6, "batch_size": 8, "augmentation": Augmentation(), "seed": 3,
        "verbose": 0, "callbacks": callbacks, **options,
    }  # fmt: skip
    return model.fit(settings.pop("x", X), settings.pop("y", LABELS), **settings)


def copied(model: tn.Sequential) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in model.state().items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


class Script(tn.Callback):
    """Pretends that these were the values of `val_loss`, and keeps the weights of every epoch."""

    def __init__(self, values: list[float]):
        self.values, self.weights = values, []

    def on_epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        logs["val_loss"] = self.values[training.epoch - 1]
        self.weights.append(copied(training.model))


# The best so far.


def test_lower_is_better_for_losses_and_higher_for_the_rest():
    loss, accuracy = Best("val_loss"), Best("val_accuracy")
    assert [loss.improves({"val_loss": value}) for value in (3, 2, 2, 4, 1)] == [1, 1, 0, 0, 1]
    assert [accuracy.improves({"val_accuracy": value}) for value in (3, 2, 3, 4)] == [1, 0, 0, 1]
    turned = Best("val_loss", mode="max")
    assert [turned.improves({"val_loss": value}) for value in (1, 2)] == [1, 1]


def test_an_improvement_must_exceed_min_delta():
    best = Best("loss", min_delta=0.5)
    assert [best.improves({"loss": value}) for value in (3, 2.5, 2.4, 2.0, 1.8)] == [1, 0, 1, 0, 1]


def test_what_is_not_a_number_is_never_the_best():
    best = Best("auc")
    assert [best.improves({"auc": value}) for value in (np.nan, 0.5, np.nan, 0.6)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tn.EarlyStopping(mode="best"), 'mode must be "auto", "min" or "max", got \'best\''),
        (lambda: tn.EarlyStopping(min_delta=-1), "min_delta must be at least 0, got -1"),
        (lambda: tn.EarlyStopping(patience=-1), "EarlyStopping: patience .* got -1"),
        (lambda: tn.EarlyStopping(patience=2.5), "EarlyStopping: patience .* got 2.5"),
    ],
)
def test_senseless_options_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("make", [tn.EarlyStopping, lambda: tn.ModelCheckpoint("never.safetensors")])
def test_a_metric_that_is_not_measured_is_named(make):
    with pytest.raises(
        ArgumentError, match="monitor 'val_loss' is not measured here; there are loss, accuracy"
    ):
        fit(compiled(), [make()], validation_data=None)


# Stopping early.


@pytest.mark.parametrize(("patience", "epochs"), [(0, 3), (1, 3), (2, 6), (3, 6)])
def test_early_stopping_waits_as_long_as_keras(patience, epochs):
    script = Script([3, 2, 2.5, 1, 1.5, 1.6])
    stopping = tn.EarlyStopping(patience=patience)
    model = compiled()
    assert fit(model, [script, stopping]).epochs == epochs
    best = 2 if epochs == 3 else 4
    assert stopping.best_epoch == best
    assert same(copied(model), script.weights[best - 1])


@pytest.mark.parametrize("patience", [None, 50])
def test_the_best_weights_come_back_also_when_the_epochs_run_out(kernel_set, patience):
    script = Script([3, 1, 2, 2, 2, 2])
    model = compiled()
    assert fit(model, [script, tn.EarlyStopping(patience=patience)]).epochs == 6
    assert same(copied(model), script.weights[1])
    assert not same(copied(model), script.weights[5])


def test_restored_weights_give_the_best_measured_loss(kernel_set):
    model, stopping = compiled(), tn.EarlyStopping(patience=None)
    history = fit(model, [stopping]).history
    assert model.evaluate(*HELD)["loss"] == min(history["val_loss"])


def test_a_callback_used_again_forgets_the_training_before(tmp_path):
    stopping = tn.EarlyStopping(patience=None)
    checkpoint = tn.ModelCheckpoint(tmp_path / "best.safetensors")
    fit(compiled(), [Script([0.1] * 6), stopping, checkpoint])
    script, model = Script([5, 4, 6, 6, 6, 6]), compiled(tn.SGD(0.01))
    fit(model, [script, stopping, checkpoint])
    assert stopping.best.value == 4
    assert same(copied(model), script.weights[1])
    assert same(tn.load(tmp_path / "best.safetensors").state(), script.weights[1])


# Files.


def test_a_model_checkpoint_holds_the_best_or_the_last(tmp_path):
    script = Script([3, 1, 2, 2, 2, 2])
    best = tn.ModelCheckpoint(tmp_path / "best.safetensors")
    last = tn.ModelCheckpoint(tmp_path / "last.safetensors", save_best_only=False)
    fit(compiled(), [script, best, last])
    assert same(tn.load(tmp_path / "best.safetensors").state(), script.weights[1])
    assert same(tn.load(tmp_path / "last.safetensors").state(), script.weights[5])


def test_the_csv_file_is_the_history(tmp_path):
    path = tmp_path / "history.csv"
    history = fit(compiled(), [tn.CSVLogger(path)]).history
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    for name, values in history.items():
        assert [float(row[name]) for row in rows] == pytest.approx(values, rel=1e-8)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileAccessError, match="nowhere"):
        fit(compiled(), [tn.CSVLogger(tmp_path / "nowhere" / "history.csv")])


# Rates, and what is not finite.


def test_the_rate_is_set_before_each_epoch():
    model = compiled(tn.SGD(1.0))
    history = fit(model, [tn.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))], epochs=3).history
    assert history["learning_rate"] == pytest.approx([0.1, 0.05, 0.1 / 3])
    with pytest.raises(ArgumentError, match="learning_rate"):
        fit(model, [tn.LearningRateScheduler(lambda epoch: -1)])


def test_terminate_on_nan_ends_quietly_and_the_best_comes_back(capsys):
    class Poison(tn.Callback):
        def on_epoch_begin(self, training):
            if training.epoch == 2:
                training.model.parameters()["dense1.bias"].data[0] = np.nan

    model, script = compiled(), Script([3, 1, 2])
    history = fit(model, [script, Poison(), tn.TerminateOnNaN(), tn.EarlyStopping()])
    assert history.epochs == 2
    assert same(copied(model), script.weights[1])
    assert "training ended: step 7: the loss is nan; the weights dense1.bias" in capsys.readouterr().err


# Interrupted and resumed.


def callbacks(tmp_path, name: str) -> list[tn.Callback]:
    return [
        tn.EarlyStopping(patience=None),
        tn.CSVLogger(tmp_path / f"{name}.csv"),
        tn.BackupAndRestore(tmp_path / f"{name}.safetensors"),
        tn.ModelCheckpoint(tmp_path / f"{name}-best.safetensors"),
    ]


OPTIMIZERS = {
    "adamw one-cycle": lambda: tn.AdamW(tn.OneCycle(0.01, 18), weight_decay=0.05),
    "sgd plateau": lambda: tn.SGD(tn.Plateau(0.1, patience=1, factor=0.5), momentum=0.9, nesterov=True),
    "rmsprop cosine": lambda: tn.RMSprop(tn.Cosine(0.01, 18), momentum=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("interrupted_after", [1, 4])
def test_resumed_is_as_without_interruption_to_the_bit(kernel_set, tmp_path, optimizer, interrupted_after):
    whole = compiled(optimizer())
    expected = fit(whole, callbacks(tmp_path, "whole")).history

    class Interrupt(tn.Callback):
        def on_epoch_begin(self, training):
            if training.epoch == interrupted_after and not resumed:
                raise KeyboardInterrupt

    resumed = False
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(optimizer()), [*callbacks(tmp_path, "parts"), Interrupt()])
    resumed = True
    second = compiled(optimizer())
    for layer in second.chain.leaves():  # whatever it starts from
        for parameter in layer.parameters.values():
            parameter.data[...] = 0.5
    history = fit(second, [*callbacks(tmp_path, "parts"), Interrupt()]).history
    assert history == expected
    assert same(copied(second), copied(whole))
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    one, other = (tn.load(tmp_path / f"{name}-best.safetensors").state() for name in ("parts", "whole"))
    assert same(one, other)


@pytest.mark.parametrize("first", [True, False])
def test_a_scheduled_rate_is_resumed_wherever_the_callback_stands(tmp_path, first):
    def both(name: str) -> list[tn.Callback]:
        found = [
            tn.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1)),
            tn.BackupAndRestore(tmp_path / f"{name}.safetensors"),
        ]
        return found if first else found[::-1]

    whole = compiled(tn.SGD(1.0))
    expected = fit(whole, both("whole")).history
    fit(compiled(tn.SGD(1.0)), both("parts"), epochs=3)
    second = compiled(tn.SGD(1.0))
    assert fit(second, both("parts")).history == expected
    assert same(copied(second), copied(whole))


def test_more_epochs_may_be_asked_for_of_a_finished_training(kernel_set, tmp_path):
    whole = compiled()
    expected = fit(whole, callbacks(tmp_path, "whole")).history
    fit(compiled(), callbacks(tmp_path, "parts"), epochs=2)
    fit(compiled(), callbacks(tmp_path, "parts"), epochs=5)
    last = compiled()
    assert fit(last, callbacks(tmp_path, "parts")).history == expected
    assert same(copied(last), copied(whole))
    again = compiled()
    history = fit(again, callbacks(tmp_path, "parts"))
    assert history.epochs == 6 and again.optimizer.iterations == 18
    assert same(copied(again), copied(whole))


def test_a_training_that_stopped_early_stays_stopped(tmp_path):
    def watching() -> list[tn.Callback]:
        script = Script([3, 1, 2, 2, 0.1, 0.1])
        return [script, tn.EarlyStopping(patience=2), tn.BackupAndRestore(tmp_path / "c.safetensors")]

    first = compiled()
    assert fit(first, watching()).epochs == 4
    again = compiled()
    assert fit(again, watching()).epochs == 4
    assert same(copied(again), copied(first))


def frozen() -> tn.Sequential:
    model = compiled()
    model.freeze("conv1")
    return model


def with_dropout(rate: float) -> tn.Sequential:
    model = network()
    model.layer("dropout1").rate = rate
    return model.compile(tn.AdamW(tn.OneCycle(0.01, 18)), "sparse_categorical_crossentropy")


CHANGES = {
    "batch_size 8": {"batch_size": 12},
    "seed 3": {"seed": 4},
    "images 24": {"x": X[:20], "y": LABELS[:20]},
    "data digest": {"x": X[::-1]},
    "data digest of labels": {"y": LABELS[::-1]},
    "validation images 10": {"validation_data": (HELD[0][:4], HELD[1][:4])},
    "augmentation": {"augmentation": Augmentation(rotation=20)},
    "no augmentation": {"augmentation": None},
    "optimizer": {"model": lambda: compiled(tn.AdamW(tn.OneCycle(0.02, 18)))},
    "another optimizer": {"model": lambda: compiled(tn.SGD(0.1))},
    "loss": {
        "model": lambda: network().compile(
            tn.AdamW(tn.OneCycle(0.01, 18)), tn.sparse_categorical_crossentropy(smoothing=0.1)
        )
    },
    "layers": {"model": lambda: with_dropout(0.4)},
    "frozen layers": {"model": frozen},
    "callbacks": {"callbacks": 2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_resuming_with_anything_else_is_refused(tmp_path, name):
    fit(compiled(), callbacks(tmp_path, "run"), epochs=1)
    before = (tmp_path / "run.safetensors").read_bytes()
    change = dict(CHANGES[name])
    model = change.pop("model", compiled)()
    weights = copied(model)
    chosen = callbacks(tmp_path, "run")[change.pop("callbacks", 0) :]
    what = name.split(" of ")[0].removeprefix("no ").removeprefix("another ")
    message = f"run.safetensors: the interrupted training had {what}.*, this one has .*resume with the same"
    with pytest.raises(ModelFileError, match=message):
        fit(model, chosen, **change)
    assert (tmp_path / "run.safetensors").read_bytes() == before
    assert same(copied(model), weights)


def test_a_checkpoint_of_the_same_settings_is_taken(tmp_path):
    """Without this the test above could pass by refusing everything."""
    fit(compiled(), callbacks(tmp_path, "run"), epochs=1)
    assert fit(compiled(), callbacks(tmp_path, "run"), epochs=2).epochs == 2


@pytest.mark.parametrize("missing", ["settings", "callbacks", "optimizer", "epoch", "history"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path, missing):
    fit(compiled(), callbacks(tmp_path, "run"), epochs=1)
    path = tmp_path / "run.safetensors"
    arrays, state = files.load_checkpoint(path)
    del state[missing]
    files.save_checkpoint(path, arrays, state)
    with pytest.raises(ModelFileError, match=r"run\.safetensors"):
        fit(compiled(), callbacks(tmp_path, "run"))


def test_a_checkpoint_with_weights_of_another_shape_is_refused(tmp_path):
    fit(compiled(), callbacks(tmp_path, "run"), epochs=1)
    path = tmp_path / "run.safetensors"
    arrays, state = files.load_checkpoint(path)
    slots = ("optimizer/dense1.bias/mean", "optimizer/dense1.bias/mean_square")
    for names in (("model/dense1.bias",), slots):
        changed = dict.fromkeys(names, np.zeros(5, np.float32))
        files.save_checkpoint(path, {**arrays, **changed}, state)
        with pytest.raises(ModelFileError, match=r"run\.safetensors: .*dense1\.bias"):
            fit(compiled(), callbacks(tmp_path, "run"))


def test_a_model_file_is_no_checkpoint(tmp_path):
    compiled().save(tmp_path / "run.safetensors")
    with pytest.raises(ModelFileError, match="a tinynet model file, not a tinynet checkpoint"):
        fit(compiled(), callbacks(tmp_path, "run"))


def test_the_best_weights_come_back_where_a_loss_is_not_finite():
    """An exception ends the training, and the best epoch's weights are there all the same."""
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 4, 4, 3)).astype(np.float32), rng.integers(0, 2, 32)
    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (4, 4, 3), seed=1)
    model.compile(tn.SGD(0.1), "sparse_categorical_crossentropy")

    class Spoil(tn.Callback):
        def on_epoch_begin(self, training):
            if training.epoch == 2:
                self.best = {name: array.copy() for name, array in stopping.weights.items()}
                model.parameters()["dense1.weight"].data[0] = np.nan

    spoil, stopping = Spoil(), tn.EarlyStopping("loss", patience=None)
    with pytest.raises(NonFiniteError):
        model.fit(x, y, epochs=5, verbose=0, callbacks=[stopping, spoil])
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, spoil.best[name])
