"""Who comes back gets what it missed, on every transport, while others publish: nothing missing, nothing twice."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.daemons import Daemon, Stream, memory, post, running, wait_for

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
SSE = {"Accept": "text/event-stream"}
MANY = 200_000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two workers, and a history of all that is published."""
    yield from running(
        tmp_path_factory.mktemp("node"), workers=2, position_check=0.5,
        channels={
            "*": {"history_size": MANY}, "short*": {"history_size": 5}, "brief*": {"history_ttl": 0.3},
            "none*": {"history_size": 0}, "retain*": {"history_size": 0, "retain": 60},
        },
    )  # fmt: skip


# Publishing.


def offset_of(cursor: str) -> int:
    return int(cursor.split(":")[1])


class Load:
    """Publishers of channels, each on a connection of its own; ``acked`` has the value of each offset by channel. A
    value is a number of eight digits."""

    def __init__(self, node: Daemon, *channels: str, each: int = 2) -> None:
        self.acked: dict[str, dict[int, int]] = {channel: {} for channel in channels}
        self.refused = 0
        self._node = node
        self._stop = threading.Event()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._publish, args=(channel, number))
            for channel in channels for number in range(each)
        ]  # fmt: skip

    def _publish(self, channel: str, number: int) -> None:
        connection = self._node.open()
        value = 10_000_000 * (number + 1)
        try:
            while not self._stop.is_set():
                connection.request("POST", f"/{quote(channel)}", str(value), JSON)
                response = connection.getresponse()
                body = response.read()
                if response.status == 503:
                    self.refused += 1
                    self._stop.wait(0.02)
                elif response.status != 200:
                    self._errors.append(f"{response.status} {body!r}")
                    return
                else:
                    offset = offset_of(json.loads(body)["cursor"])
                    if self.acked[channel].setdefault(offset, value) != value:
                        self._errors.append(f"offset {offset} twice")
                value += 1
        except (OSError, http.client.HTTPException) as error:
            self._errors.append(repr(error))
        finally:
            connection.close()

    def newest(self, channel: str) -> int:
        return max(list(self.acked[channel]), default=0)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not self._errors, self._errors

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


# Reading: each yields first where it begins, then ``(channel, cursor, value)``.


class Item(NamedTuple):
    """A message and its cursor; or where a reader begins, as told, and whether nothing is missing before that."""

    cursor: str
    value: Any = None
    recovered: bool | None = None
    channel: str = ""


Read = Callable[[Daemon, str, str | None], Iterator[Item]]


def began(headers: Any) -> Item:
    recovered = headers.get("Raiden-Recovered")
    return Item(headers.get("Raiden-Cursor"), recovered={"true": True, "false": False, None: None}[recovered])


def since_of(since: str | None) -> str:
    return "" if since is None else f"_since={since}"


def begins_at(start: Item, since: str) -> bool:
    """Whether a reader begins behind this cursor. One who has got all that there is may be told the proof, too."""
    return start.cursor == since or (since.count(":") == 1 and start.cursor.rpartition(":")[0] == since)


def after(cursor: str) -> str:
    epoch, offset, *_ = cursor.split(":")
    return f"{epoch}:{int(offset) + 1}"


def read_events(node: Daemon, channel: str, since: str | None) -> Iterator[Item]:
    with Stream(node, f"/{channel}", {**SSE, **({"Last-Event-ID": since} if since else {})}) as stream:
        yield began(stream.response.headers)
        while True:
            cursor, data = stream.line().decode(), stream.line().decode()
            assert cursor.startswith("id: ") and data.startswith("data: "), (cursor, data)
            yield Item(cursor[4:], json.loads(data[6:]))


def read_lines(node: Daemon, channel: str, since: str | None) -> Iterator[Item]:
    with Stream(node, f"/{channel}?{since_of(since)}") as stream:
        item = began(stream.response.headers)
        while True:
            yield item
            item = Item(after(item.cursor), stream.value())


def read_wrapped(node: Daemon, channel: str, since: str | None) -> Iterator[Item]:
    with Stream(node, f"/{channel}?_wrap=1&{since_of(since)}") as stream:
        yield began(stream.response.headers)
        while True:
            line = stream.value()
            assert line["channel"] == channel
            yield Item(line["cursor"], line["data"])


def read_raw(node: Daemon, channel: str, since: str | None) -> Iterator[Item]:
    with Stream(node, f"/{channel}?{since_of(since)}", {"Accept": "application/octet-stream"}) as stream:
        item = began(stream.response.headers)
        while True:
            yield item
            item = Item(after(item.cursor), json.loads(stream.response.read(8)))


def place_of(node: Daemon, path: str) -> str:
    """Where a stream would begin now."""
    with Stream(node, path) as stream:
        place: str = stream.response.headers["Raiden-Cursor"]
        return place


