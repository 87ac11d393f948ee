"""ONNX files come in: what was exported comes back the same, others run and become models if they can."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from onnx_messages import message, node, onnx, read
from small_networks import NAMED, networks, randomised

import tinynet as tn
from tinynet import cli
from tinynet.data.synthetic import synthetic_cells
from tinynet.deploy.onnx_export import export_onnx, to_onnx
from tinynet.errors import ArgumentError, DataError, ModelFileError
from tinynet.onnx_import.graph import OnnxModel
from tinynet.onnx_import.reader import read_bytes

ACTIVATIONS = (tn.ReLU, tn.ReLU6, tn.Sigmoid, tn.Tanh)
# One activation and nothing else is refused, as a model that computes nothing.
DRAWN = networks().filter(lambda model: len(model.layers) > 1 or not isinstance(model.layers[0], ACTIVATIONS))
GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_numbers_whatever_ran_before():
    global GENERATOR
    GENERATOR = np.random.default_rng(1)


def numbers(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def close(got, wanted, tolerance=1e-5):
    assert got.shape == wanted.shape and got.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * max(1, np.abs(wanted).max()))


def there_and_back(model, x, **options):
    """Exported and read back: the graph, and the model made of it, give the model's answers."""
    graph = OnnxModel(read_bytes(to_onnx(model, **options)))
    wanted = model.predict(x)
    close(graph.predict(x), wanted)
    again = graph.to_sequential()
    close(again.predict(x), wanted)
    return again


# Exported by tinynet.


@pytest.mark.parametrize("name", NAMED)
def test_named_networks_come_back(name):
    model = randomised(tn.Sequential(NAMED[name](), (9, 8, 3)))
    there_and_back(model, numbers(3, 9, 8, 3), input_type="float32")
    there_and_back(model, GENERATOR.integers(0, 256, (3, 9, 8, 3), dtype=np.uint8))


@given(DRAWN)
def test_drawn_networks_come_back(model):
    there_and_back(model, numbers(2, *model.input_shape), input_type="float32")


@pytest.mark.parametrize("name", ["autoencoder", "small-cnn"])
def test_shipped_models_come_back_whole_and_are_saved(name, tmp_path):
    model = tn.load(name)
    model.threshold, model.temperature = 0.4, 1.25
    cells = synthetic_cells(20, size=model.input_shape[0]).images
    export_onnx(model, tmp_path / "model.onnx")
    again = tn.from_onnx(tmp_path / "model.onnx").to_sequential()
    close(again.predict(cells), model.predict(cells))
    for what in ("class_names", "threshold", "temperature", "preprocessing", "metrics", "name"):
        assert getattr(again, what) == getattr(model, what), what
    assert again.provenance["imported_from"] == "ONNX opset 17"
    kinds = [[type(layer).__name__ for layer in which.chain.leaves()] for which in (again, model)]
    assert kinds[0] == [kind for kind in kinds[1] if kind != "Dropout"]
    again.save(tmp_path / "again.safetensors")
    assert np.array_equal(tn.load(tmp_path / "again.safetensors").predict(cells), again.predict(cells))
    export_onnx(again, tmp_path / "twice.onnx")
    close(tn.from_onnx(tmp_path / "twice.onnx").predict(cells), model.predict(cells))


def test_preprocessing_without_tinynet_s_metadata_is_read_off_the_graph():
    made = tn.Preprocessing(4, 5, scale=0.02, mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.6, 0.7))
    model = randomised(tn.Sequential([tn.Conv2D(2, 3)], (4, 5, 3), preprocessing=made))
    exported = onnx.load_from_string(to_onnx(model))
    exported.producer_name = "someone else"
    again = read(exported).to_sequential()
    codes = GENERATOR.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    np.testing.assert_allclose(again.predict(codes), model.predict(codes), atol=1e-5)
    assert again.preprocessing != made and again.preprocessing.scale == 1 / 255


