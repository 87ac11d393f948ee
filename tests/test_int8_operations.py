"""Every int8 operation, on numbers out to the extremes, is what slow Python integers make of the page."""

from __future__ import annotations

import int8_twin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet.deploy.int8 import operations
from tinynet.deploy.int8.operations import (
    Add,
    Affine,
    AveragePool,
    Concatenate,
    Convolution,
    Dense,
    Flatten,
    MaxPool,
    Table,
    UpSample,
)
from tinynet.deploy.int8.program import Program
from tinynet.deploy.int8.values import Store, Value
from tinynet.deploy.int8.windows import pixel_counts
from tinynet.errors import ArgumentError, ShapeError, TinynetError
from tinynet.kernels.window import Window

ZERO = st.sampled_from([-128, 127, 0]) | st.integers(-128, 127)
SEED = st.integers(0, 2**32 - 1)
FEW = st.integers(1, 3)


@st.composite
def stores(draw, count: int, shifts: int | None = None) -> Store:
    low, high = sorted((draw(st.integers(-128, 127)), draw(st.integers(-128, 127))))
    if draw(st.booleans()):
        low, high = -128, 127
    generator = np.random.default_rng(draw(SEED))
    # Mostly factors that leave something between the clamps, some from the whole range.
    wide = draw(st.booleans())
    multiplier = generator.integers(0 if wide else 2**30, 2**31, count).astype(np.int32)
    shift = generator.integers(1 if wide else 31, 63 if wide else 43, shifts or count).astype(np.uint8)
    return Store(draw(st.floats(1e-6, 10)), draw(ZERO), low, high, multiplier, shift)


def numbers(generator, shape, extreme: bool) -> np.ndarray:
    if extreme:
        return generator.choice(np.array([-127, 127], np.int8), shape)
    return generator.integers(-127, 128, shape).astype(np.int8)


@st.composite
def windows(draw, height: int, width: int, pool: bool = False) -> Window:
    size = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
    padding = tuple((draw(st.integers(0, s - 1)), draw(st.integers(0, s - 1))) for s in size)
    fits = not pool and all((s - 1) * 2 < n for s, n in zip(size, (height, width), strict=True))
    dilation = 2 if fits and draw(st.booleans()) else 1
    return Window(size, (draw(FEW), draw(FEW)), (dilation, dilation), padding)


