"""What a rate costs: the CPU of a worker for each delivery to many event streams, with ``_rate`` and without, in turns.

    python benchmarks/rates.py --rounds 3 --subscribers 10000 --seconds 10

All get two messages a second: those without a rate because two are published; those with one of a hundred. Messages
are JSON objects of some 60 bytes, the channel has no history, and the subscribers, in this process, read all. In the
last rows each of a tenth of them gets twenty a second: all messages, or two of each of ten symbols.
"""

from __future__ import annotations

import argparse
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from collections.abc import Iterator, Sequence

from tests.daemons import Daemon, wait_for

RATE = 2
# Subscribers that are connected before the answers are read.
AT_ONCE = 100


class Way(NamedTuple):
    """Subscribers that ask with a query, of which there is this part, and messages a second that are published."""

    name: str
    query: str
    part: float
    published: int


WAYS = (
    Way("all messages, 2 a second", "", 1.0, RATE),
    Way("`_rate=2` of 2 a second", f"_rate={RATE}", 1.0, RATE),
    Way("`_rate=2` of 100 a second", f"_rate={RATE}", 1.0, 100),
    Way("all messages, 20 a second", "", 0.1, 20),
    Way("`_rate=2&_key=symbol` of 100 a second, 10 symbols", f"_rate={RATE}&_key=symbol", 0.1, 100),
)


class Readers:
    """Event streams that are read, and thrown away, in a thread."""

    def __init__(self, node: Daemon, query: str, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        request = f"GET /ticks?{query} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n".encode()
        while len(self._sockets) < count:
            made = [node.connect() for _ in range(min(AT_ONCE, count - len(self._sockets)))]
            for each in made:
                each.sendall(request)
            for each in made:
                answer = each.recv(4096)
                assert answer.startswith(b"HTTP/1.1 200"), answer
                each.setblocking(False)
                self._selector.register(each, selectors.EVENT_READ)
            self._sockets += made
        self._over = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.2):
                key.fileobj.recv(65536)  # type: ignore[union-attr]

    def close(self) -> None:
        self._over = True
        self._thread.join()
        for each in self._sockets:
            each.close()
        self._selector.close()


@contextmanager
def readers(node: Daemon, way: Way, subscribers: int) -> Iterator[None]:
    found = Readers(node, way.query, subscribers)
    try:
        yield
    finally:
        found.close()
        wait_for(lambda: node.metric("raiden_connections", transport="event") == 0, "they have left")


def measure(node: Daemon, way: Way, subscribers: int, seconds: float) -> tuple[float, float]:
    """Microseconds of the worker for each delivery, and deliveries to each subscriber a second. What the worker takes
    without them is left out: while the subscribers are there, as many messages are published for nobody."""
    count = max(1, int(subscribers * way.part))
    with readers(node, way, count):
        without, _ = _publish(node, "nobody", way.published, seconds / 2)
        took, delivered = _publish(node, "ticks", way.published, seconds)
        return (took - without) * seconds / delivered * 1e6, delivered / count / seconds


def _publish(node: Daemon, channel: str, a_second: int, seconds: float) -> tuple[float, float]:
    """Publish for some time; the worker's CPU for each second, and the deliveries."""
    pid = node.workers()["worker 0"]
    before, delivered, began = _seconds_of(pid), node.metric("raiden_delivered_total"), time.monotonic()
    published = 0
    while (now := time.monotonic() - began) < seconds:
        if published <= now * a_second:
            node.publish(channel, {"symbol": published % 10, "price": 100 + published, "at": "2026-01-01T00:00:00Z"})
            published += 1
        else:
            time.sleep(0.001)
    return (_seconds_of(pid) - before) / seconds, node.metric("raiden_delivered_total") - delivered


def _seconds_of(pid: int) -> float:
    """The CPU that a process has taken, by the scheduler's own count, which is in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found: dict[Way, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        node = Daemon(
            Path(folder), workers=1, store="none", max_connections=asked.subscribers + 100,
            max_connections_per_address=asked.subscribers + 100,
        )  # fmt: skip
        try:
            for _ in range(asked.rounds):
                for way in WAYS:
                    found[way].append(measure(node, way, asked.subscribers, asked.seconds))
        finally:
            node.stop()
    print("| | subscribers | deliveries to each, a second | worker's CPU for each delivery, us |\n|---|---|---|---|")
    for way, samples in found.items():
        costs = [cost for cost, _ in samples]
        rate = statistics.median([each for _, each in samples])
        print(
            f"| {way.name} | {int(asked.subscribers * way.part):,} | {rate:.1f} | {statistics.median(costs):.2f} "
            f"({min(costs):.2f} .. {max(costs):.2f}) |"
        )


if __name__ == "__main__":
    main()
