"""Damaged and hostile ONNX files: one clear sentence, no memory taken on a claim, no file left behind."""

from __future__ import annotations

import builtins
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_messages import TensorProto, helper, message, node, onnx, read
from small_networks import NAMED, randomised

import tinynet as tn
from tinynet import cli
from tinynet.deploy.onnx_export import export_onnx, to_onnx
from tinynet.errors import ArgumentError, FileAccessError, MissingDependencyError, ModelFileError, ShapeError
from tinynet.onnx_import.graph import OnnxModel
from tinynet.onnx_import.reader import read_bytes

RELU = node("Relu", ["x"], ["y"])


def refused(made, words):
    """Reading it raises one sentence that names the file and matches."""
    content = made if isinstance(made, bytes) else made.SerializeToString()
    with pytest.raises(ModelFileError, match=words) as caught:
        read_bytes(content, "graph.onnx")
    text = str(caught.value)
    assert text.startswith("graph.onnx") and "\n" not in text and text.isprintable() and len(text) < 400


@pytest.fixture(scope="module")
def small() -> bytes:
    return to_onnx(randomised(tn.Sequential(NAMED["residual"](), (9, 8, 3))))


# Not an ONNX file.


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"not protobuf at all", b"\x89PNG\r\n\x1a\n" + bytes(64)]
)
def test_not_an_onnx_file(content):
    refused(content, "is not an ONNX file, or is damaged")


def test_a_truncated_file(small):
    for length in range(1, len(small), max(1, len(small) // 97)):
        with pytest.raises(ModelFileError):
            OnnxModel(read_bytes(small[:length])).run([np.zeros((1, 9, 8, 3), np.uint8)])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileAccessError, match=r"none\.onnx could not be read"):
        tn.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(FileAccessError, match="it is a folder"):
        tn.from_onnx(tmp_path)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tinynet.onnx_import.reader.MAXIMUM_FILE_BYTES", 1000)
    path = tmp_path / "huge.onnx"
    path.write_bytes(bytes(1001))
    with pytest.raises(ModelFileError, match="larger than the 1,000 bytes"):
        tn.from_onnx(path)


def test_without_the_onnx_package_it_says_what_to_install(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *arguments):
        if name.partition(".")[0] == "onnx":
            raise ImportError("no onnx here")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r'pip install "tinynet-cnn\[onnx\]"'):
        tn.from_onnx(tmp_path / "any.onnx")
    with pytest.raises(MissingDependencyError, match=r"tinynet-cnn\[onnx\]"):
        to_onnx(tn.Sequential([tn.Dense(2)], (3,)))


# Versions.


def test_newer_than_supported():
    refused(message([RELU], opset=29, producer_name="toolkit"), r"opset 29 is newer than 28.*made by toolkit")
    refused(message([RELU], ir_version=99), "IR version 99 is newer than 14")
    refused(message([RELU], ir_version=2), "IR version 2 is older than 3")