def read_polls(node: Daemon, channel: str, since: str | None) -> Iterator[Item]:
    """The first one begins where a stream would; each following one may be answered by the other worker."""
    since = since or place_of(node, f"/{channel}")
    connection = node.open()
    try:
        wait = 0
        while True:
            connection.request("GET", f"/{channel}?_wait={wait}&{since_of(since)}")
            response = connection.getresponse()
            body = response.read()
            assert response.status in (200, 204), body
            answer = json.loads(body) if body else {"messages": []}
            if not wait:
                yield began(response.headers)._replace(cursor=since)
            since = response.headers["Raiden-Cursor"]
            assert "gap" not in answer and answer.get("cursor", since) == since
            for message in answer["messages"]:
                yield Item(message["cursor"], message["data"])
            connection.close()
            connection, wait = node.open(), 20
    finally:
        connection.close()


def read_socket(node: Daemon, channel: str, since: str | None) -> Iterator[Item]:
    url = f"ws://127.0.0.1:{node.port}/{channel}?{since_of(since)}"
    with connect(url, proxy=None, max_queue=None) as socket:
        assert socket.response
        item = began(socket.response.headers)
        while True:
            yield item
            item = Item(after(item.cursor), json.loads(socket.recv(20)))


def read_multiplexed(node: Daemon, channel: str, since: str | None) -> Iterator[Item]:
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None, max_queue=None) as socket:
        command = {"id": 1, "cmd": "subscribe", "channel": channel, **({"since": since} if since else {})}
        socket.send(json.dumps(command))
        reply = json.loads(socket.recv(20))
        assert reply["id"] == 1 and reply["channel"] == channel, reply
        yield Item(reply["cursor"], recovered=reply.get("recovered"))
        while True:
            push = json.loads(socket.recv(20))
            assert push["channel"] == channel
            yield Item(push["cursor"], push["data"])


READERS: list[Read] = [
    read_events, read_lines, read_wrapped, read_raw, read_polls, read_socket, read_multiplexed,
]  # fmt: skip
TELLING: list[Read] = [read_events, read_wrapped, read_polls, read_multiplexed]


def named(read: Read) -> str:
    return read.__name__.removeprefix("read_")


def items(read: Read, node: Daemon, channel: str, since: str | None) -> Any:
    return closing(read(node, channel, since))


@pytest.mark.parametrize("read", READERS, ids=named)
def test_resuming_under_load(node: Daemon, channel: str, read: Read) -> None:
    """25 times at any moment, after a few messages, or when the reader has caught up with the live ones."""
    random = Random(1)
    got: list[Item] = []
    with Load(node, channel) as load:
        wait_for(lambda: load.newest(channel) > 20, "the publishers publish")
        since = None
        for resume in range(26):
            with items(read, node, channel, since) as reader:
                start = next(reader)
                if since is None:
                    since = first = start.cursor
                assert begins_at(start, since) and (start.recovered or not resume)
                until = load.newest(channel) + 3 if random.random() < 0.7 else 0
                for _ in range(random.randrange(1, 20)):
                    got.append(next(reader))
                while offset_of(got[-1].cursor) < until:
                    got.append(next(reader))
                since = got[-1].cursor
        load.stop()
        with items(read, node, channel, since) as reader:
            next(reader)
            while offset_of(got[-1].cursor) < load.newest(channel):
                got.append(next(reader))
    begin, acked = offset_of(first), load.acked[channel]
    assert [offset_of(item.cursor) for item in got] == list(range(begin + 1, load.newest(channel) + 1))
    assert [item.value for item in got] == [acked[offset] for offset in range(begin + 1, load.newest(channel) + 1)]


# Several channels: a position is a cursor for each.


def read_many_lines(node: Daemon, channels: list[str], since: str | None) -> Iterator[Item]:
    query = "&".join(f"channel={name}" for name in channels)
    with Stream(node, f"/-/subscribe?{query}&{since_of(since)}") as stream:
        yield began(stream.response.headers)
        position = dict(zip(channels, stream.response.headers["Raiden-Cursor"].split(","), strict=True))
        while True:
            line = stream.value()
            position[line["channel"]] = line["cursor"]
            yield Item(",".join(position.values()), line["data"], channel=line["channel"])


def read_many_events(node: Daemon, channels: list[str], since: str | None) -> Iterator[Item]:
    """What comes between two positions, comes again where the first of them is resumed from."""
    query = "&".join(f"channel={name}" for name in channels)
    headers = {**SSE, **({"Last-Event-ID": since} if since else {})}
    with Stream(node, f"/-/subscribe?{query}", headers) as stream:
        yield began(stream.response.headers)
        turn: list[dict[str, Any]] = []
        while True:
            name, _, value = stream.line(positions=True).decode().partition(": ")
            if name == "data":
                turn.append(json.loads(value))
                continue
            assert name == "id"
            for each in turn:
                yield Item(value if each is turn[-1] else "", each["data"], channel=each["channel"])
            turn.clear()


def read_many_polls(node: Daemon, channels: list[str], since: str | None) -> Iterator[Item]:
    query = "&".join(f"channel={name}" for name in channels)
    since = since or place_of(node, f"/-/subscribe?{query}")
    wait = 0
    while True:
        status, headers, body = node.request("GET", f"/-/subscribe?{query}&_wait={wait}&{since_of(since)}")
        assert status in (200, 204), body
        answer = json.loads(body) if body else {"messages": []}
        if not wait:
            yield Item(since, recovered=headers["raiden-recovered"] == "true")
        since = headers["raiden-cursor"]
        assert "gap" not in answer and answer.get("cursor", since) == since
        for each in answer["messages"]:
            last = each is answer["messages"][-1]
            yield Item(since if last else "", each["data"], channel=each["channel"])
        wait = 20


