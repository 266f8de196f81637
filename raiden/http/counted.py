"""Requests as rates count them."""

from __future__ import annotations

from raiden.access.rates import Rates
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.http.door import HttpDoor
from raiden.model.refusals import TooFast
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Fields, limited
from raiden.sessions import costs
from raiden.sessions.asks import Ask, Subscribe


def count(rates: Rates, connection: Connection, ask: Ask) -> None:
    """Count what a request asks for; raises the refusal of a limit, as the client is told of it."""
    try:
        costs.count(rates, client.account(connection), ask)
    except TooFast as refusal:
        raise ask.refused(refusal) if isinstance(ask, Subscribe) else refusal from None


def refuse(
    door: HttpDoor, connection: Connection, repeated: Repeated, refusal: TooFast, action: str, *channels: str
) -> bool:  # fmt: skip
    """Answer a request that has a plan with the refusal of a limit; this serves it, so the result is True."""
    client.refused(connection, refusal, action, ", ".join(channels))
    door.answer(connection, repeated, limited(refusal))
    return True


def fields(rates: Rates, connection: Connection) -> Fields:
    """The field that tells how much more a client may publish now (draft-ietf-httpapi-ratelimit-headers-11)."""
    left = rates.left(client.account(connection))
    return () if left is None else (("RateLimit", f'"publish";r={left[0]};t={left[1]}'),)


def line(rates: Rates, connection: Connection) -> bytes:
    """`fields` as they are sent."""
    return b"".join([f"{name}: {value}\r\n".encode() for name, value in fields(rates, connection)])
