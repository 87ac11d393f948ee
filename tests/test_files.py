"""Model files: what goes in comes out, and nothing but that comes out of a damaged file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinynet import files
from tinynet.errors import ArgumentError, FileAccessError, ModelFileError, NonFiniteError
from tinynet.files import container, model_file, strict_json

DOCUMENT = Path(__file__).parent.parent / "docs" / "model-file.md"
DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4", ">i8"]
property_test = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)
finite_arrays = arrays.filter(lambda array: bool(np.isfinite(array).all()))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda n: n != "__metadata__")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
descriptions = st.dictionaries(
    names.filter(lambda n: n not in ("format", "version")), json_values, max_size=4
)

TENSORS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "conv1.bias": np.array([0.5, -1.25], np.float16),
    "steps": np.array(12345, np.int64),
    "nothing": np.zeros((0, 3), np.float64),
    "mask": np.array([True, False, True]),
}
METADATA = {"class_names": ["uninfected", "infected"], "threshold": 0.4375, "provenance": {"seed": 7}}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert sorted(first) == sorted(second)
    for name in first:
        wanted = first[name].astype(first[name].dtype.newbyteorder("="))
        assert wanted.dtype == second[name].dtype, name
        assert wanted.shape == second[name].shape, name
        assert wanted.tobytes() == second[name].tobytes(), name  # bytes: NaN and -0.0 count too


def container_bytes(header: object, data: bytes = b"") -> bytes:
    """A container with any header: an object, or JSON text where an object cannot say it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def write(tmp_path):
    def write_content(content: bytes) -> Path:
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(content)
        return path

    return write_content


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "cells.safetensors"
    files.save_model_file(path, TENSORS, METADATA)
    return path


def assert_refused(path: Path, pattern: str, read=files.read_tensors) -> None:
    with pytest.raises(ModelFileError, match=pattern) as refusal:
        read(path)
    message = str(refusal.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message


# Round trips


@property_test
@given(st.dictionaries(names, arrays, max_size=5), st.dictionaries(names, names, max_size=3))
def test_container_gives_back_exactly_what_was_written(tmp_path, tensors, metadata):
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, tensors, metadata)
    read, read_metadata = files.read_tensors(path)
    assert_same(tensors, read)
    assert read_metadata == metadata
    assert list(read) == sorted(tensors)
    for array in read.values():
        assert array.flags.writeable and array.flags.c_contiguous and array.flags.aligned


@property_test
@given(st.dictionaries(names, finite_arrays, max_size=4), descriptions)
def test_model_file_gives_back_exactly_what_was_saved_in_the_predicted_size(tmp_path, tensors, metadata):
    path = tmp_path / "a.safetensors"
    files.save_model_file(path, tensors, metadata)
    read, read_metadata = files.load_model_file(path)
    assert_same(tensors, read)
    # As text, because 1 == True == 1.0 and 0.0 == -0.0.
    assert json.dumps(read_metadata, sort_keys=True) == json.dumps(metadata, sort_keys=True)
    assert path.stat().st_size == files.file_bytes(tensors, metadata)


def test_checkpoint_gives_back_exactly_what_was_saved(tmp_path):
    path = tmp_path / "last.safetensors"
    state = {"epoch": 3, "best": None, "history": [{"loss": 0.1 + 0.2}] * 500}
    files.save_checkpoint(path, TENSORS, state)
    tensors, read_state = files.load_checkpoint(path)
    assert_same(TENSORS, tensors)
    assert read_state == state


def test_arrays_in_any_memory_order_are_written_in_c_order(tmp_path):
    whole = np.arange(48, dtype=np.float32).reshape(4, 12)
    views = {
        "transposed": whole.T,
        "strided": whole[::2, ::-3],
        "fortran": np.asfortranarray(whole),
        "broadcast": np.broadcast_to(np.float32(3), (2, 5)),
    }
    files.write_tensors(tmp_path / "a", views, {})
    read, _ = files.read_tensors(tmp_path / "a")
    for name, view in views.items():
        np.testing.assert_array_equal(read[name], view)


def test_data_starts_at_a_multiple_of_eight_and_the_same_content_gives_the_same_bytes(tmp_path):
    for length in range(1, 10):
        files.save_model_file(tmp_path / "a", TENSORS, {"name": "x" * length})
        reordered = dict(reversed(TENSORS.items()))
        files.save_model_file(tmp_path / "b", reordered, {"name": "x" * length})
        content = (tmp_path / "a").read_bytes()
        assert content == (tmp_path / "b").read_bytes()
        assert struct.unpack("<Q", content[:8])[0] % 8 == 0


