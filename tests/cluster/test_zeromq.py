"""The ZeroMQ doors in a cluster: who hears has all, whichever node it is published on, whatever is cut, killed or
restarted; and a subscription that is confirmed holds at all nodes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from raiden.access import keys
from raiden.model.message import Cursor
from tests.cluster.checker import Checker
from tests.cluster.doors import (
    Asker,
    AskingPublisher,
    Context,
    Identity,
    LateJoiner,
    Socket,
    connect,
    context_on,
    wait_until_in_force,
)
from tests.cluster.follow import KeyedPublisher
from tests.cluster.network import Impairment, requires_network
from tests.cluster.nodes import Node, Nodes
from tests.cluster.offsets import Offsets
from tests.daemons import wait_for
from tests.stores import RedisServer

pytestmark = requires_network

# Each host has ports of its own.
SUB, PUSH, REQ = 7071, 7072, 7073
DOORS = {"zmq_sub_port": SUB, "zmq_push_port": PUSH, "zmq_req_port": REQ}
KEEPING = {"live.*": {"history_size": 0}, "*": {"history_size": 100_000, "history_ttl": 3600.0}}
CHANNELS = [f"news.{number}" for number in range(4)]


def door(port: int, host: str = "127.0.0.1") -> str:
    return f"tcp://{host}:{port}"


class Site:
    """A node's host, for its clients."""

    def __init__(self, node: Node, context: Context) -> None:
        self.node = node
        self.context = context

    def connect(self, kind: int, port: int) -> Socket:
        return connect(self.context, kind, door(port))


@pytest.fixture
def sites(cluster: Callable[..., Nodes]) -> Iterator[Callable[..., tuple[Nodes, list[Site]]]]:
    """Starts a cluster whose nodes have doors, on so many hosts."""
    with ExitStack() as stack:

        def sites(hosts: int, **settings: Any) -> tuple[Nodes, list[Site]]:
            nodes = cluster(hosts, **{"channels": KEEPING, **DOORS, **settings})
            started = nodes.start_all()
            return nodes, [Site(node, stack.enter_context(context_on(node.on))) for node in started]

        yield sites


class Feeds:
    """Publishers of a test, and what is waited for of them and of those who follow."""

    def __init__(self, publishers: Sequence[AskingPublisher | KeyedPublisher], joiner: LateJoiner) -> None:
        self.publishers = publishers
        self.joiner = joiner

    def acknowledged(self) -> int:
        return sum(publisher.acknowledged for publisher in self.publishers)

    def published(self, more: int) -> None:
        """Wait until so many messages more were acknowledged."""
        target = self.acknowledged() + more
        wait_for(lambda: self.acknowledged() >= target or self.errors(), f"{target} messages are published", timeout=40)

    def errors(self) -> list[Exception]:
        return [client.error for client in (*self.publishers, self.joiner) if client.error]

    @contextmanager
    def confirmed(self, times: int = 1) -> Iterator[None]:
        """Afterwards the joiner's subscriptions are confirmed anew, by so many nodes."""
        target = self.joiner.confirmed + times
        yield
        wait_for(lambda: self.joiner.confirmed >= target or self.errors(), "it is subscribed again")

    def all_has_come(self) -> None:
        """End the publishers, and let the joiner have all."""
        for publisher in self.publishers:
            publisher.stop()
        wait_for(lambda: not self.joiner.behind() or self.errors(), "all has come", timeout=40)
        assert not self.errors()


def restart(nodes: Nodes, number: int, end: Callable[[Node], object], meanwhile: Callable[[], None]) -> Node:
    node = next(node for node in nodes if node.name == str(number))
    nodes.take_out(node)
    end(node)
    meanwhile()
    return nodes.start(number)