@pytest.mark.parametrize("read", [read_many_lines, read_many_events, read_many_polls], ids=named)
def test_resuming_several_channels_under_load(
    node: Daemon, channel: str, read: Callable[[Daemon, list[str], str | None], Iterator[Item]]
) -> None:
    random = Random(2)
    channels = [f"{channel}.{name}" for name in "abc"]
    got: dict[str, list[int]] = {name: [] for name in channels}
    with Load(node, *channels, each=1) as load:
        wait_for(lambda: all(load.newest(name) > 5 for name in channels), "the publishers publish")
        since, first = None, ""
        for resume in range(15):
            with closing(read(node, channels, since)) as reader:  # type: ignore[type-var]
                start = next(reader)
                if since is None:
                    since = first = start.cursor
                assert start.cursor == since and (start.recovered or not resume)
                count = random.randrange(1, 100)
                turn: list[Item] = []
                while count > 0 or turn:
                    turn.append(next(reader))
                    count -= 1
                    if turn[-1].cursor:
                        since = turn[-1].cursor
                        for item in turn:
                            got[item.channel].append(item.value)
                        turn.clear()
        load.stop()
    assert since is not None
    places = zip(channels, first.split(","), since.split(","), strict=True)
    for name, begin, end in places:
        assert got[name], "each channel brings something"
        acked = load.acked[name]
        assert got[name] == [acked[offset] for offset in range(offset_of(begin) + 1, offset_of(end) + 1)]


def test_breaking_off_while_the_first_of_two_channels_is_sent(node: Daemon, channel: str) -> None:
    """The id that came last says of the other that nothing of it was sent yet."""
    a, b = f"{channel}.a", f"{channel}.b"
    with closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for name in (a, b):
            for start in range(0, 4000, 1000):
                cursors = post(node, name, *[[n, "x" * 1000] for n in range(start, start + 1000)])
        epoch = cursors[0].partition(":")[0]
        sock.settimeout(20)
        sock.connect((node.host, node.port))
        path = f"/-/subscribe?channel={a}&channel={b}&_since=earliest"
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n".encode())
        received = b""
        while received.count(b"\nid: ") < 2:
            received += sock.recv(65536)
    assert a.encode() in received and b.encode() not in received.partition(b"\r\n\r\n")[2]
    ids = [line for line in received.decode().splitlines() if line.startswith("id: ")]
    assert {line.split(",")[1] for line in ids} <= {f"{epoch}:0"}, ids


# Where to begin.


@pytest.mark.parametrize("read", READERS, ids=named)
def test_the_earliest_and_the_last(node: Daemon, channel: str, read: Read) -> None:
    cursors = post(node, channel, *range(10_000_000, 10_000_010))
    with items(read, node, channel, "earliest") as reader:
        start = next(reader)
        assert start.recovered is True
        assert start.cursor == "earliest" if read is read_polls else offset_of(start.cursor) == 0
        assert [next(reader).value for _ in range(10)] == list(range(10_000_000, 10_000_010))
        post(node, channel, 10_000_010)
        assert next(reader).value == 10_000_010
    with items(read, node, channel, cursors[6]) as reader:
        assert next(reader).recovered is True
        assert [next(reader).value for _ in range(4)] == list(range(10_000_007, 10_000_011))


def test_the_last_few(node: Daemon, channel: str) -> None:
    cursors = post(node, channel, *range(10))
    for last, first in ((1, 9), (3, 7), (10, 0), (1000, 0)):
        with Stream(node, f"/{channel}?_wrap=1&_last={last}") as stream:
            assert stream.response.headers["Raiden-Recovered"] == "true"
            assert stream.value() == {"channel": channel, "data": first, "cursor": cursors[first]}
            assert [stream.value()["data"] for _ in range(9 - first)] == list(range(first + 1, 10))
            node.publish(f"{channel}", 10)
            assert stream.value()["data"] == 10
        status, headers, body = node.request("GET", f"/{channel}?_wait=20&_last=2")
        assert [message["data"] for message in json.loads(body)["messages"]][-1] == 10
        assert status == 200 and headers["raiden-recovered"] == "true"
        clear(node, channel)
        cursors = post(node, channel, *range(10))
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": channel, "last": 2}))
        assert json.loads(socket.recv(20)) == {
            "id": 1,
            "channel": channel,
            "cursor": cursors[7].rpartition(":")[0],
            "recovered": True,
        }
        assert [json.loads(socket.recv(20))["data"] for _ in range(2)] == [8, 9]


def test_the_event_id_wins(node: Daemon, channel: str) -> None:
    """A browser that comes back asks for the same URL, and says by the header how far it got."""
    cursors = post(node, channel, *range(5))
    for query in ("_since=earliest", "_last=5", f"_since={cursors[0]}", f"_since={cursors[0]}&_last=1"):
        with Stream(node, f"/{channel}?{query}", {"Last-Event-ID": cursors[3]}) as stream:
            assert stream.value() == 4
    with Stream(node, f"/{channel}?_since={cursors[2]}&_last=1") as stream:
        assert stream.value() == 3


