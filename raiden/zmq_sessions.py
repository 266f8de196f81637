"""What a ZeroMQ client's connection becomes once it has shaken hands: a subscriber, a pusher or a requester."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import gevent

from raiden import parameters, zmtp
from raiden.auth import Client, Forbidden
from raiden.backend import BackboneFull, NotInForce
from raiden.connection import Connection
from raiden.control import channels_everywhere
from raiden.encoding import Encoding, dumps, gap
from raiden.flow import Flow
from raiden.history import PAGE_BYTES, Gap, StoreFailed
from raiden.http import HttpError, problem_json
from raiden.message import (
    Cursor,
    InvalidChannel,
    InvalidPayload,
    Kind,
    Message,
    check_channel,
    check_subscription,
    json_payload,
)
from raiden.payload import check_key, of_type
from raiden.refusals import REFUSALS, status_of
from raiden.router import Router, Subscription, TooManyChannels
from raiden.stats import Stats
from raiden.topics import Change, Topics
from raiden.zmtp import Event, Frames, Subscribed

log = logging.getLogger(__name__)

BYTES = b"application/octet-stream"
# Topics of the door's own; no channel's name begins so.
OWN, IN_FORCE, HEARTBEAT = b"-/", b"-/in-force/", b"-/heartbeat"
MAX_TOPIC = 255
# Requests of one connection that are under way; messages of a page of history where no limit is asked for.
MAX_REQUESTS, PAGE = 256, 100
# A run of messages that are published as one ends with the one that goes over it: the backbone's queues are bounded in
# runs.
RUN_BYTES = 4096
# Channels whose names are remembered as they are sent.
REMEMBERED = 10_000
# Seconds until the backbone or the history is tried again, or whether a client's outbox has room; seconds for which a
# client may read a page of history.
RETRY, PATIENCE = 0.1, 10.0
# Rounds for which who asks waits while more topics come.
ROUNDS = 5
# What sealing adds to a short message, in bytes, and more.
SEALED = 256


def _delivery(message: Message) -> bytes:
    # On the hot path: the frame of the channel's name is made once.
    name = _names.get(message.channel)
    if name is None:
        if len(_names) >= REMEMBERED:
            _names.clear()
        name = _names[message.channel] = zmtp.frame(message.channel.encode(), zmtp.MORE)
    payload = message.payload
    cursor = b"\0\0" if message.cursor is None else zmtp.frame(str(message.cursor).encode())
    if len(payload) < 256:
        return b"%b\1%c%b%b" % (name, len(payload), payload, cursor)
    return b"%b%b%b" % (name, zmtp.frame(payload, zmtp.MORE), cursor)


_names: dict[str, bytes] = {}
DELIVERY = Encoding("zmq", _delivery)


@dataclass(slots=True)
class ZmqLimits:
    """All limits of the doors; one object that all connections share, so that a reload changes it in place."""

    max_connections: int = 15_000
    max_connections_per_address: int = 15_000
    max_outbox: int = 1 << 20
    max_body: int = 1 << 20
    zmq_max_topics: int = 1000


class Common:
    """What the sessions of all doors have in common."""

    def __init__(self, router: Router, stats: Stats, limits: ZmqLimits) -> None:
        self.router = router
        self.stats = stats
        self.limits = limits
        self.flow = Flow(router.backend)
        self._said: dict[str, float] = {}

    def say(self, what: str, **extra: str) -> None:
        """Log what clients do wrong, of each kind once a second: they may do it as often as they like."""
        now = time.monotonic()
        if now - self._said.get(what, 0.0) > 1.0:
            self._said[what] = now
            log.warning(what, extra=extra)


class Session:
    """One client's connection. ``waiting`` counts what is under way for it; `close` may come at any time."""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        self.common = common
        self.connection = connection
        self.client = client
        self.key = key
        self.waiting = 0
        self._draining = False

    def received(self, events: list[Event]) -> bool:
        """What has come in one go. False: the client must be cut off."""
        raise NotImplementedError

    def send(self, *frames: bytes) -> None:
        self.connection.send(self.connection.protocol.seal(zmtp.message(*frames)))  # type: ignore[attr-defined]

    def drain(self) -> None:
        """The node stops: take no more."""
        self._draining = True
        self.connection.pause()

    def resume(self) -> None:
        """Take more, unless the node stops."""
        if not self._draining:
            self.connection.resume()

    def close(self) -> None:
        """The connection has ended."""


