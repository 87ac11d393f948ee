from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynet.data.synthetic import synthetic_cells, write_folder
from tinynet.errors import ArgumentError, FileAccessError


def colours_of_cells(images: np.ndarray) -> np.ndarray:
    """(n, 3) mean colour of each picture's pixels that are not black."""
    lit = images.max(axis=3) > 40
    return np.array([image[mask].mean(axis=0) for image, mask in zip(images, lit, strict=True)])


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(400, size=32, seed=3)


def test_shapes_and_types(cells):
    assert cells.images.shape == (400, 32, 32, 3) and cells.images.dtype == np.uint8
    assert cells.labels.shape == (400,) and cells.labels.dtype == np.int64
    assert cells.patients.shape == (400,) and cells.patients.dtype == np.int64
    assert len(cells.names) == len(set(cells.names)) == 400


def test_half_are_infected_and_every_pair_has_both_classes(cells):
    assert (cells.labels.reshape(-1, 2).sum(axis=1) == 1).all()
    # ... in random order, so that a label cannot be told from an index.
    assert 0.35 < cells.labels[::2].mean() < 0.65


def test_patients_are_read_from_names_and_healthy_ones_have_no_infected_cell(cells):
    for name, patient in zip(cells.names, cells.patients, strict=True):
        assert re.match(r"^C(\d+)P\d+\w*_IMG_\w+_cell_\d+$", name)
        assert int(re.match(r"^C(\d+)", name).group(1)) == patient
    assert set(cells.patients) == set(range(1, 21))
    assert set(cells.patients[cells.labels == 1]) == set(range(1, 16))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 140), st.integers(1, 140), st.integers(-5, 2**63), st.integers(1, 30))
def test_a_smaller_draw_is_the_beginning_of_a_larger(few, many, seed, patients):
    few, many = sorted((few, many))
    small = synthetic_cells(few, 16, seed, patients)
    large = synthetic_cells(many, 16, seed, patients)
    assert np.array_equal(small.images, large.images[:few])
    assert np.array_equal(small.labels, large.labels[:few])
    assert np.array_equal(small.patients, large.patients[:few])
    assert small.names == large.names[:few]


def test_another_seed_draws_other_cells(cells):
    other = synthetic_cells(400, size=32, seed=4)
    assert not any(np.array_equal(a, b) for a, b in zip(cells.images, other.images, strict=True))
    assert not np.array_equal(cells.labels, other.labels)


def test_no_picture_occurs_twice(cells):
    assert len({image.tobytes() for image in cells.images}) == 400


@pytest.mark.parametrize("size", [16, 33, 64])
def test_the_surround_is_black_and_the_cell_fills_its_box(size):
    images = synthetic_cells(120, size=size, seed=1).images
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).all()
    lit = images.max(axis=3) > 40
    assert (lit.any(axis=1).mean(axis=1) > 0.9).all() and (lit.any(axis=2).mean(axis=1) > 0.9).all()
    share = lit.mean(axis=(1, 2))
    assert 0.6 < share.mean() < 0.85 and share.min() > 0.35


def test_a_cell_keeps_its_form_at_every_size():
    small, large = synthetic_cells(20, 32, seed=5), synthetic_cells(20, 64, seed=5)
    assert np.array_equal(small.labels, large.labels)
    halved = large.images.reshape(20, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    difference = np.abs(halved - small.images).mean(axis=(1, 2, 3))
    stranger = np.abs(halved - np.roll(small.images, 2, axis=0)).mean(axis=(1, 2, 3))
    assert difference.max() < 6 < stranger.mean()


def test_stain_differs_between_patients_more_than_within(cells):
    colour = colours_of_cells(cells.images)
    groups = [colour[cells.patients == patient] for patient in np.unique(cells.patients)]
    within = np.mean([group.std(axis=0) for group in groups], axis=0)
    between = np.std([group.mean(axis=0) for group in groups], axis=0)
    assert (between > within).all()


def test_infected_cells_carry_purple_but_the_most_purple_point_alone_does_not_tell():
    cells = synthetic_cells(1000, size=32, seed=2)
    red, green, blue = np.moveaxis(cells.images.astype(int), 3, 0)
    purple = (np.minimum(red, blue) - green).reshape(1000, -1)
    contrast = purple.max(axis=1) - np.median(purple, axis=1)
    infected, uninfected = contrast[cells.labels == 1], contrast[cells.labels == 0]
    assert np.median(infected) > np.median(uninfected) + 20
    levels = np.unique(contrast)
    accuracy = max(((contrast >= level) == cells.labels).mean() for level in levels)
    assert 0.7 < accuracy < 0.92


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 0},
        {"count": -3},
        {"count": 2.5},
        {"count": True},
        {"count": 2, "size": 15},
        {"count": 2, "size": 4096},
        {"count": 2, "seed": 0.5},
        {"count": 2, "patients": 0},
    ],
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ArgumentError, match=list(arguments)[-1]):
        synthetic_cells(**arguments)


def test_one_cell_and_one_patient_are_enough():
    cells = synthetic_cells(1, patients=1)
    assert cells.patients.tolist() == [1]


def test_write_folder_has_the_nih_layout(tmp_path):
    image = pytest.importorskip("PIL.Image")
    root = write_folder(tmp_path, 30, size_range=(40, 60), seed=8)
    assert root == tmp_path / "cell_images"
    found = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(found) == 30 and all(path.suffix == ".png" for path in found)
    expected = synthetic_cells(30, 16, seed=8)
    infected = {name for name, label in zip(expected.names, expected.labels, strict=True) if label}
    assert {path.stem for path in (root / "Parasitized").iterdir()} == infected
    assert {path.stem for path in (root / "Uninfected").iterdir()} == set(expected.names) - infected
    sizes = []
    for path in found:
        with image.open(path) as picture:
            assert picture.format == "PNG" and picture.mode == "RGB"
            sizes.append(picture.size)
    assert min(min(size) for size in sizes) >= 40 and max(max(size) for size in sizes) <= 60
    assert len(set(sizes)) > 15
    before = {path: path.read_bytes() for path in found}
    write_folder(tmp_path, 30, size_range=(40, 60), seed=8)
    assert {path: path.read_bytes() for path in found} == before


@pytest.mark.parametrize("size_range", [(60, 40), (4, 40), 50, (40,), ("a", "b")])
def test_write_folder_refuses_a_bad_size_range(tmp_path, size_range):
    pytest.importorskip("PIL.Image")
    with pytest.raises(ArgumentError, match="size_range"):
        write_folder(tmp_path, 2, size_range=size_range)
    assert not any(tmp_path.iterdir())


def test_write_folder_names_the_folder_it_cannot_write(tmp_path):
    pytest.importorskip("PIL.Image")
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    with pytest.raises(FileAccessError, match="file"):
        write_folder(blocked, 2)
    assert blocked.read_text() == "kept"
