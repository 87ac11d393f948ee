"""Numbers at the edge of floats, data that says nothing: what comes out is defined (docs/robustness.md)."""

from __future__ import annotations

import numpy as np
import pytest

import tinynet as tn
from tinynet import functions as F
from tinynet import metrics
from tinynet.errors import ArgumentError, DataError, NonFiniteError
from tinynet.optim import clip_gradients_by_norm
from tinynet.tensor import Tensor

LARGEST = float(np.finfo(np.float32).max)


def leaf(values) -> Tensor:
    return Tensor(np.asarray(values, np.float32), requires_grad=True)


def classifier() -> tn.Sequential:
    layers = [tn.Conv2D(2, 3, activation="relu"), tn.Flatten(), tn.Dense(2, "softmax")]
    model = tn.Sequential(layers, (8, 8, 3), seed=0)
    return model.compile(tn.SGD(0.1), "sparse_categorical_crossentropy")


# Losses


def test_cross_entropy_of_huge_logits_is_exact_and_its_gradient_finite(kernel_set):
    x = leaf([[1e38, -1e38], [-1e38, 1e38]])
    loss = F.softmax_cross_entropy(x, np.array([1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(1e38)  # the mean of 2e38 and 0
    assert x.grad.tolist() == [[0.5, -0.5], [0, 0]]
    x = leaf([[1e38, -1e38]])
    loss = F.binary_cross_entropy(x, np.array([[0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(5e37) and x.grad.tolist() == [[0.5, 0]]


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_beyond_float32_is_infinite_never_nan(kernel_set):
    x = leaf([[LARGEST, -LARGEST]])
    loss = F.softmax_cross_entropy(x, np.array([1]))
    loss.backward()
    assert loss.item() == np.inf and x.grad.tolist() == [[1, -1]]
    assert F.mean_squared_error(leaf([[LARGEST, 0]]), np.zeros((1, 2), np.float32)).item() == np.inf


@pytest.mark.filterwarnings("ignore:overflow")
def test_activations_saturate_at_huge_inputs(kernel_set):
    x = leaf([[LARGEST, -LARGEST]])
    assert F.softmax(x).numpy().tolist() == [[1, 0]]
    assert F.sigmoid(x).numpy().tolist() == [[1, 0]]
    assert F.tanh(x).numpy().tolist() == [[1, -1]]


@pytest.mark.filterwarnings("ignore:invalid")
def test_the_softmax_of_an_infinite_logit_is_nan_for_that_image_only(kernel_set):
    found = F.softmax(leaf([[np.inf, 0], [-np.inf, 0], [1, 1]])).numpy()
    assert np.isnan(found[0]).all() and found[1:].tolist() == [[0, 1], [0.5, 0.5]]


def test_training_stops_and_names_what_went_wrong(kernel_set):
    x = np.zeros((3, 8, 8, 3), np.float32)
    x[1, 2, 2, 0] = np.nan
    model = classifier()
    before = {name: array.copy() for name, array in model.state().items()}
    with pytest.raises(NonFiniteError, match="step 1: the loss is nan; the images themselves hold NaN"):
        model.fit(x, np.array([1, 0, 1]), verbose=0)
    assert all(np.array_equal(array, before[name]) for name, array in model.state().items())


@pytest.mark.filterwarnings("ignore:invalid")
def test_an_image_with_nan_has_nan_for_an_answer_and_the_others_theirs(kernel_set):
    model = classifier()
    x = np.random.default_rng(0).random((18, 8, 8, 3)).astype(np.float32)
    alone = model.predict(x)
    x[3, 2, 2, 0] = np.nan
    found = model.predict(x)
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, axis=0), np.delete(alone, 3, axis=0), rtol=1e-5)
    assert np.isnan(model.evaluate(x, np.zeros(18, int))["loss"])
    with pytest.raises(NonFiniteError, match="1 of 18 are NaN or infinite, first at 3"):
        metrics.evaluate_probabilities(np.arange(18) % 2, found[:, 1])


def test_the_winograd_kernel_spreads_a_nan_over_its_piece_and_no_further(kernel_set):
    """Direct sums give NaN to the 3x3 outputs that see the pixel; Winograd to whole 2x2 pieces of them."""
    x = np.ones((16, 12, 12, 16), np.float32)
    x[0, 6, 5, 3] = np.nan
    weight = np.ones((3, 3, 16, 16), np.float32) / 144
    found = np.isnan(F.conv2d(x, weight, None, padding="same").numpy())
    rows, columns = np.nonzero(found[0].any(axis=-1))
    assert found[0, 5:8, 4:7].all()
    assert rows.min() >= 4 and rows.max() <= 7 and columns.min() >= 4 and columns.max() <= 7
    assert not found[1:].any()


# Batches and data that say nothing


@pytest.mark.parametrize("value", [0.0, 7.0, 12345.678, 1e30])
def test_a_constant_channel_is_normalised_to_its_shift(kernel_set, value):
    x, scale, shift = leaf(np.full((17, 4, 4, 2), value)), leaf([2, 3]), leaf([0.5, -1])
    y, mean, variance = F.batch_norm(x, scale, shift)
    (y * y).sum().backward()
    assert (y.numpy() == np.float32([0.5, -1])).all()
    assert np.allclose(mean, value, rtol=1e-6) and (variance == 0).all()
    assert (scale.grad == 0).all() and (x.grad == 0).all()


def test_a_batch_of_one_value_is_normalised_to_its_shift(kernel_set):
    y, _, variance = F.batch_norm(leaf([[[[3, 4]]]]), leaf([1, 1]), leaf([0.25, 0]))
    assert y.numpy().ravel().tolist() == [0.25, 0] and variance.tolist() == [0, 0]


def test_a_batch_without_one_of_the_classes_trains(kernel_set):
    x = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    history = classifier().fit(x, np.ones(4, int), epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]


def test_a_data_set_without_images_is_refused(kernel_set):
    x, model = np.zeros((2, 8, 8, 3), np.float32), classifier()
    with pytest.raises(DataError, match="there are no images"):
        model.fit(x, np.array([0, 1]), validation_data=(x[:0], np.zeros(0, int)), verbose=0)
    with pytest.raises(DataError, match="no images"):
        model.predict(x[:0])


def test_answers_that_are_all_the_same_say_nothing_and_that_is_what_the_figures_say():
    labels = np.array([0, 1, 1, 0, 1])
    for value in (0.0, 0.5, 1.0):
        found = metrics.evaluate_probabilities(labels, np.full(5, value), patients=np.array([1, 1, 2, 2, 3]))
        assert found["auc"] == 0.5 and found["intervals"]["auc"] is None
        threshold = metrics.threshold_for_sensitivity(labels, np.full(5, value), 0.9)
        assert threshold is not None and 0 <= threshold <= value
        fpr, tpr, _ = metrics.roc_curve(labels, np.full(5, value))
        assert fpr.tolist() == [0, 1] and tpr.tolist() == [0, 1]


def test_one_patient_gives_intervals_over_cells():
    labels = np.array([0, 1, 1, 0])
    found = metrics.evaluate_probabilities(labels, np.array([0.1, 0.9, 0.4, 0.2]), patients=np.array([7] * 4))
    assert found["patients"] == 1 and found["interval_method"] == "wilson"
    assert found["intervals"]["accuracy"] == list(metrics.wilson_interval(3, 4))


def test_one_class_only_leaves_undefined_what_needs_both():
    found = metrics.evaluate_probabilities(np.zeros(3, int), np.array([0.1, 0.2, 0.3]))
    assert found["auc"] is None and found["sensitivity"] is None and found["specificity"] == 1
    assert metrics.threshold_for_sensitivity(np.zeros(3, int), np.array([0.1, 0.2, 0.3]), 0.9) is None


def test_a_channel_without_variance_cannot_be_divided_by_it():
    with pytest.raises(ArgumentError, match="deviation must be positive"):
        tn.Preprocessing(8, 8, deviation=(1.0, 0.0, 1.0))


# Optimizers


@pytest.mark.parametrize("kind", [tn.SGD, tn.RMSprop, tn.AdamW])
def test_a_gradient_of_zero_changes_nothing_but_what_decays(kernel_set, kind):
    optimizer = kind(0.1)
    bias = Tensor(np.ones(20, np.float32), requires_grad=True, name="bias")
    for _ in range(3):
        bias.grad = np.zeros(20, np.float32)
        optimizer.step({"bias": bias})
    assert (bias.data == 1).all()
    assert clip_gradients_by_norm({"bias": bias}, 1.0) == 0 and (bias.grad == 0).all()


@pytest.mark.parametrize("optimizer", [tn.RMSprop, tn.AdamW])
def test_a_gradient_whose_square_overflows_is_refused_before_it_freezes_the_weight(kernel_set, optimizer):
    """Its mean square would be infinite for ever, and every later step divided by it."""
    made, w = optimizer(0.1), Tensor(np.ones(20, np.float32), requires_grad=True, name="w")
    w.grad = np.full(20, 1.0, np.float32)
    w.grad[7] = -1e25
    with pytest.raises(NonFiniteError, match=r"'w' has 1e\+25, whose square overflows float32"):
        made.step({"w": w})
    assert (w.data == 1).all() and made.iterations == 0
    w.grad[7] = 1e18
    made.step({"w": w})
    assert np.isfinite(w.data).all() and (w.data != 1).all()
    w.grad[7] = -1e25
    tn.SGD(0.1).step({"w": w})  # which squares nothing
    assert np.isfinite(w.data).all()


# int8


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
@pytest.mark.parametrize("what", ["no weights", "a rectifier that never fires", "black images"])
def test_constant_activations_are_calibrated(what, method):
    model = classifier()
    images = np.full((4, 8, 8, 3), 0 if what == "black images" else 7, np.uint8)
    for name, array in model.state().items():
        if what == "no weights" or (what != "black images" and name.startswith("conv")):
            array[...] = 0 if what == "no weights" else -1
    found = model.quantize("int8", images, calibration=method).predict(images)
    np.testing.assert_allclose(found, model.predict(images), atol=0.02)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
@pytest.mark.parametrize("value", [1e-30, 1e-44])
def test_activations_too_small_for_any_scale_are_refused_by_name(method, value):
    model = classifier()
    for array in model.state().values():
        array[...] = value
    with pytest.raises(ArgumentError, match="the scale is"):
        model.quantize("int8", np.full((4, 8, 8, 3), 7, np.uint8), calibration=method)


def test_activations_beyond_float32_are_refused(kernel_set):
    model = classifier()
    for array in model.state().values():
        array[...] = 1e30
    with pytest.raises(NonFiniteError):
        model.quantize("int8", np.full((4, 8, 8, 3), 7, np.uint8))
