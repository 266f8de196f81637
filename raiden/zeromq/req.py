"""Sessions of ZeroMQ REQ and DEALER clients: requests and their answers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import gevent

from raiden.access.clients import Client
from raiden.connections import client as clients
from raiden.connections.connection import Connection
from raiden.delivery import past
from raiden.model import labels
from raiden.model.encoding import dumps, gap, shown_alone
from raiden.model.message import Cursor, Kind, Message
from raiden.model.numbers import whole
from raiden.model.page import MAX_LAST, PAGE, PAGE_BYTES, Read
from raiden.model.payload import check_terms, with_end
from raiden.model.refusals import Invalid, Refusal, attempt
from raiden.protocols import zmtp
from raiden.protocols.http import problem_json
from raiden.protocols.zmtp import Event, Frames
from raiden.requests.asked import Outcome
from raiden.sessions import asks, costs
from raiden.sessions.asks import Ping, PublishOne
from raiden.sessions.needs import needs
from raiden.zeromq import requests
from raiden.zeromq.requests import ZmqParty
from raiden.zeromq.session import Common, ZmqSession, channel_of, given, kind_of, text_of

log = logging.getLogger(__name__)

# Requests of one connection that are under way.
MAX_REQUESTS = 256
# Seconds for which a client may read a page of history.
PATIENCE = 10.0

# The answer of a request; None: it comes later.
Answer: TypeAlias = "Sequence[bytes] | Refusal | None"
Task: TypeAlias = "Callable[[], Sequence[bytes] | None]"


class List(NamedTuple):
    """List the channels that begin with ``prefix``, behind the channel ``after``."""

    prefix: str
    after: str


Ask: TypeAlias = PublishOne | Read | List | Ping | requests.Ask


class Requester(ZmqSession):
    """The session of a REQ or DEALER client. An answer has the frames that came before the request's empty one, as a
    REP gives them back (RFC 28 of ZeroMQ)."""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        super().__init__(common, connection, client, key)
        # A page of history waits for the client besides the short answers that the outbox is for.
        connection.max_outbox += PAGE_BYTES + common.limits.max_body + zmtp.HEADROOM
        # Requests that can't be begun yet, and tasks for a greenlet, one after the other.
        self._requests: deque[Frames] = deque()
        self._tasks: deque[tuple[Frames, Task]] = deque()
        self._party: ZmqParty | None = None

    def received(self, events: list[Event]) -> bool:
        self._requests += [frames for frames in events if isinstance(frames, list)]
        self._begin()
        return True

    def drain(self) -> None:
        party = self._party
        if party is None:
            super().drain()
            return
        # Answers of a server are still read.
        self.waiting += 1
        party.finish(self._finished)

    def _finished(self) -> None:
        self.waiting -= 1
        super().drain()

    def close(self) -> None:
        self._requests.clear()
        party, self._party = self._party, None
        if party is not None:
            party.close()

    def _begin(self) -> None:
        """Begin requests that have come, while fewer than `MAX_REQUESTS` are under way."""
        while self._requests and self.waiting < MAX_REQUESTS:
            self._request(self._requests.popleft())
        if self.waiting >= MAX_REQUESTS:
            self.connection.pause()
        else:
            self.resume()

    def _request(self, frames: Frames) -> None:
        if b"" not in frames:
            self._answer([], Invalid("begin a request with an empty frame, as REQ does by itself"))
            return
        body = frames.index(b"") + 1
        envelope, command = frames[:body], frames[body:]

        def perform() -> Sequence[bytes] | None:
            ask = _read(command, self.common.limits.max_message)
            self._check(ask)
            return _DO[type(ask)](self, envelope, ask)

        answer = self._attempt(perform)
        if isinstance(answer, Refusal):
            action, channel = [each.decode("utf-8", "replace") for each in (*command, b"", b"")[:2]]
            clients.refused(self.connection, answer, action, channel)
        self._answer(envelope, answer)

    def _check(self, ask: Ask) -> None:
        """Raise a refusal unless the client may do what it asks for, now. A list has only channels that it may
        know."""
        if isinstance(ask, List):
            return
        for need in needs(ask):
            self.permit.check(*need)
        if self.common.rates.on:
            costs.count(self.common.rates, clients.account(self.connection), ask)

    def _answer(self, envelope: Frames, answer: Answer) -> None:
        if isinstance(answer, Refusal):
            answer = _refusal(answer)
        if answer is not None:
            self.send(*envelope, *answer)

    def _attempt(self, task: Task) -> Answer:
        return attempt("a ZeroMQ request", task, client=self.client.name)

    def _later(self, envelope: Frames, task: Task) -> None:
        """Answer from a greenlet, for a task that waits."""
        self.waiting += 1
        self._tasks.append((envelope, task))
        if len(self._tasks) == 1:
            gevent.spawn(self.work, self._work)

    def _work(self) -> None:
        """Answer one request after the other, as fast as the client reads: pages of history are large. A client that
        does not read is a slow consumer."""
        while self._tasks and not self.connection.closed:
            envelope, task = self._tasks[0]
            self._finish(envelope, self._attempt(task))
            if not self.connection.wait_until_sent(PATIENCE):
                self.connection.overflow()
            self._tasks.popleft()

    def _finish(self, envelope: Frames, answer: Answer) -> None:
        self.waiting -= 1
        self._answer(envelope, answer)
        self._begin()

    # Doing what is asked for.

    def _publish(self, envelope: Frames, ask: PublishOne) -> None:
        message, key, at = ask
        check_terms(message, key, at, keeps=self.common.router.keeps(message.channel))

        def published(envelope: Frames, outcome: Cursor | Refusal | None) -> None:
            if isinstance(outcome, Cursor):
                self._finish(envelope, (b"200", outcome.bare.encode()))
            else:
                self._finish(envelope, outcome or (b"202", b""))

        self.common.router.publisher.publish_one(message, published, envelope, key, at)
        self.waiting += 1

    def _history(self, envelope: Frames, ask: Read) -> None:
        read = past.reader(self.common.router.history, ask, keeps=self.common.router.keeps(ask.channel))

        def work() -> Sequence[bytes]:
            page = read()
            summary: dict[str, Any] = {"cursor": page.position and page.position.bare, "more": page.more}
            if page.gap is not None:
                summary["gap"] = gap(None, page.gap)
            messages, frames = page.messages(ask.channel), list[bytes]()
            for message in messages:
                assert message.cursor is not None
                frames += message.cursor.bare.encode(), message.payload
            told = [shown_alone(message.attributes) or b"null" for message in messages]
            attributes = b',"attributes":[%b]}' % b",".join(told) if set(told) - {b"null"} else b"}"
            return b"200", dumps(summary)[:-1] + attributes, *frames

        self._later(envelope, work)

    def _list(self, envelope: Frames, ask: List) -> None:
        permit = self.permit

        def work() -> Sequence[bytes]:
            seen: dict[str, Any] = {}
            more: str | None = ask.after
            while more is not None and not seen:
                page = self.common.census.page(ask.prefix, more)
                rows, more = page["channels"], page.get("next")
                seen = {name: row for name, row in rows.items() if permit.allows("subscribe", name)}
            # The page's own ``next`` may be a name that the client may not know.
            return b"200", dumps({"channels": seen} if more is None else {"channels": seen, "next": list(seen)[-1]})

        self._later(envelope, work)

    # Requests that servers answer.

    @property
    def party(self) -> ZmqParty:
        """The connection's part in them."""
        if self._party is None:
            self._party = ZmqParty(self.common.exchange, self.connection, self.send)
        return self._party

    def _call(self, envelope: Frames, ask: asks.Call) -> None:
        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Message):
                self._finish(envelope, (b"200", outcome.payload, requests.type_of(outcome.kind)))
            else:
                self._finish(envelope, outcome)

        self.party.ask(ask, self.common.limits.max_message, done)
        self.waiting += 1

    def _serve(self, envelope: Frames, ask: asks.Serve) -> None:
        server = self.party.begin(envelope, ask, self.common.limits.zmq_max_topics)

        def work() -> Sequence[bytes]:
            self.party.announce(server)
            return b"200", b""

        self._later(envelope, work)

    def _unserve(self, envelope: Frames, ask: asks.Unserve) -> Sequence[bytes]:
        self.party.unserve(ask.channel)
        return b"200", b""

    def _settle(self, envelope: Frames, ask: asks.Respond) -> Sequence[bytes]:
        self.party.answer(ask, self.common.limits.max_message)
        return b"200", b""

    def _pong(self, envelope: Frames, ask: Ping) -> Sequence[bytes]:
        return b"200", b""


