"""Message to bytes, once per encoding however many subscribers share it.

An `Encoding` is a form (line, event, WebSocket frame, poll item, raw), whether each message is wrapped with its
channel's name, and how the transport frames it. Equal parameters give the same object, so that the router can group
subscribers by it.
"""

from __future__ import annotations

import base64
import functools
import struct
import zlib
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import ujson

from raiden.model.attributes import RESERVED, Attributes
from raiden.model.filters import Filters
from raiden.model.message import Kind, Message
from raiden.model.page import Gap, Page

END_OF_CHUNKS = b"0\r\n\r\n"

TEXT_FRAME = 0x81
_BINARY_FRAME = 0x82
_DEFLATED = 0x40
MIN_DEFLATE_BYTES = 64


class Encoding:
    """A function from messages to the bytes that one kind of subscriber is sent; the bytes are kept with the message.
    ``run`` encodes many messages of one channel at once, where that is faster. ``notice`` encodes what a subscriber is
    told of a channel between the messages: the channel, a name, and a value (None: there is no place for that).
    ``change`` encodes a message for subscribers who have the one before it, the second argument (None: they get it like
    all others; see `raiden.delivery.deltas`). ``shared``: a subscription may have several clients."""

    __slots__ = ("_encode", "_encode_run", "change", "form", "notice", "shared")

    def __init__(
        self, form: str, encode: Callable[[Message], bytes], run: Callable[[list[Message]], bytes] | None = None,
        notice: Callable[[str, str, Any], bytes] | None = None,
        change: Callable[[Message, Message], bytes] | None = None,
    ) -> None:  # fmt: skip
        self.form = form
        self.notice = notice
        self.change = change
        self.shared = form in ("poll", "knock")
        self._encode = encode
        self._encode_run = run

    def __call__(self, message: Message) -> bytes:
        encoded = message.encoded
        if encoded is None:
            data = self._encode(message)
            message.encoded = {self: data}
            return data
        found = encoded.get(self)
        if found is None:
            found = encoded[self] = self._encode(message)
        return found

    def run(self, messages: list[Message]) -> bytes:
        """Encode consecutive messages of one channel."""
        if self._encode_run is not None:
            return self._encode_run(messages)
        return b"".join([self(message) for message in messages])


def dumps(value: object, surrogates: str = "backslashreplace") -> bytes:
    """JSON as Raiden writes it: UTF-8, no spaces, slashes as they are. Line breaks of Unicode are escaped, because some
    clients take them for the end of a line; lone surrogates, because UTF-8 has none, or (``surrogates`` is "replace")
    they become question marks, because some readers refuse them."""
    text: str = ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False)
    if text.isascii():
        return text.encode()
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
    return text.encode("utf-8", surrogates)


def json_value(message: Message) -> bytes:
    """The payload as a JSON value; null where there is none, as in an end without data."""
    if message.kind == Kind.JSON:
        return message.payload or b"null"
    if message.kind == Kind.TEXT:
        return dumps(message.payload.decode())
    return b'{"base64":"%b"}' % base64.b64encode(message.payload)


def shown(attributes: Attributes | None) -> bytes:
    """The attributes that subscribers are shown, as members of a JSON object that has others before them."""
    if attributes is None:
        return b""
    event = b',"event":%b' % dumps(attributes.event) if attributes.event else b""
    tags = b',"tags":%b' % dumps(attributes.tags) if attributes.tags else b""
    sender = b',"from":%b' % bytes(attributes.sender) if attributes.sender else b""
    return event + tags + sender


def shown_alone(attributes: Attributes | None) -> bytes:
    """The attributes that subscribers are shown, as a JSON object; b"": there are none."""
    members = shown(attributes)
    return b"{%b}" % members[1:] if members else b""


def _behind_data(message: Message) -> bytes:
    """The members behind the message's value: its cursor, and the attributes that are shown."""
    cursor = b"" if message.cursor is None else b',"cursor":"%b"' % str(message.cursor).encode()
    return cursor if message.attributes is None else cursor + shown(message.attributes)


