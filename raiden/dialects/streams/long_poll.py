"""A long-poll of one stream: a request that waits at the stream's tail (durable-streams, PROTOCOL.md 5.7)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from raiden.connections.connection import Connection
from raiden.delivery.table import End, Subscription
from raiden.dialects.streams import answers, intervals
from raiden.dialects.streams.lifetimes import Lifetimes
from raiden.history.streams import ABSENT, Stream, StreamRefused
from raiden.http.door import HttpDoor
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.message import Cursor
from raiden.model.page import Gap
from raiden.model.refusals import Refusal
from raiden.presence.watches import Notice
from raiden.protocols.http import Request
from raiden.router import Router
from raiden.sessions.over import DISCONNECTED, EXPIRED, Over
from raiden.sessions.poll import keep_behind
from raiden.sessions.session import Session


@functools.cache
def encoding(is_json: bool) -> Encoding:
    """Messages as parts of a body; those of JSON with the comma before the next one. Messages without a place are none
    of the stream's."""
    end = b"," if is_json else b""
    return Encoding("stream", lambda message: b"" if message.cursor is None else message.payload + end)


class LongPoll(Session):
    """A request that waits for what comes behind a stream's tail, and is answered with the first turn that brings
    something. ``begin`` is the text of its place as it was given."""

    own_id = b""
    answers_once = True

    __slots__ = (
        "_begin", "_cache", "_door", "_floor", "_lifetimes", "_name", "_place", "_request", "_stream", "connection",
        "pending",
    )  # fmt: skip

    def __init__(
        self, router: Router, door: HttpDoor, connection: Connection, request: Request, lifetimes: Lifetimes, name: str,
        stream: Stream, begin: str, floor: int, cache: str,
    ) -> None:  # fmt: skip
        super().__init__(router)
        self.connection = connection
        self.pending: list[bytes] = []
        self._door = door
        self._request = request
        self._lifetimes = lifetimes
        self._name = name
        self._stream = stream
        self._begin = begin
        self._floor = floor
        self._cache = cache
        # The place that the answer tells, which is the tail.
        self._place = stream.tail

    def subscribe(self, name: str, encode: Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self.router.unsubscribe(subscription, linger=True)  # the client comes back

    def connections(self) -> Sequence[Connection]:
        return (self.connection,)

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        """Nobody watches the members of a stream here."""

    def flush(self) -> None:
        found = b"".join(self.pending)
        self.pending.clear()
        position = self.router.position(self._name)
        if found and position is not None and self.subscriptions:
            self._place = position
            self._answer_with(found)

    def _answer_with(self, found: bytes) -> None:
        stream = self._stream
        body = b"[%b]" % found[:-1] if stream.is_json else found
        fields = answers.at(stream, self._place, self._begin, up_to_date=True)
        fields |= {"Stream-Cursor": str(intervals.at_least(self._floor)), "Cache-Control": self._cache}
        self._answer(answers.answer(200, fields, body))

    def at_end(self, subscription: Subscription, end: End) -> None:
        self._stream = self._stream._replace(closed=True)
        message = end.message
        found = b"".join(self.pending)
        self.pending.clear()
        if message is not None and message.payload:
            self._place = end.cursor
        elif message is not None:
            self._place = Cursor("", end.cursor.offset - 1, message.before)
        if found:
            self._answer_with(found)
        else:
            self._answer_nothing()

    def _answer_nothing(self) -> None:
        self._answer(answers.nothing(self._place, closed=self._stream.closed, floor=self._floor))

    def _answer(self, response: Any) -> None:
        if self.connection.session is self:
            self._door.answer(self.connection, self._request, response)

    def _refuse(self, refusal: Refusal) -> None:
        self._answer(answers.refused(refusal))

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """The client comes back, and is told that its place is none of the stream's."""
        self._answer_nothing()

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        self.gone()

    def gone(self) -> None:
        """There is no such stream any more."""
        self._refuse(StreamRefused(ABSENT, self._name, None))

    def fail(self) -> None:
        self._answer_nothing()

    def close(self) -> None:
        super().close()
        self._lifetimes.release(self._name, self)

    # The client's events.

    def receive(self, data: bytes) -> None:
        keep_behind(self.connection, data)

    def tick(self) -> None:
        """Answer, because the time is up."""
        permit = self.connection.permit
        if permit is not None and permit.is_over:
            self.over(EXPIRED)
        else:
            self._answer_nothing()

    def drain(self) -> None:
        self._answer_nothing()

    def over(self, reason: Over) -> None:
        self._refuse(reason.refusal)

    def remove(self, name: str) -> None:
        if name == self._name:
            self.over(DISCONNECTED)

    def withdraw(self, name: str, durable: str, refusal: Refusal | None) -> None:
        """An answer of a delegate about a poll holds for that one."""

    def overflow(self) -> None:
        self.connection.finish()
