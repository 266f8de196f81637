"""What the backbone loses, doubles or turns around reaches subscribers once and in order, and in time."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from raiden.backbone.frames import from_frame, to_frame
from tests.cluster.link import Link
from tests.daemons import Daemon, Stream, wait_for
from tests.stores import RedisServer

# Seconds that a busy machine may add.
MARGIN = 2.0
MakePair = Callable[..., tuple[Daemon, Daemon]]


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


def published(node: Daemon, channel: str, *numbers: int) -> float:
    """Publish messages with these numbers, as a batch; when that was acknowledged."""
    body = "\n".join(f'{{"n":{n}}}' for n in numbers)
    status, _, answer = node.request("POST", f"/{channel}", body, {"Content-Type": "application/x-ndjson"})
    assert status == 200, answer
    return time.monotonic()


def came(stream: Stream, *numbers: int, offset: int = 1) -> float:
    """These numbers come next, at the offsets from this one on; when the last of them has come."""
    lines = [stream.value() for _ in numbers]
    assert [line["data"]["n"] for line in lines] == list(numbers)
    assert [int(line["cursor"].split(":")[1]) for line in lines] == list(range(offset, offset + len(numbers)))
    return time.monotonic()


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link()
    yield link
    link.close()


@pytest.fixture
def pair(redis_server: RedisServer, link: Link, start: Callable[..., Daemon]) -> MakePair:
    """Starts two nodes; what is published at the first comes to the second by way of the link, which outlives them."""

    def pair(**settings: Any) -> tuple[Daemon, Daemon]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        settings = {"store": redis_server.url, "drain_window": 0, **settings}
        first = start(backend_port=port, advertise=link.address, **settings)
        link.start(f"127.0.0.1:{port}")
        second = start(peers=[link.address], **settings)
        for node in (first, second):
            wait_for(
                lambda node=node: [row["state"] for row in node.json("/-/nodes")["nodes"]] == ["self", "connected"],  # type: ignore[misc]
                "the nodes are connected",
            )
        return first, second

    return pair


@pytest.mark.parametrize("disturb", [Losing(2, 3), Swapping(2)], ids=["lost", "overtaken"])
def test_a_pattern_brings_all_that_was_published_since_it_held(pair: MakePair, link: Link, disturb: Any) -> None:
    """Though the first message that comes of the channel is not the first one of these."""
    first, second = pair(gap_time=0.2, position_check=60.0)
    published(first, "a", 1)
    link.disturb = disturb
    with Stream(second, "/*") as stream:
        published(first, "a", 2, 3, 4)
        came(stream, 2, 3, 4, offset=2)
        published(first, "a", 5)
        came(stream, 5, offset=5)


@pytest.mark.parametrize("path", ["/a?_wrap=1", "/*"])
def test_a_lost_message_comes_within_the_gap_time(pair: MakePair, link: Link, path: str) -> None:
    first, second = pair(gap_time=0.2, position_check=60.0)
    link.disturb = losing = Losing(2)
    with Stream(second, path) as stream:
        published(first, "a", 1)
        came(stream, 1)
        acknowledged = published(first, "a", 2, 3, 4)
        assert came(stream, 2, 3, 4, offset=2) - acknowledged < 0.2 + MARGIN
        published(first, "a", 5)
        came(stream, 5, offset=5)
    assert losing.lost == [2]
    assert second.metric("raiden_repaired_total") == 1
    assert first.metric("raiden_repaired_total") == second.metric("raiden_gaps_total") == 0


@pytest.mark.parametrize("lost", [(10,), range(6, 11)])
def test_the_last_messages_of_a_burst_come_with_the_position_check(
    pair: MakePair, link: Link, lost: tuple[int, ...]
) -> None:
    first, second = pair(position_check=0.5)
    link.disturb = losing = Losing(*lost)
    with Stream(second, "/a?_wrap=1") as stream:
        acknowledged = published(first, "a", *range(1, 11))
        assert came(stream, *range(1, 11)) - acknowledged < 0.5 + MARGIN
    assert losing.lost == list(lost)
    assert second.metric("raiden_repaired_total") == len(lost)


def test_a_channel_of_which_nothing_came(pair: MakePair, link: Link) -> None:
    first, second = pair(position_check=0.5)
    link.disturb = Losing(1)
    with Stream(second, "/a?_wrap=1") as stream:
        acknowledged = published(first, "a", 1)
        assert came(stream, 1) - acknowledged < 0.5 + MARGIN


def test_what_comes_twice_or_in_another_order(pair: MakePair, link: Link) -> None:
    first, second = pair(gap_time=30.0, position_check=60.0)
    with Stream(second, "/a?_wrap=1") as stream:
        link.disturb = lambda frame: [frame, frame]
        published(first, "a", 1, 2, 3)
        came(stream, 1, 2, 3)
        link.disturb = Swapping(4)
        started = published(first, "a", 4, 5, 6)
        came(stream, 4, 5, 6, offset=4)
        link.disturb = lambda frame: [frame]
        published(first, "a", 7)
        assert came(stream, 7, offset=7) - started < 10, "the history was not asked"
    assert second.metric("raiden_repaired_total") == 0


def test_more_is_lost_than_is_held_back(pair: MakePair, link: Link) -> None:
    """The first of 2,000 messages is lost: half of what follows is held back, all is fetched."""
    first, second = pair(channels={"*": {"history_size": 3000}}, max_batch=2000)
    link.disturb = losing = Losing(1)
    with Stream(second, "/a?_wrap=1") as stream:
        published(first, "a", *range(1, 2001))
        came(stream, *range(1, 2001))
    assert losing.lost == [1]
    assert 1 <= second.metric("raiden_repaired_total") <= 1001


def test_many_lost_in_a_row(pair: MakePair, link: Link) -> None:
    """More than a page of the history."""
    first, second = pair(channels={"*": {"history_size": 3000}}, position_check=0.5, max_batch=2000)
    link.disturb = Losing(*range(1, 1501))
    with Stream(second, "/a?_wrap=1") as stream:
        published(first, "a", *range(1, 1501))
        came(stream, *range(1, 1501))
        link.disturb = lambda frame: [frame]
        published(first, "a", 1501)
        came(stream, 1501, offset=1501)
    assert second.metric("raiden_repaired_total") == 1500


def test_what_can_not_be_had_any_more_is_told(pair: MakePair, link: Link) -> None:
    first, second = pair(channels={"*": {"history_size": 2}})
    link.disturb = Losing(2, 3, 4)
    with (
        Stream(second, "/a?_wrap=1") as wrapped,
        Stream(second, "/a", {"Accept": "text/event-stream"}) as events,
        Stream(second, "/a") as bare,
    ):
        published(first, "a", 1)
        came(wrapped, 1)
        published(first, "a", *range(2, 7))
        told = wrapped.value()
        epoch = told["missing"].pop("epoch")
        assert told == {"channel": "a", "recovered": False, "missing": {"first": 2, "last": 4}}
        came(wrapped, 5, 6, offset=5)
        lines = [re.sub(r"^(id: \w+:\d+):\w+$", r"\1", events.line().decode()) for _ in range(8)]
        assert lines[:2] == [f"id: {epoch}:1", 'data: {"n":1}'] and lines[2] == "event: gap"
        assert json.loads(lines[3].removeprefix("data: "))["missing"] == {"epoch": epoch, "first": 2, "last": 4}
        assert lines[4:] == [f"id: {epoch}:5", 'data: {"n":5}', f"id: {epoch}:6", 'data: {"n":6}']
        assert bare.value() == {"n": 1}
        with pytest.raises(IncompleteRead):
            bare.response.read()
    assert second.metric("raiden_gaps_total") == 1


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
        assert json.loads(socket.recv()) == {"id": 2, "channel": "a", "cursor": "0:0"}
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
