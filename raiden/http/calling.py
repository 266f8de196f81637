"""Requests and answers by HTTP: a client that asks, a server that takes a request by a long-poll, and its answer.

While it waits, each has its connection as its session does: without a greenlet.
"""

from __future__ import annotations

import webob

from raiden.access.permit import Permit
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING, SERVING, SUBSCRIBED
from raiden.http.calls import content_type
from raiden.http.door import Answer, HttpDoor
from raiden.http.reader import AT_ONCE
from raiden.model.message import Kind, Message
from raiden.model.refusals import Refusal
from raiden.protocols.http import Json, Request, problem
from raiden.requests import asked
from raiden.requests.asked import Outcome
from raiden.requests.exchange import Exchange
from raiden.requests.servers import Given, Server
from raiden.sessions import asks
from raiden.sessions.over import DISCONNECTED, EXPIRED, Over
from raiden.sessions.poll import keep_behind, refused

# The answer to an answer that is taken.
TAKEN = Json(200, b"{}")


class Calling:
    """The requests and answers of a door's clients."""

    def __init__(self, door: HttpDoor, exchange: Exchange) -> None:
        self.door = door
        self.exchange = exchange

    def do(self, connection: Connection, request: Request, ask: asks.Call | asks.Take | asks.Respond) -> Answer | None:
        """Do what is asked for; returns the answer, or None where it comes later. Raises Refusal."""
        if isinstance(ask, asks.Call):
            Caller(self, connection, request, ask)
        elif isinstance(ask, asks.Take):
            Taker(self, connection, request, ask)
        else:
            return self._settle(connection, request, ask)
        return None

    def _settle(self, connection: Connection, request: Request, ask: asks.Respond) -> Answer | None:
        def settled(refusal: Refusal | None) -> None:
            if connection.state >= CLOSING:
                return

            def answer(*_: object) -> Answer:
                if refusal is not None:
                    raise refusal
                return TAKEN

            self.door.serve(connection, request, answer)
            self.door.go_on(connection)

        if self.exchange.settle_anywhere(ask.request, holder(connection.permit), ask.outcome, settled):
            return TAKEN
        connection.state = SERVING
        return None


class _Waiting:
    """The client of a connection that waits for an answer."""

    __slots__ = ("_calling", "_channel", "_connection", "_request")

    transport = ""

    def __init__(self, calling: Calling, connection: Connection, request: Request, channel: str) -> None:
        self._calling = calling
        self._connection = connection
        self._request = request
        self._channel = channel

    def _wait(self) -> None:
        self._connection.become(self.transport)
        self._connection.state = SUBSCRIBED
        self._connection.session = self

    def _answer(self, answer: Answer) -> None:
        self._calling.door.answer(self._connection, self._request, answer)

    def receive(self, data: bytes) -> None:
        keep_behind(self._connection, data)

    def over(self, reason: Over) -> None:
        self._answer(refused(reason))

    def remove(self, name: str) -> None:
        if name == self._channel:
            self.over(DISCONNECTED)

    def overflow(self) -> None:
        self._connection.finish()


class Caller(_Waiting):
    """A client that waits for the answer of a server."""

    __slots__ = ("_open",)

    transport = "request"

    def __init__(self, calling: Calling, connection: Connection, request: Request, ask: asks.Call) -> None:
        super().__init__(calling, connection, request, ask.message.channel)
        self._open: asked.Request | None = calling.exchange.ask(
            ask.message, ask.timeout, again=ask.again, done=self._done
        )
        self._wait()

    def _done(self, outcome: Outcome) -> None:
        self._open = None
        if isinstance(outcome, Refusal):
            self._answer(problem(outcome))
        elif outcome.kind == Kind.JSON:
            self._answer(Json(200, outcome.payload))
        else:
            self._answer(
                webob.Response(body=outcome.payload, headerlist=[("Content-Type", content_type(outcome.kind))])
            )

    def tick(self) -> None:
        """The exchange knows when the time is up."""

    def drain(self) -> None:
        """The answer comes in time, or else the connection ends with the others."""

    def close(self) -> None:
        if self._open is not None:
            self._calling.exchange.cancel(self._open)
            self._open = None


class Taker(_Waiting):
    """A server that waits for one request."""

    __slots__ = ("_answered", "_server")

    transport = "serve"

    def __init__(self, calling: Calling, connection: Connection, request: Request, ask: asks.Take) -> None:
        super().__init__(calling, connection, request, ask.channel)
        self._answered = False
        self._server: Server | None = None
        self._wait()
        exchange, permit = calling.exchange, connection.permit
        is_new = not exchange.serves(ask.channel)
        try:
            server = exchange.add_server(ask.channel, self, holder(permit), window=1, stays=False)
        except Refusal as refusal:
            self._answer(problem(refusal))
            return
        if self._answered:
            exchange.remove_server(server, returns=True)
            return
        self._server = server
        calling.door.wheel.schedule(connection, ask.wait if permit is None else permit.left(ask.wait))
        if is_new:
            exchange.announce_soon(ask.channel)

    def is_ready(self, size: int) -> bool:
        return not self._answered and self._connection.state == SUBSCRIBED and not self._connection.has_gone

    def give(self, given: Given, message: Message, left: float) -> None:
        self._answered = True
        response = webob.Response(
            body=message.payload,
            headerlist=[
                ("Content-Type", content_type(message.kind)), ("Raiden-Request", given.id),
                ("Raiden-Left", f"{left:.3f}"), AT_ONCE,
            ],
        )  # fmt: skip
        self._answer(response)

    def withdrawn(self, given: Given) -> None:
        """It has gone with the request: it hears of this when it answers."""

    def tick(self) -> None:
        permit = self._connection.permit
        if permit is not None and permit.is_over:
            self.over(EXPIRED)
        else:
            self.drain()

    def drain(self) -> None:
        self._answered = True
        self._answer(webob.Response(status=204, content_type=None, headerlist=[AT_ONCE]))

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            # It can't come back to a node that stops.
            returns = self._answered and not self._calling.door.draining
            self._calling.exchange.remove_server(server, returns=returns)


def holder(permit: Permit | None) -> str:
    """The name of those who may answer the requests that a long-poll takes: the owner of its token or key, and where
    none is needed all who know a request's id."""
    return "owner:" + ("" if permit is None else permit.owner)