@st.composite
def programs(draw) -> Program:
    """An input, one operation of a drawn kind, and int8 images for it."""
    generator, extreme = np.random.default_rng(draw(SEED)), draw(st.booleans())
    kind = draw(st.sampled_from(sorted(operations.KINDS)))
    images = kind in ("convolution", "max_pool", "average_pool", "upsample")
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    if kind == "dense" or (not images and draw(st.booleans())):
        shape = (draw(st.integers(1, 40)),)
    value = Value(shape, 0.01, draw(ZERO))
    left = draw(st.booleans())  # as sums

    def store(count):
        return 0.5 if left else draw(stores(count))

    def bias(count):
        return generator.integers(-(2**30), 2**30, count).astype(np.int32)

    if kind == "convolution":
        groups = draw(st.sampled_from([g for g in range(1, shape[2] + 1) if shape[2] % g == 0]))
        filters, window = groups * draw(FEW), draw(windows(*shape[:2]))
        weight = numbers(generator, (*window.size, shape[2] // groups, filters), extreme)
        made = Convolution("a", (0,), weight, bias(filters), store(filters), window, groups)
    elif kind == "dense":
        units = draw(st.integers(1, 5))
        weight = numbers(generator, (shape[0], units), extreme)
        made = Dense("a", (0,), weight, bias(units), store(units))
    elif kind == "affine":
        weight = numbers(generator, shape[-1:], extreme)
        made = Affine("a", (0,), weight, bias(shape[-1]), store(shape[-1]))
    elif kind == "average_pool":
        window = draw(windows(*shape[:2], pool=True))
        count = np.unique(pixel_counts(window, shape)).size
        made = AveragePool("a", (0,), window, 0.5 if left and count == 1 else draw(stores(count)))
    elif kind == "max_pool":
        made = MaxPool("a", (0,), draw(windows(*shape[:2], pool=True)))
    elif kind == "add":
        terms = draw(st.integers(2, 4))
        made = Add("a", (0,) * terms, draw(stores(terms, shifts=1)))
    elif kind == "concatenate":
        made = Concatenate("a", (0, 0), draw(stores(2)))
    elif kind == "upsample":
        made = UpSample("a", (0,), (draw(FEW), draw(FEW)))
    elif kind == "flatten":
        made = Flatten("a", (0,))
    else:
        made = Table("a", (0,), numbers(generator, 256, False), 0.1, draw(ZERO))
    return Program(value, (made,))


def inputs(program: Program, seed: int, count: int = 3) -> np.ndarray:
    """Drawn int8 images, the first of them of the two extremes only."""
    generator = np.random.default_rng(seed)
    x = generator.integers(-128, 128, (count, *program.input.shape)).astype(np.int8)
    x[0] = generator.choice(np.array([-128, 127], np.int8), program.input.shape)
    return x


@given(programs(), SEED)
def test_an_operation_is_what_integers_make_of_it(program, seed):
    x = inputs(program, seed)
    found = program.run(x)
    assert found.dtype == np.int32 and found.shape == (3, *program.output.shape)
    for image, result in zip(x, found, strict=True):
        assert np.array_equal(int8_twin.run(program, image).astype(np.int64), result)


@pytest.mark.parametrize("features", [500, 4000])
def test_long_sums_stay_exact_in_either_floating_point_type(features):
    # 500 * 127 * 255 is within 2**24, the whole numbers of float32; 4000 * 127 * 255 is beyond.
    weight = np.full((features, 2), 127, np.int8)
    weight[::2, 1] = -126
    layer = Dense("a", (0,), weight, np.array([1, -1], np.int32), 1.0)
    assert layer.exact_type(-128) is (np.float32 if features == 500 else np.float64)
    program = Program(Value((features,), 1.0, -128), (layer,))
    x = np.full((1, features), 127, np.int8)
    x[0, 7] = 126
    assert program.run(x)[0].tolist() == int8_twin.run(program, x[0]).tolist()


def test_more_images_than_one_step_takes(monkeypatch):
    from tinynet.deploy.int8 import program as module

    weight = np.arange(-60, 60).reshape(2, 3, 4, 5).astype(np.int8)
    layer = Convolution("a", (0,), weight, np.arange(5, dtype=np.int32), 1.0, Window((2, 3)), 1)
    program = Program(Value((6, 6, 4), 1.0, 3), (layer,))
    x = np.random.default_rng(0).integers(-128, 128, (7, 6, 6, 4)).astype(np.int8)
    at_once = program.run(x)
    monkeypatch.setattr(module, "WORKING_VALUES", 1000)  # 480 numbers are what the windows of one image see
    assert program._images_at_once() == 2
    assert np.array_equal(program.run(x), at_once)


# What cannot be computed exactly, or at all, is refused when the program is made.

PICTURE = Value((4, 4, 3), 0.1, -128)
STORE = Store(0.1, 0, -128, 127, np.full(2, 2**30, np.int32), np.full(2, 31, np.uint8))


def dense(**changed):
    fields = {
        "name": "d",
        "inputs": (1,),
        "weight": np.ones((48, 2), np.int8),
        "bias": np.zeros(2, np.int32),
        "store": STORE,
    }
    return Dense(**{**fields, **changed})


def convolution(groups):
    weight, bias = np.ones((1, 1, 3, 2), np.int8), np.zeros(2, np.int32)
    return Convolution("a", (0,), weight, bias, 1.0, Window((1, 1)), groups)


def store(**changed):
    return Store(**{**STORE.__dict__, **changed})


def test_the_program_that_the_refused_ones_differ_from_is_one():
    assert Program(PICTURE, (Flatten("f", (0,)), dense())).output == Value((2,), 0.1, 0)


HUGE = np.full(2, 2**31 - 1, np.int32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dense(bias=HUGE), "could overflow 32 bits"),
        (dense(bias=-HUGE), "could overflow 32 bits"),
        (dense(weight=np.full((48, 2), -128, np.int8)), "a weight is -128"),
        (dense(weight=np.ones((48, 2), np.int16)), "weight has dtype int16, wanted int8"),
        (dense(weight=np.ones((47, 2), np.int8)), r"weight has shape \(47, 2\), wanted \(48, 2\)"),
        (dense(bias=np.zeros(2, np.int64)), "bias has dtype int64"),
        (dense(bias=np.zeros(0, np.int32), weight=np.ones((48, 0), np.int8)), "has no outputs"),
        (dense(store=store(multiplier=-HUGE)), "a multiplier is -2147483647, below 0"),
        (dense(store=store(multiplier=np.ones(3, np.int32))), "multiplier has shape"),
        (dense(store=store(multiplier=np.ones(2, np.int64))), "multiplier has dtype int64"),
        (dense(store=store(shift=np.array([0, 1], np.uint8))), "a shift is not from 1 to 62"),
        (dense(store=store(shift=np.array([1, 63], np.uint8))), "a shift is not from 1 to 62"),
        (dense(store=store(zero=128)), "zero is 128"),
        (dense(store=store(zero=True)), "zero is True"),
        (dense(store=store(low=-129)), "low is -129"),
        (dense(store=store(high=1.0)), "high is 1.0"),
        (dense(store=store(low=5, high=4)), "low 5 is above high 4"),
        (dense(store=store(scale=0.0)), "the scale is 0.0"),
        (dense(store=-1.0), "the scale is -1.0"),
        (dense(store=float("nan")), "the scale is nan"),
        (dense(store="1"), "the scale is '1'"),
        (dense(inputs=(2,)), "reads value 2, which is not there yet"),
        (dense(inputs=(-1,)), "reads value -1"),
        (dense(inputs=(True,)), "reads value True"),
        (dense(inputs=()), "wanted one input"),
        (dense(inputs=(0,)), "wanted one input"),
        (dense(name="f"), "two operations are called 'f'"),
        (Add("a", (0, 1), STORE), "inputs of one shape"),
        (Add("a", (0,), STORE), "two or more inputs"),
        (Add("a", (0, 0), STORE), "shift has shape"),
        (Concatenate("a", (0, 1), STORE), "differ in channels only"),
        (UpSample("a", (0,), (0, 1)), "factor is 0"),
        (UpSample("a", (0,), (2**14, 2**14)), "values and .* operations for one image; at most"),
        (MaxPool("a", (0,), Window((5, 1))), "does not fit"),
        (MaxPool("a", (0,), Window((2, 2), padding=((2, 0), (0, 0)))), "leaves a window without a pixel"),
        (MaxPool("a", (0,), Window((2, 2), dilation=(2, 1))), "a pool has no dilation"),
        (AveragePool("a", (0,), Window((3, 3), padding=((1, 1), (1, 1))), 1.0), "are no logits"),
        (AveragePool("a", (0,), Window((3, 3), padding=((1, 1), (1, 1))), STORE), "multiplier has shape"),
        (
            AveragePool("a", (0,), Window((2**24, 1), padding=((2**24 - 1,) * 2, (0, 0))), STORE),
            "is too large",
        ),
        (Table("a", (0,), np.zeros(255, np.int8), 1.0, 0), "table has shape"),
        (Table("a", (0,), np.zeros(256, np.uint8), 1.0, 0), "table has dtype uint8"),
        (convolution(groups=2), "3 channels, 2 filters in 2 groups"),
        (convolution(groups=0), "groups is 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused(wrong, message):
    with pytest.raises((ArgumentError, ShapeError), match=message):
        Program(PICTURE, (Flatten("f", (0,)), wrong))


def test_only_the_last_operation_may_leave_sums():
    with pytest.raises(ArgumentError, match="only the last operation leaves"):
        Program(PICTURE, (Flatten("f", (0,)), dense(store=1.0), Flatten("g", (2,))))


def test_sums_of_a_window_too_large_for_32_bits_are_refused(monkeypatch):
    monkeypatch.setattr(operations, "LARGEST_SUM", 255 * 15)
    with pytest.raises(ArgumentError, match="could overflow 32 bits"):
        Program(PICTURE, (AveragePool("a", (0,), Window((4, 4)), 1.0),))


def test_a_program_needs_operations_and_an_input_that_can_be():
    with pytest.raises(ArgumentError, match="no operations"):
        Program(PICTURE, ())
    for wrong in (Value((4, 4, 3), 0.1, None), Value((4, 4, 3), 0.1, 200), Value((4, 4, 3), 0.0, 0)):
        with pytest.raises(TinynetError, match="input"):
            Program(wrong, (Flatten("f", (0,)),))
