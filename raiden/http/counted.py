"""Requests as rates count them."""

from __future__ import annotations

from raiden.access.rates import Rates
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.model.refusals import TooFast
from raiden.protocols.http import Fields
from raiden.sessions import costs
from raiden.sessions.asks import Ask, Subscribe


def count(rates: Rates, connection: Connection, ask: Ask) -> None:
    """Count what a request asks for; raises the refusal of a limit, as the client is told of it."""
    try:
        costs.count(rates, client.account(connection), ask)
    except TooFast as refusal:
        raise ask.refused(refusal) if isinstance(ask, Subscribe) else refusal from None


def fields(rates: Rates, connection: Connection) -> Fields:
    """The field that tells how much more a client may publish now (draft-ietf-httpapi-ratelimit-headers-11)."""
    left = rates.left(client.account(connection))
    return () if left is None else (("RateLimit", f'"publish";r={left[0]};t={left[1]}'),)