def test_a_late_joiner_has_all(sites: Callable[..., tuple[Nodes, list[Site]]], redis_server: RedisServer) -> None:
    """Its node is restarted, killed and cut off, while messages are published at the others."""
    nodes, (first, second, third) = sites(3, store=redis_server.url, position_check=0.5)
    checker = Checker()
    offsets = Offsets(checker)
    asking = [AskingPublisher(checker, site.context, [door(REQ)], CHANNELS, rate=100) for site in (second, third)]
    by_http = KeyedPublisher(checker, [second.node, third.node], CHANNELS, total=1_000_000, batch=10, rate=300)
    with ExitStack() as stack:
        joiner = LateJoiner(offsets, first.context, CHANNELS, sub=[door(SUB)], req=[door(REQ)])
        feeds = Feeds([*asking, by_http], joiner)
        for client in (joiner, *feeds.publishers):
            stack.enter_context(client)
        feeds.published(250)
        for end in (Node.stop, Node.kill, Node.stop):
            with feeds.confirmed():
                restart(nodes, 1, end, lambda: feeds.published(250))
            nodes.wait_until_connected()
            feeds.published(250)
        (node,) = [node for node in nodes if node.name == "1"]
        with feeds.confirmed():
            nodes.kill(node, "zeromq")
        feeds.published(150)
        node.on.cut()
        wait_for(
            lambda: node.metric("raiden_repaired_total") > 0, "what it misses is fetched from the store", every=0.1
        )
        feeds.published(250)
        node.on.heal()
        nodes.wait_until_connected()
        # Stopped first, or there may be nothing under way when it is killed.
        os.kill(second.node.workers()["zeromq"], signal.SIGSTOP)
        wait_for(lambda: asking[0].repeated > 0, "a request is repeated")
        nodes.kill(second.node, "zeromq")
        feeds.published(250)
        feeds.all_has_come()
    verdict = offsets.report()
    print(verdict, feeds.acknowledged(), joiner.confirmed, joiner.fetched, [each.repeated for each in asking])
    assert verdict.clean, f"{verdict}\n{nodes.logs()}"
    assert verdict.counts["resumed"] == verdict.counts["recovered"] >= 4 * len(CHANNELS)
    assert verdict.counts["received"] >= feeds.acknowledged() and not verdict.counts["gaps"]
    assert 0 < joiner.fetched < verdict.counts["received"], "some by the history, some by the subscription"


class Heard:
    """What a SUB client heard of each channel and source: payloads are ``[source, number]``."""

    def __init__(self) -> None:
        self.count = 0
        self.numbers: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self.places: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)

    def hear(self, sub: Socket, count: int) -> Heard:
        while self.count < count:
            self.add(*sub.recv_multipart())
        return self

    def add(self, topic: bytes, payload: bytes, place: bytes) -> None:
        self.count += 1
        channel = topic.decode()
        source, number = json.loads(payload)
        self.numbers[channel, source].append(number)
        if place:
            self.places[channel].append((Cursor.parse(place.decode()).offset, payload))


def test_every_door_of_every_node(sites: Callable[..., tuple[Nodes, list[Site]]], redis_server: RedisServer) -> None:
    """Pushed at one node, requested at another and posted at the third: heard at all, in order, once."""
    each, channels = 1000, ["kept", "live.x"]
    _, (first, second, third) = sites(3, store=redis_server.url)

    def push() -> None:
        with second.connect(zmq.PUSH, PUSH) as sock:
            for number in range(each):
                for channel in channels:
                    sock.send_multipart([channel.encode(), b'["push",%d]' % number])
            heard_all.wait(60)

    def request() -> None:
        with third.connect(zmq.DEALER, REQ) as sock:
            answers: list[bytes] = []
            for number in range(each):
                for channel in channels:
                    sock.send_multipart([b"", b"publish", channel.encode(), b'["request",%d]' % number])
                while 2 * (number + 1) - len(answers) > (200 if number < each - 1 else 0):
                    answers.append(sock.recv_multipart()[1])
            assert sorted(answers) == [b"200"] * each + [b"202"] * each

    def post() -> None:
        connection = first.node.open()  # order holds per connection
        for start in range(0, each, 50):
            body = "\n".join(f'["post",{number}]' for number in range(start, start + 50))
            for channel in channels:
                connection.request("POST", f"/{channel}", body, {"Content-Type": "application/x-ndjson"})
                response = connection.getresponse()
                answer = response.read()
                assert response.status in (200, 202), answer
        connection.close()

    heard_all = threading.Event()
    total = 3 * each * len(channels)
    with ExitStack() as stack:
        subs = [stack.enter_context(site.connect(zmq.SUB, SUB)) for site in (first, second, third)]
        for sub in subs:
            for channel in channels:
                sub.subscribe(channel.encode())
            assert wait_until_in_force(sub) == ""
        with ThreadPoolExecutor(8) as pool:
            sources = [pool.submit(source) for source in (push, request, post)]
            heard = [pool.submit(Heard().hear, sub, total) for sub in subs]
            results = [future.result(60) for future in heard]
            heard_all.set()
            for future in sources:
                future.result(60)
        for sub in subs:
            sub.subscribe(b"-/in-force/end")
            assert sub.recv_multipart()[0] == b"-/in-force/end", "nothing else came"
    for result in results:
        assert result.numbers.keys() == {(channel, s) for channel in channels for s in ("push", "request", "post")}
        for source, numbers in result.numbers.items():
            assert numbers == list(range(each)), source
        assert [offset for offset, _ in result.places["kept"]] == list(range(1, 3 * each + 1))
        assert result.places == results[0].places, "in one order"


