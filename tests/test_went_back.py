"""A store that went back: what it lost is told to everyone who knew of it, and everyone gets what follows, once."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import zmq
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.daemons import Daemon, Stream, post, wait_for
from tests.stores import RedisServer

GAP = {"recovered": False, "missing": None}


@pytest.fixture
def forgetful(installed_redis: None, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that keeps what it is told to save."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, "--appendonly", "no")
    yield server
    server.stop()


def save(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.save()


def publish(node: Daemon, channel: str, *numbers: int) -> list[str]:
    """As soon as the store is there."""
    status, _, _ = node.request("GET", "/-/ready")
    if status != 200:
        wait_for(lambda: node.request("GET", "/-/ready")[0] == 200, "the store is there")
    return [cursor for number in numbers for cursor in post(node, channel, number)]


def events(stream: Stream, count: int) -> list[Any]:
    """The numbers of messages, and gaps."""
    found: list[Any] = []
    name = ""
    while len(found) < count:
        field, _, value = stream.line().decode().partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            found.append(json.loads(value))
            assert name == ("gap" if isinstance(found[-1], dict) else "")
            name = ""
    return found


def wrapped(read: Callable[[], Any], count: int) -> list[Any]:
    """The same of what is wrapped; lines that only tell of the position are left out."""
    found: list[Any] = []
    while len(found) < count:
        line = read()
        if line.pop("channel", None) is not None:
            found.append(line.get("data", line))
    return found


def frames(socket: ClientConnection) -> Callable[[], Any]:
    return lambda: json.loads(socket.recv(20))


@contextmanager
def sub(node: Daemon) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger, socket.rcvtimeo = 0, 20_000
        socket.connect(node.doors()["SUB"])
        for topic in (b"t", b"-/in-force/x"):
            socket.subscribe(topic)
        assert socket.recv_multipart()[0] == b"-/in-force/x"
        yield socket


def history(node: Daemon, cursor: str) -> tuple[dict[str, Any], list[int]]:
    """By the REQ door."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger, socket.rcvtimeo = 0, 20_000
        socket.connect(node.doors()["REQ"])
        socket.send_multipart([b"history", b"t", cursor.encode()])
        status, summary, *frames = socket.recv_multipart()
        assert status == b"200"
        return json.loads(summary), list(map(int, frames[1::2]))


def come_back(node: Daemon, cursor: str, expected: list[int], *, recovered: bool) -> None:
    """On every transport; with the proof, and without it."""
    told = {True: "true", False: "false"}[recovered]
    gaps = [] if recovered else [GAP]
    for since in (cursor, cursor.rpartition(":")[0]):
        with Stream(node, "/t", {"Accept": "text/event-stream", "Last-Event-ID": since}) as stream:
            assert stream.response.headers["Raiden-Recovered"] == told
            assert events(stream, len(gaps) + len(expected)) == [*gaps, *expected]
        with Stream(node, f"/t?_wrap=1&_since={since}") as stream:
            assert stream.response.headers["Raiden-Recovered"] == told
            assert wrapped(stream.value, len(gaps) + len(expected)) == [*gaps, *expected]
        status, headers, body = node.request("GET", f"/t?_wait=0&_since={since}")
        assert headers["raiden-recovered"] == told
        answer = json.loads(body) if status == 200 else {"messages": []}
        assert [item["data"] for item in answer["messages"]] == expected
        assert answer.get("gap") == (None if recovered else GAP)
        address = f"ws://127.0.0.1:{node.port}"
        with connect(f"{address}/t?_wrap=1&_since={since}", proxy=None) as socket:
            lines = wrapped(frames(socket), len(gaps) + len(expected))
            assert lines == [*gaps, *expected]
        with connect(f"{address}/t?_since={since}", proxy=None) as socket:
            if recovered:
                assert [json.loads(socket.recv(20)) for _ in expected] == expected
            else:
                with pytest.raises(ConnectionClosed, match="4004"):
                    socket.recv(20)
        with connect(f"{address}/-/websocket", proxy=None) as socket:
            socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": "t", "since": since}))
            assert json.loads(socket.recv(20))["recovered"] is recovered
            lines = wrapped(frames(socket), len(gaps) + len(expected))
            assert lines == [*gaps, *expected]
        page = node.json(f"/-/channels/t/history?_since={since}")
        assert ([item["data"] for item in page["messages"]], page.get("gap")) == (expected, None if recovered else GAP)
        summary, numbers = history(node, since)
        assert (numbers, summary.get("gap")) == (expected, None if recovered else GAP)


