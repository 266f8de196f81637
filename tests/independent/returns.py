"""Stores that go back, by each way that history.md names, under nodes that live on or are started again."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Protocol

import redis

from tests.cluster.network import Host
from tests.cluster.nodes import Node
from tests.daemons import wait_for
from tests.stores import RedisServer

STORE = "history.sqlite"
# Of a log of SQLite's, bytes at the end that mostly are cut within: the rest is what the whole trial has written.
LATELY = 300_000
SERVICE = "history"
PATIENCE = 60.0  # seconds for nodes and servers to be there


class Store(Protocol):
    """A store that can go back. ``settings`` are the nodes'."""

    settings: dict[str, Any]

    def remember(self) -> None:
        """What it has now is what it goes back to next, or one of the times that it may go back to."""

    def go_back(self) -> float | None:
        """It falls, and is there again, with what it had at the time that is returned (None: nobody knows when that
        was)."""

    def close(self) -> None: ...


class Snapshots:
    """A Redis server that keeps what it was told to save. It is killed, and started from that."""

    def __init__(self, host: Host, folder: Path, random: Random) -> None:
        self.host, self.random = host, random
        self.settings = {"store": f"redis://{host.address}:6379/0"}
        with host.inside():
            self.server = RedisServer(folder, *listening(host, 6379), "--appendonly", "no")
        self.remembered = 0.0
        self.remember()

    def remember(self) -> None:
        begun = time.monotonic()
        with redis.Redis.from_url(self.server.url) as client:
            client.save()
        self.remembered = begun

    def go_back(self) -> float:
        self.server.kill()
        with self.host.inside():
            self.server.start()
        return self.remembered

    def close(self) -> None:
        self.server.stop()


