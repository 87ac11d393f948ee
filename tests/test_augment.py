"""Augmentation: the transforms it promises, for each image its own, and the same ones every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import kernels
from tinynet.data.augment import STAINED, TABLE_2, Augmentation
from tinynet.errors import ArgumentError, ShapeError

NONE = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "shear": 0.0}
STILL = Augmentation(**NONE, horizontal_flip=False, vertical_flip=False)
INDICES = np.arange(200)


def cells(count: int = 12, height: int = 16, width: int = 14) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def test_without_any_transform_the_images_are_the_same(kernel_set):
    x = cells()
    assert np.array_equal(STILL(x, 0, 0, np.arange(12)), x)


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_flips_are_mirror_images_of_about_half(kernel_set, horizontal, vertical):
    x = cells(200)
    flipped = Augmentation(**NONE, horizontal_flip=horizontal, vertical_flip=vertical)(x, 1, 0, INDICES)
    forms = {"none": x, "across": x[:, :, ::-1], "down": x[:, ::-1], "both": x[:, ::-1, ::-1]}
    counts = {
        name: sum(np.array_equal(a, b) for a, b in zip(flipped, form, strict=True))
        for name, form in forms.items()
    }
    assert sum(counts.values()) == 200
    assert 70 <= counts["across"] + counts["both"] <= 130 if horizontal else not counts["across"]
    assert 70 <= counts["down"] + counts["both"] <= 130 if vertical else not counts["down"]


def test_both_kernel_sets_make_the_same_bytes():
    if kernels.numba_problem():
        pytest.skip("Numba is not here")
    x, found = cells(40), []
    for name in ("numpy", "numba"):
        with kernels.using(name):
            found.append(Augmentation()(x, 3, 5, np.arange(40)))
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], x)


@given(st.integers(0, 2**40), st.integers(0, 500), st.permutations(range(12)))
def test_an_image_is_transformed_alike_wherever_it_stands(seed, epoch, order):
    order, x = np.array(order), cells()
    whole = Augmentation()(x, seed, epoch, np.arange(12))
    assert np.array_equal(Augmentation()(x[order], seed, epoch, order), whole[order])
    assert np.array_equal(Augmentation()(x[3:4], seed, epoch, np.array([3])), whole[3:4])


def test_every_epoch_and_seed_shows_something_else(kernel_set):
    x = cells()
    found = [Augmentation()(x, seed, epoch, np.arange(12)) for seed in (0, 1) for epoch in (0, 1)]
    assert len({array.tobytes() for array in found}) == 4


def parts(augmentation: Augmentation, size: tuple[int, int] = (31, 31)) -> np.ndarray:
    return augmentation.transforms(size, 0, 0, INDICES) / 65536


def test_rotation_takes_every_direction_and_keeps_lengths():
    matrix = parts(Augmentation(**{**NONE, "rotation": 180.0}, horizontal_flip=False, vertical_flip=False))
    angles = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert np.histogram(angles, 8, (-180, 180))[0].min() >= 10  # 25 expected
    np.testing.assert_allclose(np.linalg.det(matrix[:, :, :2]), 1, atol=1e-3)
    middle = matrix[:, :, :2] @ [15, 15] + matrix[:, :, 2]
    np.testing.assert_allclose(middle, 15, atol=1e-2)  # about the middle of the picture


def test_scale_enlarges_only():
    matrix = parts(Augmentation(**{**NONE, "scale": 0.25}, horizontal_flip=False, vertical_flip=False))
    zoom = 1 / matrix[:, 0, 0]
    assert zoom.min() >= 0.999 and zoom.max() <= 1.251 and zoom.max() - zoom.min() > 0.2
    np.testing.assert_allclose(matrix[:, 0, 0], matrix[:, 1, 1])


def test_shift_is_a_share_of_width_and_height_both_ways():
    augmentation = Augmentation(**{**NONE, "shift": 0.1}, horizontal_flip=False, vertical_flip=False)
    matrix = parts(augmentation, (20, 50))
    for axis, most in ((0, 5.0), (1, 2.0)):
        shift = matrix[:, axis, 2]
        assert np.abs(shift).max() <= most + 1e-3
        assert shift.min() < -0.8 * most and shift.max() > 0.8 * most


def test_shear_leans_both_ways():
    matrix = parts(Augmentation(**{**NONE, "shear": 0.1}, horizontal_flip=False, vertical_flip=False))
    lean = matrix[:, 0, 1]
    assert lean.min() < -0.08 and lean.max() > 0.08 and np.abs(lean).max() <= 0.1001
    assert not matrix[:, 1, 0].any()


def test_a_quarter_turn_is_a_quarter_turn(kernel_set):
    x = cells(1, 15, 15)
    turn = np.array([[[0, -65536, 14 * 65536], [65536, 0, 0]]], np.int32)
    assert np.array_equal(kernel_set.warp(x, turn)[0], np.rot90(x[0], 1))


def test_what_comes_from_outside_is_black(kernel_set):
    white = np.full((50, 16, 16, 3), 255, np.uint8)
    turned = Augmentation()(white, 0, 0, np.arange(50))
    assert (turned[:, 5:11, 5:11] == 255).all()
    assert (turned[:, 0, 0] == 0).all(axis=-1).any()


# Stains.

STILL_STAINED = replace(STILL, gain=0.25, offset=0.1)


def as_stained(x: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """The formula of Augmentation's docstring in floating point, not rounded."""
    gain, offset = (stains[:, None, None, :, which] / 65536 for which in (0, 1))
    cover = np.minimum(x.max(axis=-1, keepdims=True) / 64, 1.0)
    return np.clip(gain * x + offset * 64 * cover, 0, 255)


