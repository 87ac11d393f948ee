"""PNG with nothing but zlib and NumPy, for computers and moments without an image library.

W3C Portable Network Graphics, third edition (2025); section numbers below are its.  All of the format
that shows in pixels: every colour type, depth, filter, transparency and interlacing.  Colour profiles,
gamma and animation are left aside, as image_files.py leaves them aside with other decoders.

A file says how large its picture is, so no more is ever decompressed than that many pixels take; they
are worked through in bands of rows, so that memory is little more than the result's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .errors import ArgumentError, ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6  # colour types, table 8
_CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
_DEPTHS = {GREY: (1, 2, 4, 8, 16), COLOUR: (8, 16), PALETTE: (1, 2, 4, 8)}  # of the others (8, 16)
_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)  # filter types, table 11
# Adam7, section 8.1: first row, first column, step between rows, between columns.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_WHOLE = ((0, 0, 1, 1),)

MAX_CHUNKS = 100_000  # far more than any picture has, and walked through in no time

_BAND_BYTES, _BAND_ROWS = 2**23, (32, 256)  # of the rows that are worked on at once
_PIECE = 2**16  # compressed bytes at a time: zlib copies what it has not come to


class Truncated(Exception):
    """The data end before the format says they should."""


class _Header(NamedTuple):
    width: int
    height: int
    depth: int  # bits a sample
    colour: int
    interlaced: bool

    @property
    def pixel_bits(self) -> int:
        return self.depth * _CHANNELS[self.colour]


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk, from IHDR to IEND, checksums verified (section 5.3).

    Raises Truncated, or ImageError with a reason that goes on after the picture's name.
    """
    position, kind, whole, count = len(SIGNATURE), b"", memoryview(data), 0
    while kind != b"IEND":
        count += 1
        if count > MAX_CHUNKS:
            raise ImageError(f"is damaged: a PNG of more than {MAX_CHUNKS} chunks")
        if len(data) < position + 12:
            raise Truncated
        first = position == len(SIGNATURE)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if len(data) < end + 4:
            raise Truncated
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(whole[position + 4 : end]) != checksum:
            raise ImageError(f"is damaged: the checksum of its {kind!r} chunk does not match")
        if first != (kind == b"IHDR") or (first and length != 13):
            raise ImageError("is damaged: a PNG must begin with an IHDR chunk, and have one only")
        yield kind, whole[position + 8 : end]
        position = end + 4


