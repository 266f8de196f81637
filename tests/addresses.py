"""Clients at addresses of loopback, by which a node tells them apart."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.daemons import PATIENCE, Daemon
from tests.tokens import bearer

JSON = {"Content-Type": "application/json"}
Answer = tuple[int, dict[str, str], bytes]


class From:
    """A client at an address, with one connection for all its requests."""

    def __init__(self, node: Daemon, address: str, credential: str | None = None) -> None:
        self._connection = http.client.HTTPConnection(node.host, node.port, PATIENCE, source_address=(address, 0))
        self._fields = bearer(credential)

    def request(self, method: str, path: str, body: str | None = None, fields: dict[str, str] | None = None) -> Answer:
        self._connection.request(method, path, body, {**self._fields, **(fields or {})})
        response = self._connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return response.status, told, response.read()

    def publish(self, channel: str, *, fields: dict[str, str] | None = None) -> Answer:
        return self.request("POST", f"/{channel}", '{"a":1}', {**JSON, **(fields or {})})

    def poll(self, path: str) -> int:
        return self.request("GET", f"{path}{'&' if '?' in path else '?'}_wait=0")[0]

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> From:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def websocket(
    node: Daemon, address: str, path: str = "/-/websocket", credential: str | None = None
) -> ClientConnection:  # fmt: skip
    sock = socket.create_connection((node.host, node.port), PATIENCE, (address, 0))
    url = f"ws://{node.host}:{node.port}{path}"
    return connect(url, sock=sock, proxy=None, additional_headers=bearer(credential))


def command(socket: ClientConnection, **fields: Any) -> dict[str, Any]:
    socket.send(json.dumps({"id": 1, **fields}))
    while (reply := json.loads(socket.recv(PATIENCE))).get("id") != 1:
        pass
    return dict(reply)
