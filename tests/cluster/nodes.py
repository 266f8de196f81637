"""Real nodes on the hosts of a test's network: each listens for clients on its host's loopback, and for its peers on
the host's address on the LAN, so that a cable that is cut leaves the clients connected."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.network import Host
from tests.daemons import PATIENCE, Daemon, wait_for

PORT = 9989


class Node(Daemon):
    """A node on a host; ``name`` is its number. It keeps no history, unless it is given a store."""

    def __init__(self, number: int, host: Host, folder: Path, **settings: Any) -> None:
        self.on = host
        self.namespace = host.path
        self.name = str(number)
        self.address = f"{host.address}:{PORT}"
        defaults: dict[str, Any] = {"backend_host": host.address, "backend_port": PORT, "open_backbone": True}
        defaults |= {"workers": 2, "drain_window": 0, "store": "none"}
        super().__init__(folder, **{**defaults, **settings})

    def command_line(self, argv: list[str]) -> list[str]:
        return self.on.command(argv)

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        return self.on.connect(self.port, timeout)

    def nodes(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json("/-/nodes")["nodes"]
        return rows

    def states(self) -> dict[str, str]:
        """The states of the other nodes, by their address."""
        return {row["address"]: row["state"] for row in self.nodes() if row["state"] not in ("self",)}

    def sees(self, *others: Node) -> bool:
        """It is connected to these, and knows no others."""
        return self.states() == {other.address: "connected" for other in others}

    def kill(self) -> None:
        """End all of its processes at once, as if the machine had lost its power."""
        self.signal_all(signal.SIGKILL)
        self.process.wait()


class Nodes:
    """A cluster: node 1 is known to all the others from the start. Iterate it for those that were started and not taken
    out."""

    def __init__(self, hosts: list[Host], folder: Path, **settings: Any) -> None:
        self.hosts = hosts
        self.folder = folder
        self.settings = {"peers": [f"{hosts[0].address}:{PORT}"], **settings}
        self._running: dict[int, Node] = {}
        self._started: list[Node] = []
        self._deaths = 0

    def start(self, number: int, **settings: Any) -> Node:
        """Start node ``number``, on the host of that number; it need not be connected yet."""
        folder = self.folder / f"node{number}-{len(self._started)}"
        node = Node(number, self.hosts[number - 1], folder, **{**self.settings, **settings})
        self._started.append(node)
        self._running[number] = node
        return node

    def start_all(self) -> list[Node]:
        for number in range(1, len(self.hosts) + 1):
            self.start(number)
        self.wait_until_connected()
        return list(self)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._running.values()))

    def wait_until_connected(self) -> None:
        """All that run see each other, and nobody else."""

        def connected() -> bool:
            return all(node.sees(*[other for other in self if other is not node]) for node in self)

        try:
            wait_for(connected, "all nodes are connected", every=0.1)
        except AssertionError:
            raise AssertionError({node.name: node.nodes() for node in self}, self.logs()) from None

    def take_out(self, node: Node) -> None:
        """It is not expected to be among the others any more; how it ends is the test's affair."""
        del self._running[int(node.name)]

    def kill(self, node: Node, process: str) -> None:
        """End one of a node's processes, which the node replaces."""
        os.kill(node.workers()[process], signal.SIGKILL)
        self._deaths += 1

    def logs(self) -> str:
        return "\n".join(f"-- node {node.name}\n{node.log()}" for node in self._started)

    def close(self) -> None:
        running = [node for node in self._started if node.process.poll() is None]
        for node in running:
            node.hang_up()
            node.signal(signal.SIGTERM)
        codes = [node.process.wait(PATIENCE) for node in running]
        assert not any(codes), self.logs()
        assert "Traceback" not in self.logs() and self.logs().count("died") == self._deaths, self.logs()


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """What is done within lasts so long: for faults, whose length is what is tested."""
    end = time.monotonic() + seconds
    yield
    wait_for(lambda: time.monotonic() >= end, "the fault has lasted", timeout=seconds + 1)
