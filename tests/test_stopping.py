"""A node that stops: it says so while it serves all, then who comes is refused, and who has come is served."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

import pytest

from tests.daemons import Daemon, Stream, wait_for
from tests.stores import RedisServer

PUBLISH = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n1"
# The publishers of a rolling restart, and how many messages each publishes a second.
PUBLISHERS, RATE = 10, 20
# Seconds between two looks of a balancer, and how long a node goes on that was told to stop.
LOOK, DELAY = 0.1, 2.0
# How often each node is restarted.
ROUNDS = 1


def refused(node: Daemon) -> bool:
    try:
        node.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def answer(sock: socket.socket) -> tuple[int, str | None]:
    """The status of an answer, and its field Connection."""
    response = HTTPResponse(sock)
    response.begin()
    response.read()
    return response.status, response.headers["Connection"]


@pytest.mark.parametrize("workers", [1, 2])
def test_who_comes_while_it_drains_is_refused_at_once(start: Callable[..., Daemon], workers: int) -> None:
    node = start(workers=workers)
    node.hang_up()
    with ExitStack() as stack:
        posts = [stack.enter_context(node.connect()) for _ in range(16)]
        for post in posts:
            post.sendall(PUBLISH[:-1])
        wait_for(lambda: node.metric("raiden_connections") >= 16, "they have come in")
        node.signal(signal.SIGTERM)
        wait_for(lambda: refused(node), "who comes is refused", timeout=5)
        for post in posts:
            post.sendall(PUBLISH[-1:])
            assert answer(post) == (200, "close")
    assert node.process.wait(20) == 0


def test_who_has_come_before_the_stop_is_served(start: Callable[..., Daemon]) -> None:
    """Requests that wait unread, on new connections and on old ones."""
    node = start(workers=1)
    node.hang_up()
    worker = node.workers()["worker 0"]
    with ExitStack() as stack:
        old = [stack.enter_context(node.connect()) for _ in range(50)]
        for sock in old:
            sock.sendall(PUBLISH)
            assert answer(sock) == (200, None)
        os.kill(worker, signal.SIGSTOP)
        new = [stack.enter_context(node.connect()) for _ in range(150)]
        for sock in (*old, *new):
            sock.sendall(PUBLISH)
        node.signal(signal.SIGTERM)
        wait_for(lambda: "stopping" in node.log(), "it is told to stop")
        os.kill(worker, signal.SIGCONT)
        assert {answer(sock) for sock in (*old, *new)} <= {(200, "close"), (200, None)}
    assert node.process.wait(20) == 0


def test_it_is_not_ready_and_serves_all_before_it_stops(start: Callable[..., Daemon]) -> None:
    node = start(workers=2, drain_delay=60)
    with Stream(node, "/a") as old:
        node.signal(signal.SIGTERM)
        wait_for(lambda: node.request("GET", "/-/ready")[0] == 503, "it is not ready")
        assert b"leaving" in node.request("GET", "/-/ready")[2]
        with Stream(node, "/a") as new:
            node.publish("a", 1)
            assert (old.value(), new.value()) == (1, 1)
            os.kill(node.workers()["worker 0"], signal.SIGKILL)
            wait_for(lambda: "worker 0 replaced" in node.log(), "a worker that dies is replaced")
            wait_for(lambda: [node.request("GET", "/-/ready")[0] for _ in range(8)] == [503] * 8, "also by the new one")
        node.hang_up()
        node.signal(signal.SIGTERM)  # again: at once
        assert node.process.wait(20) == 0


class Balancer:
    """Takes turns between the nodes whose /-/ready was 200 when it looked last, and tries nothing twice."""

    def __init__(self) -> None:
        self.ready: list[Daemon] = []
        self.turns = 0
        self._threads: dict[Daemon, threading.Thread] = {}
        self._closing = threading.Event()

    def add(self, node: Daemon) -> None:
        self._threads[node] = threading.Thread(target=self._look, args=(node,))
        self._threads[node].start()
        wait_for(lambda: node in self.ready, "the new node is ready")

    def _look(self, node: Daemon) -> None:
        while not self._closing.wait(LOOK):
            try:
                connection = HTTPConnection(node.host, node.port, timeout=1)
                connection.request("GET", "/-/ready")
                ready = connection.getresponse().status == 200
                connection.close()
            except (OSError, HTTPException):
                ready = False
            if ready and node not in self.ready:
                self.ready = [*self.ready, node]
            elif not ready:
                self.ready = [other for other in self.ready if other is not node]
                if node.process.poll() is not None:
                    return

    def connect(self) -> socket.socket:
        ready, self.turns = self.ready, self.turns + 1
        return ready[self.turns % len(ready)].connect()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads.values():
            thread.join(10)


class Publishers:
    """Each publishes to a channel of its own, by a new connection for each message."""

    def __init__(self, balancer: Balancer) -> None:
        self.acknowledged = [0] * PUBLISHERS
        self.failed: list[str] = []
        self._balancer = balancer
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(PUBLISHERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        request = PUBLISH.replace(b"/a", b"/%d" % number)
        while not self._ending.wait(1 / RATE):
            try:
                with self._balancer.connect() as sock:
                    sock.sendall(request)
                    status, _ = answer(sock)
            except (OSError, HTTPException, ZeroDivisionError) as error:
                self.failed.append(repr(error))
                continue
            if status == 200:
                self.acknowledged[number] += 1
            else:
                self.failed.append(str(status))

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)


@contextmanager
def balanced() -> Iterator[Balancer]:
    balancer = Balancer()
    try:
        yield balancer
    finally:
        balancer.close()


def rolling_restart(
    start: Callable[..., Daemon], balancer: Balancer, settings: dict[str, Any], rounds: int
) -> Publishers:  # fmt: skip
    """Two nodes, each of which is restarted so many times while there is load."""

    def address(node: Daemon) -> str:
        return str(node.json("/-/nodes")["nodes"][0]["address"])

    def join(*others: Daemon) -> Daemon:
        node = start(peers=[address(other) for other in others], **settings)
        wait_for(lambda: len(node.json("/-/nodes")["nodes"]) == 1 + len(others), "they know each other")
        balancer.add(node)
        return node

    first = join()
    nodes = [first, join(first)]
    publishers = Publishers(balancer)
    try:
        for turn in itertools.islice(itertools.cycle([0, 1]), 2 * rounds):
            before = sum(publishers.acknowledged)
            wait_for(lambda before=before: sum(publishers.acknowledged) > before + 100, "there is load")  # type: ignore[misc]
            assert nodes[turn].stop(60) == 0
            nodes[turn] = join(nodes[1 - turn])
        before = sum(publishers.acknowledged)
        wait_for(lambda: sum(publishers.acknowledged) > before + 100, "there is load until the end")
    finally:
        publishers.end()
    return publishers


def test_a_rolling_restart_behind_a_balancer_fails_and_loses_nothing(
    redis_server: RedisServer, start: Callable[..., Daemon]
) -> None:
    settings = {"store": redis_server.url, "workers": 2, "drain_delay": DELAY, "drain_window": 0}
    with balanced() as balancer:
        publishers = rolling_restart(start, balancer, settings, ROUNDS)
        assert publishers.failed == []
        [node, *_] = balancer.ready
        for number, acknowledged in enumerate(publishers.acknowledged):
            cursor = node.json(f"/-/channels/{number}")["cursor"]
            assert int(cursor.split(":")[1]) == acknowledged
