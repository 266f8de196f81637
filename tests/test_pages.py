"""Pages of the history that many ask for, and that nobody reads: what they take is bounded, and nobody waits for it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Daemon, Stream, post, wait_for
from tests.multiplex import Client

MESSAGES, SIZE = 250, 2_000
PAGE = MESSAGES * SIZE
# What either process may take for all pages together: a few, whole, as JSON and as Python's objects, and its garbage.
MOST = 24 << 20


def peak(pid: int) -> int:
    """The most bytes of memory that a process ever took."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.fixture
def node(start: Callable[..., Daemon]) -> Daemon:
    """A node whose channel `large` has a page of half a megabyte."""
    node = start(channels={"*": {"history_size": 1000}})
    for number in range(0, MESSAGES, 50):
        post(node, "large", *[f"{number + n}:" + "x" * SIZE for n in range(50)])
    assert len(node.json("/-/channels/large/history?_limit=1000")["messages"]) == MESSAGES
    return node


def grown(node: Daemon, work: Callable[[], object]) -> dict[str, int]:
    """By how much the peaks of the worker and the history process are higher after some work."""
    pids = {name: pid for name, pid in node.workers().items() if name != "backbone"}
    before = {name: peak(pid) for name, pid in pids.items()}
    work()
    return {name: peak(pid) - before[name] for name, pid in pids.items()}


def test_commands_whose_answers_are_not_read(node: Daemon) -> None:
    """Of 120 commands none fails; the answers come in order once they are read. Meanwhile others are served."""
    clients = [Client(node, buffer=1 << 16) for _ in range(2)]

    def work() -> None:
        asked = [[client.send(cmd="history", channel="large", limit=1000) for _ in range(60)] for client in clients]
        assert node.post_json("/other", 1)[0] == 200
        with Client(node) as other:
            found = other.ask(cmd="history", channel="large", limit=1000)
            assert len(found["messages"]) == MESSAGES
        for client, numbers in zip(clients, asked, strict=True):
            for number in numbers:
                assert len(client.reply(number)["messages"]) == MESSAGES

    growth = grown(node, work)
    for client in clients:
        client.close()
    assert max(growth.values()) < MOST, growth


def test_commands_that_wait_for_others(node: Daemon) -> None:
    """Commands that wait take little, however many sockets have as many under way as they may: of each socket one page
    waits for its client, which is 20 MB for these; a greenlet for each command took 57."""
    clients = [Client(node, buffer=1 << 14) for _ in range(40)]

    def work() -> None:
        last = [[client.send(cmd="history", channel="large", limit=10) for _ in range(127)][-1] for client in clients]
        for client, number in zip(clients, last, strict=True):
            assert len(client.reply(number)["messages"]) == 10
        for client in clients:
            client.send(cmd="history", channel="large", limit=1000)
            for _ in range(126):
                client.send(cmd="history", channel="large", limit=10)
        for client in clients[1:]:
            client.close()
        assert clients[0].ask(cmd="history", channel="other") is not None

    growth = grown(node, work)
    clients[0].close()
    assert max(growth.values()) < len(clients) * PAGE, growth


def test_replays_that_are_not_read(node: Daemon) -> None:
    """Streams that nobody reads for now: what is not sent is read again, and nothing is lost or comes twice."""
    streams: list[socket.socket] = []

    def work() -> None:
        for _ in range(80):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((node.host, node.port))
            sock.sendall(b"GET /large?_last=1000 HTTP/1.1\r\nHost: a\r\n\r\n")
            streams.append(sock)
        wait_for(lambda: node.metric("raiden_connections", transport="stream") == len(streams), "all are subscribed")
        assert node.post_json("/other", 1)[0] == 200
        for sock in streams:
            lines = read(sock)
            assert [int(line.partition(":")[0]) for line in lines] == list(range(MESSAGES))

    growth = grown(node, work)
    for sock in streams:
        sock.close()
    assert max(growth.values()) < MOST, growth


def read(sock: socket.socket) -> list[Any]:
    """The messages of the page, off a stream."""
    lines: list[Any] = []
    with sock.makefile("rb") as file:
        while len(lines) < MESSAGES:
            line = file.readline()
            assert line, "it ended"
            if line.startswith(b'"'):
                lines.append(json.loads(line))
    return lines


def test_many_channels_at_once_that_are_not_read(start: Callable[..., Daemon]) -> None:
    """A stream of many channels does not have all of their first pages at once."""
    node = start()
    names = [f"c{number}" for number in range(60)]
    for name in names:
        post(node, name, *["x" * 8_000 for _ in range(60)])
    query = "&".join(f"channel={name}" for name in names)

    def work() -> None:
        with Stream(node, f"/-/subscribe?{query}&_since={','.join(['0:0'] * len(names))}") as stream:
            got = [stream.value()["channel"] for _ in range(60 * len(names))]
            assert sorted(got) == sorted(names * 60)
        with Client(node) as client:
            for name in names:
                client.send(cmd="subscribe", channel=name, since="earliest")
            seen: list[str] = []
            while len(seen) < 60 * len(names):
                message = client.push()
                seen += [message["channel"]] if "data" in message else []
            assert sorted(seen) == sorted(names * 60)

    growth = grown(node, work)
    assert max(growth.values()) < MOST, growth


def test_a_poll_of_many_channels_has_no_more_than_an_answer(start: Callable[..., Daemon]) -> None:
    """What is more comes with the polls that go on from its cursor, each message once."""
    node = start(max_outbox=100_000)
    names = [f"c{number}" for number in range(10)]
    for name in names:
        post(node, name, *[f"{number}" + "x" * 4_000 for number in range(20)])
    query = "&".join(f"channel={name}" for name in names)
    got: list[tuple[str, str]] = []
    place, answers = ",".join(["0:0"] * len(names)), 0
    while len(got) < 20 * len(names):
        status, headers, body = node.request("GET", f"/-/subscribe?{query}&_wait=10&_since={place}")
        assert status == 200, body
        assert len(body) < 2 * 100_000
        got += [(item["channel"], item["cursor"]) for item in json.loads(body)["messages"]]
        place, answers = headers["raiden-cursor"], answers + 1
    assert len(set(got)) == len(got) == 20 * len(names) and answers > 1