def test_a_channel_that_has_no_message_yet(node: Daemon, channel: str) -> None:
    with Stream(node, f"/{channel}?_since=earliest") as stream:
        headers = stream.response.headers
        assert offset_of(headers["Raiden-Cursor"]) == 0 and headers["Raiden-Recovered"] == "true"
        node.publish(channel, 1)
        assert stream.value() == 1
    with items(read_events, node, channel, "0:0") as reader:
        begin = next(reader)
        assert offset_of(begin.cursor) == 0 and begin.recovered is True
        assert next(reader).value == 1


# What is gone.


def told_gap(read: Read, node: Daemon, channel: str, since: str) -> tuple[Any, Any]:
    """What is told in band of a gap, and the value that follows."""
    if read is read_events:
        with Stream(node, f"/{channel}", {**SSE, "Last-Event-ID": since}) as stream:
            assert stream.response.headers["Raiden-Recovered"] == "false"
            assert stream.line() == b"event: gap"
            told = json.loads(stream.line()[6:])
            assert stream.line().startswith(b"id: ")
            return told, json.loads(stream.line()[6:])
    if read is read_wrapped:
        with Stream(node, f"/{channel}?_wrap=1&_since={since}") as stream:
            assert stream.response.headers["Raiden-Recovered"] == "false"
            told = stream.value()
            assert told.pop("channel") == channel
            return told, stream.value()["data"]
    if read is read_polls:
        _, headers, body = node.request("GET", f"/{channel}?_wait=20&_since={since}")
        assert headers["raiden-recovered"] == "false"
        answer = json.loads(body)
        return answer["gap"], answer["messages"][0]["data"]
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": channel, "since": since}))
        reply, told, push = [json.loads(socket.recv(20)) for _ in range(3)]
        assert reply["recovered"] is False and told.pop("channel") == channel
        return told, push["data"]


@pytest.mark.parametrize("read", TELLING, ids=named)
def test_what_is_gone_is_told(node: Daemon, channel: str, read: Read) -> None:
    channel = f"short.{channel}"
    cursors = post(node, channel, *range(1, 21))  # of which 5 are kept
    epoch = cursors[0].partition(":")[0]
    missing = {"epoch": epoch, "first": 4, "last": 15}
    assert told_gap(read, node, channel, cursors[2]) == ({"recovered": False, "missing": missing}, 16)
    for unknown in ("abc:3", "abc:0"):
        assert told_gap(read, node, channel, unknown) == ({"recovered": False, "missing": None}, 16)


def test_what_has_expired_is_told(node: Daemon, channel: str) -> None:
    channel = f"brief.{channel}"
    cursors = post(node, channel, 1, 2, 3)
    epoch = cursors[0].partition(":")[0]
    gone = {"epoch": epoch, "first": 2, "last": 3}

    def expired() -> bool:
        _, headers, body = node.request("GET", f"/{channel}?_wait=0&_since={cursors[0]}")
        if headers["raiden-recovered"] == "true":
            return False
        answer = json.loads(body)
        if answer["gap"]["missing"] != gone:
            return False
        assert (answer["messages"], answer["cursor"]) == ([], cursors[2])
        return True

    wait_for(expired, "they have expired")
    assert node.request("GET", f"/{channel}?_wait=0&_since={cursors[2]}")[1]["raiden-recovered"] == "true"


def test_a_bare_stream_tells_by_its_head(node: Daemon, channel: str) -> None:
    """It has no other way to say that something is missing, so it begins behind that."""
    channel = f"short.{channel}"
    post(node, channel, *range(1, 21))
    with Stream(node, f"/{channel}?_since=abc:1") as stream:
        assert stream.response.headers["Raiden-Recovered"] == "false"
        assert [stream.value() for _ in range(5)] == list(range(16, 21))
        node.publish(channel, 21)
        assert stream.value() == 21


def test_a_bare_socket_closes_where_something_is_missing(node: Daemon, channel: str) -> None:
    """Browsers don't show a socket's head to a page."""
    channel = f"short.{channel}"
    post(node, channel, *range(1, 21))
    with connect(f"ws://127.0.0.1:{node.port}/{channel}?_since=abc:1", proxy=None) as socket:
        assert socket.response and socket.response.headers["Raiden-Recovered"] == "false"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd and 4000 <= closed.value.rcvd.code < 4500


def test_a_poll_that_does_not_wait_is_answered_at_once(node: Daemon, channel: str) -> None:
    """Not when the timers of connections are looked at: that would be fifty times later than another request."""

    def median(path: str) -> float:
        times = []
        for _ in range(15):
            started = time.monotonic()
            assert node.request("GET", path)[0] in (200, 204)
            times.append(time.monotonic() - started)
        return sorted(times)[7]

    (cursor,) = post(node, channel, 0)
    for path in (f"/{channel}?_wait=0&_since={cursor}", f"/{channel}?_wait=0", "/none.x?_wait=0"):
        assert median(path) < 10 * median(f"/-/channels/{channel}/history")


