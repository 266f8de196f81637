"""What a client asks for where its token does not settle it, and there is a delegate that may."""

from __future__ import annotations

from typing import Any

from raiden.connections.connection import Connection
from raiden.dialects.centrifuge import codes
from raiden.dialects.centrifuge.codes import Denied, Disconnected
from raiden.hooks.guest import Guest
from raiden.model.refusals import Forbidden, Unauthorized
from raiden.sessions.decisions import Decision, judge


def is_guest(connection: Connection) -> bool:
    """Whether there is a delegate that may be asked about the client."""
    return connection.permit is not None and connection.permit.is_personal


def greet(guest: Guest) -> None:
    """Ask whether the client may connect. Waits; raises Disconnected where it may not, and Unavailable."""
    try:
        guest.greet()
        guest.check_still()
    except (Forbidden, Unauthorized):
        raise Disconnected(codes.DENIED) from None


def decision(connection: Connection, ask: Any, action: str, name: str) -> Decision:
    """The decision about what the client's token does not permit, which is still to be asked for. Raises Denied where
    nobody is to be asked."""
    found = None
    if is_guest(connection):
        try:
            found = judge(connection.permit, ask)
        except (Forbidden, Unauthorized):
            pass
    if found is None:
        raise Denied(action, name)
    return found
