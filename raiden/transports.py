"""The transports of a subscription: what a request is answered with at first, and the session that its connection
becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from raiden import encoding, in_band
from raiden.connection import Connection, Wheel
from raiden.encoding import Encoding
from raiden.filters import Filters
from raiden.heads import Repeated
from raiden.history import Start
from raiden.http import Fields, Json, Request, add_fields, stream_bytes
from raiden.in_band import Told
from raiden.multiplex import MultiplexSocket
from raiden.router import Router
from raiden.sessions import Lasting, MergedEvents, Poll, Session, Socket, Stream, Waiter
from raiden.websocket import Agreement, WebSocket

# What must arrive as it is sent: a proxy that compresses it would keep it until there is more (RFC 9110 section 7.7).
_AT_ONCE = ("Cache-Control", "no-store, no-transform")
# Of the head of a long-poll's answer.
POLL_FIELDS = dict([_AT_ONCE])


class Asked(NamedTuple):
    """What a subscriber asks for; ``wrapped``: each message says its channel and cursor."""

    names: list[str]
    filters: Filters
    starts: dict[str, Start]
    wrapped: bool


class Seat(NamedTuple):
    """Where a session sits: its connection, its router, and its deadlines; ``keepalive`` in seconds."""

    connection: Connection
    router: Router
    wheel: Wheel
    keepalive: float


class Opening(NamedTuple):
    """A session that will begin, and what the connection becomes with it. ``opened`` is called when it does, with what
    the client is told then."""

    session: Session
    client: Lasting | Waiter
    transport: str
    encode: Encoding
    opened: Callable[[Told], None]


def stream_head(request: Request, asked: Asked) -> tuple[Fields, Encoding]:
    """The head of a stream, by what the client accepts, and how its messages are written."""
    chunked = not request.http10
    accept = request.fields.get("accept", "").lower()
    if "text/event-stream" in accept:
        encode, content_type = encoding.sse(asked.wrapped, chunked, _is_merged(asked)), "text/event-stream"
    elif "application/octet-stream" in accept and not asked.wrapped:
        encode, content_type = encoding.raw(chunked), "application/octet-stream"
    else:
        encode, content_type = encoding.line(asked.wrapped, chunked), "application/x-ndjson"
    return (("Content-Type", content_type), _AT_ONCE, ("X-Accel-Buffering", "no")), encode


def _is_merged(asked: Asked) -> bool:
    """No single message's cursor is a position to come back with; of a pattern's, there is none."""
    return len(asked.names) > 1 or asked.names[0].endswith("*")


def stream(
    seat: Seat, request: Request | Repeated, *, asked: Asked, head: Fields, encode: Encoding, http10: bool
) -> Opening:  # fmt: skip
    """An HTTP stream, or server-sent events."""
    is_event = encode.form == "event"
    arguments = (*seat, in_band.stream(encode.form, asked.wrapped, not http10), asked.names)
    session = MergedEvents(*arguments) if is_event and _is_merged(asked) else Stream(*arguments)

    def opened(told: Told) -> None:
        session.open(add_fields(stream_bytes(head, http10=http10), told.fields()), told)

    return Opening(session, session, "event" if is_event else "stream", encode, opened)


def poll(
    seat: Seat, request: Request | Repeated, *, asked: Asked, wait: float,
    answer: Callable[[Iterable[Waiter], Json], None],
) -> Opening:  # fmt: skip
    """A long-poll of ``wait`` seconds, which is answered by ``answer``."""
    fields = POLL_FIELDS.copy()
    session = Poll(seat.router, seat.wheel, wait, asked.names, fields, answer, seat.connection.max_outbox)
    client = session.add(seat.connection, request)

    def opened(told: Told) -> None:
        fields.update(told.fields())

    return Opening(session, client, "poll", encoding.poll(asked.wrapped), opened)


def socket(
    seat: Seat, request: Request | Repeated, *, asked: Asked, agreement: Agreement, max_ws_message: int,
    max_message: int, max_subscriptions: int, session_window: float, verbatim: bool,
) -> Opening:  # fmt: skip
    """A WebSocket: the connection speaks its protocol from now on."""
    core = WebSocket(agreement.deflate, max_message=max_ws_message)
    encode = encoding.websocket(asked.wrapped, core.deflate, verbatim and bool(asked.names))
    session: Socket
    if asked.names:
        session = Socket(
            *seat, in_band.websocket(asked.wrapped), asked.names, core, max_message=max_message, verbatim=verbatim
        )
    else:
        session = MultiplexSocket(
            *seat, core, max_subscriptions=max_subscriptions, session_window=session_window, max_message=max_message
        )
    seat.connection.protocol = core

    def opened(told: Told) -> None:
        session.open(add_fields(agreement.answer(request.websocket_key), told.fields()), told)
        for event in core.feed(request.rest) if request.rest else ():
            session.received(event)
        session.settle()

    return Opening(session, session, "websocket", encode, opened)
