"""A float model made int8: folding changes nothing, choices are as docs/int8.md says, answers stay near."""

from __future__ import annotations

import int8_twin
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_networks import NAMED, networks, randomised

import tinynet as tn
from tinynet import kernels
from tinynet.deploy import interpreter
from tinynet.deploy.graph import lower
from tinynet.deploy.int8 import calibration, conversion
from tinynet.deploy.int8.folding import fold
from tinynet.deploy.int8.values import Store
from tinynet.errors import ArgumentError, DataError, NonFiniteError, TinynetError


def images(model: tn.Sequential, count: int = 24, seed: int = 0) -> np.ndarray:
    """uint8 where the model has preprocessing, else float32."""
    x = np.random.default_rng(seed).integers(0, 256, (count, *model.input_shape)).astype(np.uint8)
    return x if model.preprocessing is not None else (x / 255).astype(np.float32)


def made(layers, shape=(12, 12, 3), **options) -> tn.Sequential:
    return randomised(tn.Sequential(layers, shape, **options))


def small(**options) -> tn.Sequential:
    return made(
        [
            tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.BatchNorm(),
            tn.Conv2D(6, 3, activation="relu6"), tn.MaxPool2D(2), tn.BatchNorm(), tn.Flatten(),
            tn.Dense(2, "softmax"),
        ],
        **options,
    )  # fmt: skip


def kinds(graph) -> list[str]:
    return [operation.kind for operation in graph.operations]


# Folding.


@pytest.mark.parametrize("name", NAMED)
def test_folding_changes_no_answer_of_a_named_network(name):
    graph = lower(made(NAMED[name]()))
    x = images(tn.Sequential([tn.ReLU()], graph.input_shape))
    folded = fold(graph)
    assert np.allclose(interpreter.logits(folded, x), interpreter.logits(graph, x), rtol=1e-4, atol=1e-4)


@given(networks())
def test_folding_changes_no_answer(model):
    graph = _lowered(model)
    before, after = (interpreter.logits(g, images(model, 4)) for g in (graph, fold(graph)))
    assert np.allclose(after, before, rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(before).max())))


def _lowered(model):
    try:
        return lower(model)
    except ArgumentError:  # nothing that can be exported was drawn
        assume(False)


def test_batch_norm_folds_where_nothing_is_between_or_padding_does_not_forbid():
    valid = {"padding": "valid"}
    graph = fold(lower(made([tn.Conv2D(4), tn.BatchNorm(), tn.ReLU(), tn.MaxPool2D(), tn.BatchNorm(),
                             tn.Conv2D(4, groups=2, **valid), tn.ReLU(), tn.BatchNorm(), tn.Flatten(),
                             tn.BatchNorm(), tn.Dense(2)])))  # fmt: skip
    assert kinds(graph) == [
        "convolution", "relu", "max_pool", "convolution", "relu", "flatten", "dense",
    ]  # fmt: skip


def test_batch_norm_stays_before_padding_in_two_branches_and_at_the_end():
    for layers in (
        [tn.Conv2D(4, activation="relu"), tn.BatchNorm(), tn.Conv2D(4)],
        [tn.ReLU(), tn.BatchNorm(), tn.Residual([tn.Conv2D(3, 1)])],
        [tn.ReLU(), tn.BatchNorm()],
        [tn.ReLU(), tn.BatchNorm(), tn.MaxPool2D()],
    ):
        assert "affine" in kinds(fold(lower(made(layers))))


# The choices.


def test_the_usual_preprocessing_costs_no_operation_and_a_mean_costs_one():
    usual, model = small(), small(preprocessing=tn.Preprocessing(12, 12, mean=(0.5, 0.4, 0.3)))
    assert usual.quantize("int8", images(usual)).program.operations[0].kind == "convolution"
    int8 = model.quantize("int8", images(model))
    assert [operation.kind for operation in int8.program.operations[:2]] == ["affine", "convolution"]
    assert int8.program.input.scale == 1 / 255 and int8.program.input.zero == -128


def test_a_mean_folds_into_a_convolution_without_padding():
    model = made(
        [tn.Conv2D(4, padding="valid", activation="relu"), tn.Flatten(), tn.Dense(2, "softmax")],
        preprocessing=tn.Preprocessing(12, 12, mean=(0.5, 0.4, 0.3), deviation=(0.3, 0.2, 0.25)),
    )
    int8 = model.quantize("int8", images(model))
    assert int8.program.operations[0].kind == "convolution"
    expected = model.logits(images(model))
    assert np.abs(int8.logits(images(model)) - expected).max() < 0.03 * np.ptp(expected)


def test_a_rectifier_is_the_clamping_of_what_it_follows():
    program = small().quantize("int8", images(small())).program
    first, second = (op.store for op in program.operations if op.kind == "convolution")
    assert (first.zero, first.low, first.high) == (-128, -128, 127)
    assert second.zero == -128 and second.high == min(127, -128 + round(6 / second.scale))
    assert not [op for op in program.operations if op.kind == "table"]


