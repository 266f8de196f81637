"""A client of Action Cable for tests, which speaks it in the open; and what the application signs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.daemons import PATIENCE, Daemon

PLAIN, EXTENDED = "actioncable-v1-json", "actioncable-v1-ext-json"
SECRET = "s3Krit"
KEY = hmac.new(SECRET.encode(), b"broadcast-cable", hashlib.sha256).hexdigest()


def signed(name: Any, secret: str = SECRET) -> str:
    """The signed name of a stream."""
    data = base64.b64encode(json.dumps(name).encode()).decode()
    return f"{data}--{hmac.new(secret.encode(), data.encode(), hashlib.sha256).hexdigest()}"


def turbo(name: str, **more: Any) -> str:
    return json.dumps({"channel": "Turbo::StreamsChannel", "signed_stream_name": signed(name), **more})


def public(name: str) -> str:
    return json.dumps({"channel": "$pubsub", "stream_name": name})


def broadcast(node: Daemon, body: Any, key: str | None = KEY) -> int:
    """Broadcast; the status of the answer."""
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    status, _, answer = node.request("POST", "/_broadcast", json.dumps(body), headers)
    assert status != 201 or not answer
    return status


def publish(node: Daemon, stream: str, *values: Any, **meta: Any) -> None:
    for value in values:
        assert broadcast(node, {"stream": stream, "data": json.dumps(value), "meta": meta}) == 201


class Cable:
    """A client. ``welcome`` is the first message that it got; pings are passed over. It takes ``unread`` messages
    before they are asked for, and compressed ones with ``compression`` "deflate"."""

    def __init__(
        self, node: Daemon, subprotocol: str = PLAIN, *, headers: dict[str, str] | None = None,
        others: Sequence[str] = (), path: str = "/cable", jid: str = "", sid: str = "",
        query: dict[str, str] | None = None, unread: int = 16, compression: str | None = None,
    ) -> None:  # fmt: skip
        query = (query or {}) | ({"jid": jid} if jid else {}) | ({"sid": sid} if sid else {})
        url = f"ws://{node.host}:{node.port}{path}" + (f"?{urlencode(query)}" if query else "")
        offered = [Subprotocol(each) for each in (subprotocol, *others) if each]
        self.socket = connect(
            url, subprotocols=offered or None, additional_headers=headers, open_timeout=PATIENCE, sock=node.connect(),
            compression=compression, ping_interval=None, max_queue=unread, close_timeout=1,
        ).__enter__()  # fmt: skip
        self.welcome = self.next()
        self.sid = self.welcome.get("sid", "")

    def __enter__(self) -> Cable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, command: str, identifier: str | None = None, **more: Any) -> None:
        named = {} if identifier is None else {"identifier": identifier}
        self.socket.send(json.dumps({"command": command, **named, **more}))

    def next(self, *, pings: bool = False) -> dict[str, Any]:
        """The next message."""
        while True:
            told: dict[str, Any] = json.loads(self.socket.recv(PATIENCE))
            if pings or told.get("type") != "ping":
                return told

    def subscribe(self, identifier: str, **more: Any) -> None:
        self.send("subscribe", identifier, **more)
        assert self.next() == {"type": "confirm_subscription", "identifier": identifier}

    def settle(self) -> None:
        """Wait until all commands before are done: then nothing else was sent but what was read."""
        self.send("ping")
        assert self.next() == {"type": "pong"}

    def message(self) -> Any:
        """The next message of a stream, without its envelope."""
        told = self.next()
        assert "message" in told and "type" not in told, told
        return told["message"]

    def closed(self) -> int:
        """Wait until the server has closed; the code."""
        try:
            while True:
                told = json.loads(self.socket.recv(PATIENCE))
                assert told.get("type") == "ping", told
        except ConnectionClosed as error:
            assert error.rcvd is not None
            return error.rcvd.code
