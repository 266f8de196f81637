"""What a connection becomes once it has subscribed: a stream, a long-poll, or a WebSocket.

The gateway makes a session, and from then on hands it what happens to its connection: `received` for an event of the
protocol, `tick` when the connection is due, `drain` when the node stops, `overflow` when it was too slow, and `close`
when it is gone. A session holds the connection's subscriptions and gives them back in `close`. What was missed before
the live messages is sent by `replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from raiden import tcp, websocket
from raiden.asks import Subscribe
from raiden.connection import Connection, Wheel
from raiden.heads import Repeated
from raiden.history.store import StoreFailed
from raiden.http import Json, Request, add_fields, stream_bytes
from raiden.in_band import InBand, Told, joined
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.page import Gap
from raiden.model.payload import check_size
from raiden.model.refusals import Refusal, TooLarge
from raiden.model.strict_json import InvalidPayload, json_payload
from raiden.parser import MAX_PIPELINED, RequestParser
from raiden.recovery import Batch, Beginning, Recovery
from raiden.router import Router
from raiden.table import Subscription
from raiden.unfinished import SLOW
from raiden.websocket import Closed, WebSocket

# For so many seconds the peer may take nothing of what is said to it at the end.
LINGER = 2.0
# A replay sends so many bytes at once, and ends when the peer has taken none of them for so many seconds.
REPLAY_BYTES, REPLAY_PATIENCE = 65536, 30.0
# What a long-poll gathers before it can be answered, of what was missed and of what comes.
ANSWER_BYTES = 1 << 20

# What who asks for the past of a channel without one misses.
NO_HISTORY = Gap("", 0, 0)


class Session:
    """What all sessions share: subscriptions by name. ``told_by_head``: what is missing before the first message was
    told by the answer's head, and need not be told in band."""

    __slots__ = ("router", "subscriptions")

    lasts = False
    answers_once = False
    """Its answer tells of its position when it leaves, not when it begins."""
    status = 200
    """Of its answer."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.subscriptions: dict[str, Subscription] = {}

    @property
    def told_by_head(self) -> bool:
        return False

    def join(self, connection: Connection, request: Request | Repeated) -> Client:
        """What the connection is from now on, by this request."""
        raise NotImplementedError

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        """The subscriptions are in force: tell the client so, and where they begin."""
        raise NotImplementedError

    def opened(self) -> None:
        """What was missed is sent, or being sent: from now on the session gets what comes."""

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        self.subscriptions[name] = self.router.subscribe(name, sink, self, encode, filters or None)

    def attach(self, name: str) -> None:
        """Get what comes next on a channel or pattern."""
        if name in self.subscriptions:
            self.router.attach(self.subscriptions[name])

    def begin(self, beginning: Beginning, mine: Mapping[str, Subscription] | None = None) -> None:
        """Let subscriptions go on from where they begin; in a greenlet, if some miss something. ``mine`` are those that
        the beginning is of, by name; None: all that there are. Those that ended meanwhile are left out."""
        mine = dict(self.subscriptions) if mine is None else mine
        here = [mine[name] for name in beginning.names if name in mine and self.has(mine[name])]
        behind = [subscription for subscription in here if subscription.name in beginning.recoveries]
        for subscription in behind:
            self.reached(subscription.name, beginning.recoveries[subscription.name].known)
        # First those that miss nothing, or have no history: nothing has yielded since their places were told.
        for subscription in here:
            name = subscription.name
            if name not in beginning.recoveries:
                self.attach(name)
                if beginning.recovered(name) is False and not self.told_by_head and self.has(subscription):
                    self.missed(subscription, name, NO_HISTORY)
        try:
            for subscription in behind:
                self.replay(subscription, beginning.recoveries[subscription.name])
        except StoreFailed:
            self.fail()

    def has(self, subscription: Subscription) -> bool:
        """It has not ended, nor another one of the same name taken its place."""
        return self.subscriptions.get(subscription.name) is subscription

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        """Send what was missed on a channel, then attach, unless the subscription ends meanwhile; raises
        StoreFailed."""
        raise NotImplementedError

    def reached(self, name: str, place: Cursor | None) -> None:
        """What was missed on a channel was sent up to here; None: it is attached."""

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self.router.unsubscribe(subscription)

    def close(self) -> None:
        for name in list(self.subscriptions):
            self.unsubscribe(name)

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """Tell the client that messages were lost: those that come next follow the gap."""
        raise NotImplementedError

    def fail(self) -> None:
        """What was promised can't be had: end the connection so that the client comes back."""
        raise NotImplementedError

    def ended(self, subscription: Subscription) -> None:
        """The channel was deleted."""
        self.subscriptions.pop(subscription.name, None)


