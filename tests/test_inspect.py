"""Filters, activation maps and Grad-CAM as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import networks

import tinynet as tn
from tinynet import inspect, kernels
from tinynet.data import synthetic
from tinynet.errors import ArgumentError, DataError, ShapeError


def tiny(last="softmax", units=2):
    """Two maps of 2x2, their means, and scores of them, all weights set by hand."""
    model = tn.Sequential(
        [
            tn.Conv2D(2, 1, activation="relu", use_bias=False, name="maps"),
            tn.GlobalAveragePool2D(),
            tn.Dense(units, last, use_bias=False, name="scores"),
        ],
        (2, 2, 1),
    )
    model.parameters()["maps.weight"].data[...] = [[[[1.0, -2.0]]]]
    weights = [[0.5, 3.0], [7.0, -4.0]] if units == 2 else [[3.0], [-4.0]]
    model.parameters()["scores.weight"].data[...] = weights
    return model


IMAGE = np.array([[[[1.0], [2.0]], [[-1.0], [0.5]]]], np.float32)
# maps: relu(x) = 1 2 / 0 0.5 and relu(-2 x) = 0 0 / 2 0


def test_grad_cam_by_hand(kernel_set):
    """Through a mean over four places, the slope of score c at each is weight_kc / 4: so is its mean."""
    heat = inspect.grad_cam(tiny(), IMAGE, 1, "maps")
    # class 1: 3/4 (1 2 / 0 .5) - 4/4 (0 0 / 2 0) = .75 1.5 / -2 .375, and what is negative is 0
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, [[[0.75, 1.5], [0.0, 0.375]]])
    # class 0: .5/4 (1 2 / 0 .5) + 7/4 (0 0 / 2 0)
    np.testing.assert_allclose(inspect.grad_cam(tiny(), IMAGE, 0), [[[0.125, 0.25], [3.5, 0.0625]]])


def test_a_single_sigmoid_output_is_class_1_and_its_negative_class_0(kernel_set):
    model = tiny("sigmoid", 1)
    np.testing.assert_allclose(inspect.grad_cam(model, IMAGE, 1), [[[0.75, 1.5], [0.0, 0.375]]])
    np.testing.assert_allclose(inspect.grad_cam(model, IMAGE, 0), [[[0.0, 0.0], [2.0, 0.0]]])


def test_grad_cam_is_the_papers_two_equations_with_slopes_from_finite_differences(kernel_set):
    """The layers after the maps are written once more, in float64 NumPy, and differentiated numerically."""
    model = tn.Sequential(
        [
            tn.Conv2D(3, 3, name="maps"),  # no zeros that tie: pooling has a kink there
            tn.MaxPool2D(2),
            tn.Flatten(),
            tn.Dense(5, "tanh", name="hidden"),
            tn.Dense(3, "softmax", name="scores"),
        ],
        (6, 8, 3),
        seed=4,
    )
    images = np.random.default_rng(0).standard_normal((3, 6, 8, 3)).astype(np.float32)
    maps = inspect.activation_maps(model, images, "maps").astype(np.float64)
    weights = {name: parameter.data.astype(np.float64) for name, parameter in model.parameters().items()}

    def score(a, k):
        pooled = a.reshape(3, 2, 4, 2, 3).max(axis=(1, 3)).reshape(-1)
        hidden = np.tanh(pooled @ weights["hidden.weight"] + weights["hidden.bias"])
        return (hidden @ weights["scores.weight"] + weights["scores.bias"])[k]

    for k in range(3):
        expected = []
        for a in maps:
            slopes = np.zeros_like(a)
            for place in np.ndindex(a.shape):
                step = np.zeros_like(a)
                step[place] = 1e-6
                slopes[place] = (score(a + step, k) - score(a - step, k)) / 2e-6
            alpha = slopes.mean(axis=(0, 1))
            expected.append(np.maximum((a * alpha).sum(axis=2), 0))
        assert np.max(expected) > 0
        np.testing.assert_allclose(inspect.grad_cam(model, images, k, "maps"), expected, rtol=1e-3, atol=1e-5)


@given(networks(), st.integers(1, 3))
def test_grad_cam_of_each_image_is_its_own_and_leaves_the_model_as_it_was(model, count):
    if len(model.output_shape) != 1:
        return
    try:
        layer = inspect.last_maps(model)
    except ArgumentError:
        return
    images = np.random.default_rng(0).standard_normal((count, *model.input_shape)).astype(np.float32)
    index = model.output_shape[0] - 1
    before = {name: array.copy() for name, array in model.state().items()}
    with kernels.using("numpy"):
        together = inspect.grad_cam(model, images, index)
        alone = [inspect.grad_cam(model, images[k : k + 1], index)[0] for k in range(count)]
    assert together.shape == (count, *model.layer(layer).output_shape(model.layer(layer).input_shape)[:2])
    assert (together >= 0).all()
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4 * max(1.0, float(together.max())))
    assert all(np.array_equal(before[name], array) for name, array in model.state().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters().values())


def test_frozen_layers_stay_frozen_and_more_images_than_fit_at_a_time_are_explained():
    model = tiny()
    model.freeze("maps")
    many = np.concatenate([IMAGE, -IMAGE] * 40)
    with kernels.using("numpy"):
        heat = inspect.grad_cam(model, many)
    assert heat.shape == (80, 2, 2)
    np.testing.assert_allclose(heat[78], [[0.75, 1.5], [0.0, 0.375]])
    assert not model.parameters()["maps.weight"].requires_grad


def parasites(count, size, seed):
    """Infected synthetic cells, and where they differ from the same cells without their parasite."""
    index = np.arange(count)
    _, patients, _ = synthetic._who(seed, index, 20)
    ones = np.ones(count, np.int64)
    infected = synthetic._draw(seed, index, ones, patients, size, size)
    without = synthetic._draw(seed, index, 0 * ones, patients, size, size)
    return infected, np.abs(infected.astype(int) - without).max(axis=3) > 25


@pytest.mark.parametrize(("name", "count"), [("autoencoder", 64), ("small-cnn", 16)])
def test_the_heat_of_the_shipped_models_lies_on_the_parasite(name, count):
    """Chance is the parasite's share of the cell; heat of other cells' pictures is no better than that."""
    model = tn.load(name)
    cells, mask = parasites(count, 64, seed=3)
    with kernels.using("numpy"):
        heat = inspect.enlarge(inspect.grad_cam(model, list(cells)), 64, 64)
        blank = tn.load(name)
        for parameter in blank.parameters().values():  # the same network, its training forgotten
            generator = np.random.default_rng(parameter.size)
            parameter.data[...] = generator.permutation(parameter.data.reshape(-1)).reshape(parameter.shape)
        untrained = inspect.enlarge(inspect.grad_cam(blank, list(cells)), 64, 64)
    cell = cells.max(axis=3) > 32
    chance = (mask & cell).sum() / cell.sum()

    def on_parasite(some):
        return float((some * mask).sum() / some.sum())

    assert on_parasite(heat) > 1.6 * chance
    assert on_parasite(np.roll(heat, 1, axis=0)) < 1.3 * chance
    assert on_parasite(untrained) < on_parasite(heat) / 1.3


def test_activation_maps_are_the_layers_results(kernel_set):
    np.testing.assert_allclose(
        inspect.activation_maps(tiny(), IMAGE, "maps")[0, :, :, 0], [[1.0, 2.0], [0.0, 0.5]]
    )
    maps = inspect.activation_maps(tiny(), IMAGE)
    np.testing.assert_allclose(inspect.mean_map(maps), [[[0.5, 1.0], [1.0, 0.25]]])


def test_pictures_of_any_size_are_resized_as_predict_does():
    model = tn.load("autoencoder")
    cells = synthetic.synthetic_cells(3, size=70).images
    prepared = np.stack([model.preprocessing.prepare(cell) for cell in cells])
    with kernels.using("numpy"):
        maps = inspect.activation_maps(model, list(cells))
        assert np.array_equal(maps, inspect.activation_maps(model, prepared))
    assert maps.shape == (3, 8, 8, 4)


def test_the_first_filters_are_a_copy_of_the_weights():
    model = tn.load("autoencoder")
    filters = inspect.first_filters(model)
    assert filters.shape == (3, 3, 3, 16)
    filters[...] = 0
    assert model.parameters()["encoder1.weight"].data.any()


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        ([tn.Conv2D(2), tn.MaxPool2D(2), tn.Conv2D(3), tn.Flatten(), tn.Dense(2)], "conv2"),
        ([tn.Conv2D(2), tn.BatchNorm(), tn.ReLU(), tn.MaxPool2D(2), tn.BatchNorm(), tn.Flatten()], "relu1"),
        ([tn.Conv2D(2), tn.Residual([tn.Conv2D(2)]), tn.ReLU(), tn.GlobalAveragePool2D()], "relu1"),
        (
            [tn.Chain([tn.Conv2D(2), tn.Concatenate([[], [tn.Conv2D(2)]])]), tn.Flatten()],
            "chain1/concatenate1",
        ),
        (
            [tn.Conv2D(2), tn.Conv2D(4, 8, padding="valid"), tn.Flatten()],
            "conv1",
        ),  # a 1x1 result has no places
    ],
)
def test_the_last_maps_are_those_before_pooling_or_flattening(layers, name):
    assert inspect.last_maps(tn.Sequential(layers, (8, 8, 3))) == name


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
def test_enlarging_interpolates_between_centres(h, w, height, width):
    generator = np.random.default_rng(h + 7 * w)
    maps = generator.random((2, h, w))
    large = inspect.enlarge(maps, height, width)
    assert large.shape == (2, height, width)
    assert maps.min() - 1e-12 <= large.min() and large.max() <= maps.max() + 1e-12
    assert np.allclose(inspect.enlarge(maps, h, w), maps)
    assert np.allclose(inspect.enlarge(np.full((1, h, w), 3.5), height, width), 3.5)
    mirrored = inspect.enlarge(maps[:, :, ::-1], height, width)
    assert np.allclose(mirrored[:, :, ::-1], large)


def test_enlarging_by_hand():
    # Centres of the map's pixels lie at 1 and 3 of 4; 0.5 and 3.5 are beyond them.
    assert inspect.enlarge(np.array([[[0.0, 1.0]]]), 1, 4)[0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: inspect.grad_cam(tiny(), IMAGE, 2), ArgumentError, "below 2, got 2"),
        (lambda: inspect.grad_cam(tiny(), IMAGE, -1), ArgumentError, "class_index"),
        (lambda: inspect.grad_cam(tiny(), IMAGE, 1, "nowhere"), ArgumentError, "'nowhere'; there are maps"),
        (lambda: inspect.grad_cam(tiny(), IMAGE, 1, "scores"), ShapeError, "scores.*no maps"),
        (lambda: inspect.grad_cam(tiny(), IMAGE[:0]), DataError, "no images"),
        (lambda: inspect.grad_cam(tiny(), IMAGE[:, :1]), ShapeError, "wants a batch"),
        (
            lambda: inspect.grad_cam(tn.Sequential([tn.Conv2D(3)], (4, 4, 3)), np.zeros((1, 4, 4, 3))),
            ArgumentError,
            "one score a class",
        ),
        (lambda: inspect.first_filters(tn.Sequential([tn.Dense(2)], (3,))), ArgumentError, "no convolution"),
        (lambda: inspect.first_filters(tn.Sequential([tn.Conv2D(2)])), ArgumentError, "no weights yet"),
        (lambda: inspect.last_maps(tn.Sequential([tn.Dense(2)], (3,))), ArgumentError, "no convolution"),
        (lambda: inspect.mean_map(IMAGE[0]), ShapeError, "maps"),
        (lambda: inspect.enlarge(IMAGE, 3, 3), ShapeError, "maps"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
