"""What is drawn at random belongs to (seed, epoch, image, purpose), whatever the order of the work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import kernels, random
from tinynet.data.augment import Augmentation
from tinynet.layers import Context
from tinynet.tensor import no_grad

COUNT, SEED = 37, 11
X = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 12, 3), dtype=np.uint8)


def network() -> tn.Sequential:
    layers = [
        tn.Conv2D(8, 3, activation="relu"),
        tn.Dropout(0.4),
        tn.MaxPool2D(2),
        tn.Flatten(),
        tn.Dense(16, "relu"),
        tn.Dropout(0.5),
        tn.Dense(2, "softmax"),
    ]
    return tn.Sequential(layers, (12, 12, 3), seed=2)


def shown(model: tn.Sequential, epoch: int, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What augmentation makes of these images, and what the network with dropout says of that in training."""
    batch = Augmentation()(X[images], SEED, epoch, images)
    context = Context(training=True, seed=SEED, epoch=epoch, images=images, logits=True)
    with no_grad():
        outputs = model(model.to_tensor(batch), context).numpy()
    return batch, outputs


@settings(max_examples=10)
@given(order=st.permutations(range(COUNT)), size=st.integers(1, COUNT), backwards=st.booleans())
def test_the_work_in_another_order_is_the_same_work(kernel_set, order, size, backwards):
    """Other batches, another order within and between them, epochs last to first: every image as it was."""
    model, everyone = network(), np.arange(COUNT)
    expected = {epoch: shown(model, epoch, everyone) for epoch in range(2)}
    assert not np.array_equal(expected[0][0], expected[1][0])
    assert np.abs(expected[0][1] - expected[1][1]).max() > 0.1  # what another mask would do
    batches = [np.array(order[at : at + size]) for at in range(0, COUNT, size)]
    for epoch in (1, 0) if backwards else (0, 1):
        for batch in batches[::-1] if backwards else batches:
            augmented, outputs = shown(model, epoch, batch)
            assert np.array_equal(augmented, expected[epoch][0][batch])
            if kernel_set.NAME == "numba":
                assert np.array_equal(outputs, expected[epoch][1][batch])
            else:  # the matrix product of another number of images may be summed in another order
                np.testing.assert_allclose(outputs, expected[epoch][1][batch], rtol=1e-4, atol=1e-5)


def test_shuffling_is_each_images_own_number():
    """Where an image comes in an epoch follows from its own key, whoever else is there."""
    everyone = np.arange(COUNT)
    order = random.permutation(SEED, 3, everyone)
    keys = {int(image): random.keys(SEED, 3, np.array([image]), "shuffle")[0] for image in everyone[::-1]}
    assert order.tolist() == sorted(range(COUNT), key=keys.__getitem__)
    without = np.delete(everyone, 5)
    assert random.permutation(SEED, 3, without).tolist() == [i for i in order.tolist() if i != 5]


def test_purposes_draw_independently():
    """Asking for augmentation first, last or never does not move dropout or the order of images."""
    everyone = np.arange(COUNT)
    alone = random.permutation(SEED, 0, everyone), random.keys(SEED, 0, everyone, "dropout1")
    random.uniform(SEED, 0, everyone, "augmentation", 7)
    assert (random.permutation(SEED, 0, everyone) == alone[0]).all()
    assert (random.keys(SEED, 0, everyone, "dropout1") == alone[1]).all()
    assert (
        len({tuple(random.keys(SEED, 0, everyone, name)) for name in ("dropout1", "dropout2", "shuffle")})
        == 3
    )


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_weights_are_the_same_for_any_threads_straight_through_and_interrupted(
    kernel_set, tmp_path, threads, interrupted
):
    def trained(parts: list[tuple[int, int]], path) -> dict[str, bytes]:
        """`parts`: (threads, up to this epoch), each as a new process would go on."""
        for number, epochs in parts:
            tn.set_num_threads(number)
            model = network().compile(tn.AdamW(0.01), "sparse_categorical_crossentropy")
            model.fit(
                np.repeat(X, 4, axis=0), np.arange(4 * COUNT) % 2, epochs=epochs, batch_size=64, seed=SEED,
                augmentation=Augmentation(), verbose=0, callbacks=[tn.BackupAndRestore(path)],
            )  # fmt: skip
        return {name: array.tobytes() for name, array in model.state().items()}

    before = tn.num_threads()
    try:
        expected = trained([(1, 3)], tmp_path / "one.safetensors")
        parts = [(3 - threads, 1), (threads, 3)] if interrupted else [(threads, 3)]
        assert trained(parts, tmp_path / "parts.safetensors") == expected
    finally:
        tn.set_num_threads(before)


def test_the_kernels_in_use_are_those_asked_for(kernel_set):
    """Else the tests above would have tested one set twice."""
    assert kernels.active().NAME == kernel_set.NAME