class Lasting(Session):
    """What a connection is until one of both ends it. ``keepalive`` in seconds. ``names`` are those that a position is
    of, in their order, and ``in_band`` says how it is told."""

    __slots__ = ("connection", "in_band", "keepalive", "names", "replayed", "told", "wheel")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, in_band: InBand,
        names: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(router)
        self.connection = connection
        self.wheel = wheel
        self.keepalive = keepalive
        self.in_band = in_band
        self.names = names
        # Up to where what was missed has been sent, of channels that are not attached yet; seldom any.
        self.replayed: dict[str, Cursor] | None = None
        # The position that was told last.
        self.told: str | None = None

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, sink or self.connection)

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        """Send what was missed on a channel, as fast as the peer reads it, then attach, unless the subscription ends
        meanwhile; raises StoreFailed."""
        name = subscription.name
        for batch in recovery.batches():
            if not self.has(subscription):
                return
            if batch.gap is not None and (batch.gap is not recovery.gap or not self.told_by_head):
                self.missed(subscription, name, batch.gap)
            if not self._send_past(subscription, recovery, batch):
                return
        if self.has(subscription):
            self.attach(name)
            self.reached(name, None)

    def join(self, connection: Connection, request: Request | Repeated) -> Client:
        return self

    def _begin(self, head: bytes, told: Told) -> None:
        """Send the head of the answer, and what comes behind it at once."""
        self.connection.send(head + self.in_band.begin(told))
        # A gap is still to be told, and what lies behind it after that.
        self.told = None if told.recovered is False else told.position
        self.wheel.schedule(self.connection, self.keepalive)

    def reached(self, name: str, place: Cursor | None) -> None:
        if place is not None:
            if self.replayed is None:
                self.replayed = {}
            self.replayed[name] = place
        elif self.replayed is not None:
            self.replayed.pop(name, None)

    def ended(self, subscription: Subscription) -> None:
        """The channel was deleted: who comes back goes on with the first message of its next life."""
        if self.router.keeps(subscription.name):
            self.reached(subscription.name, EARLIEST)  # the router's position moves on, and nothing is sent of that
        super().ended(subscription)

    def position(self) -> str | None:
        """Up to where everything has been sent."""
        replayed = self.replayed
        if not replayed:
            return joined([self.router.position(name) for name in self.names])
        return joined([replayed.get(name) or self.router.position(name) for name in self.names])

    def moved(self) -> str | None:
        """The position, unless it was told so already, or can't be."""
        position = self.position() if self.in_band.tells else None
        if position == self.told:
            return None
        self.told = position
        return position

    def _send_past(self, subscription: Subscription, recovery: Recovery, batch: Batch) -> bool:
        """Send a batch up to where the client does not take it at once: the rest is not kept for it, but read again
        when it has taken that. False where the session has ended."""
        sink, size, begun = subscription.sink, 0, 0
        for number, message in enumerate(batch.messages, 1):
            if subscription.filters is None or subscription.filters.match(message):
                data = subscription.encoding(message)
                sink.pending.append(data)
                size += len(data)
            last = number == len(batch.messages)
            if size > REPLAY_BYTES or last:
                place = batch.cursor if last else message.cursor
                assert place is not None
                self.reached(subscription.name, place)
                sink.flush()
                if self.connection.outbox_size:
                    recovery.read_again(place, number - begun)
                    batch.messages.clear()
                    return self._wait_until_sent()
                size, begun = 0, number
        if not batch.messages:
            self.reached(subscription.name, batch.cursor)
        return self._wait_until_sent()

    def _wait_until_sent(self) -> bool:
        """Wait until the client has taken all; one that does not is a slow consumer. False where the session has
        ended."""
        if self.connection.wait_until_sent(REPLAY_PATIENCE):
            return True
        if not self.connection.closing:
            self.connection.overflow()
        return False

    def receive(self, data: bytes) -> None:
        """The peer has sent these bytes."""
        raise NotImplementedError

    def tick(self) -> None:
        """The connection is due: a keep-alive."""
        raise NotImplementedError

    def drain(self) -> None:
        """The node stops: tell the client to come back."""
        raise NotImplementedError

    def overflow(self) -> None:
        """The client reads too slowly: end the connection."""
        raise NotImplementedError

    def finish(self, goodbye: bytes) -> None:
        """Give back the subscriptions, say goodbye, and close."""
        self.close()
        self.connection.finish(goodbye)
        self.wheel.schedule(self.connection, LINGER)


