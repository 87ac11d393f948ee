"""Anything at all that happens to the bytes of a file: it is refused, or nothing was lost."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stored_files import METADATA, TENSORS, assert_same, property_test, save_model

from tinynet import files
from tinynet.errors import ModelFileError


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_model(tmp_path)


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