def test_numpy_scalars_and_tuples_in_the_description_become_plain_values(tmp_path):
    metadata = {"auc": np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "size": (32, 32)}
    files.save_model_file(tmp_path / "a", {}, metadata)
    _, read = files.load_model_file(tmp_path / "a")
    assert read == {"auc": 0.5, "n": 3, "ok": True, "size": [32, 32]}
    assert type(read["n"]) is int and type(read["ok"]) is bool


def test_what_was_loaded_can_be_saved_again_with_the_same_bytes(saved, tmp_path):
    files.save_model_file(tmp_path / "again", *files.load_model_file(saved))
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_container_overhead_leaves_room_for_17000_parameters_in_70000_bytes():
    layers = {f"layer{i}.{part}": np.zeros(17_000 // 22, np.float32) for i in range(11) for part in "wb"}
    assert files.file_bytes(layers, METADATA) <= 70_000


# The safetensors package reads and writes the same files


@property_test
@given(st.dictionaries(names, finite_arrays, max_size=4), descriptions)
def test_the_safetensors_package_reads_our_files(tmp_path, tensors, metadata):
    package = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    path = tmp_path / "a.safetensors"
    files.save_model_file(path, tensors, metadata)
    assert_same(tensors, load_file(path))
    with package.safe_open(path, "np") as opened:
        assert json.loads(opened.metadata()["tinynet"])["format"] == "tinynet-model"


@property_test
@given(st.dictionaries(names, arrays, max_size=4), st.dictionaries(names, names, max_size=3))
def test_we_read_the_files_of_the_safetensors_package(tmp_path, tensors, metadata):
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    # The package writes big-endian arrays in a way of its own and strided ones wrongly.
    native = {name: np.array(array, array.dtype.newbyteorder("=")) for name, array in tensors.items()}
    # None for no metadata: with {} and no tensors, version 0.8 writes a header that it cannot read itself.
    save_file(native, tmp_path / "a", metadata or None)
    read, read_metadata = files.read_tensors(tmp_path / "a")
    assert_same(native, read)
    assert read_metadata == metadata


def test_a_model_written_again_by_the_safetensors_package_still_loads(saved, tmp_path):
    package = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file, save_file

    with package.safe_open(saved, "np") as opened:
        metadata = opened.metadata()
    save_file(load_file(saved), tmp_path / "again", metadata)
    assert (tmp_path / "again").read_bytes() != saved.read_bytes()
    tensors, read_metadata = files.load_model_file(tmp_path / "again")
    assert_same(TENSORS, tensors)
    assert read_metadata == METADATA


def test_a_safetensors_file_of_another_program_is_named_as_such(tmp_path):
    files.write_tensors(tmp_path / "a", TENSORS, {"format": "pt"})
    assert_refused(tmp_path / "a", "is a safetensors file, but not a tinynet model", files.load_model_file)


def test_tensors_come_in_name_order_whatever_the_order_of_the_data(write):
    header = {"b": entry("U8", [1], [0, 1]), "a": entry("U8", [1], [1, 2])}
    tensors, _ = files.read_tensors(write(container_bytes(header, b"\x07\x09")))
    assert list(tensors) == ["a", "b"] and tensors["a"] == 9 and tensors["b"] == 7


# Damage to the container, each kind by itself

DAMAGED_HEADERS = {
    "no header": (b"", "does not start with {"),
    "not an object": (b"[1, 2]", "does not start with {"),
    "a space first": (b' {"a": 1}', "does not start with {"),
    "not JSON": (b'{"a": }', "is not JSON"),
    "two values": (b"{} {}", "is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "is not UTF-8"),
    "nested deeply": (b'{"a":' + b"[" * 500_000, "nested too deeply|is not JSON"),
    "duplicate tensor": (b'{"a": 1, "a": 1}', "has the name 'a' twice"),
    "duplicate field": (b'{"a": {"dtype": "F32", "dtype": "F32"}}', "has the name 'dtype' twice"),
    "lone surrogate": (rb'{"\ud800": 1}', "not valid Unicode"),
    "NaN": (b'{"a": NaN}', "has NaN, which is not JSON"),
    "overflowing number": (b'{"a": 1e999}', "which overflows"),
    "million digits": (b'{"a": ' + b"9" * 1_000_000 + b"}", "does not fit in 64 bits"),
}


@pytest.mark.parametrize("what", DAMAGED_HEADERS)
def test_damaged_header_text_is_refused(write, what):
    header, pattern = DAMAGED_HEADERS[what]
    assert_refused(write(container_bytes(header)), pattern)


DAMAGED_ENTRIES = {
    "not an object": ([1], "is not described by exactly"),
    "no dtype": ({"shape": [2], "data_offsets": [0, 8]}, "is not described by exactly"),
    "an extra field": ({**entry(), "code": "x"}, "is not described by exactly"),
    "unknown dtype": (entry("BF16", [4]), "unknown dtype 'BF16'"),
    "lower-case dtype": (entry("f32"), "unknown dtype 'f32'"),
    "dtype not text": (entry(["F32"]), "unknown dtype"),
    "dtype null": (entry(None), "unknown dtype None"),
    "shape not a list": (entry(shape=2), "impossible shape 2"),
    "shape missing": (entry(shape=None), "impossible shape None"),
    "negative dimension": (entry(shape=[-2]), r"impossible shape \[-2\]"),
    "two negative dimensions": (entry(shape=[-1, -2]), "impossible shape"),
    "fractional dimension": (entry(shape=[2.0]), r"impossible shape \[2.0\]"),
    "boolean dimension": (entry(shape=[True, 2]), r"impossible shape \[True, 2\]"),
    "text dimension": (entry(shape=["2"]), "impossible shape"),
    "huge dimension": (entry(shape=[2**62]), "impossible shape"),
    "huge dimension times zero": (entry(shape=[2**62, 2**62, 0], offsets=[0, 0]), "impossible shape"),
    "overflowing product": (entry(shape=[2**32, 2**32 + 1]), "impossible shape"),
    "product that wraps to the right size": (entry(shape=[2**33, 2**31, 2]), "impossible shape"),
    "33 dimensions": (entry(shape=[1] * 32 + [2]), "impossible shape"),
    "shape too large": (entry(shape=[3]), "needs 12 bytes and its data_offsets give it 8"),
    "shape too small": (entry(shape=[1]), "needs 4 bytes and its data_offsets give it 8"),
    "wide dtype": (entry("F64"), "needs 16 bytes"),
    "one offset": (entry(offsets=[8]), "impossible data_offsets"),
    "three offsets": (entry(offsets=[0, 8, 8]), "impossible data_offsets"),
    "negative offsets": (entry(offsets=[-8, 0]), "impossible data_offsets"),
    "reversed offsets": (entry(offsets=[8, 0]), "impossible data_offsets"),
    "boolean offset": (entry("U8", [1], offsets=[False, True]), "impossible data_offsets"),
    "fractional offset": (entry(offsets=[0.0, 8]), "impossible data_offsets"),
    "offsets as text": (entry(offsets="08"), "impossible data_offsets"),
}


@pytest.mark.parametrize("what", DAMAGED_ENTRIES)
def test_impossible_tensor_is_refused_by_name(write, what):
    damaged, pattern = DAMAGED_ENTRIES[what]
    assert_refused(write(container_bytes({"conv1": damaged}, bytes(8))), f"tensor 'conv1'.*{pattern}")


LAYOUTS = {
    "gap at the start": ([entry(offsets=[4, 12])], 12, "leaves a gap"),
    "gap between": ([entry(), entry(offsets=[12, 20])], 20, "leaves a gap"),
    "overlap": ([entry(), entry(offsets=[4, 12])], 12, "overlaps"),
    "shared data": ([entry(), entry()], 8, "overlaps"),
    "empty tensor inside another": ([entry(), entry(shape=[0], offsets=[4, 4])], 8, "overlaps"),
    "empty tensor beyond the end": ([entry(), entry(shape=[0], offsets=[99, 99])], 8, "leaves a gap"),
    "data cut": ([entry()], 7, "is truncated: its tensors take 8 bytes and 7 are there"),
    "trailing byte": ([entry()], 9, "1 bytes follow its last tensor"),
    "trailing bytes without tensors": ([], 3, "3 bytes follow"),
    "huge tensor that is not there": ([entry("U8", [2**40], [0, 2**40])], 8, "is truncated"),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_tensors_must_tile_the_data_exactly(write, what):
    entries, data_bytes, pattern = LAYOUTS[what]
    header = {f"t{index}": damaged for index, damaged in enumerate(entries)}
    assert_refused(write(container_bytes(header, bytes(data_bytes))), pattern)


@pytest.mark.parametrize("metadata", [["a"], "text", None, {"a": 1}, {"a": None}, {"a": {"b": "c"}}])
def test_container_metadata_must_be_text(write, metadata):
    assert_refused(write(container_bytes({"__metadata__": metadata})), "__metadata__")


def test_boolean_bytes_must_be_zero_or_one(write):
    content = container_bytes({"m": entry("BOOL", [2], [0, 2])}, b"\x01\x02")
    assert_refused(write(content), "tensor 'm' is neither true nor false")


@pytest.mark.parametrize("size", range(1, 8))
def test_file_shorter_than_its_length_field_is_refused(write, size):
    assert_refused(write(bytes(size)), "too short")


def test_empty_file_is_refused(write):
    assert_refused(write(b""), "is empty")


def test_header_beyond_the_end_is_refused(write):
    assert_refused(write(struct.pack("<Q", 100) + b"{}"), "header claims 100 bytes and 2 follow")


@pytest.mark.parametrize("length", [2**20 + 1, 2**63, 2**64 - 1])
def test_header_beyond_the_limit_is_refused(write, length):
    assert_refused(write(struct.pack("<Q", length) + b"{}" + bytes(64)), "more than the 1,048,576 allowed")


def test_file_beyond_the_callers_limit_is_refused_unread(saved):
    size = saved.stat().st_size
    assert files.read_tensors(saved, max_bytes=size)
    assert_refused(saved, "more than the", lambda path: files.read_tensors(path, max_bytes=size - 1))


def test_names_from_a_file_are_shown_short_and_without_control_characters(write):
    path = write(container_bytes({"\x1b[31m" + "x" * 5000: entry("Q")}))
    with pytest.raises(ModelFileError) as refusal:
        files.read_tensors(path)
    assert "\x1b" not in str(refusal.value) and len(str(refusal.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(40), "JPEG picture"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
        (b"PK\x03\x04\x14\x00\x00\x00" + bytes(40), r"zip archive, such as \.keras"),
        (pickle.dumps({"weights": list(range(50))}, protocol=4), "pickle"),
        (pickle.dumps({"weights": list(range(50))}, protocol=2), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow Lite"),
        (b"\x93NUMPY\x01\x00" + bytes(40), "NumPy"),
    ],
)
def test_files_of_another_kind_are_named(write, content, kind):
    assert_refused(write(content), f", an? .*{kind}.* is not a model file", files.load_model_file)


@pytest.mark.parametrize("read", [files.read_tensors, files.load_model_file, files.load_checkpoint])
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("missing", r"/missing could not be read: no such file"),
        ("folder", r"/folder could not be read: it is a folder"),
        ("", "the file name is empty"),
        ("nul\0byte", r"nul\\x00byte' cannot be the name of a file"),
        ("lone\ud800surrogate", r"lone\\ud800surrogate' cannot be the name of a file"),
        ("x" * 5000, "xxx could not be read: file name too long"),
    ],
)
def test_unreadable_paths_are_one_sentence(tmp_path, read, name, pattern):
    (tmp_path / "folder").mkdir()
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(FileAccessError, match=rf"{pattern}[^\n]*\.$"):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="device or a pipe"):
        files.read_tensors(tmp_path / "pipe")


# Damage to what tinynet puts in the container


def rewritten(path: Path, change) -> Path:
    """The file with its container metadata and tensors changed and nothing else made to agree."""
    tensors, metadata = files.read_tensors(path)
    change(tensors, metadata)
    files.write_tensors(path, tensors, metadata)
    return path


def with_description(path: Path, text: str) -> Path:
    """The file with another description and the digest that belongs to it."""
    tensors, _ = files.read_tensors(path)
    files.write_tensors(path, tensors, {"tinynet": text, "sha256": model_file.digest(text, tensors)})
    return path


CHANGES = {
    "a value": lambda tensors, _: tensors["conv1.weight"].__setitem__((0, 0, 0), 9),
    "negative zero": lambda tensors, _: tensors["conv1.weight"].__setitem__((0, 0, 0), -0.0),
    "a shape": lambda tensors, _: tensors.update({"conv1.weight": tensors["conv1.weight"].reshape(4, 6)}),
    "a dtype": lambda tensors, _: tensors.update({"conv1.bias": tensors["conv1.bias"].view(np.int16)}),
    "a name": lambda tensors, _: tensors.update(other=tensors.pop("steps")),
    "a tensor more": lambda tensors, _: tensors.update(other=np.zeros(0, np.uint8)),
    "a tensor less": lambda tensors, _: tensors.pop("nothing"),
    "the threshold": lambda _, m: m.update(tinynet=m["tinynet"].replace("0.4375", "0.4376")),
    "spaces in the description": lambda _, m: m.update(tinynet=m["tinynet"].replace(",", ", ")),
    "the digest": lambda _, m: m.update(sha256=m["sha256"][::-1]),
    "the digest's case": lambda _, m: m.update(sha256=m["sha256"].upper()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_is_found_by_the_digest(saved, what):
    assert_refused(rewritten(saved, CHANGES[what]), "SHA-256 does not match", files.load_model_file)


@pytest.mark.parametrize("change", [lambda _, m: m.update(note="x"), lambda _, m: m.pop("sha256")])
def test_container_metadata_is_exactly_description_and_digest(saved, change):
    assert_refused(rewritten(saved, change), "not exactly tinynet and sha256", files.load_model_file)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"format":"tinynet-model","version":2}', "newer tinynet: its format version is 2"),
        ('{"format":"tinynet-model","version":0}', "format version is 0"),
        ('{"format":"tinynet-model","version":true}', "format version is True"),
        ('{"format":"tinynet-model","version":"1"}', "format version is '1'"),
        ('{"format":"tinynet-model"}', "format version is None"),
        ('{"format":"tinynet-checkpoint","version":1}', "is a tinynet checkpoint, not a tinynet model"),
        ('{"format":"other","version":1}', "is of format 'other'"),
        ('{"format":["tinynet-model"],"version":1}', "is of format"),
        ('{"version":1}', "is of format None"),
        ("[]", "description is not an object"),
        ("", "description is not JSON"),
        ('{"a":1,"a":1}', "description has the name 'a' twice"),
        ('{"a":NaN}', "description has NaN"),
        ('{"a":[["\\ud800"]]}', "not valid Unicode"),
        ("[" * 100_000, "description is nested too deeply|description is not JSON"),
        ('{"format":"tinynet-model","version":1,"a":"' + "x" * 2**16 + '"}', "longer than the format allows"),
    ],
)
def test_wrong_descriptions_are_refused(saved, text, pattern):
    assert_refused(with_description(saved, text), pattern, files.load_model_file)


def test_a_newer_version_is_named_even_if_its_digest_is_another(saved):
    text = '{"format":"tinynet-model","version":7}'
    path = rewritten(saved, lambda _, metadata: metadata.update(tinynet=text, extra="x"))
    assert_refused(path, "made by a newer tinynet", files.load_model_file)


def test_a_model_is_not_a_checkpoint(saved):
    assert_refused(saved, "is a tinynet model file, not a tinynet checkpoint", files.load_checkpoint)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_nan_and_infinity_are_refused_by_the_tensors_name(saved, value, dtype):
    description = files.read_tensors(saved)[1]["tinynet"]
    tensors = {"conv1": np.zeros(3, dtype), "conv2": np.array([[0, value]], dtype)}
    metadata = {"tinynet": description, "sha256": model_file.digest(description, tensors)}
    files.write_tensors(saved, tensors, metadata)
    assert_refused(saved, "has NaN or infinity in tensor 'conv2'", files.load_model_file)
    before = saved.read_bytes()
    for save in (files.save_model_file, files.save_checkpoint):
        with pytest.raises(NonFiniteError, match="'conv2'"):
            save(saved, tensors, {})
    assert saved.read_bytes() == before


def test_nan_is_found_at_the_end_of_a_large_tensor(tmp_path):
    large = np.zeros(2**20 + 5, np.float32)
    large[-1] = np.nan
    with pytest.raises(NonFiniteError):
        files.save_model_file(tmp_path / "a", {"large": large}, {})


def test_digest_is_the_documented_one():
    """Put together here by hand, independently of the code that the package shares with itself."""
    expected = hashlib.sha256(
        b"\x02\0\0\0\0\0\0\0{}"
        b"\x02\0\0\0\0\0\0\0\xc3\xa9" + b"\x03\0\0\0\0\0\0\0I16"
        b"\x02\0\0\0\0\0\0\0" + b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0" + b"\x01\x02\xff\xff"
    ).hexdigest()
    assert model_file.digest("{}", {"é": np.array([[513, -1]], ">i2")}) == expected


# Anything at all that happens to the bytes


def _mutate(content: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, max(0, len(changed) - 1)))
        match data.draw(st.sampled_from(["flip", "truncate", "insert", "delete", "set"])):
            case "flip" if changed:
                changed[position] ^= 1 << data.draw(st.integers(0, 7))
            case "set" if changed:
                changed[position] = data.draw(st.sampled_from(list(b'0918[]{}",: \\\0\x7f\xff')))
            case "truncate":
                del changed[position:]
            case "insert":
                changed[position:position] = data.draw(st.binary(min_size=1, max_size=9))
            case "delete":
                del changed[position : position + data.draw(st.integers(1, 9))]
    return bytes(changed)


