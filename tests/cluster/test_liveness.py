"""Clients on another host, whose network is cut, or is slow: the silent ones are gone soon, and no byte that still
moves is lost."""

from __future__ import annotations

import json
import random
import re
import socket
import string
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from websockets.sync.client import connect

from tests.cluster.network import Host, Network, requires_network
from tests.cluster.nodes import Node
from tests.daemons import post, wait_for
from tests.zeromq import OPEN, Pair

pytestmark = requires_network
TRANSPORTS = ("http", "event", "stream", "poll", "websocket", "sub", "push", "req")
GET = "GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n"
EVENTS, BYTES = "Accept: text/event-stream\r\n", "Accept: application/octet-stream\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Server(Node):
    """A node whose doors are open to the LAN; its own pages are asked for from its host."""

    def _wait_until_ready(self) -> None:
        wait_for(lambda: re.search(r"\bready\b", self.log()) or self.process.poll() is not None, "the node is ready")
        found = re.search(r" at http://0\.0\.0\.0:(\d+)$", self.banner(), re.MULTILINE)
        assert found, self.log()
        self.port = int(found.group(1))

    def open_to(self, client: Host, receive_buffer: int | None = None) -> socket.socket:
        """A connection from another host."""
        with client.inside():
            sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(60)
        sock.connect((self.on.address, self.port))
        return sock


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, Host]]]:
    """Starts a node on a host; the other host is its clients'."""
    with ExitStack() as stack:

        def serve(**settings: Any) -> tuple[Server, Host]:
            here, there = stack.enter_context(Network(hosts=2)).hosts
            open_doors = {"http_host": "0.0.0.0", "open_to_the_world": True, "workers": 1, "store": "sqlite"}
            node = Server(1, here, tmp_path / "node", **{**open_doors, **settings})
            stack.callback(node.stop)
            return node, there

        yield serve


@contextmanager
def limited(host: Host, rate: str) -> Iterator[None]:
    """What a host sends goes by a slow link, whose queue holds little of it."""
    command = ["tc", "-netns", host.name, "qdisc"]
    if subprocess.run([*command, "add", *f"dev eth0 root tbf rate {rate} burst 8kb latency 1s".split()]).returncode:
        pytest.skip("needs tc with tbf")
    yield
    subprocess.run([*command, "del", "dev", "eth0", "root"], check=True)


def there(node: Server, *transports: str) -> float:
    return sum(node.metric("raiden_connections", transport=name) for name in transports)


def test_who_falls_silent_is_gone(serve: Callable[..., tuple[Server, Host]], tmp_path: Path) -> None:
    """Whether something is sent to them or not, and whatever door they came in by. Nothing tells a node that a cable
    was cut."""
    server, client = Pair.make(), Pair.make()
    (tmp_path / "doors.key").write_bytes(server.secret)
    (tmp_path / "doors.key").chmod(0o600)
    doors = {
        "zmq_host": "0.0.0.0", "zmq_key": str(tmp_path / "doors.key"), **OPEN,
        "zmq_keys": {client.name: {"name": "it", "publish": ["*"], "subscribe": ["*"]}},
    }  # fmt: skip
    node, clients = serve(keepalive=1.0, **doors)
    requests = [
        GET % ("/a", EVENTS), GET % ("/a", ""), GET % ("/quiet", BYTES), GET % ("/quiet?_wait=100", ""),
        GET % ("/quiet", UPGRADE), GET % ("/-/health", ""),
    ]  # fmt: skip
    with ExitStack() as stack:
        for request in requests:
            sock = stack.enter_context(node.open_to(clients))
            sock.sendall(request.encode())
        with clients.inside():  # so are the threads that make libzmq's connections
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            stack.callback(context.destroy, linger=0)
            zmq_sockets = []  # which end when nobody holds them
            for door, kind in (("SUB", zmq.SUB), ("PUSH", zmq.PUSH), ("REQ", zmq.REQ)):
                zmq_sockets.append(zmq_socket := context.socket(kind))
                zmq_socket.curve_serverkey = server.public
                zmq_socket.curve_publickey, zmq_socket.curve_secretkey = client
                zmq_socket.connect(f"tcp://{node.on.address}:{node.doors()[door].rpartition(':')[2]}")
                if kind == zmq.SUB:
                    zmq_socket.subscribe(b"a")
        wait_for(lambda: there(node, "event", "stream", "poll", "websocket") == 5, "they have subscribed")
        wait_for(lambda: [there(node, door) for door in ("sub", "push", "req")] == [1, 1, 1], "ZeroMQ's, too")
        clients.cut()

        def gone() -> bool:
            node.publish("a", "x" * 100)
            return there(node, *TRANSPORTS) <= 2  # those of this test: it publishes and asks

        try:
            wait_for(gone, "they are gone")
        except AssertionError:
            raise AssertionError({name: there(node, name) for name in TRANSPORTS}) from None