_DO: dict[type[Ask], Callable[[Requester, Frames, Any], Sequence[bytes] | None]] = {
    PublishOne: Requester._publish, Read: Requester._history, List: Requester._list, Ping: Requester._pong,
    asks.Call: Requester._call, asks.Serve: Requester._serve, asks.Unserve: Requester._unserve,
    asks.Respond: Requester._settle,
}  # fmt: skip


# Reading what is asked for.


def _read(command: Frames, max_message: int) -> Ask:
    """Read a request's frames; raises Invalid, and InvalidPayload."""
    read = _READERS.get(command[0]) if command else None
    if read is None:
        raise Invalid(f"the first frame is one of {', '.join(name.decode() for name in _READERS)}")
    return read(command[1:], max_message)


def _read_publish(arguments: Frames, max_message: int) -> PublishOne:
    form = "publish, channel, payload, type, key, attributes"
    channel, payload, content_type, key, attributes = given(arguments, 2, 5, form)
    members = labels.members(attributes)
    at, ends = members.pop("if", None), members.pop("end", False)
    if not isinstance(ends, bool) or not (at is None or isinstance(at, str)):
        raise Invalid('"end" is true or false, and "if" a cursor')
    label, name = labels.of_only(members), channel_of(channel)
    if ends and not payload:
        message = Message(name, Kind.JSON, b"")
    else:
        message = Message(name, *kind_of(payload, content_type, max_message - label.size))
    label.put_on(message)
    if ends:
        with_end(message)
    place = None if at is None else Cursor.parse(at)
    return PublishOne(message, key.decode("utf-8", "surrogateescape") if key else None, place)


def _read_history(arguments: Frames, max_message: int) -> Read:
    channel, since, limit = given(arguments, 1, 3, "history, channel, cursor, limit")
    cursor = Cursor.parse(text_of(since, "a cursor")) if since else None
    most = whole("limit", text_of(limit, "a limit"), MAX_LAST) if limit else PAGE
    return Read(channel_of(channel), cursor, False, most)


def _read_list(arguments: Frames, max_message: int) -> List:
    prefix, after = given(arguments, 0, 2, "channels, prefix, after")
    return List(text_of(prefix, "a prefix"), text_of(after, "a name"))


def _read_ping(arguments: Frames, max_message: int) -> Ping:
    given(arguments, 0, 0, "ping")
    return Ping()


_READERS: dict[bytes, Callable[[Frames, int], Ask]] = {
    b"publish": _read_publish, b"history": _read_history, b"channels": _read_list, b"ping": _read_ping,
    **requests.READERS,
}  # fmt: skip


def _refusal(refusal: Refusal) -> Sequence[bytes]:
    return b"%d" % refusal.status, problem_json(refusal)
