"""Eight views: how a picture lies changes no answer, and nothing else of the prediction changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import randomised

import tinynet as tn
from tinynet import cli, kernels, network
from tinynet.data.synthetic import write_folder
from tinynet.errors import ArgumentError, ShapeError
from tinynet.network import answer
from tinynet.views import averaged_logits, eight_views

TURNS = [(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)]


def turned(images: np.ndarray, mirrored: bool, quarters: int) -> np.ndarray:
    """(n, h, h, c), each picture mirrored or not, then turned by so many right angles."""
    return np.rot90(images[:, :, ::-1] if mirrored else images, quarters, (1, 2))


def classifier(ending: str = "softmax", seed: int = 0, side: int = 8) -> tn.Sequential:
    outputs = 2 if ending == "softmax" else 1
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(outputs, ending)]
    names = ("uninfected", "infected")
    return randomised(tn.Sequential(layers, (side, side, 3), class_names=names, name="small"), seed)


def branched() -> tn.Sequential:
    """One that goes layer by layer with either kernels."""
    layers = [tn.Residual([tn.Conv2D(3, 3, activation="sigmoid")]), tn.Flatten(), tn.Dense(3, "softmax")]
    return randomised(tn.Sequential(layers, (6, 6, 3)))


def pictures(count: int = 5, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def by_hand(model, x: np.ndarray) -> np.ndarray:
    """The definition, a view at a time: the mean of the logits, then temperature and activation."""
    mean = np.mean([model.logits(np.ascontiguousarray(turned(x, *turn))) for turn in TURNS], axis=0)
    return answer(mean, model.ending(), model.temperature)


def of_format(name: str, tmp_path) -> object:
    """The same classifier as a file of this format that was loaded."""
    model = classifier()
    if name == "onnx":
        pytest.importorskip("onnx")
        from tinynet.deploy.onnx_export import export_onnx

        export_onnx(model, tmp_path / "m.onnx")
        return tn.from_onnx(tmp_path / "m.onnx").to_sequential()
    if name != "float32":
        model = model.quantize(name, *[pictures(40, seed=1)] * (name == "int8"))
    model.save(tmp_path / "m.safetensors")
    return tn.load(tmp_path / "m.safetensors")


def test_the_eight_views_are_the_eight_ways_a_square_can_lie():
    x = pictures(3)
    views = eight_views(x)
    assert views.shape == (3, 8, 8, 8, 3) and views.dtype == np.uint8
    np.testing.assert_array_equal(views[:, 0], x)
    for picture, its in zip(x, views, strict=True):
        ways = {turned(picture[None], *turn).tobytes() for turn in TURNS}
        assert len(ways) == 8 and {view.tobytes() for view in its} == ways


@pytest.mark.parametrize("name", ["float32", "float16", "int8", "onnx"])
def test_every_kind_of_model_answers_with_the_mean_of_its_logits(name, tmp_path):
    with kernels.using("numpy"):
        model = of_format(name, tmp_path)
        x = pictures().astype(np.float32) / 255 if model.preprocessing is None else pictures()
        got = model.predict(x, views=8)
        assert got.dtype == np.float32 and got.shape == (5, 2)
        np.testing.assert_allclose(got, by_hand(model, x), atol=2e-6)
        assert np.abs(got - model.predict(x)).max() > 1e-3  # it is another answer


def test_one_sigmoid_a_temperature_and_pictures_of_any_size(kernel_set):
    model, x = classifier("sigmoid"), pictures()
    np.testing.assert_allclose(model.predict(x, views=8), by_hand(model, x), atol=2e-6)
    assert model.temperature == 1.7
    floats = x.astype(np.float32) / 255
    np.testing.assert_allclose(model.predict(floats, views=8), model.predict(x, views=8), atol=2e-6)
    large = list(pictures(3, 19))
    prepared = np.stack([model.preprocessing.prepare(picture) for picture in large])
    np.testing.assert_array_equal(model.predict(large, views=8), model.predict(prepared, views=8))


@given(
    st.sampled_from(["softmax", "sigmoid"]), st.integers(0, 10**6), st.integers(0, 9), st.sampled_from(TURNS)
)
def test_a_turned_picture_gets_the_same_answer(kernel_set, ending, seed, weights, turn):
    model, x = classifier(ending, weights), pictures(3, seed=seed)
    wanted = model.predict(x, views=8)
    np.testing.assert_allclose(model.predict(turned(x, *turn), views=8), wanted, atol=2e-6)
    floats = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
    wanted = model.predict(floats, views=8)
    np.testing.assert_allclose(model.predict(turned(floats, *turn), views=8), wanted, atol=2e-6)


@given(st.integers(0, 10**6), st.sampled_from(TURNS))
def test_a_turned_picture_that_is_resized_first_too(seed, turn):
    """The resizing treats all eight alike, to the last bit."""
    model, large = classifier(), pictures(2, 21, seed)
    with kernels.using("numpy"):
        wanted = model.predict(list(large), views=8)
        np.testing.assert_allclose(model.predict(list(turned(large, *turn)), views=8), wanted, atol=2e-6)


def test_integers_give_a_turned_picture_the_same_bits():
    model, x = classifier().quantize("int8", pictures(40, seed=1)), pictures(7)
    for turn in TURNS:
        np.testing.assert_array_equal(model.predict(turned(x, *turn), views=8), model.predict(x, views=8))


@pytest.mark.parametrize("build", [classifier, branched])
def test_no_bit_depends_on_threads_batches_and_neighbours(kernel_set, build):
    model = build()
    x = pictures(21, model.input_shape[0])
    before = tn.num_threads()
    try:
        tn.set_num_threads(1)
        whole = model.predict(x, views=8)
        for threads in (1, 2, 3):
            tn.set_num_threads(threads)
            for size in (1, 7, 16, 40, 256, 10**6):
                np.testing.assert_array_equal(model.predict(x, size, views=8), whole)
        for count in (1, 2, 9):
            np.testing.assert_array_equal(model.predict(x[:count], views=8), whole[:count])
    finally:
        tn.set_num_threads(before)


def test_memory_is_bounded_by_the_batch_size():
    seen = []

    def logits(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.reshape(len(images), -1)[:, :2].astype(np.float32)

    assert averaged_logits(logits, pictures(9), 50).shape == (9, 2)
    assert seen == [48, 32]  # six pictures, then three and one again


def test_one_view_is_the_path_without_views(monkeypatch):
    with kernels.using("numpy"):
        model = classifier()
        wanted = model.predict(pictures())
        whole = model.quantize("int8", pictures(40, seed=1))
        for module in (network, tn.deploy.int8.model):
            monkeypatch.setattr(module, "averaged_logits", None)  # would raise
        np.testing.assert_array_equal(model.predict(pictures(), views=1), wanted)
        np.testing.assert_array_equal(whole.predict(pictures(), views=1), whole.predict(pictures()))


@pytest.mark.parametrize("views", [0, 2, 4, 16, True, 8.0, "8", None])
def test_other_numbers_of_views_are_refused(views):
    with pytest.raises(ArgumentError, match="views must be 1 or 8, got"):
        classifier().predict(pictures(), views=views)


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        (
            [tn.Flatten(), tn.Dense(2, "softmax")],
            (8, 6, 3),
            "takes 8 x 6 x 3: eight views need a square picture",
        ),
        ([tn.Dense(2, "softmax")], (8,), "takes 8: eight views need a square picture"),
        ([tn.Conv2D(3, 3)], (8, 8, 3), "gives no probabilities of classes"),
        ([tn.Conv2D(3, 3, activation="softmax")], (8, 8, 3), "gives no probabilities of classes"),
        ([tn.Flatten(), tn.Dense(2)], (8, 8, 3), "gives no probabilities of classes"),
    ],
)
def test_models_that_eight_views_do_not_suit_are_refused_in_a_sentence(layers, shape, words):
    model = tn.Sequential(layers, shape, name="other")
    x = np.zeros((2, *shape), np.float32)
    with pytest.raises(ArgumentError, match=f"model 'other' {words}"):
        model.predict(x, views=8)
    with pytest.raises(ArgumentError, match=words):
        x = x if model.preprocessing is None else x.astype(np.uint8)
        model.quantize("int8", x).predict(x, views=8)


def test_pictures_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"square pictures \(n, h, h, channels\), got \(2, 8, 6, 3\)"):
        classifier().predict(pictures(2)[:, :, :6], views=8)
    with pytest.raises(ShapeError, match="'small' wants a batch"):
        classifier().predict(pictures(2, 9), views=8)


# The commands.


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    pytest.importorskip("PIL.Image")
    return write_folder(tmp_path_factory.mktemp("cells"), 24, (30, 40), seed=3, patients=6)


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TINYNET_KERNELS", "numpy")
    with kernels.using("numpy"):
        classifier(side=16).save(tmp_path / "small.safetensors")
        yield str(tmp_path / "small.safetensors")


def test_predict_averages_and_says_so(cells, model_file, capsys):
    from tinynet.images import decode

    assert cli.main(["predict", model_file, str(cells), "--json", "--views", "8"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    wanted = tn.load(model_file).predict([decode(entry["path"]) for entry in told], views=8)[:, 1]
    assert [entry["probability"] for entry in told] == pytest.approx(wanted.tolist(), abs=1e-7)
    assert "each answer averages eight views; the model file's own figures are of one" in printed.err
    assert cli.main(["predict", model_file, str(cells), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) != told and "views" not in printed.err


def test_evaluate_measures_it_and_names_it(cells, model_file, tmp_path, capsys, monkeypatch):
    from tinynet.data import load_images, scan_folder
    from tinynet.metrics import evaluate_probabilities

    pytest.importorskip("matplotlib")
    from tinynet import png
    from tinynet.report import charts

    blank = png.encode(np.zeros((1, 1, 3), np.uint8))
    monkeypatch.setattr(charts, "png_bytes", lambda figure: blank)
    found, model = scan_folder(cells), tn.load(model_file)
    probabilities = model.predict(load_images(found, 16, 16, progress=False).images, views=8)[:, 1]
    wanted = evaluate_probabilities(found.labels, probabilities, model.threshold, found.patients)
    words = ["evaluate", model_file, "--data", str(cells), "--views", "8", "--report", str(tmp_path / "r")]
    assert cli.main(words) == 0
    assert "24 cells of 6 patients, each in eight views" in capsys.readouterr().out
    told = json.loads((tmp_path / "r" / "report.json").read_text())
    assert told["views"] == 8 and told["auc"] == wanted["auc"] and told["loss"] == wanted["loss"]
    assert "each in eight views" in (tmp_path / "r" / "index.html").read_text()
    # Before the temperature of 1.7, too, the logits are those of eight views.
    model.temperature = 1.0
    plain = model.predict(load_images(found, 16, 16, progress=False).images, views=8)[:, 1]
    before = evaluate_probabilities(found.labels, plain, resamples=1)["loss"]
    assert told["calibration"]["before"]["loss"] == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_model_that_is_not_square_is_refused_before_anything_is_read(command, tmp_path, capsys):
    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (8, 6, 3), name="long")
    model.save(tmp_path / "long.safetensors")
    where = ["no-such-place"] if command == "predict" else ["--data", "no-such-place"]
    assert cli.main([command, str(tmp_path / "long.safetensors"), *where, "--views", "8"]) == 1
    told = capsys.readouterr().err
    assert "eight views need a square picture" in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("views", ["0", "4", "eight"])
def test_other_views_are_wrong_usage(views, capsys):
    assert cli.main(["predict", "autoencoder", "x.png", "--views", views]) == 2
    assert "--views" in capsys.readouterr().err
