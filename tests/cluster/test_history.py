"""A cluster whose channels keep history, in a store that its nodes share: whatever is cut, killed or restarted, each
subscriber gets each offset once and in order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cluster.checker import Checker
from tests.cluster.follow import Followers, KeyedPublisher
from tests.cluster.network import Host, Network, requires_network
from tests.cluster.nodes import Nodes
from tests.cluster.offsets import Offsets
from tests.daemons import wait_for
from tests.stores import RedisServer

pytestmark = requires_network

PORT = 6379
# The storm has the same course with any number of them; TESTS_MESSAGES=500000 makes it a longer and a denser one.
MESSAGES = int(os.environ.get("TESTS_MESSAGES", 40_000))
CHANNELS = [f"channel {n}" for n in range(24)]
PUBLISHERS = 8
RATE = MESSAGES / 50  # messages a second, of all publishers together


class Store:
    """A Redis server on a host of its own, which all others reach over the LAN, and by a socket that no cable is in the
    way of."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        folder.mkdir()
        with host.inside():
            self.server = RedisServer(folder, "--port", str(PORT), "--bind", host.address, "--protected-mode", "no")
        by_cable = f"redis://{host.address}:{PORT}/0"
        # Node 3, when it is cut off, still has the store; the others have not.
        self.urls = {1: by_cable, 2: by_cable, 3: self.server.url}

    def start(self) -> None:
        with self.host.inside():
            self.server.start()


class Storm:
    """What is done to the cluster while messages pass."""

    def __init__(self, nodes: Nodes, store: Store, publishers: Sequence[KeyedPublisher]) -> None:
        self.nodes = nodes
        self.store = store
        self.publishers = publishers

    def acknowledged(self) -> int:
        return sum(publisher.acknowledged for publisher in self.publishers)

    def published(self, more: float) -> None:
        """Wait until this share of the messages was acknowledged since now."""
        target = min(self.acknowledged() + int(more * MESSAGES), MESSAGES)
        wait_for(lambda: self.acknowledged() >= target, f"{target} messages are published", timeout=100)

    def cut(self, number: int, more: float) -> None:
        """A node is cut off while this share of the messages is published."""
        host = self.nodes.hosts[number - 1]
        host.cut()
        self.published(more)
        host.heal()

    def kill(self, number: int, more: float) -> None:
        """A node's machine fails, and starts anew later."""
        node = next(node for node in self.nodes if node.name == str(number))
        self.nodes.take_out(node)
        node.kill()
        self.published(more)
        self.nodes.start(number, store=self.store.urls[number])
        self.nodes.wait_until_connected()

    def restart_store(self) -> None:
        """It is killed, and stays away until somebody was told so."""
        before = sum(publisher.unavailable for publisher in self.publishers)
        self.store.server.kill()
        wait_for(lambda: sum(p.unavailable for p in self.publishers) > before, "publishers are told to try later")
        self.store.start()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(hosts=4) as network:
        yield network


@pytest.fixture
def store(network: Network, tmp_path: Path, installed_redis: None) -> Iterator[Store]:
    store = Store(network.hosts[3], tmp_path / "redis")
    yield store
    store.server.stop()


@pytest.fixture
def nodes(network: Network, store: Store, tmp_path: Path) -> Iterator[Nodes]:
    keeping = {"*": {"history_size": MESSAGES, "history_ttl": 3600.0, "ack": "shared"}}
    nodes = Nodes(network.hosts[:3], tmp_path, channels=keeping)
    try:
        for number, url in store.urls.items():
            nodes.start(number, store=url)
        nodes.wait_until_connected()
        yield nodes
    finally:
        nodes.close()


def test_every_offset_once_and_in_order(nodes: Nodes, store: Store) -> None:
    """40,000 messages on 24 channels, 48 followers that come and go, and a storm."""
    checker = Checker()
    offsets = Offsets(checker)
    publishers = [
        KeyedPublisher(
            checker, nodes, CHANNELS, total=MESSAGES // PUBLISHERS, rate=RATE / PUBLISHERS, seed=number
        )
        for number in range(PUBLISHERS)
    ]  # fmt: skip
    with Followers(offsets, nodes, CHANNELS, each=2) as followers:
        wait_for(lambda: followers.attached() == len(followers.followers), "all have subscribed")
        for publisher in publishers:
            publisher.start()
        storm = Storm(nodes, store, publishers)
        storm.published(0.04)
        storm.cut(3, 0.06)
        third = next(node for node in nodes if node.name == "3")
        wait_for(
            lambda: third.metric("raiden_repaired_total") > 0, "what it missed is fetched from the store", every=0.1
        )
        storm.kill(2, 0.06)
        storm.published(0.04)
        storm.restart_store()
        storm.published(0.04)
        storm.cut(2, 0.06)
        storm.published(0.04)
        storm.kill(1, 0.06)
        storm.cut(1, 0.06)
        storm.restart_store()
        storm.published(0.04)
        storm.kill(3, 0.06)
        for publisher in publishers:
            publisher.join(100)
        followers.stay()
        try:
            wait_for(lambda: not followers.behind(), "all have got all", timeout=60)
        except AssertionError:
            pass  # the verdict tells
        for follower in followers.followers:
            follower.leaving()
    verdict = offsets.report()
    print(verdict, followers.begun, followers.ended, sum(publisher.unavailable for publisher in publishers))
    assert (followers.error, [publisher.error for publisher in publishers]) == (None, [None] * PUBLISHERS)
    assert storm.acknowledged() == MESSAGES
    assert verdict.clean, f"{verdict}\n{nodes.logs()}"
    assert sum(publisher.unanswered for publisher in publishers) > 0, "nodes were killed"
    assert verdict.counts["resumed"] > 300
    assert verdict.counts["recovered"] == verdict.counts["resumed"] and verdict.counts["gaps"] == 0
    assert min(followers.begun.values()) > 50 and len(followers.begun) == 3
