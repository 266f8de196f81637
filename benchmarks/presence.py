"""What presence costs: the CPU of a worker for a question who is at a channel, for a join and a leave with and without
watchers; and beside another checkout, what a connection, a long-poll and a delivery cost that have nothing to do with
it.

    python benchmarks/presence.py --members 1000 5000
    python benchmarks/presence.py --against ../another-checkout --rounds 5
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jwt

from tests.daemons import ROOT, Daemon, wait_for

KEY = "a key of thirty-two bytes, for HS"
HEAD = "GET {} HTTP/1.1\r\nHost: a\r\n{}Accept: text/event-stream\r\n\r\n"
# Connections that are made, or left, for one measurement; watchers; questions; polls; deliveries to each.
CHANGES, WATCHERS, QUESTIONS, POLLS, MESSAGES = 200, (0, 1, 100), 20, 300, 100


def field(sub: str | None) -> str:
    claims = {"exp": int(time.time()) + 3600, "subscribe": ["*"], "presence": ["*"], "publish": ["*"]}
    made = jwt.encode({**claims, **({} if sub is None else {"sub": sub, "info": {"color": "red"}})}, KEY)
    return f"Authorization: Bearer {made}\r\n"


def seconds_of(node: Daemon) -> float:
    """The CPU that the worker has taken, by the scheduler's own count, which is in nanoseconds."""
    return int(Path(f"/proc/{node.workers()['worker 0']}/schedstat").read_text().split()[0]) / 1e9


def subscribe(node: Daemon, path: str, credential: str) -> socket.socket:
    sock = node.connect()
    sock.sendall(HEAD.format(path, credential).encode())
    answer = sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return sock


def ask(node: Daemon, credential: str) -> Any:
    headers = dict([credential.strip().split(": ", 1)])
    status, _, body = node.request("GET", "/-/channels/board/presence", headers=headers)
    assert status == 200, body
    return json.loads(body), len(body)


def questions(node: Daemon, credential: str, members: int, pause: float) -> tuple[float, float]:
    """Milliseconds of CPU, and of time, for a question; between two of them ``pause`` seconds."""
    waits, took = [], 0.0
    for _ in range(QUESTIONS):
        time.sleep(pause)
        before, began = seconds_of(node), time.perf_counter()
        told, _ = ask(node, credential)
        waits.append(time.perf_counter() - began)
        took += seconds_of(node) - before
        assert told["count"] == members
    return 1000 * took / QUESTIONS, 1000 * statistics.median(waits)


class Drain:
    """Reads all that some sockets get, in a thread, and counts joins and leaves."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.counts = [0] * len(sockets)
        self._threads = [threading.Thread(target=self._read, args=each, daemon=True) for each in enumerate(sockets)]
        for thread in self._threads:
            thread.start()

    def _read(self, number: int, sock: socket.socket) -> None:
        with sock.makefile("rb") as lines:
            for line in lines:
                self.counts[number] += line.startswith((b"event: join", b"event: leave"))


def changes(node: Daemon, watchers: int) -> float:
    """Microseconds of CPU for a member that comes and goes."""
    credentials = [field(f"new {number}") for number in range(CHANGES)]
    with ExitStack() as stack:
        sockets = []
        for _ in range(watchers):
            sockets.append(subscribe(node, "/board?_presence=1", field(None)))
            stack.callback(sockets[-1].shutdown, socket.SHUT_RDWR)
        drain = Drain(sockets)
        time.sleep(1)
        before = seconds_of(node)
        with ExitStack() as here:
            for credential in credentials:
                here.enter_context(subscribe(node, "/board", credential))
                time.sleep(0.005)
            wait_for(lambda: all(count == CHANGES for count in drain.counts), "all joins are told")
        wait_for(lambda: all(count == 2 * CHANGES for count in drain.counts), "all leaves are told")
        time.sleep(0.5)
        return 1e6 * (seconds_of(node) - before) / CHANGES


def cost_of_connecting(node: Daemon) -> float:
    """Microseconds of CPU for a connection that subscribes."""
    with ExitStack() as stack:
        before = seconds_of(node)
        for _ in range(1000):
            stack.enter_context(subscribe(node, "/plain", ""))
        return 1e6 * (seconds_of(node) - before) / 1000


def cost_of_polls(node: Daemon) -> float:
    """Microseconds of CPU for a long-poll that is answered, where 100 wait together."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(node.connect()) for _ in range(100)]
        before = seconds_of(node)
        for _ in range(POLLS // 3):
            for sock in sockets:
                sock.sendall(b"GET /polled?_wait=60 HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_for(lambda: node.json("/-/channels/polled")["subscribers"] == 100, "all wait")
            node.publish("polled", 1)
            for sock in sockets:
                assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        return 1e6 * (seconds_of(node) - before) / (100 * (POLLS // 3))


def cost_of_deliveries(node: Daemon) -> float:
    """Microseconds of CPU for a message to one of 500 subscribers."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(subscribe(node, "/delivered", "")) for _ in range(500)]
        before = seconds_of(node)
        for number in range(MESSAGES):
            node.publish("delivered", number)
        for sock in sockets:
            data = b""
            while f"data: {MESSAGES - 1}\n".encode() not in data:
                data += sock.recv(65536)
        return 1e6 * (seconds_of(node) - before) / (500 * MESSAGES)


PLAIN: dict[str, Callable[[Daemon], float]] = {
    "a connection": cost_of_connecting, "a long-poll": cost_of_polls, "a delivery": cost_of_deliveries,
}  # fmt: skip


def compare(other: Path, rounds: int) -> None:
    """Print the ratios of this checkout's CPU to the other's, in turns."""
    ratios: dict[str, list[float]] = {name: [] for name in PLAIN}
    for round_ in range(rounds):
        roots = [ROOT, other] if round_ % 2 else [other, ROOT]
        costs: dict[Path, dict[str, float]] = {}
        for root in roots:
            with tempfile.TemporaryDirectory() as folder:
                node = Daemon(Path(folder), root=root, store="none")
                costs[root] = {name: measure(node) for name, measure in PLAIN.items()}
                node.stop()
        for name in PLAIN:
            ratios[name].append(costs[ROOT][name] / costs[other][name])
            print(f"{name}: {costs[ROOT][name]:.2f} us, {costs[other][name]:.2f} us", flush=True)
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})")


def measure(members: int) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        node = Daemon(
            Path(folder), jwt_keys=[{"alg": "HS256", "key": KEY}], max_presence=10_000, presence_linger=1, store="none"
        )
        stack.callback(node.stop)
        asker = field(None)
        for number in range(members):
            stack.enter_context(subscribe(node, "/board", field(f"member {number}")))
        _, size = ask(node, asker)
        for pause, what in ((1.1, "each second"), (0.0, "one after the other")):
            cpu, wait = questions(node, asker, members, pause)
            print(f"{members} members, a question {what}: {cpu:.1f} ms of CPU, {wait:.1f} ms, {size} bytes", flush=True)
        for watchers in WATCHERS:
            took = changes(node, watchers)
            print(f"{members} members, {watchers} watchers: {took:.0f} us a member that comes and goes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="*", default=[1000, 5000])
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if asked.against is not None:
        compare(asked.against.resolve(), asked.rounds)
        return
    for members in asked.members:
        measure(members)


if __name__ == "__main__":
    main()
