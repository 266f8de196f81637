"""What the readers of a stream cost through the Durable Streams door, beside Raiden's own ways in the same run: the CPU
of a worker for each delivery, for each message of a page, and its memory for each idle reader.

    python benchmarks/streams.py --readers 1000 --rounds 5
    python benchmarks/streams.py --idle 5000
    python benchmarks/streams.py --store redis://127.0.0.1:6379/9 --producers 4
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import re
import resource
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tables import Samples, cell, print_rows
from tests.daemons import ROOT, Daemon, memory

TYPE = {"Content-Type": "application/json"}
# Readers that come at the same time: more would measure their requests, which take memory while they wait.
AT_ONCE = 20
# Messages of the history that pages are read of, and of each page.
PAST, PAGE = 20_000, 1000
# Each append has it once. One that is cut by two reads is seldom, and is not counted.
MARK = b'"token"'
STREAM, NATIVE = "/v1/stream/tokens", "/native"


class Way(NamedTuple):
    """A way to append, and to read: the target of the first request, the one of those that follow where each answer is
    one message (``{}`` is the place that the answer tells), and the field that has it."""

    append: str
    first: str
    next: str = ""
    field: str = ""
    fields: str = ""


KEY = base64.b64encode(bytes(16)).decode()
UPGRADE = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
WAYS = {
    "WebSocket": Way(NATIVE, NATIVE, fields=UPGRADE),
    "event stream": Way(NATIVE, NATIVE, fields="Accept: text/event-stream\r\n"),
    "streams, events": Way(STREAM, f"{STREAM}?offset=now&live=sse"),
    "long-poll": Way(NATIVE, f"{NATIVE}?_wait=60", f"{NATIVE}?_wait=60&_since={{}}", "raiden-cursor"),
    "streams, long-poll": Way(
        STREAM, f"{STREAM}?offset=now&live=long-poll", f"{STREAM}?offset={{}}&live=long-poll", "stream-next-offset"
    ),
}
# What each is compared with.
BESIDE = {
    "event stream": "WebSocket", "streams, events": "WebSocket", "streams, long-poll": "long-poll",
    "streams, page": "page", "streams, one message": "one message", "streams, append": "append",
}  # fmt: skip


def read(address: tuple[str, int], way: Way, readers: int, pipe: Connection) -> None:
    """Be the readers, in a process of its own: say when all are there, then, asked for it, how many appends came."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    place = re.compile(rb"\r\n%b: ([^\r]*)" % way.field.encode(), re.IGNORECASE)

    def ask(sock: socket.socket, target: str) -> None:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n{way.fields}\r\n".encode())

    with ExitStack() as stack:
        sockets: dict[int, socket.socket] = {}
        poll = select.epoll()
        stack.callback(poll.close)
        while len(sockets) < readers:
            some = [stack.enter_context(socket.create_connection(address)) for _ in range(AT_ONCE)]
            for sock in some:
                ask(sock, way.first)
            for sock in some:
                if not way.next:
                    answer = sock.recv(65536)
                    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), answer
                poll.register(sock, select.EPOLLIN)
                sockets[sock.fileno()] = sock
        poll.register(pipe, select.EPOLLIN)
        pipe.send("there")
        came = 0
        while True:
            for fd, _ in poll.poll():
                if fd in sockets:
                    data = sockets[fd].recv(262144)
                    assert data, "a reader was closed"
                    came += data.count(MARK)
                    if way.next:
                        found = place.search(data)
                        assert found is not None, data
                        ask(sockets[fd], way.next.format(found[1].decode()))
                else:
                    if pipe.recv() == "end":
                        return
                    pipe.send(came)


