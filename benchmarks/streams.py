"""What the readers of a stream cost: the CPU of a worker for an append to each of them, and its memory for each,
through the Durable Streams door and, in the same run, through Raiden's own event stream.

    python benchmarks/streams.py --readers 2000 --appends 50 --seconds 10
    python benchmarks/streams.py --store redis://127.0.0.1:6379/9
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import select
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.daemons import Daemon, memory

HEAD = "GET {} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
TYPE = {"Content-Type": "application/json"}
# Readers that come at the same time: more would measure their requests, which take memory while they wait.
AT_ONCE = 20


class Door(NamedTuple):
    """A way to append and to read."""

    name: str
    append: str
    read: str


DOORS = (
    Door("durable streams", "/v1/stream/tokens", "/v1/stream/tokens?offset=now&live=sse"),
    Door("event stream", "/native", "/native"),
)
# Each append has it once. One that is cut by two reads is seldom, and is not counted.
MARK = b'"token"'


def read(address: tuple[str, int], door: Door, readers: int, pipe: Connection) -> None:
    """Be the readers, in a process of its own: say when all are there, then, asked for it, how many appends came."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        sockets: dict[int, socket.socket] = {}
        poll = select.epoll()
        stack.callback(poll.close)
        while len(sockets) < readers:
            some = [stack.enter_context(socket.create_connection(address)) for _ in range(AT_ONCE)]
            for sock in some:
                sock.sendall(HEAD.format(door.read).encode())
            for sock in some:
                answer = sock.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200"), answer
                poll.register(sock, select.EPOLLIN)
                sockets[sock.fileno()] = sock
        poll.register(pipe, select.EPOLLIN)
        pipe.send("there")
        came = 0
        while True:
            for fd, _ in poll.poll():
                if fd in sockets:
                    came += sockets[fd].recv(262144).count(MARK)
                else:
                    if pipe.recv() == "end":
                        return
                    pipe.send(came)


def seconds_of(node: Daemon) -> float:
    """The CPU that the worker has taken, by the scheduler's own count, which is in nanoseconds."""
    return int(Path(f"/proc/{node.workers()['worker 0']}/schedstat").read_text().split()[0]) / 1e9


class Measured(NamedTuple):
    """Microseconds of CPU for a delivery; the part of the deliveries that came; the part of a core that the worker
    took; and bytes of memory for an idle reader."""

    cost: float
    came: float
    part: float
    size: float


def measure(node: Daemon, door: Door, readers: int, appends: int, seconds: float) -> Measured:
    worker = node.workers()["worker 0"]
    here, there = multiprocessing.Pipe()
    idle = memory(worker)
    process = multiprocessing.Process(target=read, args=((node.host, node.port), door, readers, there))
    process.start()
    try:
        assert here.recv() == "there"
        time.sleep(1)
        size = (memory(worker) - idle) / readers
        connection = node.open()
        before, began, count = seconds_of(node), time.monotonic(), int(appends * seconds)
        for number in range(count):
            time.sleep(max(0.0, began + number / appends - time.monotonic()))
            connection.request("POST", door.append, json.dumps({"token": f"word {number}"}), TYPE)
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 204), answer.status
        lasted = time.monotonic() - began
        came = 0
        for _ in range(200):
            here.send("count")
            if (came := here.recv()) >= 0.999 * readers * count:
                break
            time.sleep(0.05)
        taken = seconds_of(node) - before
        connection.close()
        here.send("end")
    finally:
        process.join(20)
        process.kill()
    return Measured(1e6 * taken / (readers * count), came / (readers * count), taken / lasted, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=2000)
    parser.add_argument("--appends", type=int, default=50, help="a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", default="sqlite")
    asked = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    costs: dict[str, list[float]] = {door.name: [] for door in DOORS}
    for number in range(asked.rounds):
        for door in DOORS[:: 1 if number % 2 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                node = Daemon(Path(folder), dialects=["streams"], store=asked.store, max_connections=10_000)
                try:
                    status, _, _ = node.request("PUT", "/v1/stream/tokens", b"", TYPE)
                    assert status in (200, 201), status
                    found = measure(node, door, asked.readers, asked.appends, asked.seconds)
                    node.request("DELETE", "/v1/stream/tokens")
                finally:
                    node.stop()
            costs[door.name].append(found.cost)
            print(
                f"{door.name}: {found.cost:.2f} us, {100 * found.came:.1f} % came, {100 * found.part:.0f} % of a core,"
                f" {found.size / 1000:.1f} KB for a reader",
                flush=True,
            )
    medians = [statistics.median(costs[door.name]) for door in DOORS]
    print(f"{DOORS[0].name} / {DOORS[1].name}: {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
