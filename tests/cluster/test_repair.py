"""What the backbone loses, doubles or turns around reaches subscribers once and in order, and in time."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from raiden.backbone.frames import from_frame, to_frame
from tests.cluster.link import Link, undisturbed
from tests.daemons import Daemon, Stream, wait_for
from tests.stores import RedisServer

# Seconds that a busy machine may add.
MARGIN = 2.0
# Of a pair that tells a loss by what comes later, and of one that tells it by the positions.
KEEPING = {"few": {"history_size": 2}, "*": {"history_size": 3000}}
BY_GAPS: dict[str, Any] = {"channels": KEEPING, "gap_time": 0.2, "position_check": 60.0, "max_batch": 2000}
BY_POSITIONS: dict[str, Any] = {"channels": KEEPING, "position_check": 0.5, "max_batch": 2000}
MakePair = Callable[..., "Pair"]

_serial = itertools.count()


class Losing:
    """Loses the messages with these numbers: see `published`."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = set(numbers)
        self.lost: list[int] = []

    def __call__(self, frame: bytes) -> list[bytes]:
        found = singly(frame)
        self.lost += [number(each) for each in found if number(each) in self.numbers]
        return [each for each in found if number(each) not in self.numbers]


class Swapping:
    """Turns two messages around, the one with this number and the next."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._held: list[bytes] = []

    def __call__(self, frame: bytes) -> list[bytes]:
        passed = []
        for each in singly(frame):
            held, self._held = self._held, []
            if number(each) == self.number:
                self._held = [each]
            else:
                passed += [each, *held]
        return passed


def singly(frame: bytes) -> list[bytes]:
    """A frame for each message of a frame."""
    return [to_frame([message]) for message in from_frame(frame[: frame.find(b"\0")], frame)]


def number(frame: bytes) -> int:
    return int(frame[frame.rfind(b":") + 1 : -1])


def published(node: Daemon, channel: str, *numbers: int, **fields: str) -> float:
    """Publish messages with these numbers, as a batch, with attributes in further fields; when that was
    acknowledged."""
    body = "\n".join(f'{{"n":{n}}}' for n in numbers)
    headers = {"Content-Type": "application/x-ndjson", **{f"Raiden-{name}": text for name, text in fields.items()}}
    status, _, answer = node.request("POST", f"/{channel}", body, headers)
    assert status == 200, answer
    return time.monotonic()


def came(stream: Stream, *numbers: int, offset: int = 1) -> float:
    """These numbers come next, at the offsets from this one on; when the last of them has come."""
    lines = [stream.value() for _ in numbers]
    assert [line["data"]["n"] for line in lines] == list(numbers)
    assert [int(line["cursor"].split(":")[1]) for line in lines] == list(range(offset, offset + len(numbers)))
    return time.monotonic()


class Pair:
    """Two nodes; what is published at the first comes to the second by way of the link, which outlives them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with ExitStack() as undo:
            self.link = Link()
            undo.callback(self.link.close)
            first = Daemon(folder / "first", backend_port=port, advertise=self.link.address, **settings)
            undo.callback(first.stop)
            self.link.start(f"127.0.0.1:{port}")
            second = Daemon(folder / "second", peers=[self.link.address], **settings)
            undo.callback(second.stop)
            self.nodes = first, second
            for node in self.nodes:
                wait_for(
                    lambda node=node: [row["state"] for row in node.json("/-/nodes")["nodes"]] == ["self", "connected"],  # type: ignore[misc]
                    "the nodes are connected",
                )
            self._counted = 0.0, 0.0, 0.0
            self._undo = undo.pop_all()

    def counts(self) -> tuple[float, float, float]:
        """What was repaired at the first, what at the second, and the gaps there, since the last time."""
        first, second = self.nodes
        repaired = first.metric("raiden_repaired_total"), second.metric("raiden_repaired_total")
        now = *repaired, second.metric("raiden_gaps_total")
        before, self._counted = self._counted, now
        return now[0] - before[0], now[1] - before[1], now[2] - before[2]

    def close(self) -> None:
        self._undo.close()


@pytest.fixture(scope="module")
def pairs(shared_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pair]]:
    """Two nodes of these settings, which the module's tests share: each has a channel of its own."""
    made: dict[str, Pair] = {}
    with redis.Redis.from_url(shared_server.url) as client:
        client.flushall()

    def pair(**settings: Any) -> Pair:
        key = repr(settings)
        if key not in made:
            settings = {"store": shared_server.url, "drain_window": 0, **settings}
            made[key] = Pair(tmp_path_factory.mktemp("pair"), **settings)
        return made[key]

    yield pair
    for each in made.values():
        each.close()


