"""The client behind a connection, as rates count it."""

from __future__ import annotations

from raiden.access import rates
from raiden.connections.connection import Connection


def account(connection: Connection) -> str:
    """The account of the client, whose address and permit stand at the connection."""
    return rates.account(connection.permit, connection.address)