class Failovers:
    """A primary, a replica and a Sentinel. The replica stands still, the primary is killed, and the replica takes its
    place without what it did not hear; then the other one becomes its replica."""

    def __init__(self, host: Host, folder: Path, random: Random) -> None:
        self.host, self.random = host, random
        self.settings = {"store": f"redis+sentinel://{host.address}:26379/{SERVICE}/0"}
        self.remembered = 0.0
        self.servers: list[tuple[int, RedisServer]] = []
        self.sentinel: subprocess.Popen[bytes] | None = None
        with host.inside():
            for port in (6379, 6380):
                (folder / str(port)).mkdir()
                options = (*self.options(port), *(self.follows(6379) if self.servers else ()))
                self.servers.append((port, RedisServer(folder / str(port), *options)))
            self.watch(folder)
        self.wait_until_whole()

    def options(self, port: int) -> tuple[str, ...]:
        return (*listening(self.host, port), "--appendonly", "no", "--repl-diskless-sync-delay", "0")

    def follows(self, port: int) -> tuple[str, ...]:
        return ("--replicaof", self.host.address, str(port))

    def watch(self, folder: Path) -> None:
        config = folder / "sentinel.conf"
        config.write_text(
            f"port 26379\nbind {self.host.address}\nprotected-mode no\ndir {folder}\n"
            f"sentinel monitor {SERVICE} {self.host.address} 6379 1\nsentinel down-after-milliseconds {SERVICE} 1500\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        with open(folder / "sentinel.log", "wb") as log:
            self.sentinel = subprocess.Popen(["redis-server", str(config), "--sentinel"], stdout=log, stderr=log)
        # One that had to wait for a processor for 2 s takes that for a broken clock, and does nothing for 30 s.
        os.setpriority(os.PRIO_PROCESS, self.sentinel.pid, -10)

    @contextmanager
    def asking(self, port: int) -> Iterator[redis.Redis]:
        with self.host.inside():
            client = redis.Redis(self.host.address, port, socket_timeout=2)
            try:
                client.ping()
            except redis.RedisError:
                pass
            yield client
            client.close()

    def wait_until_whole(self) -> None:
        """The Sentinel would take the replica, which has all that the primary had."""
        (primary, _), (replica, _) = self.servers

        def is_whole() -> bool:
            try:
                with self.asking(26379) as client:
                    known = client.sentinel_slaves(SERVICE)
                    address = client.sentinel_get_master_addr_by_name(SERVICE)
                with self.asking(replica) as client:
                    linked = client.info("replication").get("master_link_status") == "up"
            except (redis.RedisError, OSError):
                return False
            mine = [each for each in known if int(each["port"]) == replica]
            well = mine and mine[0]["flags"] == "slave" and mine[0]["master-link-status"] == "ok"
            return bool(well and linked and address and address[1] == primary)

        wait_for(is_whole, "the Sentinel knows a primary and its replica", PATIENCE)

    def remember(self) -> None:
        """From now on the replica hears nothing."""
        (primary, _), (replica, server) = self.servers
        begun = time.monotonic()
        with self.asking(primary) as client:
            offset = client.info("replication")["master_repl_offset"]

        def has_heard() -> bool:
            with self.asking(replica) as client:
                return int(client.info("replication")["slave_repl_offset"]) >= offset

        wait_for(has_heard, "the replica has all that was acknowledged", PATIENCE)
        with self.asking(primary) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")
            server.process.send_signal(signal.SIGSTOP)
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        self.remembered = begun

    def go_back(self) -> float:
        (port, primary), (replica, server) = self.servers
        if self.remembered == 0.0:
            self.remember()
        primary.kill()
        server.process.send_signal(signal.SIGCONT)

        def leads() -> bool:
            with self.asking(replica) as client:
                return bool(client.info("replication")["role"] == "master")

        wait_for(leads, "the replica is the primary", PATIENCE)
        self.servers.reverse()
        with self.host.inside():
            primary.options = (*self.options(port), *self.follows(replica))
            primary.start()
        remembered, self.remembered = self.remembered, 0.0
        self.wait_until_whole()
        return remembered

    def close(self) -> None:
        if self.sentinel:
            self.sentinel.kill()
            self.sentinel.wait()
        for _, server in self.servers:
            server.kill()  # in order, they would wait for each other


class Files:
    """A node that keeps its history in a file. It is killed, or stopped (where it ``may_be_stopped``), or only its
    history process is killed; then the file is another one."""

    may_be_stopped = True

    def __init__(self, folder: Path, random: Random) -> None:
        self.random, self.folder = random, folder
        self.settings = {"store": "sqlite", "data_dir": folder}

    def found(self, node: Node) -> None:
        """It was started."""
        self.node, self.history = node, node.workers()["history"]

    def remember(self) -> None:
        pass

    def go_back(self) -> float | None:
        """The node must be started again if it does not run."""
        if self.random.random() < 0.4:
            return self.under_a_node_that_runs()
        self.node.hang_up()
        if self.random.random() < 0.5 and self.may_be_stopped:
            self.node.signal(signal.SIGTERM)
        else:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in (self.node.pid, *children(self.node)):
                    os.kill(pid, number)
        self.node.process.wait(30)
        return self.change()

    def under_a_node_that_runs(self) -> float | None:
        before = set(children(self.node))
        self.node.signal(signal.SIGSTOP)
        os.kill(self.history, signal.SIGKILL)
        wait_for(lambda: ended(self.history), "the history process has ended", PATIENCE)
        copied = self.change()
        self.node.signal(signal.SIGCONT)
        (self.history,) = wait_for(
            lambda: set(children(self.node)) - before, "the history process is replaced", PATIENCE
        )
        return copied

    def change(self) -> float | None:
        """Make the file another one, which nobody uses now; what time it is of."""
        raise NotImplementedError

    def close(self) -> None:
        pass


class Copies(Files):
    """A copy of the file is put back, one of those that were made last."""

    KEPT = 3

    def __init__(self, folder: Path, random: Random) -> None:
        super().__init__(folder, random)
        self.copies: list[tuple[float, Path]] = []

    def remember(self) -> None:
        begun, copy = time.monotonic(), self.folder / f"copy-{time.monotonic()}"
        source, target = sqlite3.connect(self.folder / STORE), sqlite3.connect(copy)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        self.copies = [*self.copies, (begun, copy)][-self.KEPT :]

    def change(self) -> float | None:
        for part in self.folder.glob(f"{STORE}*"):
            part.unlink()
        if not self.copies:
            return 0.0
        copied, copy = self.random.choice(self.copies)
        shutil.copy(copy, self.folder / STORE)
        return copied


class CutLogs(Files):
    """The end of the write-ahead log is lost, as a power cut leaves it. (A node that is stopped leaves none.)"""

    may_be_stopped = False

    def change(self) -> None:
        log = self.folder / f"{STORE}-wal"
        with log.open("r+b") as file:
            end = written(file.read())
            least = max(0, end - LATELY) if self.random.random() < 0.9 else 0
            file.truncate(self.random.randint(least, end))


def written(log: bytes) -> int:
    """Where the last frame of a write-ahead log ends; behind it are those of a log that it took the place of
    (sqlite.org/fileformat2.html#walformat)."""
    size, salt, end = int.from_bytes(log[8:12], "big"), log[16:24], 32
    while log[end + 8 : end + 16] == salt:
        end += 24 + size
    return min(end, len(log))


def children(node: Node) -> list[int]:
    return [int(child) for child in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()]


def ended(pid: int) -> bool:
    """It is gone, or waits for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def listening(host: Host, port: int) -> tuple[str, ...]:
    return ("--port", str(port), "--bind", host.address, "--protected-mode", "no")
