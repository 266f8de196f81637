"""Plans of the gateway: what requests with a remembered head ask for."""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from raiden.access.permit import Permit
from raiden.http.reserved import Reserved
from raiden.model.names import MAX_CHANNEL_BYTES, InvalidChannel, check_channel, unquote
from raiden.sessions.asks import Subscribe
from raiden.sessions.poll import Poll

# Bytes of the longest target that names a channel, all of it percent-encoded: longer ones are not remembered.
LONGEST: Final = 1 + 3 * MAX_CHANNEL_BYTES


class PublishPlan(NamedTuple):
    """The plan for the head of a JSON publish, whatever its target is: the beginning of its channel's name, and the
    permit of what the head shows (None: anyone may do all)."""

    prefix: str
    permit: Permit | None = None


class SubscriptionPlan:
    """The plan for a head that subscribes. ``poll`` is the long-poll that the last such request has begun: others with
    this head wait for the same, and get the same answer."""

    __slots__ = ("ask", "permit", "poll")

    def __init__(self, ask: Subscribe, permit: Permit | None = None) -> None:
        self.ask = ask
        self.permit = permit
        self.poll: Poll | None = None


def channel_of(reserved: Reserved, prefix: str, target: bytes) -> str | None:
    """The channel to which a POST to this target publishes, where channels begin with ``prefix``; None: there is
    none."""
    return _channel(reserved, prefix, target) if len(target) <= LONGEST else None


@functools.lru_cache(1000)
def _channel(reserved: Reserved, prefix: str, target: bytes) -> str | None:
    if not target or target.startswith(b"/-/") or b"?" in target:
        return None
    try:
        name = unquote(target[1:].decode())
        return None if reserved.has(name) else check_channel(prefix + name)
    except InvalidChannel:
        return None
