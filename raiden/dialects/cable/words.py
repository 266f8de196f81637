"""The messages of the protocol to a client, as WebSocket frames. Pure."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from raiden.model.encoding import dumps, text_frame


def welcome(sid: str, restored: Sequence[str] | None = None) -> bytes:
    """The first message. ``sid`` is the session's id; ``restored`` are the identifiers of a session before whose
    subscriptions are in force again (None: there was none)."""
    told: dict[str, Any] = {"type": "welcome", "sid": sid}
    if restored is not None:
        told |= {"restored": True, "restored_ids": restored}
    return text_frame(dumps(told))


@functools.lru_cache(1)
def ping(now: int) -> bytes:
    """The ping of a second, Unix time, which all connections share."""
    return text_frame(b'{"type":"ping","message":%d}' % now)


PONG = text_frame(b'{"type":"pong"}')


def about(kind: str, identifier: str) -> bytes:
    """A message of this type about an identifier, like ``confirm_subscription``."""
    return text_frame(dumps({"type": kind, "identifier": identifier}))


def presence(identifier: str, message: dict[str, Any]) -> bytes:
    """A message of who is at a stream, joins or leaves it."""
    return text_frame(dumps({"type": "presence", "identifier": identifier, "message": message}))


def disconnect(reason: str, *, reconnect: bool) -> bytes:
    """The last message: ``reconnect`` must be there, because clients take a missing one as false."""
    return text_frame(dumps({"type": "disconnect", "reason": reason, "reconnect": reconnect}))
