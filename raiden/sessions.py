"""What a connection becomes once it has subscribed: a stream, a long-poll, or a WebSocket.

The gateway makes a session, and from then on hands it what happens to its connection: `received` for an event of the
protocol, `tick` when the connection is due, `drain` when the node stops, `overflow` when it was too slow, and `close`
when it is gone. A session holds the connection's subscriptions and gives them back in `close`. What was missed before
the live messages is sent by `replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
import webob

from raiden import encoding, websocket
from raiden.backend import BackboneFull, NotInForce
from raiden.connection import Connection, Wheel
from raiden.filters import Filters, as_text
from raiden.history import EARLIEST, MAX_KEY, Gap, Start, StoreFailed
from raiden.http import Request
from raiden.message import (
    Cursor,
    InvalidChannel,
    InvalidPayload,
    Kind,
    Message,
    check_channel,
    check_subscription,
    decode_strictly,
    json_payload,
)
from raiden.parameters import MAX_LAST
from raiden.recovery import Batch, Recovery
from raiden.router import Router, Subscription, TooManyChannels
from raiden.websocket import Closed, WebSocket

# What is said to the peer, and how long it may take to read it (seconds).
LINGER = 2.0
# Of what was missed, so many bytes are sent at once, and the peer may take so many seconds to read them.
REPLAY_BYTES, REPLAY_PATIENCE = 65536, 30.0


class Session:
    """What all sessions share: the connection, and its subscriptions by name. ``told_by_head``: what is missing before
    the first message was told by the answer's head, and need not be told in band."""

    __slots__ = ("connection", "keepalive", "router", "subscriptions", "wheel")

    def __init__(self, connection: Connection, router: Router, wheel: Wheel, keepalive: float) -> None:
        self.connection = connection
        self.router = router
        self.wheel = wheel
        self.keepalive = keepalive
        self.subscriptions: dict[str, Subscription] = {}

    @property
    def told_by_head(self) -> bool:
        return False

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        self.subscriptions[name] = self.router.subscribe(name, sink or self.connection, self, encode, filters or None)

    def attach(self, name: str) -> None:
        """Get what comes next on a channel or pattern."""
        if name in self.subscriptions:
            self.router.attach(self.subscriptions[name])

    def replay(self, name: str, recovery: Recovery) -> bool:
        """Send what was missed on a channel, as fast as the peer reads it, then attach. False where the session has
        ended meanwhile; raises StoreFailed."""
        subscription = self.subscriptions.get(name)
        for batch in recovery.batches():
            if subscription is None or self.subscriptions.get(name) is not subscription:
                return False
            if batch.gap is not None and (batch.gap is not recovery.gap or not self.told_by_head):
                self.missed(subscription, name, batch.gap)
            if not self._send_past(subscription, batch):
                return False
            self.reached(name, batch.cursor)
        self.attach(name)
        self.reached(name, None)
        return True

    def begin(self, places: Mapping[str, Cursor]) -> None:
        """Where the channels stand whose missed messages will be replayed, one channel after the other."""

    def reached(self, name: str, place: Cursor | None) -> None:
        """What was missed on a channel was sent up to here; None: it is attached."""

    def _send_past(self, subscription: Subscription, batch: Batch) -> bool:
        """Whether all was sent."""
        sink, size = subscription.sink, 0
        for number, message in enumerate(batch.messages, 1):
            if subscription.filters is None or subscription.filters.match(message):
                data = subscription.encoding(message)
                sink.pending.append(data)
                size += len(data)
            last = number == len(batch.messages)
            if size > REPLAY_BYTES or last:
                size = 0
                self.reached(subscription.name, batch.cursor if last else message.cursor)
                sink.flush()
                if not self.connection.wait_until_sent(REPLAY_PATIENCE):
                    if not (self.connection.closed or self.connection.closing):
                        self.overflow()
                    return False
        return True

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self.router.unsubscribe(subscription)

    def close(self) -> None:
        for name in list(self.subscriptions):
            self.unsubscribe(name)

    def tick(self) -> None:
        """The connection is due: a keep-alive, or the end of a wait."""
        raise NotImplementedError

    def drain(self) -> None:
        """The node stops: tell the client to come back."""
        raise NotImplementedError

    def overflow(self) -> None:
        """The client reads too slowly: end the connection."""
        raise NotImplementedError

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """Tell the client that messages were lost: those that come next follow the gap."""
        raise NotImplementedError

    def fail(self) -> None:
        """What was promised can't be had: end the connection so that the client comes back."""
        raise NotImplementedError

    def finish(self, goodbye: bytes) -> None:
        """Give back the subscriptions, say goodbye, and close."""
        self.close()
        self.connection.finish(goodbye)
        self.wheel.schedule(self.connection, LINGER)

    def ended(self, subscription: Subscription) -> None:
        """The channel was deleted."""
        self.subscriptions.pop(subscription.name, None)


