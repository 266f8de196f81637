"""Requests and answers on the REQ door: a REQ or DEALER asks, and a DEALER serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from raiden.connections.connection import Connection
from raiden.model.message import Kind, Message
from raiden.model.numbers import seconds, whole
from raiden.model.refusals import Forbidden, Invalid, Refusal
from raiden.protocols.zmtp import Frames
from raiden.requests.exchange import Exchange
from raiden.requests.refusals import MAX_CODE, Failure
from raiden.requests.servers import Given, Server
from raiden.sessions.asks import (
    MAX_TIMEOUT,
    MAX_WINDOW,
    MIN_TIMEOUT,
    TIMEOUT,
    WINDOW,
    Call,
    Respond,
    Serve,
    Unserve,
)
from raiden.sessions.party import Party
from raiden.zeromq.session import BYTES, channel_of, given, kind_of, text_of

# Bytes of the frames before the empty one, which are kept for as long as a channel is served.
MAX_ENVELOPE: Final = 1024

Ask: TypeAlias = Call | Serve | Unserve | Respond

_TYPES: Final = {Kind.JSON: b"application/json", Kind.TEXT: b"text/plain"}


class ZmqParty(Party):
    """The part of one connection. ``send`` sends frames; those of a channel that it serves begin as the command
    ``serve`` did, with the frames before its empty one."""

    __slots__ = ("_envelopes", "_send")

    def __init__(self, exchange: Exchange, connection: Connection, send: Callable[..., None]) -> None:
        super().__init__(exchange, connection)
        self._send = send
        self._envelopes: dict[str, Frames] = {}

    def begin(self, envelope: Frames, ask: Serve, most: int) -> Server:
        """Serve a channel from now on, as `serve`, and at most ``most`` of them. Raises Invalid and Forbidden, too."""
        if len(self) >= most:
            raise Forbidden(f"a connection serves at most {most} channels (zmq_max_topics)")
        if sum(map(len, envelope)) > MAX_ENVELOPE:
            raise Invalid(f"to serve, the frames before the empty one have at most {MAX_ENVELOPE} bytes together")
        known = dict(self._envelopes)
        self._envelopes[ask.channel] = envelope  # requests may come before `serve` returns
        try:
            return self.serve(ask)
        except Refusal:
            self._envelopes = known
            raise

    def remove(self, channel: str) -> bool:
        was_served = super().remove(channel)
        self._envelopes.pop(channel, None)
        return was_served

    def give(self, given: Given, message: Message, left: float) -> None:
        self._send(
            *self._envelopes[message.channel], b"request", message.channel.encode(), given.id.encode(),
            message.payload, type_of(message.kind), b"%.3f" % left,
        )  # fmt: skip

    def withdrawn(self, given: Given) -> None:
        channel = given.server.channel
        if channel in self._envelopes:
            self._send(*self._envelopes[channel], b"cancel", channel.encode(), given.id.encode())
        self._leave()


def type_of(kind: int) -> bytes:
    """The content type of a payload of this kind."""
    return _TYPES.get(kind, BYTES)


# Reading what is asked for.


def _request(arguments: Frames, max_message: int) -> Call:
    channel, payload, content_type, left, again = given(
        arguments, 2, 5, "request, channel, payload, type, seconds, again"
    )
    timeout = TIMEOUT
    if left:
        timeout = seconds("seconds", text_of(left, "a number of seconds"), MIN_TIMEOUT, MAX_TIMEOUT)
    if again not in (b"", b"0", b"1"):
        raise Invalid("again is 1 or 0")
    message = Message(channel_of(channel), *kind_of(payload, content_type, max_message))
    return Call(message, timeout, again == b"1")


def _serve(arguments: Frames, max_message: int) -> Serve:
    channel, window = given(arguments, 1, 2, "serve, channel, window")
    most = whole("window", text_of(window, "a window"), MAX_WINDOW) if window else WINDOW
    return Serve(channel_of(channel), most)


def _unserve(arguments: Frames, max_message: int) -> Unserve:
    return Unserve(channel_of(*given(arguments, 1, 1, "unserve, channel")))


def _answer(arguments: Frames, max_message: int) -> Respond:
    id, payload, content_type = given(arguments, 2, 3, "answer, id, payload, type")
    return Respond(text_of(id, "an id"), Message("", *kind_of(payload, content_type, max_message)))


def _fail(arguments: Frames, max_message: int) -> Respond:
    id, code, message = given(arguments, 3, 3, "fail, id, code, message")
    number = whole("code", text_of(code, "a code"), MAX_CODE)
    return Respond(text_of(id, "an id"), Failure.of(number, text_of(message, "a message")))


READERS: Final[dict[bytes, Callable[[Frames, int], Ask]]] = {
    b"request": _request, b"serve": _serve, b"unserve": _unserve, b"answer": _answer, b"fail": _fail,
}  # fmt: skip
"""The functions that read commands about requests, by name."""
