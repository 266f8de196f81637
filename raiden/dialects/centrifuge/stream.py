"""The stream of a client that sends its commands by other requests: an endless answer to a request, of HTTP or of
server-sent events."""

from __future__ import annotations

from typing import Any, Final

from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING, OPENING, SERVING, SUBSCRIBED
from raiden.delivery.table import Subscriber
from raiden.dialects.centrifuge import codes, subscriptions
from raiden.dialects.centrifuge.client import Talk
from raiden.dialects.centrifuge.codes import Code
from raiden.dialects.centrifuge.messages import Disconnect, Push, Reply
from raiden.dialects.centrifuge.wire import SSE, Wire
from raiden.model.refusals import Refusal
from raiden.protocols.http import Request, stream_bytes
from raiden.sessions import in_band
from raiden.sessions.lasting import Lasting
from raiden.sessions.over import Over

_NOTHING_TOLD: Final = in_band.websocket(False)


class CentrifugeStream(Lasting):
    """A stream, which other requests find by ``name`` (`raiden.dialects.centrifuge.emulation`). ``dialect`` is the
    `raiden.dialects.centrifuge.dialect.Centrifuge`."""

    __slots__ = ("name", "talk")

    def __init__(self, dialect: Any, connection: Connection, wire: Wire, name: str) -> None:
        gateway = dialect.gateway
        super().__init__(
            connection, gateway.router, gateway.door.wheel, gateway.limits.keepalive, _NOTHING_TOLD, ()
        )  # fmt: skip
        self.name = name
        self.talk = Talk(dialect, connection, wire)

    @property
    def owner(self) -> Subscriber:
        return self.talk

    def open_by(self, request: Request, frame: bytes) -> None:
        """Answer the request, and take the first frame of commands."""
        connection, wire, gateway = self.connection, self.talk.wire, self.talk.dialect.gateway
        self.take_rest()
        connection.become("centrifuge")
        connection.state = OPENING if connection.state == SERVING else SUBSCRIBED
        connection.session = self
        gateway.door.note(connection, request, 200)
        if gateway.door.watcher is not None:
            gateway.door.watcher.came(connection)
        kind = "text/event-stream" if wire.transport == SSE else "application/json"
        fields = {
            "Content-Type": "application/octet-stream" if wire.is_protobuf else kind, "Cache-Control": "no-store",
            "X-Accel-Buffering": "no", **gateway.door.origins.headers(request.fields),
        }  # fmt: skip
        connection.send(stream_bytes(tuple(fields.items()), http10=request.http10) + wire.beginning)
        self.talk.rest()
        self.talk.received(frame)
        if gateway.door.draining and connection.session is self:
            self.drain()

    def receive(self, data: bytes) -> None:
        """Ignore these bytes: a request behind one for an endless stream could never be answered."""

    def address(self) -> tuple[str, str]:
        """The names by which other requests find this connection: its own, and that of its worker."""
        return self.name, self.talk.dialect.emulation.node

    def disconnect(self, code: Code) -> None:
        """Tell the client why the connection ends, and end it."""
        if self.connection.state < CLOSING:
            wire = self.talk.wire
            told = wire.sent(Reply(push=Push(disconnect=Disconnect(code.code, code.reason))))
            self.finish(told + wire.end)

    def close(self) -> None:
        self.talk.dialect.emulation.forget(self.name)
        super().close()

    def tick(self) -> None:
        self.talk.tick()

    def rest(self) -> None:
        self.talk.rest()

    def over(self, reason: Over) -> None:
        self.disconnect(codes.of(reason))

    def remove(self, name: str) -> None:
        subscriptions.end(self.talk, name, codes.UNSUBSCRIBED)

    def withdraw(self, name: str, durable: str, refusal: Refusal | None) -> None:
        subscriptions.end(self.talk, name, codes.INSUFFICIENT if refusal is None else codes.UNSUBSCRIBED)
