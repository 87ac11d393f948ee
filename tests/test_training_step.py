"""A recorded training step does what an ordinary one does, bit for bit; what cannot be recorded is not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import AVAILABLE
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import kernels
from tinynet.kernels import recording
from tinynet.kernels.threads import num_threads, set_num_threads
from tinynet.training_step import TrainingStep

pytestmark = pytest.mark.skipif("numba" not in AVAILABLE, reason="only Numba's kernels are recorded")
STEPS, CLASSES, CROSS_ENTROPY = 4, 3, "sparse_categorical_crossentropy"
MAKERS = {
    "fused, upsampled": lambda: [
        tn.Conv2D(5, 3, activation="relu"),
        tn.MaxPool2D(2),
        tn.Conv2D(4, 3),
        tn.UpSample2D(2),
        tn.Conv2D(3, 3, activation="relu"),
        tn.BatchNorm(),
    ],
    "not fused": lambda: [
        tn.Conv2D(6, 3, stride=2, groups=3),
        tn.ReLU6(),
        tn.AveragePool2D(2),
        tn.UpSample2D(2),
        tn.MaxPool2D(3, stride=1, padding="same"),
        tn.Dropout(0.4),
    ],
    "by Winograd": lambda: [tn.Conv2D(32, 3, activation="relu"), tn.Conv2D(32, 3, activation="relu")],
    "branches": lambda: [
        tn.Residual([tn.Conv2D(4, 3), tn.BatchNorm(), tn.ReLU(), tn.Conv2D(3, 3)]),
        tn.Concatenate([[tn.Conv2D(2, 1)], [tn.MaxPool2D(3, stride=1, padding="same")], []]),
        tn.ReLU(),
    ],
}
HEADS = {
    "dense": lambda: [tn.Flatten(), tn.Dense(7, "relu"), tn.Dropout(0.3), tn.Dense(CLASSES, "softmax")],
    "pooled": lambda: [tn.GlobalAveragePool2D(), tn.BatchNorm(), tn.Dense(CLASSES, "softmax")],
}


def classifier(body: str, head: str) -> tn.Sequential:
    model = tn.Sequential([*MAKERS[body](), *HEADS[head]()], (8, 8, 3), seed=3)
    return model.compile(tn.RMSprop(1e-2), tn.losses.sparse_categorical_crossentropy(0.1))


def trained(model: tn.Sequential, batches, record: bool) -> tuple[list[float], dict[str, np.ndarray], list]:
    """Losses and state after a step on each of the batches, and why recordings were refused."""
    step = TrainingStep(model, seed=5, epoch=2)
    if not record:
        step._may_record = lambda batch, labels: False
    losses, optimizer = [], model.compiled()[0]
    for images, labels, places in batches:
        loss, _ = step(images, labels, places)
        losses.append(loss)
        optimizer.step(step.parameters)
        for parameter in step.parameters.values():
            parameter.grad = None
    return losses, model.state(), [one.made.refused for one in step._seen.values() if one]


def drawn_batches(seed: int, count: int, labelled: bool, dtype: str = "uint8") -> list:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(0, 256, (count, 8, 8, 3)).astype(dtype),
            rng.integers(0, CLASSES, count) if labelled else None,
            rng.permutation(1000)[:count],
        )
        for _ in range(STEPS)
    ]


@settings(max_examples=12)
@given(
    body=st.sampled_from(sorted(MAKERS)),
    head=st.sampled_from(sorted(HEADS)),
    count=st.integers(1, 50),
    frozen=st.booleans(),
    dtype=st.sampled_from(("uint8", "float32")),
    in_order=st.booleans(),
    threads=st.sampled_from((1, 2, 3)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_classifier_is_trained_to_the_same_bits(body, head, count, frozen, dtype, in_order, threads, seed):
    batches, before = drawn_batches(seed, count, True, dtype), num_threads()
    if not in_order:  # views whose memory is not in row-major order
        batches = [(images[:, ::-1], labels, places) for images, labels, places in batches]
    models = [classifier(body, head) for _ in range(2)]
    for model in models:
        if frozen:
            model.freeze(model.layers[0].path)
    try:
        set_num_threads(threads)
        with kernels.using("numba"):
            losses, state, refused = trained(models[0], batches, record=True)
            plain, expected, _ = trained(models[1], batches, record=False)
    finally:
        set_num_threads(before)
    assert refused == [None]
    assert losses == plain and len(set(losses)) > 1
    assert all(state[name].tobytes() == expected[name].tobytes() for name in expected)


@settings(max_examples=6)
@given(body=st.sampled_from(["fused, upsampled", "by Winograd"]), count=st.integers(1, 40))
def test_a_reconstruction_is_trained_to_the_same_bits(body, count):
    def model() -> tn.Sequential:
        made = tn.Sequential([*MAKERS[body](), tn.Conv2D(3, 3)], (8, 8, 3), seed=3)
        return made.compile(tn.AdamW(1e-2), "mse")

    batches = drawn_batches(count, count, labelled=False)
    with kernels.using("numba"):
        losses, state, refused = trained(model(), batches, record=True)
        plain, expected, _ = trained(model(), batches, record=False)
    assert refused == [None]
    assert losses == plain
    assert all(state[name].tobytes() == expected[name].tobytes() for name in expected)


def test_what_is_not_recorded_is_refused_and_trained_all_the_same():
    def model() -> tn.Sequential:
        layers = [tn.Conv2D(4, 3, activation="tanh"), tn.Flatten(), tn.Dense(CLASSES, "softmax")]
        return tn.Sequential(layers, (8, 8, 3)).compile("sgd", "sparse_categorical_crossentropy")

    batches = drawn_batches(0, 10, labelled=True)
    with kernels.using("numba"):
        losses, _, refused = trained(model(), batches, record=True)
        plain, _, _ = trained(model(), batches, record=False)
    assert refused == ["Tanh"]
    assert losses == plain


class Twice(tn.Layer):
    """One weight in two convolutions."""

    def build(self, input_shape, rng):
        self.new_parameter("weight", (3, 3, 3, 3), lambda: 0.2 * rng.standard_normal((3, 3, 3, 3)))
        return super().build(input_shape, rng)

    def forward(self, x, context):
        weight = self.parameters["weight"]
        return tn.functional.conv2d(tn.functional.relu(tn.functional.conv2d(x, weight)), weight)


class Drops(tn.Layer):
    """Dropout with keys that it asks for itself."""

    def forward(self, x, context):
        return tn.functional.dropout(x, 0.3, context.keys(self.path, x.shape[0]))


@pytest.mark.parametrize("layer", [Twice, Drops])
@pytest.mark.parametrize("asked_anyway", [False, True])
def test_layers_of_ones_own_are_not_recorded(layer, asked_anyway):
    def model() -> tn.Sequential:
        layers = [layer(), tn.Flatten(), tn.Dense(CLASSES, "softmax")]
        return tn.Sequential(layers, (8, 8, 3), seed=3).compile(tn.SGD(0.1), CROSS_ENTROPY)

    batches = drawn_batches(0, 10, labelled=True)
    with kernels.using("numba"):
        step = TrainingStep(model())
        assert not step._recordable
        if asked_anyway and layer is Twice:  # a recording notices this one by itself
            step._recordable = True
            for images, labels, places in batches:
                step(images, labels, places)
                for parameter in step.parameters.values():
                    parameter.grad = None
            assert [one.made.refused for one in step._seen.values()] == ["a weight that is used twice"]
        losses, _, refused = trained(model(), batches, record=True)
        plain, _, _ = trained(model(), batches, record=False)
    assert refused == [] and losses == plain


def test_a_loss_of_ones_own_is_not_recorded():
    def turned(output, labels):
        return tn.functional.softmax_cross_entropy(output, (labels + 1) % CLASSES)

    def model() -> tn.Sequential:
        layers = [tn.Flatten(), tn.Dense(CLASSES, "softmax")]
        made = tn.Sequential(layers, (8, 8, 3), seed=3)
        return made.compile(tn.SGD(0.1), tn.losses.Loss("turned", turned, "softmax"))

    batches = drawn_batches(0, 10, labelled=True)
    with kernels.using("numba"):
        losses, _, refused = trained(model(), batches, record=True)
        plain, _, _ = trained(model(), batches, record=False)
    assert refused == [] and losses == plain


@pytest.mark.parametrize("change", ["weights", "statistics", "frozen"])
def test_weights_in_other_arrays_are_noticed(change):
    batches = drawn_batches(0, 10, labelled=True) * 2

    def losses(record: bool) -> list[float]:
        model = classifier("fused, upsampled", "pooled")
        step, found = TrainingStep(model), []
        step._recordable &= record
        for number, batch in enumerate(batches):
            if number == STEPS:
                state = {name: array.copy() for name, array in model.state().items()}
                if change == "weights":
                    state["conv1.weight"] *= 2
                    model.load_state(state)
                elif change == "statistics":
                    model.layer("norm1").buffers["running_mean"] = state["norm1.running_mean"] + 1
                    model.freeze("norm1")
                else:
                    model.freeze("conv1")
            loss, _ = step(*batch)
            found.append(loss)
            step.model.optimizer.step(step.parameters)
            for parameter in step.parameters.values():
                parameter.grad = None
        return found

    with kernels.using("numba"):
        assert losses(record=True) == losses(record=False)


def test_batches_of_two_shapes_have_a_recording_each():
    large, small = drawn_batches(0, 20, labelled=True), drawn_batches(1, 7, labelled=True)
    batches = [batch for pair in zip(large, small, strict=True) for batch in pair]
    with kernels.using("numba"):
        losses, _, refused = trained(classifier("fused, upsampled", "dense"), batches, record=True)
        plain, _, _ = trained(classifier("fused, upsampled", "dense"), batches, record=False)
    assert refused == [None, None]
    assert losses == plain


def test_a_recording_keeps_the_order_of_what_it_is_told():
    done = []
    numbers = np.zeros(1)
    with recording.recording() as made:
        recording.after(lambda: done.append("after"))
        total = recording.in_order(lambda: numbers + 1)
        recording.before(lambda: done.append("before"))
        recording.in_order(lambda: done.append("in order"))
    assert done == ["after", "before", "in order"]  # as they came
    assert recording.being_made() is None
    numbers[0] = 5
    done.clear()
    kernels._choose("numba").again(made)
    assert done == ["before", "in order", "after"]
    assert total[0] == 6


def test_outside_a_recording_calls_are_only_made():
    assert recording.before(lambda: 3) == 3
    recording.refuse("nothing is being recorded")
    assert recording.being_made() is None


def test_the_recording_is_this_threads_alone():
    import threading

    with recording.recording() as made:
        thread = threading.Thread(target=lambda: recording.after(lambda: None))
        thread.start()
        thread.join()
    assert not made.last
