"""The dialect: `/cable` for clients, and `/_broadcast` for the application."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import webob

from raiden.access.clients import Client
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import SERVING
from raiden.delivery.questions import to_workers
from raiden.dialects.cable import broadcast
from raiden.dialects.cable.broadcast import Broadcast, Remote
from raiden.dialects.cable.config import BROADCAST
from raiden.dialects.cable.part import Part
from raiden.dialects.cable.socket import CableSocket, Opening
from raiden.dialects.dialect import Dialect
from raiden.dialects.socket import open_socket
from raiden.gateway import Gateway
from raiden.http import parameters
from raiden.http.audited import managed
from raiden.http.door import Answer
from raiden.model.message import Cursor, Message
from raiden.model.refusals import Forbidden, Refusal, attempt
from raiden.protocols.http import HttpError, Request
from raiden.protocols.websocket import subprotocols_of

PLAIN: Final = "actioncable-v1-json"
EXTENDED: Final = "actioncable-v1-ext-json"

# The question to all workers that disconnects clients.
_REMOTE: Final = b"cable-disconnect"


class Cable(Dialect):
    """The dialect on a worker. Raises ValueError for settings that it can't use."""

    def __init__(self, gateway: Gateway, settings: Any) -> None:
        super().__init__(gateway)
        self._settings = settings
        self._part = Part(gateway, settings)
        # The holder of the broadcast key, as rates and the audit log know it.
        self._application = gateway.permits.of_client(Client("cable_broadcast_key"))
        self.paths = (settings.cable_path, BROADCAST)
        gateway.door.access_log.hide(settings.cable_token_param, "sid")
        gateway.router.answers.others[_REMOTE] = self._disconnect

    def reload(self, values: Mapping[str, Any]) -> None:
        if any(name.startswith(("cable_", "jwt_leeway")) for name in values):
            self._part.read(self._settings)
            self.gateway.door.access_log.hide(self._settings.cable_token_param)

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        if request.environ["PATH_INFO"] == BROADCAST:
            return self._broadcast(connection, request)
        offered = subprotocols_of(request)
        if offered and not {PLAIN, EXTENDED}.intersection(offered):
            raise HttpError(400, f"the subprotocols that are known here are {PLAIN} and {EXTENDED}")
        query = dict(parameters.query_pairs(request)) if request.query_string else {}
        opening = Opening(is_extended=EXTENDED in offered, before=query.get("sid", ""))
        found = attempt("a client's token", self._part.identities.of, request)
        if isinstance(found, Refusal):
            opening.refusal = found
        else:
            opening.identity = found

        def make(_: Gateway, connection: Connection, core: Any) -> CableSocket:
            self.invite(connection, request)
            shown = opening.identity.permit
            if shown is not None:
                connection.permit = shown if connection.permit is None else connection.permit.become(shown)
            return CableSocket(self._part, opening, connection, core)

        open_socket(self.gateway, connection, request, make, subprotocols=(EXTENDED, PLAIN))
        return None

    # The application.

    def _broadcast(self, connection: Connection, request: Request) -> Answer | None:
        limits = self.gateway.limits
        if self._part.broadcast_keys:
            broadcast.check_key(request, self._part.broadcast_keys)
            connection.permit = self._application
        asked: Broadcast = broadcast.read(request, max_batch=limits.max_batch, max_message=limits.max_message)
        if isinstance(asked, Remote):
            if not self._part.broadcast_keys:
                raise Forbidden("without cable_secret or cable_broadcast_key nobody can be disconnected: set one")
            remote = asked
            work = managed(lambda: self._remote(remote), "disconnect", sub=remote.identifiers)
            self.gateway.door.serve_waiting(connection, request, work)
            return None
        self._check(asked)
        if not asked:
            return _created()
        if self.gateway.rates.on:
            counts = Counter([message.channel for message in asked])
            self.gateway.rates.publish(client.account(connection), counts.items())
        self._publish(connection, request, asked)
        return None

    def _check(self, messages: list[Message]) -> None:
        """Raise Forbidden where the settings let nobody publish; without a key, unless they let anyone."""
        policy = self.gateway.permits.policy
        for channel in {message.channel for message in messages}:
            if self._part.broadcast_keys:
                if policy.said("publish", channel) == "nobody":
                    raise Forbidden(f"nobody may publish to {channel!r} by the settings of channels")
            else:
                self.gateway.permits.unknown.check("publish", channel)

    def _publish(self, connection: Connection, request: Request, messages: list[Message]) -> None:
        """Publish messages in their order, and answer when all are."""
        left, failed = len(messages), None
        door = self.gateway.door

        def published(_: object, outcome: Cursor | Refusal | None) -> None:
            nonlocal left, failed
            left -= 1
            if isinstance(outcome, Refusal):
                failed = outcome
            if not left:
                door.serve(connection, request, answer)
                door.go_on(connection)

        def answer(*_: object) -> Answer:
            if failed is not None:
                raise failed
            return _created()

        connection.state = SERVING
        for message in messages:
            self.gateway.router.publisher.publish_one(message, published, None)

    def _remote(self, remote: Remote) -> Answer:
        """Disconnect clients on all nodes. Waits."""
        to_workers(self.gateway.router.backend, _REMOTE, everywhere=True)([list(remote)])
        return _created()

    def _disconnect(self, argument: Any) -> int:
        identifiers, reconnect = argument
        sockets = [each for each in self._sockets() if each.identifiers == identifiers]
        for socket in sockets:
            socket.disconnect("remote", reconnect=reconnect)
        return len(sockets)

    def _sockets(self) -> Iterator[CableSocket]:
        for connection in list(self.gateway.door.connections):
            if isinstance(connection.session, CableSocket):
                yield connection.session


def _created() -> Answer:
    return webob.Response(status=201, content_type=None, headerlist=[("Content-Length", "0")])