def test_a_poll_that_does_not_wait_has_all_that_was_acknowledged(node: Daemon, channel: str) -> None:
    """On whichever worker, however soon it comes."""
    names = [channel, f"{channel}.b"]
    cursors = {name: post(node, name, 0)[0] for name in names}
    several = "&".join(f"channel={name}" for name in names)
    for number in range(1, 60):
        name = names[number % 2]
        since = cursors[name]
        both = ",".join(cursors.values())
        (cursors[name],) = post(node, name, number)
        path = f"/{name}?_wait=0&_since={since}" if number % 3 else f"/-/subscribe?{several}&_wait=0&_since={both}"
        status, headers, body = node.request("GET", path)
        assert status == 200 and [message["data"] for message in json.loads(body)["messages"]] == [number]
        assert headers["raiden-cursor"] == (cursors[name] if number % 3 else ",".join(cursors.values()))


@pytest.mark.parametrize(
    "query",
    ["_since=", "_since=x", "_since=x:", "_since=x:-1", "_since=x:y", "_since=:1", "_since=x:1,y:2", "_since=x:1,",
     "_since=a%20b:1", "_since=x:99999999999999999999", "_last=0", "_last=x", "_last=1001", "_last=", "_last=-1"],
)  # fmt: skip
def test_malformed_positions(node: Daemon, query: str) -> None:
    status, headers, body = node.request("GET", f"/malformed?{query}")
    assert status == 400 and headers["content-type"] == "application/problem+json", body
    if query.startswith("_since") and query != "_since=":
        since = query.removeprefix("_since=").replace("%20", " ")
        assert node.request("GET", "/malformed", None, {**SSE, "Last-Event-ID": since})[0] == 400


@pytest.mark.parametrize("query", ["_since=x:1", "_since=x:1,y:2,z:3", "_since=x:1,y"])
def test_malformed_positions_of_two(node: Daemon, query: str) -> None:
    assert node.request("GET", f"/-/subscribe?channel=a&channel=b&{query}")[0] == 400


@pytest.mark.parametrize(
    "start", [{"since": "x"}, {"since": 1}, {"since": {}}, {"last": 0}, {"last": "1"}, {"last": True}, {"last": 1001}]
)
def test_malformed_positions_of_commands(node: Daemon, start: dict[str, Any]) -> None:
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "cmd": "subscribe", "channel": "a", **start}))
        assert json.loads(socket.recv(20))["error"]["code"] == 400


# Much to send.


@pytest.fixture(scope="module")
def much(node: Daemon) -> str:
    """A channel with 4,000 messages of 10 KB."""
    for start in range(0, 4000, 80):
        post(node, "much", *[[n, "x" * 10_000] for n in range(start, start + 80)])
    return "much"