def test_what_is_confirmed_holds_everywhere(sites: Callable[..., tuple[Nodes, list[Site]]]) -> None:
    """On channels without history: nothing would repair it."""
    _, (first, second, third) = sites(3)
    with ExitStack() as stack:
        askers = [Asker(site.context, door(REQ)) for site in (second, third)]
        for asker in askers:
            stack.callback(asker.close)
        sub = stack.enter_context(first.connect(zmq.SUB, SUB))
        for number in range(200):
            if number % 30 == 29:
                sub = stack.enter_context(first.connect(zmq.SUB, SUB))
            channel = b"live.%d." % number
            sub.subscribe(channel)
            assert wait_until_in_force(sub, str(number)) == ""
            assert askers[number % 2].ask(b"publish", channel, b"%d" % number) == [b""]
            assert sub.recv_multipart() == [channel, b"%d" % number, b""]
            sub.unsubscribe(channel)


def test_a_node_that_does_not_answer_is_named(sites: Callable[..., tuple[Nodes, list[Site]]]) -> None:
    nodes, (first, second) = sites(2)
    with first.connect(zmq.SUB, SUB) as sub:
        sub.subscribe(b"live.x")
        assert wait_until_in_force(sub, "both") == ""
        second.node.signal_all(signal.SIGSTOP)
        try:
            assert wait_until_in_force(sub, "one") == second.node.address
        finally:
            second.node.signal_all(signal.SIGCONT)
        nodes.wait_until_connected()
        assert wait_until_in_force(sub, "both again") == ""
        second.node.publish("live.x", 1)
        assert sub.recv_multipart() == [b"live.x", b"1", b""]


def test_who_asks_is_told_however_often_it_subscribes_meanwhile(sites: Callable[..., tuple[Nodes, list[Site]]]) -> None:
    """It takes a while to ask a node that is far away."""
    _, (first, _) = sites(2, impair={2: Impairment(delay=0.1)})
    with first.connect(zmq.SUB, SUB) as sub:
        sub.subscribe(b"-/in-force/1")
        for number in range(200):
            sub.subscribe(b"live.%d" % number)
            sub.unsubscribe(b"live.%d" % number)
            if sub.poll(10):
                break
        assert sub.recv_multipart(zmq.NOBLOCK) == [b"-/in-force/1", b"", b""]


def test_a_message_crosses_the_link_once(sites: Callable[..., tuple[Nodes, list[Site]]]) -> None:
    """However many hear it on the other side; and not at all when nobody does any more."""
    size, count = 50_000, 10
    _, (first, second) = sites(2)

    def publish() -> int:
        """What has come over the LAN when all was published, and has come if anybody hears it."""
        before = first.node.on.traffic().received_bytes
        for number in range(count):
            second.node.publish("live.wide", f"{number:{size}}")
        for sub in subs:
            assert [int(json.loads(sub.recv_multipart()[1])) for _ in range(count)] == list(range(count))
        return first.node.on.traffic().received_bytes - before

    with first.connect(zmq.SUB, SUB) as last, ExitStack() as stack:
        subs = [stack.enter_context(first.connect(zmq.SUB, SUB)) for _ in range(50)]
        for sub in subs:
            sub.subscribe(b"live.")
        for sub in subs:
            assert wait_until_in_force(sub) == ""
        assert size * count < publish() < 1.5 * size * count
        row = first.node.json("/-/channels?prefix=live.")["channels"]
        assert row["live.*"]["subscribers"] == 50
        for sub in subs:
            sub.unsubscribe(b"live.")
        wait_for(lambda: "live.*" not in first.node.json("/-/channels")["channels"], "nobody subscribes any more")
        assert wait_until_in_force(last) == "", "behind the last one's leaving"
        subs = []
        assert publish() < 0.5 * size * count