SIZE = 500_000


def test_who_is_slow_and_moves_is_not_cut(serve: Callable[..., tuple[Server, Host]]) -> None:
    """500 KB to each of five by a link that takes more than ten seconds for it: longer than a pong may take, than a
    connection may be idle, and than its end lingers. Keep-alives come behind what is larger than the outbox's bound."""
    node, clients = serve(keepalive=5.0, idle_timeout=1.0, max_outbox=100_000)
    text = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=SIZE))
    post(node, "big", text)

    def request(path: str) -> Any:
        with node.open_to(clients) as sock, sock.makefile("rb") as stream:
            sock.sendall((GET % (path, "")).encode())
            size = 0
            for line in iter(stream.readline, b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            return json.loads(stream.read(size))["messages"][0]["data"]

    def follow(path: str, subscribed: threading.Event) -> list[Any]:
        """Two messages of an event stream."""
        got: list[Any] = []
        with node.open_to(clients) as sock, sock.makefile("rb") as stream:
            sock.sendall((GET % (path, EVENTS)).replace("HTTP/1.1", "HTTP/1.0").encode())
            until = time.monotonic() + 60
            while len(got) < 2:
                line = stream.readline()
                assert line and time.monotonic() < until, got
                subscribed.set()
                got += [json.loads(line[6:])] if line.startswith(b"data: ") else []
        return got

    def listen(path: str) -> Any:
        with connect(f"ws://a{path}", sock=node.open_to(clients), compression=None, max_size=None) as socket_:
            told = json.loads(socket_.recv(60))
            assert "data" not in told
            return json.loads(socket_.recv(60))["data"]

    subscribed = [threading.Event(), threading.Event()]
    with limited(node.on, "1600kbit"), ThreadPoolExecutor(5) as pool:
        live = pool.submit(follow, "/live", subscribed[0])
        assert subscribed[0].wait(20)
        past = pool.submit(follow, "/big?_since=earliest", subscribed[1])
        answers = [
            pool.submit(request, "/big?_wait=1&_since=earliest"),
            pool.submit(request, "/-/channels/big/history"),
        ]
        frame = pool.submit(listen, "/big?_wrap=1&_since=earliest")
        node.publish("live", text)
        assert [answer.result(60) == text for answer in (*answers, frame)] == [True, True, True]
        node.publish("live", 1)
        node.publish("big", 1)
        assert [stream.result(60) == [text, 1] for stream in (live, past)] == [True, True]
    assert node.metric("raiden_slow_consumers_total") == 0


def test_who_takes_nothing_is_cut(serve: Callable[..., tuple[Server, Host]]) -> None:
    """They are there, and something is on its way to them that they don't read."""
    node, clients = serve(keepalive=1.0)
    post(node, "big", "x" * 900_000)
    with ExitStack() as stack:
        for fields in (UPGRADE, EVENTS, ""):
            sock = stack.enter_context(node.open_to(clients, receive_buffer=4096))
            sock.sendall((GET % ("/big?_since=earliest", fields)).encode())
        wait_for(lambda: there(node, "event", "stream", "websocket") == 3, "they have subscribed")
        wait_for(lambda: there(node, *TRANSPORTS) <= 2, "they are gone")