def test_a_server_that_was_restarted_from_a_snapshot(forgetful: RedisServer, start: Callable[..., Daemon]) -> None:
    node = start(store=forgetful.url, workers=2, zmq_sub_port=0, zmq_req_port=0)
    with (
        Stream(node, "/t?_wrap=1") as lines,
        Stream(node, "/t", {"Accept": "text/event-stream"}) as stream,
        connect(f"ws://127.0.0.1:{node.port}/t?_wrap=1", proxy=None) as socket,
        connect(f"ws://127.0.0.1:{node.port}/t", proxy=None) as bare,
        sub(node) as subscriber,
        ThreadPoolExecutor(1) as pool,
    ):
        cursors = publish(node, "t", 1, 2, 3, 4, 5)
        save(forgetful)
        cursors += publish(node, "t", 6, 7, 8, 9, 10)
        assert wrapped(lines.value, 10) == list(range(1, 11))
        poll = pool.submit(node.request, "GET", f"/t?_wait=20&_since={cursors[9]}")
        wait_for(lambda: node.metric("raiden_connections", transport="poll") == 1, "the poll waits")
        forgetful.kill()
        forgetful.start()
        new = publish(node, "t", 11, 12, 13, 14, 15, 16)
        assert {cursor.partition(":")[0] for cursor in new}.isdisjoint({cursors[0].partition(":")[0]})
        after = [GAP, *range(11, 17)]
        assert wrapped(lines.value, 7) == after
        assert events(stream, 17) == [*range(1, 11), *after]
        assert wrapped(frames(socket), 17) == [*range(1, 11), *after]
        assert [json.loads(bare.recv(20)) for _ in range(10)] == list(range(1, 11))
        with pytest.raises(ConnectionClosed, match="4004"):
            bare.recv(20)
        messages = [subscriber.recv_multipart() for _ in range(16)]
        assert [int(payload) for _, payload, _ in messages] == list(range(1, 17))
        assert messages[10][2].split(b":")[0] != messages[9][2].split(b":")[0], "which tells of the gap"
        status, headers, body = poll.result(20)
        answer = json.loads(body)
        assert (status, headers["raiden-recovered"], answer["gap"]) == (200, "false", GAP)
        assert [item["data"] for item in answer["messages"]] == list(range(11, 11 + len(answer["messages"])))
    come_back(node, cursors[9], list(range(11, 17)), recovered=False)
    come_back(node, cursors[4], list(range(11, 17)), recovered=True)
    come_back(node, new[2], [14, 15, 16], recovered=True)


def test_a_server_that_went_back_before_anything_was_published(
    forgetful: RedisServer, start: Callable[..., Daemon]
) -> None:
    """The first that is asked of the server after that leads to a look at the positions; and those who come back are
    told anyway."""
    node = start(store=forgetful.url, position_check=3600.0, zmq_req_port=0)
    cursors = publish(node, "t", 1, 2, 3)
    save(forgetful)
    cursors += publish(node, "t", 4, 5)
    with Stream(node, f"/t?_wrap=1&_since={cursors[3]}") as lines:
        assert wrapped(lines.value, 1) == [5]
        forgetful.kill()
        forgetful.start()
        publish(node, "other", 1)
        assert wrapped(lines.value, 1) == [GAP]
        come_back(node, cursors[4], [], recovered=False)
        come_back(node, cursors[2], [], recovered=True)
        publish(node, "t", 6)
        assert wrapped(lines.value, 1) == [6]
    come_back(node, cursors[4], [6], recovered=False)


def test_a_server_that_lost_nothing(own_server: RedisServer, start: Callable[..., Daemon]) -> None:
    """Nobody is told anything."""
    node = start(store=own_server.url, position_check=0.3, zmq_req_port=0)
    with Stream(node, "/t?_wrap=1") as lines, Stream(node, "/t") as plain:
        cursors = publish(node, "t", 1, 2, 3)
        for number in (4, 6):
            own_server.kill()
            own_server.start()
            cursors += publish(node, "t", number, number + 1)
        assert wrapped(lines.value, 7) == list(range(1, 8))
        assert [plain.value() for _ in range(7)] == list(range(1, 8))
    come_back(node, cursors[1], [3, 4, 5, 6, 7], recovered=True)
    assert node.metric("raiden_gaps_total") == 0


def put_back(copy: Path, folder: Path) -> None:
    for part in folder.glob("history.sqlite*"):
        part.unlink()
    for part in copy.iterdir():
        shutil.copy(part, folder)


def copied(folder: Path, copy: Path) -> None:
    """The history's files as they are now: what a backup of a running node has."""
    copy.mkdir()
    for part in folder.glob("history.sqlite*"):
        shutil.copy(part, copy)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_data_dir_that_was_put_back(tmp_path: Path, number: int) -> None:
    settings: dict[str, Any] = {"zmq_req_port": 0}
    node = Daemon(tmp_path / "node", **settings)
    cursors = publish(node, "t", 1, 2, 3, 4, 5)
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": "t"}))
        assert json.loads(socket.recv(20)) == {"id": 1, "channel": "t", "cursor": cursors[4]}
        socket.send(json.dumps({"id": 2, "cmd": "session"}))
        session = json.loads(socket.recv(20))["session"]
        copied(node.folder, tmp_path / "copy")
        cursors += publish(node, "t", 6, 7, 8, 9, 10)
        assert wrapped(frames(socket), 5) == [6, 7, 8, 9, 10]
        if number == signal.SIGTERM:
            node.stop()
        else:
            node.hang_up()
            node.signal_all(signal.SIGSTOP)
            node.signal_all(signal.SIGKILL)
            node.process.wait()
    put_back(tmp_path / "copy", node.folder)
    node = Daemon(tmp_path / "node", **settings)
    try:
        come_back(node, cursors[9], [], recovered=False)
        new = publish(node, "t", 11, 12, 13, 14, 15)
        come_back(node, cursors[9], [11, 12, 13, 14, 15], recovered=False)
        publish(node, "t", 16)
        come_back(node, cursors[9], [11, 12, 13, 14, 15, 16], recovered=False)
        come_back(node, cursors[4], [11, 12, 13, 14, 15, 16], recovered=True)
        come_back(node, new[4], [16], recovered=True)
        with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
            socket.send(json.dumps({"id": 1, "cmd": "resume", "session": session, "since": {"t": cursors[9]}}))
            assert json.loads(socket.recv(20))["subscriptions"]["t"]["recovered"] is False
            lines = wrapped(frames(socket), 7)
            assert lines == [GAP, 11, 12, 13, 14, 15, 16]
    finally:
        assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()
