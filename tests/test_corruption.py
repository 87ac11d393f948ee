"""Images made worse for an autoencoder, and the average of weights along a training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet import kernels
from tinynet.averaging import WeightAveraging
from tinynet.callbacks import BackupAndRestore, Callback
from tinynet.data.augment import Augmentation
from tinynet.data.corruption import Corruption
from tinynet.errors import ArgumentError


@pytest.fixture(autouse=True)
def one_kernel_set():
    with kernels.using("numpy"):
        yield


def cells(count: int = 30, value: int | None = None) -> np.ndarray:
    if value is not None:
        return np.full((count, 16, 12, 3), value, np.uint8)
    return np.random.default_rng(0).integers(0, 256, (count, 16, 12, 3)).astype(np.uint8)


def test_noise_is_normal_with_the_deviation_asked_for_and_without_it_is_what_was():
    worse, clean = Corruption(noise=0.1)(cells(value=128), 3, 1, np.arange(30))
    assert np.array_equal(clean, cells(value=128))
    noise = (worse.astype(float) - 128) / 255
    assert noise.std() == pytest.approx(0.1, rel=0.02) and abs(noise.mean()) < 0.003
    inside = np.abs(noise) < 0.1
    assert inside.mean() == pytest.approx(0.683, abs=0.015)
    each = noise.reshape(30, -1)
    assert np.abs(np.corrcoef(each) - np.eye(30)).max() < 0.3  # each image has its own


def test_noise_stays_within_a_byte():
    for value in (0, 255):
        worse, _ = Corruption(noise=0.5)(cells(value=value), 0, 0, np.arange(30))
        assert (worse == value).mean() == pytest.approx(0.5, abs=0.02)  # not wrapped around


def test_whole_squares_are_hidden_as_many_as_asked_for():
    worse, clean = Corruption(hidden=0.3, square=4)(cells(300, 200), 0, 0, np.arange(300))
    squares = worse.reshape(300, 4, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 48)
    assert ((squares == 0).all(axis=1) | (squares == 200).all(axis=1)).all()
    assert (squares[:, 0] == 0).mean() == pytest.approx(0.3, abs=0.03)
    assert (clean == 200).all()


def test_squares_at_the_edge_may_be_cut():
    worse, _ = Corruption(hidden=1.0, square=5)(cells(value=9), 0, 0, np.arange(30))
    assert not worse.any()


def test_the_target_is_augmented_like_the_input():
    x, few = cells(), np.arange(30)
    worse, clean = Corruption(noise=0.05, augmentation=Augmentation())(x, 2, 3, few)
    assert np.array_equal(clean, Augmentation()(x, 2, 3, few))
    assert not np.array_equal(worse, clean)
    same, clean = Corruption()(x, 2, 3, few)
    assert np.array_equal(same, x) and np.array_equal(clean, x)


@given(st.integers(0, 2**40), st.integers(0, 300), st.permutations(range(12)))
def test_an_image_is_made_worse_alike_wherever_it_stands(seed, epoch, order):
    order, x, how = np.array(order), cells(12), Corruption(noise=0.1, hidden=0.2)
    whole, _ = how(x, seed, epoch, np.arange(12))
    mixed, _ = how(x[order], seed, epoch, order)
    assert np.array_equal(mixed, whole[order])


def test_every_epoch_and_seed_shows_something_else():
    for how in (Corruption(noise=0.1), Corruption(hidden=0.5)):
        found = [how(cells(), s, e, np.arange(30))[0].tobytes() for s in (0, 1) for e in (0, 1)]
        assert len(set(found)) == 4


@pytest.mark.parametrize("options", [{"noise": -0.1}, {"noise": 2}, {"hidden": float("nan")}, {"square": 0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ArgumentError, match=f"Corruption: {next(iter(options))}"):
        Corruption(**options)


def test_an_autoencoder_learns_to_take_noise_away():
    """Of images of one colour, the mean over a window is nearer to the clean image than the noisy one is."""
    shades = np.random.default_rng(1).integers(60, 190, (200, 1, 1, 3))
    x = np.broadcast_to(shades, (200, 12, 12, 3)).astype(np.uint8)
    model = tn.Sequential([tn.Conv2D(3, 5)], (12, 12, 3), seed=0).compile(tn.AdamW(0.02), "mse")
    model.fit(x, epochs=15, batch_size=20, augmentation=Corruption(noise=0.2), verbose=0)
    worse, clean = Corruption(noise=0.2)(x, 9, 9, np.arange(200))
    middle = (slice(None), slice(2, -2), slice(2, -2))
    wrong = ((model.predict(worse) - clean / 255)[middle] ** 2).mean()
    assert wrong < 0.35 * ((worse / 255 - clean / 255)[middle] ** 2).mean()


# Averages of weights.


def small() -> tn.Sequential:
    layers = [tn.Conv2D(4, 3), tn.BatchNorm(), tn.Flatten(), tn.Dense(2, "softmax")]
    model = tn.Sequential(layers, (16, 12, 3), seed=1)
    return model.compile(tn.AdamW(0.01), "sparse_categorical_crossentropy")


class Recorder(Callback):
    def __init__(self):
        self.states = []

    def on_epoch_end(self, training, logs):
        self.states.append({name: array.copy() for name, array in training.model.state().items()})


def trained(epochs: int, *callbacks: Callback) -> tn.Sequential:
    model, x = small(), cells(24)
    model.fit(x, np.arange(24) % 2, epochs=epochs, batch_size=8, callbacks=list(callbacks), verbose=0)
    return model


def test_the_model_ends_as_the_running_mean_of_its_epochs_batch_norm_included():
    recorder = Recorder()
    found = trained(4, recorder, WeightAveraging(0.75)).state()
    shares = np.array([0.75**3, 0.75**2, 0.75, 1.0])
    shares /= shares.sum()
    assert any("mean" in name for name in found)
    for name, array in found.items():
        expected = sum(share * state[name] for share, state in zip(shares, recorder.states, strict=True))
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-7)
        assert array.dtype == np.float32


def test_without_decay_the_last_epoch_stays():
    plain, averaged = trained(3), trained(3, WeightAveraging(0.0))
    for name, array in plain.state().items():
        assert np.array_equal(array, averaged.state()[name])


def test_an_average_goes_on_bitwise_after_an_interruption(tmp_path):
    whole = trained(5, WeightAveraging(0.7)).state()
    trained(2, WeightAveraging(0.7), BackupAndRestore(tmp_path / "c.safetensors"))
    # The checkpoint holds the epoch's own weights, not the average with which the first fit ended.
    resumed = trained(5, WeightAveraging(0.7), BackupAndRestore(tmp_path / "c.safetensors")).state()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_a_second_training_begins_a_new_average():
    averaging = WeightAveraging(0.5)
    trained(3, averaging)
    again = trained(2, averaging).state()
    assert all(
        np.array_equal(array, again[name]) for name, array in trained(2, WeightAveraging(0.5)).state().items()
    )


@pytest.mark.parametrize("decay", [1.0, -0.1, "0.5", None, float("nan")])
def test_a_decay_is_a_share_below_one(decay):
    with pytest.raises(ArgumentError, match="WeightAveraging: decay"):
        WeightAveraging(decay)