class Stream(Session):
    """An HTTP stream or server-sent events. ``keepalive_bytes`` are sent when it is due, ``end`` as its last bytes;
    ``tell_gap`` makes what tells of a gap, or is None where that can't be told in band: then the stream breaks off."""

    __slots__ = ("end", "keepalive_bytes", "tell_gap")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, keepalive_bytes: bytes,
        end: bytes, tell_gap: Callable[[str, Gap], bytes] | None,
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive)
        self.keepalive_bytes = keepalive_bytes
        self.end = end
        self.tell_gap = tell_gap

    @property
    def told_by_head(self) -> bool:
        return self.tell_gap is None

    def open(self, head: bytes) -> None:
        """The subscriptions are in force: send the response's head."""
        self.connection.send(head)
        self.wheel.schedule(self.connection, self.keepalive)

    def tick(self) -> None:
        self.connection.send(self.keepalive_bytes)
        self.wheel.schedule(self.connection, self.keepalive)

    def drain(self) -> None:
        self.finish(self.end)

    def overflow(self) -> None:
        self.drain()

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        if self.tell_gap is None:
            self.fail()
        else:
            self.connection.send(self.tell_gap(channel, gap))

    def fail(self) -> None:
        self.finish(b"")  # without its end: the client sees that it broke off

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.connection.session is self:
            self.finish(self.end)


class MergedEvents(Stream):
    """Server-sent events of several channels. What a turn brings is followed by the position in all of them, as the id
    with which the browser comes back; an event without data only sets that (the HTML standard, section 9.2.6)."""

    __slots__ = ("names", "pending", "places")

    def __init__(self, *args: Any, names: list[str]) -> None:
        super().__init__(*args)
        self.names = names
        self.pending = self.connection.pending
        self.places: dict[str, Cursor] = {}

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    def begin(self, places: Mapping[str, Cursor]) -> None:
        self.places.update(places)

    def reached(self, name: str, place: Cursor | None) -> None:
        if place is not None:
            self.places[name] = place
        else:
            self.places.pop(name, None)

    def flush(self) -> None:
        position = position_of(self.router, self.names, self.places)
        if position is not None and self.pending:
            data = b"id: %b\n\n" % position.encode()
            self.pending.append(encoding.chunk(data) if self.end else data)
        self.connection.flush()


def position_of(router: Router, names: Sequence[str], places: Mapping[str, Cursor] | None = None) -> str | None:
    """A position in several channels: a cursor for each, in their order, as it is or as ``places`` says. None where
    none of them has a history."""
    cursors = [(places or {}).get(name) or router.position(name) for name in names]
    if not any(cursors):
        return None
    return ",".join(str(cursor or EARLIEST) for cursor in cursors)