def _item(message: Message) -> bytes:
    return b'{"data":%b%b}' % (json_value(message), _behind_data(message))


def _wrapped(message: Message) -> bytes:
    # The hot path of subscribers to several channels: nothing is called that most messages don't need.
    behind = b"" if message.cursor is None else b',"cursor":"%b"' % str(message.cursor).encode()
    if message.attributes is not None:
        behind += shown(message.attributes)
    return b'{"channel":%b,"data":%b%b}' % (dumps(message.channel), json_value(message), behind)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes, cursor: object = None, name: str | None = None) -> bytes:
    """One server-sent event; ``data`` must be a single line."""
    head = (b"" if name is None else b"event: %b\n" % name.encode()) + (
        b"" if cursor is None else b"id: %b\n" % str(cursor).encode()
    )
    return b"%bdata: %b\n\n" % (head, data)


def gap(channel: str | None, missing: Gap) -> dict[str, Any]:
    """The fields that tell a subscriber of messages that it can't get; ``channel`` where it may have several."""
    what = {"epoch": missing.epoch, "first": missing.first, "last": missing.last} if missing.first else None
    named = {} if channel is None else {"channel": channel}
    return {**named, "recovered": False, "missing": what}


def page(
    channel: str, found: Page, most: int | None = None, *, backwards: bool = False, filters: Filters | None = None
) -> bytes:  # fmt: skip
    """A page of a channel's history, as JSON. ``cursor`` is the channel's position; ``more``: there is another page,
    after the last message, or before the first one. With ``most`` the page has only as many messages as fit into so
    many bytes, at least one: the first ones, or ``backwards`` the last ones. With ``filters`` it has only messages that
    these let through; where there is another page, it begins behind ``next``, or ends before it."""
    messages = found.messages(channel)
    last = messages[0 if backwards else -1].cursor if messages else None
    if filters:
        messages = [message for message in messages if filters.match(message)]
    items = [_item(message) for message in messages]
    count = len(items)
    if most is not None:
        sizes = accumulate([len(item) + 1 for item in (reversed(items) if backwards else items)])
        count = max(1, sum([size <= most for size in sizes]))
    kept = items[-count:] if backwards else items[:count]
    told: dict[str, Any] = {} if found.gap is None else {"gap": gap(None, found.gap)}
    more = found.more or len(kept) < len(items)
    if found.ended and not more:
        told["end"] = True
    if filters and more:
        if count < len(items):
            last = messages[-count if backwards else count - 1].cursor
        told["next"] = str(last)
    rest = {"cursor": None if found.position is None else str(found.position), "more": more, **told}
    return b'{"channel":%b,"messages":[%b],%b' % (dumps(channel), b",".join(kept), dumps(rest)[1:])


def claim(durable: str | None, message: Message, attempt: int) -> bytes:
    """A message that a consumer has to acknowledge, as JSON; with the channel and ``durable`` where it may have several
    subscriptions."""
    named = b"" if durable is None else b'"channel":%b,"durable":%b,' % (dumps(message.channel), dumps(durable))
    return b'{%b"data":%b%b,"attempt":%d}' % (named, json_value(message), _behind_data(message), attempt)


def dead_letter(durable: str, message: Message, attempts: int) -> bytes:
    """The dead letter for a message that a durable has given up, as JSON. The attributes in it are the message's: the
    letter has none of its own."""
    named = b'"channel":%b,"durable":%b' % (dumps(message.channel), dumps(durable))
    return b'{%b,"cursor":"%b","attempts":%d,"data":%b%b}' % (
        named, str(message.cursor).encode(), attempts, json_value(message), shown(message.attributes),
    )  # fmt: skip


def frame(opcode: int, data: bytes) -> bytes:
    """A server's unmasked WebSocket frame (RFC 6455 section 5.2); ``opcode`` is its first byte."""
    size = len(data)
    if size < 126:
        return b"%c%c%b" % (opcode, size, data)
    if size < 65536:
        return struct.pack("!BBH", opcode, 126, size) + data
    return struct.pack("!BBQ", opcode, 127, size) + data


