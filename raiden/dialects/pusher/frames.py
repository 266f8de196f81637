"""What the server sends: live events, each encoded once for all its subscribers, and the protocol's own. Pure."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from typing import Any, Final

import ujson

from raiden.model.encoding import TEXT_FRAME, Encoding, deflated_frame, dumps, json_value, text_frame
from raiden.model.message import Kind, Message

# The name of an event whose publisher has given it none.
UNNAMED: Final = "message"
# The beginning of the names of events that clients publish, and of those that the protocol has for itself.
OF_CLIENTS: Final = "client-"
OWN: Final = ("pusher:", "pusher_internal:")


@functools.cache
def live(prefix: str, deflate: bool) -> Encoding:
    """The encoding of messages for clients of the app whose channels have this prefix."""
    skip = len(prefix)

    def encode(message: Message) -> bytes:
        data = _live(message, skip)
        return deflated_frame(TEXT_FRAME, data) if deflate else text_frame(data)

    return Encoding("websocket", encode)


def _live(message: Message, skip: int) -> bytes:
    attributes = message.attributes
    name = UNNAMED if attributes is None else attributes.event or UNNAMED
    channel = dumps(message.channel[skip:])
    if name.startswith(OF_CLIENTS) and attributes is not None:
        # What a client has published is passed on as it was sent.
        user = _sender(bytes(attributes.sender)) if attributes.sender else b""
        return b'{"event":%b,"channel":%b,"data":%b%b}' % (dumps(name), channel, json_value(message), user)
    if name.startswith(OWN):
        name = UNNAMED  # only the server itself speaks of subscriptions and errors
    if message.kind == Kind.BYTES:
        data = dumps(base64.b64encode(message.payload).decode())
    else:
        data = dumps(message.payload.decode())
    return b'{"event":%b,"channel":%b,"data":%b}' % (dumps(name), channel, data)


def _sender(sender: bytes) -> bytes:
    user = ujson.loads(sender).get("sub")
    return b',"user_id":%b' % dumps(user) if user else b""


def told(event: str, value: object, channel: str | None = None) -> bytes:
    """The frame of one of the protocol's own events. Its data is a string, with the value as JSON: there are clients
    that take nothing else."""
    named = b"" if channel is None else b',"channel":%b' % dumps(channel)
    return text_frame(b'{"event":%b%b,"data":%b}' % (dumps(event), named, dumps(dumps(value).decode())))


def established(socket_id: str, activity_timeout: int) -> bytes:
    """The first frame of a connection; ``activity_timeout`` is in seconds."""
    return told("pusher:connection_established", {"socket_id": socket_id, "activity_timeout": activity_timeout})


def error(code: int | None, message: str, channel: str | None = None) -> bytes:
    """An error. Its data is an object, as an exception in the protocol."""
    found: dict[str, Any] = {"event": "pusher:error", "data": {"code": code, "message": message}}
    return text_frame(dumps(found if channel is None else {**found, "channel": channel}))


def succeeded(channel: str, members: Mapping[str, Any] | None) -> bytes:
    """The reply to a subscription, of a presence channel with the info of its members by user."""
    value: dict[str, Any] = {}
    if members is not None:
        value = {"presence": {"ids": list(members), "hash": members, "count": len(members)}}
    return told("pusher_internal:subscription_succeeded", value, channel)


def refused(channel: str, type: str, why: str, status: int) -> bytes:
    """The reply to a subscription that is refused."""
    return told("pusher:subscription_error", {"type": type, "error": why, "status": status}, channel)


def cache_miss(channel: str) -> bytes:
    """The news that a cached channel has no last event."""
    return text_frame(b'{"event":"pusher:cache_miss","channel":%b}' % dumps(channel))


PONG: Final = text_frame(b'{"event":"pusher:pong","data":"{}"}')
