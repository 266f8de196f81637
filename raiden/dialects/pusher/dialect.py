"""The dialect ``pusher``: WebSockets below ``/app/``, and the HTTP API below ``/apps/``."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote

from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.dialects.dialect import Dialect
from raiden.dialects.pusher import codes
from raiden.dialects.pusher.api import Api
from raiden.dialects.pusher.apps import apps
from raiden.dialects.pusher.attendance import Attendance
from raiden.dialects.pusher.counts import Counts
from raiden.dialects.pusher.opened import OpenApp
from raiden.dialects.pusher.refused import RefusedSocket
from raiden.dialects.pusher.socket import PusherSocket
from raiden.dialects.pusher.webhooks import ADDED, COUNT, REMOVED
from raiden.dialects.socket import open_socket
from raiden.gateway import Gateway
from raiden.http.door import Answer
from raiden.model.refusals import Refusal, Unauthorized
from raiden.presence.watches import Share
from raiden.protocols.http import Request

# The versions of the protocol that clients name.
PROTOCOLS = ("5", "6", "7")
_CLIENTS, _SERVERS = "/app/", "/apps/"


class Pusher(Dialect):
    """The part of a worker that serves Pusher's clients, and the servers that publish to them."""

    judges_origins = True

    def __init__(self, gateway: Gateway, settings: Any) -> None:
        super().__init__(gateway)
        self._path = settings.pusher_path
        self.paths = (self._path + _CLIENTS, self._path + _SERVERS)
        watched = Share(settings.pusher_max_watched, "users of watchlists")
        found = [OpenApp(app, gateway.permits, gateway.webhooks, watched) for app in apps(settings.pusher_apps)]
        self._by_key = {each.app.key: each for each in found}
        self._api = Api(gateway, {each.app.id: each for each in found})
        for app in found:
            if app.app.subscription_count or app.wants(COUNT):
                counts = Counts(gateway, app)
                app.counted = counts.changed
                self.add(counts)
            if app.wants(ADDED) or app.wants(REMOVED):
                self.add(Attendance(gateway, app))

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        path = request.environ["PATH_INFO"][len(self._path) :]
        if path.startswith(_SERVERS):
            parts = request.environ["raiden.path"].split("/")[self._path.count("/") + 2 :]
            return self._api.dispatch(connection, request, [unquote(part) for part in parts] or [""])
        self._open(connection, request, path[len(_CLIENTS) :])
        return None

    def _open(self, connection: Connection, request: Request, key: str) -> None:
        """Let a client in. One that is refused is told so by the close code of its WebSocket."""
        app = self._by_key.get(key)
        code, reason = 0, ""
        refusal: Refusal | None = None
        if "/" in key:
            code, reason = codes.NO_PATH, "there is nothing at this path: clients connect to /app/KEY"
        elif app is None:
            code, reason = codes.UNKNOWN_APP, "there is no app with this key here"
            refusal = Unauthorized(reason)
        elif not _is_known(request):
            code, reason = codes.BAD_PROTOCOL, f"the versions that are spoken here are {', '.join(PROTOCOLS)}"
        elif (refusal := self._foreign(connection, request, app)) is not None:
            code, reason = codes.UNAUTHORIZED, refusal.detail
        if refusal is not None:
            client.refused(connection, refusal, "connect", "")
        if code or app is None:
            open_socket(self.gateway, connection, request, partial(RefusedSocket, code=code, reason=reason))
            return
        connection.permit = app.visitor
        open_socket(self.gateway, connection, request, partial(PusherSocket, app=app))

    def _foreign(self, connection: Connection, request: Request, app: OpenApp) -> Refusal | None:
        """The refusal of a page that may not connect."""
        try:
            (app.origins or self.gateway.door.origins).check(request.fields, connection.scheme)
        except Refusal as refusal:
            return refusal
        return None


def _is_known(request: Request) -> bool:
    """Whether the version of the protocol that a client names is known; a client that names none speaks the newest."""
    found = parse_qs(request.environ["QUERY_STRING"], keep_blank_values=True).get("protocol")
    return found is None or found[-1] in PROTOCOLS
