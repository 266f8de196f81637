"""A client of the Centrifuge protocol for tests: it sends commands as they are written, and keeps what is pushed."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

import jwt
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from raiden.dialects.centrifuge import protobuf
from raiden.dialects.centrifuge.messages import Command
from tests.daemons import PATIENCE, Daemon
from tests.tokens import SECRET


def token(sub: str = "ann", *, secret: str = SECRET, **claims: Any) -> str:
    """A token as Centrifugo's users have it: it says nothing of Raiden's permissions."""
    return jwt.encode({"sub": sub, **claims}, secret, "HS256")


class Client:
    """One WebSocket with JSON. `ask` sends a command and returns its reply; what is pushed meanwhile waits for `push`.
    ``pongs``: pings are answered while it waits."""

    def __init__(
        self, node: Daemon, path: str = "/connection/websocket", *, pongs: bool = True, **options: Any
    ) -> None:  # fmt: skip
        self._pongs = pongs
        self.ws = connect(
            f"ws://{node.host}:{node.port}{path}", compression=None, max_size=None, close_timeout=1.0, **options
        ).__enter__()
        self._numbers = itertools.count(1)
        self._replies: dict[int, Any] = {}
        self.pushes: deque[Any] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ws.close()

    def send(self, text: str) -> None:
        self.ws.send(text)

    def read(self, timeout: float = PATIENCE) -> None:
        """Take what comes next, within so many seconds."""
        for line in str(self.ws.recv(timeout)).split("\n"):
            message = json.loads(line)
            if "push" in message:
                self.pushes.append(message["push"])
            else:
                self._replies[message.get("id", 0)] = message
                if not message and self._pongs:
                    self.send("{}")

    def command(self, **request: Any) -> int:
        """Send a command; its id."""
        number = next(self._numbers)
        self.send(json.dumps({"id": number, **request}))
        return number

    def reply(self, number: int) -> Any:
        """The reply to a command."""
        while number not in self._replies:
            self.read()
        return self._replies.pop(number)

    def ask(self, **request: Any) -> Any:
        return self.reply(self.command(**request))

    def connected(self, **request: Any) -> Any:
        """Connect; the result."""
        return self.ask(connect=request)["connect"]

    def subscribed(self, channel: str, **request: Any) -> Any:
        """Subscribe; the result."""
        return self.ask(subscribe={"channel": channel, **request})["subscribe"]

    def push(self) -> Any:
        """The next push."""
        while not self.pushes:
            self.read()
        return self.pushes.popleft()

    def pinged(self) -> None:
        """Wait for a ping of the server."""
        while 0 not in self._replies:
            self.read()
        assert self._replies.pop(0) == {}

    def closed(self) -> tuple[int, str]:
        """Wait for the end; its code and reason."""
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                self.read()
        except ConnectionClosed as end:
            assert end.rcvd is not None
            return end.rcvd.code, end.rcvd.reason
        raise AssertionError("the server has not closed the connection")


class ProtobufClient:
    """One WebSocket with Protobuf, whose replies and pushes are read by the schema of `PyPI`'s protobuf where that
    matters; here they are looked at as bytes."""

    def __init__(self, node: Daemon, **options: Any) -> None:
        self.ws = connect(
            f"ws://{node.host}:{node.port}/connection/websocket", subprotocols=[Subprotocol("centrifuge-protobuf")],
            compression=None, close_timeout=1.0, **options,
        ).__enter__()  # fmt: skip

    def send(self, *commands: Command) -> None:
        self.ws.send(b"".join([protobuf.delimited(protobuf.encode(command)) for command in commands]))

    def received(self) -> list[bytes]:
        """The messages of the next frame."""
        data = self.ws.recv(PATIENCE)
        assert isinstance(data, bytes)
        return protobuf.split(data, 1000)