def seconds_of(node: Daemon, process: str = "worker 0") -> float:
    """The CPU that a process of the node has taken, by the scheduler's own count, which is in nanoseconds."""
    return int(Path(f"/proc/{node.workers()[process]}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def reading(node: Daemon, way: Way, readers: int) -> Iterator[Connection]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=read, args=((node.host, node.port), way, readers, there))
    process.start()
    there.close()  # so that its end is noticed
    try:
        assert here.recv() == "there"
        time.sleep(0.5)
        yield here
        here.send("end")
    finally:
        process.join(20)
        process.kill()


class Producers:
    """Clients that append in turns, each on a connection of its own; to a stream as producers, whose appends are done
    once. ``took`` is the seconds that each append took."""

    def __init__(self, node: Daemon, way: Way, count: int) -> None:
        self._target = way.append
        self._life = str(time.time_ns())
        self._connections = [node.open() for _ in range(count)]
        self.took: list[float] = []

    def append(self) -> None:
        number, who = divmod(len(self.took), len(self._connections))
        fields, began = dict(TYPE), time.monotonic()
        if self._target == STREAM:
            fields |= {"Producer-Id": f"{self._life}.{who}", "Producer-Epoch": "0", "Producer-Seq": str(number)}
        connection = self._connections[who]
        connection.request("POST", self._target, json.dumps({"token": f"word {number}"}), fields)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 204), answer.status
        self.took.append(time.monotonic() - began)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


class Measured(NamedTuple):
    """Microseconds of the worker's CPU for a delivery, and of the history process for an append; milliseconds that an
    append took, the median and the 99th percentile; and the part of the deliveries that came."""

    cost: float
    stored: float
    median: float
    late: float
    came: float


def deliveries(node: Daemon, way: Way, asked: argparse.Namespace) -> Measured:
    rate = asked.polled if way.next else asked.appends
    count = max(1, int(rate * asked.seconds))
    with reading(node, way, asked.readers) as readers:
        producers = Producers(node, way, asked.producers)
        before, stored, began = seconds_of(node), seconds_of(node, "history"), time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            producers.append()
        for _ in range(200):
            readers.send("count")
            if (came := readers.recv()) >= 0.999 * asked.readers * count:
                break
            time.sleep(0.05)
        taken, stored = seconds_of(node) - before, seconds_of(node, "history") - stored
        producers.close()
    took = sorted(producers.took)
    late = took[min(len(took) - 1, int(0.99 * len(took)))]
    deliveries = asked.readers * count
    return Measured(1e6 * taken / deliveries, 1e6 * stored / count, 1e3 * statistics.median(took), 1e3 * late,
                    came / deliveries)  # fmt: skip


def appends(node: Daemon, way: Way, count: int) -> float:
    """Microseconds of the worker's CPU for an append that nobody reads."""
    producers, before = Producers(node, way, 1), seconds_of(node)
    for _ in range(count):
        producers.append()
    producers.close()
    return 1e6 * (seconds_of(node) - before) / count


def fill(node: Daemon) -> None:
    """Append the past that pages are read of."""
    some = [{"token": f"word {number}"} for number in range(PAGE)]
    for _ in range(PAST // PAGE):
        status, _, _ = node.request("POST", f"{STREAM}-past", json.dumps(some), TYPE)
        assert status == 204, status
        lines = {"Content-Type": "application/x-ndjson"}
        status, _, _ = node.request("POST", f"{NATIVE}-past", "\n".join(map(json.dumps, some)), lines)
        assert status == 200, status


def pages(node: Daemon, small: int) -> dict[str, float]:
    """Microseconds of CPU, of the worker and the history process, for a message of a page, and for a page with one
    message, of which ``small`` are read."""

    def taken() -> float:
        return 1e6 * (seconds_of(node) + seconds_of(node, "history"))

    def of(first: str, next: str, count: int) -> tuple[float, str]:
        connection, before, target, last = node.open(), taken(), first, first
        for _ in range(count):
            connection.request("GET", target)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            place = answer.getheader("Stream-Next-Offset")
            if place is None:
                place = json.loads(body)["messages"][-1]["cursor"]
            last, target = target, next.format(place)
        connection.close()
        return (taken() - before) / count, last

    ways = {
        "page": (f"/-/channels{NATIVE}-past/history", "?_limit=1000", "&_since={}"),
        "streams, page": (f"{STREAM}-past", "?offset=-1", ""),
    }
    found: dict[str, float] = {}
    for name, (path, first, more) in ways.items():
        next = path + first + more if more else f"{path}?offset={{}}"
        cost, _ = of(path + first, next, PAST // PAGE)
        found[name] = cost / PAGE
    # The message that was appended last, again and again.
    tail = node.request("HEAD", f"{STREAM}-past")[1]["stream-next-offset"]
    status, _, body = node.request("GET", f"/-/channels{NATIVE}-past/history?_last=2")
    assert status == 200
    since = json.loads(body)["messages"][0]["cursor"]
    assert node.request("POST", f"{STREAM}-past", "[1]", TYPE)[0] == 204
    target = f"/-/channels{NATIVE}-past/history?_since={since}"
    found["one message"] = of(target, target, small)[0]
    target = f"{STREAM}-past?offset={tail}"
    found["streams, one message"] = of(target, target, small)[0]
    return found


def idle(node: Daemon, way: Way, readers: int) -> float:
    """Bytes of memory for an idle reader; others were there before."""
    worker = node.workers()["worker 0"]
    with reading(node, way, 100):
        pass
    before = memory(worker)
    with reading(node, way, readers):
        return (memory(worker) - before) / readers


@contextmanager
def serving(asked: argparse.Namespace, **settings: Any) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as folder:
        node = Daemon(
            Path(folder), root=asked.root, dialects=["streams"], store=asked.store, max_connections=10_000,
            channels={"*": {"history_size": 2 * PAST}}, drain_window=0, drain_timeout=1, **settings,
        )  # fmt: skip
        try:
            for name in (STREAM, f"{STREAM}-past"):
                status, _, _ = node.request("PUT", name, b"", TYPE)
                assert status in (200, 201), status
            yield node
            for name in (STREAM, f"{STREAM}-past", NATIVE, f"{NATIVE}-past"):
                node.request("DELETE", name)
        finally:
            node.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--appends", type=float, default=50, help="a second")
    parser.add_argument("--polled", type=float, default=5, help="appends a second to readers by long-poll")
    parser.add_argument("--producers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", default="sqlite")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help=", ".join(WAYS))
    parser.add_argument(
        "--small", type=int, default=1000, help="pages of one message, and appends that nobody reads; 0: none"
    )
    parser.add_argument("--idle", type=int, default=0, help="measure the memory of so many idle readers instead")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout, or the folder of a wheel, that runs")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if asked.idle:
        for name in asked.ways:
            with serving(asked, streams_poll=300.0, streams_sse=0.0) as node:
                print(f"{name}: {idle(node, WAYS[name], asked.idle):.0f} bytes each", flush=True)
        return
    costs, others = Samples(list), Samples(list)
    with serving(asked) as node:
        if asked.small:
            fill(node)
        for number in range(asked.rounds):
            for name in asked.ways[:: -1 if number % 2 else 1]:
                found = deliveries(node, WAYS[name], asked)
                if found.came < 0.99:
                    print(f"{name}: only {100 * found.came:.1f} % came", file=sys.stderr)
                costs[name].append(found.cost)
                for what, value in zip(Measured._fields[1:4], found[1:4], strict=True):
                    others[f"{name} {what}"].append(value)
            if asked.small:
                for name, cost in pages(node, asked.small).items():
                    costs[name].append(cost)
                costs["append"].append(appends(node, WAYS["WebSocket"], asked.small))
                costs["streams, append"].append(appends(node, WAYS["streams, events"], asked.small))
    rows = []
    for name, values in costs.items():
        beside = BESIDE.get(name, "")
        ratio = cell([a / b for a, b in zip(values, costs[beside], strict=True)], "{:.2f}") if beside in costs else "-"
        rest = [cell(others[f"{name} {what}"], "{:.1f}") if name in WAYS else "-" for what in Measured._fields[1:4]]
        rows.append([name, cell(values, "{:.2f}"), beside or "-", ratio, *rest])
    print_rows(["way", "us", "beside", "times", "history, us an append", "append, ms", "99th percentile"], rows)


if __name__ == "__main__":
    main()