class Stream(Lasting):
    """An HTTP stream or server-sent events. Where a gap can't be told in band, the stream breaks off."""

    __slots__ = ()

    @property
    def told_by_head(self) -> bool:
        return not self.in_band.tells

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        _take_rest(self.connection)
        self._begin(add_fields(stream_bytes(ask.head, http10=ask.http10), told.fields()), told)

    def receive(self, data: bytes) -> None:
        """What follows the request of a stream without end could never be answered."""

    def tick(self) -> None:
        self.connection.send(self.in_band.alive(self.moved()))
        self.wheel.schedule(self.connection, self.keepalive)

    def drain(self) -> None:
        self.finish(self.in_band.end)

    def overflow(self) -> None:
        self.drain()

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        if self.in_band.tells:
            self.connection.send(self.in_band.gap(channel, gap))
        else:
            self.fail()

    def fail(self) -> None:
        self.finish(b"")  # without its end: the client sees that it broke off

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.connection.session is self:
            self.finish(self.in_band.end)


class MergedEvents(Stream):
    """Server-sent events of several channels. What a turn brings is followed by the position in all of them, as the id
    with which the browser comes back; an event without data only sets that (the HTML standard, section 9.2.6)."""

    __slots__ = ("pending",)

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, in_band: InBand,
        names: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive, in_band, names)
        self.pending = self.connection.pending

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    def flush(self) -> None:
        position = self.moved() if self.pending else None
        if position is not None:
            self.pending.append(self.in_band.alive(position))
        self.connection.flush()


