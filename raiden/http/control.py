"""The paths for those who look after a node, which may be served on a port of their own."""

from __future__ import annotations

from typing import Protocol

from raiden.connections.connection import Connection
from raiden.http.door import Answer, Handler, HttpDoor
from raiden.model.refusals import NotFound
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Request
from raiden.sessions.asks import Ask, Disconnect, Reply, Revoke, Show

_PAGES = ("metrics", "nodes", "channels", "durables", "revoke", "disconnect", "webhooks")
_FOR_CLIENTS = ("/history", "/presence")
# Balancers ask for these, on either port.
_EVERYWHERE = ("/-/health", "/-/ready")


def is_control(path: str) -> bool:
    """Whether a path is one of those. ``/-/channels/{channel}`` is; its history, and its presence, are for clients."""
    first = path[3:].partition("/")[0] if path.startswith("/-/") else ""
    return first in _PAGES and not (first == "channels" and path.endswith(_FOR_CLIENTS))


def not_here(path: str) -> None:
    """Raise NotFound for such a path: it is served on a port of its own."""
    if is_control(path):
        raise NotFound(f"{path[:100]} is served on control_port only")


class Manager(Protocol):
    """What does the work for these paths: the gateway."""

    def read(self, connection: Connection, request: Request) -> Ask: ...

    def manage(self, ask: Show | Revoke | Disconnect) -> Handler: ...


class Control:
    """The application of a ``door`` that serves these paths, those of health, and nothing else."""

    door: HttpDoor

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        """Do what is asked for, if it is for this port; raises Refusal."""
        connection.permit = None  # until it is known, the client is not the one of the request before
        self.door.hosts.check(request.fields)
        self.door.origins.check(request.fields)
        path = request.environ["raiden.path"]
        if is_control(path) or path in _EVERYWHERE:
            ask = self._manager.read(connection, request)
            if isinstance(ask, Reply):
                return ask.answer
            if isinstance(ask, Show | Revoke | Disconnect):
                self.door.serve_waiting(connection, request, self._manager.manage(ask))
                return None
        raise NotFound("control_port serves pages like /-/metrics, /-/channels and /-/nodes; channels are on http_port")

    def serve_again(self, connection: Connection, repeated: Repeated) -> bool:
        """No answer is remembered."""
        return False
