"""Blocks: sums and concatenations nest, get names, train, and the networks built of them fit this engine."""

from __future__ import annotations

import numpy as np
import pytest

import tinynet as tn
from tinynet.errors import ArgumentError, ShapeError


def images(count: int = 12, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Bright and dark noise, classes 1 and 0."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    noise = rng.integers(0, 100, (count, size, size, 3))
    return (noise + 120 * labels[:, None, None, None]).astype(np.uint8), labels


def paths(model: tn.Sequential) -> list[str]:
    return [layer.path for layer in model.chain.leaves()]


def test_names_count_by_kind_and_skip_those_that_are_taken():
    model = tn.Sequential(
        [
            tn.Conv2D(4, name="conv1"), tn.Conv2D(4), tn.AveragePool2D(), tn.GlobalAveragePool2D(),
            tn.Dense(3), tn.ReLU(), tn.Dense(2, name="head"),
        ]
    )  # fmt: skip
    assert paths(model) == ["conv1", "conv2", "average1", "average2", "dense1", "relu1", "head"]


def test_names_inside_blocks_are_paths():
    model = tn.Sequential([tn.Residual([tn.Conv2D(3), tn.Residual([tn.ReLU()], name="inner")])])
    assert paths(model) == [
        "residual1/branch1/conv1",
        "residual1/branch1/inner/branch1/relu1",
        "residual1/branch1/inner/branch2",
        "residual1/branch2",
    ]
    assert model.layer("residual1/branch1/inner") is model.layers[0].branches[0].layers[1]


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(ArgumentError, match="two layers are called 'a'; names must differ"):
        tn.Sequential([tn.ReLU(name="a"), tn.Tanh(name="a")])


def test_one_layer_in_two_places_is_refused():
    layer = tn.ReLU()
    with pytest.raises(ArgumentError, match=r"layer 'relu1' \(ReLU\) stands in the model twice"):
        tn.Sequential([layer, layer])
    with pytest.raises(ArgumentError, match="stands in the model twice"):
        tn.Sequential([tn.Residual([tn.Chain([layer := tn.ReLU()])], [layer])])


def test_a_layer_of_a_built_model_is_refused_in_another_whose_weights_it_would_lose():
    first = tn.Sequential([tn.Conv2D(3)], (8, 8, 3))
    before = first.state()["conv1.weight"].copy()
    with pytest.raises(ArgumentError, match=r"conv1.* already has weights, of another model"):
        tn.Sequential([*first.layers, tn.Flatten()], (8, 8, 3), seed=5)
    assert np.array_equal(first.state()["conv1.weight"], before)


def test_layers_of_a_model_that_could_not_be_built_can_be_used_again():
    layers = [tn.Conv2D(4), tn.Dense(2)]
    with pytest.raises(ShapeError, match="dense1"):
        tn.Sequential(layers, (8, 8, 3))
    assert tn.Sequential([layers[0], tn.Flatten(), layers[1]], (8, 8, 3)).output_shape == (2,)


def test_the_name_of_the_input_is_not_for_layers():
    with pytest.raises(ArgumentError, match="'input'"):
        tn.Sequential([tn.ReLU(name="input")])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tn.Chain(tn.ReLU()), "Chain: wanted a list of layers, got ReLU"),
        (lambda: tn.Residual(tn.ReLU()), "Residual: wanted a list of layers, got ReLU"),
        (lambda: tn.Residual([3]), "Residual: wanted a list of layers"),
        (lambda: tn.Concatenate([]), "Concatenate: wanted a list of branches"),
        (lambda: tn.Concatenate(5), "Concatenate: wanted a list of branches"),
        (lambda: tn.Concatenate([tn.ReLU()]), "Concatenate: wanted a list of layers, got ReLU"),
        (lambda: tn.Sequential([]), "Sequential: wanted at least one layer"),
    ],
)
def test_blocks_want_lists_of_layers(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_sum_of_different_shapes_is_refused_before_a_weight_is_made():
    block = tn.Residual([tn.Conv2D(4, stride=2)])
    with pytest.raises(
        ShapeError,
        match=r"layer 'residual1' \(Residual\): the body gives \(4, 4, 4\), the shortcut \(8, 8, 3\)",
    ):
        tn.Sequential([block], (8, 8, 3))
    assert not block.branches[0].layers[0].parameters


def test_a_concatenation_of_different_sizes_is_refused():
    block = tn.Concatenate([[tn.MaxPool2D(2)], []])
    with pytest.raises(
        ShapeError, match=r"layer 'concatenate1' .*\(4, 4, 3\), \(8, 8, 3\).*one height and width"
    ):
        tn.Sequential([block], (8, 8, 3))


def test_residual_adds_and_concatenate_joins(kernel_set):
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 2)).astype(np.float32)
    double = tn.Sequential([tn.Residual([])], (4, 5, 2))
    assert np.array_equal(double.predict(x), 2 * x)
    joined = tn.Sequential([tn.Concatenate([[tn.ReLU()], [], [tn.Tanh()]])], (4, 5, 2))
    expected = np.concatenate([np.maximum(x, 0), x, np.tanh(x)], axis=-1)
    np.testing.assert_allclose(joined.predict(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sum_over_flattened_images_pairs_the_same_features(kernel_set, channels):
    features = 4 * 4 * channels
    model = tn.Sequential([tn.Flatten(), tn.Residual([tn.Dense(features)])], (4, 4, channels))
    model.layer("residual1/branch1/dense1").parameters["weight"].data[...] = 10 * np.eye(features)
    x = np.random.default_rng(0).standard_normal((5, 4, 4, channels)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x), 11 * x.reshape(5, -1), rtol=1e-5)


@pytest.mark.parametrize(
    "block",
    [
        lambda: tn.Residual([tn.Conv2D(3)], [tn.Conv2D(3, activation="sigmoid")]),
        lambda: tn.Concatenate([[tn.Conv2D(3)], [tn.Conv2D(3, activation="tanh")]]),
        lambda: tn.Chain([tn.Conv2D(3, activation="sigmoid")]),
        lambda: tn.Chain([tn.Conv2D(3, activation="sigmoid"), tn.Chain([])]),
    ],
)
def test_predict_is_the_forward_pass_also_where_the_model_ends_in_a_block(kernel_set, block):
    model = tn.Sequential([block()], (6, 6, 3))
    x = np.random.default_rng(0).standard_normal((3, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x), model(x).numpy(), rtol=1e-5, atol=1e-6)


# Three families of networks, small: each is made of what is there.


def resnet_like() -> list[tn.Layer]:
    def block(filters: int, stride: int) -> tn.Layer:
        body = [
            tn.Conv2D(filters, 3, stride=stride, use_bias=False), tn.BatchNorm(), tn.ReLU(),
            tn.Conv2D(filters, 3, use_bias=False), tn.BatchNorm(),
        ]  # fmt: skip
        return tn.Residual(body, [tn.Conv2D(filters, 1, stride=stride), tn.BatchNorm()] if stride > 1 else [])

    return [
        tn.Conv2D(8), tn.BatchNorm(), tn.ReLU(), block(8, 1), tn.ReLU(), block(12, 2), tn.ReLU(),
        tn.GlobalAveragePool2D(), tn.Dense(2, "softmax"),
    ]  # fmt: skip


def mobilenet_like() -> list[tn.Layer]:
    def inverted(before: int, after: int, stride: int, expansion: int = 3) -> tn.Layer:
        wide = before * expansion
        body = [
            tn.Conv2D(wide, 1, use_bias=False), tn.BatchNorm(), tn.ReLU6(),
            tn.Conv2D(wide, 3, stride=stride, groups=wide, use_bias=False), tn.BatchNorm(), tn.ReLU6(),
            tn.Conv2D(after, 1, use_bias=False), tn.BatchNorm(),
        ]  # fmt: skip
        return tn.Residual(body) if stride == 1 and before == after else tn.Chain(body)

    return [
        tn.Conv2D(8, stride=2), tn.ReLU6(), inverted(8, 8, 1), inverted(8, 12, 2), inverted(12, 12, 1),
        tn.GlobalAveragePool2D(), tn.Dropout(0.1), tn.Dense(2), tn.Softmax(),
    ]  # fmt: skip


def squeezenet_like() -> list[tn.Layer]:
    def fire(squeeze: int, expand: int) -> list[tn.Layer]:
        branches = [[tn.Conv2D(expand, 1, activation="relu")], [tn.Conv2D(expand, 3, activation="relu")]]
        return [tn.Conv2D(squeeze, 1, activation="relu"), tn.Concatenate(branches)]

    return [
        tn.Conv2D(8, stride=2, activation="relu"), *fire(4, 6), tn.MaxPool2D(3, stride=2),
        tn.Residual(fire(4, 6)), tn.Conv2D(2, 1), tn.GlobalAveragePool2D(), tn.Softmax(),
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [resnet_like, mobilenet_like, squeezenet_like])
def test_known_networks_train_and_come_back_from_a_file(kernel_set, tmp_path, layers):
    x, labels = images()
    model = tn.Sequential(layers(), (16, 16, 3))
    model.compile(tn.AdamW(3e-3), "sparse_categorical_crossentropy")
    before = {name: array.copy() for name, array in model.state().items()}
    losses = model.fit(x, labels, epochs=4, batch_size=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    same = [name for name, array in model.state().items() if np.array_equal(array, before[name])]
    assert not same, f"nothing changed in {same}"
    model.save(tmp_path / "model.safetensors")
    loaded = tn.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict(x), model.predict(x))
    assert [layer.path for layer in loaded.chain.walk()] == [layer.path for layer in model.chain.walk()]
