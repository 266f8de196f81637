"""Streaming publishes: a request whose body is a message a line, each published when it comes.

A stream has a greenlet, which takes the lines that have come, publishes them together, and waits until they are stored:
so they keep their order, and while many come, each step publishes many. Its connection is not read from while more than
`PAUSE` bytes wait for that.
"""

from __future__ import annotations

import gevent
from gevent.event import AsyncResult, Event

from raiden.access.rates import Rates
from raiden.backend import BackboneFull
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.delivery.publisher import Publisher
from raiden.hooks.guest import Guest
from raiden.http.door import Answer, HttpDoor
from raiden.http.lines import Lines
from raiden.model import payload
from raiden.model.encoding import dumps
from raiden.model.message import Cursor, Message
from raiden.model.refusals import PreconditionFailed, Refusal, TooFast, Unauthorized, Unavailable
from raiden.protocols.http import CONTINUE_BYTES, HttpError, Json, Request
from raiden.protocols.limits import HttpLimits
from raiden.protocols.parser import END, MAX_PIPELINED, RequestParser
from raiden.protocols.unfinished import FULL, Full, Share
from raiden.sessions.asks import Publish, PublishLines
from raiden.sessions.decisions import judge
from raiden.sessions.over import DISCONNECTED, EXPIRED, Over
from raiden.sessions.publishing import sign

# Bytes that may wait to be published, besides those of one read and of a line that has not come whole.
PAUSE = 1 << 16
# Seconds between attempts while the backbone is full, and for which they go on.
RETRY, PATIENCE = 0.02, 10.0


class Stopped(HttpError):
    """The refusal of the rest of a stream. What it tells besides says how much was published."""

    def __init__(self, refusal: Refusal, line: int | None, published: int, cursor: Cursor | None) -> None:
        where = "" if line is None else f"line {line}: "
        super().__init__(refusal.status, where + refusal.detail, close=True)
        self._more = {**refusal.more, **_told(published, cursor)}
        if isinstance(refusal, HttpError):
            self.headers = refusal.headers
        elif isinstance(refusal, Unauthorized):
            self.headers = {"WWW-Authenticate": 'Bearer error="invalid_token"' if refusal.bad else "Bearer"}
        elif isinstance(refusal, PreconditionFailed):
            self.headers = {"Raiden-Cursor": refusal.cursor}
        elif isinstance(refusal, TooFast):
            self.too_fast = refusal

    @property
    def more(self) -> dict[str, object]:
        return self._more


def _told(published: int, cursor: Cursor | None) -> dict[str, object]:
    return {"published": published} if cursor is None else {"published": published, "cursor": str(cursor)}


class Streaming:
    """The streaming publishes of a door's clients."""

    def __init__(self, door: HttpDoor, publisher: Publisher, limits: HttpLimits, rates: Rates) -> None:
        self.door = door
        self.publisher = publisher
        self.limits = limits
        self.rates = rates
        self.under_way = 0

    def begin(self, connection: Connection, request: Request, ask: PublishLines) -> None:
        """Publish what comes by this connection from now on. Raises Unavailable."""
        if self.under_way >= self.limits.max_streams:
            raise HttpError(503, f"{self.under_way} publishes are streaming already (max_streams)", close=True)
        stream = _Stream(self, connection, request, ask)
        self.under_way += 1
        self.door.serve_waiting(connection, request, stream.serve)
        connection.session = stream
        if request.is_streamed:
            if request.waits_for_leave:
                connection.send(CONTINUE_BYTES)
            stream.receive(b"")
        else:
            stream.take_all(request.raw_body)