class Poll(Session):
    """A long-poll: answered with what it missed, else by the first turn that brings something, or with 204 when its
    time is up; always with the position from which the next one goes on."""

    __slots__ = ("answer", "early", "gap", "names", "pending", "places", "ready", "request")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, request: Request, wait: float, names: list[str],
        answer: Callable[[Connection, Request, webob.Response], None],
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, wait)
        self.request = request
        self.names = names
        self.pending: list[bytes] = []
        self.early: list[bytes] = []
        self.gap: bytes | None = None
        self.places: dict[str, Cursor] = {}
        self.ready = False
        self.answer = answer

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    def begin(self, places: Mapping[str, Cursor]) -> None:
        self.places.update(places)

    def open(self) -> None:
        """The subscriptions are in force, and what was missed is known: wait from now on."""
        self.ready = True
        self.wheel.schedule(self.connection, self.keepalive)
        self.flush()

    def replay(self, name: str, recovery: Recovery) -> bool:
        """Take one page of what was missed; only where there is none, messages to come are waited for."""
        subscription = self.subscriptions.get(name)
        for batch in recovery.batches():
            if subscription is None or self.subscriptions.get(name) is not subscription:
                return False
            self.places[name] = batch.cursor
            if batch.gap is not None:
                self.missed(subscription, name, batch.gap)
            filters = subscription.filters
            self.early += [subscription.encoding(m) for m in batch.messages if filters is None or filters.match(m)]
            if self.early:
                return True
        self.places.pop(name, None)
        self.attach(name)
        return True

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        # The answer leaves with what follows the gap, in `flush`: its position is behind that already.
        self.gap = encoding.gap(channel if len(self.names) > 1 else None, gap)

    def flush(self) -> None:
        self.early += self.pending
        self.pending.clear()
        if not self.ready and sum(map(len, self.early)) <= self.connection.max_outbox:
            return  # another channel is still read, or it was answered
        if self.early or self.gap:
            cursor = position_of(self.router, self.names, self.places)
            body = b"" if cursor is None else b'"cursor":"%b",' % cursor.encode()
            if self.gap is not None:
                body += b'"gap":%b,' % self.gap
            response = webob.Response(content_type="application/json", charset="utf-8")
            response.body = b'{%b"messages":[%b]}' % (body, b"".join(self.early)[:-1])
            self._answer(response)

    def tick(self) -> None:
        self.ready = True
        self.flush()
        if self.ready:
            self._answer(webob.Response(status=204, content_type=None))

    def fail(self) -> None:
        self.tick()

    def drain(self) -> None:
        self.tick()

    def overflow(self) -> None:
        self.connection.finish()

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.ready:
            self.tick()

    def _answer(self, response: webob.Response) -> None:
        cursor = position_of(self.router, self.names, self.places)
        if cursor is not None:
            response.headers["Raiden-Cursor"] = cursor
        if self.gap is not None:
            response.headers["Raiden-Recovered"] = "false"
        self.close()
        self.early.clear()
        self.ready = False
        self.answer(self.connection, self.request, response)


class Socket(Session):
    """A WebSocket of one channel: a message per frame; a frame sent by the client is published. ``wrapped``: each
    message says its channel and cursor, and gaps are told in band; else a gap closes the socket."""

    __slots__ = ("channel", "verbatim", "websocket", "wrapped")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, socket: WebSocket,
        channel: str | None, *, wrapped: bool, verbatim: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive)
        self.websocket = socket
        self.channel = channel
        self.wrapped = wrapped
        self.verbatim = verbatim

    def open(self, head: bytes) -> None:
        self.connection.send(head)
        self.wheel.schedule(self.connection, self.keepalive)

    def received(self, event: object) -> None:
        """A message or `Closed`, from `WebSocket.feed`; call `settle` after the last event of a turn."""
        if isinstance(event, Closed):
            self.finish(self.websocket.data_to_send())
        else:
            try:
                self.message(event)  # type: ignore[arg-type]
            except (BackboneFull, StoreFailed) as error:
                self.goodbye(websocket.TRY_LATER, str(error))

    def settle(self) -> None:
        """Send what the protocol has to say by itself."""
        data = self.websocket.data_to_send()
        if data:
            self.connection.send(data)

    def message(self, data: str | bytes) -> None:
        if self.channel is None or self.channel.endswith("*"):
            self.goodbye(websocket.POLICY, "this socket follows a pattern: publish on a channel's own socket")
        else:
            self.router.publish([_as_message(self.channel, data, self.verbatim)], done=self._published)

    def _published(self, outcome: list[list[Cursor]] | Exception) -> None:
        if isinstance(outcome, Exception):
            self.goodbye(websocket.TRY_LATER, str(outcome))

    def tick(self) -> None:
        if not self.websocket.ponged:
            self.goodbye(websocket.PING_TIMEOUT, "no pong: reconnect")
            return
        self.websocket.ping()
        self.settle()
        self.wheel.schedule(self.connection, self.keepalive)

    def drain(self) -> None:
        self.goodbye(websocket.DRAINING, "node is draining: reconnect")

    def overflow(self) -> None:
        self.goodbye(websocket.SLOW_CONSUMER, "slow consumer: reconnect, and read faster")

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        if self.wrapped:
            self.connection.send(encoding.text_frame(encoding.gap(channel, gap)))
        else:
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


