"""Presence in a cluster: three nodes, clients of all transports, and what can go wrong. ``TESTS_MEMBERS=5000`` is the
number of clients."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from tests.cluster import test_liveness
from tests.cluster.network import requires_network
from tests.cluster.nodes import Node, Nodes
from tests.cluster.test_liveness import Server
from tests.daemons import PATIENCE, wait_for
from tests.tokens import JWT_KEYS, bearer, token

pytestmark = requires_network
serve = test_liveness.serve
COUNT = int(os.environ.get("TESTS_MEMBERS", "90"))
LONG = PATIENCE * max(1, COUNT / 1000)
ALL: dict[str, Any] = {"subscribe": ["*"], "presence": ["*"]}
# Anyone may ask for /-/nodes.
CHANNELS = {"*": {"manage": "anyone"}}
HEAD = "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n%s\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
REQUESTS = (
    ("/board", "Accept: text/event-stream\r\n"), ("/board", ""), ("/board?_wait=900", ""), ("/board", UPGRADE),
    ("/-/websocket", UPGRADE),
)  # fmt: skip


def subscribe(sock: socket.socket, number: int) -> None:
    """Subscribe as member ``number``, by one of five transports. When this returns all but polls are in force."""
    path, more = REQUESTS[number % len(REQUESTS)]
    sock.sendall((HEAD % (path, token(f"m{number}", **ALL), more)).encode())
    if "_wait" in path:
        return
    answer = until(sock, b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), answer
    if path == "/-/websocket":
        text = b'{"id":1,"cmd":"subscribe","channel":"board"}'
        sock.sendall(struct.pack("!BBI", 0x81, 0x80 | len(text), 0) + text)
        assert b'"error"' not in until(sock, b"}")


def until(sock: socket.socket, end: bytes) -> bytes:
    answer = b""
    while end not in answer:
        more = sock.recv(4096)
        assert more, answer
        answer += more
    return answer


def has_ended(sock: socket.socket) -> bool:
    """Whether the node has closed the connection."""
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass  # keep-alives
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def who(node: Node) -> dict[str, Any]:
    status, _, body = node.request("GET", "/-/channels/board/presence", headers=bearer(token("asker", **ALL)))
    assert status == 200, body
    told: dict[str, Any] = json.loads(body)
    return told


def states(node: Node) -> dict[str, str]:
    return {each["sub"]: each["state"] for each in who(node)["members"]}


class Watcher:
    """A client of an event stream that keeps a list of members by what it is told, in a thread."""

    def __init__(self, node: Node) -> None:
        self._socket = node.connect()
        events = "Accept: text/event-stream\r\n"
        self._socket.sendall((HEAD % ("/board?_presence=1", token(None, **ALL), events)).encode())
        self.members: set[str] = set()
        self.told: list[tuple[str, str]] = []
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        assert self._begun.wait(PATIENCE), "it is told the members that are there"

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def _follow(self) -> None:
        with self._socket.makefile("rb") as lines:
            try:
                for line in lines:
                    if line.startswith(b"data: "):
                        self._hear(json.loads(line[6:]))
            except OSError:
                pass  # its worker was killed

    def _hear(self, told: dict[str, Any]) -> None:
        if "presence" in told:
            self.members = {each["sub"] for each in told["presence"]["members"]}
            self._begun.set()
        for name in ("join", "leave"):
            if name in told:
                sub = told[name]["sub"]
                assert (sub in self.members) == (name == "leave"), told
                (self.members.add if name == "join" else self.members.discard)(sub)
                self.told.append((name, sub))

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the node was faster
        self._thread.join()
        self._socket.close()


@contextmanager
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_whatever_happens_presence_is_right(cluster: Callable[..., Nodes]) -> None:
    # These clients answer no pings, and many of them take longer than the keepalive to come.
    patience = {"max_wait": 900, "keepalive": 900}
    nodes = cluster(
        3, jwt_keys=JWT_KEYS, channels=CHANNELS, presence_linger=2, max_presence=2 * COUNT, **patience
    )  # fmt: skip
    first, second, third = nodes.start_all()
    clients: dict[int, tuple[Node, socket.socket]] = {}
    with many_descriptors(), ExitStack() as stack:
        watchers = []
        for node in (first, second):
            watchers.append(Watcher(node))
            stack.callback(watchers[-1].close)

        def right(what: str, complete: bool = True) -> None:
            """All nodes that run, and all who watch, know the members that there are."""
            expected = {f"m{number}" for number in clients}

            def is_right(node: Node) -> bool:
                told = who(node)
                members = {each["sub"] for each in told["members"] if each["state"] == "here"}
                return members == expected and told["count"] == len(expected) and told["complete"] is complete

            for node in nodes:
                wait_for(partial(is_right, node), f"{what}: node {node.name} is right", LONG, every=0.1)
            wait_for(lambda: all(each.members == expected for each in watchers), f"{what}: all are told", LONG)

        for number in range(COUNT):
            node = (first, second, third)[number // len(REQUESTS) % 3]
            sock = stack.enter_context(node.connect())
            subscribe(sock, number)
            clients[number] = node, sock
        right("all have come")
        assert all(sorted(each.told) == sorted(("join", f"m{n}") for n in range(COUNT)) for each in watchers), "once"
        for number in range(0, COUNT, 3):
            clients.pop(number)[1].close()
        right("a third has left")

        nodes.kill(second, "worker 0")
        wait_for(lambda: "died" in second.log(), "the worker has ended")
        gone = [number for number, (_, sock) in clients.items() if has_ended(sock)]
        assert all(clients[number][0] is second for number in gone)
        for number in gone:
            clients.pop(number)[1].close()
        watchers = [watcher for watcher in watchers if not watcher.has_ended]
        right("a worker was killed")

        theirs = {f"m{number}" for number, (node, _) in clients.items() if node is third}
        told = [list(watcher.told) for watcher in watchers]
        third.on.cut()
        expected = {f"m{n}": "unsure" if f"m{n}" in theirs else "here" for n in clients}
        wait_for(lambda: states(first) == expected, "its members are unsure")
        third.on.heal()
        right("the link is there again")
        assert [watcher.told for watcher in watchers] == told, "nobody was told of that"

        third.kill()
        nodes.take_out(third)
        wait_for(lambda: states(first) == expected, "its members are unsure")
        assert not who(first)["complete"]
        for number in [n for n, (node, _) in clients.items() if node is third]:
            clients.pop(number)[1].close()
        right("a node was killed")


def test_a_silent_client_is_unsure(serve: Callable[..., tuple[Server, Any]]) -> None:
    """Its network is cut, so that nobody is told: its last proof of life gets old, and then it is gone."""
    node, there = serve(jwt_keys=JWT_KEYS, channels=CHANNELS, keepalive=2)
    with node.open_to(there) as sock, node.connect() as other:
        subscribe(sock, 0)
        subscribe(other, 5)
        here = states(node)
        assert len(here) == 2 and set(here.values()) == {"here"}
        proved = {each["sub"]: each["proved"] for each in who(node)["members"]}
        there.cut()
        wait_for(lambda: states(node)["m0"] == "unsure", "it is unsure", every=0.05)
        wait_for(lambda: "m0" not in states(node), "it is gone", every=0.1)
        (row,) = who(node)["members"]
        assert row["state"] == "here" and row["proved"] > proved[row["sub"]], "the other one is still there"
        assert time.time() - row["proved"] < 4
        there.heal()
