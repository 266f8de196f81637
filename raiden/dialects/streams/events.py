"""A stream's messages as server-sent events, while they come (PROTOCOL.md of durable-streams, section 5.8).

Each event with data is followed by one that tells the place behind it, in the same bytes. The messages that a turn
brings are one such pair. All readers of a stream share these bytes, unless they must be told different cursors.
"""

from __future__ import annotations

import base64
import functools
import re
import time
from collections.abc import Sequence
from typing import Final

from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.delivery.table import End, Subscription
from raiden.delivery.thinned import Left
from raiden.dialects.streams import intervals, places
from raiden.dialects.streams.lifetimes import Lifetimes
from raiden.model.encoding import Encoding, chunk
from raiden.model.message import Cursor, Message
from raiden.model.page import Gap
from raiden.router import Router
from raiden.sessions import in_band
from raiden.sessions.lasting import Lasting
from raiden.sessions.over import Over

# The forms of data: an array of JSON, text, and base64 for all else.
JSON: Final = "json"
TEXT: Final = "text"
BASE64: Final = "base64"

# Kinds of events that are remembered; there are more only if clients make up cursors.
_REMEMBERED: Final = 1000
# The ends of lines, of which none may be in a field of an event (the HTML standard, section 9.2.6).
_LINE_ENDS = re.compile("\r\n|\n|\r")


def form_of(media_type: str, *, is_json: bool) -> str:
    """The form of the data of a stream of this type."""
    return JSON if is_json else TEXT if media_type.startswith("text/") else BASE64


def control(place: str, *, floor: int, up_to_date: bool = False, closed: bool = False) -> bytes:
    """The event that tells a place. ``floor`` is the least cursor that the reader is told."""
    if closed:
        more = '"streamClosed":true'
    else:
        more = f'"streamCursor":"{intervals.at_least(floor)}"' + (',"upToDate":true' if up_to_date else "")
    return f'event: control\ndata:{{"streamNextOffset":"{place}",{more}}}\n\n'.encode()


def data(form: str, payloads: Sequence[bytes]) -> bytes:
    """The event that has these messages."""
    if form == JSON:
        return b"event: data\ndata:[%b]\n\n" % b",".join(payloads)
    joined = b"".join(payloads)
    if form == BASE64:
        return b"event: data\ndata:%b\n\n" % base64.b64encode(joined)
    # A reader takes one space off behind the colon.
    lines = [" " + line if line[:1] == " " else line for line in _LINE_ENDS.split(joined.decode("utf-8", "replace"))]
    return "".join(["event: data\n", *[f"data:{line}\n" for line in lines], "\n"]).encode()


def _pair(form: str, floor: int, messages: Sequence[Message], *, up_to_date: bool, closed: bool) -> bytes:
    """The events for messages that have a place."""
    cursor = messages[-1].cursor
    assert cursor is not None
    told = control(places.token(cursor), floor=floor, up_to_date=up_to_date, closed=closed)
    return data(form, [message.payload for message in messages]) + told


@functools.lru_cache(_REMEMBERED)
def encoding(form: str, floor: int, chunked: bool) -> Encoding:
    """The encoding of messages as they come. Transient ones, which have no place, are none of the stream's."""

    def run(messages: list[Message]) -> bytes:
        stored = [message for message in messages if message.cursor is not None]
        if not stored:
            return b""
        events = _pair(form, floor, stored, up_to_date=True, closed=stored[-1].ends)
        return chunk(events) if chunked else events

    return Encoding("stream", lambda message: run([message]), run)


class EventStream(Lasting):
    """A reader of one stream by server-sent events. ``place`` is the place that it begins at. The answer ends after
    ``lasts_for`` seconds (0: it does not), so that proxies and balancers see it come back."""

    __slots__ = ("_chunked", "_floor", "_form", "_lifetimes", "_name", "_place", "_told", "_until")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, lifetimes: Lifetimes, name: str,
        place: Cursor, form: str, floor: int, lasts_for: float, chunked: bool,
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive, in_band.stream("event", False, chunked), (name,))
        self._lifetimes = lifetimes
        self._name = name
        # The place behind what was sent of the past, and whether the reader was told that this is the tail, or the end;
        # the empty text once the reader gets what comes.
        self._place = places.token(place)
        self._told = False
        self._form = form
        self._floor = floor
        self._chunked = chunked
        self._until = time.monotonic() + lasts_for if lasts_for else 0.0

    def start(self, head: bytes) -> None:
        """Answer with this head."""
        self.take_rest()
        self.connection.send(head)
        self.rest()

    def reached(self, name: str, place: Cursor | None) -> None:
        super().reached(name, place)
        if place is None:  # it gets what comes from now on
            if not self._told:
                self._send(control(self._place, floor=self._floor, up_to_date=True))
            self._place = ""

    def put_past(self, subscription: Subscription, message: Message, thinned: Left | None) -> int:
        return len(message.payload)  # one event has all messages that are sent at once

    def flush_past(self, subscription: Subscription, messages: list[Message], place: Cursor) -> None:
        live = self.router.position(self._name)
        self._send_messages(messages, is_tail=live is not None and live.place == place.place)

    def _send_messages(self, messages: list[Message], *, is_tail: bool) -> None:
        closed = messages[-1].ends
        if messages[-1].is_empty_end:
            messages = messages[:-1]
        if messages:
            cursor = messages[-1].cursor
            assert cursor is not None
            self._place = places.token(cursor)
            self._told = is_tail or closed
            self._send(_pair(self._form, self._floor, messages, up_to_date=is_tail, closed=closed))

    def _send(self, events: bytes) -> None:
        self.connection.send(chunk(events) if self._chunked else events)

    def end_notice(self, end: End) -> bytes:
        message = end.message
        if message is None and self._told:
            return b""
        if message is None:
            place = self._place
        elif message.payload:
            return b""  # the event behind its data has told it
        else:
            place = places.token(Cursor("", end.cursor.offset - 1, message.before))
        told = control(place, floor=0, closed=True)
        return chunk(told) if self._chunked else told

    def keep_alive(self) -> None:
        """Tell the place again, with a fresh cursor; or end the answer, if it has lasted for long enough."""
        if self._until and time.monotonic() >= self._until:
            self.drain()
            return
        place = self.router.position(self._name)
        if not self._place and place is not None:
            self._send(control(places.token(place), floor=self._floor, up_to_date=True))
        self.rest()

    def rest(self) -> None:
        if self._until:
            self.keepalive = max(0.001, min(self.keepalive, self._until - time.monotonic()))
        super().rest()

    def receive(self, data: bytes) -> None:
        """Ignore these bytes: a request behind one for an endless stream could never be answered."""

    def over(self, reason: Over) -> None:
        self.drain()

    def drain(self) -> None:
        self.finish(self.in_band.end)

    def overflow(self) -> None:
        self.finish(b"")

    def fail(self) -> None:
        self.finish(b"")  # without its end: the client sees that it broke off

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """End the answer: the client comes back, and is told that its place is none of the stream's."""
        self.drain()

    def all_ended(self) -> None:
        self.drain()

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if self.connection.session is self:
            self.drain()

    def gone(self) -> None:
        """The stream's time is over."""
        self.drain()

    def close(self) -> None:
        super().close()
        self._lifetimes.release(self._name, self)
