"""A connection's part in requests and answers: its open requests, and the channels that it serves. It ends with the
connection: then its requests are withdrawn, and those that it has are lost."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import gevent

from raiden.access.permit import Permit
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.model.message import Message
from raiden.model.payload import WRAPPING, check_size
from raiden.model.refusals import Conflict, Forbidden, NotFound, TooManyRequests, Unavailable
from raiden.requests.asked import Outcome, Request
from raiden.requests.exchange import Exchange
from raiden.requests.servers import Given, Server
from raiden.sessions.asks import Call, Respond, Serve

# Open requests of one connection; and those that it may have as a server, of all its channels: a tenth of what all
# servers of a worker may have.
MAX_OPEN: Final = 128
MAX_SERVED: Final = 10_000


class Party:
    """The base for connections of both kinds; a subclass writes to the client: `give` and `withdrawn`, as
    `raiden.requests.servers.Sink` has them."""

    __slots__ = ("_finished", "_has_left", "_holder", "_open", "_servers", "connection", "exchange")

    def __init__(self, exchange: Exchange, connection: Connection) -> None:
        self.exchange = exchange
        self.connection = connection
        # Nobody else answers the requests that this connection was given.
        self._holder = f"connection:{secrets.token_hex(8)}"
        self._servers: dict[str, Server] = {}
        self._open: dict[Request, None] = {}
        # Called when all that is open is over, once it takes no more; and whether it was.
        self._finished: Callable[[], None] | None = None
        self._has_left = False

    def __len__(self) -> int:
        """The number of channels that it serves."""
        return len(self._servers)

    @property
    def is_busy(self) -> bool:
        """Whether a request is open, of its own or of one that it serves."""
        return bool(self._open) or any([server.open for server in self._servers.values()])

    # Asking.

    def ask(self, ask: Call, max_message: int, done: Callable[[Outcome], None]) -> None:
        """Ask a server; ``done`` is called with the outcome, unless the connection ends before. Raises Full,
        TooManyRequests, TooLarge, and Unavailable once it leaves."""
        self._check_stays()
        if len(self._open) >= MAX_OPEN:
            raise TooManyRequests(f"a connection has at most {MAX_OPEN} open requests: wait for answers")
        check_size(ask.message.kind, ask.message.payload, max_message)

        def finished(outcome: Outcome) -> None:
            self._open.pop(request, None)
            if self.connection.state < CLOSING:
                done(outcome)
            self._leave()

        request = self.exchange.ask(ask.message, ask.timeout, again=ask.again, done=finished)
        self._open[request] = None

    # Serving.

    def serve(self, ask: Serve) -> Server:
        """Serve a channel from now on; `announce` the server then. Raises Conflict, Forbidden and Unavailable."""
        self._check_stays()
        if ask.channel in self._servers:
            raise Conflict("you serve this channel already: unserve first to change the window")
        if sum([server.window for server in self._servers.values()]) + ask.window > MAX_SERVED:
            raise Forbidden(f"the windows of a connection are at most {MAX_SERVED} together")
        server = self.exchange.add_server(ask.channel, self, self._holder, window=ask.window)
        self._servers[ask.channel] = server
        return server

    def announce(self, server: Server) -> None:
        """Tell all workers of a server. Waits; where that is not possible it serves no longer, and this raises
        Unavailable. Raises NotFound where it was ended meanwhile."""
        try:
            self.exchange.announce(server.channel)
        except BaseException:  # raised again
            if self._servers.get(server.channel) is server:
                self.remove(server.channel)
            raise
        if self._servers.get(server.channel) is not server:
            raise NotFound("you do not serve this channel any more: that was ended meanwhile")

    def unserve(self, channel: str) -> None:
        """Serve a channel no longer; requests that are not answered are lost. Raises NotFound."""
        if channel not in self._servers:
            raise NotFound("you do not serve this channel")
        self.remove(channel)

    def answer(self, ask: Respond, max_message: int) -> None:
        """Answer a request that this connection was given. Raises NotFound, Forbidden, Conflict, TooLate and
        TooLarge."""
        if isinstance(ask.outcome, Message):
            check_size(ask.outcome.kind, ask.outcome.payload, max_message)
        self.exchange.settle(ask.request, self._holder, ask.outcome)
        self._leave()

    def remove(self, channel: str) -> bool:
        """Serve a channel no longer; return whether it was served."""
        server = self._servers.pop(channel, None)
        if server is not None:
            self.exchange.remove_server(server)
        return server is not None

    def forbidden(self, permit: Permit) -> list[str]:
        """The channels that it serves and may not serve by this permit."""
        return [channel for channel in self._servers if not permit.allows("serve", channel)]

    # The end.

    def finish(self, done: Callable[[], None]) -> None:
        """Take no more requests, and call ``done`` soon after all that are open have their outcomes, unless the
        connection ends before."""
        self._finished = done
        for server in self._servers.values():
            self.exchange.retire_server(server)
        self._leave()

    def _leave(self) -> None:
        if self._finished is not None and not self.is_busy:
            gevent.get_hub().loop.run_callback(self._left)  # behind the reply to the last answer

    def _left(self) -> None:
        if self._finished is not None and not self._has_left and self.connection.state < CLOSING:
            self._has_left = True
            self._finished()

    def _check_stays(self) -> None:
        if self._finished is not None:
            raise Unavailable("this node stops: make another connection")

    def close(self) -> None:
        """The connection has ended."""
        self._finished = None
        for request in list(self._open):
            self.exchange.cancel(request)
        self._open.clear()
        for channel in list(self._servers):
            self.remove(channel)

    # The methods of a sink.

    def is_ready(self, size: int) -> bool:
        return self.connection.state < CLOSING and self.connection.has_room(size * 4 // 3 + WRAPPING)

    def give(self, given: Given, message: Message, left: float) -> None:
        raise NotImplementedError

    def withdrawn(self, given: Given) -> None:
        raise NotImplementedError
