"""Requests where there is a delegate: they are done at once, or when it has allowed them."""

from __future__ import annotations

from collections.abc import Callable

from raiden.access.rates import Rates
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.hooks.guest import Guest
from raiden.http import counted
from raiden.http.door import Answer, HttpDoor
from raiden.model.refusals import Unavailable
from raiden.protocols.http import Request
from raiden.sessions.asks import Ask, Subscribe
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
    is_socket = isinstance(ask, Subscribe) and ask.transport == "websocket"
    if decision is None and not is_socket:
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

    door.serve_decided(connection, request, decide, do)
    return None
