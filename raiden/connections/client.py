"""The client behind a connection, as rates and the audit log know it."""

from __future__ import annotations

from raiden.access import rates
from raiden.connections.connection import Connection
from raiden.model.refusals import Refusal
from raiden.runtime import audit


def account(connection: Connection) -> str:
    """The account of the client, whose address and permit stand at the connection."""
    return rates.account(connection.permit, connection.address)


def refused(connection: Connection, refusal: Refusal, action: str, channel: str) -> None:
    """Let the audit log have the refusal of what the client asked for."""
    audit.refused(
        refusal.status, refusal.detail, action=action, channel=channel, who=_who(connection),
        address=connection.address, door=connection.transport,
    )  # fmt: skip


def done(connection: Connection, action: str, channel: str = "", **more: object) -> None:
    """Let the audit log have what the client, a manager, did; ``more`` are fields of it."""
    audit.done(
        action, channel=channel, who=_who(connection), address=connection.address, door=connection.transport, **more
    )  # fmt: skip


def _who(connection: Connection) -> str:
    """The subject of the client's token, or the name of its key; "": it has shown nothing."""
    client = None if connection.permit is None else connection.permit.client
    if client is None or not client.credential:
        return ""
    return str(client.subject or client.name)
