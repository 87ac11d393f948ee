"""Mutations of pictures: PNG taken apart into chunks and put together with checksums that hold, other
formats by their bytes and the places where their headers keep sizes."""

from __future__ import annotations

import struct
import zlib
from random import Random

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDES = (0, 1, 2, 3, 7, 8, 9, 31, 130, 255, 256, 4096, 5000, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
KINDS = (
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"iCCP",
    b"zTXt",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"gAMA",
    b"eXIf",
)


def mutate(content: bytes, random: Random) -> bytes:
    """The picture with one to four changes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        if content.startswith(SIGNATURE) and random.random() < 0.85:
            content = _png(content, random)
        else:
            content = _bytes(content, random)
    return content


def _bytes(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    place = random.randrange(min(len(changed), random.choice((64, 2**20))) or 1)
    match random.randrange(7):
        case 0 if changed:
            changed[place % len(changed)] ^= 1 << random.randrange(8)
        case 1:
            changed[place : place + 1] = bytes([random.randrange(256)])
        case 2:
            order, size = random.choice("<>"), random.choice("HI")
            side = random.choice(SIDES) % (2**16 if size == "H" else 2**32)
            raw = struct.pack(order + size, side)
            changed[place : place + len(raw)] = raw
        case 3:
            del changed[place : place + random.choice((1, 2, 4, 12, 2**20))]
        case 4:
            changed[place:place] = random.randbytes(random.choice((1, 2, 4, 12)))
        case 5:
            end = place + random.choice((2, 12, 100))
            changed[place:place] = changed[place:end] * random.choice((1, 2, 50))
        case 6:
            other = random.randrange(len(changed) or 1)
            changed[place : place + 4] = changed[other : other + 4]
    return bytes(changed[: 2**16])


def _png(content: bytes, random: Random) -> bytes:
    """Chunks changed, added, removed, moved; pixels changed behind their compression."""
    chunks = _chunks(content)
    if not chunks:
        return _bytes(content, random)
    place = random.randrange(len(chunks))
    kind, body = chunks[place]
    match random.randrange(9):
        case 0:
            chunks = [(k, _header(b, random) if k == b"IHDR" else b) for k, b in chunks]
        case 1 | 2:
            chunks = [(k, _pixels(b, random) if k == b"IDAT" else b) for k, b in chunks]
        case 3:
            chunks[place] = kind, _bytes(body, random)
        case 4:
            del chunks[place]
        case 5:
            chunks.insert(random.randrange(len(chunks) + 1), (kind, body))
        case 6:
            chunks.insert(
                place, (random.choice(KINDS), random.randbytes(random.choice((0, 1, 2, 6, 13, 768))))
            )
        case 7:
            cut = random.randrange(len(body) + 1)
            chunks[place : place + 1] = [(kind, body[:cut]), (kind, body[cut:])]
        case 8:
            bomb = zlib.compress(bytes(random.choice((2**16, 2**22))), 9)
            chunks = [(k, bomb if k == b"IDAT" else b) for k, b in chunks]
    return SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks)


def _header(body: bytes, random: Random) -> bytes:
    if len(body) != 13:
        return body
    values = list(struct.unpack(">IIBBBBB", body))
    which = random.randrange(7)
    if which < 2:
        values[which] = random.choice(SIDES)
    else:
        values[which] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, random.randrange(256)))
    return struct.pack(">IIBBBBB", *values)


def _pixels(body: bytes, random: Random) -> bytes:
    try:
        raw = bytearray(zlib.decompressobj().decompress(body, 2**20))
    except zlib.error:
        return body
    for _ in range(random.choice((1, 8, 64))):
        if raw:
            raw[random.randrange(len(raw))] = random.choice((0, 1, 2, 3, 4, 5, 255, random.randrange(256)))
    if random.random() < 0.2:
        raw = raw[: random.randrange(len(raw) + 1)]
    return zlib.compress(bytes(raw), 1)


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], len(SIGNATURE)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if place + 12 + length > len(content):
            break
        found.append((kind, content[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