@pytest.mark.parametrize("transport", ["stream", "event", "socket"])
def test_a_slow_reader_of_much_is_waited_for(node: Daemon, much: str, transport: str) -> None:
    """40 MB, read in little pieces, that the node does not keep in memory; and the reader is not closed for being
    slow."""
    workers = [pid for name, pid in node.workers().items() if name.startswith("worker")]
    before = {pid: memory(pid) for pid in workers}
    slow = node.metric("raiden_slow_consumers_total")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    fields = {
        "stream": "", "event": "Accept: text/event-stream\r\n",
        "socket": f"Connection: Upgrade\r\nUpgrade: websocket\r\n{key}",
    }[transport]  # fmt: skip
    most, size = 0, 0
    numbers: list[int] = []
    with closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.settimeout(20)
        sock.connect((node.host, node.port))
        sock.sendall(f"GET /{much}?_since=earliest HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
        rest = b""
        pause = threading.Event()
        while not numbers or numbers[-1] != 3999:
            data = sock.recv(16384)
            assert data, "it was closed"
            size += len(data)
            *parts, rest = (rest + data).split(b'"' + b"x" * 10_000 + b'"]')
            numbers += [int(part[part.rindex(b"[") + 1 : part.rindex(b",")]) for part in parts]
            if size % 37 == 0:
                pause.wait(0.005)
                most = max([most, *[memory(pid) - before[pid] for pid in workers]])
    assert numbers == list(range(4000))
    assert most < 16 << 20, "the history's pages and what the peer is sent are all that is kept"
    assert node.metric("raiden_slow_consumers_total") == slow


def test_filters_apply_to_what_was_missed(node: Daemon, channel: str) -> None:
    post(node, channel, *[{"team": "abc"[n % 3], "n": n} for n in range(30)])
    wanted = [n for n in range(30) if n % 3 < 2]
    query = "team=a&team=b&_since=earliest"
    with Stream(node, f"/{channel}?{query}") as stream, Stream(node, f"/{channel}?{query}", SSE) as events:
        assert [stream.value()["n"] for _ in wanted] == wanted
        lines = [events.line() for _ in range(2 * len(wanted))]
        assert [json.loads(line[6:])["n"] for line in lines[1::2]] == wanted
    _, _, body = node.request("GET", f"/{channel}?{query}&_wait=20")
    answer = json.loads(body)
    assert [message["data"]["n"] for message in answer["messages"]] == wanted
    assert offset_of(answer["cursor"]) == 30, "the position is behind what was filtered out, too"
    status, headers, _ = node.request("GET", f"/{channel}?team=x&_since=earliest&_wait=0")
    assert status == 204 and offset_of(headers["raiden-cursor"]) == 30
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
        command = {"id": 1, "cmd": "subscribe", "channel": channel, "since": "earliest"}
        socket.send(json.dumps({**command, "filters": {"team": ["a", "b"]}}))
        assert json.loads(socket.recv(20))["recovered"] is True
        assert [json.loads(socket.recv(20))["data"]["n"] for _ in wanted] == wanted


# Keys.


@contextmanager
def both_workers(node: Daemon) -> Iterator[list[http.client.HTTPConnection]]:
    """A connection to each worker."""
    found: dict[str, http.client.HTTPConnection] = {}
    opened: list[http.client.HTTPConnection] = []

    def both() -> bool:
        connection = node.open()
        opened.append(connection)
        before = {worker: node.metric("raiden_published_total", worker=worker) for worker in "01"}
        connection.request("POST", "/elsewhere", "1", JSON)
        connection.getresponse().read()
        [worker] = [w for w in "01" if node.metric("raiden_published_total", worker=w) > before[w]]
        found[worker] = connection
        return len(found) == 2

    wait_for(both, "a connection to both workers")
    try:
        yield list(found.values())
    finally:
        for connection in opened:
            connection.close()


def test_the_place_before_a_deleted_channel_begins_anew(node: Daemon, channel: str) -> None:
    """One worker knows the epoch that comes next, and the other, which has just served a poll, does not."""

    def poll(worker: http.client.HTTPConnection, query: str) -> http.client.HTTPResponse:
        worker.request("GET", f"/{channel}?{query}")
        return worker.getresponse()

    repaired = node.metric("raiden_repaired_total")
    post(node, channel, 1)
    with both_workers(node) as (one, two):
        poll(one, "_since=earliest&_wait=1").read()
        assert node.request("DELETE", f"/{channel}")[0] == 202
        (place := poll(two, "_wait=0")).read()
        one.request("GET", f"/{channel}?_since={place.headers['Raiden-Cursor']}&_wait=60")
        wait_for(lambda: node.json(f"/-/channels/{channel}")["subscribers"] == 1, "the poll waits")
        post(node, channel, 2)
        assert json.loads(one.getresponse().read())["messages"][0]["data"] == 2
    assert node.metric("raiden_repaired_total") == repaired, "it came as soon as it was published"


def test_what_is_published_again_under_its_key_is_not_counted(node: Daemon, channel: str) -> None:
    before = node.metric("raiden_published_total")
    assert post(node, channel, 1, 2, key="k") == post(node, channel, 1, 2, key="k")
    assert node.metric("raiden_published_total") == before + 2
    order = {"channels": [channel, f"none.{channel}"], "data": 3}
    status, _, body = node.post_json("/-/publish", order)
    cursors = json.loads(body)["cursors"]
    assert status == 200 and offset_of(cursors[channel]) == 3 and cursors[f"none.{channel}"] is None
    assert node.metric("raiden_published_total") == before + 4


def test_a_key_publishes_once(node: Daemon, channel: str) -> None:
    """The same keys on both workers at the same time."""
    with both_workers(node) as connections, Stream(node, f"/{channel}") as stream:

        def publish(connection: http.client.HTTPConnection) -> list[str]:
            answers = []
            for number in range(100):
                connection.request("POST", f"/{channel}", str(number), {**JSON, "Idempotency-Key": f"key {number}"})
                response = connection.getresponse()
                assert response.status == 200
                answers.append(json.loads(response.read())["cursor"])
            return answers

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(publish, connections)
        assert first == second and len(set(first)) == 100
        assert sorted(stream.value() for _ in range(100)) == list(range(100))
        node.publish(channel, "end")
        assert stream.value() == "end"
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "cmd": "publish", "channel": channel, "data": 0, "key": "key 7"}))
        assert json.loads(socket.recv(20)) == {"id": 1, "cursor": first[7]}


def test_a_key_of_a_batch_and_of_many_channels(node: Daemon, channel: str) -> None:
    first = post(node, channel, 1, 2, 3, key="batch")
    assert post(node, channel, 1, 2, 3, key="batch") == first
    order = json.dumps({"channels": [f"{channel}.a", f"{channel}.b"], "data": 1})
    answers = [node.request("POST", "/-/publish", order, {**JSON, "Idempotency-Key": "many"})[::2] for _ in range(2)]
    assert answers[0] == answers[1] and answers[0][0] == 200
    assert list(json.loads(answers[0][1])["cursors"]) == [f"{channel}.a", f"{channel}.b"]
    other = post(node, f"{channel}.c", 1, key="batch")
    assert offset_of(other[0]) == 1, "a key is its channel's"