def text_frame(data: bytes) -> bytes:
    """A server's unmasked WebSocket text frame (RFC 6455 section 5.2)."""
    return frame(TEXT_FRAME, data)


def deflated(data: bytes) -> bytes:
    """Data compressed by itself, as a part of a frame's (RFC 7692 section 7.2.1): parts may stand behind each other."""
    deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)


def deflated_frame(opcode: int, data: bytes) -> bytes:
    """A compressed frame without context takeover; a plain one where that is no shorter."""
    return shorter_frame(opcode, data, deflated(data)) if len(data) >= MIN_DEFLATE_BYTES else frame(opcode, data)


def shorter_frame(opcode: int, data: bytes, short: bytes) -> bytes:
    """The shorter one of a plain frame and of a compressed one, whose data is ``short``."""
    # The last four bytes are those of each sync flush, and left out (RFC 7692 section 7.2.1).
    return frame(opcode | _DEFLATED, short[:-4]) if len(short) - 4 < len(data) else frame(opcode, data)


def _told(channel: str, name: str, value: Any) -> bytes:
    """A notice to a subscriber of wrapped messages."""
    return dumps({"channel": channel, name: value})


@functools.cache
def line(wrapped: bool, chunked: bool) -> Encoding:
    """NDJSON: a message per line."""
    value = _wrapped if wrapped else json_value

    def notice(channel: str, name: str, told: Any) -> bytes:
        data = _told(channel, name, told) + b"\n"
        return chunk(data) if chunked else data

    if chunked:
        return Encoding("line", lambda message: chunk(value(message) + b"\n"), notice=notice if wrapped else None)
    return Encoding("line", lambda message: value(message) + b"\n", notice=notice if wrapped else None)


@functools.cache
def sse(wrapped: bool, chunked: bool, merged: bool = False) -> Encoding:
    """Server-sent events, with the cursor as the event's id unless several channels are ``merged``, and the name of the
    message's own event, if it has one. Clients of other protocols may publish events that are called as Raiden's own
    are; these are sent without a name."""
    value = _wrapped if wrapped else json_value

    def encode(message: Message) -> bytes:
        name = None if message.attributes is None else message.attributes.event or None
        if name in RESERVED:
            name = None
        data = event(value(message), None if merged else message.cursor, name)
        return chunk(data) if chunked else data

    def notice(channel: str, name: str, told: Any) -> bytes:
        if name == "cursor" and merged:
            return b""  # the position in all channels is told behind the turn's messages
        if name == "cursor":
            data = b"id: %b\n\n" % told.encode()
        else:
            data = event(dumps({"channel": channel, **told} if wrapped else told), name=name)
        return chunk(data) if chunked else data

    return Encoding("event", encode, notice=notice)


@functools.cache
def raw(chunked: bool) -> Encoding:
    """Payloads as they are, one a chunk."""

    def encode(message: Message) -> bytes:
        # An empty chunk would end the body.
        return chunk(message.payload) if chunked and message.payload else message.payload

    return Encoding("raw", encode)


@functools.cache
def poll(wrapped: bool) -> Encoding:
    """An item of a long-poll's answer, with the comma before the next one."""
    item = _wrapped if wrapped else _item
    return Encoding("poll", lambda message: item(message) + b",")


@functools.cache
def websocket(wrapped: bool, deflate: bool, verbatim: bool = False) -> Encoding:
    """A WebSocket frame; bytes that are not wrapped are a binary frame, verbatim text is not made a JSON string."""
    put = deflated_frame if deflate else frame

    def encode(message: Message) -> bytes:
        if wrapped:
            return put(TEXT_FRAME, _wrapped(message))
        if message.kind == Kind.BYTES:
            return put(_BINARY_FRAME, message.payload)
        if verbatim and message.kind == Kind.TEXT:
            return put(TEXT_FRAME, message.payload)
        return put(TEXT_FRAME, json_value(message))

    def notice(channel: str, name: str, told: Any) -> bytes:
        return text_frame(_told(channel, name, told))

    return Encoding("websocket", encode, notice=notice if wrapped else None)
