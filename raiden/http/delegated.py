"""Requests where there is a delegate: they are done at once, or when it has allowed them."""

from __future__ import annotations

from collections.abc import Callable

from raiden.access.rates import Rates
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING, IDLE, SERVING
from raiden.hooks.guest import Guest
from raiden.http import counted
from raiden.http.door import Answer, HttpDoor
from raiden.model.refusals import Refusal, Unavailable, attempt
from raiden.protocols.http import Request
from raiden.sessions.asks import Ask, PublishLines, Subscribe
from raiden.sessions.decisions import judge


def serve(
    door: HttpDoor, connection: Connection, request: Request, ask: Ask, guest: Guest,
    rates: Rates, do: Callable[[Connection, Request, Ask], Answer | None],
) -> Answer | None:  # fmt: skip
    """``do`` what a request asks for, if the client's token permits it, or the delegate allows it; the answer is None
    where it comes later. Before the delegate is asked, the ask is counted. Raises Refusal."""
    decision = judge(guest, ask)
    if rates.on:
        counted.count(rates, connection, ask)
    asks_more = isinstance(ask, PublishLines) or (isinstance(ask, Subscribe) and ask.transport == "websocket")
    if decision is None and not asks_more:
        return do(connection, request, ask)
    connection.permit = guest
    if isinstance(ask, Subscribe) and ask.transport != "poll":
        guest.lasts(lambda: connection.session)
    if decision is None:
        return do(connection, request, ask)

    def decide() -> Ask:
        try:
            decided: Ask = decision.wait()
        except Unavailable as error:
            raise ask.refused(error) if isinstance(ask, Subscribe) else error from None
        if connection.state >= CLOSING:
            guest.over()  # nothing is done
        decision.enter()
        return decided

    connection.state = SERVING
    door.task(_decide_and_serve, door, connection, request, decide, do)
    return None


def _decide_and_serve(
    door: HttpDoor, connection: Connection, request: Request, decide: Callable[[], Ask],
    do: Callable[[Connection, Request, Ask], Answer | None],
) -> None:  # fmt: skip
    """Serve a request, as if it came now, with what ``decide`` returns, which waits and may raise Refusal. Where the
    client has gone meanwhile, nothing is done."""
    decided = attempt("a request", decide, method=request.method, path=request.environ["raiden.path"])
    if connection.state != SERVING:
        return

    def serve(connection: Connection, request: Request) -> Answer | None:
        if isinstance(decided, Refusal):
            raise decided
        return do(connection, request, decided)

    connection.state = IDLE
    door.serve(connection, request, serve)
    if connection.state == IDLE:
        door.was_answered(connection)
