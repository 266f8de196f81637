"""Requests of managers about clients, read: revocations and disconnections. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raiden.access.revocations import MAX_BYTES, asked
from raiden.model import strict_json
from raiden.model.names import check_subscription
from raiden.model.near import did_you_mean
from raiden.model.refusals import Invalid
from raiden.sessions.asks import Disconnect, Revoke

# Bytes of such a request.
_MOST = 8192


def revoke(body: bytes) -> Revoke:
    """Read the body of ``POST /-/revoke``; raises Invalid."""
    found = asked(_members(body, frozenset({"sub", "jti", "ttl"})), time.time())
    if isinstance(found, str):
        raise Invalid(found)
    return Revoke(found)


def disconnect(body: bytes) -> Disconnect:
    """Read the body of ``POST /-/disconnect``; raises Invalid."""
    members = _members(body, frozenset({"sub", "channel"}))
    subject, channel = members.get("sub"), members.get("channel")
    if not isinstance(subject, str) or not 0 < len(subject.encode("utf-8", "surrogatepass")) <= MAX_BYTES:
        raise Invalid('the body must be like {"sub": "ann"}, and may have the name of a channel')
    if channel is not None and not isinstance(channel, str):
        raise Invalid("channel is the name of a channel or a pattern")
    return Disconnect(subject, None if channel is None else check_subscription(channel))


def _members(body: bytes, known: frozenset[str]) -> Mapping[str, Any]:
    found = strict_json.value(body, most=_MOST) if len(body) <= _MOST else None
    if not isinstance(found, dict):
        raise Invalid(f"the body must be a JSON object of at most {_MOST} bytes")
    for unknown in sorted(found.keys() - known):
        raise Invalid(f"the body has an unknown member {unknown[:100]!r}{did_you_mean(unknown, known)}")
    return found
