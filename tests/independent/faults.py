"""A cluster of three nodes and a Redis server, each on a host of its own, and what befalls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any

from tests.cluster.network import Network
from tests.cluster.nodes import PORT, Node
from tests.daemons import wait_for
from tests.independent.clients import HTTP_PORT, REQ_PORT, SUB_PORT, World
from tests.independent.events import Fault, Kept
from tests.stores import RedisServer

NODES = (1, 2, 3)
NOBODY = "02:00:00:00:00:01"  # a hardware address that nobody has


class Cluster:
    """Processes by name, as they are now: a node replaces those that die."""

    def __init__(self, network: Network, folder: Path, channels: dict[str, Kept]) -> None:
        self.hosts, self.folder = network.hosts, folder
        options = {name: {"history_size": kept.size, "history_ttl": int(kept.ttl)} for name, kept in channels.items()}
        self.settings: dict[str, Any] = {
            "http_port": HTTP_PORT, "zmq_sub_port": SUB_PORT, "zmq_req_port": REQ_PORT, "channels": options,
            "store": f"redis://{self.hosts[3].address}:6379/0", "keepalive": 5.0, "drain_window": 1.0,
            "drain_timeout": 4.0, "peers": [f"{host.address}:{PORT}" for host in self.hosts[:3]],
        }  # fmt: skip
        self.started: list[Node] = []
        self.nodes: dict[int, Node] = {}
        self.pids: dict[int, dict[str, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "redis").mkdir()
        listening = ("--port", "6379", "--bind", self.hosts[3].address, "--protected-mode", "no")
        with self.hosts[3].inside():
            self.redis = RedisServer(folder / "redis", *listening)

    def start(self, number: int) -> None:
        node = Node(number, self.hosts[number - 1], self.folder / f"node{number}-{len(self.started)}", **self.settings)
        node.hang_up()
        self.started.append(node)
        self.nodes[number], self.pids[number] = node, node.workers()

    def children(self, number: int) -> list[int]:
        pid = self.nodes[number].pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self, number: int, process: str) -> None:
        """End a process, and wait until another one has taken its place."""
        pids = self.pids[number]
        os.kill(pids[process], signal.SIGKILL)
        new = wait_for(lambda: set(self.children(number)) - set(pids.values()), f"{process} is replaced")
        (pids[process],) = new

    def kill_all(self, number: int) -> None:
        node = self.nodes[number]
        for pid in (node.pid, *self.children(number)):
            os.kill(pid, signal.SIGKILL)
        node.process.wait(20)

    def well(self, number: int) -> bool:
        """The node is ready, and connected to both others."""
        try:
            node = self.nodes[number]
            if node.request("GET", "/-/ready")[0] != 200:
                return False
            _, _, body = node.request("GET", "/-/nodes")
            states = [row["state"] for row in json.loads(body)["nodes"]]
            return states.count("connected") == 2
        except (OSError, HTTPException, ValueError, KeyError):
            return False

    def logs(self) -> str:
        return "\n".join(f"-- {node.folder.name}\n{node.log()}" for node in self.started)

    def close(self) -> None:
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.signal(signal.SIGTERM)
        for node in self.nodes.values():
            try:
                node.process.wait(20)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()
        self.redis.stop()


class Faults(threading.Thread):
    """Two of these strike at the same time, never the same target: ``busy`` is what they share."""

    def __init__(self, world: World, cluster: Cluster, busy: tuple[threading.Lock, set[int]], name: str) -> None:
        super().__init__(name=name)
        self.world, self.cluster, self.random = world, cluster, Random(f"{world.seed} {name}")
        self.lock, self.busy = busy
        self.counts: Counter[str] = Counter()
        self.ended = threading.Event()
        self.until = 0.0  # the last fault was in force
        self.one: dict[str, Callable[[int], None]] = {
            "kill worker": lambda node: cluster.kill(node, self.random.choice(["worker 0", "worker 1"])),
            "kill history": lambda node: cluster.kill(node, "history"),
            "kill doors": lambda node: cluster.kill(node, "zeromq"),
            "kill backbone": self.kill_backbone,
            "kill node": self.kill_node,
            "drain node": self.drain,
            "stop worker": lambda node: self.stand_still([cluster.pids[node]["worker 0"]]),
            "stop history": lambda node: self.stand_still([cluster.pids[node]["history"]]),
            "stop doors": lambda node: self.stand_still([cluster.pids[node]["zeromq"]]),
            "stop backbone": lambda node: self.stand_still([cluster.pids[node]["backbone"]]),
            "stop node": lambda node: self.stand_still([cluster.nodes[node].pid, *cluster.pids[node].values()]),
            "cut node": self.cut,
            "reset node": self.reset,
        }
        self.two: dict[str, Callable[[int, int], None]] = {"cut one way": self.one_way, "cut link": self.link}
        self.store: dict[str, Callable[[], None]] = {
            "kill Redis": self.kill_redis,
            "stop Redis": lambda: self.stand_still([cluster.redis.process.pid]),
            "cut Redis": lambda: self.cut(4),
        }

    def end(self) -> None:
        self.ended.set()

    def run(self) -> None:
        try:
            while not self.ended.wait(self.random.uniform(1, 5)):
                self.strike()
        except BaseException:
            self.world.errors.append(f"{self.name}: {traceback.format_exc()}")

    def strike(self) -> None:
        kind = self.random.choice([*self.one, *self.two, *self.store])
        targets = [4] if kind in self.store else self.random.sample(NODES, 2 if kind in self.two else 1)
        with self.taking(targets) as taken:
            if taken:
                begun, touched = time.monotonic(), frozenset(targets) - {4}
                self.until = begun
                self.counts[kind] += 1
                if kind in self.store:
                    self.store[kind]()
                elif kind in self.two:
                    self.two[kind](*targets)
                else:
                    self.one[kind](*targets)
                self.heal(touched or frozenset(NODES))
                self.world.log(Fault(begun, time.monotonic(), kind, touched, self.until))

    @contextmanager
    def taking(self, targets: list[int]) -> Iterator[bool]:
        with self.lock:
            free = not self.busy & set(targets)
            if free:
                self.busy.update(targets)
        try:
            yield free
        finally:
            if free:
                with self.lock:
                    self.busy.difference_update(targets)

    def heal(self, nodes: frozenset[int]) -> None:
        """Until these are well; not for ever, because another fault may be theirs meanwhile."""
        end, pause = time.monotonic() + 40, threading.Event()
        while time.monotonic() < end and not all(self.cluster.well(node) for node in nodes):
            pause.wait(0.2)

    def last(self, least: float = 0.3, most: float = 4.0) -> None:
        self.ended.wait(self.random.uniform(least, most))
        self.until = time.monotonic()

    def kill_backbone(self, node: int) -> None:
        os.kill(self.cluster.pids[node]["backbone"], signal.SIGKILL)
        self.cluster.nodes[node].process.wait(30)
        self.cluster.start(node)

    def kill_node(self, node: int) -> None:
        self.cluster.kill_all(node)
        self.last()
        self.cluster.start(node)

    def drain(self, node: int) -> None:
        process = self.cluster.nodes[node].process
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        assert code == 0, (code, self.cluster.nodes[node].log())
        self.cluster.start(node)

    def stand_still(self, pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            self.last()
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def cut(self, number: int) -> None:
        self.cluster.hosts[number - 1].cut()
        self.last(1, 14)
        self.cluster.hosts[number - 1].heal()

    def reset(self, number: int) -> None:
        """All connections between the node and its peers and store are reset, if the kernel does that."""
        argv = ["ss", "-K", "dst", "10.77.0.0/24"]
        subprocess.run(self.cluster.hosts[number - 1].command(argv), capture_output=True, check=False)

    def link(self, a: int, b: int) -> None:
        self.deaf((a, b), (b, a))

    def one_way(self, a: int, b: int) -> None:
        self.deaf((a, b))

    def deaf(self, *ways: tuple[int, int]) -> None:
        """What one host sends to another is addressed to nobody, and nobody is told."""
        for a, b in ways:
            self.neighbour(a, "replace", self.cluster.hosts[b - 1].address, "lladdr", NOBODY, "nud", "permanent")
        self.last(1, 14)
        for a, b in ways:
            self.neighbour(a, "del", self.cluster.hosts[b - 1].address)

    def neighbour(self, number: int, *words: str) -> None:
        argv = ["ip", "-netns", self.cluster.hosts[number - 1].name, "neigh", *words, "dev", "eth0"]
        subprocess.run(argv, check=True)

    def kill_redis(self) -> None:
        self.cluster.redis.kill()
        self.last()
        with self.cluster.hosts[3].inside():
            self.cluster.redis.start()
