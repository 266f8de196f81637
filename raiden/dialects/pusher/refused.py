"""The WebSocket of a client that may not connect."""

from __future__ import annotations

from raiden.connections.connection import Connection
from raiden.dialects.pusher import frames
from raiden.dialects.socket import DialectSocket
from raiden.gateway import Gateway
from raiden.protocols.websocket import WebSocket


class RefusedSocket(DialectSocket):
    """A WebSocket that is closed at once: the protocol tells the reason only there. ``code`` and ``reason`` are the
    close frame's."""

    __slots__ = ("code", "reason")

    transport = "pusher"

    def __init__(self, gateway: Gateway, connection: Connection, core: WebSocket, code: int, reason: str) -> None:
        super().__init__(gateway, connection, core)
        self.code = code
        self.reason = reason

    def greet(self) -> None:
        self.connection.send(frames.error(self.code, self.reason))
        self.goodbye(self.code, self.reason)

    def message(self, data: str | bytes) -> None:
        """It has closed."""
