"""Files made to do harm: a little in them asks for much, or says different things to different readers.

What any damage does is in test_files_*.py, test_png.py, test_images.py and test_onnx_bad_input.py; fuzz/
tries far more.  Bounds of memory and time are those of docs/robustness.md, held by fuzz/guard.py.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tinynet as tn
from fuzz.guard import Guard, Violation
from fuzz.loaders import LOADERS
from tinynet import files, image_files, kernels, limits, loading, png, storage
from tinynet.errors import ArgumentError, ImageError, ModelFileError
from tinynet.images import decode

MiB = 2**20
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
_guards: list[Guard] = []


@pytest.fixture
def guard() -> Guard:
    """One for all tests: its audit hook stays for good, and does nothing outside of guard.read."""
    if not _guards:
        _guards.append(Guard())
    return _guards[0]


# Mutated files, as in fuzz/


@needs_proc
@pytest.mark.parametrize("name", LOADERS)
def test_mutated_files_are_refused_or_read_within_the_bounds(name, guard):
    if name == "onnx":
        pytest.importorskip("onnx", reason="reading ONNX files needs it")
    if name == "picture":
        pytest.importorskip("PIL", reason="the pictures to start from are made with it")
    finder, pixels = image_files._find_decoder, image_files.PIXELS_BEFORE_PILLOW
    try:
        loader = LOADERS[name]()
        seeds = loader.seeds()
        for content in seeds:  # what is imported on the way is so before it counts
            try:
                loader.read(content)()
            except tn.TinynetError:
                assert name == "onnx"  # not every graph is a Sequential

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(st.integers(0, 2**32))
        @example(0)
        def read(number: int) -> None:
            random = Random(number)
            content = loader.mutate(random.choice(seeds), random)
            with kernels.using("numpy"):  # Numba unpickles what it compiled, whatever file is read
                guard.read(loader.read(content), loader.most_bytes(len(content)))

        read()
    finally:
        image_files._find_decoder, image_files.PIXELS_BEFORE_PILLOW = finder, pixels


@needs_proc
@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: np.empty(2**31, np.uint8), "asked for more than"),
        (lambda: sum(range(10**7)), "processor time"),
        (lambda: open(os.devnull, "w").close(), "to write"),
        (lambda: eval("1 + 1"), "compile|exec"),
        (lambda: os.system("true"), r"os\.system"),
    ],
    ids=["another exception", "memory", "time", "writing", "code", "a program"],
)
def test_the_guard_sees(work, words, guard):
    with pytest.raises(Violation, match=words):
        guard.read(work, 64 * MiB, seconds=0.02)


@needs_proc
def test_the_guard_sees_memory_that_ran_out_behind_another_exception(guard):
    def work() -> None:
        try:
            np.empty(2**31, np.uint8)
        except MemoryError:
            raise ImageError("too large") from None

    with pytest.raises(Violation, match="asked for more than"):
        guard.read(work, 64 * MiB)
    assert guard.read(lambda: None, 64 * MiB).error is None


# Models


def save_unchecked(layers, shape, path, monkeypatch) -> None:
    """A model file whose self-test was never computed: too much work even for whoever makes it."""
    model = tn.Sequential(layers, shape, name="costly")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "selftest_outputs", lambda *_: [0.0])
        model.save(path)


COSTLY = {
    "many passes over a large picture": (
        lambda: [tn.UpSample2D(64), tn.UpSample2D(16), *(tn.ReLU() for _ in range(500))],
        (4, 4, 1),
    ),
    "a mean over a large picture, many times": (
        lambda: [
            layer for _ in range(9) for layer in (tn.UpSample2D(512), tn.AveragePool2D(512))
        ],
        (1, 1, 1),
    ),
    "windows that overlap": (lambda: [tn.UpSample2D(256), tn.MaxPool2D(33, stride=1)], (2, 2, 1)),
    "blocks in blocks that each keep a picture": (
        lambda: [tn.UpSample2D(4096), _nested(8)],
        (1, 1, 3),
    ),
}  # fmt: skip


def _nested(depth: int) -> tn.Layer:
    return tn.Residual([tn.MaxPool2D(1), _nested(depth - 1)] if depth else [], [tn.ReLU()])


@pytest.mark.parametrize("what", COSTLY)
def test_a_model_of_few_bytes_that_asks_for_much_is_refused_before_it_runs(what, tmp_path, monkeypatch):
    layers, shape = COSTLY[what]
    path = tmp_path / "costly.safetensors"
    save_unchecked(layers(), shape, path, monkeypatch)
    monkeypatch.setattr(storage, "check_selftest", lambda *_: pytest.fail("the model was run"))
    with pytest.raises(ModelFileError, match=r"would need .* for one image; at most") as refusal:
        tn.load(path)
    assert str(refusal.value).startswith(str(path))


def test_a_weight_may_be_used_at_every_pixel_of_512_by_512_and_vgg_16_is_no_hostile_file():
    convolution = tn.Sequential([tn.Conv2D(16, 3), tn.Conv2D(16, 3), tn.Conv2D(2, 3)], (512, 512, 3))
    loading.check_costs(convolution)
    vgg_numbers, vgg_operations = 138_357_544, 15_470_264_320
    assert limits.allowed_operations(vgg_numbers) > vgg_operations


def test_values_held_by_the_blocks_around_a_layer_are_counted(tmp_path, monkeypatch):
    def model(depth: int) -> tn.Sequential:
        return tn.Sequential([_nested(depth)], (16, 16, 4), name="nested")

    monkeypatch.setattr(loading, "MAXIMUM_VALUES", 6 * 16 * 16 * 4)
    loading.check_costs(model(0))
    with pytest.raises(ModelFileError, match="would need"):
        loading.check_costs(model(8))


def test_a_weight_that_float32_does_not_hold_is_refused_by_name(tmp_path):
    model = tn.Sequential([tn.Dense(2, "relu"), tn.Dense(2)], (3,), seed=1)
    arrays = {name: array.astype(np.float64) for name, array in model.state().items()}
    path = tmp_path / "wide.safetensors"
    files.save_model_file(path, arrays, storage.describe(model))
    assert tn.load(path).name == model.name
    arrays["dense1.weight"][0, 0] = -1e300  # the rectifier after it would hide that it became -inf
    files.save_model_file(path, arrays, storage.describe(model))
    with pytest.raises(ModelFileError, match=r"dense1\.weight has a number that is too large for float32"):
        tn.load(path)
    before = model.state()["dense1.weight"].copy()
    with pytest.raises(ArgumentError, match="too large"):
        model.load_state(arrays)
    assert np.array_equal(model.state()["dense1.weight"], before)


def test_an_int8_file_that_is_refused_is_named_once(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3)).astype(np.uint8)
    model = tn.Sequential([tn.Flatten(), tn.Dense(2)], (4, 4, 3)).quantize("int8", codes)
    path = tmp_path / "model.safetensors"
    model.save(path)
    arrays, _ = files.load_model_file(path)
    for change, words in (
        (lambda d: d["self_test"]["outputs"].reverse(), "does not reproduce its self-test"),
        (lambda d: d["self_test"].update(seed=-1), "the self-test cannot be run: self-test seed is -1"),
        (lambda d: d["preprocessing"].update(scale=0), "preprocessing: scale must be"),
    ):
        _, changed = files.load_model_file(path)
        change(changed)
        other = tmp_path / "other.safetensors"
        files.save_model_file(other, arrays, changed)
        with pytest.raises(ModelFileError, match=words) as refusal:
            tn.load(other)
        assert str(refusal.value).count(str(other)) == 1


# Pictures


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_png_of_very_many_chunks_is_refused_in_no_time(guard):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    content = png.SIGNATURE + header + chunk(b"teXt", b"") * (png.MAX_CHUNKS + 1)
    with pytest.raises(ImageError, match="more than 100000 chunks"):
        decode(content)


def test_a_jpeg_of_very_many_parts_or_of_fill_bytes_is_refused_in_no_time():
    with pytest.raises(ImageError, match="more than 100000 parts"):
        decode(b"\xff\xd8" + b"\xff\x01" * (image_files.MAX_PARTS + 1))
    with pytest.raises(ImageError, match="is truncated"):
        decode(b"\xff\xd8" + b"\xff" * 10_000_000)


def jpeg(width: int, height: int, scans: int) -> bytes:
    """The markers of a progressive JPEG, which is all that its header is read from."""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\1\x3f\0"
    return b"\xff\xd8" + frame + scan * scans + b"\xff\xd9"


def test_a_progressive_jpeg_whose_scans_would_take_minutes_is_refused():
    assert image_files.read_header(jpeg(7000, 7000, 10), "p") == ("JPEG", 7000, 7000)
    assert image_files.read_header(jpeg(130, 130, 1000), "p") == ("JPEG", 130, 130)
    with pytest.raises(ImageError, match="p is too large: 7000x7000 pixels in 11 scans"):
        image_files.read_header(jpeg(7000, 7000, 11), "p")


def test_a_gif_of_very_many_blocks_is_refused(monkeypatch):
    content = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"\x21\xfe" + b"\1a" * 5000
    monkeypatch.setattr(image_files, "MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="the picture given as bytes is damaged: a GIF of too many blocks"):
        decode(content)


@pytest.mark.filterwarnings("ignore:Image size")  # of the same thing
def test_a_gif_whose_first_frame_is_far_larger_than_its_screen_is_refused():
    pytest.importorskip("PIL", reason="GIF is read by Pillow")
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 12000, 12000, 0) + b"\2\2\x4c\1\0;"
    with pytest.raises(ImageError, match="too large: 12000x12000 pixels"):
        decode(screen + frame)


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF's header and its entries: (tag, type, count, value)."""
    packed = b"".join(
        struct.pack("<HHII", tag, kind, count, value)  # little-endian: a short lies in the first two bytes
        for tag, kind, count, value in entries
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


@pytest.mark.parametrize(
    "entries",
    [
        ((256, 4, 1, 8), (257, 4, 1, 8), (256, 4, 1, 2**20)),
        ((256, 16, 1, 8), (257, 4, 1, 8)),
        ((256, 3, 2, 8), (257, 4, 1, 8)),
        ((256, 1, 1, 8), (257, 4, 1, 8)),
    ],
    ids=["twice", "in 64 bits", "two values", "a byte"],
)
def test_a_tiff_that_says_its_size_in_a_way_that_readers_differ_on_is_refused(entries):
    assert image_files.read_header(tiff((256, 3, 1, 8), (257, 4, 1, 9)), "p") == ("TIFF", 8, 9)
    with pytest.raises(ImageError, match="p is damaged: a TIFF must say its size once"):
        image_files.read_header(tiff(*entries), "p")


def test_a_tiff_of_absurd_tiles_is_refused():
    entries = ((256, 3, 1, 8), (257, 3, 1, 8), (322, 4, 1, 2**24), (323, 4, 1, 2**24))
    with pytest.raises(ImageError, match="a tile of p is too large"):
        image_files.read_header(tiff(*entries), "p")


# ONNX


def test_an_onnx_file_is_read_without_reserving_the_most_that_a_file_may_have(tmp_path, guard):
    pytest.importorskip("onnx", reason="reading ONNX files needs it")
    from tinynet.deploy.onnx_export import export_onnx

    path = tmp_path / "small.onnx"
    export_onnx(tn.Sequential([tn.Dense(2)], (3,)), path)
    assert tn.from_onnx(path).run([np.zeros((1, 3), np.float32)])
    if sys.platform == "linux":
        assert guard.read(lambda: tn.from_onnx(path), 64 * MiB).error is None


def test_nodes_that_only_read_large_arrays_are_counted(monkeypatch):
    pytest.importorskip("onnx", reason="reading ONNX files needs it")
    from onnx_messages import message, node, read

    monkeypatch.setattr(limits, "FREE_OPERATIONS", 2**20)
    nodes = [node("Expand", ["x", "s"], ["v"]), *(node("ArgMax", ["v"], [f"m{i}"]) for i in range(99))]
    made = read(message([*nodes, node("Relu", ["x"], ["y"])], weights={"s": np.array([2**10, 4])}))
    with pytest.raises(ModelFileError, match="more work than is sensible"):
        made.run([np.zeros((1, 4), np.float32)])


def test_a_batch_that_the_file_fixes_does_not_buy_it_more_work():
    pytest.importorskip("onnx", reason="reading ONNX files needs it")
    from onnx_messages import message, node, read

    inputs = {"x": (2**10, 2, 64, 64)}
    made = read(message([node("Relu", ["x"], ["y"]), node("Relu", ["y"], ["z"])], inputs, outputs=("z",)))
    with pytest.raises(ModelFileError, match="more work than is sensible"):
        made.to_sequential()
    large = read(message([node("Relu", ["x"], ["y"])], {"x": (2**40, 2, 64, 64)[1:] + (2**20,)}))
    with pytest.raises(ModelFileError, match="more than is sensible for one run"):
        large.to_sequential()
