"""Permissions of the clients of streams, and the questions to a delegate where these leave something open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from raiden.connections.connection import Connection
from raiden.dialects.streams.long_poll import encoding
from raiden.gateway import Gateway
from raiden.hooks.guest import Guest
from raiden.model.filters import NO_FILTERS
from raiden.model.message import Kind, Message
from raiden.model.page import Read, Start
from raiden.model.refusals import Forbidden
from raiden.protocols.http import Request
from raiden.sessions.asks import Publish, Subscribe
from raiden.sessions.decisions import judge

_LIVE: Final = {"long-poll": "poll", "sse": "event"}


def show(gateway: Gateway, connection: Connection, request: Request) -> None:
    """Let a connection have the permit of what a request shows. Raises Unauthorized, and Unavailable."""
    if connection.permit is not None:
        connection.permit = gateway.shown(request)
        if gateway.delegate is not None:
            connection.permit = gateway.guest(connection, request, gateway.delegate)


def check(connection: Connection, name: str, *actions: str) -> bool:
    """Raise Unauthorized or Forbidden where the client may not do one of these; return whether a delegate is to decide
    one."""
    permit = connection.permit
    if permit is None:
        return False
    if permit.is_personal:
        return any([permit.leaves_open(action, name) for action in actions])
    for action in actions:
        permit.check(action, name)
    return False


def messages(connection: Connection, name: str, found: Sequence[Message]) -> Sequence[Message]:
    """The messages as the delegate allows them; where there are none, it is asked about null. Waits; raises a
    refusal."""
    decided: Publish = _wait(connection.permit, Publish([found or [Message(name, Kind.JSON, b"null")]], None, _nothing))
    return decided.groups[0] if found else found


def reading(connection: Connection, name: str, live: str = "") -> Callable[[], None] | None:
    """What asks the delegate whether the client may read a stream, and waits; it raises a refusal. None: there is
    nothing to ask. Raises Unauthorized and Forbidden, as `check`."""
    guest = connection.permit
    is_open = check(connection, name, *(("subscribe", "history") if live else ("history",)))
    greets = live == "sse" and guest is not None and guest.is_personal and guest.handles("connect")
    if not is_open and not greets:
        return None
    ask: Any = Read(name, None, False, 1)
    if live:
        start = {name: Start()}
        ask = Subscribe((name,), NO_FILTERS, start, False, _LIVE[live], encoding(False))
    if live == "sse":
        guest.lasts(lambda: connection.session)

    def work() -> None:
        _wait(guest, ask)
        if connection.closed:
            guest.over()  # nothing is done

    return work


def _wait(guest: Guest, ask: Any) -> Any:
    """The ask as the delegate allows it. Waits; raises a refusal."""
    decision = judge(guest, ask)
    if decision is None:
        return ask
    decided = decision.wait()
    if any([decision.filters(name) for name in decision.names]):
        raise Forbidden("the application allows a part of the messages: a stream is read whole")
    return decided


def _nothing(*_: object) -> bytes:
    """The answer of a publish is the stream's."""
    return b""