class CommandError(Exception):
    """What a client's command is answered with instead of a result."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class MultiplexSocket(Socket):
    """``/-/websocket``: commands as JSON text, many channels on one socket."""

    __slots__ = ("confirming", "max_subscriptions")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, socket: WebSocket,
        max_subscriptions: int,
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive, socket, None, wrapped=True)
        self.max_subscriptions = max_subscriptions
        self.confirming = 0

    def message(self, data: str | bytes) -> None:
        number: Any = None
        try:
            command = self._parse(data)
            number = command.get("id")
            perform = self._COMMANDS.get(command.get("cmd"))  # type: ignore[arg-type]
            if perform is None:
                known = ", ".join(sorted(self._COMMANDS))
                raise CommandError(400, f"unknown cmd: use one of {known}")
            result = perform(self, command)
        except CommandError as error:
            self.reply(number, {"error": {"code": error.code, "message": str(error)}})
        except (InvalidChannel, InvalidPayload) as error:
            self.reply(number, {"error": {"code": 400, "message": str(error)}})
        except (BackboneFull, StoreFailed, TooManyChannels) as error:
            self.reply(number, {"error": {"code": 503, "message": str(error)}})
        else:
            if result is not None:
                self.reply(number, result)

    def _parse(self, data: str | bytes) -> dict[str, Any]:
        if isinstance(data, bytes):
            raise CommandError(400, "commands are JSON text frames; this frame was binary")
        try:
            command = decode_strictly(data)
        except (ValueError, RecursionError) as error:
            raise CommandError(400, f"not JSON: {error}") from None
        if not isinstance(command, dict):
            raise CommandError(400, 'a command is an object, like {"id": 1, "cmd": "ping"}')
        if not isinstance(command.get("cmd"), str) or not isinstance(command.get("id"), str | int | float | None):
            raise CommandError(400, "cmd must be a string, id a string or a number")
        return command

    def reply(self, number: Any, result: dict[str, Any]) -> None:
        data = encoding.dumps(result if number is None else {"id": number, **result})
        self.connection.send(encoding.text_frame(data))

    def _subscribe(self, command: dict[str, Any]) -> None:
        name = check_subscription(_channel_of(command))
        if name in self.subscriptions:
            raise CommandError(409, "already subscribed: unsubscribe first to change filters")
        if len(self.subscriptions) >= self.max_subscriptions:
            raise CommandError(403, f"at most {self.max_subscriptions} subscriptions on a connection")
        if self.confirming >= self.max_subscriptions:
            raise CommandError(429, "too many subscribe commands at once: wait for their replies")
        filters = _filters_of(command.get("filters") or {})
        start = _start_of(command)
        self.subscribe(name, encoding.websocket(True, self.websocket.deflate), filters)
        # It ends by itself: `in_force` is bounded, and so is the number of those that wait.
        self.confirming += 1
        gevent.spawn(self._confirm, command.get("id"), name, start)

    def _confirm(self, number: Any, name: str, start: Start | None) -> None:
        """Reply when the subscription is in force, send what was missed, and let it go on."""
        subscription = self.subscriptions.get(name)
        try:
            unconfirmed = self.router.in_force([name])
            result: dict[str, Any] = {"channel": name}
            recovery = None
            if start is not None and self.router.position(name) is not None:
                recovery = Recovery(self.router, name, start)
            place = recovery.begin if recovery else self.router.position(name)
            if place is not None:
                result["cursor"] = str(place)
            if start is not None:
                result["recovered"] = recovery is not None and recovery.gap is None
            if unconfirmed:
                result["unconfirmed"] = unconfirmed
        except (NotInForce, StoreFailed) as error:
            self.unsubscribe(name)
            result = {"error": {"code": 503, "message": f"{error}: try again later"}}
            subscription = None
        finally:
            self.confirming -= 1
        if self.connection.closed:
            return
        self.reply(number, result)
        if subscription is None or self.subscriptions.get(name) is not subscription:
            return
        if recovery is None:
            self.attach(name)
            return
        try:
            self.replay(name, recovery)
        except StoreFailed:
            self.fail()

    def _unsubscribe(self, command: dict[str, Any]) -> dict[str, Any]:
        name = _channel_of(command)
        if name not in self.subscriptions:
            raise CommandError(404, "not subscribed to that channel")
        self.unsubscribe(name)
        return {"channel": name}

    def _publish(self, command: dict[str, Any]) -> dict[str, Any] | None:
        name = check_channel(_channel_of(command))
        if "data" not in command:
            raise CommandError(400, "publish needs data: any JSON value")
        key = command.get("key")
        if key is not None:
            check_key(key, self.router.keeps(name))
        message = Message(name, Kind.JSON, json_payload(encoding.dumps(command["data"])))

        def published(outcome: list[list[Cursor]] | Exception) -> None:
            if isinstance(outcome, Exception):
                self.reply(command.get("id"), {"error": {"code": 503, "message": str(outcome)}})
            else:
                self.reply(command.get("id"), {"cursor": str(outcome[0][0])})

        return {} if self.router.publish([message], key=key, done=published) else None

    def _ping(self, command: dict[str, Any]) -> dict[str, Any]:
        return {}

    def ended(self, subscription: Subscription) -> None:
        Session.ended(self, subscription)
        self.reply(None, {"channel": subscription.name, "ended": True})

    _COMMANDS = {"subscribe": _subscribe, "unsubscribe": _unsubscribe, "publish": _publish, "ping": _ping}


def _channel_of(command: dict[str, Any]) -> str:
    name = command.get("channel")
    if not isinstance(name, str):
        raise CommandError(400, "channel must be a string")
    return name


def check_key(key: Any, keeps: bool) -> None:
    """Raise InvalidPayload unless this may be the key of a publish, to channels that keep history or not."""
    if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY:
        raise InvalidPayload(f"a key has 1 to {MAX_KEY} bytes: make one for each message, a UUID for example")
    if not keeps:
        raise InvalidPayload("a key needs a channel with history, which remembers it; this one keeps none")


def _start_of(command: dict[str, Any]) -> Start | None:
    since, last = command.get("since"), command.get("last")
    if last is not None:
        if not isinstance(last, int) or isinstance(last, bool) or not 0 < last <= MAX_LAST:
            raise CommandError(400, f"last is a number of messages from 1 to {MAX_LAST}")
        return Start(last=last)
    if since is None:
        return None
    if since == "earliest":
        return Start()
    try:
        return Start(Cursor.parse(since if isinstance(since, str) else ""))
    except ValueError as error:
        raise CommandError(400, str(error)) from None


def _filters_of(filters: Any) -> Filters:
    if not isinstance(filters, dict):
        raise CommandError(400, 'filters is an object, like {"team": ["a", "b"]}')
    pairs = []
    for key, values in filters.items():
        for value in values if isinstance(values, list) else [values]:
            text = as_text(value)
            if text is None:
                raise CommandError(400, "filter values are strings, numbers, booleans or null")
            pairs.append((key, text))
    return Filters(pairs)
