"""Clusters of real nodes on hosts of their own: every message reaches every subscriber, whatever comes and goes."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.cluster.checker import Checker, Report
from tests.cluster.load import Churn, Publisher, Subscribers
from tests.cluster.network import Impairment, requires_network
from tests.cluster.nodes import Node, Nodes, lasting
from tests.daemons import Stream, wait_for

pytestmark = requires_network

MakeNodes = Callable[..., Nodes]
CHANNELS = [f"channel {n}" for n in range(20)]
FAULT = 10.0
# A message that was on its way when the fault began may be lost: acknowledged by its node, and in no other's hands yet.
ON_ITS_WAY = 1.0
HEALED_WITHIN = 2.0


@contextmanager
def traffic(
    checker: Checker, nodes: Sequence[Node], *, rate: float = 100, channels: Sequence[str] = CHANNELS
) -> Iterator[tuple[Subscribers, list[Publisher]]]:
    """Every node publishes, and has a subscriber of each channel, until the end; then all that is owed has come."""
    with Subscribers(checker) as subscribers:
        everything = [subscribers.add(node, channel) for node in nodes for channel in channels]
        publishers = [
            Publisher(checker, node, channels, rate=rate, batch=5, seed=int(node.name), persistent=True)
            for node in nodes
        ]
        for publisher in publishers:
            publisher.start()
        try:
            yield subscribers, publishers
        finally:
            for publisher in publishers:
                publisher.stop()
            subscribers.remove(*everything)


def published(publishers: Sequence[Publisher], more: int = 500) -> None:
    """Wait until so many messages more were acknowledged."""
    target = sum(publisher.acknowledged for publisher in publishers) + more
    wait_for(
        lambda: sum(p.acknowledged for p in publishers) >= target, f"{more} messages more are published", timeout=60
    )


def judge(checker: Checker) -> Report:
    report = checker.report()
    assert report.clean and report.total("received") > 0, str(report)
    return report


@pytest.mark.parametrize("count", [2, 5])
def test_nodes_find_each_other(cluster: MakeNodes, count: int) -> None:
    nodes = cluster(count).start_all()
    streams = [Stream(node, "/a") for node in nodes for _ in range(3)]
    for node in nodes:
        node.publish("a", node.name)
        assert [stream.value() for stream in streams] == [node.name] * len(streams)
    for node in nodes:
        own, *others = node.nodes()
        assert own["address"] == node.address and own["state"] == "self" and own["workers"] == 2
        assert len({row["id"] for row in (own, *others)}) == count
        wait_for(lambda node=node: all(row["lag"] for row in node.nodes()[1:]), "the links' lag is known")  # type: ignore[misc]
        assert all(row["version"] and row["since"] and row["uptime"] >= 0 for row in others), others
        assert node.json("/-/channels/a")["subscribers"] == len(streams), "counted over the whole cluster"
    wait_for(lambda: all(row["messages_in"] == 1 for row in nodes[0].nodes()), "the nodes' counts are known to all")
    wait_for(
        lambda: sum(row["messages_out"] for row in nodes[-1].nodes()) == len(streams) * count, "also what goes out"
    )
    for stream in streams:
        stream.close()


def test_every_message_once_and_in_order(cluster: MakeNodes) -> None:
    """5 nodes, 100 channels, 25,000 messages, while subscriptions come and go."""
    nodes = cluster(5).start_all()
    channels = [f"channel {n}" for n in range(100)]
    checker = Checker()
    with Subscribers(checker) as subscribers:
        lasting = [subscribers.add(node, channel) for node in nodes for channel in channels[int(node.name) :: 3]]
        with Churn(subscribers, nodes, channels, keep=60, rate=100) as churn:
            publishers = [
                Publisher(checker, node, channels, total=5_000, batch=20, seed=int(node.name)) for node in nodes
            ]
            for publisher in publishers:
                publisher.start()
            for publisher in publishers:
                publisher.join(300)
        subscribers.remove(*lasting, timeout=60)
    assert [publisher.acknowledged for publisher in publishers] == [5_000] * 5, [p.error for p in publishers]
    assert churn.added > 40 and not churn.failures, churn.failures
    judge(checker)


def test_joining_and_leaving_under_load(cluster: MakeNodes) -> None:
    nodes = cluster(3, min_peers=1)
    first, second = nodes.start(1), nodes.start(2)
    nodes.wait_until_connected()
    checker = Checker()
    with traffic(checker, [first, second]) as (subscribers, publishers):
        published(publishers)
        third = nodes.start(3)
        wait_for(lambda: third.request("GET", "/-/ready")[0] == 200, "the third is ready", every=0.1)
        with traffic(checker, [third]) as (_, more):
            published(more)
            with Churn(subscribers, [first, second, third], CHANNELS, rate=50):
                published(publishers)
        nodes.take_out(third)
        left = time.monotonic()
        third.signal(signal.SIGTERM)
        wait_for(lambda: first.sees(second) and second.sees(first), "the third has left", every=0.1)
        assert time.monotonic() - left < 5, "it said so, and nobody waited for its silence"
        assert third.process.wait(20) == 0
        published(publishers)
    judge(checker)


def test_killed_node(cluster: MakeNodes) -> None:
    nodes = cluster(3)
    first, second, third = nodes.start_all()
    checker = Checker()
    with traffic(checker, [first, second]) as (subscribers, publishers):
        dying = [subscribers.add(third, channel) for channel in CHANNELS]
        published(publishers)
        with Publisher(checker, third, CHANNELS, rate=200, batch=5) as publisher:
            published([publisher], 100)
            checker.excuse("3", None, time.monotonic() - ON_ITS_WAY, float("inf"))
            checker.excuse(None, "3", time.monotonic() - ON_ITS_WAY, float("inf"))
            nodes.take_out(third)
            third.kill()
            wait_for(lambda: first.states().get(third.address) != "connected", "it is missed at once", timeout=2)
            started = time.monotonic()
            status, headers, _ = first.request("GET", "/some?_wait=0")
            assert status == 204 and time.monotonic() - started < 2, "a subscriber does not wait for it"
            assert headers["raiden-unconfirmed"] == third.address, "and is told"
        wait_for(lambda: first.sees(second) and second.sees(first), "it is dropped", every=0.1)
        again = nodes.start(3)
        nodes.wait_until_connected()
        with traffic(checker, [again], rate=50) as (_, more):
            published(more, 100)
        published(publishers)
        assert all(subscription.ended for subscription in dying)
    judge(checker)


def back_in_time(checker: Checker, nodes: Nodes, publishers: Sequence[Publisher], since: float) -> None:
    """Node 3 was parted from the others until now: within `HEALED_WITHIN` messages pass again."""
    until = time.monotonic() + HEALED_WITHIN
    for one, other in (("1", "3"), ("2", "3"), ("3", "1"), ("3", "2")):
        checker.excuse(one, other, since, until)
    wait_for(lambda: time.monotonic() > until, "time enough to be back")
    published(publishers)
    nodes.wait_until_connected()


def test_node_that_stands_still(cluster: MakeNodes) -> None:
    nodes = cluster(3)
    first, second, third = nodes.start_all()
    checker = Checker()
    with traffic(checker, [first, second, third]) as (_, publishers):
        published(publishers)
        start = time.monotonic() - ON_ITS_WAY
        third.signal_all(signal.SIGSTOP)
        with lasting(FAULT):
            published(publishers[:2])
        third.signal_all(signal.SIGCONT)
        back_in_time(checker, nodes, publishers, start)
    assert judge(checker).total("excused") > 0, "it did stand still"


def test_cable_that_is_cut(cluster: MakeNodes) -> None:
    nodes = cluster(3)
    first, second, third = nodes.start_all()
    checker = Checker()
    with traffic(checker, [first, second, third]) as (_, publishers):
        published(publishers)
        start = time.monotonic() - ON_ITS_WAY
        third.on.cut()
        with lasting(FAULT):
            published(publishers[:2])
            published(publishers[2:])
        third.on.heal()
        back_in_time(checker, nodes, publishers, start)
    assert judge(checker).total("excused") > 0, "the cut was real"


def test_bad_cable(cluster: MakeNodes) -> None:
    """2 % of the packets lost, and 50 ms each way: nothing is lost, and nobody is suspected."""
    nodes = cluster(3, {3: Impairment(loss=0.02, delay=0.05)})
    first, second, third = nodes.start_all()
    checker = Checker()
    with traffic(checker, [first, second, third], rate=100) as (subscribers, publishers):
        with Churn(subscribers, [first, second, third], CHANNELS, rate=5):
            published(publishers, 2000)
        lags = [row["lag"] for row in third.nodes() if row["state"] == "connected"]
        assert len(lags) == 2 and min(lags) > 0.1, "a heartbeat's round trip"
    judge(checker)
    assert "suspect" not in nodes.logs()


def test_nothing_is_missed_once_in_force(cluster: MakeNodes) -> None:
    """250 times: subscribe at one node, and then at once publish at another."""
    one, other = cluster(2).start_all()
    for number in range(250):
        with Stream(one, f"/round/{number}") as stream:
            other.publish(f"round/{number}", number)
            assert stream.value() == number
        one, other = other, one


def test_many_channels_survive_a_reconnect(cluster: MakeNodes) -> None:
    nodes = cluster(2, max_subscriptions=12_500, max_url=250_000)
    one, other = nodes.start_all()
    names = [f"c{n}" for n in range(10_000)]
    with Stream(one, "/-/subscribe?" + "&".join(f"channel={name}" for name in names)) as stream:
        got: list[str] = []

        def everything_comes() -> None:
            got.clear()
            reader = threading.Thread(target=lambda: got.extend(stream.value()["channel"] for _ in names))
            reader.start()
            for start in range(0, len(names), 1000):
                body = {"channels": names[start : start + 1000], "data": start}
                status, _, answer = other.post_json("/-/publish", body)
                assert status == 202, answer
            reader.join(60)
            assert sorted(got) == sorted(names)

        everything_comes()
        one.on.cut()
        wait_for(
            lambda: "suspected" in other.states().values() or not other.states(),
            "they are parted",
            timeout=30,
            every=0.1,
        )
        one.on.heal()
        nodes.wait_until_connected()
        everything_comes()


def test_a_node_whose_link_broke_at_the_other_end_is_not_connected_before_its_subscriptions_hold_again(
    cluster: MakeNodes,
) -> None:
    """Only one end of the connection knows that it is broken, and its own link to the other node is whole."""
    nodes = cluster(2)
    one, other = nodes.start_all()
    with Stream(one, "/a") as stream:
        other.publish("a", 1)
        assert stream.value() == 1
        one.on.cut()
        break_connections_from(other, one)
        wait_for(lambda: "suspected" in other.states().values(), "the other end knows")
        one.on.heal()
        nodes.wait_until_connected()
        other.publish("a", 2)
        assert stream.value() == 2


def break_connections_from(node: Node, peer: Node) -> None:
    """Break a node's end of the connections that its peer has made to its backbone; the other end hears nothing."""
    assert node.on is not None and peer.on is not None
    port = node.address.rpartition(":")[2]
    broken = subprocess.run(
        node.on.command(["ss", "-K", "-H", "-t", "dst", peer.on.address, "sport", "=", f":{port}"]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert broken.stdout.strip(), "no connection was broken: does the kernel have INET_DIAG_DESTROY?"


def test_what_nobody_wants_does_not_cross(cluster: MakeNodes) -> None:
    one, other = cluster(2).start_all()
    payload = "x" * 10_000
    with Stream(one, "/here") as here, Stream(other, "/there") as there:
        before = other.on.traffic()
        for _ in range(100):
            one.publish("here", payload)
            assert here.value() == payload
        between = other.on.traffic()
        assert between.received_bytes - before.received_bytes < 100_000, (
            "1,000,000 bytes were published, to nobody there"
        )
        for _ in range(100):
            one.publish("there", payload)
            assert there.value() == payload
        after = other.on.traffic()
        assert after.received_bytes - between.received_bytes > 1_000_000
        with Stream(other, "/there") as second, Stream(other, "/ther*"):
            middle = other.on.traffic()
            for _ in range(100):
                one.publish("there", payload)
                assert second.value() == there.value() == payload
            assert other.on.traffic().received_bytes - middle.received_bytes < 1_500_000, "once, however many want it"
