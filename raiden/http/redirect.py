"""The door that leads from http to https."""

from __future__ import annotations

import webob

from raiden.connections.connection import Connection
from raiden.http.door import HttpDoor
from raiden.protocols.heads import Repeated
from raiden.protocols.hosts import host
from raiden.protocols.http import HttpError, Request


class Redirect:
    """The application of a ``door`` that answers each request with 308 (RFC 9110 section 15.4.9): the same target, by
    https, at ``port`` of the host that the request names, for which the door must answer."""

    door: HttpDoor

    def __init__(self, port: int) -> None:
        self._port = "" if port == 443 else f":{port}"

    def dispatch(self, connection: Connection, request: Request) -> webob.Response:
        """Return the answer; raises HttpError 400 and 421."""
        self.door.hosts.check(request.fields)
        found = host(request.fields.get("host", ""))
        if found is None:
            raise HttpError(400, "send a valid Host: only that says where to go on by https")
        path, query = request.environ["raiden.path"], request.query_string
        target = (path if path.startswith("/") else "/") + (f"?{query}" if query else "")
        location = f"https://{found.name}{self._port}{target}"
        return webob.Response(status=308, content_type=None, headerlist=[("Location", location)])

    def serve_again(self, connection: Connection, repeated: Repeated) -> bool:
        """No answer is remembered."""
        return False
