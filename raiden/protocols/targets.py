"""Targets of requests, and the syntax of hosts."""

from __future__ import annotations

import functools


def absolute(url: bytes) -> tuple[bytes, bytes]:
    """The authority, and the path with the query, of a target in absolute form; for any other target, nothing and the
    target itself."""
    scheme, _, rest = url.partition(b"://")
    if scheme.lower() not in (b"http", b"https") or rest[:1] in (b"", b"/", b"?"):
        return b"", url
    rest, mark, query = rest.partition(b"?")
    authority, _, path = rest.partition(b"/")
    return authority, b"/" + path + mark + query


@functools.lru_cache(1000)
def is_host(host: str) -> bool:
    """Whether this can be a name or an address and perhaps a port (RFC 9110 section 7.2); user info, spaces and lists
    can't."""
    return not any(c in ' \t,/@?#\\"<>^`{|}' or not 32 < ord(c) < 127 for c in host)
