"""Simulate what the nodes of a cluster say to each other, from 3 to 100 of them, and check it against real ones:
``benchmarks/mesh.py [--nodes N]... [--delay MS] [--workers N] [--seed N] [--check] [--json FILE]``. Prints tables in
Markdown. No message of a client is in it: this is what the full mesh costs by itself.

**The simulation** is of events in the order of their time. A node here (`Peer`) walks the path of
`raiden.backbone.cluster`: it probes addresses, links, proves, beats, echoes, answers nonces, suspects, forgets. Whom it
knows, what state they are in and what its beats say is not simulated: it is `raiden.backbone.roster` itself, with the
simulation's clock, and a frame's size is that of the bytes that the program makes. What a link needs besides
(`HANDSHAKE`, acknowledgements, attempts to connect) was counted between two real sockets. What is guessed is how long
things take: `INSIDE`, `SERVICE` and `WORKERS_KNOW`, for nodes that have cores of their own; volumes hardly depend on
it. TCP's own doings are simplified: each message has its segments and one acknowledgement, so where many share a
segment the simulation says too much.

Traffic is in bytes as Ethernet counts them, headers included.

**--check** starts real nodes in network namespaces (so it takes root), 2, 3 and 5 of them, and prints what was
predicted beside what their eth0 counted: idle, a node's join, a subscription with its round, a node's death.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tables import print_rows
from benchmarks.tools import Failed, write_json
from raiden import __version__
from raiden.backbone import frames
from raiden.backbone.cluster import SEEK_LATER
from raiden.backbone.probe import TIMEOUT
from raiden.backbone.roster import BEAT, Beat, Node, Roster
from raiden.model.encoding import dumps

if TYPE_CHECKING:  # it looks at once whether it can make networks
    from tests.cluster.nodes import Node as RealNode
    from tests.cluster.nodes import Nodes

SIZES = (3, 5, 10, 30, 100)
CHECKED = (2, 3, 5)
ALL_AT_ONCE = 30  # nodes: more that all start at once take too long to simulate
DELAY = 0.05  # ms, from one node's machine to another's

# Bytes and packets on the wire.
HEADERS, SEGMENT = 66, 1448  # Ethernet, IPv4, TCP with timestamps; the payload that a packet takes
ACK = HEADERS
SYN, REFUSED = 74, 54
PING, PONG = 9, 7  # ZMTP's heartbeat, framed
# A link's begin and end, sent by who connects and by who accepts: bytes, packets.
HANDSHAKE = ((604, 8), (472, 6))
CLOSE = ((132, 2), (66, 1))
ATTEMPT = 0.143  # seconds between attempts to connect; `RECONNECT` and what libzmq adds at random

# Seconds.
INSIDE = 0.0003  # from a socket of one process to that of another through a node's proxies
SERVICE = 0.0001  # a backbone's process for one message
OWN = 0.0017  # a subscription where there is no other node, from its request to its head; measured
WORKERS_KNOW = 0.004  # until all workers have heard of a new state of the roster, and said so
REPEAT, REPEAT_AT_MOST = 0.001, 0.25  # `raiden.backbone.nonces.Answers`
BEGAN = 1_700_000_000.123457  # the wall clock at the beginning, with as many digits as any


def framed(size: int) -> int:
    """ZMTP's frame of so many bytes."""
    return size + (2 if size < 256 else 9)


def subscription(topic: int) -> int:
    """Of a topic of so many bytes, made or taken back."""
    return framed(1 + topic)


