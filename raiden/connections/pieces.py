"""Pieces of bytes that are sent together, each large enough for a system call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# Bytes that are copied into one piece.
LARGE: Final = 65536


def parts(pieces: list[bytes]) -> Iterator[bytes]:
    """Put small pieces together, up to `LARGE` bytes; a large one stays as it is."""
    part: list[bytes] = []
    size = 0
    for piece in pieces:
        if part and size + len(piece) > LARGE:
            yield b"".join(part)
            part, size = [], 0
        part.append(piece)
        size += len(piece)
    yield b"".join(part)