class _Stream:
    """One of them: its connection's `Client`, and the work of its greenlet."""

    __slots__ = (
        "_ask", "_at", "_connection", "_cursor", "_error", "_gone", "_lines", "_more", "_over", "_parser", "_published",
        "_share", "_streaming", "_whole",
    )  # fmt: skip

    def __init__(self, streaming: Streaming, connection: Connection, request: Request, ask: PublishLines) -> None:
        self._streaming = streaming
        self._connection = connection
        self._ask = ask
        self._at = ask.at
        self._lines = Lines(ask, streaming.limits.max_message)
        protocol = connection.protocol
        assert isinstance(protocol, RequestParser)
        self._parser = protocol
        self._share: Share | None = None
        self._more = Event()
        self._whole = self._gone = False
        # The refusal of what comes behind the lines that have come; that of all that is not published yet.
        self._error: Refusal | None = None
        self._over: Refusal | None = None
        self._published = 0
        self._cursor: Cursor | None = None

    # The events of the connection.

    def take_all(self, body: bytes) -> None:
        """Take a body that is whole."""
        self._lines.feed(body)
        self._end()

    def receive(self, data: bytes) -> None:
        if self._whole:  # the bytes of another request, which has to wait
            self._parser.feed(data)
            if self._parser.waiting >= MAX_PIPELINED:
                self._connection.pause()
            return
        if self._error is not None:
            return
        for event in self._parser.feed(data):
            if isinstance(event, bytes):
                self._lines.feed(event)
            elif event is END:
                self._end()
                break
            elif isinstance(event, HttpError):
                self._stop(event)
                break
        self._hold(self._lines.size)
        if self._lines.size >= PAUSE and not self._lines.is_short:
            self._connection.pause()
        self._rest()
        self._more.set()

    def _end(self) -> None:
        self._whole = True
        self._lines.finish()
        self._more.set()

    def _hold(self, size: int) -> None:
        """Count the bytes that wait here among those of all requests that have not come whole. Those of a client that
        has gone count no more: nobody would take them back."""
        if self._gone:
            return
        try:
            self._share = self._streaming.door.unfinished.hold(self._share, size)
        except Full:
            self._share = None
            self._stop(HttpError(503, FULL, close=True))

    def _rest(self) -> None:
        """Be due when nothing has come for too long, or at the end of the client's token."""
        left, permit = self._streaming.limits.stream_timeout, self._connection.permit
        self._streaming.door.wheel.schedule(self._connection, left if permit is None else permit.left(left))

    def tick(self) -> None:
        permit = self._connection.permit
        if permit is not None and permit.is_over:
            self.over(EXPIRED)
        elif not self._connection.is_read:
            self._rest()  # it was not read from
        else:
            timeout = self._streaming.limits.stream_timeout
            self._stop(HttpError(408, f"nothing came for {timeout:g} s (stream_timeout)", close=True))

    def _stop(self, refusal: Refusal) -> None:
        """Take no more, but publish what has come."""
        self._error = self._error or refusal
        self._more.set()

    def drain(self) -> None:
        self._end_now(Unavailable("this node stops: send the lines that were not published to another one"))

    def over(self, reason: Over) -> None:
        self._end_now(reason.refusal)

    def _end_now(self, refusal: Refusal) -> None:
        self._over = refusal
        self._more.set()

    def remove(self, name: str) -> None:
        if name == self._ask.channel:
            self.over(DISCONNECTED)

    def overflow(self) -> None:
        self._connection.finish()

    def close(self) -> None:
        self._gone = True
        self._share = self._streaming.door.unfinished.hold(self._share, 0)
        self._more.set()

    # The work.

    def serve(self, connection: Connection, request: Request) -> Answer | None:
        """Publish all, and return the answer; None where the client has gone. Waits; raises Stopped."""
        try:
            if not self._publish_all():
                return None
        except Refusal as refusal:
            raise refusal if isinstance(refusal, Stopped) else self._stopped(refusal) from None
        finally:
            self._streaming.under_way -= 1
        request.is_whole()
        connection.resume()
        status = 202 if self._cursor is None else 200
        return Json(status, dumps(_told(self._published, self._cursor)))

    def _stopped(self, refusal: Refusal, line: int | None = None) -> Stopped:
        return Stopped(refusal, line, self._published, self._cursor)

    def _publish_all(self) -> bool:
        """Publish all lines, as they come; returns False where the client has gone before the last one."""
        while True:
            if self._over is not None:
                raise self._over
            try:
                found = self._lines.take()
            except Refusal as refusal:
                raise self._stopped(refusal, self._lines.number) from None
            self._hold(self._lines.size)
            if found is not None:
                self._publish_some(found)
                gevent.sleep(0)
            elif self._whole:
                break
            elif self._error is not None:
                raise self._error
            elif self._gone:
                return False
            else:
                self._connection.resume()
                self._more.clear()
                self._more.wait()
        if self._ask.ends:
            self._publish_some([payload.end_of(self._ask.channel)])
        return True

    def _publish_some(self, messages: list[Message]) -> None:
        """Publish messages, as fast as rates allow, and if a delegate does."""
        rates, permit = self._streaming.rates, self._connection.permit
        while messages:
            if permit is not None:
                permit.check_still()
            count = 1 if isinstance(permit, Guest) else len(messages)
            if rates.on:
                count, wait = rates.some(client.account(self._connection), self._ask.channel, count)
                if not count:
                    self._wait(wait)
                    continue
            some, messages = messages[:count], messages[count:]
            if isinstance(permit, Guest):
                decision = judge(permit, Publish([some], None, _no_answer))
                some = list(some if decision is None else decision.wait().groups[0])
            self._publish(some)
            self._published += count - some[-1].is_empty_end  # which is no line

    def _wait(self, seconds: float) -> None:
        """Wait for rates. Raises a refusal where the rest is not published any more: nobody waits long for a client
        that has gone."""
        gevent.sleep(min(seconds, 0.5))
        if self._over is not None:
            raise self._over
        if self._gone:
            raise Unavailable("the client has gone")

    def _publish(self, messages: list[Message]) -> None:
        """Publish messages together, and wait until that is done; raises a refusal."""
        left = PATIENCE
        sign(messages, self._connection.permit, self._streaming.limits.max_message)
        while True:
            done: AsyncResult[list[list[Cursor]] | Refusal] = AsyncResult()
            places = {} if self._at is None else {self._ask.channel: self._at}
            self._streaming.publisher.publish(messages, at=places, done=done.set)
            outcome = done.get()
            if not isinstance(outcome, Refusal):
                break
            if not isinstance(outcome, BackboneFull) or left <= 0:
                raise outcome
            left -= RETRY
            gevent.sleep(RETRY)
        self._at = None
        if outcome[0]:
            self._cursor = outcome[0][-1]


def _no_answer(*_: object) -> bytes:
    return b""