def test_a_rectifier_after_a_maximum_is_taken_before_it():
    model = made([tn.Conv2D(4), tn.MaxPool2D(), tn.ReLU(), tn.Flatten(), tn.Dense(2)])
    program = model.quantize("int8", images(model)).program
    assert [op.kind for op in program.operations] == ["convolution", "max_pool", "flatten", "dense"]
    store = program.operations[0].store
    assert store.low == store.zero == -128


def test_a_rectifier_of_a_value_that_something_else_reads_is_a_table():
    model = made([tn.Conv2D(3, 1), tn.Residual([tn.ReLU()]), tn.Conv2D(2, 1)])
    program = model.quantize("int8", images(model)).program
    assert [op.kind for op in program.operations] == ["convolution", "table", "add", "convolution"]


def test_the_last_layer_has_one_scale_and_leaves_sums():
    program = small().quantize("int8", images(small())).program
    assert program.output.zero is None and isinstance(program.operations[-1].store, float)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3), st.booleans())
def test_weights_are_off_by_half_a_step_and_the_bound_on_sums_holds(seed, input_scale, extreme):
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((5, 7)).astype(np.float32)
    bias = generator.standard_normal(7).astype(np.float32)
    if extreme:
        weight *= 10.0 ** generator.integers(-20, 10, 7)
        bias *= 10.0 ** generator.integers(-20, 10, 7)
    weight[:, 0], bias[0] = 0, 0
    scales = conversion.weight_scales(weight, bias, input_scale)
    whole = np.floor(weight / scales + 0.5)
    assert np.abs(whole).max() <= 127
    assert np.abs(whole * scales - weight).max(axis=0).max() <= (scales / 2).max() * 1.0001
    total = np.abs(np.floor(bias / (input_scale * scales) + 0.5)) + 256 * np.abs(whole).sum(axis=0)
    assert total.max() <= 2**31 - 1


@pytest.mark.parametrize("features", [3, 200_000])
def test_a_layer_of_any_width_can_be_made_int8(features):
    model = tn.Sequential([tn.Dense(2)], (features,))
    x = np.random.default_rng(0).random((4, features)).astype(np.float32)
    error = model.quantize("int8", x).logits(x) - model.logits(x)
    assert np.abs(error).max() < 0.02 * max(1.0, float(np.abs(model.logits(x)).max()))


def test_a_multiplier_is_the_ratio_of_the_scales():
    program = small().quantize("int8", images(small())).program
    model = small()
    first = program.operations[0]
    scales = conversion.weight_scales(
        model.layers[0].parameters["weight"].data, model.layers[0].parameters["bias"].data, 1 / 255
    )
    found = first.store.multiplier / 2.0 ** first.store.shift.astype(np.float64)
    assert np.allclose(found, scales / 255 / first.store.scale, rtol=1e-8, atol=0)


# Answers.


@pytest.mark.parametrize("method", calibration.METHODS)
def test_the_answers_stay_near_those_of_the_float_model(method):
    model = small()
    int8 = model.quantize("int8", images(model, 64), method)
    assert np.abs(int8.predict(images(model, 64, 1)) - model.predict(images(model, 64, 1))).max() < 0.06


SOFTMAX_INSIDE = ("softmax over channels", "norm after flatten, dropout, one sigmoid", "ends in dropout")


@pytest.mark.parametrize("name", [name for name in NAMED if name not in SOFTMAX_INSIDE])
def test_a_named_network_stays_near_and_is_what_integers_make_of_it(name):
    model = made(NAMED[name](), (7, 7, 3))
    int8, x = model.quantize("int8", images(model)), images(model)
    expected = model.logits(x)
    assert np.abs(int8.logits(x) - expected).max() < 0.06 * np.ptp(expected)
    integers = int8.integers(x[:2])
    for image, found in zip(int8.encode(x[:2]), integers, strict=True):
        assert np.array_equal(int8_twin.run(int8.program, image).astype(np.int64), found)


@given(networks())
def test_a_drawn_network_stays_near_the_float_one(model):
    _lowered(model)
    x = images(model)
    with kernels.using("numpy"):
        try:
            int8 = model.quantize("int8", x)
        except ArgumentError as problem:
            assert "softmax" in str(problem)
            return
        expected = model.logits(x)
    error = int8.logits(x) - expected
    assert np.sqrt(np.mean(error**2)) <= 0.1 * np.ptp(expected) + 1e-4


def test_sigmoid_and_images_come_out_as_from_the_float_model():
    single = made([tn.Flatten(), tn.Dense(1, "sigmoid")], (4, 4, 3))
    pixels = made([tn.Conv2D(3, 3)], (6, 6, 3))
    for model in (single, pixels):
        x = images(model)
        assert np.abs(model.quantize("int8", x).predict(x) - model.predict(x)).max() < 0.05


# Calibration.


