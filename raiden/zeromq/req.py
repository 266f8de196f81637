"""Sessions of ZeroMQ REQ and DEALER clients: requests and their answers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gevent

from raiden.access.clients import Client
from raiden.connections.connection import Connection
from raiden.delivery import past
from raiden.model.encoding import dumps, gap
from raiden.model.message import Cursor, Message
from raiden.model.names import check_channel
from raiden.model.numbers import whole
from raiden.model.page import MAX_LAST, PAGE, PAGE_BYTES, Read
from raiden.model.payload import check_key
from raiden.model.refusals import Invalid, Refusal, attempt
from raiden.protocols import zmtp
from raiden.protocols.http import problem_json
from raiden.protocols.zmtp import Event, Frames
from raiden.zeromq.session import Common, ZmqSession, channel_of, kind_of

log = logging.getLogger(__name__)

# Requests of one connection that are under way.
MAX_REQUESTS = 256
# Seconds for which a client may read a page of history.
PATIENCE = 10.0

# The answer of a request; None: it comes later.
Answer: TypeAlias = "Sequence[bytes] | Refusal | None"
Task: TypeAlias = "Callable[[], Sequence[bytes] | None]"
Handler: TypeAlias = "Callable[[Requester, Frames, Frames], Sequence[bytes] | None]"


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

    def received(self, events: list[Event]) -> bool:
        self._requests += [frames for frames in events if isinstance(frames, list)]
        self._begin()
        return True

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
            handle = _COMMANDS.get(command[0]) if command else None
            if handle is None:
                raise Invalid(f"the first frame is one of {', '.join(name.decode() for name in _COMMANDS)}")
            return handle(self, envelope, command[1:])

        self._answer(envelope, self._attempt(perform))

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

    # Commands.

    def _publish(self, envelope: Frames, arguments: Frames) -> None:
        channel, payload, content_type, key = _arguments(arguments, 2, 4, "publish, channel, payload, type, key")
        name = channel_of(self.client, channel)
        message = Message(name, *kind_of(payload, content_type, self.common.limits.max_message))
        own_key = key.decode("utf-8", "surrogateescape") if key else None
        if own_key is not None:
            check_key(own_key, self.common.router.keeps(message.channel))

        def published(envelope: Frames, outcome: Cursor | Refusal | None) -> None:
            if isinstance(outcome, Cursor):
                self._finish(envelope, (b"200", outcome.bare.encode()))
            else:
                self._finish(envelope, outcome or (b"202", b""))

        self.common.router.publisher.publish_one(message, published, envelope, key=own_key)
        self.waiting += 1

    def _history(self, envelope: Frames, arguments: Frames) -> None:
        channel, since, limit = _arguments(arguments, 1, 3, "history, channel, cursor, limit")
        ask = _page(channel, since, limit)
        self.client.check("history", ask.channel)
        read = past.reader(self.common.router.history, ask, keeps=self.common.router.keeps(ask.channel))

        def work() -> Sequence[bytes]:
            page = read()
            summary: dict[str, Any] = {"cursor": page.position and page.position.bare, "more": page.more}
            if page.gap is not None:
                summary["gap"] = gap(None, page.gap)
            frames = [b"200", dumps(summary)]
            lives = page.lives
            for record in page.records:
                place = Cursor(lives.epoch_of(record.offset), record.offset)
                frames += place.bare.encode(), record.payload
            return frames

        self._later(envelope, work)

    def _channels(self, envelope: Frames, arguments: Frames) -> None:
        prefix, after = _arguments(arguments, 0, 2, "channels, prefix, after")
        try:
            begin, last = prefix.decode(), after.decode()
        except UnicodeDecodeError as error:
            raise Invalid(str(error)) from None
        allowed = self.client.subscribe

        def work() -> Sequence[bytes]:
            seen: dict[str, Any] = {}
            more: str | None = last
            while more is not None and not seen:
                page = self.common.census.page(begin, more)
                rows, more = page["channels"], page.get("next")
                seen = {name: row for name, row in rows.items() if allowed.allows(name.removesuffix("*"))}
            # The page's own ``next`` may be a name that the client may not know.
            return b"200", dumps({"channels": seen} if more is None else {"channels": seen, "next": list(seen)[-1]})

        self._later(envelope, work)

    def _ping(self, envelope: Frames, arguments: Frames) -> Sequence[bytes]:
        _arguments(arguments, 0, 0, "ping")
        return b"200", b""


_COMMANDS: dict[bytes, Handler] = {
    b"publish": Requester._publish, b"history": Requester._history, b"channels": Requester._channels,
    b"ping": Requester._ping,
}  # fmt: skip


def _arguments(given: Frames, least: int, most: int, form: str) -> Frames:
    """A command's arguments, with an empty one for each that may be left out."""
    if not least <= len(given) <= most:
        raise Invalid(f"the frames are [{form}], of which {most - least} may be left out")
    return given + [b""] * (most - len(given))


def _page(channel: bytes, since: bytes, limit: bytes) -> Read:
    """Read the arguments of ``history``; raises Invalid."""
    try:
        name = check_channel(channel.decode())
        cursor = Cursor.parse(since.decode()) if since else None
        most = whole("limit", limit.decode(), MAX_LAST) if limit else PAGE
    except UnicodeDecodeError as error:
        raise Invalid(str(error)) from None
    return Read(name, cursor, False, most)


def _refusal(refusal: Refusal) -> Sequence[bytes]:
    return b"%d" % refusal.status, problem_json(refusal)