@pytest.fixture
def pair(pairs: Callable[..., Pair]) -> Iterator[Callable[..., Pair]]:
    """The same, and nothing disturbs the link any more when a test is over."""
    used: list[Pair] = []

    def pair(**settings: Any) -> Pair:
        used.append(pairs(**settings))
        used[-1].counts()
        return used[-1]

    yield pair
    for each in used:
        each.link.disturb = undisturbed


@pytest.fixture
def channel() -> str:
    """Of one test only."""
    return f"channel{next(_serial)}"


@pytest.mark.parametrize("disturb", [Losing(2, 3), Swapping(2)], ids=["lost", "overtaken"])
def test_a_pattern_brings_all_that_was_published_since_it_held(pair: MakePair, channel: str, disturb: Any) -> None:
    """Though the first message that comes of the channel is not the first one of these."""
    both = pair(**BY_GAPS)
    (first, second), link = both.nodes, both.link
    published(first, channel, 1)
    link.disturb = disturb
    with Stream(second, "/*") as stream:
        published(first, channel, 2, 3, 4)
        came(stream, 2, 3, 4, offset=2)
        published(first, channel, 5)
        came(stream, 5, offset=5)


@pytest.mark.parametrize("path", ["/{}?_wrap=1", "/*"])
def test_a_lost_message_comes_within_the_gap_time(pair: MakePair, channel: str, path: str) -> None:
    both = pair(**BY_GAPS)
    (first, second), link = both.nodes, both.link
    link.disturb = losing = Losing(2)
    with Stream(second, path.format(channel)) as stream:
        published(first, channel, 1)
        came(stream, 1)
        acknowledged = published(first, channel, 2, 3, 4)
        assert came(stream, 2, 3, 4, offset=2) - acknowledged < 0.2 + MARGIN
        published(first, channel, 5)
        came(stream, 5, offset=5)
    assert losing.lost == [2]
    assert both.counts() == (0, 1, 0)


def test_a_lost_message_comes_with_its_attributes(pair: MakePair, channel: str) -> None:
    """And not to the connection that is left out of it."""
    both = pair(**BY_GAPS)
    (first, second), link = both.nodes, both.link
    link.disturb = losing = Losing(2, 3)
    path = f"/{channel}?_wrap=1"
    with Stream(second, path) as stream, Stream(second, path) as excluded:
        own = excluded.response.getheader("Raiden-Connection") or ""
        published(first, channel, 1)
        published(first, channel, 2, Event="created", Tags='{"color":"red"}', Except=own)
        published(first, channel, 3, Event="updated")
        published(first, channel, 4, Except=own)
        published(first, channel, 5)
        told = [stream.value() for _ in range(5)]
        assert [line["data"]["n"] for line in told] == [1, 2, 3, 4, 5]
        assert [(line.get("event"), line.get("tags")) for line in told[:4]] == [
            (None, None), ("created", {"color": "red"}), ("updated", None), (None, None),
        ]  # fmt: skip
        assert [excluded.value()["data"]["n"] for _ in range(3)] == [1, 3, 5]
    assert sorted(losing.lost) == [2, 3] and both.counts() == (0, 2, 0)


@pytest.mark.parametrize("lost", [(10,), range(6, 11)])
def test_the_last_messages_of_a_burst_come_with_the_position_check(
    pair: MakePair, channel: str, lost: tuple[int, ...]
) -> None:
    both = pair(**BY_POSITIONS)
    (first, second), link = both.nodes, both.link
    link.disturb = losing = Losing(*lost)
    with Stream(second, f"/{channel}?_wrap=1") as stream:
        acknowledged = published(first, channel, *range(1, 11))
        assert came(stream, *range(1, 11)) - acknowledged < 0.5 + MARGIN
    assert losing.lost == list(lost)
    assert both.counts()[1] == len(lost)


def test_a_channel_of_which_nothing_came(pair: MakePair, channel: str) -> None:
    both = pair(**BY_POSITIONS)
    (first, second), link = both.nodes, both.link
    link.disturb = Losing(1)
    with Stream(second, f"/{channel}?_wrap=1") as stream:
        acknowledged = published(first, channel, 1)
        assert came(stream, 1) - acknowledged < 0.5 + MARGIN


def test_what_comes_twice_or_in_another_order(pair: MakePair, channel: str) -> None:
    both = pair(gap_time=30.0, position_check=60.0)
    (first, second), link = both.nodes, both.link
    with Stream(second, f"/{channel}?_wrap=1") as stream:
        link.disturb = lambda frame: [frame, frame]
        published(first, channel, 1, 2, 3)
        came(stream, 1, 2, 3)
        link.disturb = Swapping(4)
        started = published(first, channel, 4, 5, 6)
        came(stream, 4, 5, 6, offset=4)
        link.disturb = lambda frame: [frame]
        published(first, channel, 7)
        assert came(stream, 7, offset=7) - started < 10, "the history was not asked"
    assert both.counts()[1] == 0


