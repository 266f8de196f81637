"""The transports of a subscription: what a request is answered with at first, and the session that its connection
becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast

from raiden import accept, in_band
from raiden.bell import Bells
from raiden.connection import Connection, Wheel
from raiden.heads import Repeated
from raiden.http import Fields, HttpError, Json, Request, add_fields, stream_bytes
from raiden.in_band import Told
from raiden.model import encoding
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.page import Start
from raiden.model.refusals import Refusal
from raiden.multiplex import MultiplexSocket
from raiden.parser import RequestParser
from raiden.router import Router
from raiden.sessions import Lasting, MergedEvents, Poll, Session, Socket, Stream, Waiter
from raiden.unfinished import Unfinished
from raiden.websocket import Agreement, WebSocket

# What must arrive as it is sent: a proxy that compresses it would keep it until there is more (RFC 9110 section 7.7).
_AT_ONCE = ("Cache-Control", "no-store, no-transform")
# Of the head of a long-poll's answer.
POLL_FIELDS = dict([_AT_ONCE])
# The forms of a stream, by the media types that ask for each; "page" is what a browser shows to people instead.
FORMS = {
    "line": ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"),
    "event": ("text/event-stream",), "raw": ("application/octet-stream",), "page": ("text/html",),
}  # fmt: skip


class Asked(NamedTuple):
    """What a subscriber asks for; ``wrapped``: each message says its channel and cursor. All who ask so may share
    it."""

    names: tuple[str, ...]
    filters: Filters
    starts: Mapping[str, Start]
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


def form(request: Request, *, wrapped: bool, for_people: bool) -> str:
    """What a stream is to be, by what the client accepts: "line", "event", "raw", or, where it may be ``for_people``,
    "page". Raises HttpError 406 where it accepts none of these."""
    forms = {
        name: media_types for name, media_types in FORMS.items()
        if (name != "raw" or not wrapped) and (name != "page" or for_people)
    }  # fmt: skip
    found = accept.choose(request.environ.get("HTTP_ACCEPT"), forms)
    if found is None:
        raise HttpError(
            406, "a subscription is text/event-stream or application/x-ndjson, or of one channel also "
            "application/octet-stream: accept one of them, or */*",
        )  # fmt: skip
    return found


def wants_page(request: Request, *, always: bool) -> bool:
    """Whether a request for ``/`` gets the page: if a browser shows it to people, or ``always``, since there is nothing
    else to get, unless the client does not accept it."""
    forms = {"page": FORMS["page"]} if always else FORMS
    return not request.upgrade and accept.choose(request.environ.get("HTTP_ACCEPT"), forms) == "page"


def stream_head(request: Request, asked: Asked, form: str) -> tuple[Fields, Encoding]:
    """The head of a stream, and how its messages are written."""
    chunked = not request.http10
    if form == "event":
        encode, content_type = encoding.sse(asked.wrapped, chunked, _is_merged(asked)), "text/event-stream"
    elif form == "raw":
        encode, content_type = encoding.raw(chunked), "application/octet-stream"
    else:
        encode, content_type = encoding.line(asked.wrapped, chunked), "application/x-ndjson"
    return (("Content-Type", content_type), _AT_ONCE, ("X-Accel-Buffering", "no")), encode


def refused(opening: Opening, refusal: Refusal) -> HttpError:
    """The refusal as the client of this transport is told of it."""
    error = HttpError(refusal.status, refusal.detail)
    error.event = opening.transport == "event"
    return error


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
        _take_rest(seat.connection)
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
    seat: Seat, request: Request | Repeated, *, asked: Asked, agreement: Agreement, unfinished: Unfinished,
    max_ws_message: int, max_message: int, timeout: float, bells: Bells, max_subscriptions: int,
    session_window: float, verbatim: bool,
) -> Opening:  # fmt: skip
    """A WebSocket: the connection speaks its protocol once it has begun."""
    core = WebSocket(agreement.deflate, max_message=max_ws_message, timeout=timeout, unfinished=unfinished)
    encode = encoding.websocket(asked.wrapped, core.deflate, verbatim and bool(asked.names))
    session: Socket
    if asked.names:
        session = Socket(
            *seat, in_band.websocket(asked.wrapped), asked.names, core, max_message=max_message, verbatim=verbatim
        )
    else:
        session = MultiplexSocket(
            *seat, core, bells=bells, max_subscriptions=max_subscriptions, session_window=session_window,
            max_message=max_message,
        )  # fmt: skip

    def opened(told: Told) -> None:
        rest = _take_rest(seat.connection)
        seat.connection.protocol = core
        session.open(add_fields(agreement.answer(request.websocket_key), told.fields()), told)
        for event in core.feed(rest) if rest else ():
            session.received(event)
        session.settle()

    return Opening(session, session, "websocket", encode, opened)


def _take_rest(connection: Connection) -> bytes:
    """What has come behind the last request of a connection, which is none of HTTP's: it is read again."""
    rest = cast(RequestParser, connection.protocol).rest()
    connection.resume()
    return rest
