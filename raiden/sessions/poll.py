"""Long-polls: one answer for all that wait for the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from raiden.access.clients import Client
from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.delivery.table import End, Subscription
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.message import EARLIEST, Cursor
from raiden.model.page import Gap
from raiden.model.refusals import Unauthorized
from raiden.presence.watches import Notice
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Json, Request, problem_json
from raiden.protocols.parser import MAX_PIPELINED, RequestParser
from raiden.router import Router
from raiden.sessions.asks import Subscribe, is_merged
from raiden.sessions.in_band import Told, joined
from raiden.sessions.over import DISCONNECTED, EXPIRED, Over
from raiden.sessions.recovery import Recovery
from raiden.sessions.session import Session

# Bytes that a long-poll gathers before it can be answered, of missed messages and of new ones.
ANSWER_BYTES = 1 << 20


class SharedPoll(Session):
    """The base of sessions that long-polls share which ask for the same. A client waits for ``wait`` seconds.
    ``answer`` sends the same answer to some of the clients."""

    answers_once = True
    own_id = b""

    __slots__ = ("answer", "names", "pending", "wait", "waiters", "wheel")

    def __init__(
        self, router: Router, wheel: Wheel, names: Sequence[str], wait: float,
        answer: Callable[[Iterable[Waiter], Json], None],
    ) -> None:  # fmt: skip
        super().__init__(router)
        self.wheel = wheel
        self.names = names
        self.wait = wait
        self.waiters: dict[Waiter, None] = {}
        self.pending: list[bytes] = []
        self.answer = answer

    def join(self, connection: Connection, request: Request | Repeated) -> Waiter:
        waiter = Waiter(connection, request, self)
        self.waiters[waiter] = None
        return waiter

    def schedule(self, connection: Connection) -> None:
        """Let a client wait until its time is up, or its token ends."""
        permit = connection.permit
        self.wheel.schedule(connection, self.wait if permit is None else permit.left(self.wait))

    @property
    def clients(self) -> int:
        return len(self.waiters)

    def connections(self) -> list[Connection]:
        return [waiter.connection for waiter in self.waiters]

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self.router.unsubscribe(subscription, linger=True)

    def answer_all(self, answer: Json) -> None:
        """Give all clients this answer."""
        waiters, self.waiters = self.waiters, {}
        self.close()
        self.answer(waiters, answer)

    def give_up(self, waiter: Waiter) -> None:
        """Answer one client now, with nothing if nothing came."""
        raise NotImplementedError

    def refuse(self, waiter: Waiter, reason: Over) -> None:
        """Answer one client with the reason for which it gets nothing."""
        raise NotImplementedError

    def leave(self, waiter: Waiter) -> None:
        """Let a client leave that doesn't wait any more."""
        self.waiters.pop(waiter, None)
        if not self.waiters:
            self.close()

    def close(self) -> None:
        super().close()
        self.waiters.clear()

    def fail(self) -> None:
        for waiter in list(self.waiters):
            self.give_up(waiter)


