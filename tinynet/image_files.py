"""Read picture files: check what the header says, then decode to RGB: PNG here, the rest by Pillow or OpenCV.

Decoders differ in what they forgive: one fills the missing half of a truncated JPEG with grey and
says nothing, another refuses.  So the file is checked before any decoder sees it: its format, its
size (absurd ones are refused before memory is spent on them) and that it is all there.  After it,
16-bit samples, transparency and orientation follow one rule for all decoders.  (They may still
differ by a level in JPEG, whose standard allows it, and in 16-bit PPM; and OpenCV does not see the
alpha channel of a grey TIFF.)

Formats: PNG (W3C PNG, third edition), JPEG (ITU-T T.81), BMP, GIF89a, WebP (RFC 9649),
TIFF 6.0, and the PBM/PGM/PPM family (Netpbm).
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import png
from .errors import FileAccessError, ImageError, MissingDependencyError

MAX_PIXELS = 50_000_000
"""Larger pictures are refused from their header, before memory is spent on decoding them."""

MAX_FILE_BYTES = 1 << 29

MAX_PARTS = 100_000
"""Segments of a JPEG: far more than any picture has, and walked through in no time."""

MAX_SCAN_PIXELS = 10 * MAX_PIXELS
"""Each scan of a progressive JPEG goes over all of its pixels, and may take but a few bytes of the file."""

# Importing Pillow and its first picture take as long as png.py takes for ten cells of 130x130 pixels
# (measured side by side: 43 ms, and 5.5 ms a cell beside Pillow's 1.1); a process that reads no more
# pixels than that is done sooner without it.
PIXELS_BEFORE_PILLOW = 180_000
_pixels_read = 0  # by png.py in this process

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pbm", ".pgm", ".ppm", ".pnm")
)
"""Of every format that `decode` reads; training, evaluating and predicting use the same."""

ZIP_SIGNATURE = b"PK\x03\x04"
_NETPBM = rb"P([1-6])((?:\s|#[^\n]*\n)+)(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)"
# In JPEG's entropy-coded data 0xFF is followed by 0x00 (a stuffed byte), a restart marker
# 0xD0-0xD7, or more 0xFF (fill); anything else ends the scan.
_JPEG_MARKER = re.compile(rb"\xff+[^\xff]", re.DOTALL)  # fill bytes, and the kind of marker
_JPEG_SCAN_END = rb"\xff[\x01-\xcf\xd8-\xfe]"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Header(NamedTuple):
    """Format (as Pillow names it) and size of a picture, in pixels."""

    format: str
    width: int
    height: int


def decode(source: str | os.PathLike[str] | bytes, name: str | None = None) -> np.ndarray:
    """Read one picture: uint8 (height, width, 3), RGB.

    source: a path, or the bytes of a picture file.  name: what to call it in messages (default:
    the path).  PNG, JPEG, BMP, GIF, WebP, TIFF and PPM.

    Grey becomes three equal channels; 16-bit samples keep their upper 8 bits; a picture with an
    alpha channel is laid over black, which is what surrounds a cell; of an animation the first frame
    is taken; EXIF orientation is ignored (cells have no up).

    Raises ImageError (not an image, empty, truncated, damaged, more than MAX_PIXELS), FileAccessError
    (missing, a directory, no permission), MissingDependencyError (neither Pillow nor OpenCV, and no PNG).
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), name or "the picture given as bytes"
    else:
        name = name or os.fspath(source)
        data = _read_file(source, name)
    header = read_header(data, name)
    _check_size(header.width, header.height, name)
    decoder = _find_decoder(data, header, name)
    try:
        pixels = decoder(data, header)
    except ImageError as problem:
        raise ImageError(f"{name} {problem}") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory") from None
    except Exception as problem:  # decoders raise whatever they like: SyntaxError, struct.error, ...
        detail = " ".join(str(problem).split())[:120]
        raise ImageError(
            f"{name} cannot be read as a {header.format} picture, it is damaged or truncated ({detail})"
        ) from None
    return np.ascontiguousarray(pixels)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS or max(width, height) > 65535:
        raise ImageError(f"{name} is too large: {width}x{height} pixels, of {MAX_PIXELS} allowed")


