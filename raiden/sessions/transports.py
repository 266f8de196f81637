"""The session that a subscriber's connection becomes, by its transport."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raiden.access.rates import Rates
from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.presence.presence import Presence
from raiden.protocols.http import Json
from raiden.protocols.limits import HttpLimits
from raiden.protocols.unfinished import Unfinished
from raiden.protocols.websocket import WebSocket
from raiden.requests.exchange import Exchange
from raiden.router import Router
from raiden.sessions import in_band
from raiden.sessions.asks import Subscribe
from raiden.sessions.bell import Bells
from raiden.sessions.multiplex import MultiplexSocket
from raiden.sessions.poll import ANSWER_BYTES, Poll, Waiter
from raiden.sessions.session import Session
from raiden.sessions.socket import Socket
from raiden.sessions.stream import MergedEvents, Stream


class Transports:
    """The maker of sessions on the connections of one door, with the parts that they all share. ``answer`` answers
    long-polls."""

    def __init__(
        self, router: Router, wheel: Wheel, limits: HttpLimits, unfinished: Unfinished, bells: Bells,
        exchange: Exchange, rates: Rates, presence: Presence, answer: Callable[[Iterable[Waiter], Json], None],
    ) -> None:  # fmt: skip
        self._router = router
        self._wheel = wheel
        self._limits = limits
        self._unfinished = unfinished
        self._bells = bells
        self._exchange = exchange
        self._rates = rates
        self._presence = presence
        self._answer = answer

    def session(self, connection: Connection, ask: Subscribe) -> Session:
        """Make a session that has subscribed to nothing yet."""
        transport, keepalive = ask.transport, self._limits.keepalive
        if transport == "websocket":
            return self._socket(connection, ask)
        if transport == "poll":
            most = min(connection.max_outbox, ANSWER_BYTES)
            return Poll(self._router, self._wheel, ask, self._answer, most)
        form = ask.encoding.form
        told = in_band.stream(form, ask.wrapped, not ask.http10)
        kind = MergedEvents if form == "event" and ask.is_merged else Stream
        return kind(connection, self._router, self._wheel, keepalive, told, ask.names)

    def _socket(self, connection: Connection, ask: Subscribe) -> Socket:
        limits = self._limits
        assert ask.agreement is not None
        core = WebSocket(
            ask.agreement.deflate, max_message=limits.max_ws_message, timeout=limits.request_timeout,
            unfinished=self._unfinished,
        )  # fmt: skip
        if not ask.names:
            return MultiplexSocket(
                connection, self._router, self._wheel, limits.keepalive, core, bells=self._bells,
                exchange=self._exchange, rates=self._rates, presence=self._presence,
                max_subscriptions=limits.max_subscriptions,
                session_window=limits.session_window, max_message=limits.max_message,
            )  # fmt: skip
        return Socket(
            connection, self._router, self._wheel, limits.keepalive, in_band.websocket(ask.wrapped), ask.names, core,
            rates=self._rates, max_message=limits.max_message, verbatim=ask.verbatim,
        )  # fmt: skip
