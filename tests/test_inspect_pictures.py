"""What `tinynet inspect` draws and writes."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tinynet as tn
from tinynet import cli, kernels, png
from tinynet.data.synthetic import synthetic_cells
from tinynet.errors import ArgumentError, FileAccessError, ShapeError
from tinynet.image_files import decode
from tinynet.inspect import drawing, pictures

NOTICE = "Not a medical device; for research and teaching."


@pytest.fixture(autouse=True)
def few_pictures_are_numpys(monkeypatch):
    monkeypatch.delenv("TINYNET_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "_chosen", None)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """The path of a synthetic cell with a name that no page may take for HTML."""
    path = tmp_path_factory.mktemp("cell") / "<b>cell&amp;.png"
    path.write_bytes(png.encode(synthetic_cells(1, size=70, seed=2).images[0]))
    return path


def run(capsys, *words):
    status = cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_heat_colours_go_from_dark_to_yellow_and_grow_lighter():
    colours = drawing.heat_colours(np.linspace(0, 1, 50)).astype(float)
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    assert colours[0].tolist() == [68, 1, 84] and colours[-1].tolist() == [253, 231, 37]
    assert drawing.heat_colours(np.array([np.nan, -1.0])).tolist() == [[68, 1, 84]] * 2


def test_where_it_is_cold_the_picture_stays_as_it_is():
    picture = synthetic_cells(1, size=32).images[0]
    heat = np.zeros((4, 4))
    assert np.array_equal(drawing.overlay(picture, heat), picture)
    heat[0, 0] = 1
    shown = drawing.overlay(picture, heat)
    assert np.array_equal(shown[16:], picture[16:]) and not np.array_equal(shown[:4, :4], picture[:4, :4])
    assert shown[0, 0].tolist() == np.rint(0.25 * picture[0, 0] + 0.75 * np.array([253, 231, 37])).tolist()
    with pytest.raises(ShapeError, match="heat"):
        drawing.overlay(picture, heat[None])


def test_tiles_share_one_scale():
    maps = np.zeros((2, 2, 3))
    maps[0, 0, 1], maps[1, 1, 2] = 4.0, 2.0
    tiles = drawing.map_tiles(maps)
    assert tiles.shape == (3, 2, 2, 3)
    assert np.array_equal(tiles[1, 0, 0], drawing.heat_colours(np.array(1.0)))
    assert np.array_equal(tiles[2, 1, 1], drawing.heat_colours(np.array(0.5)))
    assert np.array_equal(tiles[0], np.broadcast_to(drawing.heat_colours(np.array(0.0)), (2, 2, 3)))


def test_filters_are_shown_in_the_colours_they_take_up():
    weights = np.zeros((1, 2, 3, 2))
    weights[0, 0, 0, 1], weights[0, 1, 2, 1] = 2.0, -1.0
    tiles = drawing.filter_tiles(weights)
    assert tiles[0].tolist() == [[[128, 128, 128]] * 2]
    assert tiles[1].tolist() == [[[255, 128, 128], [128, 128, 64]]]
    assert drawing.filter_tiles(weights[:, :, :2]).shape == (4, 1, 2, 3)


def test_a_mosaic_has_every_tile_in_its_place():
    tiles = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 3, 3), np.uint8)
    whole = drawing.mosaic(tiles, 2, side=6, gap=1)
    assert whole.shape == (4 + 1 + 4, 6 + 1 + 6, 3)
    assert (whole[:4, :6] == 0).all() and (whole[:4, 7:] == 1).all() and (whole[5:, :6] == 2).all()
    assert (whole[5:, 7:] == 255).all()


@pytest.mark.parametrize(("model", "layers"), [("autoencoder", 3), ("small-cnn", 4)])
def test_the_page_shows_every_file_and_the_answer(capsys, cell, tmp_path, model, layers):
    status, out, err = run(capsys, "inspect", model, cell, "--out", tmp_path / "deep" / "out")
    assert (status, err) == (0, "")
    page = tmp_path / "deep" / "out" / "index.html"
    assert str(page) in out and NOTICE in out
    html = page.read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', html)
    assert sorted(sources) == sorted(path.name for path in page.parent.glob("*.png"))
    assert len(sources) == 3 + 3 * layers
    assert all(decode(page.parent / name).ndim == 3 for name in sources)
    probability = float(tn.load(model).predict([decode(cell)])[0, 1])
    assert f"infected {probability:.4f}" in html and NOTICE in html
    assert "&lt;b&gt;cell&amp;amp;.png" in html and "<b>cell" not in html
    assert "http" not in html.replace("http-equiv", "") and "<script" not in html


def test_chosen_layers_and_classes_are_shown(capsys, cell, tmp_path):
    words = ("inspect", "autoencoder", cell, "--out", tmp_path, "--layer", "pool2", "--layer", "encoder3")
    assert run(capsys, *words, "--class", "uninfected")[0] == 0
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "pool2: 8 x 8 x 8" in html and "encoder3: 8 x 8 x 4" in html and "encoder1: " not in html
    assert "<b>uninfected</b>" in html or "speaks for uninfected" in html
    assert (tmp_path / "01-pool2-maps.png").exists() and (tmp_path / "02-encoder3-grad-cam.png").exists()


def test_the_heat_in_the_file_is_grad_cam_over_the_picture(cell, tmp_path):
    model = tn.load("autoencoder")
    picture = decode(cell)
    pictures.write(tmp_path, model, picture, "cell", ["encoder3"])
    with kernels.using("numpy"):
        heat = tn.inspect.grad_cam(model, [picture], 1, "encoder3")[0]
    large = drawing.magnify(picture, 240)
    whole = tn.inspect.enlarge(heat[None] / heat.max(), *large.shape[:2])[0]
    shown = decode(tmp_path / "01-encoder3-grad-cam.png")
    assert np.abs(shown.astype(int) - drawing.overlay(large, whole)).max() <= 1


def test_any_sequential_is_shown_an_autoencoder_without_grad_cam(cell, tmp_path):
    model = tn.Sequential(
        [
            tn.Conv2D(5, 3, stride=2, activation="relu"),
            tn.Residual([tn.Conv2D(5, 3), tn.BatchNorm()]),
            tn.UpSample2D(2),
            tn.Conv2D(3, 3),
        ],
        (20, 24, 3),
    )
    pictures.write(tmp_path, model, decode(cell), "cell", ["residual1", "residual1/branch1/conv1"])
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "no classes" in html and "Grad-CAM:" not in html
    assert (tmp_path / "02-residual1-branch1-conv1-maps.png").exists()
    with pytest.raises(ArgumentError, match="no classes"):
        pictures.write(tmp_path, model, decode(cell), "cell", None, 1)


def test_many_classes_explain_the_most_probable(cell, tmp_path):
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.Flatten(), tn.Dense(3, "softmax")]
    model = tn.Sequential(layers, (16, 16, 3), class_names=("a", "b", "<c>"))
    model.parameters()["dense1.bias"].data[...] = [0, 0, 9]
    pictures.write(tmp_path, model, decode(cell), "cell")
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "&lt;c&gt;" in html and "<c>" not in html


def test_mistakes_are_one_sentence(capsys, cell, tmp_path):
    out = ("--out", tmp_path / "out")
    for words, said in (
        (("autoencoder", tmp_path / "no.png", *out), "no.png"),
        (("autoencoder", cell, *out, "--layer", "dense1"), "dense1"),
        (("autoencoder", cell, *out, "--layer", "conv9"), "no layer is called 'conv9'"),
        (("autoencoder", cell, *out, "--class", "sick"), "no class is called 'sick'; the classes are"),
        (("autoencoder", cell, *out, "--class", "5"), "below 2"),
    ):
        status, printed, err = run(capsys, "inspect", *words)
        assert (status, printed) == (1, "") and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "file" in run(capsys, "inspect", "autoencoder", cell, "--out", tmp_path / "file" / "x")[2]
    with pytest.raises(FileAccessError):
        pictures.write(tmp_path / "file", tn.load("autoencoder"), decode(cell), "cell")


def test_an_int8_model_is_refused_with_advice(capsys, cell, tmp_path):
    model = tn.load("autoencoder").quantize("int8", synthetic_cells(16, size=32).images)
    model.save(tmp_path / "small.safetensors")
    status, _, err = run(capsys, "inspect", tmp_path / "small.safetensors", cell, "--out", tmp_path / "out")
    assert status == 1 and "inspect the model it was made from" in err


def test_a_written_png_is_read_back_as_it_was():
    image = pytest.importorskip("PIL.Image")
    import io

    generator = np.random.default_rng(0)
    for shape in ((1, 1, 3), (7, 5, 3), (64, 33, 3)):
        picture = generator.integers(0, 256, shape, dtype=np.uint8)
        data = png.encode(picture)
        assert np.array_equal(png.decode(data), picture)
        with image.open(io.BytesIO(data)) as read:
            assert read.mode == "RGB" and np.array_equal(np.asarray(read), picture)
    for wrong in (np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(ArgumentError, match="uint8"):
            png.encode(wrong)
