"""A receiver of webhooks, which keeps the events that it has taken, and verifies their signatures."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from standardwebhooks.webhooks import Webhook

from tests.daemons import ROOT, wait_for
from tests.scripted import OK, Scripted, says

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Got(NamedTuple):
    """An event as it came."""

    id: str
    headers: dict[str, str]
    body: bytes
    type: str
    data: dict[str, Any]


class Receiver:
    """It answers each event by ``act`` (None: it takes it), unless it is `kill`ed."""

    def __init__(self, act: Callable[[socket.socket, int], bool] | None = None) -> None:
        self.act = act or says(OK)
        self._before: list[tuple[bytes, bytes]] = []
        self._got: list[Got] = []
        self._server = Scripted(lambda sock, number: self.act(sock, number))
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}/events"

    def kill(self) -> None:
        self._server.close()
        self._before += self._server.requests

    def start(self) -> None:
        self._server = Scripted(lambda sock, number: self.act(sock, number), port=self.port)

    def close(self) -> None:
        self._server.close()

    @property
    def requests(self) -> list[tuple[bytes, bytes]]:
        return self._before + self._server.requests

    def got(self) -> list[Got]:
        """All requests, in the order in which they came."""
        for head, body in self.requests[len(self._got) :]:
            lines = head.decode().split("\r\n")[1:-1]
            headers = {name.lower(): value.strip() for name, _, value in [line.partition(":") for line in lines]}
            parsed = json.loads(body)
            self._got.append(Got(headers["webhook-id"], headers, body, parsed["type"], parsed["data"]))
        return list(self._got)

    def events(self, type: str = "") -> list[dict[str, Any]]:
        """The data of the events of a type, each once, in the order in which they first came."""
        found = {each.id: each for each in self.got() if each.type.startswith(type)}
        return [each.data for each in found.values()]

    def wait_for(self, count: int, type: str = "") -> list[dict[str, Any]]:
        """The events of a type, once there are so many."""
        wait_for(lambda: len({each.id for each in self.got() if each.type.startswith(type)}) >= count,
                 f"{count} events {type}", every=0.1)  # fmt: skip
        return self.events(type)


def verify(got: list[Got], secret: str = SECRET) -> None:
    """Verify all signatures by the specification's own packages, of Python, and where it is there, of npm."""
    for each in got:
        Webhook(secret).verify(each.body, each.headers)
    modules = ROOT / "build/node/node_modules"
    if shutil.which("node") is None or not (modules / "standardwebhooks").exists():
        pytest.skip("needs Node.js and the npm package standardwebhooks")
    script = """
        const { Webhook } = require("standardwebhooks");
        const [secret, rows] = JSON.parse(require("fs").readFileSync(0));
        for (const [body, headers] of rows) new Webhook(secret).verify(body, headers);
        console.log(rows.length);
    """
    rows = [[each.body.decode(), each.headers] for each in got]
    done = subprocess.run(
        ["node", "-e", script], input=json.dumps([secret, rows]), capture_output=True, text=True, timeout=120,
        env={**os.environ, "NODE_PATH": str(modules)},
    )  # fmt: skip
    assert done.stdout.strip() == str(len(rows)), done.stderr