def test_more_is_lost_than_is_held_back(pair: MakePair, channel: str) -> None:
    """The first of 2,000 messages is lost: half of what follows is held back, all is fetched."""
    both = pair(**BY_GAPS)
    (first, second), link = both.nodes, both.link
    link.disturb = losing = Losing(1)
    with Stream(second, f"/{channel}?_wrap=1") as stream:
        published(first, channel, *range(1, 2001))
        came(stream, *range(1, 2001))
    assert losing.lost == [1]
    assert 1 <= both.counts()[1] <= 1001


def test_many_lost_in_a_row(pair: MakePair, channel: str) -> None:
    """More than a page of the history."""
    both = pair(**BY_POSITIONS)
    (first, second), link = both.nodes, both.link
    link.disturb = Losing(*range(1, 1501))
    with Stream(second, f"/{channel}?_wrap=1") as stream:
        published(first, channel, *range(1, 1501))
        came(stream, *range(1, 1501))
        link.disturb = lambda frame: [frame]
        published(first, channel, 1501)
        came(stream, 1501, offset=1501)
    assert both.counts()[1] == 1500


def test_what_can_not_be_had_any_more_is_told(pair: MakePair) -> None:
    both = pair(**BY_GAPS)
    (first, second), link, channel = both.nodes, both.link, "few"
    link.disturb = Losing(2, 3, 4)
    with (
        Stream(second, f"/{channel}?_wrap=1") as wrapped,
        Stream(second, f"/{channel}", {"Accept": "text/event-stream"}) as events,
        Stream(second, f"/{channel}") as bare,
    ):
        published(first, channel, 1)
        came(wrapped, 1)
        published(first, channel, *range(2, 7))
        told = wrapped.value()
        epoch = told["missing"].pop("epoch")
        assert told == {"channel": channel, "recovered": False, "missing": {"first": 2, "last": 4}}
        came(wrapped, 5, 6, offset=5)
        lines = [re.sub(r"^(id: \w+:\d+):\w+$", r"\1", events.line().decode()) for _ in range(8)]
        assert lines[:2] == [f"id: {epoch}:1", 'data: {"n":1}'] and lines[2] == "event: gap"
        assert json.loads(lines[3].removeprefix("data: "))["missing"] == {"epoch": epoch, "first": 2, "last": 4}
        assert lines[4:] == [f"id: {epoch}:5", 'data: {"n":5}', f"id: {epoch}:6", 'data: {"n":6}']
        assert bare.value() == {"n": 1}
        with pytest.raises(IncompleteRead):
            bare.response.read()
    assert both.counts()[2] == 1


def test_subscribers_are_told_to_try_later_while_the_store_is_away(
    start: Callable[..., Daemon], own_server: RedisServer
) -> None:
    node = start(store=own_server.url)
    own_server.kill()
    for path in ("/a", "/a?_wait=0"):
        assert node.request("GET", path)[0] == 503
    for path in ("/a", "/-/subscribe?channel=a&channel=b"):
        with pytest.raises(InvalidStatus, match="503"):
            connect(f"ws://127.0.0.1:{node.port}{path}")
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket") as socket:
        socket.send('{"id": 1, "cmd": "subscribe", "channel": "a"}')
        assert json.loads(socket.recv())["error"]["code"] == 503
        own_server.start()
        socket.send('{"id": 2, "cmd": "subscribe", "channel": "a"}')
        reply = json.loads(socket.recv())
        assert reply["id"] == 2 and reply["cursor"].endswith(":0")
        node.publish("a", 1)
        assert json.loads(socket.recv())["data"] == 1
    assert "Traceback" not in node.log(), node.log()


def test_patterns_bring_a_channel_that_could_not_be_subscribed_to(
    start: Callable[..., Daemon], own_server: RedisServer
) -> None:
    node = start(store=own_server.url, workers=1)
    with Stream(node, "/*?_wrap=1") as stream:
        own_server.kill()
        assert node.request("GET", "/a")[0] == 503
        own_server.start()
        wait_for(lambda: node.post_json("/b", 0)[0] == 200, "the store is back")
        for number in range(2):
            node.publish("a", number)
        lines = [stream.value() for _ in range(3)]
        assert [(line["channel"], line["data"]) for line in lines] == [("b", 0), ("a", 0), ("a", 1)]
