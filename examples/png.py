"""A PNG file from rows of pixels: what the examples that make pictures have in common."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

__all__ = ["png"]


def png(width: int, height: int, rows: Iterable[bytes]) -> bytes:
    """The file of a picture whose rows, from the top, are `width` pixels of three bytes (red, green, blue)."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"".join(b"\0" + row for row in rows)  # each begins with its filter: none
    parts = (_part(b"IHDR", header), _part(b"IDAT", zlib.compress(pixels)), _part(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _part(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
