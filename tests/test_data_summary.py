"""`tinynet data info`: what a folder holds, in numbers that can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinynet import cli
from tinynet.data import summary

Image = pytest.importorskip("PIL.Image")

PINK, PURPLE = (220, 150, 170), (150, 110, 180)


def disc(side, colour, spot=None):
    """A round cell on black, uint8 (side, side, 3); spot: the colour of a square in its middle."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.zeros((side, side, 3), np.uint8)
    picture[x * x + y * y < (side * 0.45) ** 2] = colour
    if spot is not None:
        picture[side // 2 - 4 : side // 2 + 4, side // 2 - 4 : side // 2 + 4] = spot
    return picture


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Patient 1, pink, on two slides: 2 infected and 2 uninfected; patient 2, purple: 3 uninfected."""
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    pictures = {
        "Parasitized/C1P1_IMG_1_cell_1.png": disc(64, PINK, (60, 40, 90)),
        "Parasitized/C1P1_IMG_1_cell_2.png": disc(80, PINK, (60, 40, 90)),
        "Uninfected/C1P1_IMG_1_cell_3.png": disc(64, PINK),
        "Uninfected/C1P2_IMG_1_cell_4.png": disc(100, PINK),
        "Uninfected/C2P3_IMG_1_cell_1.png": disc(64, PURPLE),
        "Uninfected/C2P3_IMG_1_cell_2.png": disc(70, PURPLE),
        "Uninfected/C2P3_IMG_1_cell_3.png": disc(128, PURPLE),
    }
    root = tmp_path / "cells"
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / name)
    return root


def add(root, name, picture):
    Image.fromarray(picture).save(root / name)


def info(root, capsys, *more):
    assert cli.main(["data", "info", str(root), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_cells_patients_classes_and_slides(cells, capsys):
    told = info(cells, capsys)
    assert (told["cells"], told["classes"]) == (7, {"Uninfected": 5, "Parasitized": 2})
    assert (told["patients"], told["infected_patients"], told["healthy_patients"], told["slides"]) == (
        2,
        1,
        1,
        3,
    )
    assert told["infected_share"] == pytest.approx(2 / 7)
    assert told["by_patient"] == [
        {"patient": 1, "cells": 4, "infected": 2, "infected_share": 0.5, "slides": 2},
        {"patient": 2, "cells": 3, "infected": 0, "infected_share": 0.0, "slides": 1},
    ]
    assert told["infected_share_of_infected_patients"]["median"] == 0.5


def test_sizes_are_those_of_the_files(cells, capsys):
    told = info(cells, capsys)["sizes"]
    assert (told["height"]["min"], told["height"]["median"], told["height"]["max"]) == (64, 70, 128)
    assert told["histogram"] == {"60": 4, "80": 1, "100": 1, "120": 1}
    assert told["aspect"]["min"] == told["aspect"]["max"] == 1


def test_the_colour_inside_a_cell_has_no_surround_in_it():
    pictures = np.stack([disc(64, PINK), disc(64, PURPLE), np.zeros((64, 64, 3), np.uint8)])
    colours = summary.inside_colours(pictures)
    assert colours[:2].tolist() == [list(PINK), list(PURPLE)]
    assert np.isnan(colours[2]).all()


def test_stain_varies_between_patients_not_within(cells, capsys):
    told = info(cells, capsys)["stain"]
    assert [one["patient"] for one in told["by_patient"]] == [1, 2]
    assert told["by_patient"][0]["colour"] == pytest.approx(PINK, abs=1)
    assert told["by_patient"][1]["colour"] == pytest.approx(PURPLE, abs=1)
    assert told["between"] == pytest.approx(np.abs(np.subtract(PINK, PURPLE)) / 2, abs=1)
    assert max(told["within"]) < 1 and min(told["share"]) > 0.99
    assert all(step < -1 for step in told["infected_minus_uninfected"])  # the spot is darker
    assert [one["slide"] for one in told["by_slide"]] == ["C1P1", "C1P2", "C2P3"]


def test_odd_and_unreadable_files_are_named(cells, capsys):
    add(cells, "Uninfected/C3_black.png", np.zeros((64, 64, 3), np.uint8))
    add(cells, "Uninfected/C3_full.png", np.full((64, 64, 3), PINK, np.uint8))
    add(cells, "Uninfected/C3_small.png", disc(64, PINK)[::4, ::4])
    add(cells, "Uninfected/C3_long.png", disc(90, PINK)[:, ::3])
    add(cells, "Uninfected/nameless.png", disc(75, PURPLE))
    add(cells, "Uninfected/C1_again.png", disc(64, PINK, (60, 40, 90)))
    (cells / "Uninfected/C3_broken.png").write_bytes(b"no picture")
    (cells / "Uninfected/Thumbs.db").write_bytes(b"")
    told = info(cells, capsys)
    odd = {one["image"].partition("/")[2]: one["what"] for one in told["odd"]}
    assert odd == {
        "C3_black": "nothing but black",
        "C3_full": "no black surround",
        "C3_small": "16x16 pixels",
        "C3_long": "30x90 pixels: over 2.5 times as long as broad",
        "C1P1_IMG_1_cell_1": "the same picture as Uninfected/C1_again: there with another label",
    }
    assert [one["path"].rsplit("/", 1)[-1] for one in told["unreadable"]] == ["C3_broken.png"]
    assert (told["other_files"], told["without_patient"], told["cells"]) == (1, 1, 14)
    checked = info(cells, capsys, "--check")
    assert len(checked["odd"]) >= len(told["odd"])
    assert cli.main(["data", "info", str(cells), "--patients"]) == 0
    text = capsys.readouterr().out
    assert "1 unreadable pictures, 5 odd ones, 1 other files" in text
    assert "3 patients, 1 with infected cells and 2 without; 3 slides" in text


def test_an_exclusion_list_leaves_cells_out(cells, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("Parasitized/C1P1_IMG_1_cell_1\n")
    told = info(cells, capsys, "--exclude", str(tmp_path / "list.txt"))
    assert (told["cells"], told["excluded"]) == (6, 1)


def test_without_patients_and_without_cells_of_a_class_what_is_undefined_is_null(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    for name in ("Parasitized", "Uninfected"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        add(tmp_path / "cells", f"{name}/black.png", np.zeros((64, 64, 3), np.uint8))
    told = info(tmp_path / "cells", capsys)
    assert told["patients"] == 0 and told["cells_a_patient"] is None
    assert told["stain"]["between"] is told["stain"]["share"] is told["stain"]["within"] is None
    assert told["stain"]["cells"]["Parasitized"]["mean"] is None
    assert cli.main(["data", "info", str(tmp_path / "cells"), "--patients"]) == 0
    assert "no patient is known" in capsys.readouterr().out


def test_sums_over_many_pictures_are_those_over_few():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (summary._CHUNK + 3, 8, 8, 3), np.uint8)
    together = summary.inside_colours(pictures)
    each = np.concatenate([summary.inside_colours(picture[None]) for picture in pictures])
    np.testing.assert_allclose(together, each, rtol=1e-12)


def test_unknown_folder_and_no_command(tmp_path, capsys):
    assert cli.main(["data", "info", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert cli.main(["data"]) == 2
