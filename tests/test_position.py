"""Where a subscriber stands is told from the first moment on, and moves on past what it does not get."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.daemons import Daemon, Stream, post
from tests.test_clients import CLIENTS, running, tool

EVENTS = "Accept: text/event-stream\r\n"
BYTES = "Accept: application/octet-stream\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def frame(text: str) -> bytes:
    return b"\x81%c%b" % (len(text), text.encode())


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


# The path and fields of a subscriber to a channel CH without a message, and what follows the head at once.
# The place of a channel without a message; its epoch is drawn.
EMPTY = "EEEEEEEE:0"
BEGINNINGS = {
    "events": ("/CH", EVENTS, chunk(f"id: {EMPTY}\n\n")),
    "events of several": ("/-/subscribe?channel=CH&channel=CH.b", EVENTS, chunk(f"id: {EMPTY},{EMPTY}\n\n")),
    "events of a pattern": ("/CH*", EVENTS, chunk(": keep-alive\n\n")),
    "lines": ("/CH", "", chunk("\n")),
    "wrapped lines": ("/CH?_wrap=1", "", chunk('{"cursor":"' + EMPTY + '"}\n')),
    "lines of several": (
        "/-/subscribe?channel=CH&channel=CH.b",
        "",
        chunk('{"cursor":"' + EMPTY + "," + EMPTY + '"}\n'),
    ),
    "lines of a pattern": ("/CH*", "", chunk("\n")),
    "lines that go on": ("/CH?_wrap=1&_since=0:0", "", chunk('{"cursor":"' + EMPTY + '","recovered":true}\n')),
    "bytes": ("/CH", BYTES, b""),
    "socket": ("/CH", UPGRADE, b""),
    "wrapped socket": ("/CH?_wrap=1", UPGRADE, frame('{"cursor":"' + EMPTY + '"}')),
    "socket of several": (
        "/-/subscribe?channel=CH&channel=CH.b",
        UPGRADE,
        frame('{"cursor":"' + EMPTY + "," + EMPTY + '"}'),
    ),
    "socket of a pattern": ("/CH*", UPGRADE, b""),
    "socket that goes on": ("/CH?_wrap=1&_since=0:0", UPGRADE, frame('{"cursor":"' + EMPTY + '","recovered":true}')),
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_what_follows_the_head(daemon: Daemon, channel: str, kind: str) -> None:
    path, fields, expected = BEGINNINGS[kind]
    for _ in range(2):  # the second one's head is known, and its subscription in force
        with daemon.connect() as sock:
            sock.sendall(f"GET {path.replace('CH', channel)} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < len(expected):
                received += sock.recv(65536)
            drawn = re.escape(expected).replace(b"EEEEEEEE", b"[0-9a-f]{8}")
            assert re.fullmatch(drawn, received.partition(b"\r\n\r\n")[2])


def told_at_first(node: Daemon, path: str, fields: dict[str, str]) -> str:
    """The position that a subscriber is told before there is a message, by what a browser sees of the answer."""
    if path.startswith("ws:"):
        with connect(f"ws://127.0.0.1:{node.port}{path[3:]}", proxy=None) as socket:
            cursor: str = json.loads(socket.recv(20))["cursor"]
            return cursor
    with Stream(node, path, fields) as stream:
        line = stream.response.readline()
        return line[4:].decode().strip() if line.startswith(b"id: ") else json.loads(line)["cursor"]


@pytest.mark.parametrize("path", ["/CH?", "/-/subscribe?channel=CH&channel=CH.b&"], ids=["one", "several"])
@pytest.mark.parametrize("kind", ["events", "lines", "socket"])
def test_nothing_is_missed_from_the_first_position_on(daemon: Daemon, channel: str, path: str, kind: str) -> None:
    """A subscriber leaves before there is a message, and comes back after it."""
    path = f"{path}_wrap=1".replace("CH", channel)
    fields = {"Accept": "text/event-stream"} if kind == "events" else {}
    position = told_at_first(daemon, f"ws:{path}" if kind == "socket" else path, fields)
    cursors = post(daemon, channel, 1, 2)
    with Stream(daemon, f"{path}&_since={position}") as stream:
        assert stream.response.headers["Raiden-Recovered"] == "true"
        assert [(line["data"], line["cursor"]) for line in (stream.value(), stream.value())] == [
            (1, cursors[0]), (2, cursors[1]),
        ]  # fmt: skip


def test_a_position_before_the_first_message_tells_what_has_expired(start: Callable[..., Daemon]) -> None:
    node = start(channels={"*": {"history_size": 2}})
    position = told_at_first(node, "/a?_wrap=1", {})
    epoch = post(node, "a", *range(5))[0].partition(":")[0]
    with Stream(node, f"/a?_wrap=1&_since={position}") as stream:
        missing = {"epoch": epoch, "first": 1, "last": 3}
        assert stream.value() == {"channel": "a", "recovered": False, "missing": missing}
        assert [stream.value()["data"] for _ in range(2)] == [3, 4]


@contextmanager
def positions_of(node: Daemon, kind: str) -> Iterator[Iterator[str]]:
    """Subscribes for the reds of the channel a, and of b where it is of several; yields the positions that it is told
    between messages."""
    path = "/-/subscribe?channel=a&channel=b&team=red" if kind.endswith("several") else "/a?team=red&_wrap=1"

    def of_socket(socket: Any) -> Iterator[str]:
        while True:
            told = json.loads(socket.recv(20))
            if "data" not in told:
                yield told["cursor"]

    def of_stream(stream: Stream) -> Iterator[str]:
        while line := stream.response.readline():
            if line.startswith(b"id: ") and stream.response.readline() == b"\n":
                yield line[4:].decode().strip()
            elif line.startswith(b'{"cursor"'):
                yield json.loads(line)["cursor"]

    if kind.startswith("commands"):
        with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
            socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": "a", "filters": {"team": "red"}}))
            yield of_socket(socket)
    elif kind.startswith("socket"):
        with connect(f"ws://127.0.0.1:{node.port}{path}", proxy=None) as socket:
            yield of_socket(socket)
    else:
        with Stream(node, path, {"Accept": "text/event-stream"} if kind.startswith("events") else {}) as stream:
            yield of_stream(stream)


@pytest.mark.parametrize(
    "kind", ["events", "events of several", "lines", "lines of several", "socket", "socket of several", "commands"]
)
def test_the_position_moves_on_past_what_filters_hide(start: Callable[..., Daemon], kind: str) -> None:
    """A subscriber of reds, who comes back after more blues than the history keeps, has missed nothing."""
    node = start(workers=1, keepalive=0.5, channels={"*": {"history_size": 5}})
    with positions_of(node, kind) as positions:
        begin = next(positions)
        post(node, "a", {"team": "red"})
        last = post(node, "a", *[{"team": "blue"}] * 20)[-1]
        first, _, second = begin.partition(",")
        expected = f"{last},{second}" if kind.endswith("several") else last
        assert first == f"{last.partition(':')[0]}:0" and bool(second) == kind.endswith("several")
        assert expected in positions
    path = "/-/subscribe?channel=a&channel=b&" if kind.endswith("several") else "/a?"
    with Stream(node, f"{path}team=red&_since={expected}") as stream:
        assert stream.response.headers["Raiden-Recovered"] == "true"


def test_a_position_that_has_not_moved_is_not_told_again(start: Callable[..., Daemon]) -> None:
    node = start(workers=1, keepalive=0.5)
    with Stream(node, "/a", {"Accept": "text/event-stream"}) as events, Stream(node, "/a?_wrap=1") as lines:
        first, *others = [events.response.readline() for _ in range(3)]
        assert first.endswith(b":0\n") and others == [b"\n", b": keep-alive\n"]
        place = first.removeprefix(b"id: ").strip()
        assert [lines.response.readline() for _ in range(2)] == [b'{"cursor":"%b"}\n' % place, b"\n"]


def test_no_position_is_behind_a_gap_that_was_not_told_yet(start: Callable[..., Daemon]) -> None:
    """A browser that is cut amid the answer would never hear of the gap."""
    node = start(workers=1, keepalive=0.5, channels={"*": {"history_size": 2}})
    a, b = post(node, "a", *range(5)), post(node, "b", *range(5))
    events = {"Accept": "text/event-stream"}
    with Stream(node, "/a", {**events, "Last-Event-ID": "gone:1"}) as stream:
        first = [stream.response.readline() for _ in range(3)]
        assert first == [b": keep-alive\n", b"\n", b"event: gap\n"]
    with Stream(node, "/-/subscribe?channel=a&channel=b", {**events, "Last-Event-ID": f"{a[0]},{b[0]}"}) as stream:
        lines = iter(lambda: stream.line(positions=True), b"")
        ids = []
        for line in lines:
            if line == b"event: gap" and b'"channel":"b"' in next(lines):
                break
            ids += [line[4:].decode()] if line.startswith(b"id: ") else []
        assert ids and all(each.endswith(b[0]) for each in ids), ids


def test_a_proxy_passes_the_head_on_at_once(start: Callable[..., Daemon]) -> None:
    """Node's pipe holds a head back until there is a byte of the body."""
    node = start(workers=1, keepalive=60)
    with running(tool("node"), str(CLIENTS / "pipe.js"), str(node.port), stdout=subprocess.PIPE) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        for accept in ("text/event-stream", "application/x-ndjson"):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                connection.request("GET", "/a", headers={"Accept": accept})
                answer = connection.getresponse()
                assert (answer.status, answer.headers["Content-Type"]) == (200, accept)
                answer.close()
