"""A long-poll of one stream: requests that wait at the stream's tail (durable-streams, PROTOCOL.md 5.7)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from raiden.delivery.table import End, Subscription
from raiden.dialects.streams import answers
from raiden.dialects.streams.lifetimes import LOOK, Lifetimes
from raiden.dialects.streams.reading import Look
from raiden.history.streams import ABSENT, Stream, StreamPage, StreamRefused
from raiden.http.door import HttpDoor
from raiden.model.encoding import Encoding
from raiden.model.message import Cursor
from raiden.model.page import Gap
from raiden.model.refusals import Refusal
from raiden.presence.watches import Notice
from raiden.protocols.http import Json
from raiden.router import Router
from raiden.sessions.over import EXPIRED, Over
from raiden.sessions.poll import SharedPoll, Waiter

# Seconds after which a client asks again whose time is up before the store has answered.
AGAIN = 1.0


@functools.cache
def encoding(is_json: bool) -> Encoding:
    """Messages as parts of a body; those of JSON with the comma before the next one. Messages without a place are none
    of the stream's."""
    end = b"," if is_json else b""
    return Encoding("poll", lambda message: b"" if message.cursor is None else message.payload + end)


class Key(NamedTuple):
    """All that the answer to a long-poll depends on: the place as it was given, the least cursor that clients are told,
    their If-None-Match, and the answer's Cache-Control."""

    name: str
    place: str
    floor: int
    match: str
    cache: str


class LongPoll(SharedPoll):
    """The session of requests that wait for what comes behind one place. It is answered with the page behind that
    place, or at the tail with the first turn that brings something. ``over`` is called when it has no clients any
    more."""

    __slots__ = (
        "_begun", "_door", "_lifetimes", "_over", "_place", "floor", "key", "look", "name", "stream",
    )  # fmt: skip

    def __init__(
        self, router: Router, door: HttpDoor, lifetimes: Lifetimes, key: Key, look: Look, wait: float,
        over: Callable[[LongPoll], None],
    ) -> None:  # fmt: skip
        super().__init__(router, door.wheel, (key.name,), wait, door.answer_polls)
        self.key = key
        self.name = key.name
        self.look = look
        self.floor = key.floor
        # The stream as it was when the poll began to wait at its tail; None: that is still to come.
        self.stream: Stream | None = None
        self._door = door
        self._lifetimes = lifetimes
        self._over = over
        # The place that the answer tells, which is the tail.
        self._place = Cursor("", 0)
        self._begun = time.monotonic()

    @property
    def waits(self) -> bool:
        """Whether it may have another client, for which the beginning of this one is a use of the stream, too: that
        starts the stream's ttl anew."""
        if not self.waiters:
            return False
        endless = self.stream is not None and self.stream.ttl < 0
        return endless or time.monotonic() < self._begun + LOOK

    def wait_at(self, stream: Stream) -> None:
        """Wait at the tail of this stream, where the subscription is attached now."""
        self.stream = stream
        self._place = stream.tail
        self._lifetimes.hold(self.name, stream, self)
        self.attach(self.name)
        if self._door.draining:
            self.fail()

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        """Nobody watches the members of a stream here."""

    def flush(self) -> None:
        found = b"".join(self.pending)
        self.pending.clear()
        position = self.router.position(self.name)
        if found and position is not None and self.subscriptions:
            self._place = position
            self._answer_with(found)

    def _answer_with(self, found: bytes) -> None:
        stream = self.stream
        assert stream is not None
        body = b"[%b]" % found[:-1] if stream.is_json else found
        fields = answers.at(stream, self._place, self.key.place, up_to_date=True)
        self.answer_all(answers.found(fields, body, self.key.cache, self.key.match, self.floor))

    def answer_with(self, stream: Stream, page: StreamPage) -> None:
        """Answer with a page of messages."""
        self.answer_all(answers.page(stream, page, self.key.place, self.key.cache, self.key.match, self.floor))

    def at_end(self, subscription: Subscription, end: End) -> None:
        assert self.stream is not None
        self.stream = self.stream._replace(closed=True)
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
            self.answer_all(self._nothing())

    def _nothing(self) -> Json:
        return answers.nothing(self._place, closed=self.stream is not None and self.stream.closed, floor=self.floor)

    def refuse_all(self, refusal: Refusal) -> None:
        """Answer all clients with the reason for which they get nothing."""
        waiters, self.waiters = self.waiters, {}
        self.close()
        self._refuse(list(waiters), refusal)

    def _refuse(self, waiters: Sequence[Waiter], refusal: Refusal) -> None:
        for waiter in waiters:
            self._door.answer(waiter.connection, waiter.request, answers.refused(refusal))

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """The clients come back, and are told that their place is none of the stream's."""
        self.answer_all(self._nothing())

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        self.gone()

    def gone(self) -> None:
        """There is no such stream any more."""
        self.refuse_all(StreamRefused(ABSENT, self.name, None))

    def give_up(self, waiter: Waiter) -> None:
        connection, permit = waiter.connection, waiter.connection.permit
        if permit is not None and permit.is_over:
            self.refuse(waiter, EXPIRED)
        elif self.stream is None:
            self.wheel.schedule(connection, AGAIN)  # the store answers or fails within its own time
        else:
            self.leave(waiter)
            self.answer((waiter,), self._nothing())

    def refuse(self, waiter: Waiter, reason: Over) -> None:
        self.leave(waiter)
        self._refuse((waiter,), reason.refusal)

    def close(self) -> None:
        super().close()
        self._lifetimes.release(self.name, self)
        self._over(self)