class Poll(Session):
    """What long-polls wait for that ask for the same: answered with what they missed, else by the first turn that
    brings something; always with the position from which the next one goes on. More than ``max_bytes`` of what was
    missed are not gathered."""

    answers_once = True

    __slots__ = (
        "answer", "early", "fields", "gaps", "max_bytes", "names", "pending", "places", "ready", "wait", "waiters",
        "wheel",
    )  # fmt: skip

    def __init__(
        self, router: Router, wheel: Wheel, ask: Subscribe, answer: Callable[[Iterable[Waiter], Json], None],
        max_bytes: int,
    ) -> None:  # fmt: skip
        super().__init__(router)
        self.wheel = wheel
        self.wait = ask.wait
        self.fields = dict(ask.head)
        self.names = ask.names
        self.max_bytes = max_bytes
        self.waiters: dict[Waiter, None] = {}
        self.pending: list[bytes] = []
        self.early: list[bytes] = []
        self.gaps: list[dict[str, Any]] = []
        self.places: dict[str, Cursor] = {}
        self.ready = False
        self.answer = answer

    def join(self, connection: Connection, request: Request | Repeated) -> Waiter:
        waiter = Waiter(connection, request, self)
        self.waiters[waiter] = None
        return waiter

    @property
    def clients(self) -> int:
        return len(self.waiters)

    @property
    def waits(self) -> bool:
        """Nothing has come for it yet, so that it may have another client."""
        return self.ready and len(self.subscriptions) == len(self.names)

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    @property
    def told_by_head(self) -> bool:
        return True

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self.router.unsubscribe(subscription, linger=True)

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        self.fields.update(told.fields())

    def opened(self) -> None:
        if not self.waiters:
            return  # it was answered by what it had missed, or its client has gone
        self.ready = True
        for waiter in self.waiters:
            self.wheel.schedule(waiter.connection, self.wait)
        self.flush()
        if not self.wait or not self.subscriptions:
            self.fail()  # it does not wait, or all ended meanwhile

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        """Take one page of what was missed; only where there is none, messages to come are waited for. What is more
        than an answer should have is left to the next poll."""
        name, filters = subscription.name, subscription.filters
        if sum(map(len, self.early)) > self.max_bytes:
            return
        for batch in recovery.batches():
            if not self.has(subscription):
                return
            self.reached(name, batch.cursor)
            if batch.gap is not None:
                self.missed(subscription, name, batch.gap)
            self.early += [subscription.encoding(m) for m in batch.messages if filters is None or filters.match(m)]
            if self.early or self.gaps:
                return
        if self.has(subscription):
            self.attach(name)
            self.reached(name, None)

    def reached(self, name: str, place: Cursor | None) -> None:
        if place is not None:
            self.places[name] = place
        else:
            self.places.pop(name, None)

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        # The answer leaves with what follows the gap, in `flush`: its position is behind that already.
        self.gaps.append(encoding.gap(channel if len(self.names) > 1 else None, gap))

    def flush(self) -> None:
        self.early += self.pending
        self.pending.clear()
        if not self.ready and sum(map(len, self.early)) <= self.max_bytes:
            return  # another channel is still read, or it was answered
        if self.early or self.gaps:
            cursor = self._position()
            body = b"" if cursor is None else b'"cursor":"%b",' % cursor.encode()
            if self.gaps and len(self.names) == 1:
                body += b'"gap":%b,' % encoding.dumps(self.gaps[-1])
            elif self.gaps:
                body += b'"gaps":%b,' % encoding.dumps(self.gaps)
            answer = self._json(200, b'{%b"messages":[%b]}' % (body, b"".join(self.early)[:-1]), cursor)
            waiters, self.waiters = self.waiters, {}
            self.close()
            self.early.clear()
            self.ready = False
            self.answer(waiters, answer)

    def give_up(self, waiter: Waiter) -> None:
        """Answer one now, with nothing if nothing came."""
        self.ready = True
        self.flush()
        if waiter in self.waiters:
            answer = self._json(204, b"", self._position())
            self.leave(waiter)
            self.answer((waiter,), answer)

    def leave(self, waiter: Waiter) -> None:
        """It doesn't wait any more."""
        self.waiters.pop(waiter, None)
        if not self.waiters:
            self.close()

    def close(self) -> None:
        super().close()
        self.waiters.clear()

    def fail(self) -> None:
        for waiter in list(self.waiters):
            self.give_up(waiter)

    def ended(self, subscription: Subscription) -> None:
        if self.router.keeps(subscription.name):
            self.reached(subscription.name, EARLIEST)  # the router's position moves on, and nothing is sent of that
        super().ended(subscription)
        if not self.subscriptions and self.ready:
            self.fail()

    def _position(self) -> str | None:
        return joined([self.places.get(name) or self.router.position(name) for name in self.names])

    def _json(self, status: int, body: bytes, cursor: str | None) -> Json:
        fields = self.fields
        if cursor is not None:
            fields = {**fields, "Raiden-Cursor": cursor}
        if self.gaps:
            fields = {**fields, "Raiden-Recovered": "false"}
        return Json(status, body, tuple(fields.items()))


class Waiter:
    """A client of a `Poll`."""

    __slots__ = ("connection", "poll", "request")

    def __init__(self, connection: Connection, request: Request | Repeated, poll: Poll) -> None:
        self.connection = connection
        self.request = request
        self.poll = poll

    def receive(self, data: bytes) -> None:
        """Another request, which has to wait."""
        parser = cast(RequestParser, self.connection.protocol)
        parser.feed(data)
        if parser.waiting >= MAX_PIPELINED:
            self.connection.pause()

    def tick(self) -> None:
        """Its time is up."""
        self.poll.give_up(self)

    def drain(self) -> None:
        self.poll.give_up(self)

    def overflow(self) -> None:
        self.connection.finish()

    def close(self) -> None:
        self.poll.leave(self)


Client: TypeAlias = "Lasting | Waiter"
"""What a door hands what happens to a connection."""


