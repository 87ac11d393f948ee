"""Layers computed together give what they give one by one: results and gradients."""

from __future__ import annotations

import numpy as np
import pytest

import tinynet as tn
from tinynet import functions as F
from tinynet.layers import Context

NETWORKS = {
    "convolution and pooling": lambda: [tn.Conv2D(5, 3, activation="relu"), tn.MaxPool2D(2)],
    "an odd edge is not pooled": lambda: [
        tn.Conv2D(5, 2, padding="valid", activation="relu"),
        tn.MaxPool2D(2),
    ],
    "no activation": lambda: [tn.Conv2D(3, 3), tn.MaxPool2D(2)],
    "no bias": lambda: [tn.Conv2D(3, 3, use_bias=False, activation="relu")],
    "upsampling": lambda: [tn.UpSample2D(2), tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2)],
    "upsampling by 3 and 2": lambda: [tn.UpSample2D((3, 2)), tn.Conv2D(4, (2, 5))],
    "dilation": lambda: [tn.Conv2D(4, 3, dilation=2, activation="relu"), tn.MaxPool2D(2)],
    "what does not fuse": lambda: [
        tn.Conv2D(4, 3, stride=2, activation="relu"),
        tn.Conv2D(4, 3, groups=2, activation="relu"),
        tn.MaxPool2D(3, stride=1),
        tn.Conv2D(4, 3, activation="sigmoid"),
    ],
    "two blocks": lambda: [
        tn.Conv2D(4, 3, activation="relu"),
        tn.MaxPool2D(2),
        tn.Residual([tn.Conv2D(4, 3, activation="relu")]),
        tn.UpSample2D(2),
        tn.Conv2D(3, 3),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 19])
def test_together_as_one_by_one(kernel_set, name, count):
    model = tn.Sequential(NETWORKS[name](), (9, 12, 3), seed=1)
    for parameter in model.parameters().values():
        parameter.data = np.random.default_rng(parameter.size).standard_normal(parameter.shape)  # float64
    x = np.random.default_rng(0).standard_normal((count, 9, 12, 3))
    outcomes = []
    for record in (None, {}):  # recording every layer's result keeps layers apart
        inputs = F.pack(tn.Tensor(x, requires_grad=True))
        inputs.retain_grad()
        output = model(inputs, Context(record=record))
        weights = np.random.default_rng(2).standard_normal(output.shape)
        (F.unpack(output) * weights).sum().backward()
        gradients = [parameter.grad for parameter in model.parameters().values()]
        outcomes.append([output.numpy(), inputs.grad_numpy(), *gradients])
        for parameter in model.parameters().values():
            parameter.grad = None
    for together, apart in zip(*outcomes, strict=True):
        np.testing.assert_allclose(together, apart, rtol=1e-10, atol=1e-10)


def test_layers_do_fuse(monkeypatch):
    """Otherwise the comparison above would compare a thing with itself."""
    from tinynet.layers import fusion

    calls = []
    original = fusion.conv_block
    monkeypatch.setattr(fusion, "conv_block", lambda *a: calls.append(a[3]) or original(*a))
    model = tn.Sequential(NETWORKS["convolution and pooling"](), (8, 8, 3))
    model.logits(np.zeros((1, 8, 8, 3), np.float32))  # predict may divide a batch, or go image by image
    assert len(calls) == 1 and calls[0].pool and calls[0].relu
    model.activations(np.zeros((1, 8, 8, 3), np.float32))
    assert len(calls) == 1


def test_the_last_layers_activation_is_left_to_a_loss_on_logits(kernel_set):
    model = tn.Sequential([tn.Conv2D(2, 3, activation="relu")], (4, 4, 3), seed=3)
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    assert model(x).numpy().min() == 0
    assert model.logits(x).min() < 0
