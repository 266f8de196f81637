"""The WebSocket of a dialect's client: its messages are commands of another server's protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from raiden.connections.connection import Connection
from raiden.connections.states import OPENING, SERVING, SUBSCRIBED
from raiden.delivery.table import Subscription
from raiden.dialects.following import follow
from raiden.dialects.in_order import Command, InOrder, Rest
from raiden.gateway import Gateway
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.page import Start
from raiden.protocols import websocket
from raiden.protocols.http import Request
from raiden.protocols.websocket import Agreement, WebSocket
from raiden.sessions import in_band
from raiden.sessions.recovery import Beginning
from raiden.sessions.socket import Socket

_NOTHING_TOLD: Final = in_band.websocket(False)


class DialectSocket(Socket):
    """A WebSocket whose messages are commands, which are done in the order in which they came. A subclass has the
    ``transport`` by which its connections are counted, reads commands, and tells the client in its own words what the
    methods of `Socket` tell."""

    __slots__ = ("_in_order", "gateway")

    transport = "dialect"

    def __init__(self, gateway: Gateway, connection: Connection, core: WebSocket) -> None:
        limits = gateway.limits
        super().__init__(
            connection, gateway.router, gateway.door.wheel, limits.keepalive, _NOTHING_TOLD, (), core,
            rates=gateway.rates, max_message=limits.max_message,
        )  # fmt: skip
        self.gateway = gateway
        self._in_order: InOrder | None = None

    def message(self, data: str | bytes) -> None:
        self.do(lambda: self.command(data), len(data))

    def do(self, command: Command, size: int = 0) -> None:
        """Do a command of ``size`` bytes once those before it are done: see `InOrder.do`."""
        if self._in_order is None:
            self._in_order = InOrder(self.connection, self.gateway.limits)
        self._in_order.do(command, size)

    def command(self, data: str | bytes) -> Rest | None:
        """Do what a message of the client asks for; return what is left to do where that waits. It answers refusals
        itself."""
        raise NotImplementedError

    def greet(self) -> None:
        """Tell the client what it is told first, if anything."""

    def begun(self, agreement: Agreement, request: Request) -> None:
        """Answer the handshake, and go on with what came behind it."""
        connection = self.connection
        rest = self.take_rest()
        connection.protocol = self.websocket
        connection.send(agreement.answer(request.websocket_key))
        self.rest()
        self.greet()
        if connection.session is self:
            self.go_on_with(rest)

    def unsubscribe(self, name: str) -> None:
        if self.gateway.presence.names and name in self.subscriptions:
            self.gateway.presence.forget(self.subscriptions[name])
        super().unsubscribe(name)

    def ended(self, subscription: Subscription) -> None:
        self.gateway.presence.forget(subscription)
        super().ended(subscription)

    def follow(
        self, name: str, encode: Encoding, filters: Filters | None = None, start: Start | None = None
    ) -> Beginning:
        """As `raiden.dialects.following.follow`."""
        return follow(self, name, encode, filters, start)


S = TypeVar("S", bound=DialectSocket)


def open_socket(
    gateway: Gateway, connection: Connection, request: Request,
    make: Callable[[Gateway, Connection, WebSocket], S], *, subprotocols: Sequence[str] = (),
) -> S:  # fmt: skip
    """Make a connection the WebSocket that its request asks for. Of the subprotocols that the client offers, the first
    of ``subprotocols`` is taken, or none. Raises HttpError for a request that is no handshake."""
    limits, door = gateway.limits, gateway.door
    agreement = websocket.accept(request, deflate=gateway.reader.deflate, subprotocols=tuple(subprotocols))
    core = WebSocket(
        agreement.deflate, max_message=limits.max_ws_message, timeout=limits.request_timeout,
        unfinished=door.unfinished,
    )  # fmt: skip
    socket = make(gateway, connection, core)
    door.note(connection, request, 101)
    connection.become(socket.transport)
    connection.state = OPENING if connection.state == SERVING else SUBSCRIBED
    connection.session = socket
    if door.watcher is not None:
        door.watcher.came(connection)
    socket.begun(agreement, request)
    if door.draining and connection.session is socket:
        socket.drain()
    return socket
