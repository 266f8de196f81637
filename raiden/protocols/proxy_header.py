"""The header of the PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, section 2.2): a proxy sends it before
all else, and tells in it whose connection this is. Pure."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from raiden.protocols.proxies import Source, plain

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
# The signature; version and command; family and transport; bytes that follow.
_HEAD = struct.Struct("!12sBBH")
# Bytes that may follow: addresses, and what else the proxy has to tell.
MOST: Final = 4096
_LOCAL, _PROXY = 0x20, 0x21
# TCP over IPv4 and over IPv6, and the bytes of an address.
_FAMILIES = {0x11: 4, 0x21: 16}
# The entry that tells of TLS, and in it the bit of a client that came by it.
_TLS, _CAME_BY_TLS = 0x20, 0x01


def read(data: bytes) -> tuple[Source | None, int] | None:
    """The source of a connection that begins with these bytes, and the size of the header. The source is None where the
    proxy speaks for itself, as for a check of health, or knows no address. None: the header is not whole. Raises
    ValueError for bytes that begin no such header."""
    if not SIGNATURE.startswith(data[: len(SIGNATURE)]):
        raise ValueError("it does not begin with the header of the PROXY protocol, version 2")
    if len(data) < _HEAD.size:
        return None
    _, command, family, size = _HEAD.unpack_from(data)
    if command not in (_LOCAL, _PROXY) or size > MOST:
        raise ValueError("its header of the PROXY protocol has another version or command, or is too long")
    end = _HEAD.size + size
    if len(data) < end:
        return None
    width = _FAMILIES.get(family)
    if command == _LOCAL or width is None:
        return None, end
    addresses = 2 * width + 4  # with two ports
    if size < addresses:
        raise ValueError("its header of the PROXY protocol has no room for its addresses")
    address = plain(ipaddress.ip_address(data[_HEAD.size : _HEAD.size + width]))
    return Source(str(address), _scheme(data[_HEAD.size + addresses : end])), end


def _scheme(entries: bytes) -> str | None:
    """The scheme by which the client came to the proxy, of entries of a type, a size and a value each."""
    while len(entries) >= 3:
        kind, size = struct.unpack_from("!BH", entries)
        if kind == _TLS and size > 0 and len(entries) > 3:
            return "https" if entries[3] & _CAME_BY_TLS else "http"
        entries = entries[3 + size :]
    return None