def test_no_operator_set_or_two():
    made = message([RELU])
    del made.opset_import[:]
    refused(made, r"names no version of ONNX's operator set, only of other domains \(none\)")
    made.opset_import.extend([helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx", 18)])
    refused(made, "names 2 versions")
    refused(message([RELU], opset=-1), "opset -1 makes no sense")


def test_an_operator_older_than_supported_names_the_first_version():
    refused(message([node("Clip", ["x"], ["y"])], opset=5), r"Clip of opset 5 .* from opset 6 on")


# Operators and attributes.


def test_an_unknown_operator_is_named_with_its_node():
    refused(
        message([node("LSTM", ["x"], ["y"])]),
        r"node 'a LSTM' \(LSTM\): the operator LSTM is not supported",
    )
    refused(message([node("Relu", ["x"], ["y"], domain="com.acme")]), r"\(Relu\): .* domain 'com\.acme'")


def test_an_unknown_attribute_is_named_with_its_node():
    refused(message([node("Relu", ["x"], ["y"], slope=0.5)]), r"'a Relu' \(Relu\): the attribute 'slope'")
    refused(
        message([node("Resize", ["x", "", "s"], ["y"], mode="cubic")], weights={"s": np.ones(2, np.float32)}),
        r"\(Resize\): the attribute 'mode' is cubic; supported is nearest",
    )
    refused(message([node("Flatten", ["x"], ["y"], axis=1.5)]), "'axis' is of kind float, wanted int")
    refused(message([node("Concat", ["x"], ["y"])]), r"\(Concat\): the attribute 'axis' is missing")
    twice = message([node("Flatten", ["x"], ["y"], axis=1)])
    twice.graph.node[0].attribute.append(twice.graph.node[0].attribute[0])
    refused(twice, "'axis' twice")


def test_numbers_of_inputs_and_outputs():
    refused(message([node("Relu", ["x", "x"], ["y"])]), "2 inputs, wanted 1")
    refused(message([node("Add", ["x"], ["y"])]), "1 inputs, wanted 2")
    refused(message([node("Relu", ["x"], ["y", "z"])]), "2 outputs; 1 is supported")
    refused(message([node("Relu", ["x"], [])]), "0 outputs")


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_graphs_inside_the_graph(operator):
    inner = helper.make_graph([], "inner", [], [])
    refused(
        message([node(operator, ["x"], ["y"], body=inner)]),
        rf"\({operator}\): the attribute 'body' is a graph inside the graph, which is not supported",
    )


def test_functions_and_sparse_weights():
    made = message([RELU])
    made.functions.add().name = "own"
    refused(made, "operators of its own")
    made = message([RELU])
    made.graph.sparse_initializer.add()
    refused(made, "sparse weights")


# Names.


def test_a_cycle():
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
    refused(message(nodes), r"\(Add\) reads 'b', which is made only later: the graph has a cycle, or is not")
    refused(message([node("Relu", ["y"], ["y"])]), "made only later")


def test_dangling_names():
    refused(message([node("Add", ["x", "nowhere"], ["y"])]), "reads 'nowhere', which is made nowhere")
    refused(message([RELU], outputs=["z"]), "the output 'z' is made nowhere")
    refused(message([RELU], outputs=[]), "no outputs")


def test_duplicate_names():
    refused(message([RELU, RELU]), "two inputs, weights or results have the name 'y'")
    refused(message([RELU], weights={"y": np.ones(3)}), "the name 'y'")
    made = message([RELU], weights={"w": np.ones(3)})
    made.graph.initializer.append(made.graph.initializer[0])
    refused(made, "two weights have the name 'w'")


# Arrays.


def with_weight(**changes):
    made = message([node("Add", ["x", "w"], ["y"])], weights={"w": np.ones(4, np.float32)})
    weight = made.graph.initializer[0]
    for name, value in changes.items():
        if name == "dims":
            del weight.dims[:]
            weight.dims.extend(value)
        else:
            setattr(weight, name, value)
    return made


@pytest.mark.parametrize("place", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_external_data_is_refused_wherever_it_is(place, tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    made = with_weight(raw_data=b"", data_location=TensorProto.EXTERNAL)
    entry = made.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", place
    path = tmp_path / "graph.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelFileError, match=r"weight 'w': .* another file \(external data\), which is not"):
        tn.from_onnx(path)
    made.graph.initializer[0].data_location = TensorProto.DEFAULT
    refused(made, "external data")


def test_absurd_shapes_take_no_memory():
    tracemalloc.start()
    try:
        refused(with_weight(dims=[2**40]), r"\(1099511627776,\) has 1,099,511,627,776 elements; at most")
        refused(with_weight(dims=[2**31, 2**31, 2**31]), "elements; at most")
        refused(with_weight(dims=[2**62] * 9), "elements; at most")
        refused(with_weight(dims=[-1]), "no array can have the shape")
        refused(with_weight(dims=[1] * 40), "no array can have the shape")
        refused(with_weight(dims=[5]), "holds 16 bytes, its shape .* wants 20")
        refused(with_weight(dims=[2**20]), "holds 16 bytes")
        shape = {"s": np.array([2**40, 2**20])}
        with pytest.raises(ModelFileError, match=r"\(ConstantOfShape\): its result would have .* elements"):
            read(message([node("ConstantOfShape", ["s"], ["y"])], {}, weights=shape)).run({})
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_wrong_element_types():
    refused(with_weight(data_type=TensorProto.STRING), "elements of type STRING are not supported")
    refused(with_weight(data_type=TensorProto.BFLOAT16), "elements of type BFLOAT16")
    refused(with_weight(data_type=999), "elements of type 999")
    refused(with_weight(data_type=TensorProto.DOUBLE), "holds 16 bytes, .* wants 32")
    refused(message([RELU], dtype=TensorProto.COMPLEX64), "'x': elements of type COMPLEX64")
    mixed = message([node("Add", ["x", "w"], ["y"])], weights={"w": np.ones(4, np.int64)})
    with pytest.raises(ModelFileError, match=r"\(Add\): its inputs are float32 and int64; wanted one type"):
        read(mixed).run([np.zeros((1, 4), np.float32)])


# What only shows when it runs.

GROWING = {
    "Expand": ([node("Expand", ["x", "s"], ["y"])], {"s": np.array([2**30, 2**10, 4])}),
    "Tile": ([node("Tile", ["x", "s"], ["y"])], {"s": np.array([2**30, 2**10])}),
    "Pad": ([node("Pad", ["x", "s"], ["y"])], {"s": np.array([0, 0, 2**40, 0])}),
    "Resize": ([node("Resize", ["x", "", "s"], ["y"])], {"s": np.array([1e9, 1e9], np.float32)}),
    "Gather": ([node("Gather", ["x", "s"], ["y"])], {"s": np.zeros(2**19, np.int8)}),
    "Add": (
        [node("Add", ["s", "t"], ["z"]), node("Add", ["x", "x"], ["y"])],
        {"s": np.zeros((2**11, 1), np.float32), "t": np.zeros(2**11, np.float32)},
    ),
    "MatMul": (
        [node("MatMul", ["s", "t"], ["z"]), node("Relu", ["x"], ["y"])],
        {"s": np.zeros((2**11, 1), np.float32), "t": np.zeros((1, 2**11), np.float32)},
    ),
    "Cast": (
        [node("Expand", ["x", "s"], ["z"])] + [node("Cast", ["z"], ["y"], to=11)],
        {"s": np.array([2**40, 4])},
    ),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_small_file_that_asks_for_much_memory(name, monkeypatch):
    monkeypatch.setattr("tinynet.onnx_import.records.MAXIMUM_VALUES", 2**20)
    nodes, weights = GROWING[name]
    made = read(message(nodes, weights=weights))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="elements; at most"):
            made.run([np.zeros((1, 4), np.float32)])
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_windows_that_ask_for_much():
    inputs, weights = {"x": (1, 1, 4, 4)}, {"w": np.ones((1, 1, 1, 1), np.float32)}
    x = np.zeros((1, 1, 4, 4), np.float32)
    for attributes in ({"pads": [2**20] * 4}, {"pads": [2**40] * 4}):
        with pytest.raises(ModelFileError, match="elements; at most"):
            read(message([node("Conv", ["x", "w"], ["y"], **attributes)], inputs, weights=weights)).run([x])
    with pytest.raises(ModelFileError, match="does not fit an image"):
        read(message([node("MaxPool", ["x"], ["y"], kernel_shape=[9, 9])], inputs)).run([x])
    with pytest.raises(ModelFileError, match="nothing but padding"):
        pool = node("AveragePool", ["x"], ["y"], kernel_shape=[1, 1], pads=[1, 1, 1, 1])
        read(message([pool], inputs)).run([x])
    for name, value in (("strides", [0, 1]), ("dilations", [1, -1]), ("pads", [1, 2]), ("kernel_shape", [2])):
        pool = node("MaxPool", ["x"], ["y"], **{"kernel_shape": [2, 2], name: value})
        with pytest.raises(ModelFileError, match=rf"\(MaxPool\): the attribute '{name}' is"):
            read(message([pool], inputs)).run([x])


def test_arrays_that_stay_alive_are_counted(monkeypatch):
    monkeypatch.setattr("tinynet.onnx_import.graph.MAXIMUM_ALIVE", 100)
    names = [f"v{place}" for place in range(40)]
    nodes = [node("Neg", ["x"], [name]) for name in names] + [node("Sum", names, ["y"])]
    with pytest.raises(ModelFileError, match="keeps more arrays than is sensible"):
        read(message(nodes)).run([np.zeros((1, 4), np.float32)])


def test_long_work_is_refused(monkeypatch):
    monkeypatch.setattr("tinynet.limits.MAXIMUM_OPERATIONS", 2**20)
    weights = {"s": np.zeros((2**7, 2**7), np.float32)}
    nodes = [node("MatMul", ["s", "s"], ["z"]), node("Relu", ["x"], ["y"])]
    with pytest.raises(ModelFileError, match="more work than is sensible"):
        read(message(nodes, weights=weights)).run([np.zeros((1, 4), np.float32)])


def test_inputs_that_are_not_the_graph_s():
    made = read(message([RELU]))
    with pytest.raises(ArgumentError, match="input 'x': wanted float32, got float64"):
        made.run([np.zeros((1, 4))])
    with pytest.raises(ShapeError, match=r"wanted the shape \(n, 4\), got \(1, 5\)"):
        made.run([np.zeros((1, 5), np.float32)])
    with pytest.raises(ArgumentError, match="inputs are 'x', got 'z'"):
        made.run({"z": np.zeros((1, 4), np.float32)})
    with pytest.raises(ArgumentError, match="has 1 inputs, got 2"):
        made.run([1, 2])


# The command.


def test_the_command_leaves_nothing_behind(tmp_path, capsys):
    source, out = tmp_path / "graph.onnx", tmp_path / "model.safetensors"
    for made in (b"nonsense", message([node("LSTM", ["x"], ["y"])]).SerializeToString()):
        source.write_bytes(made)
        assert cli.main(["convert", str(source), "--out", str(out)]) == 1
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and str(source) in printed.err
        assert list(tmp_path.iterdir()) == [source]


def test_metadata_that_is_nonsense(tmp_path):
    path = tmp_path / "graph.onnx"
    model = tn.Sequential([tn.Flatten(), tn.Dense(2, "softmax")], (4, 4, 3))
    for key, value, words in (
        ("threshold", "7", "threshold must be a number from 0 to 1"),
        ("threshold", "[", "metadata 'threshold' is not JSON"),
        ("class_names", '["a"]', "class_names has 1 names"),
        ("preprocessing", "5", "preprocessing must be a JSON object"),
        ("provenance", "[]", "'provenance' is not an object"),
    ):
        export_onnx(model, path)
        made = onnx.load(path)
        (entry,) = (entry for entry in made.metadata_props if entry.key == key)
        entry.value = value
        with pytest.raises(ModelFileError, match=words):
            read(made).to_sequential()


# Any bytes at all.


def survive(content: bytes) -> bool:
    """Whether it was read and ran; anything but our own exception comes through."""
    x = np.zeros((1, 9, 8, 3), np.uint8)
    try:
        made = OnnxModel(read_bytes(content))
        made.run([x])
        made.to_sequential()
    except tn.TinynetError:
        return False
    return True


@given(st.binary(max_size=300))
def test_any_bytes(content):
    survive(content)


@settings(max_examples=100)
@given(data=st.data())
def test_drawn_changes(small, data):
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(changed) - 1))
        end = min(len(changed), start + data.draw(st.integers(0, 3)))
        changed[start:end] = data.draw(st.binary(max_size=3))
    survive(bytes(changed))


def test_two_thousand_files_with_changed_bytes():
    small = to_onnx(
        randomised(tn.Sequential([tn.Conv2D(2, 3, activation="relu"), tn.Flatten(), tn.Dense(2)], (9, 8, 3)))
    )
    generator = np.random.default_rng(5)
    # Not in the weights, which are most of the file and where any bytes are numbers.
    start = small.index(b"weight")
    places = [
        place for place in range(len(small)) if place < 900 or place > len(small) - 900 or place > start
    ]
    read_whole = 0
    for _ in range(2000):
        changed = np.frombuffer(small, np.uint8).copy()
        chosen = generator.choice(places, generator.integers(1, 5))
        changed[chosen] = generator.integers(0, 256, len(chosen))
        read_whole += survive(changed.tobytes())
    assert 0 < read_whole < 2000
