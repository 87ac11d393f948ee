"""PNG read with zlib and NumPy: the same pixels as Pillow's, and hostile files bounded."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import png
from tinynet.errors import ImageError

TYPES = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
TYPES += [(3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]  # colour type, bits a sample
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def assembled(width, height, depth, colour, filtered, *, interlaced=0, before=(), pieces=1, level=6):
    """A PNG file around rows that have been filtered; before: chunks between IHDR and IDAT."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = zlib.compress(filtered, level)
    step = -(-len(data) // pieces)
    parts = [chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join([png.SIGNATURE, chunk(b"IHDR", header), *before, *parts, chunk(b"IEND")])


def paeth(a, b, c):
    """Section 9.4, word for word."""
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    return a if pa <= pb and pa <= pc else b if pb <= pc else c


def apply_filters(rows, kinds, step):
    """Filter rows of bytes, each by its kind, as an encoder does (section 9.2); one byte at a time."""
    out, above = bytearray(), bytes(len(rows[0])) if rows else b""
    for row, kind in zip(rows, kinds, strict=True):
        out.append(kind)
        for x, value in enumerate(row):
            a = row[x - step] if x >= step else 0
            b, c = above[x], above[x - step] if x >= step else 0
            out.append((value - (0, a, b, (a + b) // 2, paeth(a, b, c))[kind]) % 256)
        above = row
    return bytes(out)


def packed(samples, depth):
    """Rows of bytes of samples, int (height, width, channels)."""
    flat = samples.reshape(len(samples), -1)
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in flat]
    if depth == 8:
        return [row.astype(np.uint8).tobytes() for row in flat]
    bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
    return [np.packbits(row.reshape(-1)).tobytes() for row in bits]


@st.composite
def pictures(draw, types=TYPES):
    """(colour type, depth, samples int (h, w, channels), chunks before IDAT, interlaced, kinds of filters)"""
    colour, depth = draw(st.sampled_from(types))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 3, 2**depth]))  # few: ties between predictions; many: wrap-around
    samples = rng.integers(0, min(levels, 2**depth), (height, width, CHANNELS[colour]))
    before = [chunk(b"gAMA", struct.pack(">I", 45455))] if draw(st.booleans()) else []
    if colour == 3:
        before.append(chunk(b"PLTE", rng.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()))
        if draw(st.booleans()):
            before.append(
                chunk(b"tRNS", rng.integers(0, 256, draw(st.integers(1, 2**depth)), np.uint8).tobytes())
            )
    kinds = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    return colour, depth, samples, before, draw(st.booleans()), kinds


def encoded(colour, depth, samples, before=(), interlaced=False, kinds=(0,), pieces=1):
    """The picture as a file; kinds of filters are repeated over the rows."""
    step, filtered = max(1, depth * CHANNELS[colour] // 8), b""
    for row, column, down, across in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = samples[row::down, column::across]
        if part.size:
            every = [kinds[at % len(kinds)] for at in range(len(part))]
            filtered += apply_filters(packed(part, depth), every, step)
    height, width = samples.shape[:2]
    return assembled(
        width, height, depth, colour, filtered, interlaced=int(interlaced), before=before, pieces=pieces
    )


def over_black(rgba):
    colour, alpha = rgba[:, :, :3].astype(np.float64), rgba[:, :, 3:]
    return np.floor(colour * alpha / 255 + 0.5).astype(np.uint8)


def by_pillow(data):
    """What Pillow makes of it, under tinynet's two rules: upper 8 bits, transparency over black."""
    Image = pytest.importorskip("PIL.Image")
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):
            grey = (np.array(image, np.int32) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode in ("RGBA", "LA") or "transparency" in image.info:
            return over_black(np.array(image.convert("RGBA")))
        return np.array(image.convert("RGB"))


# The same pixels


@given(picture=pictures(), pieces=st.integers(1, 5))
def test_every_kind_of_png_has_the_pixels_that_pillow_finds(picture, pieces):
    data = encoded(*picture, pieces=pieces)
    pixels = png.decode(data)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, by_pillow(data))


@given(picture=pictures([(0, 1), (0, 2), (0, 4), (0, 8), (2, 8)]))
def test_a_transparent_grey_or_colour_is_laid_over_black(picture):
    colour, depth, samples, before, interlaced, kinds = picture
    key = struct.pack(f">{CHANNELS[colour]}H", *samples[0, 0].tolist())
    data = encoded(colour, depth, samples, [*before, chunk(b"tRNS", key)], interlaced, kinds)
    assert png.has_transparent_colour(data)
    clear = (samples == samples[0, 0]).all(axis=2)
    wanted = np.where(clear[:, :, None], 0, samples * (255 // (2**depth - 1)))
    np.testing.assert_array_equal(png.decode(data), np.broadcast_to(wanted, (*clear.shape, 3)))
    if depth == 8:  # with fewer bits Pillow 13 takes another level
        np.testing.assert_array_equal(by_pillow(data), png.decode(data))


@pytest.mark.parametrize("colour", [0, 2])
def test_a_transparent_colour_of_16_bits_counts_all_of_them(colour):
    samples = np.full((3, 4, CHANNELS[colour]), 0x1234)
    samples[1, 2, -1] = 0x1235  # the same upper 8 bits, another colour
    key = struct.pack(f">{CHANNELS[colour]}H", *samples[0, 0].tolist())
    pixels = png.decode(encoded(colour, 16, samples, [chunk(b"tRNS", key)]))
    wanted = np.zeros((3, 4, 3), np.uint8)
    wanted[1, 2] = 0x12
    np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [4, 1], [0, 4, 4, 3, 2], [2, 3]])
@pytest.mark.parametrize("height, width", [(700, 3), (260, 41), (1, 500), (3, 1)])
def test_filters_reach_over_the_edges_of_bands(kinds, height, width):
    samples = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    np.testing.assert_array_equal(png.decode(encoded(2, 8, samples, kinds=kinds)), samples)


def test_a_band_of_wide_rows_is_few_of_them(monkeypatch):
    monkeypatch.setattr(png, "_BAND_BYTES", 1000)
    monkeypatch.setattr(png, "_BAND_ROWS", (2, 5))
    samples = np.random.default_rng(0).integers(0, 256, (23, 130, 3))
    np.testing.assert_array_equal(png.decode(encoded(2, 8, samples, kinds=[4, 4, 4, 3, 1])), samples)


def test_a_palette_index_beyond_the_palette_is_black():
    data = encoded(3, 8, np.array([[[0], [1], [200]]]), [chunk(b"PLTE", bytes([9, 8, 7, 6, 5, 4]))])
    np.testing.assert_array_equal(png.decode(data), [[[9, 8, 7], [6, 5, 4], [0, 0, 0]]])


def test_what_pillow_writes_is_read():
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:131, :118]
    smooth = np.stack([rows, columns, rows + columns], axis=2) + rng.integers(0, 5, (131, 118, 3))
    colour = Image.fromarray(smooth.astype(np.uint8))
    for picture in (
        colour,
        colour.convert("RGBA"),
        colour.convert("L"),
        colour.quantize(),
        colour.convert("1"),
    ):
        for options in ({}, {"optimize": True}, {"compress_level": 0}):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", **options)
            np.testing.assert_array_equal(png.decode(buffer.getvalue()), np.array(picture.convert("RGB")))


