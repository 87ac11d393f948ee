"""Reading pictures, exact resizing, preprocessing, and telling cells from other pictures."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinynet import image_files, images
from tinynet.errors import (
    ArgumentError,
    FileAccessError,
    ImageError,
    MissingDependencyError,
    ModelFileError,
)
from tinynet.images import MAX_PIXELS, Preprocessing, decode, looks_like_a_cell, resize

Image = pytest.importorskip("PIL.Image")

ROWS, COLUMNS = np.mgrid[:37, :53]
COLOUR = np.stack([ROWS * 6, COLUMNS * 4, ROWS * COLUMNS % 256], axis=2).astype(np.uint8)
GREY = COLOUR[:, :, 2]
ALPHA = (COLUMNS * 5 % 256).astype(np.uint8)
LOSSLESS = ["PNG", "BMP", "TIFF", "PPM", "WEBP"]


@pytest.fixture(params=["alone", "pillow", "opencv"])
def decoder(request, monkeypatch):
    """Run a test once with each decoder; alone: PNG without a library, the rest with Pillow."""
    if request.param == "opencv":
        pytest.importorskip("cv2")

    def find(data, header, name):
        if request.param == "alone" and header.format == "PNG":
            return image_files._decode_alone
        library = "pillow" if request.param == "alone" else request.param
        return getattr(image_files, f"_decode_with_{library}")

    monkeypatch.setattr(image_files, "_find_decoder", find)
    return request.param


def encoded(array, format="PNG", mode=None, **options):
    buffer = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, format, **options)
    return buffer.getvalue()


def png16(array, colour_type):
    """A 16-bit PNG of uint16 (h, w) or (h, w, c), written by hand: Pillow cannot write all of them."""
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = array.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def over_black(colour, alpha):
    return np.floor(colour * alpha[:, :, None].astype(np.float64) / 255 + 0.5).astype(np.uint8)


# Decoding


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_give_back_what_was_stored(format, decoder):
    options = {"lossless": True} if format == "WEBP" else {}
    pixels = decode(encoded(COLOUR, format, **options))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, COLOUR)


def test_grey_becomes_three_equal_channels(decoder):
    for data in (encoded(GREY), encoded(GREY, "TIFF"), encoded(GREY, "PPM")):
        np.testing.assert_array_equal(decode(data), np.repeat(GREY[:, :, None], 3, axis=2))


def test_palette_and_one_bit_pictures(decoder):
    palette = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette)), np.array(palette.convert("RGB")))
    black_white = np.repeat(np.where(GREY > 127, 255, 0)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(GREY > 127)), black_white)


def test_transparent_pictures_are_laid_over_black(decoder):
    wanted = over_black(COLOUR, ALPHA)
    rgba = np.dstack([COLOUR, ALPHA])
    for data in (encoded(rgba), encoded(rgba, "TIFF"), encoded(rgba, "WEBP", lossless=True, exact=True)):
        np.testing.assert_array_equal(decode(data), wanted)
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    np.testing.assert_array_equal(
        decode(encoded(grey_alpha)), over_black(np.repeat(GREY[:, :, None], 3, 2), ALPHA)
    )


def test_a_transparent_palette_entry_becomes_black(decoder):
    palette = Image.fromarray(COLOUR).quantize(16)
    pixels = decode(encoded(palette, transparency=3))
    clear = np.array(palette) == 3
    assert clear.any() and not pixels[clear].any()
    np.testing.assert_array_equal(pixels[~clear], np.array(palette.convert("RGB"))[~clear])


def test_sixteen_bits_keep_the_upper_eight(decoder):
    low = np.random.default_rng(0).integers(0, 256, (*COLOUR.shape[:2], 4), dtype=np.uint16)
    colour16 = (COLOUR.astype(np.uint16) << 8) + low[:, :, :3]
    grey16 = colour16[:, :, 2]
    alpha16 = (ALPHA.astype(np.uint16) << 8) + low[:, :, 3]
    grey = np.repeat(GREY[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode(png16(grey16, 0)), grey)
    np.testing.assert_array_equal(decode(encoded(grey16, "TIFF")), grey)
    np.testing.assert_array_equal(decode(png16(colour16, 2)), COLOUR)
    np.testing.assert_array_equal(decode(png16(np.dstack([colour16, alpha16]), 6)), over_black(COLOUR, ALPHA))


def test_cmyk_becomes_rgb(decoder):
    flat = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    pixels = decode(encoded(flat, "JPEG", mode="CMYK", quality=95))
    assert pixels.shape == flat.shape
    assert np.abs(pixels.astype(int) - flat).max() <= 6


def test_exif_orientation_is_ignored(decoder):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    for format in ("JPEG", "PNG"):
        assert decode(encoded(COLOUR, format, exif=exif)).shape == COLOUR.shape


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    for format in ("PNG", "TIFF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decode(data), COLOUR)


def test_both_decoders_agree_on_jpeg_to_a_level_or_two():
    pytest.importorskip("cv2")
    data = encoded(COLOUR, "JPEG", quality=90)
    header = image_files.read_header(data, "x")
    ours, theirs = (
        function(data, header).astype(int)
        for function in (image_files._decode_with_pillow, image_files._decode_with_opencv)
    )
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("format", [*LOSSLESS, "JPEG", "GIF"])
def test_a_truncated_picture_is_an_error_never_a_half_picture(format, decoder):
    data = encoded(COLOUR, format)
    try:
        whole = decode(data)
    except ImageError:
        pytest.skip(f"this {decoder} reads no {format}")
    for end in {*range(1, len(data) - 20, max(1, len(data) // 40)), *range(len(data) - 20, len(data))}:
        try:
            pixels = decode(data[:end], name="cell.img")
        except ImageError as problem:
            assert "cell.img" in str(problem)
        else:  # only bytes after the last pixel were missing
            np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_or_png_cut_short_says_that_it_is_truncated(share, decoder):
    for format in ("JPEG", "PNG", "BMP"):
        data = encoded(COLOUR, format)
        with pytest.raises(ImageError, match=r"cell\.x is truncated"):
            decode(data[: int(len(data) * share)], name="cell.x")


def test_a_png_with_a_flipped_bit_is_damaged(decoder):
    data = bytearray(encoded(COLOUR))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        decode(bytes(data))


def test_restart_markers_and_progressive_scans_do_not_end_a_jpeg(decoder):
    for options in ({"progressive": True}, {"restart_marker_blocks": 2}):
        assert decode(encoded(COLOUR, "JPEG", **options)).shape == COLOUR.shape


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"RIFF\x04\x00\x00\x00WAVE", "not WebP"),
        (b"P6 what is this", "makes no sense"),
        (b"II*\x00\x08" + bytes(20), "0x0 pixels"),
    ],
)
def test_what_is_not_an_image_gets_one_sentence(data, words, decoder):
    with pytest.raises(ImageError, match=words) as caught:
        decode(data, name="thing.png")
    assert str(caught.value).startswith("thing.png") and "\n" not in str(caught.value)


@settings(deadline=None, max_examples=150)
@given(start=st.sampled_from(range(7)), data=st.binary(max_size=200), cut=st.integers(2, 60))
def test_garbage_never_raises_anything_else(start, data, cut):
    formats = ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"]
    damaged = encoded(COLOUR, formats[start])[:cut] + data
    with contextlib.suppress(ImageError):
        assert decode(damaged).ndim == 3


def test_a_decompression_bomb_is_refused_from_its_header(decoder, monkeypatch):
    def must_not_run(*about):
        raise AssertionError("the decoder was started")

    monkeypatch.setattr(image_files, "_find_decoder", must_not_run)
    side = int(MAX_PIXELS**0.5) + 1
    bomb = bytearray(encoded(COLOUR, "BMP"))
    bomb[18:26] = struct.pack("<ii", side, side)
    bomb[30:34] = struct.pack("<I", 1)  # run-length encoded, so that its small size is no objection
    with pytest.raises(ImageError, match=f"too large: {side}x{side}"):
        decode(bytes(bomb))
    with pytest.raises(ImageError, match="too large: 99999x1"):
        decode(b"P5 99999 1 255\n" + bytes(99999))


def test_thirty_two_bit_samples_are_refused(decoder):
    for array in (GREY.astype(np.float32), GREY.astype(np.int32)):
        with pytest.raises(ImageError, match="32-bit or signed"):
            decode(encoded(array, "TIFF"))


def test_paths_and_their_errors(tmp_path):
    path = tmp_path / "cell.png"
    path.write_bytes(encoded(COLOUR))
    np.testing.assert_array_equal(decode(path), COLOUR)
    np.testing.assert_array_equal(decode(str(path)), COLOUR)
    with pytest.raises(FileAccessError, match=r"missing\.png does not exist"):
        decode(tmp_path / "missing.png")
    with pytest.raises(FileAccessError, match="directory"):
        decode(tmp_path)
    with pytest.raises(FileAccessError, match="cannot be read"):
        decode("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileAccessError, match="not a regular file"):
        decode(tmp_path / "pipe.png")


def test_no_permission(tmp_path):
    path = tmp_path / "cell.png"
    path.write_bytes(encoded(COLOUR))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(FileAccessError, match="no permission"):
        decode(path)


def without(monkeypatch, *libraries):
    """As if these libraries were not installed."""
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


def test_without_pillow_opencv_is_used_and_without_both_the_sentence_says_what_to_install(monkeypatch):
    data = encoded(COLOUR, "JPEG")
    without(monkeypatch, "PIL", "PIL.Image")
    if importlib.util.find_spec("cv2"):
        assert decode(data).shape == COLOUR.shape
    without(monkeypatch, "cv2")
    with pytest.raises(MissingDependencyError, match=r"cell\.jpg is a JPEG picture.*pip install pillow.*PNG"):
        decode(data, name="cell.jpg")


def test_without_both_png_is_read_however_many_there_are(monkeypatch):
    data = encoded(COLOUR)
    without(monkeypatch, "PIL", "PIL.Image", "cv2")
    monkeypatch.setattr(image_files, "PIXELS_BEFORE_PILLOW", 0)
    np.testing.assert_array_equal(decode(data), COLOUR)


def test_the_first_few_png_are_read_without_waiting_for_pillow(tmp_path):
    (tmp_path / "cell.png").write_bytes(encoded(COLOUR))
    code = (
        "import sys; from tinynet import image_files\n"
        f"image_files.PIXELS_BEFORE_PILLOW = {2 * GREY.size}\n"
        "for _ in range(3):\n"
        "    pixels = image_files.decode('cell.png')\n"
        "    print('PIL.Image' in sys.modules, pixels.tobytes().hex())"
    )
    root = os.path.dirname(os.path.dirname(image_files.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = [line.split() for line in done.stdout.splitlines()]
    assert imported == [[answer, COLOUR.tobytes().hex()] for answer in ("False", "False", "True")]


def test_a_transparent_colour_is_laid_over_black():
    picture = Image.fromarray(COLOUR)
    pixels = decode(encoded(picture, transparency=tuple(COLOUR[5, 7].tolist())))
    clear = (COLOUR[5, 7] == COLOUR).all(axis=2)
    np.testing.assert_array_equal(pixels, np.where(clear[:, :, None], 0, COLOUR))


# Resizing


def resize_reference(image, height, width):
    """The definition, one fraction at a time."""
    source_height, source_width = image.shape[:2]
    out = np.zeros((height, width, 3), np.uint8)

    def overlaps(i, source, target):
        low, high = Fraction(i * source, target), Fraction((i + 1) * source, target)
        pairs = ((j, min(high, j + 1) - max(low, j)) for j in range(source))
        return [(j, weight) for j, weight in pairs if weight > 0]

    for y in range(height):
        for x in range(width):
            for channel in range(3):
                total = Fraction(0)
                for j, vertical in overlaps(y, source_height, height):
                    for i, horizontal in overlaps(x, source_width, width):
                        total += vertical * horizontal * int(image[j, i, channel])
                box = Fraction(source_height, height) * Fraction(source_width, width)
                out[y, x, channel] = floor(total / box + Fraction(1, 2))
    return out


sides = st.integers(1, 13)


@settings(deadline=None, max_examples=60)
@given(shape=st.tuples(sides, sides), target=st.tuples(sides, sides), seed=st.integers(0, 2**32 - 1))
def test_resize_is_the_rounded_mean_over_the_box(shape, target, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, *target), resize_reference(image, *target))


def test_resize_rounds_halves_up():
    image = np.array([[[0, 1, 254], [1, 2, 255]]], np.uint8)
    np.testing.assert_array_equal(resize(image, 1, 1), [[[1, 2, 255]]])


def test_resize_keeps_a_flat_picture_flat_at_every_size():
    for value in (0, 1, 127, 255):
        for side in (1, 2, 31, 130, 397):
            flat = np.full((side, side + 3, 3), value, np.uint8)
            assert np.all(resize(flat, 32, 48) == value)


def test_resize_of_a_large_picture_is_as_exact_and_does_not_overflow():
    # 255 * 3000 * 3000 is above 2**31; an integer factor lets NumPy compute the means directly.
    image = np.random.default_rng(0).integers(200, 256, (3000, 3000, 3), dtype=np.uint8)
    sums = image.reshape(3, 1000, 4, 750, 3).sum(axis=(1, 3), dtype=np.int64)
    np.testing.assert_array_equal(resize(image, 3, 4), (2 * sums + 750000) // 1500000)


def test_resize_to_the_same_size_is_a_copy():
    copy = resize(COLOUR, *COLOUR.shape[:2])
    np.testing.assert_array_equal(copy, COLOUR)
    assert not np.shares_memory(copy, COLOUR)


def test_resize_takes_any_memory_layout():
    turned = COLOUR.transpose(1, 0, 2)[::-1]
    np.testing.assert_array_equal(resize(turned, 9, 8), resize(np.ascontiguousarray(turned), 9, 8))


@pytest.mark.parametrize(
    "image, size",
    [
        (COLOUR, (0, 5)),
        (COLOUR, (5, -1)),
        (COLOUR, (5, 2.5)),
        (COLOUR, (5, 5000)),
        (COLOUR.astype(np.float32), (5, 5)),
        (GREY, (5, 5)),
        (COLOUR[:0], (5, 5)),
        ([[1]], (5, 5)),
    ],
)
def test_resize_refuses_what_makes_no_sense(image, size):
    with pytest.raises(ArgumentError):
        resize(image, *size)


# Preprocessing


def test_preprocessing_survives_json():
    before = Preprocessing(32, 48, 1 / 127.5, (0.1, 0.2, 0.3), (1.5, 2.0, 0.7))
    after = Preprocessing.from_json(json.loads(json.dumps(before.to_json())))
    assert after == before and hash(after) == hash(before)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"height": 10**9},
        {"width": True},
        {"width": 3.0},
        {"scale": float("nan")},
        {"scale": 0},
        {"scale": "1"},
        {"mean": [0, 0]},
        {"mean": "abc"},
        {"mean": [0, 0, None]},
        {"deviation": [1, 1, 0]},
        {"deviation": [1, 1, float("inf")]},
        {"resize": "bilinear"},
        {"colour": "bgr"},
        {"extra": 1},
    ],
)
def test_preprocessing_nonsense_in_a_model_file_is_refused(change):
    with pytest.raises(ModelFileError, match="preprocessing"):
        Preprocessing.from_json({**Preprocessing(32, 32).to_json(), **change})
    if "extra" not in change:
        with pytest.raises(ArgumentError, match=next(iter(change))):
            Preprocessing(**{**Preprocessing(32, 32).to_json(), **change})


def test_preprocessing_must_be_a_complete_object():
    for values in (None, [], {}, {"height": 32, "width": 32}):
        with pytest.raises(ModelFileError):
            Preprocessing.from_json(values)


def test_prepare_and_normalise():
    preprocessing = Preprocessing(8, 6, 1 / 255, (0.5, 0.25, 0.0), (0.5, 2.0, 1.0))
    small = preprocessing.prepare(COLOUR)
    np.testing.assert_array_equal(small, images.resize(COLOUR, 8, 6))
    values = preprocessing.normalise(small[None])
    assert values.dtype == np.float32 and values.shape == (1, 8, 6, 3)
    wanted = (small[None] / 255 - [0.5, 0.25, 0.0]) / [0.5, 2.0, 1.0]
    np.testing.assert_allclose(values, wanted, atol=1e-6)
    with pytest.raises(ArgumentError, match="uint8"):
        preprocessing.normalise(values)
    with pytest.raises(ArgumentError, match=r"\(1, 37, 53, 3\)"):
        preprocessing.normalise(COLOUR[None])


# Telling cells from other pictures


def round_blob(height=130, width=120, radius=0.45, colour=(190, 150, 160), noise=3, uneven=0.05):
    rows, columns = np.mgrid[:height, :width]
    down, across = (rows + 0.5) / height - 0.5, (columns + 0.5) / width - 0.5
    # A cell is never a perfect ellipse, which is what a round frame is.
    distance = np.hypot(down, across) * (1 + uneven * np.cos(3 * np.arctan2(down, across)))
    values = np.random.default_rng(0).normal(colour, noise, (height, width, 3)).clip(40, 255)
    return np.where(distance[:, :, None] < radius, values, 0).astype(np.uint8)


def test_a_round_blob_on_black_looks_like_a_cell():
    assert looks_like_a_cell(round_blob()) is None
    parasite = round_blob()
    parasite[50:62, 60:72] = (90, 40, 120)
    assert looks_like_a_cell(parasite) is None


def whole_field(uneven=0.0, background=(200, 150, 150)):
    field = round_blob(400, 400, 0.48, background, uneven=uneven)
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:400, :400]
    for y, x in rng.integers(60, 340, (90, 2)):
        inside = np.hypot(rows - y, columns - x) < 9
        field[inside & (field[:, :, 0] > 0)] = (170, 120, 135)
    return field


def two_blobs():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :100] = round_blob(100, 100, 0.42)
    picture[:, 100:] = round_blob(100, 100, 0.42)
    return picture


def two_touching_cells():
    picture = np.zeros((100, 180, 3), np.uint8)
    for left in (0, 80):
        picture[:, left : left + 100] = np.maximum(picture[:, left : left + 100], round_blob(100, 100, 0.42))
    return picture


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=50),
    share=st.sampled_from([0, 0.3, 0.75, 0.95, 1]),
)
def test_the_quantiles_of_the_check_are_numpys(values, share):
    for dtype in (np.uint8, np.float32):
        array = np.array(values, dtype)
        assert images._quantile(array, share) == pytest.approx(np.quantile(array, share), rel=1e-6)


NOISE = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "picture, words",
    [
        (np.zeros((100, 100, 3), np.uint8), "nothing but black"),
        (np.full((100, 100, 3), 200, np.uint8), "no black surround"),
        (NOISE, "no black surround"),
        (np.where(round_blob(100, 100) > 0, NOISE // 2 + 100, 0).astype(np.uint8), "for"),
        (round_blob(100, 100)[30:70, 30:70], "no black surround"),
        (np.zeros((1, 1, 3), np.uint8), "only 1x1 pixels"),
        (round_blob(1500, 1400), "1400x1500 pixels"),
        (round_blob(radius=0.2), "only a small part"),
        (two_blobs(), "not one roughly round blob"),
        (round_blob(colour=(235, 230, 232)), "too bright"),
        (whole_field(), "perfect ellipse"),
        (whole_field(uneven=0.05, background=(215, 205, 200)), "too much detail"),
        (two_touching_cells(), "two cells that touch"),
        (round_blob(colour=(160, 160, 160), noise=0), "grey"),
        (round_blob(colour=(0, 200, 0)), "colour"),
        (round_blob(colour=(0, 0, 230)), "colour"),
        (round_blob(colour=(255, 200, 0)), "colour"),
        (round_blob(colour=(95, 75, 80)), "too dark"),
    ],
)
def test_other_pictures_do_not_look_like_a_cell(picture, words):
    reason = looks_like_a_cell(picture)
    assert reason is not None and words in reason
