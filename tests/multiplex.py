"""A client of ``/-/websocket`` for tests, on a worker of the test's choice."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from tests.daemons import Daemon, wait_for


class _Counting(ClientConnection):
    """A connection that counts the server's pings, each of which the library has answered."""

    pings = 0

    def process_event(self, event: Any) -> None:
        super().process_event(event)
        self.pings += isinstance(event, Frame) and event.opcode is Opcode.PING


class Client:
    """One socket: `ask` sends a command and returns its reply; what is pushed meanwhile waits for `push`. ``buffer``
    bounds what the kernel has received and nobody has read, in bytes. ``unread`` bounds the messages that the library
    has read and nobody has taken (None: nothing does): with so many it reads no more, and answers no ping."""

    def __init__(self, node: Daemon, *, buffer: int | None = None, unread: int | None = 16) -> None:
        sock = socket.socket()
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(20)
        sock.connect((node.host, node.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._numbers = itertools.count(1)
        self._replies: dict[Any, Any] = {}
        self.pushes: deque[Any] = deque()
        url = f"ws://{node.host}:{node.port}/-/websocket"
        # A client that has not taken all that it got does not notice the end.
        self.ws = connect(
            url, sock=sock, compression=None, max_size=None, max_queue=unread, close_timeout=0.5,
            create_connection=_Counting,
        ).__enter__()  # fmt: skip

    def send(self, **command: Any) -> int:
        """Send a command; its id."""
        number = next(self._numbers)
        self.ws.send(json.dumps({"id": number, **command}))
        return number

    def reply(self, number: int, timeout: float = 20.0) -> Any:
        """The reply to a command, without its id."""
        while number not in self._replies:
            self._receive(timeout)
        return self._replies.pop(number)

    def ask(self, **command: Any) -> Any:
        return self.reply(self.send(**command))

    def code(self, **command: Any) -> int:
        """The code of the error that answers a command; what it says is never empty."""
        error = self.ask(**command)["error"]
        assert isinstance(error["message"], str) and error["message"]
        code: int = error["code"]
        return code

    def push(self, timeout: float = 20.0) -> Any:
        """The next message, or what else comes unasked."""
        while not self.pushes:
            self._receive(timeout)
        return self.pushes.popleft()

    def wait_for_pings(self, count: int) -> None:
        """Wait until so many more pings have come."""
        assert isinstance(self.ws, _Counting)
        enough = self.ws.pings + count
        wait_for(lambda: isinstance(self.ws, _Counting) and self.ws.pings >= enough, f"{count} pings have come")

    def take(self, count: int) -> list[Any]:
        return [self.push() for _ in range(count)]

    def _receive(self, timeout: float) -> None:
        told = json.loads(self.ws.recv(timeout))
        if "id" in told:
            self._replies[told.pop("id")] = told
        else:
            self.pushes.append(told)

    def rest(self) -> list[Any]:
        """What has come before the reply to a ping."""
        self.ask(cmd="ping")
        found = list(self.pushes)
        self.pushes.clear()
        return found

    def abort(self) -> None:
        """End the connection without a word, as the end of the client's process would."""
        try:
            self.ws.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the node was faster
        self.close()

    def close(self) -> None:
        try:
            self.ws.close()
        except ConnectionClosed:
            pass  # so it is over

    @property
    def port(self) -> int:
        found: int = self.ws.socket.getsockname()[1]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def two_nodes(
    folder: Path, url: str, *, second: dict[str, Any] | None = None, **settings: Any
) -> Iterator[list[Daemon]]:
    """Two nodes that know each other and share a store; ``second`` are settings of the second one alone. Those that are
    not killed meanwhile must end in order."""
    nodes: list[Daemon] = []
    settings = {"store": url, "drain_window": 0, **settings}
    try:
        nodes.append(Daemon(folder / "one", **settings))
        address = nodes[0].json("/-/nodes")["nodes"][0]["address"]
        nodes.append(Daemon(folder / "two", **{**settings, "peers": [address], **(second or {})}))
        for node in nodes:
            wait_for(partial(has_a_peer, node), "the nodes are connected")
        yield nodes
    finally:
        for node in nodes:
            killed = node.process.poll() is not None
            assert node.stop() == 0 or killed
            assert "Traceback" not in node.log(), node.log()


def has_a_peer(node: Daemon) -> bool:
    """It is connected to one other node."""
    status, _, body = node.request("GET", "/-/ready")
    return status == 200 and json.loads(body)["peers"] == 1


def kill(node: Daemon) -> None:
    """End all processes of a node at once, as if its machine had lost its power."""
    node.signal_all(signal.SIGKILL)
    node.process.wait()
    node.hang_up()


def _descriptors(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(path))
        except OSError:
            pass  # closed meanwhile
    return found


def worker_of(node: Daemon, client: Client, workers: dict[str, int]) -> str:
    """The name of the worker that serves a client; the kernel knows whose its socket is."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[n].rpartition(":")[2], 16) for n in (1, 2))
        if (local, remote) == (node.port, client.port):
            return next(name for name, pid in workers.items() if f"socket:[{fields[9]}]" in _descriptors(pid))
    raise AssertionError("no such connection")


def on_each_worker(node: Daemon, each: int = 1) -> dict[str, list[Client]]:
    """So many clients on each worker."""
    workers = {name: pid for name, pid in node.workers().items() if name.startswith("worker")}
    found: dict[str, list[Client]] = {name: [] for name in workers}
    others: list[Client] = []
    while any(len(clients) < each for clients in found.values()):
        client = Client(node)
        mine = found[worker_of(node, client, workers)]
        (mine if len(mine) < each else others).append(client)
        assert len(others) < 200, "the kernel prefers a worker"
    for client in others:
        client.close()
    return found
