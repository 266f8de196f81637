"""Charsets of texts that are published: a table of our own, asked before any codec. Pure.

Python has decoders that take a time quadratic in their input, and ones that are no charsets; and it remembers each name
that it does not know. So a client's name for a charset never reaches Python's registry of codecs.
"""

from __future__ import annotations

import codecs

# The charsets that an error names to a client that asked for another one.
NAMES = "UTF-8, US-ASCII, ISO-8859-1, Windows-1252, UTF-16"

# Names of IANA's registry in small letters, with others in common use; by Python's name of each charset.
_ALIASES = {
    "utf-8": "utf-8 utf8 csutf8 unicode-1-1-utf-8",
    "ascii": "us-ascii ascii ansi_x3.4-1968 ansi_x3.4-1986 iso_646.irv:1991 iso646-us iso-ir-6 us ibm367 cp367 csascii",
    "latin-1": "iso-8859-1 iso_8859-1 iso_8859-1:1987 iso8859-1 iso-ir-100 latin1 latin-1 l1 ibm819 cp819 csisolatin1",
    "cp1252": "windows-1252 cswindows1252 cp1252 x-cp1252",
    "utf-16": "utf-16 utf16 csutf16",
    "utf-16-be": "utf-16be csutf16be",
    "utf-16-le": "utf-16le csutf16le",
}
_CODECS = {alias: codec for codec, aliases in _ALIASES.items() for alias in aliases.split()}
_MARKS = (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE)


def has_lines(charset: str) -> bool:
    """Whether a line break is one byte in texts of this charset."""
    return not _CODECS.get(charset.lower(), "").startswith("utf-16")


def to_utf8(text: bytes, charset: str) -> bytes:
    """A text in UTF-8. Raises LookupError for a charset that is not one of `NAMES`, UnicodeError for bytes that are no
    text of it. UTF-16 without a byte order mark is big-endian (RFC 2781 section 4.3)."""
    codec = _CODECS[charset.lower()]
    if codec == "utf-16" and not text.startswith(_MARKS):
        codec = "utf-16-be"
    decoded = text.decode(codec)
    return text if codec == "utf-8" else decoded.encode()