def test_a_stain_is_a_gain_and_an_offset_by_channel(kernel_set):
    x = cells(200)
    stains = STILL_STAINED.stains(3, 1, 0, INDICES)
    np.testing.assert_allclose(STILL_STAINED(x, 1, 0, INDICES), as_stained(x, stains), atol=0.501)
    gain, offset = stains[..., 0] / 65536, stains[..., 1] * 64 / 65536 / 255  # of full scale
    assert gain.min() >= 0.75 and gain.max() <= 1.25 and gain.min() < 0.78 and gain.max() > 1.22
    assert np.abs(offset).max() <= 0.1001 and offset.min() < -0.09 and offset.max() > 0.09
    between = np.corrcoef(np.concatenate([gain, offset], axis=1).T) - np.eye(6)
    assert np.abs(between).max() < 0.3  # channels have their own, and gains say nothing of offsets


def test_the_black_surround_stays_black(kernel_set):
    x = cells(40)
    surround = np.zeros(x.shape[:3], bool)
    surround[:, :5] = surround[:, :, :3] = True
    x[surround] = 0
    stained = STILL_STAINED(x, 0, 0, np.arange(40))
    assert not stained[surround].any()
    assert not np.array_equal(stained, x)


def test_a_pixel_on_the_cells_edge_takes_the_offset_as_far_as_it_is_cell(kernel_set):
    shades = np.arange(81, dtype=np.uint8).reshape(1, 9, 9, 1)
    stain = np.array([[[1 << 16, (16 << 16) // 64]]], np.int32)  # 16 brighter
    identity = np.array([[[1 << 16, 0, 0], [0, 1 << 16, 0]]], np.int32)
    brighter = kernel_set.warp(shades, identity, stain).reshape(-1).astype(int) - np.arange(81)
    assert brighter[[0, 4, 32, 64, 80]].tolist() == [0, 1, 8, 16, 16]
    assert (np.diff(brighter) >= 0).all()


def test_stains_leave_the_transforms_as_they_were():
    arguments = ((16, 14), 3, 4, INDICES)
    assert np.array_equal(STAINED.transforms(*arguments), Augmentation().transforms(*arguments))


def test_both_kernel_sets_stain_alike():
    if kernels.numba_problem():
        pytest.skip("Numba is not here")
    x, found = cells(40), []
    for name in ("numpy", "numba"):
        with kernels.using(name):
            found.append(STAINED(x, 3, 5, np.arange(40)))
    assert np.array_equal(*found)


@given(st.integers(0, 2**40), st.integers(0, 500), st.permutations(range(12)))
def test_an_image_is_stained_alike_wherever_it_stands(seed, epoch, order):
    order, x = np.array(order), cells()
    whole = STAINED(x, seed, epoch, np.arange(12))
    assert np.array_equal(STAINED(x[order], seed, epoch, order), whole[order])


def test_the_widest_stains_fit_into_32_bits(kernel_set):
    widest, x = replace(STILL, gain=1.0, offset=1.0), cells(200)
    stains = widest.stains(3, 0, 0, INDICES)
    np.testing.assert_allclose(widest(x, 0, 0, INDICES), as_stained(x, stains), atol=0.501)


def test_images_of_many_channels_have_no_stain():
    with pytest.raises(ShapeError, match="a stain is for at most 4 channels, got 5"):
        STAINED(np.zeros((1, 4, 4, 5), np.uint8), 0, 0, np.arange(1))


def test_table_2_turns_by_twenty_degrees_at_most_and_never_upside_down():
    matrix = parts(TABLE_2)
    assert (matrix[:, 1, 1] > 0.8).all()
    assert ((matrix[:, 0, 0] < 0).mean() - 0.5) ** 2 < 0.15**2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": 181}, "Augmentation: rotation must be a number from 0 to 180, got 181"),
        ({"rotation": -1}, "rotation"),
        ({"scale": float("nan")}, "scale"),
        ({"shift": "0.1"}, "shift must be a number from 0 to 1, got '0.1'"),
        ({"shear": True}, "shear"),
        ({"gain": -0.1}, "Augmentation: gain must be a number from 0 to 1, got -0.1"),
        ({"offset": 25}, "offset must be a number from 0 to 1, got 25"),
        ({"horizontal_flip": 1}, "horizontal_flip must be True or False, got 1"),
        ({"vertical_flip": None}, "vertical_flip"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        Augmentation(**options)


def test_only_batches_of_bytes_are_taken():
    with pytest.raises(ArgumentError, match="wanted uint8 images, got float64"):
        STILL(cells() / 255, 0, 0, np.arange(12))
    with pytest.raises(ShapeError, match=r"got \(16, 14, 3\)"):
        STILL(cells()[0], 0, 0, np.arange(16))
    with pytest.raises(ShapeError, match="n indices"):
        STILL(cells(), 0, 0, np.arange(3))


def test_images_too_large_for_fixed_point_are_refused():
    with pytest.raises(ShapeError, match=r"at most 8192 pixels a side, got \(1, 1, 8193, 1\)"):
        STILL(np.zeros((1, 1, 8193, 1), np.uint8), 0, 0, np.arange(1))


@pytest.mark.parametrize("size", [(8192, 8192), (1, 8192), (8192, 1)])
def test_positions_of_the_largest_images_fit_into_fixed_point(size):
    """A transform is linear: no position is further out than those of the corners."""
    widest = Augmentation(scale=1.0, shift=1.0, shear=1.0)
    matrix = widest.transforms(size, 0, 0, np.arange(2000)).astype(np.int64)
    height, width = size
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        assert np.abs(matrix[:, :, :2] @ corner + matrix[:, :, 2]).max() < 2**31