def test_nodes_with_and_without_doors(cluster: Callable[..., Nodes]) -> None:
    nodes = cluster(3, channels=KEEPING)
    plain = nodes.start(1)
    with_doors = nodes.start(2, **DOORS)
    nodes.wait_until_connected()

    def workers(node: Node) -> dict[str, int]:
        return {row["address"]: row["workers"] for row in node.nodes()}

    assert workers(plain) == workers(with_doors) == {plain.address: 2, with_doors.address: 3}
    with context_on(with_doors.on) as context, connect(context, zmq.SUB, door(SUB)) as sub:
        sub.subscribe(b"live.")
        assert wait_until_in_force(sub, "two") == ""
        plain.publish("live.x", 1)
        assert sub.recv_multipart() == [b"live.x", b"1", b""]
        third = nodes.start(3, **{**DOORS, "zmq_push_port": None})
        nodes.wait_until_connected()
        assert workers(plain)[third.address] == 3
        third.publish("live.x", 2)
        assert sub.recv_multipart() == [b"live.x", b"2", b""], "it holds at a node that came later"
        for node in (plain, third):
            nodes.take_out(node)
            assert node.stop() == 0
            nodes.wait_until_connected()
        assert with_doors.log().count("a node has left") == 2 and "suspect" not in with_doors.log()
        assert wait_until_in_force(sub, "alone") == ""
        again = nodes.start(1, peers=[with_doors.address], **DOORS)
        nodes.wait_until_connected()
        assert workers(with_doors)[again.address] == 3
        with context_on(again.on) as there:
            asker = Asker(there, door(REQ))
            assert asker.ask(b"publish", b"live.x", b"3") == [b""]
            asker.close()
        assert sub.recv_multipart() == [b"live.x", b"3", b""]


def test_a_rolling_restart(cluster: Callable[..., Nodes], redis_server: RedisServer, tmp_path: Path) -> None:
    """A client that is on neither node's machine is connected to the doors of both, with keys."""
    server = keys.generate(tmp_path / "doors.key").encode()
    identity = Identity(*zmq.curve_keypair(), server)
    client = {"name": "client", "publish": ["news.*"], "subscribe": ["news.*"], "history": ["news.*"]}
    nodes = cluster(
        3, store=redis_server.url, channels=KEEPING, min_peers=1, zmq_key=str(tmp_path / "doors.key"),
        zmq_keys={identity.public.decode(): client},
    )  # fmt: skip
    hosts = nodes.hosts[:2]

    def start(number: int) -> Node:
        return nodes.start(number, zmq_host=hosts[number - 1].address, **DOORS)

    for number in (1, 2):
        start(number)
    nodes.wait_until_connected()
    checker = Checker()
    offsets = Offsets(checker)
    subs, reqs = ([door(port, host.address) for host in hosts] for port in (SUB, REQ))
    with ExitStack() as stack:
        context = stack.enter_context(context_on(nodes.hosts[2]))
        joiner = LateJoiner(offsets, context, CHANNELS, sub=subs, req=reqs, identity=identity)
        asking = AskingPublisher(checker, context, reqs, CHANNELS, rate=100, identity=identity)
        by_http = KeyedPublisher(checker, nodes, CHANNELS, total=1_000_000, batch=10, rate=300)
        feeds = Feeds([asking, by_http], joiner)
        with feeds.confirmed(2):
            stack.enter_context(joiner)
        for publisher in feeds.publishers:
            stack.enter_context(publisher)
        feeds.published(250)
        for number in (1, 2, 1, 2):
            (node,) = [node for node in nodes if node.name == str(number)]
            nodes.take_out(node)
            assert node.stop() == 0
            with feeds.confirmed():
                again = start(number)
                wait_for(lambda node=again: node.request("GET", "/-/ready")[0] == 200, "it is ready", every=0.1)  # type: ignore[misc]
            feeds.published(100)
        feeds.all_has_come()
    verdict = offsets.report()
    print(verdict, feeds.acknowledged(), joiner.confirmed, joiner.fetched, joiner.again, asking.repeated)
    assert verdict.clean, f"{verdict}\n{nodes.logs()}"
    assert verdict.counts["received"] >= feeds.acknowledged() and not verdict.counts["gaps"]
    assert joiner.again > 0, "most came twice"