@pytest.mark.parametrize(
    ("channel", "key", "says"),
    [("a", "x" * 10_000, b"1 to 256 bytes"), ("a", "x" * 257, b"1 to 256 bytes"), ("a", "", b"1 to 256 bytes"),
     ("none.a", "x", b"needs a channel with history")],
)  # fmt: skip
def test_bad_keys(node: Daemon, channel: str, key: str, says: bytes) -> None:
    status, _, body = node.request("POST", f"/{channel}", "1", {**JSON, "Idempotency-Key": key})
    assert status == 400 and says in body
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as socket:
        socket.send(json.dumps({"id": 1, "cmd": "publish", "channel": channel, "data": 0, "key": key}))
        error = json.loads(socket.recv(20))["error"]
        assert error["code"] == 400 and says.decode() in error["message"]


# Ends.


def clear(node: Daemon, channel: str) -> None:
    status, _, body = node.request("DELETE", f"/{channel}")
    assert status < 300, body


def test_delete_ends_the_epoch(node: Daemon, channel: str) -> None:
    old = post(node, channel, 1, 2, 3)
    with Stream(node, f"/{channel}?_since={old[1]}") as stream, Stream(node, f"/{channel}*") as pattern:
        assert stream.value() == 3
        clear(node, channel)
        assert stream.line() == b""
        for cursor in (old[0], old[2]):
            status, headers, body = node.request("GET", f"/{channel}?_wait=0&_since={cursor}")
            assert headers["raiden-recovered"] == "false"
            assert status == 204 or json.loads(body)["messages"] == []
        new = post(node, channel, 4, 5)
        assert [offset_of(cursor) for cursor in new] == [1, 2]
        assert new[0].partition(":")[0] != old[0].partition(":")[0]
        assert [pattern.value()["data"] for _ in range(2)] == [4, 5]
    assert told_gap(read_wrapped, node, channel, old[2]) == ({"recovered": False, "missing": None}, 4)


def test_the_last_message_is_retained(node: Daemon, channel: str) -> None:
    channel = f"retain.{channel}"
    cursors = post(node, channel, 1, 2, 3)
    for query in ("_last=1", "_last=10", f"_since={cursors[1]}"):
        with Stream(node, f"/{channel}?{query}") as stream:
            assert stream.value() == 3
            assert stream.response.headers["Raiden-Recovered"] == "true"
    assert told_gap(read_wrapped, node, channel, cursors[0])[1] == 3


def test_without_history(node: Daemon, channel: str) -> None:
    channel = f"none.{channel}"
    with Stream(node, f"/{channel}?_since=earliest") as stream, Stream(node, f"/{channel}") as other:
        assert stream.response.headers["Raiden-Recovered"] == "false"
        assert "Raiden-Cursor" not in stream.response.headers and "Raiden-Recovered" not in other.response.headers
        assert node.post_json(f"/{channel}", 1)[::2] == (202, b"{}")
        assert stream.value() == other.value() == 1
    mixed = {"channels": [channel, f"{channel[5:]}"], "data": 2}
    cursors = json.loads(node.post_json("/-/publish", mixed)[2])["cursors"]
    assert cursors[channel] is None and cursors[channel[5:]].split(":")[1] == "1"


def test_no_history_at_all(start: Callable[..., Daemon]) -> None:
    node = start(store="none")
    with Stream(node, "/a?_since=x:1", SSE) as stream:
        assert stream.response.headers["Raiden-Recovered"] == "false"
        assert node.post_json("/a", 1)[::2] == (202, b"{}")
    assert node.request("POST", "/a", "1", {**JSON, "Idempotency-Key": "x"})[0] == 400
    assert node.request("DELETE", "/a")[0] == 202
    assert not (node.folder / "history.sqlite").exists()


# Processes that are killed.


def history_pid(node: Daemon) -> int:
    """The process that has the history's file, also when it is a replacement."""

    def found() -> int | None:
        for child in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
            for file in Path(f"/proc/{child}/fd").iterdir():
                if os.path.realpath(file) == str(node.folder / "history.sqlite"):
                    return int(child)
        return None

    return wait_for(found, "there is a history process") or 0


class Followers:
    """Readers of a channel in threads, that stay connected: what each of them has got."""

    def __init__(self, node: Daemon, channel: str, readers: list[Read]) -> None:
        self.got: list[list[Item]] = [[] for _ in readers]
        self.errors: list[str] = []
        self._started = [threading.Event() for _ in readers]
        self._until: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=self._read, args=(number, read, node, channel))
            for number, read in enumerate(readers)
        ]
        for thread in self._threads:
            thread.start()
        for started in self._started:
            assert started.wait(20)

    def _read(self, number: int, read: Read, node: Daemon, channel: str) -> None:
        try:
            with items(read, node, channel, "earliest") as reader:
                for item in reader:
                    self._started[number].set()
                    if item.value == 99_999_999:
                        return
                    if item.value is not None:
                        self.got[number].append(item)
        except Exception as error:
            self.errors.append(f"{named(read)}: {error!r}")

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert not self.errors, self.errors


