"""Model files and checkpoints: round trips, digest and description, and the page that documents them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_files import (
    METADATA,
    TENSORS,
    assert_refused,
    assert_same,
    descriptions,
    finite_arrays,
    json_values,
    names,
    property_test,
    save_model,
)

from tinynet import files
from tinynet.errors import ArgumentError, NonFiniteError
from tinynet.files import container, model_file, strict_json

DOCUMENT = Path(__file__).parent.parent / "docs" / "model-file.md"


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_model(tmp_path)


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


@property_test
@given(json_values)
def test_canonical_json_is_one_text_for_one_value(value):
    text = strict_json.dump(strict_json.plain({"value": value}, "metadata"))
    assert text.isascii()
    assert strict_json.dump(strict_json.parse(text)) == text
    assert json.dumps(json.loads(text), sort_keys=True) == json.dumps({"value": value}, sort_keys=True)


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
