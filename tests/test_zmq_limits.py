"""What bounds the ZeroMQ doors' clients: topics, connections, handshakes, and those that don't read."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from raiden.protocols.zmtp import message
from raiden.zeromq.req import PATIENCE
from tests.daemons import Daemon, memory, wait_for
from tests.zeromq import (
    BYTES,
    GREETING,
    OPEN,
    Clients,
    Raw,
    ask,
    carried,
    command,
    in_force,
    payloads,
    ready,
    silent,
    stopped,
    wait_for_metric,
)

CHANNELS = {"*": {"history_size": 10_000}, "none*": {"history_size": 0}}
MAX_TOPICS, MAX_OUTBOX, TOPIC_BYTES = 1000, 200_000, 255


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(tmp_path_factory.mktemp("node"), channels=CHANNELS, max_outbox=MAX_OUTBOX, **OPEN)
    doors = found.workers()["zeromq"]
    yield found
    assert found.workers()["zeromq"] == doors
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()


@pytest.fixture
def clients(node: Daemon) -> Iterator[Clients]:
    with Clients(node) as found:
        yield found


# Topics.


def subscribe(*topics: bytes) -> bytes:
    return b"".join([command(b"SUBSCRIBE", topic) for topic in topics])


def test_a_client_may_have_so_many_topics(node: Daemon, channel: str) -> None:
    topics = [f"{channel}.{n}.".encode() for n in range(MAX_TOPICS - 1)]
    with Raw(node.doors()["SUB"], b"SUB") as raw:
        raw.send(subscribe(*topics, b"-/in-force/1"))
        assert raw.message()[0] == b"-/in-force/1"
        raw.send(subscribe(*topics))
        raw.send(command(b"CANCEL", topics[0]) + subscribe(topics[0]))
        raw.send(command(b"CANCEL", b"-/in-force/1") + subscribe(b"-/in-force/2"))
        assert raw.message()[0] == b"-/in-force/2"
        node.publish(f"{channel}.0.", 1)
        assert raw.message()[1] == b"1", "those that are there already are not counted again"
        raw.send(subscribe(b"another"))
        assert raw.closed()
    wait_for(lambda: f"{channel}.0.*" not in carried(node), "nothing of it is left")
    assert "zmq_max_topics" in node.log()


def test_a_flood_of_topics_is_cut_off_and_leaves_nothing(node: Daemon, channel: str) -> None:
    """200,000 topics at once, again and again; what libzmq and malloc keep of it must not grow with each."""
    workers = node.workers()
    flood = subscribe(*[f"{channel}.{n}.".encode() for n in range(200_000)])
    carried_before = node.metric("raiden_channels")
    with Clients(node) as clients:
        sub, push = clients.sub("calm"), clients.push()
        sizes: list[int] = []
        for turn in range(4):
            with Raw(node.doors()["SUB"], b"SUB") as raw:
                raw.send(flood)
                push.send_multipart([b"calm", b"%d" % turn])
                assert payloads(sub, 1) == [b"%d" % turn]
                assert raw.closed()
            wait_for(lambda: node.metric("raiden_channels") <= carried_before + 1, "its topics are given up")
            sizes.append(sum(memory(workers[name]) for name in ("zeromq", "backbone")))
        assert silent(sub)
    assert sizes[-1] - sizes[0] < 4 << 20, sizes


def test_a_topic_that_is_too_long_or_no_utf8_brings_nothing_and_is_counted(node: Daemon, channel: str) -> None:
    before = node.metric("raiden_refused_subscriptions_total")
    long = b"x" * TOPIC_BYTES
    with Raw(node.doors()["SUB"], b"SUB") as raw:
        bad = [b"x" * (TOPIC_BYTES + 1), b"y" * 100_000, b"\xff", b"\xc3", b"a\0", b"-/" + b"x" * TOPIC_BYTES]
        raw.send(subscribe(*bad, long, channel.encode(), b"-/in-force/1"))
        assert raw.message()[0] == b"-/in-force/1"
        assert node.metric("raiden_refused_subscriptions_total") == before + len(bad)
        for name in (channel, long.decode()):
            node.publish(name, 1)
            assert raw.message()[0] == name.encode()
        raw.send(b"".join([command(b"CANCEL", topic) for topic in bad]))
        node.publish(channel, 2)
        assert raw.message()[1] == b"2"


def test_topics_that_are_refused_take_no_memory(node: Daemon) -> None:
    doors = node.workers()["zeromq"]
    with Raw(node.doors()["SUB"], b"SUB") as raw:
        data = subscribe(*[b"%d" % n + b"x" * 100_000 for n in range(50)])
        raw.send(data + subscribe(b"-/in-force/1"))
        assert raw.message()[0] == b"-/in-force/1"
        before = memory(doors)
        for _ in range(10):
            raw.send(data)
        raw.send(subscribe(b"-/in-force/2"))
        assert raw.message()[0] == b"-/in-force/2"
        assert memory(doors) - before < 8 << 20


def test_where_no_more_channels_are_carried_topics_are_refused_and_others_go_on(start: Callable[..., Daemon]) -> None:
    node = start(max_channels=3, store="none", **OPEN)
    with Raw(node.doors()["SUB"], b"SUB") as raw:

        def change(data: bytes, number: bytes) -> None:
            raw.send(data + subscribe(b"-/in-force/" + number))
            assert raw.message() == [b"-/in-force/" + number, b"", b""]

        def hears(*channels: str) -> None:
            with Clients(node) as clients:
                req = clients.req()
                # When the last has come, all before it have passed: none is left for topics of the next change.
                for name in ("a", "b", "c", "d", "e", channels[-1]):
                    assert ask(req, "publish", name, "1") == [b"202", b""]
            assert [raw.message()[0].decode() for _ in (*channels, "last")] == [*channels, channels[-1]]

        change(subscribe(b"a", b"b", b"c", b"d"), b"1")
        hears("a", "b", "c")
        change(subscribe(b"") + command(b"CANCEL", b""), b"2")
        hears("a", "b", "c")
        change(command(b"CANCEL", b"a") + command(b"CANCEL", b"d") + subscribe(b"d"), b"3")
        hears("b", "c", "d")
        change(command(b"CANCEL", b"b") + subscribe(b""), b"4")
        hears("a", "b", "c", "d", "e")
        change(command(b"CANCEL", b""), b"5")
        hears("c", "d")
        assert node.metric("raiden_refused_subscriptions_total") == 1, "a wider one takes the place of those within it"
    wait_for(lambda: not carried(node), "nothing is left")
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


def test_a_reload_changes_the_limits(start: Callable[..., Daemon], tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text("")
    node = start(config=config, store="none", **OPEN)
    config.write_text("zmq_max_topics = 2\nmax_connections_per_address = 2\n")
    node.signal(signal.SIGHUP)
    wait_for(lambda: "raiden: reloaded" in node.log(), "the reload is logged")
    with Raw(node.doors()["SUB"], b"SUB") as raw:
        raw.send(subscribe(b"a", b"b", b"c"))
        assert raw.closed()
    with Raw(node.doors()["SUB"], b"SUB"), Raw(node.doors()["SUB"], b"SUB"), Raw(node.doors()["SUB"]) as third:
        assert third.closed()
    assert node.stop() == 0


# Clients that don't read.


def publish_to(fast: zmq.Socket[bytes], push: zmq.Socket[bytes], name: bytes, total: int, size: int) -> None:
    """Publish numbers with ``size`` bytes behind each, and read all of them. No more is under way than the outbox of
    the one that reads takes: it would lose messages, too, where this process waits long for a processor."""
    most = MAX_OUTBOX // 2 // size
    for begin in range(0, total, most):
        numbers = range(begin, min(begin + most, total))
        for number in numbers:
            push.send_multipart([name, b"%d " % number + b"x" * size, BYTES])
        assert [int(payload.partition(b" ")[0]) for payload in payloads(fast, len(numbers))] == list(numbers)


def test_a_slow_subscriber_loses_messages_alone_and_sees_its_gap(node: Daemon, channel: str) -> None:
    doors = node.workers()["zeromq"]
    name, total, size = channel.encode(), 8000, 4000
    before = node.metric("raiden_dropped_total")
    with Clients(node) as clients, Raw(node.doors()["SUB"], b"SUB", receive=65536) as slow:
        fast, push = clients.sub(channel, rcvhwm=0), clients.push()
        slow.send(subscribe(name, b"-/in-force/1"))
        assert slow.message()[0] == b"-/in-force/1"
        resident = memory(doors)
        publish_to(fast, push, name, total, size)
        assert memory(doors) - resident < 32 << 20
        dropped = int(node.metric("raiden_dropped_total") - before)
        assert 0 < dropped < total
        assert "a slow ZeroMQ client misses messages" in node.log()
        offsets = []
        for _ in range(total - dropped):
            frames = slow.message()
            assert frames[0] == name and len(frames[1]) > size
            offsets.append(int(frames[2].partition(b":")[2]))
        push.send_multipart([name, b"1"])
        frames = slow.message()
        assert frames[1] == b"1" and int(frames[2].partition(b":")[2]) == total + 1, "it has read, and hears again"
        assert payloads(fast, 1) == [b"1"]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] - offsets[0] + 1 > len(offsets) or offsets[-1] < total, "the cursors show the gap"


def test_a_slow_subscriber_does_not_hold_up_others(node: Daemon, channel: str) -> None:
    name = channel.encode()
    with Clients(node) as clients:
        raws = [Raw(node.doors()["SUB"], b"SUB", receive=4096) for _ in range(20)]
        for raw in raws:
            raw.send(subscribe(name, b"-/in-force/1"))
            assert raw.message()[0] == b"-/in-force/1"
        fast, push = clients.sub(channel, rcvhwm=0), clients.push()
        publish_to(fast, push, name, 3000, 1000)
        for raw in raws:
            raw.close()
    wait_for(lambda: channel + "*" not in carried(node), "all are gone")


@pytest.fixture(scope="module")
def pages(node: Daemon) -> bytes:
    """A channel of which a page has 1 MB, five times of what may wait for a client."""
    with Clients(node) as clients:
        push, sub = clients.push(), clients.sub("pages", rcvhwm=0)
        for n in range(100):
            push.send_multipart([b"pages", b"%d" % n + b"x" * 20_000, BYTES])
        payloads(sub, 100)
    return b"pages"


def test_a_client_may_ask_for_many_pages_at_once(node: Daemon, pages: bytes) -> None:
    doors = node.workers()["zeromq"]
    resident = memory(doors)
    with Clients(node) as clients:
        dealer = clients.dealer(sndhwm=0, rcvhwm=1)
        for n in range(100):
            dealer.send_multipart([b"%d" % n, b"", b"history", pages])
        for n in range(100):
            number, _, status, *page = dealer.recv_multipart()
            assert (number, status) == (b"%d" % n, b"200") and len(page) > 80
    assert memory(doors) - resident < 32 << 20, "some pages"


def test_a_client_that_never_reads_its_answers_is_closed(node: Daemon, pages: bytes) -> None:
    doors = node.workers()["zeromq"]
    before = node.metric("raiden_slow_consumers_total")
    resident = memory(doors)
    with Clients(node) as clients, Raw(node.doors()["REQ"], b"DEALER", receive=4096) as raw:
        raw.send(message(b"", b"history", pages) * 2000)
        # It took the first bytes, so its time begins anew once.
        closed = "it has taken nothing for so long"
        wait_for(lambda: node.metric("raiden_slow_consumers_total") > before, closed, timeout=3 * PATIENCE)
        assert memory(doors) - resident < 32 << 20, "some pages"
        assert ask(clients.req(), "ping") == [b"200", b""]


def test_requests_wait_where_too_many_are_under_way(node: Daemon, channel: str) -> None:
    with Clients(node) as clients, Raw(node.doors()["REQ"], b"DEALER") as raw:
        with stopped(node.workers()["history"]):
            raw.send(message(b"", b"history", channel.encode()) * 256 + message(b"", b"ping"))
            raw.socket.settimeout(0.5)
            with pytest.raises(TimeoutError):
                raw.message()
            assert ask(clients.req(), "ping") == [b"200", b""], "others don't wait"
        raw.socket.settimeout(20)
        answers = [raw.message() for _ in range(257)]
    assert [b"", b"200", b""] in answers[1:], "it had to wait for an answer"


def test_a_pinging_client_that_never_reads_is_closed(node: Daemon) -> None:
    for door, kind in (("PUSH", b"PUSH"), ("REQ", b"DEALER")):
        before = node.metric("raiden_slow_consumers_total")
        with Raw(node.doors()[door], kind, receive=4096) as raw:
            pings = command(b"PING", b"\0\0" + b"x" * 16) * 10_000
            for _ in range(200):
                if not raw.send(pings):
                    break
            wait_for_metric(node, "slow_consumers_total", before + 1)


# Connections and handshakes.


@pytest.mark.parametrize(
    "data",
    [b"", GREETING[:1], GREETING[:20], GREETING[:63], GREETING, GREETING + ready(b"SUB")[:10]],
    ids=["nothing", "a byte", "20 bytes", "63 bytes", "a greeting", "half a READY"],
)
def test_a_handshake_has_five_seconds(silent_ones: dict[bytes, tuple[Raw, float]], data: bytes) -> None:
    raw, started = silent_ones[data]
    assert raw.closed()
    assert time.monotonic() - started > 4.5


@pytest.fixture(scope="module")
def silent_ones(node: Daemon) -> Iterator[dict[bytes, tuple[Raw, float]]]:
    """Clients that said something and no more, all at the same time, and when."""
    found = {}
    for data in (b"", GREETING[:1], GREETING[:20], GREETING[:63], GREETING, GREETING + ready(b"SUB")[:10]):
        raw = Raw(node.doors()["SUB"])
        raw.send(data)
        found[data] = raw, time.monotonic()
    yield found
    for raw, _ in found.values():
        raw.close()


def test_clients_that_have_shaken_hands_may_be_silent(
    node: Daemon, silent_ones: dict[bytes, tuple[Raw, float]]
) -> None:
    with Raw(node.doors()["SUB"], b"SUB") as raw:
        other = Raw(node.doors()["SUB"])
        assert other.closed()
        raw.send(subscribe(b"-/in-force/1"))
        assert raw.message()[0] == b"-/in-force/1"
        other.close()


def test_a_door_takes_so_many_connections(start: Callable[..., Daemon]) -> None:
    node = start(max_connections=5, store="none", **OPEN)
    raws = [Raw(node.doors()["SUB"], b"SUB") for _ in range(5)]
    with Raw(node.doors()["SUB"]) as one_more:
        assert one_more.closed()
    wait_for_metric(node, "refused_connections_total", 1)
    with Clients(node) as clients:
        assert ask(clients.req(), "ping") == [b"200", b""], "other doors have theirs"
        raws.pop().close()
        sub = clients.socket("SUB", zmq.SUB)
        assert in_force(sub) == [], "it comes back by itself when there is room"
    for raw in raws:
        raw.close()
    assert node.stop() == 0


def test_thousands_that_never_shake_hands_do_no_harm(node: Daemon, channel: str) -> None:
    before = node.metric("raiden_refused_handshakes_total")
    host, _, port = node.doors()["SUB"].removeprefix("tcp://").rpartition(":")
    with Clients(node) as clients:
        sub, push = clients.sub(channel), clients.push()
        socks = [socket.create_connection((host, int(port))) for _ in range(3000)]
        for n in range(200):
            push.send_multipart([channel.encode(), b"%d" % n])
        assert payloads(sub, 200) == [b"%d" % n for n in range(200)]
        wait_for_metric(node, "refused_handshakes_total", before + 3000)
        assert silent(sub)
    for sock in socks:
        sock.close()
    wait_for(lambda: node.metric("raiden_connections", transport="sub") == 0, "all are gone")


def test_many_clients_come_and_go(node: Daemon, channel: str) -> None:
    doors = node.workers()["zeromq"]
    greetings = GREETING + ready(b"SUB") + subscribe(channel.encode(), channel[:5].encode(), b"none")
    for turn in range(6):
        raws = [Raw(node.doors()["SUB"]) for _ in range(100)]
        for raw in raws:
            raw.send(greetings)
        wait_for(lambda: carried(node).get("none*") == 100, "all have subscribed")
        for raw in raws:
            raw.close()
        wait_for(lambda: "none*" not in carried(node), "all are gone")
        if turn == 2:
            before = memory(doors)
    assert memory(doors) - before < 2 << 20
