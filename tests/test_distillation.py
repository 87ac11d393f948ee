"""Distillation: the loss and its gradient, what teachers are shown, and that students learn from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import functional as F
from tinynet import kernels, losses
from tinynet.data.augment import STAINED, Augmentation
from tinynet.data.synthetic import synthetic_cells
from tinynet.distillation import Teaching
from tinynet.errors import ArgumentError, ShapeError
from tinynet.tensor import Tensor

RNG = np.random.default_rng(0)
LOGITS, SOFT = RNG.normal(0, 2, (6, 3)), RNG.dirichlet(np.ones(3), 6)
LABELS = RNG.integers(0, 3, 6)
HARD = np.eye(3)[LABELS]


@pytest.fixture(autouse=True)
def one_kernel_set():
    with kernels.using("numpy"):
        yield


def model(size: int = 16, seed: int = 0, ending: str = "softmax", name: str = "model") -> tn.Sequential:
    last = tn.Dense(2, "softmax") if ending == "softmax" else tn.Dense(1, "sigmoid")
    return tn.Sequential(
        [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(4), tn.Flatten(), last],
        (size, size, 3), seed=seed, name=name,
    )  # fmt: skip


# The loss.


@given(st.floats(0.1, 20), st.floats(0, 1))
def test_the_loss_is_the_formulas_mix_of_two_cross_entropies(temperature, weight):
    found = F.distillation(LOGITS, HARD, SOFT, temperature=temperature, weight=weight).item()
    hard = F.softmax_cross_entropy(LOGITS, LABELS).item()
    soft = F.softmax_cross_entropy(LOGITS / temperature, SOFT).item()
    assert found == pytest.approx((1 - weight) * hard + weight * temperature**2 * soft)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (1.0, 1.0), (4.0, 0.9), (0.5, 0.3)])
def test_the_gradient_is_the_losss(kernel_set, temperature, weight):
    given = {"temperature": temperature, "weight": weight}
    assert tn.gradcheck(lambda x: F.distillation(x, HARD, SOFT, **given), (LOGITS,))


def test_a_student_who_says_what_the_teacher_says_has_no_gradient_from_it():
    x = Tensor(LOGITS)
    x.requires_grad = True
    soft = F.softmax(Tensor(LOGITS / 3)).numpy()
    F.distillation(x, HARD, soft, temperature=3, weight=1).backward()
    np.testing.assert_allclose(x.grad, 0, atol=1e-15)


def test_it_is_the_cross_entropy_of_pytorchs_documented_recipe():
    torch = pytest.importorskip("torch")
    x = torch.tensor(LOGITS, requires_grad=True)
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(x / 2, dim=1), torch.tensor(SOFT), reduction="batchmean"
    ) * 4  # fmt: skip
    loss = 0.25 * torch.nn.functional.cross_entropy(x, torch.tensor(LABELS)) + 0.75 * soft
    loss.backward()
    own = Tensor(LOGITS)
    own.requires_grad = True
    value = F.distillation(own, HARD, SOFT, temperature=2, weight=0.75)
    value.backward()
    entropy = -(SOFT * np.log(SOFT)).sum(axis=1).mean()  # by which a divergence is less than a cross-entropy
    assert value.item() == pytest.approx(loss.item() + 0.75 * 4 * entropy)
    np.testing.assert_allclose(own.grad, x.grad.numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    ("labels", "soft", "options", "error"),
    [
        (HARD[:5], SOFT, {}, ShapeError),
        (HARD, SOFT[:, :2], {}, ShapeError),
        (HARD, SOFT * 2, {}, ArgumentError),
        (HARD, SOFT - 0.5, {}, ArgumentError),
        (HARD, SOFT, {"temperature": 0}, ArgumentError),
        (HARD, SOFT, {"weight": 1.5}, ArgumentError),
        (HARD, SOFT, {"weight": True}, ArgumentError),
    ],
)
def test_what_does_not_fit_together_is_refused(labels, soft, options, error):
    with pytest.raises(error, match="distillation"):
        F.distillation(LOGITS, labels, soft, **{"temperature": 2.0, "weight": 0.5, **options})


def test_the_named_loss_takes_both_kinds_of_targets_and_comes_back_from_json():
    loss = losses.distillation(3.0, 0.4)
    both = loss(Tensor(LOGITS), np.concatenate([HARD, SOFT], axis=1)).item()
    assert both == F.distillation(LOGITS, HARD, SOFT, temperature=3.0, weight=0.4).item()
    assert loss(Tensor(LOGITS), LABELS).item() == F.softmax_cross_entropy(LOGITS, LABELS).item()
    right = int((LOGITS.argmax(axis=1) == LABELS).sum())
    assert loss.right(LOGITS, LABELS) == right == loss.right(LOGITS, np.concatenate([HARD, SOFT], axis=1))
    assert losses.loss_from_config(json.loads(json.dumps(loss.config()))) == loss
    with pytest.raises(ArgumentError, match="weight"):
        losses.distillation(2.0, -1)
    with pytest.raises(ArgumentError, match="softmax"):
        model(ending="sigmoid").compile("sgd", loss)


# What teachers are shown.

CELLS = synthetic_cells(40, size=16, seed=0)
LARGE = synthetic_cells(40, size=32, seed=0)


def said(teacher: tn.Sequential, images: np.ndarray, temperature: float) -> np.ndarray:
    return F.softmax(Tensor(teacher.logits(images) / temperature)).numpy()


def test_teachers_see_the_cell_as_the_student_does_at_their_own_size():
    small, large = model(16, 1), model(32, 2)
    teaching = Teaching([small, large], [CELLS.images, LARGE.images], CELLS.labels, 3.0, STAINED)
    few = np.array([7, 3, 30])
    shown, targets = teaching(CELLS.images[few], 5, 2, few)
    assert np.array_equal(shown, STAINED(CELLS.images[few], 5, 2, few))
    assert np.array_equal(targets[:, :2], np.eye(2)[CELLS.labels[few]])
    expected = (said(small, shown, 3.0) + said(large, STAINED(LARGE.images[few], 5, 2, few), 3.0)) / 2
    np.testing.assert_allclose(targets[:, 2:], expected, atol=1e-6)
    assert targets.dtype == np.float32


@pytest.mark.parametrize("options", [{"augmentation": None}, {"augmentation": Augmentation(), "once": True}])
def test_without_augmentation_or_when_asked_they_see_it_once_as_it_is(options, monkeypatch):
    teacher, calls = model(16, 1), []
    original = type(teacher).logits
    monkeypatch.setattr(type(teacher), "logits", lambda self, x: calls.append(1) or original(self, x))
    teaching = Teaching([teacher], [CELLS.images], CELLS.labels, **options)
    few = np.array([4, 9])
    for epoch in range(3):
        _, targets = teaching(CELLS.images[few], 0, epoch, few)
    assert len(calls) == 1
    np.testing.assert_allclose(targets[:, 2:], said(teacher, CELLS.images, 2.0)[few], atol=1e-6)


def test_a_teachers_own_temperature_comes_first_and_a_sigmoid_is_two_classes():
    teacher = model(16, 1, "sigmoid")
    teacher.temperature = 2.0
    teaching = Teaching([teacher], [CELLS.images], CELLS.labels, 1.0)
    _, targets = teaching(CELLS.images[:8], 0, 0, np.arange(8))
    np.testing.assert_allclose(targets[:, 3], teacher.predict(CELLS.images[:8])[:, 0], rtol=1e-5)
    np.testing.assert_allclose(targets[:, 2:].sum(axis=1), 1, rtol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(8)))
def test_an_image_has_the_same_targets_wherever_it_stands(order):
    teaching = Teaching([model(16, 1)], [CELLS.images], CELLS.labels, augmentation=Augmentation())
    _, whole = teaching(CELLS.images[:8], 1, 1, np.arange(8))
    _, mixed = teaching(CELLS.images[list(order)], 1, 1, np.array(order))
    np.testing.assert_allclose(mixed, whole[list(order)], rtol=1e-6)


def test_resuming_tells_teachers_apart():
    names = [repr(Teaching([model(16, seed)], [CELLS.images], CELLS.labels)) for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("teachers", "pictures", "error"),
    [
        ([], [], ArgumentError),
        ([tn.Sequential([tn.Conv2D(2, 3)], (16, 16, 3))], [CELLS.images], ArgumentError),
        ([tn.Sequential([tn.Flatten(), tn.Dense(3, "softmax")], (16, 16, 3)), model()], [CELLS.images] * 2,
         ArgumentError),
        ([model(32)], [CELLS.images], ShapeError),
        ([model()], [CELLS.images[:7]], ShapeError),
        ([model()], [], ShapeError),
    ],
)  # fmt: skip
def test_teachers_that_cannot_teach_are_refused(teachers, pictures, error):
    with pytest.raises(error, match="distillation"):
        Teaching(teachers, pictures, CELLS.labels)


def test_a_student_comes_to_say_what_its_teacher_says():
    teacher, student = model(16, 1, name="teacher"), model(16, 2, name="student")
    teacher.layers[-1].parameters["weight"].data *= 4  # so that it says something
    labels = 1 - teacher.predict(CELLS.images).argmax(axis=1)  # the opposite: only the teacher can teach this
    student.compile(tn.RMSprop(3e-3), losses.distillation(2.0, 1.0))
    teaching = Teaching([teacher], [CELLS.images], labels, 2.0)
    student.fit(CELLS.images, labels, epochs=60, batch_size=20, augmentation=teaching, verbose=0)
    told, learned = teacher.predict(CELLS.images)[:, 1], student.predict(CELLS.images)[:, 1]
    assert np.corrcoef(told, learned)[0, 1] > 0.75