def test_percentile_and_mse_leave_out_a_lonely_outlier_and_max_does_not():
    graph = lower(tn.Sequential([tn.ReLU(), tn.ReLU()], (1000,)))
    x = np.abs(np.random.default_rng(0).standard_normal((1000, 1000))).astype(np.float32)
    x[3, 5] = 50.0
    tops = {method: calibration.ranges(graph, x, method)[0][1] for method in calibration.METHODS}
    assert tops["max"] == 50
    assert tops["percentile"] < 6 and tops["mse"] < 30


def test_ranges_hold_zero_and_do_not_depend_on_how_many_images_run_at_once(monkeypatch):
    model = small()
    graph = fold(lower(model))
    x = images(model) / np.float32(255)
    once = calibration.ranges(graph, x, "percentile")
    monkeypatch.setattr(calibration, "VALUES_AT_ONCE", 1)
    assert np.allclose(calibration.ranges(graph, x, "percentile"), once, rtol=1e-4, atol=1e-5)
    assert all(low <= 0 <= high for low, high in once)


# Correction of biases.


def _mean_errors(model, x, correction):
    """Of the logits' means, by class."""
    int8 = conversion.convert(model, x, "max", correction=correction)
    return np.abs((int8.logits(x) - model.logits(x)).mean(axis=0))


def test_correction_takes_out_what_rounding_and_clamping_do_to_the_means():
    model = small()
    model.layers[3].parameters["weight"].data[...] += 0.03  # which rounds the same way in many places
    x = images(model, 200)
    assert _mean_errors(model, x, True).max() < 0.1 * _mean_errors(model, x, False).max()


def test_correction_changes_biases_only_and_takes_fewer_images_where_they_are_too_many(monkeypatch):
    from tinynet.deploy.int8 import correction

    model = small()
    x = images(model, 40)
    plain = conversion.convert(model, x, "max", correction=False).program
    whole = conversion.convert(model, x, "max").program
    for before, after in zip(plain.operations, whole.operations, strict=True):
        if hasattr(before, "weight"):
            assert np.array_equal(before.weight, after.weight)
    monkeypatch.setattr(correction, "KEPT", 12 * 12 * 4 * 20)  # 20 of the 40
    half = conversion.convert(model, x, "max").program
    assert np.array_equal(half.operations[0].weight, whole.operations[0].weight)
    assert any((a.bias != b.bias).any() for a, b in zip(half.operations, plain.operations, strict=True)
               if hasattr(a, "bias"))  # fmt: skip
    assert half.run(conversion.convert(model, x).encode(x)).shape == (40, 2)


# What cannot be done is one sentence.


def test_without_images_there_is_nothing_to_calibrate_with():
    model = small()
    for nothing in (None, images(model)[:0], []):
        with pytest.raises(DataError, match="int8 needs images to calibrate with"):
            model.quantize("int8", nothing)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), r"must be \(n, 12, 12, 3\), got \(2, 8, 8, 3\)"),
        (np.zeros((2, 12, 12, 3), np.float32), "must be uint8, got float32"),
    ],
)
def test_images_of_another_kind_are_refused(x, message):
    with pytest.raises(ArgumentError, match=message):
        small().quantize("int8", x)


def test_a_model_of_floats_wants_floats_that_are_finite():
    model = tn.Sequential([tn.Dense(2)], (5,))
    with pytest.raises(ArgumentError, match="must be float32"):
        model.quantize("int8", np.zeros((2, 5), np.uint8))
    with pytest.raises(NonFiniteError, match="the input has NaN"):
        model.quantize("int8", np.full((2, 5), np.nan, np.float32))


def test_other_words_for_the_format_and_the_method_are_refused():
    model = small()
    with pytest.raises(ArgumentError, match='must be "int8" or "float16"'):
        model.quantize("int4", images(model))
    with pytest.raises(ArgumentError, match="calibration must be one of max, percentile, mse"):
        model.quantize("int8", images(model), "entropy")


def test_a_softmax_in_the_middle_is_refused_by_name():
    model = tn.Sequential([tn.Flatten(), tn.Dense(3, "softmax"), tn.Dense(2)], (4, 4, 3))
    with pytest.raises(ArgumentError, match="'dense1': int8 has no softmax before the end"):
        model.quantize("int8", images(model))


def test_weights_with_nan_are_refused_by_name():
    model = small()
    model.state()["conv1.weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"conv1\.weight"):
        model.quantize("int8", images(model))


def test_a_model_without_weights_or_already_int8_is_refused():
    with pytest.raises(TinynetError, match="has no weights yet"):
        tn.Sequential([tn.Flatten(), tn.Dense(2)]).quantize("int8", np.zeros((1, 4, 4, 3), np.uint8))
    int8 = small().quantize("int8", images(small()))
    with pytest.raises(ArgumentError, match="only a float model can be made int8"):
        conversion.convert(int8, images(small()))


def test_every_store_that_conversion_makes_is_31_bits_where_its_factor_allows():
    program = small().quantize("int8", images(small())).program
    stores = [op.store for op in program.operations if isinstance(getattr(op, "store", None), Store)]
    assert stores and all((store.multiplier >= 2**30).all() for store in stores)