class Socket(Lasting):
    """A WebSocket: a message per frame; a frame sent by the client is published, where it has one channel. Where a gap
    can't be told in band, it closes the socket."""

    __slots__ = ("acknowledged", "max_message", "ping_end", "verbatim", "websocket")

    status = 101

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, in_band: InBand,
        names: Sequence[str], socket: WebSocket, *, max_message: int, verbatim: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive, in_band, names)
        self.websocket = socket
        self.max_message = max_message
        self.verbatim = verbatim
        # Of the last ping, where it had to wait behind something that was being sent: how many bytes the peer will have
        # acknowledged when it has got that, and how many it had when that was looked at last.
        self.ping_end = self.acknowledged = 0

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        assert ask.agreement is not None
        rest = _take_rest(self.connection)
        self.connection.protocol = self.websocket
        self._begin(add_fields(ask.agreement.answer(request.websocket_key), told.fields()), told)
        if rest:
            self.receive(rest)

    def receive(self, data: bytes) -> None:
        for event in self.websocket.feed(data):
            self.received(event)
        self.settle()

    def received(self, event: object) -> None:
        """A message or `Closed`, from `WebSocket.feed`."""
        if isinstance(event, Closed):
            self.finish(self.websocket.data_to_send())
        else:
            try:
                self.message(event)  # type: ignore[arg-type]
            except Refusal as refusal:
                code = websocket.TOO_LARGE if isinstance(refusal, TooLarge) else websocket.TRY_LATER
                self.goodbye(code, refusal.detail)

    def settle(self) -> None:
        """Send what the protocol has to say by itself."""
        data = self.websocket.data_to_send()
        if data:
            self.connection.send(data)

    def message(self, data: str | bytes) -> None:
        if len(self.names) != 1 or self.names[0].endswith("*"):
            self.goodbye(websocket.POLICY, "this socket follows a pattern: publish on a channel's own socket")
        else:
            message = _as_message(self.names[0], data, self.verbatim)
            check_size(message.kind, message.payload, self.max_message)
            self.router.publisher.publish_one(message, Socket._published, self)

    def _published(self, outcome: Cursor | Refusal | None) -> None:
        if isinstance(outcome, Refusal):
            self.goodbye(websocket.TRY_LATER, outcome.detail)

    def tick(self) -> None:
        connection = self.connection
        if not self.websocket.heard:
            if self._ping_is_late():
                self.wheel.schedule(connection, self.keepalive)
            else:
                self.goodbye(websocket.PING_TIMEOUT, "no pong: reconnect")
            return
        if self.websocket.late:
            self.goodbye(websocket.POLICY, SLOW)
            return
        waits = connection.outbox_size or tcp.under_way(connection.socket)
        position = self.moved()
        if position is not None:
            self.connection.send(self.in_band.alive(position))
        self.websocket.ping()
        self.settle()
        self.ping_end = connection.end_of_sent() if waits else 0
        self.acknowledged = tcp.acknowledged(connection.socket) if waits else 0
        self.wheel.schedule(self.connection, self.keepalive)

    def _ping_is_late(self) -> bool:
        """The peer can't have answered the ping in time: it waits behind what the peer takes slowly, or did until
        now."""
        if not self.ping_end:
            return False
        before, self.acknowledged = self.acknowledged, tcp.acknowledged(self.connection.socket)
        if self.acknowledged >= self.ping_end:
            self.ping_end = 0  # it has arrived since the last look: from now on the peer has its time
            return True
        return self.acknowledged != before

    def drain(self) -> None:
        self.goodbye(websocket.DRAINING, "node is draining: reconnect")

    def overflow(self) -> None:
        self.goodbye(websocket.SLOW_CONSUMER, "slow consumer: reconnect, and read faster")

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        if self.in_band.tells:
            self.connection.send(self.in_band.gap(channel, gap))
        elif gap is not NO_HISTORY:  # that would be so again and again
            self.goodbye(websocket.MISSED, "messages were lost: reconnect")

    def fail(self) -> None:
        self.goodbye(websocket.TRY_LATER, "the history does not answer: reconnect")

    def goodbye(self, code: int, reason: str) -> None:
        """Close with a code and a reason (RFC 6455 section 7.4)."""
        self.websocket.close(code, reason[:120])
        self.finish(self.websocket.data_to_send())

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.connection.session is self:
            self.goodbye(websocket.CHANNEL_DELETED, "the channel was deleted")


def _take_rest(connection: Connection) -> bytes:
    """What has come behind the last request of a connection, which is none of HTTP's: it is read again."""
    rest = cast(RequestParser, connection.protocol).rest()
    connection.resume()
    return rest


def _as_message(channel: str, data: str | bytes, verbatim: bool) -> Message:
    """A frame as a message: bytes as they are, text as JSON where it is JSON, else as a string."""
    if isinstance(data, bytes):
        return Message(channel, Kind.BYTES, data)
    body = data.encode()
    if not verbatim:
        try:
            return Message(channel, Kind.JSON, json_payload(body))
        except InvalidPayload:
            pass  # then it is a string
    return Message(channel, Kind.TEXT, body)
