"""The recipes: which stages there are, what each starts from, what it may change."""

from __future__ import annotations

import numpy as np
import pytest
from tinynet.models.recipes import ENCODER, RECIPES

import tinynet as tn

SIZE = 40


def stages(name: str, epochs: int = 40, rate: float | None = None):
    return RECIPES[name].stages(SIZE, epochs, 0, rate)


def trainable(model: tn.Sequential) -> set[str]:
    return {name for name, parameter in model.parameters().items() if parameter.requires_grad}


def shifted(model: tn.Sequential) -> tn.Sequential:
    """The model with other weights, as training would leave it."""
    for parameter in model.parameters().values():
        parameter.data += 1
    return model


def test_a_recipe_has_its_own_name_and_builds_a_classifier_of_two():
    assert set(RECIPES) == {"autoencoder", "small-cnn", "cells-70k", "cells-10k"}
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        model = None
        for stage in recipe.stages(recipe.size, recipe.epochs, 0, None):
            model = stage.build(model)
        assert model.input_shape == (recipe.size, recipe.size, 3)
        assert model.output_shape == (2,)
        assert stage.epochs == recipe.epochs


@pytest.mark.parametrize(("epochs", "expected"), [(40, [20, 5, 40]), (8, [4, 1, 8]), (1, [1, 1, 1])])
def test_the_autoencoder_reconstructs_then_classifies_frozen_then_whole(epochs, expected):
    found = stages("autoencoder", epochs)
    assert [stage.name for stage in found] == ["reconstruction", "frozen", "classifier"]
    assert [stage.epochs for stage in found] == expected
    assert [stage.reconstructs for stage in found] == [True, False, False]
    assert [stage.frozen for stage in found] == [(), ENCODER, ()]


def test_the_frozen_stage_starts_from_the_encoder_that_reconstruction_left():
    reconstruction, frozen, _ = stages("autoencoder")
    source = shifted(reconstruction.build(None))
    model = frozen.build(source)
    for layer in ENCODER:
        for kind in ("weight", "bias"):
            assert np.array_equal(model.state()[f"{layer}.{kind}"], source.state()[f"{layer}.{kind}"])
    model.freeze(*frozen.frozen)
    assert trainable(model) == {"dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias"}


def test_the_last_stage_goes_on_with_the_same_weights_and_trains_all():
    reconstruction, frozen, last = stages("autoencoder")
    source = shifted(frozen.build(reconstruction.build(None)))
    before = {name: array.copy() for name, array in source.state().items()}
    source.freeze(*frozen.frozen)
    model = last.build(source)
    assert trainable(model) == set(model.parameters())
    assert all(np.array_equal(array, before[name]) for name, array in model.state().items())


def test_the_seed_makes_the_weights():
    for name, recipe in RECIPES.items():
        first, again, other = (
            recipe.stages(SIZE, 1, seed, None)[0].build(None).state() for seed in (0, 0, 1)
        )
        assert all(np.array_equal(first[key], again[key]) for key in first), name
        assert any(not np.array_equal(first[key], other[key]) for key in first), name


@pytest.mark.parametrize("name", RECIPES)
def test_a_learning_rate_asked_for_is_the_highest_of_the_last_stage_alone(name):
    usual, asked = stages(name), stages(name, rate=0.125)
    schedule = asked[-1].optimizer(100).config()["learning_rate"]
    assert (schedule["name"], schedule["maximum"], schedule["steps"]) == ("one_cycle", 0.125, 100)
    assert usual[-1].optimizer(100).config()["learning_rate"]["maximum"] <= 0.01
    for one, other in zip(usual[:-1], asked[:-1], strict=True):
        assert one.optimizer(100).config() == other.optimizer(100).config()


@pytest.mark.parametrize("name", RECIPES)
def test_a_stage_of_a_single_step_can_be_trained(name):
    x = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    model = None
    for stage in stages(name, epochs=1):
        model = stage.build(model).compile(stage.optimizer(1), stage.loss)
        model.fit(x, None if stage.reconstructs else np.arange(4) % 2, batch_size=4, verbose=0)
    assert all(np.isfinite(array).all() for array in model.state().values())