def test_the_history_process_is_killed(start: Callable[..., Daemon]) -> None:
    """Publishes are refused or wait, then work again; nobody's connection ends, and each gets each message once, those
    too that were stored and not acknowledged."""
    node = start(workers=2, position_check=0.3, channels={"*": {"history_size": MANY}})
    post(node, "killed", 10_000_000)
    followers = Followers(node, "killed", [read_events, read_wrapped, read_socket, read_multiplexed])
    with Load(node, "killed") as load:
        for _ in range(3):
            reached = load.newest("killed") + 100
            wait_for(lambda reached=reached: load.newest("killed") > reached, "publishes work")  # type: ignore[misc]
            lines = node.log().count("history replaced")
            os.kill(history_pid(node), signal.SIGKILL)
            wait_for(lambda lines=lines: node.log().count("history replaced") > lines, "it is replaced")  # type: ignore[misc]
        reached = load.newest("killed") + 100
        wait_for(lambda: load.newest("killed") > reached, "publishes work again")
        load.stop()
    [last] = wait_for(lambda: post(node, "killed", 99_999_999), "the last publish")
    followers.join()
    for got in followers.got:
        assert [offset_of(item.cursor) for item in got] == list(range(1, offset_of(last)))
        values = {offset_of(item.cursor): item.value for item in got}
        assert load.acked["killed"].items() <= values.items()


def test_a_worker_is_killed(start: Callable[..., Daemon]) -> None:
    """Who was connected to it comes back, and has missed nothing."""
    node = start(workers=2, channels={"*": {"history_size": MANY}})
    with both_workers(node) as connections:
        subscribers = []
        for connection in connections:
            connection.request("GET", "/killed?_wrap=1&_since=earliest")
            subscribers.append(connection.getresponse())
        post(node, "killed", *range(10))
        assert all("cursor" in json.loads(subscriber.readline()) for subscriber in subscribers)
        got = [[json.loads(subscriber.readline()) for _ in range(10)] for subscriber in subscribers]
        os.kill(node.workers()["worker 0"], signal.SIGKILL)
        wait_for(lambda: "worker 0 replaced" in node.log(), "it is replaced")
        wait_for(lambda: post(node, "killed", *range(10, 20)), "publishes work")
        for subscriber, lines in zip(subscribers, got, strict=True):
            try:
                while len(lines) < 20 and (line := subscriber.readline()):
                    lines.append(json.loads(line))
            except (OSError, http.client.HTTPException):
                pass  # it was the killed one's
            if len(lines) < 20:
                with Stream(node, f"/killed?_wrap=1&_since={lines[-1]['cursor']}") as stream:
                    assert stream.response.headers["Raiden-Recovered"] == "true"
                    lines += [stream.value() for _ in range(20 - len(lines))]
            assert [line["data"] for line in lines] == list(range(20))
            subscriber.close()


def test_a_history_that_was_set_aside_is_a_gap(start: Callable[..., Daemon]) -> None:
    """A file that is damaged while the node runs, and found so by the next process: who is connected is told."""
    node = start(workers=2, position_check=0.3)
    post(node, "a", 1, 2, 3)
    with Stream(node, "/a", SSE) as events, Stream(node, "/a?_wrap=1") as wrapped, ThreadPoolExecutor(1) as pool:
        poll = pool.submit(node.request, "GET", "/a?_wait=20")
        wait_for(lambda: node.metric("raiden_connections", transport="poll") == 1, "the poll waits")
        (node.folder / "history.sqlite").write_bytes(b"\xa5" * 100_000)
        (node.folder / "history.sqlite-wal").unlink()
        os.kill(node.workers()["history"], signal.SIGKILL)
        wait_for(lambda: "was damaged and set aside" in node.log(), "it is set aside")
        wait_for(lambda: node.post_json("/a", 4)[0] == 200, "publishes work again")
        assert events.line() == b"event: gap"
        assert json.loads(events.line()[6:]) == {"recovered": False, "missing": None}
        assert events.line().split(b":")[2] == b"1" and events.line() == b"data: 4"
        assert wrapped.value() == {"channel": "a", "recovered": False, "missing": None}
        assert wrapped.value()["data"] == 4
        status, headers, body = poll.result()
        answer = json.loads(body)
        assert status == 200 and answer["gap"] == {"recovered": False, "missing": None}
        assert [message["data"] for message in answer["messages"]] == [4], "what follows the gap comes with it"
        assert answer["cursor"] == headers["raiden-cursor"] == answer["messages"][0]["cursor"]


def test_time_is_bounded_where_the_history_hangs(start: Callable[..., Daemon]) -> None:
    """A history process that is there and does nothing: publishes and resumes are refused after a while."""
    node = start(workers=1)
    [cursor] = post(node, "a", 1)
    pid = node.workers()["history"]
    with Stream(node, "/none-yet") as stream, ThreadPoolExecutor(2) as pool:
        os.kill(pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            publish = pool.submit(node.post_json, "/a", 2)
            resume = pool.submit(node.request, "GET", f"/a?_since={cursor}")
            assert node.json("/-/health") == {"status": "ok"}
            for answer in (publish.result(), resume.result()):
                assert answer[0] == 503 and "retry-after" in answer[1]
            assert time.monotonic() - begin < 15
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: node.post_json("/none-yet", 3)[0] == 200, "publishes work again")
        assert stream.value() == 3
