"""The safetensors layout: what goes in comes out, and nothing but that comes out of a damaged file."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_files import TENSORS, arrays, assert_refused, assert_same, names, property_test, save_model

from tinynet import files
from tinynet.errors import ArgumentError, ModelFileError


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
    return save_model(tmp_path)


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


# What cannot be written


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