class Subscriber(Session):
    """A SUB client. What is over its outbox's bound is dropped, and counted. Its connection is the router's sink, or
    where each client's traffic is sealed of its own, it is that itself."""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        super().__init__(common, connection, client, key)
        self.pending: list[bytes] = []
        self._sink = connection if connection.protocol.plain else self  # type: ignore[attr-defined]
        connection.drop = self._dropped
        self._topics = Topics(client.subscribe)
        self._own: set[bytes] = set()
        self._subscriptions: dict[str, Subscription] = {}
        # What a greenlet is to attach, once it is in force, and topics that ask when all is.
        self._opening: list[Subscription] = []
        self._asked: list[bytes] = []
        self._settling = False
        self._changes = 0

    @property
    def wants_heartbeats(self) -> bool:
        return any(HEARTBEAT.startswith(topic) for topic in self._own)

    def received(self, events: list[Event]) -> bool:
        for event in events:
            if not isinstance(event, Subscribed):
                self.common.stats.bad_messages += 1  # an XSUB may send whatever it likes upstream
            elif not self._subscribed(event.topic, event.on):
                return False
        if (self._opening or self._asked) and not self._settling:
            self._settling = True
            gevent.spawn(self._settle)
        return True

    def _subscribed(self, topic: bytes, on: bool) -> bool:
        self._changes += 1
        if topic.startswith(OWN) and len(topic) <= MAX_TOPIC:
            if not on:
                self._own.discard(topic)
            elif topic not in self._own:
                self._own.add(topic)
                self._asked += [topic] if topic.startswith(IN_FORCE) else []
            return self._count_topics()
        try:
            name = topic.decode()
            if name:
                check_subscription(name + "*" if len(topic) < MAX_TOPIC else name)
        except (UnicodeDecodeError, InvalidChannel):
            self.common.stats.refused_subscriptions += on
            return True
        try:
            self._apply(self._topics.add(name) if on else self._topics.remove(name))
            self.common.stats.refused_subscriptions += on and not self.client.subscribe.within(name)
        except TooManyChannels:
            self._apply(self._topics.remove(name))
            self.common.stats.refused_subscriptions += 1
        return self._count_topics()

    def _count_topics(self) -> bool:
        return len(self._topics) + len(self._own) <= self.common.limits.zmq_max_topics

    def _apply(self, change: Change) -> None:
        """Subscribe first, then give up: what both stand for is not interrupted."""
        for name in change.added:
            self._subscribe(name)
        for name in change.dropped:
            subscription = self._subscriptions.pop(name, None)
            if subscription is not None:
                self.common.router.unsubscribe(subscription)

    def _subscribe(self, name: str) -> None:
        if name in self._subscriptions:
            return  # it was not given up, because what should have replaced it was refused
        router = self.common.router
        subscription = self._subscriptions[name] = router.subscribe(name, self._sink, self, DELIVERY)
        if name.endswith("*"):
            router.attach(subscription)
        else:  # its order has to be opened first
            self._opening.append(subscription)

    def _settle(self) -> None:
        """Attach what is opening, and tell who asked when all is in force."""
        router, rounds = self.common.router, 0
        while (self._opening or self._asked) and not self.connection.closed:
            # What comes from now on is for the next round, also who asks.
            opening, self._opening = self._opening, []
            asked, self._asked = self._asked, []
            before, rounds = self._changes, rounds + 1
            try:
                unconfirmed = router.in_force([subscription.name for subscription in opening])
            except (NotInForce, StoreFailed):
                self._opening = opening + self._opening
                self._asked = asked + self._asked
                gevent.sleep(RETRY)
                continue
            for subscription in opening:
                router.attach(subscription)
            if self._changes != before and rounds < ROUNDS:
                # A socket that connects again sends its topics in their order, and the question among the first.
                self._asked = asked + self._asked
                continue
            rounds = 0
            for topic in asked:
                self._tell(topic, ", ".join(unconfirmed).encode(), b"")
        self._settling = False

    def _tell(self, *frames: bytes) -> None:
        """Send what may not be dropped: wait until the outbox has room for it, also when it is sealed."""
        connection, size = self.connection, 2 * sum(map(len, frames)) + SEALED
        while connection.outbox_size and connection.outbox_size + size > connection.max_outbox:
            connection.wait_until_sent(RETRY)
        self.send(*frames)

    def flush(self) -> None:
        traffic = b"".join(self.pending)
        self.pending.clear()
        connection = self.connection
        if connection.outbox_size and connection.outbox_size + len(traffic) > connection.max_outbox:
            self._dropped(traffic)  # before it is sealed: what is sealed must be sent
        elif traffic:
            connection.send(connection.protocol.seal(traffic))  # type: ignore[attr-defined]

    def _dropped(self, traffic: bytes) -> None:
        self.common.stats.dropped += zmtp.count(traffic)
        self.common.say("a slow ZeroMQ client misses messages", client=self.connection.describe())

    def ended(self, subscription: Subscription) -> None:
        """The channel was deleted; there may be another one of that name."""
        if self._subscriptions.get(subscription.name) is subscription:
            del self._subscriptions[subscription.name]
            self._subscribe(subscription.name)
            self.received([])

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """The cursors show it."""

    def close(self) -> None:
        for subscription in self._subscriptions.values():
            self.common.router.unsubscribe(subscription)
        self._subscriptions.clear()


