"""A WebSocket of one or several channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raiden.access.rates import Rates
from raiden.connections import client, tcp
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.connections.wheel import Wheel
from raiden.delivery.table import Subscription
from raiden.model.message import Cursor, Kind, Message
from raiden.model.page import Gap
from raiden.model.payload import check_size
from raiden.model.refusals import Forbidden, Refusal, TooLarge, Unauthorized, attempt
from raiden.model.strict_json import InvalidPayload, json_payload
from raiden.protocols import websocket
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Request
from raiden.protocols.unfinished import SLOW
from raiden.protocols.websocket import Closed, WebSocket
from raiden.router import Router
from raiden.sessions.asks import PublishOne, Subscribe
from raiden.sessions.in_band import InBand, Told
from raiden.sessions.lasting import Lasting
from raiden.sessions.line import Line
from raiden.sessions.over import Over
from raiden.sessions.publishing import sign
from raiden.sessions.session import NO_HISTORY


class Socket(Lasting):
    """A WebSocket: a message per frame; a frame sent by the client is published, where it has one channel. Where a gap
    can't be told in band, it closes the socket."""

    __slots__ = ("acknowledged", "line", "max_message", "ping_end", "rates", "verbatim", "websocket")

    status = 101

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, in_band: InBand,
        names: Sequence[str], socket: WebSocket, *, rates: Rates, max_message: int, verbatim: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(connection, router, wheel, keepalive, in_band, names)
        self.websocket = socket
        self.rates = rates
        self.max_message = max_message
        self.verbatim = verbatim
        # The line of what the client asks for, where a delegate decides; made when it is needed.
        self.line: Line | None = None
        # For the last ping, where it had to wait behind other bytes: the number of bytes that the peer will have
        # acknowledged when it has got the ping, and the number that it had acknowledged at the last look.
        self.ping_end = self.acknowledged = 0

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        assert ask.agreement is not None
        rest = self.take_rest()
        self.connection.protocol = self.websocket
        self._begin(told.in_head(ask.agreement.answer(request.websocket_key)), told)
        self.go_on_with(rest)

    def go_on_with(self, rest: bytes) -> None:
        """Take the bytes that came with the handshake; packed ones as the door takes those that come later."""
        if self.websocket.deflate:
            self.connection.put_back(rest)
        elif rest:
            self.receive(rest)

    def receive(self, data: bytes) -> None:
        for event in self.websocket.feed(data):
            self.received(event)
            if self.connection.state >= CLOSING:
                return  # what came behind the message that has closed it counts for nothing, in the same read or later
        self.settle()

    def received(self, event: object) -> None:
        """A message or `Closed`, from `WebSocket.feed`."""
        if isinstance(event, Closed):
            self.finish(self.websocket.data_to_send())
        else:
            try:
                self.message(event)  # type: ignore[arg-type]
            except Refusal as refusal:
                client.refused(self.connection, refusal, "publish", self.names[0])
                self.goodbye(_code(refusal), refusal.detail)

    def settle(self) -> None:
        """Send the bytes that the protocol itself has to send."""
        data = self.websocket.data_to_send()
        if data:
            self.connection.send(data)

    def message(self, data: str | bytes) -> None:
        if len(self.names) != 1 or self.names[0].endswith("*"):
            self.goodbye(websocket.POLICY, "this socket follows a pattern: publish on a channel's own socket")
        else:
            message = _as_message(self.names[0], data, self.verbatim)
            check_size(message.kind, message.payload, self.max_message)
            permit = self.connection.permit
            is_guest = permit is not None and permit.is_personal
            if permit is not None and not is_guest:
                permit.check("publish", message.channel)
            if self.rates.on:
                self.rates.publish_one(client.account(self.connection), message.channel)
            if is_guest:
                self.in_line().put(permit, PublishOne(message, None), len(data), self._publish_decided)
                return
            if permit is not None:
                sign((message,), permit, self.max_message)
            self.router.publisher.publish_one(message, Socket._published, self)

    def in_line(self) -> Line:
        """The line of what the client asks for."""
        if self.line is None:
            self.line = Line(self.connection)
        return self.line

    def _publish_decided(self, outcome: Any) -> bool:
        """Publish a message that the delegate allows, or close the socket: what the client sent behind a refused one
        counts for nothing."""
        if isinstance(outcome, Refusal):
            client.refused(self.connection, outcome, "publish", self.names[0])
            self.in_line().clear()
            self.goodbye(_code(outcome), outcome.detail)
            return False
        message = outcome.message
        refusal = attempt("a message", sign, (message,), self.connection.permit, self.max_message)
        if isinstance(refusal, Refusal):
            return self._publish_decided(refusal)
        self.router.publisher.publish_one(message, Socket._published, self)
        return True

    def _published(self, outcome: Cursor | Refusal | None) -> None:
        if isinstance(outcome, Refusal):
            self.goodbye(websocket.TRY_LATER, outcome.detail)

    def keep_alive(self) -> None:
        connection = self.connection
        if not self.websocket.heard:
            if self._ping_is_late() or (self.line is not None and self.line.paused):
                self.rest()
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
        self.rest()

    def over(self, reason: Over) -> None:
        self.goodbye(reason.code, reason.text)

    def _ping_is_late(self) -> bool:
        """Whether the peer can't have answered the ping in time: the ping waits behind bytes that the peer takes
        slowly, or did until now."""
        if not self.ping_end:
            return False
        before, self.acknowledged = self.acknowledged, tcp.acknowledged(self.connection.socket)
        if self.acknowledged >= self.ping_end:
            self.ping_end = 0  # the ping has arrived since the last look: from now on the peer has its time
            return True
        return self.acknowledged != before

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        if self.in_band.tells:
            self.connection.send(self.in_band.gap(channel, gap))
        elif gap is not NO_HISTORY:  # that would be so again and again
            self.goodbye(websocket.MISSED, "messages were lost: reconnect")

    def all_ended(self) -> None:
        self.goodbye(websocket.CHANNEL_ENDED, "the channel has come to its end")

    def goodbye(self, code: int, reason: str) -> None:
        """Close with a code and a reason (RFC 6455 section 7.4)."""
        self.websocket.close(code, reason[:120])
        self.finish(self.websocket.data_to_send())

    def ended(self, subscription: Subscription) -> None:
        super().ended(subscription)
        if not self.subscriptions and self.connection.session is self:
            self.goodbye(websocket.CHANNEL_DELETED, "the channel was deleted")


def _code(refusal: Refusal) -> int:
    """The close code where a message of the client is refused."""
    if isinstance(refusal, Forbidden | Unauthorized):
        return websocket.FORBIDDEN
    return websocket.TOO_LARGE if isinstance(refusal, TooLarge) else websocket.TRY_LATER


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
