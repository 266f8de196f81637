"""The head of a request, checked as far as it says where the request ends and for whom it is. Pure.

llhttp reads the head, and finds what is malformed; the rules here are those that it leaves to its user.
"""

from __future__ import annotations

from collections.abc import Sequence

from raiden.protocols.hosts import MAX_LENGTH
from raiden.protocols.http import HttpError
from raiden.protocols.targets import is_host


def check(headers: Sequence[tuple[str, str]], fields: dict[str, str], version: str, authority: bytes) -> int:
    """Put header fields into ``fields``, by their names in lower case, and return the length of the body, if they tell
    it (else 0). ``authority`` is that of the request target, if it has one. Raises HttpError."""
    doubled = ""
    for name, value in headers:
        name = name.lower()
        if name in fields and name in ("host", "content-length", "transfer-encoding", "expect"):
            doubled = name
        fields[name] = value
    if doubled:
        raise HttpError(400, f"more than one {doubled} field: send one", close=True)
    if version not in ("1.0", "1.1"):
        raise HttpError(505, "this server speaks HTTP/1.1 and HTTP/1.0", close=True)
    host = fields.get("host")
    if (version == "1.1" and not host) or (host and not (len(host) <= MAX_LENGTH and is_host(host))):
        raise HttpError(400, "HTTP/1.1 needs one valid Host field, like 'Host: localhost:8088'", close=True)
    if authority:
        # "MUST ignore the received Host header field (if any) and instead use the host information of the
        # request-target" (RFC 9112 section 3.2.2).
        fields["host"] = authority.decode("latin-1")
        if not (len(authority) <= MAX_LENGTH and is_host(fields["host"])):
            raise HttpError(400, "the host of the request target is none: write it like 'localhost:8088'", close=True)
    coding = fields.get("transfer-encoding")
    if coding is not None:
        if version == "1.0":
            raise HttpError(400, "HTTP/1.0 has no Transfer-Encoding: use Content-Length", close=True)
        if coding.lower() != "chunked":
            raise HttpError(501, "the only transfer coding served is 'chunked'", close=True)
    return int(fields.get("content-length") or 0)


def expects(fields: dict[str, str], version: str, length: int) -> bool:
    """Whether the client waits for leave to send a body (RFC 9110 section 10.1.1); raises HttpError where it expects
    something else."""
    expect = fields.get("expect")
    if expect is None or version != "1.1":
        return False
    if expect.lower() != "100-continue":
        raise HttpError(417, "the only expectation served is '100-continue'", close=True)
    return bool(length) or "transfer-encoding" in fields
