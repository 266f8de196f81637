"""Durable Streams on nodes that share a Redis: writers at one and readers at the other, and a node that is killed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import pytest

from tests.daemons import Daemon
from tests.dialects import conformance
from tests.dialects.balancer import Balancer
from tests.multiplex import kill, two_nodes
from tests.stores import RedisServer

PRODUCERS, APPENDS = 4, 250
STREAM = "/v1/stream/answer"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def nodes(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Daemon]]:
    with two_nodes(tmp_path, redis_server.url, dialects=["streams"], streams_poll=2.0) as nodes:
        yield nodes


def test_all_of_the_suite_passes_with_writers_and_readers_apart(nodes: list[Daemon], tmp_path: Path) -> None:
    one, two = nodes
    (folder := tmp_path / "suite").mkdir()
    with Balancer(writes=one.port, reads=two.port) as balancer:
        passed, failed = conformance.failures(f"http://127.0.0.1:{balancer.port}", folder)
        assert min(balancer.counts.values()) > 100
    assert not failed, "\n".join(failed)
    assert passed == conformance.ALL


def posts(producer: int, begin: int) -> bytes:
    """The appends of a producer from a number on, one behind the other."""
    found = []
    for number in range(begin, APPENDS):
        body = json.dumps([producer, number])
        head = f"POST {STREAM} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body) + 2}\r\n"
        head += "Content-Type: application/json\r\n"
        head += f"Producer-Id: p{producer}\r\nProducer-Epoch: 0\r\nProducer-Seq: {number}\r\n\r\n[{body}]"
        found.append(head)
    return "".join(found).encode()


def append_all(node: Daemon, producer: int, begin: int, answered: Semaphore) -> int:
    """Send all appends from a number on at once, and read their answers; the number of the first without one."""
    with ThreadPoolExecutor(1) as pool, node.connect() as sock, sock.makefile("rb") as answers:

        def send() -> None:
            try:
                sock.sendall(posts(producer, begin))
            except OSError:
                pass  # the node is gone

        pool.submit(send)
        for number in range(begin, APPENDS):
            try:
                line = answers.readline()
                while line.strip():
                    if line.startswith(b"HTTP/1.1 "):
                        assert line.split()[1] in (b"200", b"204"), line
                    line = answers.readline()
                if not line:
                    return number
            except ConnectionError:
                return number
            answered.release()
        sock.shutdown(socket.SHUT_RDWR)
    return APPENDS


def test_a_node_is_killed_amid_the_appends_of_producers(nodes: list[Daemon]) -> None:
    """Each asks again at the other node for what it has no answer to: all is there once, and in its order."""
    one, two = nodes
    assert one.request("PUT", STREAM, headers=JSON)[0] == 201
    answered = Semaphore(0)
    with ThreadPoolExecutor(PRODUCERS) as pool:
        work = [pool.submit(append_all, one, producer, 0, answered) for producer in range(PRODUCERS)]
        for _ in range(PRODUCERS * APPENDS // 3):
            assert answered.acquire(timeout=60)
        kill(one)
        begins = [each.result() for each in work]
    assert min(begins) < APPENDS, "they were not done when the node was killed"
    with ThreadPoolExecutor(PRODUCERS) as pool:
        again = [pool.submit(append_all, two, *each, answered) for each in enumerate(begins)]
        assert [each.result() for each in again] == [APPENDS] * PRODUCERS
    got, position = [], "-1"
    while True:
        status, head, body = two.request("GET", f"{STREAM}?offset={position}")
        assert status == 200
        got += json.loads(body)
        position = head["stream-next-offset"]
        if "stream-up-to-date" in head:
            break
    assert sorted(map(tuple, got)) == [(p, n) for p in range(PRODUCERS) for n in range(APPENDS)]
    for producer in range(PRODUCERS):
        assert [number for each, number in got if each == producer] == list(range(APPENDS))