def _message(client: Client, channel: bytes, payload: bytes, content_type: bytes = b"") -> Message:
    """The message that a client publishes; raises InvalidChannel, InvalidPayload or Forbidden."""
    try:
        name = check_channel(channel.decode())
    except UnicodeDecodeError:
        raise InvalidChannel("a channel's name is UTF-8") from None
    client.check("publish", name)
    if content_type == BYTES:
        return Message(name, Kind.BYTES, payload)
    kind, payload = of_type(content_type.decode("latin-1") or "application/json", payload)
    return Message(name, kind, payload)


# As plain numbers: looking one up in an enumeration takes half as long as to make a message.
_JSON, _RAW = int(Kind.JSON), int(Kind.BYTES)


class Pusher(Session):
    """A PUSH client. It can't be told anything; so it is not read from while the node can't take more."""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        super().__init__(common, connection, client, key)
        # Messages of one channel and type that came one after the other are published as one.
        self._runs: list[list[Message]] = []

    def received(self, events: list[Event]) -> bool:
        # The hot path of publishing: what is like the message before, but for its payload, is judged by that alone.
        run: list[Message] = []
        like: Frames = []
        name, now, size, raw = "", 0, 0, False
        for frames in cast("list[Frames]", events):
            try:
                if not 2 <= len(frames) <= 3:
                    raise InvalidPayload("push [channel, payload] or [channel, payload, type]")
                payload = frames.pop(1)
                same = frames == like
                if same and raw:
                    message = Message(name, _RAW, payload, None, now)
                elif same and len(frames) == 1:
                    message = Message(name, _JSON, json_payload(payload), None, now)
                else:
                    message = _message(self.client, frames[0], payload, *frames[1:])
            except (InvalidChannel, InvalidPayload, Forbidden) as error:
                self.common.stats.bad_messages += 1
                self.common.say("dropped what a ZeroMQ client pushed", client=self.client.name, reason=str(error))
                continue
            if not same or size > RUN_BYTES:
                run, size = [], 0
                self._runs.append(run)
                like, name, now, raw = frames, message.channel, message.published, frames[1:] == [BYTES]
            run.append(message)
            size += len(payload)
        if not self.waiting:
            self._publish()
        return True

    def _publish(self) -> None:
        """Publish what there is. Where the node can't take it, try again later, and read nothing meanwhile."""
        self.waiting = 0
        if self._runs and self.common.flow.full:
            self._wait(self.common.flow.wait)
            return
        router = self.common.router
        kept = []
        runs, self._runs = self._runs, []
        for number, run in enumerate(runs):
            if router.keeps(run[0].channel):
                kept.append(run)
                continue
            try:
                router.publish(run)
            except BackboneFull:
                self._runs = kept + runs[number:]
                self._wait(_soon)
                return
            self.common.flow.add(run)
        if kept:
            self._store(kept)
        else:
            self.resume()

    def _store(self, runs: list[list[Message]]) -> None:
        def stored(outcome: list[list[Cursor]] | Exception) -> None:
            if isinstance(outcome, Exception):
                self._runs = runs + self._runs
                self._wait(_soon)
            else:
                for run in runs:
                    self.common.flow.add(run)
                self._publish()

        self.waiting = 1
        self.connection.pause()
        try:
            self.common.router.publish(*runs, done=stored)
        except StoreFailed as error:
            stored(error)

    def _wait(self, until: Callable[[Callable[[], None]], object]) -> None:
        self.waiting = 1
        self.connection.pause()
        until(self._publish)


def _soon(call: Callable[[], None]) -> None:
    gevent.spawn_later(RETRY, call)


# What answers a request; None: something else will.
Task: TypeAlias = "Callable[[], Sequence[bytes] | None]"
Handler: TypeAlias = "Callable[[Requester, Frames, Frames], Sequence[bytes] | None]"