def _read_file(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        status = os.stat(path)  # before opening: opening a pipe would wait for a writer
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory, not a picture" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise FileAccessError(f"{name} is {kind}")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"{name} has {status.st_size} bytes, more than the {MAX_FILE_BYTES} allowed")
        with open(path, "rb") as file:
            return file.read()
    except (FileAccessError, ImageError):
        raise
    except FileNotFoundError:
        raise FileAccessError(f"{name} does not exist") from None
    except PermissionError:
        raise FileAccessError(f"{name} may not be read: no permission") from None
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the path
        reason = (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
        raise FileAccessError(f"{name} cannot be read: {reason}") from None


def _find_decoder(data: bytes, header: Header, name: str) -> Callable[[bytes, Header], np.ndarray]:
    """What decodes this picture; all that could give the same pixels."""
    if header.format == "PNG" and (_sooner_without_pillow(header) or png.has_transparent_colour(data)):
        return _decode_alone
    try:
        import PIL.Image  # noqa: F401

        return _decode_with_pillow
    except ImportError:
        pass
    try:
        import cv2  # noqa: F401

        return _decode_with_opencv
    except ImportError:
        pass
    if header.format == "PNG":
        return _decode_alone
    raise MissingDependencyError(
        f"{name} is a {header.format} picture, and reading those needs Pillow (or OpenCV), which is "
        'not installed: pip install pillow (or "tinynet-cnn[images]"); PNG is read without it'
    )


def _sooner_without_pillow(header: Header) -> bool:
    """Whether this PNG is among the first few, and nothing has imported Pillow before."""
    global _pixels_read
    if "PIL.Image" in sys.modules or _pixels_read + header.width * header.height > PIXELS_BEFORE_PILLOW:
        return False
    _pixels_read += header.width * header.height
    return True


def _decode_alone(data: bytes, header: Header) -> np.ndarray:
    return png.decode(data)


def _decode_with_pillow(data: bytes, header: Header) -> np.ndarray:
    from PIL import Image

    # Naming the format keeps Pillow from trying others, some of which start outside programs.
    with Image.open(io.BytesIO(data), formats=[header.format]) as image:
        # The same as in the header, but for a GIF whose first frame is larger than its screen.
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"is too large: {image.width}x{image.height} pixels, of {MAX_PIXELS} allowed")
        image.load()
        mode = image.mode
        if mode.startswith("I;16") or (mode == "I" and header.format in ("PNG", "PPM")):
            return _three_channels((np.array(image, dtype=np.int32) >> 8).astype(np.uint8))
        if mode in ("I", "F"):
            raise ImageError("has 32-bit or signed samples; 8 or 16 bits unsigned are wanted")
        if header.format == "BMP":  # the fourth byte of a 32-bit BMP is as often padding as alpha
            return np.array(image.convert("RGB"))
        transparent = mode in ("RGBA", "LA", "PA", "RGBa", "La")
        if transparent or (mode == "P" and "transparency" in image.info):
            return _over_black(np.asarray(image.convert("RGBA")))
        return np.array(image.convert("RGB"))


def _decode_with_opencv(data: bytes, header: Header) -> np.ndarray:
    import cv2

    # IMREAD_UNCHANGED: all channels, all bits, EXIF orientation left alone.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ImageError(f"cannot be read as a {header.format} picture, it is damaged or truncated")
    sixteen_bits = pixels.dtype == np.uint16
    if sixteen_bits:
        pixels = np.right_shift(pixels, 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ImageError("has 32-bit or signed samples; 8 or 16 bits unsigned are wanted")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return _three_channels(pixels.reshape(pixels.shape[:2]))
    rgb = pixels[:, :, 2::-1]
    # A BMP's fourth byte is as often padding as alpha; an 8-bit TIFF comes laid over black already.
    over_black = header.format == "BMP" or (header.format == "TIFF" and not sixteen_bits)
    if pixels.shape[2] == 4 and not over_black:
        return _over_black(np.concatenate([rgb, pixels[:, :, 3:]], axis=2))
    return rgb


def _three_channels(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _over_black(rgba: np.ndarray) -> np.ndarray:
    """Composite uint8 (h, w, 4) over black."""
    return png.over_black(rgba[:, :, :3], rgba[:, :, 3:])


def read_header(data: bytes, name: str) -> Header:
    """The format and size of the picture in `data`.

    data: a whole picture file.  name: what to call it in messages.
    Raises ImageError if it is empty, of no known format, truncated, or (PNG) corrupt.
    """
    if not data:
        raise ImageError(f"{name} is an empty file, not an image")
    reader = next((reader for signature, reader in _READERS if data.startswith(signature)), None)
    if data.startswith(ZIP_SIGNATURE):
        raise ImageError(f"{name} is a zip archive: unpack it first, and give the folder that comes of it")
    if reader is None:
        raise ImageError(f"{name} is not an image that can be read (PNG, JPEG, BMP, GIF, WebP, TIFF or PPM)")
    try:
        header = reader(data, name)
    except (png.Truncated, struct.error, IndexError):
        raise ImageError(f"{name} is truncated: the file ends before the picture does") from None
    if header.width < 1 or header.height < 1:
        raise ImageError(f"{name} is damaged: its header says {header.width}x{header.height} pixels")
    return header


def _png(data: bytes, name: str) -> Header:
    try:
        return Header("PNG", *png.size(data))
    except ImageError as problem:
        raise ImageError(f"{name} {problem}") from None


def _jpeg(data: bytes, name: str) -> Header:
    position, header, scans = 2, None, 0
    for _ in range(MAX_PARTS):
        if data[position] != 0xFF:
            raise ImageError(f"{name} is damaged: no JPEG marker at byte {position}")
        found = _JPEG_MARKER.match(data, position)
        if found is None:
            raise png.Truncated
        position, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:  # end of image
            if header is None or not scans:
                raise ImageError(f"{name} is damaged: a JPEG without a picture in it")
            if scans * header.width * header.height > MAX_SCAN_PIXELS:
                raise ImageError(
                    f"{name} is too large: {header.width}x{header.height} pixels in {scans} scans"
                )
            return header
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_FRAMES and header is None:
            height, width = struct.unpack_from(">HH", data, position + 3)
            header = Header("JPEG", width, height)
        position += length
        if marker == 0xDA:  # start of scan
            scans += 1
            end = re.compile(_JPEG_SCAN_END).search(data, position)
            if end is None:
                raise png.Truncated
            position = end.start()
    raise ImageError(f"{name} is damaged: a JPEG of more than {MAX_PARTS} parts")


def _bmp(data: bytes, name: str) -> Header:
    offset, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: stored from the top down
    uncompressed = compression in (0, 3, 6)
    if uncompressed and len(data) < offset + (width * bits + 31) // 32 * 4 * height:
        raise png.Truncated
    return Header("BMP", width, height)


def _gif(data: bytes, name: str) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_palette_bytes(flags)
    while data[position] == 0x21:  # extensions before the first picture
        position = _gif_skip_blocks(data, position + 2, name)
    if data[position] != 0x2C:
        raise ImageError(f"{name} is damaged: a GIF without a picture in it")
    position += 10 + _gif_palette_bytes(data[position + 9])
    _gif_skip_blocks(data, position + 1, name)
    return Header("GIF", width, height)


def _gif_palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_skip_blocks(data: bytes, position: int, name: str) -> int:
    for _ in range(MAX_FILE_BYTES >> 8):  # a full block has 256 bytes
        if not data[position]:
            return position + 1
        position += 1 + data[position]
    raise ImageError(f"{name} is damaged: a GIF of too many blocks")


def _webp(data: bytes, name: str) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        raise ImageError(f"{name} is not an image that can be read (a RIFF file, but not WebP)")
    if len(data) < 8 + length:
        raise png.Truncated
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ImageError(f"{name} is damaged: an unknown kind of WebP ({kind!r})")
    return Header("WEBP", width, height)


def _tiff(data: bytes, name: str) -> Header:
    order = "<" if data.startswith(b"II") else ">"
    (position,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, position)
    # ImageWidth and ImageLength; TileWidth and TileLength, whose memory is taken before a tile is read.
    size = dict.fromkeys((256, 257, 322, 323), 0)
    for entry in range(position + 2, position + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, entry)
        if tag not in size:
            continue
        # Decoders go by their own rules where it is said twice, or in another type than these two.
        if size[tag] or kind not in (3, 4) or values != 1:
            raise ImageError(f"{name} is damaged: a TIFF must say its size once, as a whole number")
        (size[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    _check_size(size[322], size[323], f"a tile of {name}")
    return Header("TIFF", size[256], size[257])


def _netpbm(data: bytes, name: str) -> Header:
    match = re.match(_NETPBM, data[:4096])
    if match is None:
        raise ImageError(f"{name} is not an image that can be read (its PBM/PGM/PPM header makes no sense)")
    return Header("PPM", int(match[3]), int(match[4]))


_READERS = (
    (png.SIGNATURE, _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"BM", _bmp),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"RIFF", _webp),
    (b"II*\x00", _tiff),
    (b"MM\x00*", _tiff),
    *((b"P%d" % kind, _netpbm) for kind in range(1, 7)),
)
