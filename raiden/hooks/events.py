"""Events for webhooks: their bodies, and their form in a queue. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from raiden.hooks.endpoint import PUBLISHED
from raiden.model.encoding import dumps, json_value, shown
from raiden.model.message import Message

# The channel of events that were given up; no client can name such a channel.
DEAD = "-/webhooks/dead"


class Event(NamedTuple):
    """An event. Events of one ``key`` are sent in their order. ``channel`` is None where it is of none."""

    type: str
    key: str
    channel: str | None
    body: bytes

    def queued(self, body: bytes) -> bytes:
        """The event in the queue of an endpoint that is told of it by this body. A key has no line break."""
        return b"%b\n%b" % (self.key.encode(), body)


def key_and_body(queued: bytes) -> tuple[str, bytes]:
    """The key and the body of an event in a queue; raises ValueError where it is none."""
    key, _, body = queued.partition(b"\n")
    return key.decode(), body


def of_channel(type: str, channel: str) -> Event:
    return Event(type, channel, channel, _body(type, time.time(), dumps({"channel": channel})))


def of_client(type: str, id: str, data: Mapping[str, Any]) -> Event:
    """An event of the client with this id, which has these ``data``."""
    return Event(type, f"client {id}", None, _body(type, time.time(), dumps({"id": id, **data})))


def of_message(message: Message) -> Event:
    """The event of a message that is published. It has no cursor: it is stored together with the message."""
    data = b'{"channel":%b,"data":%b%b}' % (dumps(message.channel), json_value(message), shown(message.attributes))
    body = _body(PUBLISHED, message.published / 1_000_000, data)
    return Event(PUBLISHED, message.channel, message.channel, body)


def _body(type: str, at: float, data: bytes) -> bytes:
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return b'{"type":"%b","timestamp":"%b","data":%b}' % (type.encode(), when.encode(), data)
