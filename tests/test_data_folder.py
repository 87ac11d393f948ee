"""Finding the cells on disk: layouts, stray files, patients, exclusion lists, and what goes wrong."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet.data.folder import CLASS_NAMES, patient_of, scan_folder
from tinynet.errors import ArgumentError, DataError, FileAccessError

UNINFECTED = ["C1_a_cell_1.png", "C2_a_cell_1.png", "C10_a_cell_1.png"]
PARASITIZED = ["C2_a_cell_2.png", "C10_a_cell_2.png"]


def make(root, uninfected=UNINFECTED, parasitized=PARASITIZED, names=("Uninfected", "Parasitized")):
    """Empty files will do: scanning opens none."""
    for name, files in zip(names, (uninfected, parasitized), strict=True):
        (root / name).mkdir(parents=True)
        for file in files:
            (root / name / file).touch()
    return root


@pytest.mark.parametrize("inside", ["", "cell_images", "cell_images/cell_images", "Cell_Images"])
def test_the_pair_of_folders_is_found_where_archives_put_it(tmp_path, inside):
    root = make(tmp_path / inside)
    folder = scan_folder(tmp_path)
    assert folder.root == root
    assert len(folder) == 5
    assert folder.class_counts() == {"Uninfected": 3, "Parasitized": 2}
    assert folder.names == [
        "Uninfected/C10_a_cell_1",
        "Uninfected/C1_a_cell_1",
        "Uninfected/C2_a_cell_1",
        "Parasitized/C10_a_cell_2",
        "Parasitized/C2_a_cell_2",
    ]
    np.testing.assert_array_equal(folder.labels, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(folder.patients, [10, 1, 2, 10, 2])
    np.testing.assert_array_equal(folder.positions, range(5))
    assert all(path.is_file() for path in folder.paths)
    assert folder.labels.dtype == folder.patients.dtype == np.int64


@pytest.mark.parametrize("extension", ["gif", "GIF", "pgm", "pbm", "pnm", "ppm", "tif", "webp"])
def test_a_folder_of_any_readable_format(tmp_path, extension):
    make(tmp_path, [f"C1_a_cell_1.{extension}"], [f"C2_a_cell_2.{extension}", "Thumbs.db"])
    folder = scan_folder(tmp_path)
    assert folder.names == ["Uninfected/C1_a_cell_1", "Parasitized/C2_a_cell_2"]
    assert folder.stray == 1
    assert len(folder.exclude([f"Parasitized/C2_a_cell_2.{extension}"])) == 1


def test_the_outer_pair_wins_over_a_copy_inside(tmp_path):
    make(tmp_path)
    make(tmp_path / "cell_images")
    assert scan_folder(tmp_path).root == tmp_path


@pytest.mark.parametrize(
    "names", [("uninfected", "PARASITIZED"), ("Uninfected", "infected"), ("uninfected", "Parasitised")]
)
def test_other_spellings_get_canonical_names(tmp_path, names):
    make(tmp_path, names=names)
    folder = scan_folder(tmp_path)
    assert {name.split("/")[0] for name in folder.names} == set(CLASS_NAMES)
    assert folder.exclude([f"{names[1]}/C2_a_cell_2"]).excluded == 1


def test_stray_files_and_nested_folders_are_passed_over_and_counted(tmp_path):
    make(tmp_path)
    for stray in ("Thumbs.db", ".DS_Store", "._C1_a_cell_1.png", "labels.csv", "noextension"):
        (tmp_path / "Uninfected" / stray).touch()
    (tmp_path / "Parasitized" / "more.png").mkdir()
    (tmp_path / "Parasitized" / "more.png" / "C3_a_cell_9.png").touch()
    (tmp_path / "Parasitized" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "readme.txt").touch()
    folder = scan_folder(tmp_path)
    assert len(folder) == 5 and folder.stray == 7


def test_common_image_types_are_taken_in_upper_and_lower_case(tmp_path):
    types = ["a.png", "b.JPG", "c.jpeg", "d.bmp", "e.TIF", "f.tiff", "g.webp", "h.ppm"]
    make(tmp_path, uninfected=types)
    folder = scan_folder(tmp_path)
    assert folder.class_counts()["Uninfected"] == len(types)
    assert folder.names[:2] == ["Uninfected/a", "Uninfected/b"]
    assert folder.patients[0] == -1


@pytest.mark.parametrize(
    "name, patient",
    [
        ("C33P1thinF_IMG_20150619_114756a_cell_179", 33),
        ("Parasitized/C100P61ThinF_IMG_20150918_144104_cell_162.png", 100),
        (r"Parasitized\C7_x.png", 7),
        ("C007_x", 7),
        ("C12", 12),
        ("c12_x", -1),
        ("cell_12", -1),
        ("C_12", -1),
        ("XC12", -1),
        ("", -1),
    ],
)
def test_patient_of(name, patient):
    assert patient_of(name) == patient


@given(patient=st.integers(0, 10**18 - 1), rest=st.text("abc_XYZ.-", max_size=12))
def test_patient_of_reads_any_number(patient, rest):
    assert patient_of(f"C{patient}{rest}") == patient


def test_select_keeps_everything_in_step(tmp_path):
    folder = scan_folder(make(tmp_path))
    some = folder.select(np.array([4, 1]))
    assert some.names == [folder.names[4], folder.names[1]]
    np.testing.assert_array_equal(some.labels, folder.labels[[4, 1]])
    np.testing.assert_array_equal(some.patients, folder.patients[[4, 1]])
    again = some.select(np.array([False, True]))
    np.testing.assert_array_equal(again.positions, [1])
    assert again.whole is folder and again.paths == [folder.paths[1]]
    assert len(folder.select([])) == 0
    for bad in ([5], [-1], [0.5], [[0]], [True]):
        with pytest.raises(ArgumentError, match="indices"):
            folder.select(bad)


def test_an_exclusion_list_removes_what_it_names(tmp_path):
    folder = scan_folder(make(tmp_path / "data"))
    listing = tmp_path / "suspicious.txt"
    listing.write_text(
        "\ufeff# suspected of a wrong label\n\nParasitized/C2_a_cell_2\r\n"
        "  Uninfected/C1_a_cell_1.png  \nUninfected\\C2_a_cell_1.PNG\nParasitized/C999_not_here\n",
        encoding="utf-8",
    )
    for entries in (listing, str(listing), listing.read_text(encoding="utf-8-sig").splitlines()):
        fewer = folder.exclude(entries)
        assert fewer.names == ["Uninfected/C10_a_cell_1", "Parasitized/C10_a_cell_2"]
        assert fewer.excluded == 3 and folder.excluded == 0
        assert fewer.whole is folder
    assert fewer.exclude(["Uninfected/C10_a_cell_1"]).excluded == 4


def test_the_class_is_part_of_an_entry(tmp_path):
    folder = scan_folder(make(tmp_path, ["C1_x.png", "C2_x.png"], ["C1_x.png"]))
    assert folder.exclude(["Parasitized/C1_x"]).names == ["Uninfected/C1_x", "Uninfected/C2_x"]


def test_an_empty_exclusion_list_changes_nothing(tmp_path):
    folder = scan_folder(make(tmp_path))
    assert folder.exclude(["# nothing", "", "  "]).names == folder.names


def test_an_exclusion_list_that_matches_nothing_is_an_error(tmp_path):
    folder = scan_folder(make(tmp_path / "data"))
    with pytest.raises(DataError, match="none of the 2 entries of the exclusion list"):
        folder.exclude(["C1_a_cell_1", "elsewhere/C1_a_cell_1"])
    with pytest.raises(FileAccessError, match=r"nowhere\.txt does not exist"):
        folder.exclude(tmp_path / "nowhere.txt")
    with pytest.raises(FileAccessError, match="cannot be read"):
        folder.exclude(tmp_path)


def test_a_missing_folder_or_a_file_is_named(tmp_path):
    with pytest.raises(FileAccessError, match="nowhere does not exist"):
        scan_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError, match="file is not a folder"):
        scan_folder(tmp_path / "file")


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        scan_folder(tmp_path)


def test_one_class_only_names_the_missing_one_and_what_is_there(tmp_path):
    (tmp_path / "Parasitized").mkdir()
    (tmp_path / "Helthy").mkdir()
    with pytest.raises(DataError, match=r"Uninfected is missing .*Helthy, Parasitized"):
        scan_folder(tmp_path)


def test_a_class_folder_without_images(tmp_path):
    make(tmp_path, parasitized=["notes.txt"])
    with pytest.raises(DataError, match=r"Parasitized holds no images .*both classes"):
        scan_folder(tmp_path)


def test_folders_of_other_names_are_listed(tmp_path):
    make(tmp_path, names=("good", "bad"))
    with pytest.raises(DataError, match="no folders Parasitized and Uninfected; folders found: bad, good"):
        scan_folder(tmp_path)


def test_a_class_folder_given_as_the_data_folder_gets_a_hint(tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match="did you mean the folder above"):
        scan_folder(tmp_path / "Parasitized")


def test_two_folders_for_one_class_are_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "infected").mkdir()
    with pytest.raises(DataError, match="two folders for the class Parasitized: Parasitized and infected"):
        scan_folder(tmp_path)


def test_a_folder_that_may_not_be_listed(tmp_path):
    make(tmp_path)
    os.chmod(tmp_path / "Parasitized", 0)
    try:
        if os.access(tmp_path / "Parasitized", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(FileAccessError, match="cannot be listed"):
            scan_folder(tmp_path)
    finally:
        os.chmod(tmp_path / "Parasitized", 0o700)
