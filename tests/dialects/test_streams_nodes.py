"""Durable Streams on nodes that share a Redis: writers at one and readers at the other, and a node that is killed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

from tests.daemons import Daemon, wait_for
from tests.dialects import conformance
from tests.dialects.balancer import Balancer
from tests.dialects.streams import Answer, Events, add, ask, close, put, read
from tests.multiplex import kill, two_nodes
from tests.stores import RedisServer

PRODUCERS, APPENDS = 4, 250
# The tests of the suite that are tried on two nodes each time.
ON_NODES = "^(?!Property-Based|Chunking and Large|Offset Validation|TTL and Expiry Validation|Browser Security)"
STREAM = "/v1/stream/answer"
JSON = "application/json"


@pytest.fixture
def nodes(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Daemon]]:
    with two_nodes(tmp_path, redis_server.url, dialects=["streams"], streams_poll=2.0) as nodes:
        yield nodes


def test_the_suite_passes_with_writers_and_readers_apart(nodes: list[Daemon], tmp_path: Path) -> None:
    """Without the parts that keep the processors busy and do not differ from those on one node; TESTS_SUITE=1: with
    them."""
    one, two = nodes
    whole = bool(os.environ.get("TESTS_SUITE"))
    (folder := tmp_path / "suite").mkdir()
    with Balancer(writes=one.port, reads=two.port) as balancer:
        url, only = f"http://127.0.0.1:{balancer.port}", "" if whole else ON_NODES
        passed, failed = conformance.failures(url, folder, only=only)
        assert min(balancer.counts.values()) > 100
    assert not failed, "\n".join(failed)
    assert passed == conformance.ALL if whole else passed > 270


def everything(node: Daemon, name: str) -> list[Any]:
    """All messages of a stream of JSON, page by page."""
    got, answer = [], read(node, name)
    while True:
        assert answer.status == 200
        got += json.loads(answer.body)
        if "stream-up-to-date" in answer.fields:
            return got
        answer = read(node, name, answer.next)


def wait_at(node: Daemon, name: str, offset: str) -> Answer:
    return ask(node, "GET", f"{name}?offset={offset}&live=long-poll")


def test_readers_hear_what_is_written_at_another_node(nodes: list[Daemon]) -> None:
    one, two = nodes
    put(one, "answer", "first ")
    with Events(two, "answer") as events, ThreadPoolExecutor(1) as pool:
        assert events.pair()[0] == "first "
        for number in range(50):
            assert add(one, "answer", f"{number} ").status == 204
        poll = pool.submit(wait_at, two, "answer", read(two, "answer").next)
        assert ask(one, "POST", "answer", "last", Content_Type="text/plain", Stream_Closed="true").closed
        text = ""
        while True:
            data, told = events.pair()
            text += data or ""
            if "streamClosed" in told:
                break
        assert text == "".join(f"{number} " for number in range(50)) + "last" and events.event() is None
        assert poll.result().body == b"last" and poll.result().closed
    found = wait_at(two, "answer", told["streamNextOffset"])
    assert found.status == 204 and found.closed


def test_who_waits_at_another_node_is_told_of_the_end(nodes: list[Daemon]) -> None:
    one, two = nodes
    for end, status in (close, 204), (lambda node, name: ask(node, "DELETE", name), 404):
        tail = put(one, "waited", "a").next
        with Events(two, "waited", tail) as events, ThreadPoolExecutor(1) as pool:
            events.pair()
            poll = pool.submit(wait_at, two, "waited", tail)
            wait_for(lambda: one.json("/-/channels/waited")["subscribers"] == 2, "both wait")
            assert end(one, "waited").status == 204
            found = poll.result()
            assert found.status == status and found.closed is (status == 204)
            assert [name for name, _ in iter(events.event, None)] == ["control"] * (status == 204)
        ask(one, "DELETE", "waited")


def test_a_producer_at_two_nodes_at_once(nodes: list[Daemon]) -> None:
    """Its appends overtake each other, and are sent again until it is their turn; some are sent twice."""
    put(nodes[0], "answer", content_type=JSON)
    size = 200

    def send(number: int) -> None:
        def is_there() -> bool:
            fields = {"Producer_Id": "p", "Producer_Epoch": "0", "Producer_Seq": str(number)}
            found = add(nodes[number % 3 % 2], "answer", f"[{number}]", JSON, **fields)
            if found.status == 409:
                assert int(found.fields["producer-expected-seq"]) < number == int(found.fields["producer-received-seq"])
            else:
                assert found.status in (200, 204) and int(found.fields["producer-seq"]) >= number
            return found.status != 409

        for _ in range(1 + (number % 7 == 0)):
            wait_for(is_there, "it is its turn", every=0.001)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, range(size)))
    assert everything(nodes[1], "answer") == list(range(size))


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
    put(one, "answer", content_type=JSON)
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
    got = everything(two, "answer")
    assert sorted(map(tuple, got)) == [(p, n) for p in range(PRODUCERS) for n in range(APPENDS)]
    for producer in range(PRODUCERS):
        assert [number for each, number in got if each == producer] == list(range(APPENDS))
