"""The dialect: its paths, and what they serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import webob

from raiden.access.clients import Client
from raiden.connections.connection import Connection
from raiden.dialects.centrifuge import subscriptions, wire
from raiden.dialects.centrifuge.api import Api
from raiden.dialects.centrifuge.cluster import talks
from raiden.dialects.centrifuge.codes import Disconnected
from raiden.dialects.centrifuge.emulation import Emulation
from raiden.dialects.centrifuge.history import Histories
from raiden.dialects.centrifuge.presence import Clients
from raiden.dialects.centrifuge.rules import Rules
from raiden.dialects.centrifuge.socket import CentrifugeSocket
from raiden.dialects.centrifuge.stream import CentrifugeStream
from raiden.dialects.centrifuge.wire import SSE, STREAM
from raiden.dialects.dialect import Dialect
from raiden.dialects.socket import open_socket
from raiden.gateway import Gateway
from raiden.http.door import Answer
from raiden.http.parameters import query_pairs
from raiden.model.refusals import Invalid
from raiden.protocols.http import Fields, HttpError, Json, Request
from raiden.protocols.websocket import WebSocket

WEBSOCKET_PATH: Final = "/connection/websocket"
STREAM_PATH: Final = "/connection/http_stream"
SSE_PATH: Final = "/connection/sse"
EMULATION_PATH: Final = "/emulation"
# Methods are below it. The API of old clients, who send methods to the path itself, is not served.
API_PATH: Final = "/api"
_JSON, _PROTOBUF = "centrifuge-json", "centrifuge-protobuf"
_BYTES: Final = "application/octet-stream"
# What a browser may send to the paths that are no WebSocket.
_PREFLIGHT: Final[Fields] = (
    ("Access-Control-Allow-Methods", "POST, OPTIONS"), ("Access-Control-Allow-Headers", "Content-Type"),
)  # fmt: skip


class Centrifuge(Dialect):
    """The Centrifuge client protocol, and Centrifugo's server API where there is a key for it."""

    def __init__(self, gateway: Gateway, settings: Any) -> None:
        super().__init__(gateway)
        router = gateway.router
        self.rules = Rules.of(settings)
        self.paths = (WEBSOCKET_PATH, STREAM_PATH, SSE_PATH, EMULATION_PATH)
        self.emulation = Emulation(router.backend)
        self.histories = Histories(router, lambda: gateway.limits.max_outbox)
        self.presence = Clients(router, gateway.limits, is_on=self.rules.presence)
        self.add(self.presence)
        self._api: Api | None = None
        if settings.centrifuge_api_key is not None:
            self.paths = (*self.paths, API_PATH, f"{API_PATH}/")
            self._api = Api(
                gateway, settings.centrifuge_api_key, histories=self.histories, presence=self.presence
            )  # fmt: skip
        gateway.door.access_log.hide("cf_connect", "api_key")
        gateway.revoking.others.append(self._revoked)

    def do_stop(self) -> None:
        self.emulation.close()

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        path = request.environ["PATH_INFO"]
        if path == WEBSOCKET_PATH:
            self._socket(connection, request)
            return None
        if self._api is not None and path.startswith(API_PATH):
            return self._api.dispatch(connection, request, path.removeprefix(API_PATH).removeprefix("/"))
        if request.method == "OPTIONS":
            return Json(204, b"", _PREFLIGHT)
        is_event = path == SSE_PATH
        if request.method != "POST" and not (is_event and request.method == "GET"):
            allowed = "GET, POST, OPTIONS" if is_event else "POST, OPTIONS"
            raise HttpError(405, f"this path is for {allowed}", headers={"Allow": allowed})
        if path == EMULATION_PATH:
            return self._emulated(connection, request)
        self.invite(connection, request)
        self._stream(connection, request, is_event)
        return None

    def _socket(self, connection: Connection, request: Request) -> None:
        asked = _query(request)
        by_query = asked.get("cf_protocol") == "protobuf" or asked.get("format") == "protobuf"
        offered = request.fields.get("sec-websocket-protocol", "")
        is_protobuf = by_query or _PROTOBUF in [each.strip() for each in offered.split(",")]

        def make(_: Gateway, connection: Connection, core: WebSocket) -> CentrifugeSocket:
            self.invite(connection, request)
            return CentrifugeSocket(self, connection, core, is_protobuf)

        open_socket(self.gateway, connection, request, make, subprotocols=(_PROTOBUF, _JSON))

    def _stream(self, connection: Connection, request: Request, is_event: bool) -> None:
        """Open a stream; the request brings the first frame."""
        is_protobuf = not is_event and _is_protobuf(request)
        frame = request.raw_body
        if request.method == "GET":
            frame = _query(request).get("cf_connect", "").encode()
        kind = wire.wire(SSE if is_event else STREAM, is_protobuf, http10=request.http10)
        stream = self.emulation.open(lambda name: CentrifugeStream(self, connection, kind, name))
        stream.open_by(request, frame)

    def _emulated(self, connection: Connection, request: Request) -> Answer | None:
        try:
            asked, frame = wire.emulation(request.raw_body, _is_protobuf(request))
        except Disconnected:
            raise Invalid("the body is no frame of a session") from None
        if self.emulation.is_here(asked.node):
            return _empty(self.emulation.take(asked.session, frame))
        self.gateway.door.serve_waiting(
            connection, request, lambda *_: _empty(self.emulation.send(asked.node, asked.session, frame))
        )  # fmt: skip
        return None

    def _revoked(self, covers: Callable[[Client], bool]) -> int:
        """End subscriptions by tokens of their own that are revoked."""
        return sum([subscriptions.revoked(talk, covers) for talk in talks(self.gateway)])

    def reload(self, values: Mapping[str, Any]) -> None:
        """Take settings that have changed: limits are looked at anew each time, and the others need a restart."""


def _empty(status: int) -> Answer:
    """An answer without a body."""
    return webob.Response(status=status, content_type=None)


def _is_protobuf(request: Request) -> bool:
    return request.fields.get("content-type", "").partition(";")[0].strip().lower() == _BYTES


def _query(request: Request) -> dict[str, str]:
    """The parameters of a query, of repeated ones the last."""
    return dict(query_pairs(request))
