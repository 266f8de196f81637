"""The WebSocket of a client."""

from __future__ import annotations

from typing import Any

from raiden.connections.connection import Connection
from raiden.delivery.table import Subscriber
from raiden.dialects.centrifuge import codes, subscriptions
from raiden.dialects.centrifuge.client import Talk
from raiden.dialects.centrifuge.codes import Code
from raiden.dialects.centrifuge.wire import WEBSOCKET, wire
from raiden.dialects.socket import DialectSocket
from raiden.model.refusals import Refusal
from raiden.protocols.websocket import WebSocket
from raiden.sessions.over import Over


class CentrifugeSocket(DialectSocket):
    """A WebSocket whose messages are frames of commands; its `Talk` does them. ``dialect`` is the
    `raiden.dialects.centrifuge.dialect.Centrifuge`."""

    __slots__ = ("talk",)

    transport = "centrifuge"

    def __init__(self, dialect: Any, connection: Connection, core: WebSocket, is_protobuf: bool) -> None:
        super().__init__(dialect.gateway, connection, core)
        self.talk = Talk(dialect, connection, wire(WEBSOCKET, is_protobuf, core.deflate))

    @property
    def owner(self) -> Subscriber:
        return self.talk

    def message(self, data: str | bytes) -> None:
        self.talk.received(data)

    def address(self) -> tuple[str, str]:
        """The names by which other requests find this connection: none do."""
        return "", ""

    def disconnect(self, code: Code) -> None:
        """Tell the client why the connection ends, and end it."""
        self.goodbye(code.code, code.reason)

    def tick(self) -> None:
        if self.websocket.late:
            self.disconnect(codes.BAD)
        else:
            self.talk.tick()

    def rest(self) -> None:
        self.talk.rest()

    def over(self, reason: Over) -> None:
        self.disconnect(codes.of(reason))

    def remove(self, name: str) -> None:
        subscriptions.end(self.talk, name, codes.UNSUBSCRIBED)

    def withdraw(self, name: str, durable: str, refusal: Refusal | None) -> None:
        subscriptions.end(self.talk, name, codes.INSUFFICIENT if refusal is None else codes.UNSUBSCRIBED)
