"""A dialect: another server's protocol, spoken on Raiden's channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raiden.connections.connection import Connection
from raiden.gateway import Gateway
from raiden.http.door import Answer
from raiden.protocols.http import Request
from raiden.runtime.service import Service


class Dialect(Service):
    """The part of a worker that serves the ``paths`` of a dialect, and takes them from the channels' names. Making it
    raises ValueError for settings that it can't use, which says what to do."""

    paths: tuple[str, ...] = ()
    """The paths that it serves, decoded; one that ends in a slash stands for all below it."""

    judges_origins = False
    """Whether it checks by itself which pages may use it, and tells them in its own words."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self.gateway = gateway

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        """Return the answer to a request for one of the paths; None where it comes later. Raises Refusal."""
        raise NotImplementedError

    def invite(self, connection: Connection, request: Request) -> None:
        """Let a connection that lasts have a permit of its own, where there is a delegate: what the client may do is
        asked by and by (`raiden.sessions.decisions`)."""
        if self.gateway.delegate is not None:
            connection.permit = guest = self.gateway.guest(connection, request, self.gateway.delegate)
            guest.lasts(lambda: connection.session)

    def reload(self, values: Mapping[str, Any]) -> None:
        """Take settings that have changed."""
