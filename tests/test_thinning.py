"""Rates of subscriptions over each transport: the newest comes, with what was skipped, and positions stay right."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.daemons import Daemon, Stream, post, running, wait_for
from tests.multiplex import Client, two_nodes
from tests.stores import RedisServer
from tests.tokens import JWT_KEYS, bearer, token

EVENTS = {"Accept": "text/event-stream"}
CHANNELS = {"*": {}, "none*": {"history_size": 0}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), workers=2, channels=CHANNELS, keepalive=1.0, session_window=5)


def offset(cursor: str) -> int:
    return int(cursor.split(":")[1])


class Reader:
    """What a subscriber is told, whichever its transport: `next` returns messages as their values, and notices of
    skipped ones as (first, last, number)."""

    def __init__(self, read: Callable[[], tuple[str, Any]]) -> None:
        self._read = read
        self.position = ""

    def next(self) -> Any:
        while True:
            kind, told = self._read()
            if kind == "message":
                return told
            if kind == "skipped":
                return (*[offset(told[name]) for name in ("first", "last") if name in told], told["count"])
            self.position = told

    def rest(self, last: Any) -> list[Any]:
        """All up to this message."""
        found: list[Any] = []
        while last not in found:
            found.append(self.next())
        return found


@contextmanager
def stream(node: Daemon, name: str, options: str = "_rate=1") -> Iterator[Reader]:
    with Stream(node, f"/{name}?_wrap=1&{options}") as source:

        def read() -> tuple[str, Any]:
            return _member(source.value())

        yield Reader(read)


@contextmanager
def events(node: Daemon, name: str, options: str = "_rate=1", since: str | None = None) -> Iterator[Reader]:
    with Stream(node, f"/{name}?{options}", EVENTS if since is None else {**EVENTS, "Last-Event-ID": since}) as source:

        def read() -> tuple[str, Any]:
            event = "message"
            while True:
                field, _, value = source.line(positions=True).decode().partition(": ")
                if field == "event":
                    event = value
                elif field == "id":
                    reader.position = value
                elif field == "data":
                    return event, json.loads(value)

        reader = Reader(read)
        yield reader


@contextmanager
def websocket(node: Daemon, name: str, options: str = "_rate=1") -> Iterator[Reader]:
    with connect(f"ws://127.0.0.1:{node.port}/{name}?_wrap=1&{options}", proxy=None) as found:

        def read() -> tuple[str, Any]:
            return _member(json.loads(found.recv(20)))

        yield Reader(read)


@contextmanager
def commands(node: Daemon, name: str, options: str = "_rate=1") -> Iterator[CommandReader]:
    with Client(node) as client:
        said = {key.removeprefix("_"): value for key, value in (each.split("=") for each in options.split("&"))}
        told: dict[str, Any] = {**said, **({"rate": float(said["rate"])} if "rate" in said else {})}
        assert "error" not in client.ask(cmd="subscribe", channel=name, **told)
        yield CommandReader(client)


class CommandReader(Reader):
    """A subscriber on ``/-/websocket``."""

    def __init__(self, client: Client) -> None:
        super().__init__(lambda: _member(client.push()))
        self.client = client


def _member(told: dict[str, Any]) -> tuple[str, Any]:
    for name, kind in (("data", "message"), ("skipped", "skipped"), ("cursor", "cursor")):
        if name in told:
            return kind, told[name]
    raise AssertionError(told)


def _all(told: list[Any]) -> list[int]:
    """The numbers of messages that came, or were told as skipped; a message is its offset."""
    skipped = [range(each[0], each[1] + 1) for each in told if isinstance(each, tuple)]
    assert [len(each) for each in skipped] == [each[2] for each in told if isinstance(each, tuple)]
    return sorted([each for each in told if isinstance(each, int)] + [number for each in skipped for number in each])


TRANSPORTS = {"stream": stream, "events": events, "websocket": websocket, "commands": commands}
each_transport = pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS.keys())


@each_transport
def test_the_first_comes_at_once_and_then_the_newest(node: Daemon, channel: str, transport: Any) -> None:
    with transport(node, channel, "_rate=5") as reader:
        for number in range(1, 6):
            post(node, channel, number)
        # Where the machine takes longer for that, more than one is sent on the way.
        told = reader.rest(5)
        assert told[0] == 1, "at once"
        assert _all(told) == [1, 2, 3, 4, 5]


@each_transport
def test_a_batch_is_skipped_but_for_its_last_message(node: Daemon, channel: str, transport: Any) -> None:
    with transport(node, channel, "_rate=10") as reader:
        post(node, channel, *range(1, 101))
        assert [reader.next() for _ in range(3)] == [1, (2, 99, 98), 100]


@each_transport
def test_without_history_the_number_is_told(node: Daemon, channel: str, transport: Any) -> None:
    name = f"none.{channel}"
    with transport(node, name, "_rate=10") as reader:
        body = "\n".join(map(str, range(100)))
        assert node.request("POST", f"/{name}", body, {"Content-Type": "application/x-ndjson"})[0] == 202
        assert [reader.next() for _ in range(3)] == [0, (98,), 99]


@each_transport
def test_of_each_value_of_a_key(node: Daemon, channel: str, transport: Any) -> None:
    quotes = [{"of": {"symbol": symbol}, "n": n} for n in range(3) for symbol in "AB"]
    with transport(node, channel, "_rate=10&_key=of.symbol") as reader:
        post(node, channel, *quotes, *quotes)
        assert [reader.next() for _ in range(2)] == quotes[:2], "each value has its first at once"
        assert [reader.next() for _ in range(4)] == [(3, 9, 4), quotes[4], (4, 10, 4), quotes[5]]


@each_transport
def test_with_filters(node: Daemon, channel: str, transport: Any) -> None:
    with transport(node, channel, "_rate=10") as other:
        # A group of its own, which is told of nothing that its filter hides.
        with events(node, channel, "_rate=10&n>=10") as reader:
            post(node, channel, *[{"n": number} for number in range(1, 21)])
            assert [reader.next() for _ in range(3)] == [{"n": 10}, (11, 19, 9), {"n": 20}]
        assert [other.next() for _ in range(3)] == [{"n": 1}, (2, 19, 18), {"n": 20}]


def test_plain_messages_are_not_told_of(node: Daemon, channel: str) -> None:
    """Where there is no place for more than messages."""
    with Stream(node, f"/{channel}?_rate=10") as plain:
        post(node, channel, 1, 2, 3)
        assert [plain.value(), plain.value()] == [1, 3]


def test_several_channels(node: Daemon, channel: str) -> None:
    names = [f"{channel}.a", f"{channel}.b"]
    path = f"/-/subscribe?channel={names[0]}&channel={names[1]}&_rate=10"
    with (
        Stream(node, path) as lines,
        Stream(node, path, EVENTS) as merged,
        Stream(node, f"/{channel}.*?_rate=10") as all,
    ):
        for name in names:
            post(node, name, 1, 2, 3)
        for source in (lines, all):
            told = [source.value() for _ in range(6)]
            for name in names:
                own = [each.get("data") or each["skipped"]["count"] for each in told if each["channel"] == name]
                assert own == [1, 1, 3], "each channel is thinned by itself"
        found: list[str] = []
        while sum(line.startswith("data") for line in found) < 6:
            found.append(merged.line(positions=True).decode())
        assert sum(line == "event: skipped" for line in found) == 2
        found = [merged.line(positions=True).decode()]
        assert [offset(each) for each in found[0].removeprefix("id: ").split(",")] == [3, 3]


def test_a_position_is_not_told_past_what_waits(node: Daemon, channel: str) -> None:
    """Keep-alives come while the newest waits, for it comes once in a hundred seconds."""
    with Stream(node, f"/{channel}?_rate=0.01", EVENTS) as source:
        post(node, channel, 1, 2, 3)
        told: list[bytes] = []
        while sum(line.startswith(b": keep-alive") for line in told) < 2:
            told.append(source.response.readline().strip())
        ids = [line[4:].decode() for line in told if line.startswith(b"id: ")]
        assert {offset(each) for each in ids[1:]} == {1}, "behind the message"
        assert [line for line in told if line.startswith(b"data")] == [b"data: 1"]
    with events(node, channel, "_rate=0.01", ids[-1]) as again:
        # They were published in the same moment, and the past is thinned by that.
        assert [again.next(), again.next()] == [2, 3]


@each_transport
def test_who_comes_back_misses_only_what_was_skipped(node: Daemon, channel: str, transport: Any) -> None:
    cursors = post(node, channel, *range(1, 51))
    with transport(node, channel, f"_since={cursors[9]}&_rate=1") as reader:
        # The past is thinned as if it came now: all in one second, so that there is its first and its last message.
        told = reader.rest(50)
        assert told[0] == 11
        assert _all(told) == [*range(11, 51)] and len(told) < 20
        post(node, channel, 51)
        assert reader.next() == 51


def test_a_session_keeps_its_rate(node: Daemon, channel: str) -> None:
    with Client(node) as first:
        session = first.ask(cmd="session")["session"]
        first.ask(cmd="subscribe", channel=channel, rate=10, key="s", filters={"n>": 0})
        first.ask(cmd="subscribe", channel=f"{channel}.slow", slow="latest")
        post(node, channel, {"s": 1, "n": 1})
        assert first.push()["data"]["n"] == 1
    with Client(node) as second:
        assert channel in second.ask(cmd="resume", session=session)["subscriptions"]
        post(node, channel, *[{"s": 1, "n": number} for number in range(20)])
        told = [second.push()]
        while told[-1].get("data") != {"s": 1, "n": 19}:
            told.append(second.push())
        assert told[-2]["skipped"]["count"] == 17, "and its filter"


def test_a_connection_that_is_left_out_is_told_what_was_skipped(node: Daemon, channel: str) -> None:
    with commands(node, channel, "_rate=0.01") as reader, events(node, channel, "_rate=0.01") as other:
        post(node, channel, 1, 2)
        own = reader.client.ask(cmd="hello")["connection"]
        reader.client.ask(cmd="publish", channel=channel, data=3, **{"except": own})
        assert node.request("DELETE", f"/{channel}")[0] == 202, "what waits is sent before"
        assert [other.next(), other.next(), other.next()] == [1, (2, 2, 1), 3]
        assert [reader.next(), reader.next()] == [1, (2, 2, 1)]
        assert list(reader.client.pushes) in ([], [{"channel": channel, "ended": True}])


def test_a_token_narrows_a_rate(start: Callable[..., Daemon]) -> None:
    guarded = start(jwt_keys=JWT_KEYS)
    reader = token(subscribe=[{"channel": "*", "filters": {"n>=": 10}}])
    writer = {"Content-Type": "application/x-ndjson", **bearer(token(publish=["*"]))}
    with Stream(guarded, "/a?_rate=10&_wrap=1", bearer(reader)) as source:
        body = "\n".join(json.dumps({"n": number}) for number in range(20))
        assert guarded.request("POST", "/a", body, writer)[0] == 200
        told = [source.value() for _ in range(3)]
        assert [told[0]["data"]["n"], told[1]["skipped"]["count"], told[2]["data"]["n"]] == [10, 8, 19]


def test_the_end_of_a_channel_does_not_lose_the_newest(node: Daemon, channel: str) -> None:
    with events(node, channel, "_rate=0.01") as reader:
        post(node, channel, 1, 2, 3)
        assert reader.next() == 1
        assert node.request("DELETE", f"/{channel}")[0] == 202
        assert [reader.next(), reader.next()] == [(2, 2, 1), 3]


def test_the_newest_comes_before_the_end(node: Daemon, channel: str) -> None:
    with events(node, channel, "_rate=0.01") as reader, commands(node, channel, "_rate=0.01") as other:
        post(node, channel, 1, 2)
        assert (
            node.request("POST", f"/{channel}", "3", {"Content-Type": "application/json", "Raiden-End": "true"})[0]
            == 200
        )
        for each in (reader, other):
            assert [each.next(), each.next(), each.next()] == [1, (2, 2, 1), 3]


def test_who_reads_too_slowly_gets_the_newest(start: Callable[..., Daemon]) -> None:
    node = start(max_outbox=65536, workers=1)
    with Client(node, buffer=4096) as slow, Client(node, buffer=4096) as closed:
        assert "error" not in slow.ask(cmd="subscribe", channel="a", slow="latest")
        assert "error" not in closed.ask(cmd="subscribe", channel="a")
        sent, big = 0, "x" * 20_000

        def is_closed() -> bool:
            nonlocal sent
            sent += 10
            post(node, "a", *[{"n": number, "x": big} for number in range(sent - 9, sent + 1)])
            return node.metric("raiden_slow_consumers_total") > 0

        wait_for(is_closed, "the other one is closed")
        told: list[dict[str, Any]] = []
        while not told or told[-1].get("data", {}).get("n") != sent:
            told.append(slow.push())
        numbers = [each["data"]["n"] for each in told if "data" in each]
        skipped = [each["skipped"] for each in told if "skipped" in each]
        assert skipped and sum(each["count"] for each in skipped) + len(numbers) == sent and sorted(numbers) == numbers
        post(node, "a", {"n": 0})
        assert slow.push()["data"]["n"] == 0, "it keeps up again"


@pytest.mark.parametrize(
    "target",
    ["_rate=0", "_rate=1000000", "_rate=0.001", "_rate=x", "_rate=", "_rate=-1", "_rate=1e2", "_rate=nan", "_key=a",
     "_rate=1&_key=", "_rate=1&_key=a..b", "_slow=newest", "_slow=", "_rate=1&_wait=1", "_slow=latest&_wait=1",
     "_rate=1&_wait=1&_durable=d", "rate=2", "slow=latest", "_rates=1"],
)  # fmt: skip
def test_bad_rates_are_refused(node: Daemon, target: str) -> None:
    status, _, body = node.request("GET", f"/a?{target}")
    assert status == 400 and json.loads(body)["detail"]


def test_bad_rates_of_commands_are_refused(node: Daemon) -> None:
    with Client(node) as client:
        for bad in (
            {"rate": 0}, {"rate": 10**6}, {"rate": "2"}, {"rate": True}, {"key": "a"}, {"rate": 1, "key": "a."},
            {"rate": 1, "key": 5}, {"slow": "newest"}, {"slow": True}, {"rate": 1, "durable": "d"},
        ):  # fmt: skip
            assert client.code(cmd="subscribe", channel="a", **bad) == 400, bad
    for path in ("/-/websocket?_rate=1", "/a?_rate=0"):
        with socket.create_connection(("127.0.0.1", node.port), 20) as raw:
            raw.sendall(
                b"GET %b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % path.encode()
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_many_share_one_state(node: Daemon, channel: str) -> None:
    """Those that begin amid it get no message from before, and each gets the newest."""
    with Client(node) as first:
        first.ask(cmd="subscribe", channel=channel, rate=10)
        post(node, channel, 1, 2, 3)
        assert first.push()["data"] == 1
        clients = [Client(node) for _ in range(10)]
        try:
            for client in clients:
                client.ask(cmd="subscribe", channel=channel, rate=10)
            post(node, channel, 4)
            got = [client.push() for client in clients]
            assert [each.get("data") for each in got] == [4] * 10
            post(node, channel, 5)
            assert [client.push() for client in clients]
        finally:
            for client in clients:
                client.close()


def test_two_nodes(installed_redis: None, tmp_path: Path) -> None:
    """A subscriber is on each node; who goes to the other one with its position goes on there."""
    server = RedisServer(tmp_path)
    try:
        with two_nodes(tmp_path, server.url) as nodes:
            with events(nodes[0], "a") as one, commands(nodes[1], "a") as other:
                post(nodes[0], "a", 1, 2, 3)
                post(nodes[1], "a", 4, 5, 6)
                for reader in (one, other):
                    told = reader.rest(6)
                    assert told[0] == 1 and _all(told) == [*range(1, 7)]
            post(nodes[1], "a", 7)
            with events(nodes[1], "a", "_rate=1", one.position) as again:
                assert again.next() == 7
    finally:
        server.stop()