class Poll(SharedPoll):
    """A long-poll of channels. It is answered with the messages that its clients missed, else by the first turn that
    brings something; always with the position from which the next poll goes on. At most ``max_bytes`` of missed
    messages are gathered."""

    __slots__ = ("digests", "early", "ends", "fields", "gaps", "max_bytes", "news", "places", "ready")

    def __init__(
        self, router: Router, wheel: Wheel, ask: Subscribe, answer: Callable[[Iterable[Waiter], Json], None],
        max_bytes: int,
    ) -> None:  # fmt: skip
        super().__init__(router, wheel, ask.names, ask.wait, answer)
        self.fields = dict(ask.head)
        self.max_bytes = max_bytes
        self.early: list[bytes] = []
        self.gaps: list[dict[str, Any]] = []
        self.places: dict[str, Cursor] = {}
        # The channels that have come to their end, and whether that is news: with one of them the poll is answered.
        self.ends: list[str] = []
        self.news = False
        self.ready = False
        # The digests of the members' lists that its clients know once they have its answer, where they watch these.
        self.digests: dict[str, str] | None = None

    def _polls(self) -> list[tuple[Connection, Client | None]]:
        """The connections of its clients, and whose polls they are."""
        return [(waiter.connection, _client(waiter.connection)) for waiter in self.waiters]

    @property
    def waits(self) -> bool:
        """Whether nothing has come for it yet, so that it may have another client."""
        return self.ready and len(self.subscriptions) == len(self.names)

    @property
    def told_by_head(self) -> bool:
        return True

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        self.fields.update(told.fields())

    def opened(self) -> None:
        if not self.waiters:
            return  # it was answered with missed messages, or its client has gone
        self.ready = True
        for waiter in self.waiters:
            self.schedule(waiter.connection)
        self.flush()
        if not self.wait or not self.subscriptions:
            self.fail()  # it does not wait, or all subscriptions ended meanwhile

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        """Take one page of missed messages; only where there is none, messages to come are waited for. Messages beyond
        the size of an answer are left to the next poll."""
        name, filters = subscription.name, subscription.filters
        if sum(map(len, self.early)) > self.max_bytes:
            return
        deletions = subscription.deletions
        for batch in recovery.batches():
            if self.was_deleted(subscription, deletions) or not self.has(subscription):
                return
            self.reached(name, batch.cursor)
            if batch.gap is not None:
                self.missed(subscription, name, batch.gap)
            self.early += [
                subscription.encoding(message) for message in batch.messages
                if not message.is_empty_end and (filters is None or filters.match(message))
            ]  # fmt: skip
            end = self.router.at_end(name)
            if end is not None and end.place == batch.cursor.place:
                self.news = True
                break
            if self.early or self.gaps:
                return
        if self.has(subscription):
            self.attach(name)
            if self.has(subscription):  # else the channel was at its end
                self.reached(name, None)

    def reached(self, name: str, place: Cursor | None) -> None:
        if place is not None:
            self.places[name] = place
        else:
            self.places.pop(name, None)

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        # The answer leaves with the messages after the gap, in `flush`: its position is behind these already.
        self.gaps.append(encoding.gap(channel if len(self.names) > 1 else None, gap))

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        if self.digests is None:
            self.digests = {}
        self.digests[notice.channel] = notice.digest
        if notice.events:
            self.pending.append(notice.encoded("poll", lambda name, what: encoding.dumps(what) + b","))
            self.flush()

    def flush(self) -> None:
        self.early += self.pending
        self.pending.clear()
        if not self.ready and sum(map(len, self.early)) <= self.max_bytes:
            return  # another channel is still being read, or the poll was answered
        if self.early or self.gaps or self.news or (self.ends and not self.subscriptions):
            cursor = self._position()
            body = b"" if cursor is None else b'"cursor":"%b",' % cursor.encode()
            if self.gaps and len(self.names) == 1:
                body += b'"gap":%b,' % encoding.dumps(self.gaps[-1])
            elif self.gaps:
                body += b'"gaps":%b,' % encoding.dumps(self.gaps)
            if self.ends and is_merged(self.names):
                body += b'"ends":%b,' % encoding.dumps(self.ends)
            if self.ends and not self.subscriptions and set(self.ends) == set(self.names):
                body += b'"end":true,'
            if self.digests is not None:
                body += b'"presence":"%b",' % self._presence().encode()
            answer = self._json(200, b'{%b"messages":[%b]}' % (body, b"".join(self.early)[:-1]), cursor)
            self.router.polled.note(self.names, self._polls())
            self.early.clear()
            self.ready = False
            self.answer_all(answer)

    def give_up(self, waiter: Waiter) -> None:
        self.ready = True
        self.flush()
        if waiter in self.waiters:
            answer = self._json(204, b"", self._position())
            self.router.polled.note(self.names, [(waiter.connection, _client(waiter.connection))])
            self.leave(waiter)
            permit = waiter.connection.permit
            if permit is not None and permit.is_over:
                answer = refused(EXPIRED)
            self.answer((waiter,), answer)

    def refuse(self, waiter: Waiter, reason: Over) -> None:
        self.leave(waiter)
        self.answer((waiter,), refused(reason))

    def at_end(self, subscription: Subscription, end: End) -> None:
        self.news = self.news or end.message is not None
        if subscription.name == end.channel:
            self.reached(subscription.name, end.cursor)
            self.unsubscribe(subscription.name)
        if end.channel not in self.ends:
            self.ends.append(end.channel)
        self.flush()

    def ended(self, subscription: Subscription) -> None:
        if self.router.keeps(subscription.name):
            self.reached(subscription.name, EARLIEST)  # the router's position moves on, and no message of that is sent
        super().ended(subscription)
        if not self.subscriptions and self.ready:
            self.fail()

    def _position(self) -> str | None:
        return joined([self.places.get(name) or self.router.position(name) for name in self.names])

    def _presence(self) -> str:
        """The digests of the members' lists, in the order of the channels."""
        digests = self.digests or {}
        return ",".join([digests.get(name, "0" * 16) for name in self.names])

    def _json(self, status: int, body: bytes, cursor: str | None) -> Json:
        fields = self.fields
        if cursor is not None:
            fields = {**fields, "Raiden-Cursor": cursor}
        if self.gaps:
            fields = {**fields, "Raiden-Recovered": "false"}
        if self.digests is not None:
            fields = {**fields, "Raiden-Presence": self._presence()}
        return Json(status, body, tuple(fields.items()))


class Waiter:
    """A client of a `SharedPoll`."""

    __slots__ = ("connection", "poll", "request")

    def __init__(self, connection: Connection, request: Request | Repeated, poll: SharedPoll) -> None:
        self.connection = connection
        self.request = request
        self.poll = poll

    def receive(self, data: bytes) -> None:
        keep_behind(self.connection, data)

    def tick(self) -> None:
        """Answer it, because its time is up."""
        self.poll.give_up(self)

    def drain(self) -> None:
        self.poll.give_up(self)

    def over(self, reason: Over) -> None:
        self.poll.refuse(self, reason)

    def remove(self, name: str) -> None:
        if name in self.poll.names:
            self.over(DISCONNECTED)

    def overflow(self) -> None:
        self.connection.finish()

    def close(self) -> None:
        self.poll.leave(self)


def _client(connection: Connection) -> Client | None:
    permit = connection.permit
    return None if permit is None else permit.client


def keep_behind(connection: Connection, data: bytes) -> None:
    """Take the bytes of another request, which has to wait until this one is answered."""
    parser = cast(RequestParser, connection.protocol)
    parser.feed(data)
    if parser.waiting >= MAX_PIPELINED:
        connection.pause()


def refused(reason: Over) -> Json:
    """The answer of a request that waits and gets nothing, for this reason."""
    fields: tuple[tuple[str, str], ...] = (("Content-Type", "application/problem+json"),)
    if isinstance(reason.refusal, Unauthorized):
        fields += (("WWW-Authenticate", 'Bearer error="invalid_token"'),)
    return Json(reason.refusal.status, problem_json(reason.refusal), fields)