class Traffic(NamedTuple):
    messages: float = 0.0
    bytes: float = 0.0
    packets: float = 0.0

    def plus(self, other: Traffic, times: float = 1.0) -> Traffic:
        return Traffic(*(a + times * b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Traffic:
        return Traffic().plus(self, factor)


class Peer:
    """A node of the mesh. ``hears`` are the nodes that its downlink is connected to, ``heard_by`` those whose downlinks
    are connected to it; ``seeks`` are addresses that it tries or has found a node at."""

    def __init__(self, mesh: Mesh, number: int, workers: int) -> None:
        self.mesh = mesh
        self.number = number
        self.alive = True
        self.address = f"10.77.{number // 250}.{number % 250 + 1}:9989"
        own = Beat(
            f"{random.getrandbits(64):016x}", self.address, version=__version__, store="none", workers=workers,
            since=round(BEGAN + mesh.now, 7),
        )  # fmt: skip
        self.roster = Roster(own)
        self.hears: set[Peer] = set()
        self.heard_by: set[Peer] = set()
        self.seeks: set[str] = {self.address}
        self.proofs: dict[Peer, Nonce] = {}
        self.sent: Counter[str] = Counter()  # messages by kind
        self.out = Traffic()
        self.in_ = Traffic()
        self.free_at = 0.0
        ids = len(own.id)
        # What all workers of a node subscribe to is one subscription.
        names = [frames.BEATS, frames.ASK]
        named = [frames.INBOX, frames.REPORTS, frames.ASK + b" ", frames.ROSTER]
        self.topics = [len(name) + 1 for name in names] + [len(name) + ids + 1 for name in named]
        self.topics += [len(frames.ANSWER) + 16 + 1] * workers

    def __hash__(self) -> int:
        return self.number  # sets of them have the same order in each run

    @property
    def id(self) -> str:
        return self.roster.own.id

    def node(self, other: Peer) -> Node | None:
        return self.roster.nodes.get(other.id)

    # Who there is.

    def want(self, address: str) -> None:
        if address not in self.seeks:
            self.seeks.add(address)
            self.mesh.after(0.0, self.probe, self.mesh.at(address), self.mesh.now)

    def probe(self, other: Peer, since: float) -> None:
        """Ask who is at an address: a connection of its own, the introduction, the answer."""
        mesh = self.mesh
        if not self.alive:
            return
        if not other.alive:
            self.attempt(other, mesh.now + TIMEOUT)
            pause = TIMEOUT + min(SEEK_LATER, (mesh.now + TIMEOUT - since) / 50)
            mesh.after(pause, self.probe, other, since)
            return
        mesh.shake_hands(self, other)
        topic = len(frames.HELLO) + len(self.roster.own.introduction(1)) + 1
        mesh.send(self, other, "hello", framed(10 + topic))
        mesh.after(3 * mesh.way, mesh.serve, other, lambda: other.answer_hello(self, topic))

    def answer_hello(self, asker: Peer, topic: int) -> None:
        if self.node(asker) is None:
            self.want(asker.address)
        beat = self.say()
        self.mesh.send(self, asker, "hello", framed(topic + len(beat.to_bytes())))
        self.mesh.part(asker, self)
        self.mesh.after(self.mesh.way, self.mesh.serve, asker, lambda: asker.link(self, beat))

    def link(self, other: Peer, beat: Beat) -> None:
        if self.node(other) is not None:
            return
        self.roster.add(beat, f"tcp://{other.address}", self.mesh.now)
        self.beat()
        self.mesh.after(WORKERS_KNOW, self.connect, other)

    def connect(self, other: Peer) -> None:
        mesh = self.mesh
        mesh.shake_hands(self, other)
        self.hears.add(other)
        other.heard_by.add(self)
        # On a link that is new they are commands of ZMTP 3.1, a few bytes longer than later ones; sent in one go.
        mesh.send(self, other, "subscription", sum(framed(10 + topic) for topic in self.topics), len(self.topics))
        mesh.after(2 * mesh.way, self.prove, other)

    def prove(self, other: Peer) -> None:
        """The nonce is subscribed to at all nodes, and all answer until it goes."""

        def answered(by: Peer) -> None:
            node = self.node(other)
            if by is other and node is not None and not node.linked:
                node.linked = True
                self.beat()
                self.proofs.pop(other).cancel()

        self.proofs[other] = Nonce(self.mesh, self, answered)

    # What it says and hears.

    def say(self) -> Beat:
        now = self.mesh.now
        beat = self.roster.beat(round(now + 12345.678901234, 9), round(BEGAN + now, 7))
        return dataclasses.replace(beat)

    def beat(self) -> None:
        """Once a second, and whenever whom it knows or their states have changed."""
        beat = self.say()
        size = framed(len(frames.BEATS) + 1 + len(beat.to_bytes()))
        for other in self.heard_by:
            self.mesh.send(self, other, "beat", size)
            self.mesh.after(self.mesh.way, self.mesh.serve, other, lambda other=other: other.hear(self, beat))

    def hear(self, other: Peer, beat: Beat) -> None:
        for address, _ in beat.peers:
            self.want(address)
        if self.node(other) is None:
            self.want(other.address)
            return
        if other in self.heard_by:
            text = dumps({"from": self.id, "stamp": beat.stamp})
            self.mesh.send(self, other, "echo", framed(len(frames.INBOX) + 16 + 1 + len(text)))
        if self.roster.hear(beat, self.mesh.now):
            self.beat()

    def tick(self) -> None:
        """Once a second."""
        if not self.alive:
            return
        mesh = self.mesh
        for node in self.roster.silent(mesh.now)[1]:
            self.forget(node)
        self.beat()
        for other in self.hears:
            mesh.send(self, other, "ping", PING, acknowledged=False)
            mesh.send(other, self, "pong", PONG)
        mesh.after(BEAT, self.tick)

    def lose(self, other: Peer) -> None:
        """The link broke: its end is seen at once, and attempts to connect go on until the node is forgotten."""
        self.hears.discard(other)
        self.heard_by.discard(other)
        node = self.node(other)
        if node is not None and self.roster.suspect(node):
            node.linked = False
            self.beat()
            self.attempt(other)
            # When the link is made again it must be proved again, so that is begun at once, and others answer in vain.
            self.prove(other)

    def attempt(self, other: Peer, until: float | None = None) -> None:
        """Try to connect to where nobody listens, until then, or until the node is forgotten."""
        if self.mesh.now < until if until is not None else self.node(other) is not None:
            self.out = self.out.plus(Traffic(0, SYN, 1))
            self.in_ = self.in_.plus(Traffic(0, REFUSED, 1))
            self.mesh.after(ATTEMPT, self.attempt, other, until)

    def forget(self, node: Node) -> None:
        other = self.mesh.at(node.beat.address)
        del self.roster.nodes[node.beat.id]
        self.proofs.pop(other).cancel()
        self.beat()
        self.mesh.after(0.0, self.probe, other, self.mesh.now)


class Nonce:
    """A round: ``asker`` subscribes to a nonce at all nodes that it hears, each answers until it is cancelled.
    ``answered`` is called for each answer that arrives first from its node; ``along`` are the bytes of subscriptions
    that the round is to prove, and leave in the same segment. The first answer acknowledges them, and the cancellation
    that answer."""

    TOPIC = len(frames.NONCE) + 16 + 1 + 4 + 1

    def __init__(self, mesh: Mesh, asker: Peer, answered: Callable[[Peer], None], *along: int) -> None:
        self.mesh = mesh
        self.asker = asker
        self.answered = answered
        self.asked = set(asker.hears)
        self._heard: set[Peer] = set()
        self._open = set(self.asked)
        for other in self.asked:
            size = subscription(self.TOPIC) + sum(along)
            mesh.send(asker, other, "subscription", size, 1 + len(along), acknowledged=False)
            mesh.after(mesh.way, mesh.serve, other, lambda other=other: self._answer(other, REPEAT))

    def _answer(self, other: Peer, pause: float) -> None:
        if other not in self._open or not other.alive:
            return
        self.mesh.send(other, self.asker, "answer", framed(self.TOPIC + 16), acknowledged=pause > REPEAT)
        self.mesh.after(self.mesh.way, self._arrived, other)
        self.mesh.after(pause, self._answer, other, min(2 * pause, REPEAT_AT_MOST))

    def _arrived(self, other: Peer) -> None:
        if other not in self._heard:
            self._heard.add(other)
            self.answered(other)

    @property
    def complete(self) -> bool:
        return self._heard >= self.asked

    def cancel(self) -> None:
        for other in self.asked:
            self.mesh.send(self.asker, other, "subscription", subscription(self.TOPIC))
            self.mesh.after(self.mesh.way, self._open.discard, other)


class Mesh:
    """The nodes and the time. ``delay`` is seconds from machine to machine; ``way`` from process to process."""

    def __init__(self, nodes: int, *, workers: int = 2, delay: float = DELAY / 1000, seed: int = 1) -> None:
        random.seed(seed)  # the roster draws whom a beat tells of
        self.now = 0.0
        self.way = delay + INSIDE
        self._workers = workers
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._by_address: dict[str, Peer] = {}
        self.peers: list[Peer] = []
        for _ in range(nodes):
            self.add()

    @classmethod
    def formed(cls, nodes: int, *, beating: bool = True, **options: Any) -> Mesh:
        """One where all know each other and have been quiet for a while."""
        mesh = cls(nodes, **options)
        for one in mesh.peers:
            for other in mesh.peers:
                if other is not one:
                    one.roster.add(other.roster.own, f"tcp://{other.address}", 0.0).linked = True
                    one.seeks.add(other.address)
                    one.hears.add(other)
                    one.heard_by.add(other)
        for one in mesh.peers:
            one.say()  # so that what the others know of it has whom it is linked to
        for one in mesh.peers:
            for node in one.roster.nodes.values():
                node.beat = dataclasses.replace(node.beat)
            if beating:
                mesh.after(random.random() * BEAT, one.tick)
        mesh.run(2 * BEAT)
        mesh.forget_traffic()
        return mesh

    def add(self) -> Peer:
        peer = Peer(self, len(self.peers), self._workers)
        self.peers.append(peer)
        self._by_address[peer.address] = peer
        return peer

    def start(self, peer: Peer, known: Peer) -> None:
        """A node starts, and knows another's address."""
        self.after(0.0, peer.tick)
        if known is not peer:
            peer.want(known.address)

    def kill(self, peer: Peer) -> None:
        peer.alive = False
        for other in self.peers:
            if other in peer.heard_by or other in peer.hears:
                self.after(self.way, other.lose, peer)

    def at(self, address: str) -> Peer:
        return self._by_address[address]

    # Time.

    def after(self, seconds: float, action: Callable[..., object], *args: Any) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action, args))

    def serve(self, peer: Peer, action: Callable[[], object]) -> None:
        """When its process has done what came before."""
        peer.free_at = max(peer.free_at, self.now) + SERVICE
        self.after(peer.free_at - self.now, lambda: action() if peer.alive else None)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> float:
        """Let so much time pass, or less if something comes true; how much it was."""
        began, end = self.now, self.now + seconds
        while self._events and self._events[0][0] <= end and not (until and until()):
            self.now, _, action, args = heapq.heappop(self._events)
            action(*args)
        if not (until and until()):
            self.now = end
        return self.now - began

    def connected(self) -> bool:
        """All that live know that all are connected."""
        alive = [peer for peer in self.peers if peer.alive]
        for one in alive:
            nodes = one.roster.nodes.values()
            if len(nodes) != len(alive) - 1 or any(one.roster.state(node) != "connected" for node in nodes):
                return False
        return True

    # Traffic.

    def send(
        self, sender: Peer, receiver: Peer, kind: str, size: int, messages: int = 1, *, acknowledged: bool = True
    ) -> None:  # fmt: skip
        """So many bytes of frames, and the acknowledgement."""
        packets = -(-size // SEGMENT)
        sender.sent[kind] += messages
        self._count(sender, receiver, Traffic(messages, size + packets * HEADERS, packets))
        if acknowledged:
            self._count(receiver, sender, Traffic(0, ACK, 1))

    def shake_hands(self, client: Peer, server: Peer) -> None:
        self._exchange(client, server, HANDSHAKE)

    def part(self, client: Peer, server: Peer) -> None:
        self._exchange(client, server, CLOSE)

    def _exchange(self, client: Peer, server: Peer, both: tuple[tuple[int, int], tuple[int, int]]) -> None:
        (sent, packets), (received, packets_back) = both
        self._count(client, server, Traffic(0, sent, packets))
        self._count(server, client, Traffic(0, received, packets_back))

    def _count(self, sender: Peer, receiver: Peer, traffic: Traffic) -> None:
        sender.out = sender.out.plus(traffic)
        receiver.in_ = receiver.in_.plus(traffic)

    def forget_traffic(self) -> None:
        for peer in self.peers:
            peer.out = peer.in_ = Traffic()
            peer.sent.clear()

    def sent(self) -> Counter[str]:
        """Messages of all nodes, by kind."""
        return sum((peer.sent for peer in self.peers), Counter())


# What is asked of it.


class Idle(NamedTuple):
    beat: int  # bytes
    a_second: Traffic  # of a node, sent


class Change(NamedTuple):
    """What a join or a death costs beyond idling: ``seconds`` until all is as it will be; of a node that was there and
    stays, sent and received."""

    seconds: float
    sent: Traffic
    received: Traffic
    beats: int  # of all nodes


class Round(NamedTuple):
    """A subscription of one name: ``seconds`` until it holds; all that the asker sends and receives, until it is gone
    again."""

    seconds: float
    sent: Traffic
    received: Traffic


WINDOW, DEATH_WINDOW = 3.0, 14.0  # seconds that a join and a death are watched for


def idle(nodes: int, seconds: float = 10.0, **options: Any) -> Idle:
    mesh = Mesh.formed(nodes, **options)
    mesh.run(seconds)
    one = mesh.peers[0]
    return Idle(len(one.say().to_bytes()), one.out.times(1 / seconds))


def beyond(mesh: Mesh, peer: Peer, seconds: float, quiet: Idle, nodes: int, lasted: float) -> Change:
    """What has passed beyond what so many idling nodes would have said."""
    beats = mesh.sent()["beat"] - round(nodes * (nodes - 1) * lasted)
    rate = quiet.a_second
    return Change(seconds, peer.out.plus(rate, -lasted), peer.in_.plus(rate, -lasted), beats)


def join(nodes: int, **options: Any) -> Change:
    """A node joins so many that are there, and knows the first."""
    mesh = Mesh.formed(nodes, **options)
    new = mesh.add()
    mesh.start(new, mesh.peers[0])
    seconds = mesh.run(WINDOW, mesh.connected)
    if not mesh.connected():
        raise Failed(f"{nodes + 1} nodes are not connected after {WINDOW} s")
    mesh.run(WINDOW - seconds)
    return beyond(mesh, mesh.peers[nodes // 2], seconds, idle(nodes + 1, **options), nodes + 1, WINDOW)


def death(nodes: int, **options: Any) -> Change:
    """One of so many nodes dies; the others are watched until they have forgotten it."""
    mesh = Mesh.formed(nodes, **options)
    mesh.kill(mesh.peers[-1])
    left = nodes - 1
    seconds = mesh.run(DEATH_WINDOW, lambda: all(len(peer.roster.nodes) == left - 1 for peer in mesh.peers[:-1]))
    mesh.run(DEATH_WINDOW - seconds)
    return beyond(mesh, mesh.peers[0], seconds, idle(left, **options), left, DEATH_WINDOW)


def subscribe(nodes: int, channel: int = 16, **options: Any) -> Round:
    """A worker subscribes to a channel whose name has so many bytes, and gives it up later."""
    mesh = Mesh.formed(nodes, beating=False, **options)
    one = mesh.peers[0]
    nonce = Nonce(mesh, one, lambda _: None, subscription(channel + 1))
    seconds = mesh.run(5.0, lambda: nonce.complete)
    if not nonce.complete:
        raise Failed("a round is not over after 5 s")
    nonce.cancel()
    for other in one.hears:
        mesh.send(one, other, "subscription", subscription(channel + 1))
    mesh.run(1.0)
    return Round(OWN + seconds, one.out, one.in_)


def all_at_once(nodes: int, **options: Any) -> tuple[float, int]:
    """All start at the same time and know the first: seconds until all are connected, and the beats that took."""
    mesh = Mesh(nodes, **options)
    for peer in mesh.peers:
        mesh.after(random.random() * 0.1, mesh.start, peer, mesh.peers[0])
    seconds = mesh.run(60.0, mesh.connected)
    if not mesh.connected():
        raise Failed(f"{nodes} nodes are not connected after a minute")
    return seconds, mesh.sent()["beat"]


# Tables.


def size_of(number: float) -> str:
    for unit in ("B", "KB", "MB"):
        if number < 1000 or unit == "MB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if number >= 100 or unit == "B" else f"{number:.1f} {unit}"


def print_predictions(sizes: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rows: dict[str, list[list[str]]] = {"idle": [], "changes": [], "rounds": []}
    for nodes in sizes:
        quiet, joined = idle(nodes, **options), join(nodes - 1, **options)
        dead, asked = death(nodes, **options), subscribe(nodes, **options)
        far = subscribe(nodes, **{**options, "delay": 0.02})
        together = all_at_once(nodes, **options) if nodes <= ALL_AT_ONCE else None
        rate = quiet.a_second
        row = [str(nodes), str(2 * (nodes - 1)), f"{quiet.beat}", f"{rate.messages:.0f}", f"{rate.packets:.0f}"]
        rows["idle"].append([*row, size_of(rate.bytes), size_of(rate.bytes * nodes)])
        row = [str(nodes), f"{joined.seconds * 1000:.0f} ms", f"{joined.beats:,}", size_of(joined.sent.bytes)]
        row += [f"{dead.beats:,}", size_of(dead.sent.bytes)]
        row += [f"{together[0]:.2f} s", f"{together[1]:,}"] if together else ["", ""]
        rows["changes"].append(row)
        row = [str(nodes), f"{asked.sent.messages:.0f}", f"{asked.received.messages:.0f}", size_of(asked.sent.bytes)]
        row += [size_of(asked.received.bytes), f"{asked.seconds * 1000:.1f} ms", f"{far.seconds * 1000:.0f} ms"]
        rows["rounds"].append(row)
        found[str(nodes)] = {
            "idle": quiet, "join": joined, "death": dead, "round": asked, "far": far, "start": together,
        }  # fmt: skip
    print("\n## Idle: what a node sends, and as much it receives\n")
    print_rows(
        ("nodes", "connections of a node", "a beat, bytes", "messages/s", "packets/s", "bytes/s", "of all nodes"),
        rows["idle"],
    )  # fmt: skip
    print("\n## A node joins, a node dies, all start at once\n")
    print_rows(
        ("nodes", "joined after", "beats for it, of all", "a node sends", "beats for a death, of all", "a node sends",
         "all at once, after", "beats for it"), rows["changes"],
    )  # fmt: skip
    print("\n## A subscription, from its first round until it is gone\n")
    print_rows(
        ("nodes", "messages the node sends", "it receives", "it sends", "it receives", "it holds after",
         "with 20 ms between nodes"), rows["rounds"],
    )  # fmt: skip
    return found


# The check.


class Measured(NamedTuple):
    what: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


QUIET_FOR, ROUNDS = 6.0, 60


class Result(NamedTuple):
    """Of a real cluster. CPU is a backbone's, in microseconds: a second of idling, and a round of another node."""

    compared: list[Measured]
    cpu_idle: float
    cpu_round: float


def check(sizes: Sequence[int]) -> dict[int, Result]:
    from tests.cluster.network import Network, missing
    from tests.cluster.nodes import Nodes

    if why := missing():
        raise Failed(why)
    results: dict[int, Result] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="raiden-mesh-") as folder, Network(size) as network:
            nodes = Nodes(network.hosts, Path(folder))
            try:
                results[size] = check_cluster(nodes, size)
            finally:
                nodes.close()
    return results


class Watch:
    """What a node's eth0 has counted since now, and the CPU that its backbone has taken (in microseconds)."""

    def __init__(self, node: RealNode) -> None:
        self._node = node
        self._backbone = node.workers()["backbone"]
        self._began = time.monotonic()
        self._traffic = node.on.traffic()
        self._cpu = self._taken()

    def _taken(self) -> float:
        files = Path(f"/proc/{self._backbone}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in files) / 1000

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def received(self) -> Traffic:
        now = self._node.on.traffic()
        return Traffic(0, now.received_bytes - self._traffic.received_bytes,
                       now.received_packets - self._traffic.received_packets)  # fmt: skip

    def sent(self) -> Traffic:
        now = self._node.on.traffic()
        return Traffic(0, now.sent_bytes - self._traffic.sent_bytes, now.sent_packets - self._traffic.sent_packets)

    def cpu(self) -> float:
        return self._taken() - self._cpu


def check_cluster(nodes: Nodes, size: int) -> Result:
    """One node after the other joins; the last one is watched, and it dies at last."""
    first = nodes.start(1)
    for number in range(2, size):
        nodes.start(number)
    nodes.wait_until_connected()
    time.sleep(2)
    alone = Watch(first)
    time.sleep(2)
    before = alone.received().times(1 / alone.seconds)
    joining = Watch(first)
    last = nodes.start(size)
    nodes.wait_until_connected()
    joined = joining.seconds
    time.sleep(1)
    total, lasted = joining.received(), joining.seconds
    watch = Watch(first)
    time.sleep(QUIET_FOR)
    quiet, quiet_out = watch.received().times(1 / watch.seconds), watch.sent().times(1 / watch.seconds)
    cpu_idle = watch.cpu() / watch.seconds
    expected = idle(size)
    compared = [
        Measured("a beat, bytes", expected.beat, beat_of(first)),
        Measured("idle, received bytes/s", expected.a_second.bytes, quiet.bytes),
        Measured("idle, received packets/s", expected.a_second.packets, quiet.packets),
    ]
    total = total.plus(before, -joined).plus(quiet, joined - lasted)
    compared.append(Measured("a join, received bytes beyond idling", join(size - 1).received.bytes, total.bytes))
    here, there = Watch(first), Watch(last)
    seconds = subscribe_to_some(first)
    asked = subscribe(size)
    sent = here.sent().plus(quiet_out, -here.seconds).times(1 / ROUNDS)
    received = here.received().plus(quiet, -here.seconds).times(1 / ROUNDS)
    cpu_round = (there.cpu() - cpu_idle * there.seconds) / ROUNDS
    compared += [
        Measured("a subscription, sent bytes", asked.sent.bytes, sent.bytes),
        Measured("a subscription, received bytes", asked.received.bytes, received.bytes),
        Measured("a subscription holds after, ms", asked.seconds * 1000, seconds * 1000),
    ]
    nodes.take_out(last)
    dying = Watch(first)
    last.kill()
    time.sleep(DEATH_WINDOW)
    over = dying.received().plus(before, -dying.seconds)
    compared.append(Measured("a death, received bytes beyond idling", death(size).received.bytes, over.bytes))
    return Result(compared, cpu_idle, cpu_round)


def beat_of(node: RealNode) -> int:
    """The bytes of a real node's beat."""
    context = zmq.Context()
    try:
        with node.on.inside(), context.socket(zmq.SUB) as sub:
            sub.linger, sub.rcvtimeo = 0, 5000
            sub.subscribe(frames.BEATS)
            sub.connect(f"tcp://{node.address}")
            return len(sub.recv()) - len(frames.BEATS) - 1
    finally:
        context.destroy(linger=0)


def subscribe_to_some(node: RealNode) -> float:
    """Streams of one channel each, one after the other: the median of the seconds until their heads come."""
    times: list[float] = []
    for number in range(ROUNDS):
        with node.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = time.monotonic()
            sock.sendall(f"GET /channel.{number:08} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
                raise Failed("not subscribed")
            times.append(time.monotonic() - asked)
        time.sleep(0.02)
    time.sleep(0.2)
    return statistics.median(times)


def print_check(results: dict[int, Result]) -> None:
    print("\n## Predicted and measured, at the first node\n")
    rows = []
    for size, result in results.items():
        for each in result.compared:
            rows.append([f"{size} nodes: {each.what}", *(f"{n:,.1f}" for n in each[1:]), f"{each.ratio:.2f}"])
    print_rows(("", "predicted", "measured", "ratio"), rows)
    print("\n## CPU of a backbone, which is not predicted\n")
    rows = [[str(size), f"{r.cpu_idle / 1e4:.2f} %", f"{r.cpu_round:.0f} us"] for size, r in results.items()]
    print_rows(("nodes", "idle, of a core", "a round of another node"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate what the nodes of a cluster say to each other.")
    parser.add_argument("--nodes", type=int, action="append", metavar="N", help=f"how many; else {SIZES}")
    parser.add_argument("--delay", type=float, default=DELAY, metavar="MS", help="from machine to machine")
    parser.add_argument("--workers", type=int, default=2, help="of a node")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="start real nodes, and compare; nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    arguments = parser.parse_args()
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = {"workers": arguments.workers, "delay": arguments.delay / 1000, "seed": arguments.seed}
    result: Any
    try:
        if arguments.check:
            result = check(arguments.nodes or CHECKED)
            print_check(result)
        else:
            result = print_predictions(arguments.nodes or SIZES, options)
    except (Failed, AssertionError, subprocess.SubprocessError, OSError, zmq.ZMQError) as error:
        print(f"\n{error or type(error).__name__}", file=sys.stderr)
        return 1
    if arguments.json:
        write_json(arguments.json, **options, result=result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