@settings(property_test, max_examples=400)
@given(st.data())
def test_a_mutated_model_is_refused_or_exactly_the_same(saved, data):
    content = saved.read_bytes()
    mutated = _mutate(content, data)
    assume(mutated != content)
    path = saved.with_name("mutated")
    path.write_bytes(mutated)
    try:
        tensors, metadata = files.load_model_file(path)
    except ModelFileError:
        return
    assert_same(TENSORS, tensors)
    assert metadata == METADATA


@settings(property_test, max_examples=200)
@given(st.data())
def test_a_mutated_container_is_refused_or_accounts_for_every_byte(tmp_path, data):
    path = tmp_path / "a"
    files.write_tensors(path, TENSORS, {"note": "x"})
    mutated = _mutate(path.read_bytes(), data)
    path.write_bytes(mutated)
    try:
        tensors, _ = files.read_tensors(path)
    except ModelFileError:
        return
    (length,) = struct.unpack("<Q", mutated[:8])
    assert sum(array.nbytes for array in tensors.values()) == len(mutated) - 8 - length


def test_every_truncation_and_every_flipped_byte_of_a_model_is_harmless(saved):
    content = saved.read_bytes()
    path = saved.with_name("mutated")
    survivors = 0
    for position in range(len(content)):
        for mutated in (
            content[:position],
            content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :],
        ):
            path.write_bytes(mutated)
            with pytest.raises(ModelFileError):
                files.load_model_file(path)
            survivors += 1
    assert survivors == 2 * len(content)


