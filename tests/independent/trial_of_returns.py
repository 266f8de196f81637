"""One trial: nodes and their clients, whose store goes back again and again; then peace, a last message everywhere, the
judge."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.cluster.network import Host, Network
from tests.cluster.nodes import PORT, Node
from tests.daemons import wait_for
from tests.independent.clients import HTTP_PORT, REQ_PORT, SUB_PORT, Client, Poll, Stream, Subscriber, WebSocket, World
from tests.independent.events import Bad, Event, Kept, Violation, WentBack
from tests.independent.joiners import Door, Session
from tests.independent.judge_of_returns import LATE, judge
from tests.independent.publishers import Consumer, Publisher, Reader, read_all
from tests.independent.returns import PATIENCE, Copies, CutLogs, Failovers, Files, Snapshots, Store
from tests.independent.trial import count, mark, settle

KINDS = ("snapshot", "failover", "old-copy", "wal-cut")
LONG = Kept(100_000, 3600)
CHANNELS = ("long.a", "long.b", "rare", "jobs")
POSITION_CHECK = 2.0  # seconds; the default takes longer


class Outcome(NamedTuple):
    kind: str
    seed: int
    returns: int
    counts: Counter[str]
    violations: list[Violation]
    events: list[Event]
    logs: str


def publishers(world: World) -> list[Publisher]:
    return [
        Publisher(world, "http1", "http", ["long.a", "jobs"], batch=4, pace=0.08),
        Publisher(world, "http2", "http", ["long.b"], batch=3, pace=0.1),
        Publisher(world, "several", "several", ["long.a long.b"], pace=0.2),
        Publisher(world, "socket", "websocket", ["long.a", "jobs"], pace=0.1),
        Publisher(world, "zmq", "zmq", ["long.b", "long.a"], pace=0.15),
        Publisher(world, "rare", "http", ["rare"], pace=6.0),
    ]


def subscribers(world: World) -> list[Subscriber]:
    each = [
        made
        for channel in ("long.a", "rare")
        for made in (
            Stream(world, f"events {channel}", channel, events=True),
            Stream(world, f"lines {channel}", channel, events=False),
            WebSocket(world, f"websocket {channel}", channel),
            Poll(world, f"poll {channel}", channel),
            Door(world, f"door {channel}", channel),
        )
    ]
    return [
        *each,
        Stream(world, "filtered events", "long.b", events=True, filtered=True),
        WebSocket(world, "filtered websocket", "long.b", filtered=True),
        WebSocket(world, "pattern websocket", "long.*", pattern=True, history=False),
        Session(world, "session1", {"long.a": True, "rare": True, "long.b": True}),
        Session(world, "session2", {"rare": True, "jobs": True, "long.b": True, "long.a": True}),
    ]


class Patient(Node):
    """A node that starts on a machine with much to do."""

    patience = PATIENCE


class Nodes:
    """Two nodes that share a store, or one that has it; each is started in the same folder again."""

    def __init__(self, hosts: list[Host], store: Store, folder: Path) -> None:
        self.hosts, self.store, self.folder = hosts, store, folder
        options = {name: {"history_size": LONG.size, "history_ttl": int(LONG.ttl)} for name in CHANNELS}
        self.settings: dict[str, Any] = {
            "http_port": HTTP_PORT, "zmq_sub_port": SUB_PORT, "zmq_req_port": REQ_PORT, "channels": options,
            "keepalive": 5.0, "drain_window": 1.0, "drain_timeout": 4.0, "position_check": POSITION_CHECK,
            "peers": [f"{host.address}:{PORT}" for host in hosts] if len(hosts) > 1 else [], **store.settings,
        }  # fmt: skip
        self.running: dict[int, Node] = {}
        self.logged: list[str] = []

    def start(self) -> None:
        """Those that do not run."""
        for number, host in enumerate(self.hosts, 1):
            if number in self.running and self.running[number].process.poll() is not None:
                self.logged.append(self.running.pop(number).log())
            if number not in self.running:
                node = Patient(number, host, self.folder / f"node{number}", **self.settings)
                node.hang_up()
                self.running[number] = node
                if isinstance(self.store, Files):
                    self.store.found(node)

    def well(self) -> bool:
        """All are ready, and connected."""
        try:
            for node in self.running.values():
                if node.request("GET", "/-/ready")[0] != 200:
                    return False
                _, _, body = node.request("GET", "/-/nodes")
                states = [row["state"] for row in json.loads(body)["nodes"]]
                if states.count("connected") != len(self.hosts) - 1:
                    return False
            return True
        except (OSError, HTTPException, ValueError, KeyError):
            return False

    def logs(self) -> str:
        return "\n".join([*self.logged, *(node.log() for node in self.running.values())])

    def close(self) -> None:
        for node in self.running.values():
            if node.process.poll() is None:
                node.stop(30)


def trial(kind: str, times: int, seed: int, folder: Path, *, stay: float = 12.0) -> Outcome:
    """The store goes back so many times; clients stay at a node for ``stay`` seconds at most."""
    random = Random(f"{seed} {kind}")
    folder.mkdir(parents=True, exist_ok=True)
    with Network(hosts=1 if kind in ("old-copy", "wal-cut") else 3) as network:
        hosts = network.hosts[:1] if len(network.hosts) == 1 else network.hosts[:2]
        store = made(kind, network.hosts[-1], folder / "store", random)
        world, nodes = World(hosts, seed, len(hosts), stay), Nodes(hosts, store, folder)
        try:
            nodes.start()
            wait_for(nodes.well, "all nodes are connected", timeout=PATIENCE)
            run(world, nodes, kind, times, random)
        finally:
            world.over.set()
            nodes.close()
            store.close()
    logs = nodes.logs()
    if "Traceback" in logs:
        world.log(Bad(time.monotonic(), "log", "", "a node's log has a traceback"))
    if world.errors:
        raise AssertionError("\n".join(world.errors))
    found = judge(CHANNELS, world.events, POSITION_CHECK)
    return Outcome(kind, seed, times, count(world.events) + found.counts, found.violations, world.events, logs)


def made(kind: str, host: Host, folder: Path, random: Random) -> Store:
    folder.mkdir()
    if kind in ("snapshot", "failover"):
        return (Snapshots if kind == "snapshot" else Failovers)(host, folder, random)
    return (Copies if kind == "old-copy" else CutLogs)(folder, random)


def run(world: World, nodes: Nodes, kind: str, times: int, random: Random) -> None:
    feeding, following = publishers(world), subscribers(world)
    consumers = [Consumer(world, f"consumer{n}", "jobs", poll=n > 2) for n in (1, 2, 3)]
    reader = Reader(world, "reader", list(CHANNELS))
    clients: list[Client] = [*following, *consumers, *feeding, reader]
    started: list[threading.Thread] = []
    try:
        for client in clients:
            client.start()
            started.append(client)
        for number in range(times):
            if world.errors:
                break
            go_back(world, nodes, kind, random, number)
        settle(world, nodes.well, [*feeding, reader], following, CHANNELS)
    finally:
        world.over.set()
        for thread in started:
            thread.join()
    read(world)


def go_back(world: World, nodes: Nodes, kind: str, random: Random, number: int) -> None:
    """Some time with the store as it is, sometimes long enough for all to be told; then it goes back. What a channel
    got last is lost, and may be followed by nothing for long."""
    world.pause(random.uniform(0.2, 1.5) if random.random() < 0.75 else POSITION_CHECK + LATE + 2)
    if random.random() < 0.8:
        nodes.store.remember()
    world.pause(random.uniform(0.3, 2))
    mark(world, "rare", f"before{number}")
    read(world)
    begun = time.monotonic()
    copied = nodes.store.go_back()
    nodes.start()
    wait_for(nodes.well, "the nodes are well again", timeout=PATIENCE)
    world.log(WentBack(begun, time.monotonic(), kind, copied))
    read(world)


def read(world: World) -> None:
    for channel in CHANNELS:
        read_all(world, 1, channel)
