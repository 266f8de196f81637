"""Webhooks of a cluster: each event is told once, in order, whichever node ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.daemons import Daemon, Stream, post, wait_for
from tests.receiver import SECRET, Receiver, verify
from tests.stores import RedisServer

OCCUPIED = ["channel.occupied", "channel.vacated"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def make(start: Callable[..., Daemon], redis_server: RedisServer, receiver: Receiver) -> Callable[..., list[Daemon]]:
    """Makes a cluster of so many nodes, with webhooks of these events."""

    def make(count: int, *events: str, **settings: Any) -> list[Daemon]:
        webhook = {"url": receiver.url, "secret": SECRET, "events": list(events), "channels": ["a.*"]}
        nodes: list[Daemon] = []
        for _ in range(count):
            peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in nodes[:1]]
            more = {"store": redis_server.url, "webhooks": [webhook], "peers": peers, "drain_window": 0, **settings}
            nodes.append(start(**more))
        wait_until_connected(nodes)
        return nodes

    return make


def wait_until_connected(nodes: list[Daemon]) -> None:
    def connected() -> bool:
        return all(
            [row["state"] for row in node.json("/-/nodes")["nodes"][1:]] == ["connected"] * (len(nodes) - 1)
            for node in nodes
        )

    wait_for(connected, "the nodes are connected", every=0.1)


def leader(nodes: list[Daemon]) -> Daemon:
    """The node that sends, once there is one."""

    def find() -> list[Daemon]:
        return [node for node in nodes if b"raiden_webhook_sent" in sent(node)]

    def sent(node: Daemon) -> bytes:
        return b"\n".join(line for line in node.request("GET", "/-/metrics")[2].splitlines() if b"webhook=" in line)

    return wait_for(find, "a node sends", every=0.1)[0]


def test_a_channel_is_occupied_and_vacated_once_in_the_cluster(
    make: Callable[..., list[Daemon]], receiver: Receiver
) -> None:
    nodes = make(3, *OCCUPIED, webhook_settle=2.0, workers=2)
    streams = [Stream(node, "/a.x") for node in nodes for _ in range(3)]
    assert receiver.wait_for(1) == [{"channel": "a.x"}]
    with Stream(nodes[0], "/b.x"), Stream(nodes[1], "/a.*"):  # not listed; no channel
        for stream in streams[1:]:
            stream.close()
        with Stream(nodes[2], "/a.y"):
            receiver.wait_for(2)
            streams[0].close()
            streams[0] = Stream(nodes[1], "/a.x")  # before it has settled: it was never vacated
        receiver.wait_for(3)
    streams[0].close()
    receiver.wait_for(4)
    told = [(each.type, each.data["channel"]) for each in receiver.got()]
    assert told[0] == ("channel.occupied", "a.x") and told[-1] == ("channel.vacated", "a.x") and len(told) == 4
    assert sorted(told[1:3]) == [("channel.occupied", "a.y"), ("channel.vacated", "a.y")]
    verify(receiver.got())


def test_the_node_that_counts_is_killed(make: Callable[..., list[Daemon]], receiver: Receiver) -> None:
    """Its channels are vacated, but for those whose clients are elsewhere, or come back; nothing is told twice."""
    nodes = make(3, *OCCUPIED, webhook_settle=1.0)
    first = leader(nodes)
    others = [node for node in nodes if node is not first]
    kept = [Stream(others[0], "/a.kept"), Stream(first, "/a.kept"), Stream(first, "/a.gone"), Stream(first, "/a.back")]
    receiver.wait_for(3)
    first.signal_all(9)
    first.process.wait()
    with Stream(others[1], "/a.back"), Stream(others[1], "/a.new"):
        assert {"channel": "a.new"} in receiver.wait_for(4)
        assert receiver.wait_for(1, "channel.vacated") == [{"channel": "a.gone"}]
        for stream in kept:
            stream.close()
        vacated = receiver.wait_for(2, "channel.vacated")
        assert vacated == [{"channel": "a.gone"}, {"channel": "a.kept"}]
    assert sorted(each["channel"] for each in receiver.wait_for(4, "channel.occupied")) == [
        "a.back", "a.gone", "a.kept", "a.new",
    ]  # fmt: skip
    left = receiver.wait_for(4, "channel.vacated")
    assert sorted(each["channel"] for each in left) == ["a.back", "a.gone", "a.kept", "a.new"]
    assert leader(others) in others
    for node in others:
        assert node.stop() == 0 and "Traceback" not in node.log()


def test_events_go_on_in_order_when_the_node_that_sends_ends(
    make: Callable[..., list[Daemon]], receiver: Receiver
) -> None:
    nodes = make(2, "message.published")
    first = leader(nodes)
    (second,) = [node for node in nodes if node is not first]
    for n in range(100):
        post(nodes[n % 2], f"a.{n % 5}", {"n": n})
    receiver.wait_for(50)
    first.signal_all(9)
    first.process.wait()
    for n in range(100, 200):
        post(second, f"a.{n % 5}", {"n": n})
    told = receiver.wait_for(200)
    for channel in range(5):
        numbers = [each["data"]["n"] for each in told if each["channel"] == f"a.{channel}"]
        assert numbers == list(range(channel, 200, 5))
    verify(receiver.got())