# What cannot be written


@pytest.mark.parametrize(
    ("tensors", "metadata", "pattern"),
    [
        ({"a": np.array(["text"])}, {}, "tensor 'a' has dtype <U4"),
        ({"a": np.array([None])}, {}, "tensor 'a' has dtype object"),
        ({"a": np.zeros(2, np.complex64)}, {}, "tensor 'a' has dtype complex64"),
        ({"a": np.zeros(2, [("x", "f4")])}, {}, "tensor 'a' has dtype"),
        ({"a": np.zeros(2, "M8[s]")}, {}, "tensor 'a' has dtype datetime64"),
        ({"a": [1.0, 2.0]}, {}, "tensor 'a' is of type list"),
        ({1: np.zeros(2)}, {}, "cannot be called 1"),
        ({"\ud800": np.zeros(2)}, {}, "cannot be called"),
        ({"__metadata__": np.zeros(2)}, {}, "cannot be called '__metadata__'"),
        ({}, {"a": float("nan")}, r"metadata\['a'\] is nan"),
        ({}, {"a": {"b": [0, np.float32("inf")]}}, r"metadata\['a'\]\['b'\]\[1\] is inf"),
        ({}, {"a": np.zeros(3)}, r"metadata\['a'\] is of type ndarray"),
        ({}, {"a": b"bytes"}, "is of type bytes"),
        ({}, {"a": {1: 2}}, "names must be text"),
        ({}, {"a": "\ud800"}, "not valid Unicode"),
        ({}, {"a": 2**64}, "does not fit in 64 bits"),
        ({}, {"format": "x"}, "has 'format'"),
        ({}, {"version": 2}, "has 'version'"),
        ({}, {"a": "x" * 2**16}, "more than the 65,536"),
        ({}, ["a"], "not a dictionary"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(saved, tensors, metadata, pattern):
    before = saved.read_bytes()
    with pytest.raises(ArgumentError, match=pattern):
        files.save_model_file(saved, tensors, metadata)
    with pytest.raises(ArgumentError, match=pattern):
        files.file_bytes(tensors, metadata)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


def test_endless_nesting_is_refused(saved):
    endless: list = []
    endless.append(endless)
    with pytest.raises(ArgumentError, match="nested more than 32 deep"):
        files.save_model_file(saved, {}, {"a": endless})


def test_headers_and_files_beyond_the_limits_are_refused(tmp_path):
    many = {f"{i:0100}": np.zeros(0, np.uint8) for i in range(8000)}
    with pytest.raises(ArgumentError, match="more than the 1,048,576"):
        files.write_tensors(tmp_path / "a", many, {})
    with pytest.raises(ArgumentError, match=r"would be .* more than the 100 allowed"):
        files.write_tensors(tmp_path / "a", TENSORS, {}, max_bytes=100)
    with pytest.raises(ArgumentError, match="metadata 'a' must be text"):
        files.write_tensors(tmp_path / "a", {}, {"a": 1})  # type: ignore[dict-item]
    huge = np.broadcast_to(np.float32(0), (2**15, 2**15))  # 4 GiB that take four bytes of memory
    with pytest.raises(ArgumentError, match=r"more than the 2,147,483,648 allowed"):
        files.write_tensors(tmp_path / "a", {"huge": huge}, {})
    assert os.listdir(tmp_path) == []


# Nothing that was there is lost


def assert_old_file_intact(saved: Path, before: bytes) -> None:
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name], "the temporary file was left behind"


OTHER = {"w": np.ones(50_000, np.float32)}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("save", [files.save_model_file, files.save_checkpoint])
def test_disk_full_leaves_the_old_file(saved, monkeypatch, step, save):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = saved.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(FileAccessError, match=re.escape(f"{saved} could not be written: no space left")):
        save(saved, OTHER, {})
    monkeypatch.undo()
    assert_old_file_intact(saved, before)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_full_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("builtins.open", lambda *_: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
    try:
        with pytest.raises(FileAccessError, match=r"could not be written: no space left on device\."):
            files.save_model_file(saved, OTHER, {})
    finally:
        monkeypatch.undo()
    assert_old_file_intact(saved, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_write_stopped_by_the_system_half_way_leaves_the_old_file(saved):
    """Not a simulation: the system lets this process write 100,000 bytes of the 200,000."""
    before = saved.read_bytes()
    program = (
        "import resource, sys, numpy, tinynet.files as files\n"
        "from tinynet.errors import FileAccessError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    files.save_model_file(sys.argv[1], {'w': numpy.ones(50_000, numpy.float32)}, {})\n"
        "except FileAccessError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(saved)],
        capture_output=True,
        text=True,
        check=True,
        cwd=DOCUMENT.parent.parent,
    )
    assert "could not be written: file too large." in result.stdout
    assert_old_file_intact(saved, before)


def test_ctrl_c_leaves_the_old_file(saved, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.save_model_file(saved, OTHER, {})
    monkeypatch.undo()
    assert_old_file_intact(saved, before)


def test_missing_folder_is_named(tmp_path):
    path = tmp_path / "no such folder" / "a.safetensors"
    with pytest.raises(FileAccessError, match=re.escape(f"{path} could not be written: no such file")):
        files.save_model_file(path, TENSORS, METADATA)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_read_only_folder_and_read_only_file_are_refused(saved):
    before = saved.read_bytes()
    saved.chmod(0o444)
    with pytest.raises(FileAccessError, match="it is read-only"):
        files.save_model_file(saved, OTHER, {})
    saved.chmod(0o644)
    saved.parent.chmod(0o555)
    try:
        with pytest.raises(FileAccessError, match="permission denied"):
            files.save_model_file(saved, OTHER, {})
    finally:
        saved.parent.chmod(0o755)
    assert_old_file_intact(saved, before)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(FileAccessError, match="it is a folder"):
        files.save_model_file(tmp_path, TENSORS, METADATA)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="device or a pipe"):
        files.save_model_file(tmp_path / "pipe", TENSORS, METADATA)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions and links")
def test_links_and_permissions_are_kept(saved):
    link = saved.with_name("latest")
    link.symlink_to(saved.name)
    saved.chmod(0o640)
    files.save_model_file(link, OTHER, {})
    assert link.is_symlink() and stat.S_IMODE(saved.stat().st_mode) == 0o640
    assert_same(OTHER, files.load_model_file(saved)[0])
    fresh = saved.with_name("fresh")
    files.save_model_file(fresh, OTHER, {})
    plain = saved.with_name("plain")
    plain.touch()
    assert fresh.stat().st_mode == plain.stat().st_mode, "a new file has the permissions of any new file"


@pytest.mark.parametrize("name", ["клетки крови.safetensors", "血球 🔬.bin", "a'b\"c$(d).x", "x" * 255])
def test_any_file_name_works(tmp_path, name):
    files.save_model_file(tmp_path / name, TENSORS, METADATA)
    assert_same(TENSORS, files.load_model_file(str(tmp_path / name))[0])
    assert os.listdir(tmp_path) == [name]


# The self-test


def test_selftest_picture_is_the_documented_one():
    picture = files.selftest_input(1, 32, 32)
    assert picture.shape == (1, 32, 32, 3) and picture.dtype == np.uint8
    prefix = [60, 94, 129, 180, 12, 94, 198, 142, 4, 163, 64, 108, 151, 214, 60, 251]
    assert picture.reshape(-1)[:16].tolist() == prefix


@property_test
@given(st.integers(0, 2**32 - 1), *[st.integers(1, 12)] * 3)
def test_selftest_picture_is_the_plain_recurrence(seed, height, width, channels):
    state, expected = seed, []
    for _ in range(height * width * channels):
        state = (state * 1664525 + 1013904223) % 2**32
        expected.append(state >> 24)
    picture = files.selftest_input(seed, height, width, channels)
    assert picture.shape == (1, height, width, channels)
    assert picture.reshape(-1).tolist() == expected


def test_selftest_picture_does_not_depend_on_its_size():
    large = files.selftest_input(2**32 - 1, 224, 224)
    small = files.selftest_input(2**32 - 1, 7, 5)
    np.testing.assert_array_equal(large.reshape(-1)[: small.size], small.reshape(-1))
    assert large.min() == 0 and large.max() == 255


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 8, 8), "seed"),
        ((2**32, 8, 8), "seed"),
        ((1.0, 8, 8), "seed"),
        ((True, 8, 8), "seed"),
        ((1, 0, 8), "height"),
        ((1, 8, -8), "width"),
        ((1, 8, 8, 0), "channels"),
        ((1, 2**20, 2**20), "values"),
    ],
)
def test_impossible_selftest_pictures_are_refused(arguments, name):
    with pytest.raises(ArgumentError, match=name):
        files.selftest_input(*arguments)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([0.5, -0.25], [0.50009, -0.25009]),
        ([200.0, 0.0], [200.0, 0.0199]),
        ([[1.0, 2.0]], np.array([1.0, 2.0], np.float32)),
        ([0.0], [1e-4]),
    ],
)
def test_selftest_within_tolerance_passes(expected, got):
    files.check_selftest(expected, got, "cells.safetensors")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([0.5, -0.25], [0.50011, -0.25]),
        ([200.0, 0.0], [200.0, 0.0201]),
        ([0.5, -0.25], [-0.25, 0.5]),
        ([0.5, -0.25], [np.nan, -0.25]),
        ([0.5, -0.25], [np.inf, -0.25]),
        ([np.inf, 0.0], [0.0, 0.0]),
        ([np.inf, 0.0], [np.inf, 0.0]),
        ([np.nan, 0.0], [np.nan, 0.0]),
        ([0.5], [0.5, 0.5]),
        ([], []),
    ],
)
def test_selftest_outside_tolerance_is_refused(expected, got):
    with pytest.raises(ModelFileError, match=r"cells.safetensors does not reproduce its self-test.*\.$"):
        files.check_selftest(expected, got, "cells.safetensors")


