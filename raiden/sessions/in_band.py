"""In-band notices to a subscriber, between its messages: its position, and its gaps. Pure.

A position that only messages tell is not known before the first of them, and not past messages that filters hide. So
the position is told at the beginning, and with the keep-alives once it has moved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from raiden.model.encoding import END_OF_CHUNKS, chunk, dumps, event, gap, text_frame
from raiden.model.message import EARLIEST, Cursor
from raiden.model.page import Gap

# Keep-alives where there is nothing to tell. A stream of bytes has no place for them.
_KEEPALIVES = {"event": b": keep-alive\n\n", "line": b"\n"}


class Told(NamedTuple):
    """The notice to a subscriber that its subscription is in force, which begins behind ``position`` (None: without
    history, or it is told later). ``recovered``: whether it gets all of the past that it asked for (None: it asked for
    nothing). ``unconfirmed``: the nodes that did not say in time that the subscription holds. ``connection`` is the id
    of the connection ("": of no single one)."""

    position: str | None = None
    recovered: bool | None = None
    unconfirmed: Sequence[str] = ()
    connection: str = ""

    def fields(self) -> dict[str, str]:
        """The notice as fields of the answer's head."""
        fields = {}
        if self.unconfirmed:
            fields["Raiden-Unconfirmed"] = ", ".join(self.unconfirmed)
        if self.position is not None:
            fields["Raiden-Cursor"] = self.position
        if self.recovered is not None:
            fields["Raiden-Recovered"] = "true" if self.recovered else "false"
        if self.connection:
            fields["Raiden-Connection"] = self.connection
        return fields

    def in_head(self, head: bytes) -> bytes:
        """A serialized head, with the notice's fields added."""
        if self.position is None and self.recovered is None and not self.unconfirmed:
            # The hot path of connecting: without history there is nothing else to tell.
            if not self.connection:
                return head
            return b"%bRaiden-Connection: %b\r\n\r\n" % (head[:-2], self.connection.encode("ascii"))
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.fields().items()])
        return b"%b%b\r\n" % (head[:-2], lines.encode("latin-1", "replace"))


class InBand:
    """The in-band notices for subscribers of one kind. ``form`` is that of their encoding, ``frame`` makes the
    transport's bytes of a notice, ``end`` ends their answer. ``tells``: there is a place for more than messages."""

    __slots__ = ("_form", "_frame", "_wrapped", "end", "tells")

    def __init__(self, form: str, wrapped: bool, frame: Callable[[bytes], bytes], end: bytes) -> None:
        self._form = form
        self._wrapped = wrapped
        self._frame = frame
        self.end = end
        self.tells = form == "event" or wrapped

    def begin(self, told: Told) -> bytes:
        """The first bytes of a stream's body, which proxies wait for before they pass on its head; of a WebSocket, its
        first frame."""
        if self._form != "event":
            return self._position(told.position, told.recovered)
        # A browser comes back behind the last id: it must not be behind a gap that was not told yet.
        return self._position(None if told.recovered is False else told.position, None)

    def alive(self, position: str | None) -> bytes:
        """The keep-alive that is sent when nothing else is: the position if it has moved; None: one that says
        nothing."""
        return self._position(position, None)

    def _position(self, position: str | None, recovered: bool | None) -> bytes:
        data = _KEEPALIVES.get(self._form, b"")
        if position is not None and self._form == "event":
            data = b"id: %b\n\n" % position.encode()
        elif position is not None and self._wrapped:
            known = {} if recovered is None else {"recovered": recovered}
            data = self._line({"cursor": position, **known})
        return self._frame(data) if data else b""

    def over(self, name: str) -> bytes:
        """The notice of the end of the stream, by the name of its reason."""
        if self._form == "event":
            return self._frame(event(b"{}", name=name))
        return self._frame(self._line({name: True})) if self._wrapped else b""

    def end_of_channel(self, channel: str, cursor: Cursor, *, is_position: bool = True) -> bytes:
        """The notice that a channel has come to its end with the message at ``cursor``, which is the subscriber's
        position; only where ``tells`` is set."""
        what = {"channel": channel, "end": True, "cursor": str(cursor)} if self._wrapped else {"end": True}
        if self._form != "event":
            return self._frame(self._line(what))
        return self._frame(event(dumps(what), cursor if is_position else None, name="end"))

    def gap(self, channel: str, missing: Gap) -> bytes:
        """The notice that messages of the channel are lost; only where ``tells`` is set."""
        what = gap(channel if self._wrapped else None, missing)
        return self._frame(event(dumps(what), name="gap") if self._form == "event" else self._line(what))

    def presence(self, name: str, what: dict[str, Any]) -> bytes:
        """The notice of who is at a channel, has joined or left it; only where ``tells`` is set."""
        return self._frame(event(dumps(what), name=name) if self._form == "event" else self._line(what))

    def _line(self, value: object) -> bytes:
        return dumps(value) + (b"\n" if self._form == "line" else b"")


def _plain(data: bytes) -> bytes:
    return data


@functools.cache
def stream(form: str, wrapped: bool, chunked: bool) -> InBand:
    """The notices for HTTP streams and server-sent events; one object for all that are alike."""
    return InBand(form, wrapped, chunk if chunked else _plain, END_OF_CHUNKS if chunked else b"")


@functools.cache
def websocket(wrapped: bool) -> InBand:
    """The notices for WebSockets, which have pings to keep them alive."""
    return InBand("websocket", wrapped, text_frame, b"")


def joined(cursors: Sequence[Cursor | None]) -> str | None:
    """A position in several channels: a cursor for each. None where none of them has a history."""
    if len(cursors) == 1:
        return str(cursors[0]) if cursors[0] else None
    if not any(cursors):
        return None
    return ",".join(str(cursor or EARLIEST) for cursor in cursors)
