"""What a connection becomes once it has subscribed: a stream, a long-poll, or a WebSocket.

The gateway makes a session, and from then on hands it what happens to its connection: `received` for an event of the
protocol, `tick` when the connection is due, `drain` when the node stops, `overflow` when it was too slow, and `close`
when it is gone. A session holds the connection's subscriptions and gives them back in `close`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import webob

from raiden import encoding, websocket
from raiden.backend import BackboneFull, NotInForce
from raiden.connection import Connection, Wheel
from raiden.filters import Filters, as_text
from raiden.http import Request
from raiden.message import (
    InvalidChannel,
    InvalidPayload,
    Kind,
    Message,
    check_channel,
    check_subscription,
    decode_strictly,
    json_payload,
)
from raiden.router import Router, Subscription, TooManyChannels
from raiden.websocket import Closed, WebSocket

# What is said to the peer, and how long it may take to read it (seconds).
LINGER = 2.0


class Session:
    """What all sessions share: the connection, and its subscriptions by name."""

    __slots__ = ("connection", "keepalive", "router", "subscriptions", "wheel")

    def __init__(self, connection: Connection, router: Router, wheel: Wheel, keepalive: float) -> None:
        self.connection = connection
        self.router = router
        self.wheel = wheel
        self.keepalive = keepalive
        self.subscriptions: dict[str, Subscription] = {}

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        self.subscriptions[name] = self.router.subscribe(name, sink or self.connection, self, encode, filters or None)

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

    def finish(self, goodbye: bytes) -> None:
        """Give back the subscriptions, say goodbye, and close."""
        self.close()
        self.connection.finish(goodbye)
        self.wheel.schedule(self.connection, LINGER)

    def ended(self, subscription: Subscription) -> None:
        """The channel was deleted."""
        self.subscriptions.pop(subscription.name, None)


class Stream(Session):
    """An HTTP stream or server-sent events. ``keepalive_bytes`` are sent when it is due, ``end`` as its last bytes."""

    __slots__ = ("end", "keepalive_bytes")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, keepalive_bytes: bytes, end: bytes
    ) -> None:
        super().__init__(connection, router, wheel, keepalive)
        self.keepalive_bytes = keepalive_bytes
        self.end = end

    def open(self, head: bytes) -> None:
        """The subscriptions are in force: send the response's head, and what has come since."""
        self.connection.open(head)
        self.wheel.schedule(self.connection, self.keepalive)

    def tick(self) -> None:
        self.connection.send(self.keepalive_bytes)
        self.wheel.schedule(self.connection, self.keepalive)

    def drain(self) -> None:
        self.finish(self.end)

    def overflow(self) -> None:
        self.drain()

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.connection.session is self:
            self.finish(self.end)


class Poll(Session):
    """A long-poll: answered by the first turn that brings something, or with 204 when its time is up."""

    __slots__ = ("answer", "early", "pending", "ready", "request")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, request: Request, wait: float,
        answer: Callable[[Connection, Request, webob.Response], None],
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, wait)
        self.request = request
        self.pending: list[bytes] = []
        self.early: list[bytes] = []
        self.ready = False
        self.answer = answer

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, self)

    def open(self) -> None:
        """The subscriptions are in force: wait from now on."""
        self.ready = True
        self.wheel.schedule(self.connection, self.keepalive)
        self.flush()

    def flush(self) -> None:
        self.early += self.pending
        self.pending.clear()
        if not self.ready:
            # Not in force yet: keep it for the answer, as much as an outbox may hold.
            if sum(map(len, self.early)) > self.connection.max_outbox:
                self.close()
            return
        if self.early:
            items = b"".join(self.early)[:-1]
            response = webob.Response(content_type="application/json", charset="utf-8")
            response.body = b'{"messages":[%b]}' % items
            self._answer(response)

    def tick(self) -> None:
        self._answer(webob.Response(status=204, content_type=None))

    def drain(self) -> None:
        self.tick()

    def overflow(self) -> None:
        self.connection.finish()

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.ready:
            self.tick()

    def _answer(self, response: webob.Response) -> None:
        self.close()
        self.early.clear()
        self.ready = False
        self.answer(self.connection, self.request, response)


class Socket(Session):
    """A WebSocket of one channel: a message per frame; a frame sent by the client is published."""

    __slots__ = ("channel", "verbatim", "websocket")

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, socket: WebSocket,
        channel: str | None, verbatim: bool,
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive)
        self.websocket = socket
        self.channel = channel
        self.verbatim = verbatim

    def open(self, head: bytes) -> None:
        self.connection.open(head)
        self.wheel.schedule(self.connection, self.keepalive)

    def received(self, event: object) -> None:
        """A message or `Closed`, from `WebSocket.feed`; call `settle` after the last event of a turn."""
        if isinstance(event, Closed):
            self.finish(self.websocket.data_to_send())
        else:
            try:
                self.message(event)  # type: ignore[arg-type]
            except BackboneFull as error:
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
            self.router.publish([_as_message(self.channel, data, self.verbatim)])

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

    def goodbye(self, code: int, reason: str) -> None:
        """Close with a code and a reason (RFC 6455 section 7.4)."""
        self.websocket.close(code, reason)
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
        super().__init__(connection, router, wheel, keepalive, socket, None, False)
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
        except (BackboneFull, TooManyChannels) as error:
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
        self.subscribe(name, encoding.websocket(True, self.websocket.deflate), filters)
        # It ends by itself: `in_force` is bounded, and so is the number of those that wait.
        self.confirming += 1
        gevent.spawn(self._confirm, command.get("id"), name)

    def _confirm(self, number: Any, name: str) -> None:
        try:
            unconfirmed = self.router.in_force()
            result: dict[str, Any] = {"channel": name, "recovered": False}
            if unconfirmed:
                result["unconfirmed"] = unconfirmed
        except NotInForce as error:
            self.unsubscribe(name)
            result = {"error": {"code": 503, "message": f"{error}: try again later"}}
        self.confirming -= 1
        if not self.connection.closed:
            self.reply(number, result)

    def _unsubscribe(self, command: dict[str, Any]) -> dict[str, Any]:
        name = _channel_of(command)
        if name not in self.subscriptions:
            raise CommandError(404, "not subscribed to that channel")
        self.unsubscribe(name)
        return {"channel": name}

    def _publish(self, command: dict[str, Any]) -> dict[str, Any]:
        name = check_channel(_channel_of(command))
        if "data" not in command:
            raise CommandError(400, "publish needs data: any JSON value")
        self.router.publish([Message(name, Kind.JSON, json_payload(encoding.dumps(command["data"])))])
        return {}

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