# Damaged and hostile files


WHOLE = encoded(2, 8, np.random.default_rng(0).integers(0, 256, (9, 7, 3)), kinds=[0, 1, 2, 3, 4])


@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_found(at, value):
    data = WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :]
    if at < 8 or data == WHOLE:  # the signature is image_files' business
        return
    with pytest.raises((ImageError, png.Truncated)):
        png.decode(data)


@given(end=st.integers(8, len(WHOLE) - 1))
def test_a_file_cut_short_is_truncated(end):
    with pytest.raises(png.Truncated):
        png.decode(WHOLE[:end])


@given(data=st.binary(max_size=300))
def test_bytes_after_the_signature_never_raise_anything_else(data):
    with pytest.raises((ImageError, png.Truncated)):
        png.decode(png.SIGNATURE + data)


ROWS = bytes(4 * (1 + 12))  # of 4 x 4 pixels in colour
HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))


@pytest.mark.parametrize(
    "data, words",
    [
        (assembled(4, 4, 8, 5, ROWS), "no colour type 5 with 8 bits"),
        (assembled(4, 4, 4, 2, ROWS), "no colour type 2 with 4 bits"),
        (assembled(0, 4, 8, 2, ROWS), "0x4 pixels"),
        (assembled(4, 4, 8, 2, ROWS, interlaced=2), "unknown compression, filter or interlacing"),
        (assembled(4, 4, 8, 2, ROWS[:-1]), "fewer pixels"),
        (assembled(4, 4, 8, 2, b"\5" + ROWS[1:]), "no filter type 5"),
        (assembled(4, 4, 8, 3, ROWS), "palette is missing"),
        (assembled(4, 4, 8, 3, ROWS, before=[chunk(b"PLTE", bytes(4))]), "impossible size"),
        (assembled(4, 4, 8, 3, ROWS, before=[chunk(b"PLTE", bytes(771))]), "impossible size"),
        (assembled(4, 4, 8, 2, ROWS, before=[chunk(b"tRNS", bytes(5))]), "transparent colour"),
        (assembled(4, 4, 8, 0, ROWS, before=[chunk(b"tRNS", b"")]), "transparent colour"),
        (
            png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)) + chunk(b"IEND"),
            "without",
        ),
        (png.SIGNATURE + chunk(b"IDAT", b"x") + chunk(b"IEND"), "begin with an IHDR"),
        (WHOLE[:33] + chunk(b"IDAT", b"not zlib") + chunk(b"IEND"), "cannot be decompressed"),
    ],
)
def test_what_no_png_may_be_gets_a_reason(data, words):
    with pytest.raises(ImageError, match=words):
        png.decode(data)


def test_more_data_than_pixels_are_never_decompressed():
    bomb = assembled(4, 4, 8, 2, ROWS + bytes(300_000_000), level=1)
    tracemalloc.start()
    try:
        assert png.decode(bomb).shape == (4, 4, 3)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_memory_is_the_result_and_a_band():
    data = assembled(3000, 2000, 8, 2, bytes(2000 * 9001), level=1)
    tracemalloc.start()
    try:
        png.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 18_000_000 + 2 * png._BAND_BYTES
    finally:
        tracemalloc.stop()


def test_empty_parts_of_the_picture_are_passed_over():
    body = zlib.compress(ROWS)
    parts = [chunk(b"IDAT"), *(chunk(b"IDAT", body[at : at + 1]) for at in range(len(body))), chunk(b"IDAT")]
    assert not png.decode(png.SIGNATURE + HEADER + b"".join(parts) + chunk(b"IEND")).any()