def size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, once all chunks are found to be there; raises as chunks does."""
    (header,) = (content for kind, content in chunks(data) if kind == b"IHDR")
    return struct.unpack_from(">II", header)


def has_transparent_colour(data: bytes) -> bool:
    """Whether one grey level or colour stands for transparency; other decoders overlook that."""
    kinds = [kind for kind, _ in chunks(data)]
    return b"tRNS" in kinds and data[25] in (GREY, COLOUR)  # byte 25: the colour type in IHDR


def decode(data: bytes) -> np.ndarray:
    """A PNG file -> uint8 (height, width, 3), RGB, what is transparent laid over black.

    Of 16-bit samples the upper 8 bits are kept.  Raises Truncated or ImageError as chunks does.
    """
    header, palette, transparency, parts = _read(data)
    table = _table(header, palette, transparency)
    stream = _Stream(parts)
    picture = np.empty((header.height, header.width, 3), np.uint8)
    for row, column, down, across in _PASSES if header.interlaced else _WHOLE:
        part = picture[row::down, column::across]
        if part.size:
            for first, lines in _lines(stream, header.pixel_bits, *part.shape[:2]):
                pixels = _pixels(lines, part.shape[1], header, table, transparency)
                part[first : first + len(lines)] = pixels
    return picture


def over_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite uint8 (..., 3) with alpha (..., 1) over black, rounded to nearest."""
    return ((colour.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)  # 255 * 255 + 127 < 2**16


def _read(data: bytes) -> tuple[_Header, bytes | None, bytes | None, list[memoryview]]:
    """Header, palette, transparency and the parts of the compressed picture."""
    header, palette, transparency = None, None, None
    parts: list[memoryview] = []
    for kind, content in chunks(data):
        if kind == b"IHDR":
            header = _checked_header(content)
        elif kind == b"PLTE":
            palette = bytes(content)
        elif kind == b"tRNS":
            transparency = bytes(content)
        elif kind == b"IDAT":
            parts += [content[at : at + _PIECE] for at in range(0, len(content), _PIECE)]
    assert header is not None  # chunks() begins with one
    if not parts:
        raise ImageError("is damaged: a PNG without a picture in it")
    return header, palette, transparency, parts


def _checked_header(content: memoryview) -> _Header:
    """Section 11.2.1.  ImageError for what no PNG is."""
    width, height, depth, colour, compression, filtering, interlacing = struct.unpack(">IIBBBBB", content)
    if colour not in _CHANNELS or depth not in _DEPTHS.get(colour, (8, 16)):
        raise ImageError(f"is damaged: PNG has no colour type {colour} with {depth} bits")
    if compression or filtering or interlacing > 1:
        raise ImageError("is damaged: its PNG header asks for an unknown compression, filter or interlacing")
    if not width or not height:
        raise ImageError(f"is damaged: its header says {width}x{height} pixels")
    return _Header(width, height, depth, colour, bool(interlacing))


class _Stream:
    """What the IDAT chunks decompress to, a piece at a time and never more than is asked for."""

    def __init__(self, parts: list[memoryview]):
        self._parts = iter(parts)
        self._inflate = zlib.decompressobj()
        self._waiting: bytes | memoryview = b""

    def read(self, count: int) -> bytes:
        """So many bytes; raises ImageError where there are fewer or they are no zlib stream."""
        pieces = []
        while count:
            self._waiting = self._waiting or next(self._parts, b"")
            ended = not self._waiting
            try:
                piece = self._inflate.decompress(self._waiting, count)
            except zlib.error as problem:
                raise ImageError(f"is damaged: its pixels cannot be decompressed ({problem})") from None
            if ended and not piece:
                raise ImageError("is damaged: there are fewer pixels in it than its header says")
            self._waiting = self._inflate.unconsumed_tail
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


def _lines(stream: _Stream, pixel_bits: int, height: int, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Bands of rows: the number of the first, and their bytes, uint8 (rows, bytes), filters undone."""
    length, step = (width * pixel_bits + 7) // 8, max(1, pixel_bits // 8)
    rows = min(max(_BAND_BYTES // length, _BAND_ROWS[0]), _BAND_ROWS[1])
    above = np.zeros(length, np.uint8)
    for first in range(0, height, rows):
        count = min(rows, height - first)
        band = np.frombuffer(stream.read(count * (1 + length)), np.uint8).reshape(count, 1 + length)
        kinds = band[:, 0]
        if kinds.max() > _PAETH:
            raise ImageError(f"is damaged: PNG has no filter type {kinds.max()}")
        lines = np.concatenate([above[None], band[:, 1:]])
        _undo_filters(kinds, lines.reshape(1 + count, -1, step))
        above = lines[-1]
        yield first, lines[1:]


def _undo_filters(kinds: np.ndarray, lines: np.ndarray) -> None:
    """Undo each row's filter (section 9.2) in place.

    kinds uint8 (rows,), lines uint8 (1 + rows, pixels, bytes a pixel): the first is finished already.
    """
    rows = 1 + np.flatnonzero(kinds == _SUB)
    if rows.size:
        lines[rows] = np.add.accumulate(lines[rows], axis=1, dtype=np.uint8)
    if kinds.max() > _UP:
        _undo_by_diagonals(kinds, lines)
    else:
        for row in 1 + np.flatnonzero(kinds == _UP):
            lines[row] += lines[row - 1]


def _undo_by_diagonals(kinds: np.ndarray, lines: np.ndarray) -> None:
    """_undo_filters where there are Average and Paeth, once Sub is undone.

    Their bytes need the finished ones to the left, above, and above to the left, so neither a row nor a
    column can be done at once.  A diagonal can: put pixel x of row y on diagonal x + lag, where lag
    counts the rows since one that needs none above it.  Then left and above are on the diagonal before,
    above to the left on the one before that.  A typical cell has 130 x 130 pixels: 260 steps or fewer.
    """
    rows, width, step = lines.shape
    row = np.arange(rows)
    finished = np.concatenate([[True], kinds <= _SUB])
    lag = row - np.maximum.accumulate(np.where(finished, row, 0))
    place = (2 + lag[:, None] + np.arange(width), row[:, None])
    diagonals = np.zeros((2 + width + int(lag.max()), rows, step), np.int16)
    diagonals[place] = lines

    def where(kind: np.ndarray) -> np.ndarray | None:
        return np.repeat(kind, step) if kind.any() else None

    unpredicted, up, average = where(kinds <= _SUB), where(kinds == _UP), where(kinds == _AVERAGE)
    flat = diagonals.reshape(len(diagonals), -1)
    distances = np.empty((3, flat.shape[1] - step), np.int16)
    pa, pb, pc = distances
    nearest = np.empty(pa.shape, bool)
    for left, above, corner, here in zip(
        flat[1:, step:], flat[1:, :-step], flat[:, :-step], flat[2:, step:], strict=False
    ):
        # Section 9.4: the one that left + above - corner is nearest to; of equals the first.
        np.subtract(above, corner, out=pa)
        np.subtract(left, corner, out=pb)
        np.add(pa, pb, out=pc)
        np.abs(distances, out=distances)
        np.less_equal(pb, pc, out=nearest)
        predicted = np.where(nearest, above, corner)
        np.minimum(pb, pc, out=pb)
        np.less_equal(pa, pb, out=nearest)
        np.copyto(predicted, left, where=nearest)
        if average is not None:
            np.copyto(predicted, (left + above) >> 1, where=average)
        if up is not None:
            np.copyto(predicted, above, where=up)
        if unpredicted is not None:
            np.copyto(predicted, 0, where=unpredicted)
        here += predicted
        here &= 255
    lines[...] = diagonals[place]


def _table(header: _Header, palette: bytes | None, transparency: bytes | None) -> np.ndarray | None:
    """For a palette, and grey of at most 8 bits: the colour of each sample, uint8 (256, 3), over black."""
    table = np.zeros((256, 3), np.uint8)
    if header.colour == PALETTE:
        if palette is None or not palette or len(palette) % 3 or len(palette) > table.size:
            raise ImageError("is damaged: its palette is missing or of an impossible size")
        table[: len(palette) // 3] = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        if transparency is not None:
            alpha = np.full(256, 255, np.uint8)
            alpha[: len(transparency)] = np.frombuffer(transparency[:256], np.uint8)
            table = over_black(table, alpha[:, None])
        return table
    if header.colour != GREY or header.depth > 8:
        return None
    levels = 2**header.depth
    table[:levels] = (np.arange(levels) * (255 // (levels - 1)))[:, None]
    if transparency is not None:
        table[_transparent(transparency, 1)[0] % levels] = 0
    return table


def _pixels(
    lines: np.ndarray, width: int, header: _Header, table: np.ndarray | None, transparency: bytes | None
) -> np.ndarray:
    """Bytes of rows (rows, bytes) -> uint8 (rows, width, 3), or (rows, width, 1) where grey."""
    if table is not None:
        if header.depth < 8:  # samples are packed, the first in the highest bits
            shifts = np.arange(8 - header.depth, -1, -header.depth, dtype=np.uint8)
            lines = (lines[:, :, None] >> shifts & (2**header.depth - 1)).reshape(len(lines), -1)[:, :width]
        return table[lines]
    samples = lines.reshape(len(lines), width, -1)
    upper = samples[:, :, ::2] if header.depth == 16 else samples
    if header.colour in (GREY_ALPHA, COLOUR_ALPHA):
        return over_black(upper[:, :, :-1], upper[:, :, -1:])
    if transparency is None:
        return upper
    colour = _transparent(transparency, _CHANNELS[header.colour])
    key = np.frombuffer(struct.pack(f">{len(colour)}H", *colour), np.uint8)
    clear = (samples == (key if header.depth == 16 else key[1::2])).all(axis=2)
    return np.where(clear[:, :, None], np.uint8(0), upper)


def _transparent(transparency: bytes, channels: int) -> tuple[int, ...]:
    """The transparent grey level or colour (section 11.3.1.1)."""
    if len(transparency) != 2 * channels:
        raise ImageError("is damaged: its transparent colour (tRNS) has an impossible size")
    return struct.unpack(f">{channels}H", transparency)


def encode(picture: np.ndarray) -> bytes:
    """uint8 (height, width, 3), RGB -> a PNG file of 8-bit colour, every row filtered by the one above (Up).

    Raises ArgumentError for another type or shape.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ArgumentError(
            f"a picture must be a uint8 array (height, width, 3), got {picture.dtype} {picture.shape}"
        )
    height, width = picture.shape[:2]
    lines = np.full((height, 1 + 3 * width), _UP, np.uint8)
    lines[:, 1:] = np.diff(picture.reshape(height, -1), axis=0, prepend=np.zeros((1, 3 * width), np.uint8))
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