@pytest.mark.parametrize("expected", ["abc", {"a": 1}, [[1.0], [1.0, 2.0]], ["x", 1.0], [10**400]])
def test_selftest_logits_that_are_not_numbers_are_refused(expected):
    with pytest.raises(ModelFileError, match=r"logits of its self-test are not numbers"):
        files.check_selftest(expected, [1.0], "cells.safetensors")


# The page and the package


def test_the_reader_on_the_documentation_page_reads_our_files(saved, tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "reader.py").write_text(program, encoding="utf-8")

    def read() -> list[str]:
        command = [sys.executable, str(tmp_path / "reader.py"), str(saved)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    assert read() == [
        "tinynet-model version 1",
        "conv1.bias F16 [2]",
        "conv1.weight F32 [2, 3, 4]",
        "mask BOOL [3]",
        "nothing F64 [0, 3]",
        "steps I64 []",
        "digest holds",
    ]
    rewritten(saved, CHANGES["a value"])
    assert read()[-1] == "digest does not hold"


def test_the_documentation_page_states_the_limits_of_the_code():
    page = DOCUMENT.read_text(encoding="utf-8")
    limits = [container.MAXIMUM_HEADER_BYTES, *model_file.MAXIMUM_DESCRIPTION_BYTES.values()]
    for limit in limits:
        assert f"{limit:,}" in page
    for name in container.NUMPY_TYPES:
        assert re.search(rf"`[A-Z0-9 ]*\b{name}\b[A-Z0-9 ]*`", page), name
    assert container.MAXIMUM_FILE_BYTES == 2 * 2**30 and "2 GiB" in page


def test_importing_files_brings_in_nothing_heavy():
    program = (
        "import sys, tinynet.files\n"
        "heavy = {'numba', 'PIL', 'cv2', 'matplotlib', 'tqdm', 'torch', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=DOCUMENT.parent.parent,
    )
    assert result.stdout.strip() == "[]"


@property_test
@given(json_values)
def test_canonical_json_is_one_text_for_one_value(value):
    text = strict_json.dump(strict_json.plain({"value": value}, "metadata"))
    assert text.isascii()
    assert strict_json.dump(strict_json.parse(text)) == text
    assert json.dumps(json.loads(text), sort_keys=True) == json.dumps({"value": value}, sort_keys=True)


def test_whether_a_file_can_be_written_is_seen_without_touching_anything(tmp_path):
    from tinynet.files.atomic import check_writable

    (tmp_path / "old").write_bytes(b"as it was")
    check_writable(tmp_path / "old")
    check_writable(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"as it was"
    for wrong in (tmp_path, tmp_path / "no" / "folder", tmp_path / "old" / "below"):
        with pytest.raises(FileAccessError, match="could not be written"):
            check_writable(wrong)