def test_what_comes_back_can_be_trained():
    cells = synthetic_cells(64, size=16)
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2, "softmax")]
    model = OnnxModel(read_bytes(to_onnx(tn.Sequential(layers, (16, 16, 3))))).to_sequential()
    model.compile(tn.RMSprop(3e-3), "sparse_categorical_crossentropy")
    losses = model.fit(cells.images, cells.labels, epochs=4, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


# Exported by others.


def convolution_weights(*shape, name="w"):
    return {name: numbers(*shape), f"{name}b": numbers(shape[0])}


def residual_graph():
    """As other toolkits write a residual network: batch-norm apart, a global mean, Gemm with transB."""
    weights = {
        **convolution_weights(4, 3, 3, 3, name="a"),
        "b": numbers(4, 4, 3, 3),
        **{name: np.abs(numbers(4)) + 0.5 for name in ("scale", "shift", "mean", "variance")},
        **convolution_weights(4, 3, 1, 1, name="c"),
        "dense": numbers(2, 4),
        "denseb": numbers(2),
    }
    nodes = [
        node("Conv", ["x", "a", "ab"], ["1"], pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        node("Relu", ["1"], ["2"]),
        node("Conv", ["2", "b"], ["3"], auto_pad="SAME_LOWER"),
        node("BatchNormalization", ["3", "scale", "shift", "mean", "variance"], ["4"]),
        node("Conv", ["x", "c", "cb"], ["5"], strides=[2, 2]),
        node("Add", ["4", "5"], ["6"]),
        node("Relu", ["6"], ["7"]),
        node("MaxPool", ["7"], ["8"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("GlobalAveragePool", ["8"], ["9"]),
        node("Flatten", ["9"], ["10"]),
        node("Gemm", ["10", "dense", "denseb"], ["11"], transB=1, alpha=0.5, beta=2.0),
        node("Softmax", ["11"], ["y"]),
    ]
    return message(nodes, {"x": ("n", 3, 11, 12)}, weights=weights)


def test_a_residual_network_of_another_toolkit():
    graph, x = read(residual_graph()), numbers(3, 3, 11, 12)
    model = graph.to_sequential(class_names=("no", "yes"))
    close(model.predict(x.transpose(0, 2, 3, 1).copy()), graph.predict(x))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Residual", "ReLU", "MaxPool2D", "GlobalAveragePool2D", "Dense"]
    assert [type(layer).__name__ for layer in model.layers[0].children()[0].layers] == [
        "Conv2D",
        "Conv2D",
        "BatchNorm",
    ]
    assert model.class_names == ["no", "yes"] and model.layers[-1].activation == "softmax"


def test_it_agrees_with_onnx_runtime():
    runtime = pytest.importorskip("onnxruntime")
    made, x = residual_graph(), numbers(3, 3, 11, 12)
    for place, one in enumerate(made.graph.node):
        one.name = f"node{place}"
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    close(read(made).predict(x), session.run(None, {"x": x})[0])


BRANCHES = {
    "inception": [
        node("Conv", ["x", "w", "wb"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("AveragePool", ["x"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        node("Concat", ["b", "c", "x"], ["y"], axis=1),
    ],
    "dense blocks": [
        node("Conv", ["x", "w", "wb"], ["a"]),
        node("Concat", ["x", "a"], ["b"], axis=-3),
        node("Relu", ["b"], ["c"]),
        node("Concat", ["b", "c"], ["y"], axis=1),
    ],
    "a sum of three": [
        node("Conv", ["x", "w", "wb"], ["a"]),
        node("Tanh", ["a"], ["b"]),
        node("Sum", ["x", "a", "b"], ["y"]),
    ],
    "twice the same": [node("Relu", ["x"], ["a"]), node("Add", ["a", "a"], ["y"])],
}


@pytest.mark.parametrize("name", ["inception", "dense blocks", "twice the same"])
def test_branches(name):
    graph = read(message(BRANCHES[name], {"x": (1, 3, 5, 6)}, weights=convolution_weights(3, 3, 1, 1)))
    x = numbers(1, 3, 5, 6)
    got = graph.to_sequential().predict(x.transpose(0, 2, 3, 1).copy())
    close(got.transpose(0, 3, 1, 2), graph.predict(x))


def test_branches_that_do_not_nest_are_refused():
    weights = convolution_weights(3, 3, 1, 1)
    graph = read(message(BRANCHES["a sum of three"], {"x": (1, 3, 5, 6)}, weights=weights))
    assert graph.predict(numbers(2, 3, 5, 6)).shape == (2, 3, 5, 6)
    with pytest.raises(ModelFileError, match=r"'a Conv' \(Conv\) cannot be expressed .* several places"):
        graph.to_sequential()


CHAINS = {
    "scaled and shifted": (
        [
            node("Sub", ["x", "m"], ["1"]),
            node("Div", ["1", "s"], ["2"]),
            node("Conv", ["2", "w"], ["3"]),
            node("Mul", ["3", "k"], ["4"]),
            node("Add", ["4", "k"], ["5"]),
            node("Relu", ["5"], ["6"]),
            node("Sub", ["k", "6"], ["y"]),
        ],
        {
            "m": numbers(3, 1, 1),
            "s": np.abs(numbers(1, 3, 1, 1)) + 0.5,
            "k": numbers(4, 1, 1),
            "w": numbers(4, 3, 2, 2),
        },
    ),
    "padded first, cut to six": (
        [
            node("Pad", ["x", "pads"], ["1"]),
            node("Conv", ["1", "w", "wb"], ["2"], group=3, dilations=[1, 2], pads=[0, 1, 0, 0]),
            node("Clip", ["2", "zero", "six"], ["y"]),
        ],
        {
            "pads": np.array([0, 0, 1, 0, 0, 0, 2, 1]),
            "zero": np.zeros((), np.float32),
            "six": np.full((), 6, np.float32),
            **convolution_weights(6, 1, 2, 2),
        },
    ),
    "enlarged": (
        [node("Resize", ["x", "", "s"], ["1"]), node("Sigmoid", ["1"], ["y"])],
        {"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "flattened by a shape that is computed": (
        [
            node("Shape", ["x"], ["1"]),
            node("Gather", ["1", "zero"], ["2"]),
            node("Unsqueeze", ["2", "axes"], ["3"]),
            node("Concat", ["3", "rest"], ["4"], axis=0),
            node("Reshape", ["x", "4"], ["5"]),
            node("MatMul", ["5", "w"], ["6"]),
            node("Add", ["6", "b"], ["7"]),
            node("Dropout", ["7"], ["y"]),
        ],
        {
            "zero": np.array(0),
            "axes": np.array([0]),
            "rest": np.array([-1]),
            "w": numbers(90, 4),
            "b": numbers(4),
        },
    ),
    "a mean by its axes": (
        [node("ReduceMean", ["x"], ["1"], axes=[-1, -2], keepdims=0), node("Gemm", ["1", "w"], ["y"])],
        {"w": numbers(3, 2)},
    ),
    "classes as images of one pixel": (
        [
            node("Conv", ["x", "w"], ["1"]),
            node("GlobalAveragePool", ["1"], ["2"]),
            node("Softmax", ["2"], ["y"], axis=1),
        ],
        {"w": numbers(4, 3, 1, 1)},
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name):
    nodes, weights = CHAINS[name]
    graph, x = read(message(nodes, {"x": ("n", 3, 5, 6)}, weights=weights)), numbers(4, 3, 5, 6)
    wanted = graph.predict(x)
    got = graph.to_sequential().predict(x.transpose(0, 2, 3, 1).copy())
    close(got.transpose(0, 3, 1, 2) if got.ndim == 4 else got, wanted.reshape(wanted.shape[: got.ndim]))


NOT_LAYERS = {
    "LeakyRelu": ([node("LeakyRelu", ["x"], ["y"])], {}, "no layer for LeakyRelu"),
    "Clip": ([node("Clip", ["x", "s"], ["y"])], {"s": np.float32(1)}, "it clips to"),
    "Resize": ([node("Resize", ["x", "", "s"], ["y"])], {"s": np.float32([1, 1, 1.5, 2])}, "equally often"),
    "Reshape": ([node("Reshape", ["x", "s"], ["y"])], {"s": np.array([0, 5, 3, 6])}, "only images can be"),
    "Transpose": ([node("Transpose", ["x"], ["y"], perm=[0, 1, 3, 2])], {}, "'perm' is"),
    "Add": ([node("Add", ["x", "s"], ["y"])], {"s": numbers(5, 6)}, "no number a channel"),
    "Mul": ([node("Relu", ["x"], ["1"]), node("Mul", ["x", "1"], ["y"])], {}, "no block for Mul"),
    "Flatten": ([node("Flatten", ["x"], ["y"])], {}, "flattened channels first"),
    "Pad": (
        [node("Pad", ["x", "s"], ["1"]), node("Relu", ["1"], ["y"])],
        {"s": np.array([0, 0, 1, 1] * 2)},
        "follows padding",
    ),
    "AveragePool": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1)],
        {},
        "does not count padding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_LAYERS)
def test_what_no_layer_expresses_runs_as_a_graph_and_names_its_node(name):
    nodes, weights, words = NOT_LAYERS[name]
    graph = read(message(nodes, {"x": ("n", 3, 5, 6)}, weights=weights))
    assert graph.predict(numbers(2, 3, 5, 6)).shape[0] == 2
    with pytest.raises(ModelFileError, match=rf"^graph\.onnx: node .*{words}"):
        graph.to_sequential()


def test_an_answer_that_differs_is_never_kept(monkeypatch):
    from tinynet.onnx_import import nodes

    graph = read(message([node("Tanh", ["x"], ["1"]), node("Relu", ["1"], ["y"])]))
    assert [type(layer).__name__ for layer in graph.to_sequential().layers] == ["Tanh", "ReLU"]
    monkeypatch.setitem(nodes.NODES, "Relu", nodes._nothing)
    with pytest.raises(ModelFileError, match="its answer to a random input is not the graph's"):
        graph.to_sequential()


def test_an_open_size_is_refused_only_for_a_sequential():
    graph = read(message([node("Relu", ["x"], ["y"])], {"x": ("n", 3, "h", None)}))
    assert graph.predict(numbers(2, 3, 5, 6)).shape == (2, 3, 5, 6)
    with pytest.raises(ModelFileError, match=r"'x' has the shape \(n, 3, h, \?\); wanted images"):
        graph.to_sequential()


# Running graphs.


def test_several_inputs_and_outputs_by_name_or_in_order():
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])]
    graph = read(message(nodes, {"a": (2, "k"), "b": ("k",)}, ["sum", "difference"]))
    a, b = numbers(2, 3), numbers(3)
    for inputs in ([a, b], {"b": b, "a": a}):
        got = graph.run(inputs)
        assert list(got) == ["sum", "difference"]
        np.testing.assert_array_equal(got["difference"], a - b)
    with pytest.raises(ArgumentError, match="one input, this has 'a', 'b'; use run"):
        graph.predict(a)
    with pytest.raises(ModelFileError, match="2 inputs"):
        graph.to_sequential()


def test_an_input_that_is_left_out_is_named():
    with pytest.raises(ModelFileError, match=r"'a Add' \(Add\): its input number 1 is left out"):
        read(message([node("Add", ["", "x"], ["y"])])).run([numbers(1, 4)])


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_a_batch_of_fixed_size_is_filled_up(count):
    graph = read(message([node("Neg", ["x"], ["y"])], {"x": (4, 3)}))
    x = numbers(count, 3)
    np.testing.assert_array_equal(graph.predict(x), -x)
    with pytest.raises(DataError, match="no images"):
        graph.predict(x[:0])


def test_results_are_the_caller_s_own():
    graph = read(message([node("Identity", ["x"], ["y"])]))
    x = numbers(2, 4)
    result = graph.run([x])["y"]
    result[...] = 0
    assert x.any()
    constant = read(message([node("Identity", ["w"], ["y"])], {}, weights={"w": numbers(3)}))
    constant.run({})["y"][...] = 0
    assert constant.run({})["y"].any()


def test_threads_may_run_one_graph_at_once():
    graph, x = read(residual_graph()), [numbers(2, 3, 11, 12) for _ in range(4)]
    wanted, got = [graph.predict(images) for images in x], [None] * 4

    def work(place):
        got[place] = graph.predict(x[place])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


# The command.


def test_convert_and_predict(tmp_path, capsys):
    source, out = tmp_path / "net.onnx", tmp_path / "net.safetensors"
    source.write_bytes(residual_graph().SerializeToString())
    options = ["--classes", "uninfected,infected", "--mean", "0.5,0.4,0.3", "--deviation", "0.2,0.2,0.1"]
    assert cli.main(["convert", str(source), "--out", str(out), *options]) == 0
    printed = capsys.readouterr()
    assert "input    (n, 11, 12, 3)" in printed.out and "Not a medical device" in printed.out
    assert printed.err == ""
    model = tn.load(out)
    assert model.class_names == ["uninfected", "infected"] and model.preprocessing.mean == (0.5, 0.4, 0.3)
    assert cli.main(["convert", str(source), "--out", str(out)]) == 0
    assert "pixels will be divided by 255" in capsys.readouterr().err
    assert cli.main(["convert", str(source), "--out", str(out), "--classes", "one"]) == 1
    assert "class_names has 1 names, the model 2 classes" in capsys.readouterr().err
    assert cli.main(["convert", str(source), "--out", str(out), "--mean", "1,2"]) == 2
    assert cli.main(["convert", str(source), "--out", str(source)]) == 1
    assert "must end in .safetensors" in capsys.readouterr().err
    with pytest.raises(ModelFileError, match="is an ONNX file: tinynet convert"):
        tn.load(source)


def test_importing_tinynet_does_not_import_onnx():
    code = "import sys, tinynet; tinynet.from_onnx; assert not {'onnx', 'google'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
