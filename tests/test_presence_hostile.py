"""Presence where clients, or what is between, do not do as expected; on one worker, and on two."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import multiplex
from tests.daemons import Daemon, Stream, running, wait_for
from tests.test_presence import Socket, subs, token, who
from tests.tokens import JWT_KEYS, bearer

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("hostile")
    yield from running(folder / "node", jwt_keys=JWT_KEYS, presence_linger=1, max_presence=20)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node where clients may take their time between two polls."""
    folder = tmp_path_factory.mktemp("patient")
    yield from running(folder / "node", jwt_keys=JWT_KEYS, presence_linger=600, store="none")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def watcher(node: Daemon, channel: str, stack: ExitStack) -> Socket:
    """A client without a subject that watches the channel, where nobody is."""
    found = stack.enter_context(Socket(node, token(None)))
    assert found.watch(channel)["members"] == []
    return found


def request(connection: http.client.HTTPConnection, method: str, path: str, sub: str) -> None:
    connection.request(method, path, "1" if method == "POST" else None, {**JSON, **bearer(token(sub))})
    response = connection.getresponse()
    assert response.status in (200, 202, 204), response.read()
    response.read()


def test_a_later_subscription_of_the_same_name_does_not_watch(node: Daemon, channel: str, stack: ExitStack) -> None:
    """The client has no permission any more when it makes that, before the reply to the one by which it watches."""
    spy = stack.enter_context(Socket(node, token("spy")))
    with Stream(node, f"/{channel}", bearer(token("ann"))):
        first = spy.send(cmd="subscribe", channel=channel, presence=True)
        spy.send(cmd="auth", token=token("spy", presence=[]))
        second = spy.send(cmd="subscribe", channel=channel)
        assert "presence" not in spy.reply(first)
        assert "error" not in spy.reply(second)
    spy.pushes.clear()
    watcher = stack.enter_context(Socket(node, token(None)))
    watcher.watch(channel)
    with Stream(node, f"/{channel}", bearer(token("bob"))):
        while watcher.push().get("join", {}).get("sub") != "bob":
            pass
        node.request("POST", f"/{channel}", "1", {**JSON, **bearer(token("x"))})
        assert spy.push()["data"] == 1, "and nothing was told before"


def test_too_many_members_on_one_worker(node: Daemon, channel: str, stack: ExitStack, watcher: Socket) -> None:
    """Their number is told, and watchers that come later are told the number as it is then."""
    streams = [stack.enter_context(Stream(node, f"/{channel}", bearer(token(f"m{at}")))) for at in range(21)]
    while "join" in (told := watcher.push()):
        pass
    assert told["presence"] == {"members": None, "count": 21, "complete": True}
    streams += [stack.enter_context(Stream(node, f"/{channel}", bearer(token(f"n{at}")))) for at in range(9)]

    def counted() -> bool:
        with Socket(node, token(None)) as late:
            told = late.watch(channel)
            return told["members"] is None and told["count"] == 30

    wait_for(counted, "all are counted")
    assert who(node, channel)["count"] == 30 and watcher.rest() == []


def test_the_info_of_the_newest_connection(start: Callable[..., Daemon], channel: str, stack: ExitStack) -> None:
    """Members with connections on two workers: who asks and who watches is told the same."""
    node = start(workers=2, jwt_keys=JWT_KEYS, store="none")
    one, two = (sockets for _, sockets in sorted(multiplex.on_each_worker(node, 3).items()))
    for each in (*one, *two):
        stack.enter_context(each)
    watcher = one[0]
    watcher.ask(cmd="auth", token=token(None))
    watcher.ask(cmd="subscribe", channel=channel, presence=True)
    since = set()
    for each, info in ((one[1], "first"), (two[1], "second"), (one[2], "third"), (two[2], "fourth")):
        each.ask(cmd="auth", token=token("ann", info=info))
        each.ask(cmd="subscribe", channel=channel)
        told = watcher.push()["join"]
        (row,) = who(node, channel)["members"]
        assert told["info"] == row["info"] == info
        since |= {told["since"], row["since"]}
    assert len(since) == 1
    two[2].ask(cmd="unsubscribe", channel=channel)
    assert watcher.push()["join"]["info"] == who(node, channel)["members"][0]["info"] == "third"


def test_polls_that_are_answered_at_once(node: Daemon, channel: str, watcher: Socket) -> None:
    """A client that always has something to read never waits; it is there for as long as it asks."""
    connection = node.open()
    request(connection, "POST", f"/{channel}", "x")
    assert watcher.push()["data"] == 1
    for _ in range(100):
        request(connection, "GET", f"/{channel}?_wait=20&_since=earliest", "bob")
    watcher.hears("join", "bob")
    connection.close()
    watcher.hears("leave", "bob")


def test_a_proxy_uses_a_connection_for_several_clients(patient: Daemon, channel: str, stack: ExitStack) -> None:
    """Those that do something else by the connection of one that polls are not at the channel."""
    watcher = stack.enter_context(Socket(patient, token(None)))
    watcher.watch(channel)
    shared, other = patient.open(), patient.open()
    request(shared, "GET", f"/{channel}?_wait=0", "bob")
    watcher.hears("join", "bob")
    for sub in ("eve", "bob", "eve"):
        request(shared, "POST", f"/{channel}.2", sub)
        assert subs(patient, channel) == {"bob": int(sub == "bob")}
    request(shared, "GET", f"/{channel}?_wait=0", "ann")
    request(other, "GET", f"/{channel}?_wait=0", "bob")
    assert subs(patient, channel) == {"ann": 1, "bob": 1}
    watcher.hears("join", "ann")
    assert watcher.rest() == []
    shared.close()
    other.close()


def test_one_connection_polls_several_channels(patient: Daemon, channel: str) -> None:
    """A client that waits for another channel by the same connection has not left the first."""
    connection = patient.open()
    request(connection, "GET", f"/{channel}?_wait=0", "bob")
    connection.request("GET", f"/{channel}.2?_wait=60", headers=bearer(token("bob")))
    wait_for(lambda: subs(patient, f"{channel}.2") == {"bob": 1}, "it waits")
    assert subs(patient, channel) == {"bob": 0}
    connection.close()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_many_that_ask_at_once_are_one_question(patient: Daemon, channel: str, stack: ExitStack) -> None:
    """The answer is made once for all of them: a channel with many members does not keep a worker busy."""
    worker = patient.workers()["worker 0"]
    connection = patient.open()
    for number in range(600):
        request(connection, "GET", f"/{channel}?_wait=0", f"member {number}")
    head = f"GET /-/channels/{channel}/presence HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token('ann')}\r\n\r\n"
    sockets = [stack.enter_context(patient.connect()) for _ in range(200)]

    def ask(askers: list[socket.socket]) -> float:
        before = cpu(worker)
        for each in askers:
            each.sendall(head.encode())
        for each in askers:
            answer = http.client.HTTPResponse(each)
            answer.begin()
            assert answer.status == 200 and json.loads(answer.read())["count"] == 600
        return cpu(worker) - before

    alone = sum([ask(sockets[:1]) for _ in range(10)])
    assert ask(sockets) < 3 * alone, "of twenty times as many"
    connection.close()