class Requester(Session):
    """A REQ or DEALER client. An answer has the frames that came before the request's empty one, as a REP gives them
    back (RFC 28 of ZeroMQ)."""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        super().__init__(common, connection, client, key)
        # A page of history waits for the client besides the short answers that the outbox is for.
        connection.max_outbox += PAGE_BYTES + common.limits.max_body + zmtp.HEADROOM
        # What came and can't be begun yet, and what a greenlet is to do, one after the other.
        self._requests: deque[Frames] = deque()
        self._tasks: deque[tuple[Frames, Task]] = deque()

    def received(self, events: list[Event]) -> bool:
        self._requests += [frames for frames in events if isinstance(frames, list)]
        self._begin()
        return True

    def _begin(self) -> None:
        """Begin what has come, as far as no more than `MAX_REQUESTS` are under way."""
        while self._requests and self.waiting < MAX_REQUESTS:
            self._request(self._requests.popleft())
        if self.waiting >= MAX_REQUESTS:
            self.connection.pause()
        else:
            self.resume()

    def _request(self, frames: Frames) -> None:
        if b"" not in frames:
            self.send(*_refusal(HttpError(400, "begin a request with an empty frame, as REQ does by itself")))
            return
        body = frames.index(b"") + 1
        envelope, command = frames[:body], frames[body:]

        def perform() -> Sequence[bytes] | None:
            handle = _COMMANDS.get(command[0]) if command else None
            if handle is None:
                raise HttpError(400, f"the first frame is one of {', '.join(name.decode() for name in _COMMANDS)}")
            return handle(self, envelope, command[1:])

        self._answer(envelope, self._guarded(perform))

    def _answer(self, envelope: Frames, answer: Sequence[bytes] | None) -> None:
        if answer is not None:
            self.send(*envelope, *answer)

    def _guarded(self, task: Task) -> Sequence[bytes] | None:
        """What the task answers, or why it was not done."""
        try:
            return task()
        except HttpError as error:
            return _refusal(error)
        except REFUSALS as error:
            return _refusal(HttpError(status_of(error), str(error)))
        except Exception:  # a fault of ours ends no more than its request
            log.exception("a ZeroMQ request failed", extra={"client": self.client.name})
            return _refusal(HttpError(500, "the server failed; its log says why"))

    def _later(self, envelope: Frames, task: Task) -> None:
        """Answer from a greenlet, for what waits."""
        self.waiting += 1
        self._tasks.append((envelope, task))
        if len(self._tasks) == 1:
            gevent.spawn(self._work)

    def _work(self) -> None:
        """Answer one request after the other, as fast as the client reads: pages of history are large. One that does
        not read is a slow consumer."""
        while self._tasks and not self.connection.closed:
            envelope, task = self._tasks[0]
            self._finish(envelope, self._guarded(task))
            if not self.connection.wait_until_sent(PATIENCE):
                self.connection.overflow()
            self._tasks.popleft()

    def _finish(self, envelope: Frames, answer: Sequence[bytes] | None) -> None:
        self.waiting -= 1
        self._answer(envelope, answer)
        self._begin()

    # Commands.

    def _publish(self, envelope: Frames, arguments: Frames) -> Sequence[bytes] | None:
        channel, payload, content_type, key = _arguments(arguments, 2, 4, "publish, channel, payload, type, key")
        message = _message(self.client, channel, payload, content_type)
        name = key.decode("utf-8", "surrogateescape") if key else None
        if name is not None:
            check_key(name, self.common.router.keeps(message.channel))

        def published(outcome: list[list[Cursor]] | Exception) -> None:
            def answer() -> Sequence[bytes]:
                if isinstance(outcome, Exception):
                    raise outcome
                return b"200", str(outcome[0][0]).encode()

            self._finish(envelope, self._guarded(answer))

        if self.common.router.publish([message], key=name, done=published):
            return b"202", b""
        self.waiting += 1
        return None

    def _history(self, envelope: Frames, arguments: Frames) -> None:
        channel, since, limit = _arguments(arguments, 1, 3, "history, channel, cursor, limit")
        try:
            name = check_channel(channel.decode())
            cursor = Cursor.parse(since.decode()) if since else None
            most = parameters.number({"limit": limit.decode()}, "limit", parameters.MAX_LAST) if limit else PAGE
        except ValueError as error:  # that no text is UTF-8 is one, too
            raise HttpError(400, str(error)) from None
        self.client.check("history", name)
        history = self.common.router.backend.history
        if history is None or not self.common.router.keeps(name):
            raise HttpError(404, "the channel keeps no history: set its history_size")

        def work() -> Sequence[bytes]:
            page = history.after(name, cursor, most)
            summary: dict[str, Any] = {"cursor": page.position and str(page.position), "more": page.more}
            if page.gap is not None:
                summary["gap"] = gap(None, page.gap)
            frames = [b"200", dumps(summary)]
            for record in page.records:
                frames += str(Cursor(page.epoch, record.offset)).encode(), record.payload
            return frames

        self._later(envelope, work)

    def _channels(self, envelope: Frames, arguments: Frames) -> None:
        _arguments(arguments, 0, 0, "channels")
        allowed = self.client.subscribe

        def work() -> Sequence[bytes]:
            rows = channels_everywhere(self.common.router.backend)
            seen = {name: row for name, row in rows.items() if allowed.allows(name.removesuffix("*"))}
            return b"200", dumps({"channels": seen})

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
        raise HttpError(400, f"the frames are [{form}], of which {most - least} may be left out")
    return given + [b""] * (most - len(given))


def _refusal(error: HttpError) -> Sequence[bytes]:
    return b"%d" % error.status, problem_json(error)
