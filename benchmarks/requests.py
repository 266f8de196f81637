"""Measure requests and replies beside those of NATS, in the same run: ``benchmarks/requests.py [--rounds 3]
[--requests 5000]``. Prints a table in Markdown.

**Ways.** Raiden without history, where the client and the server of a channel are on ``/-/websocket`` of one worker, on
the REQ door, by HTTP and ``/-/websocket``, and at two nodes; and NATS's request/reply, where the server subscribes in a
queue group and the client has one inbox.

**The load** is one client and one server, in this process, which takes turns for both on plain sockets; so what it
takes itself, and the kernel, are in the latency, the same for all. First one request after the other is made: the
latency. Then `WINDOW` are under way, or by HTTP one: the requests a second, and the CPU that the system's processes
take for each, by /proc. Rounds have every way once, in turns; the table has the medians, with the least and the most.

``--open 10000``: instead the memory of a worker with so many open requests.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import cpu_of, server, stop_all, tree
from benchmarks.tables import Samples, cell, print_rows
from benchmarks.zeromq import NATS_SERVER, no_nats
from raiden.protocols import zmtp
from tests.daemons import Daemon, memory, wait_for

WINDOW = 32
EACH = 125  # open requests of a client
PAYLOAD = b'"' + b"x" * 126 + b'"'


class Peer:
    """A socket, and what has come by it."""

    def __init__(self, port: int, hello: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.socket.sendall(hello)

    def receive(self) -> None:
        self.data += self.socket.recv(65536)

    def until(self, text: bytes) -> None:
        while text not in self.data:
            self.receive()
        self.data = self.data[self.data.index(text) + len(text) :]


class Way:
    """A client and a server of the channel ``bench``; `asked` takes the requests that have come, and `answered` counts
    the answers."""

    client: Peer
    server: Peer

    def ask(self, count: int) -> bytes:
        raise NotImplementedError

    def asked(self) -> Sequence[bytes]:
        raise NotImplementedError

    def answer(self, ids: Sequence[bytes]) -> bytes:
        raise NotImplementedError

    def answered(self) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self.client.socket.close()
        self.server.socket.close()


class ByWebSocket(Way):
    """Both on ``/-/websocket``; the client on ``port``, the server on ``other``."""

    def __init__(self, port: int, other: int) -> None:
        self.server, self.client = self.socket(other), self.socket(port)
        self.server.socket.sendall(_frame(b'{"id":1,"cmd":"serve","channel":"bench","window":1000}'))
        self.server.until(b'"window":1000}')

    def socket(self, port: int) -> Peer:
        key = base64.b64encode(os.urandom(16)).decode()
        fields = "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        peer = Peer(port, f"GET /-/websocket HTTP/1.1\r\n{fields}Sec-WebSocket-Key: {key}\r\n\r\n".encode())
        peer.until(b"\r\n\r\n")
        return peer

    def ask(self, count: int) -> bytes:
        return count * _frame(b'{"id":2,"cmd":"request","channel":"bench","data":%b,"timeout":60}' % PAYLOAD)

    def asked(self) -> Sequence[bytes]:
        return [found[1] for frame in _frames(self.server) if (found := re.search(rb'"request":"([^"]+)"', frame))]

    def answer(self, ids: Sequence[bytes]) -> bytes:
        return b"".join([_frame(b'{"cmd":"answer","request":"%b","data":%b}' % (id, PAYLOAD)) for id in ids])

    def answered(self) -> int:
        answers = _frames(self.client)
        assert not any(b'"error"' in each for each in answers), answers
        return len(answers)


class ByHttp(ByWebSocket):
    """The client by HTTP, one request at a time; the server on ``/-/websocket``."""

    def __init__(self, port: int, other: int) -> None:
        super().__init__(port, other)
        self.client.socket.close()
        self.client = Peer(port, b"")

    def ask(self, count: int) -> bytes:
        head = b"POST /bench?_request=30 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return count * (head + b"Content-Length: %d\r\n\r\n%b" % (len(PAYLOAD), PAYLOAD))

    def answered(self) -> int:
        count = self.client.data.count(PAYLOAD)
        self.client.data = self.client.data[self.client.data.rfind(PAYLOAD) + len(PAYLOAD) :] if count else (
            self.client.data
        )  # fmt: skip
        return count


class ByZmq(Way):
    """Both on the REQ door."""

    def __init__(self, port: int, other: int) -> None:
        self._protocols = {}
        for name in ("server", "client"):
            core = zmtp.Zmtp(b"DEALER", frozenset({b"ROUTER"}), lambda: 1 << 20, None)
            peer = Peer(port, core.greeting)
            setattr(self, name, peer)
            self._protocols[peer] = core
            while not any(isinstance(event, zmtp.Peer) for event in self._events(peer)):
                peer.receive()
        self.server.socket.sendall(zmtp.message(b"", b"serve", b"bench", b"1000"))
        while not self._messages(self.server):
            self.server.receive()

    def _events(self, peer: Peer) -> list[Any]:
        data, peer.data = peer.data, b""
        events = list(self._protocols[peer].feed(data))
        for event in events:
            if isinstance(event, zmtp.Reply):
                peer.socket.sendall(event.data)
        return events

    def _messages(self, peer: Peer) -> list[list[bytes]]:
        return [event for event in self._events(peer) if isinstance(event, list)]

    def ask(self, count: int) -> bytes:
        return count * zmtp.message(b"", b"request", b"bench", PAYLOAD)

    def asked(self) -> Sequence[bytes]:
        return [frames[3] for frames in self._messages(self.server) if frames[1] == b"request"]

    def answer(self, ids: Sequence[bytes]) -> bytes:
        return b"".join([zmtp.message(b"", b"answer", id, PAYLOAD) for id in ids])

    def answered(self) -> int:
        answers = self._messages(self.client)
        assert all(frames[1] == b"200" for frames in answers), answers
        return len(answers)


class Nats(Way):
    def __init__(self, port: int, other: int) -> None:
        hello = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
        self.server = Peer(port, hello + b"SUB bench workers 1\r\nPING\r\n")
        self.client = Peer(port, hello + b"SUB inbox.* 1\r\nPING\r\n")
        for peer in (self.server, self.client):
            peer.until(b"PONG\r\n")

    def ask(self, count: int) -> bytes:
        return count * (b"PUB bench inbox.1 %d\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD))

    def asked(self) -> Sequence[bytes]:
        *whole, self.server.data = self.server.data.split(PAYLOAD + b"\r\n")
        return [each.split(b" ")[3] for each in whole]

    def answer(self, ids: Sequence[bytes]) -> bytes:
        return b"".join([b"PUB %b %d\r\n%b\r\n" % (id, len(PAYLOAD), PAYLOAD) for id in ids])

    def answered(self) -> int:
        *whole, self.client.data = self.client.data.split(PAYLOAD + b"\r\n")
        return len(whole)


def _frame(data: bytes) -> bytes:
    """A client's text frame, with a mask of zeros."""
    head = struct.pack("!BB", 0x81, 0x80 | len(data)) if len(data) < 126 else struct.pack("!BBH", 0x81, 0xFE, len(data))
    return head + bytes(4) + data


def _frames(peer: Peer) -> list[bytes]:
    """Take the whole frames that have come."""
    found, at, data = list[bytes](), 0, peer.data
    while at + 2 <= len(data):
        size, start = data[at + 1], at + 2
        if size == 126:
            if at + 4 > len(data):
                break
            size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        if start + size > len(data):
            break
        found.append(data[start : start + size])
        at = start + size
    peer.data = data[at:]
    return found


def run(way: Way, requests: int, window: int) -> list[float]:
    """Make requests, so many under way; return the seconds of each where that is one."""
    seconds, done = [], 0
    while done < requests:
        began = time.perf_counter()
        way.client.socket.sendall(way.ask(window))
        came = answers = 0
        while answers < window:
            while came < window and not (ids := way.asked()):
                way.server.receive()
            if came < window:
                way.server.socket.sendall(way.answer(ids))
                came += len(ids)
            answers += way.answered()
            if came == window and answers < window:
                way.client.receive()
        done += window
        seconds.append(time.perf_counter() - began)
    return seconds


# The systems: what is yielded is the client's port, the server's, and the processes.
System = Iterator[tuple[int, int, list[int]]]


@contextmanager
def raiden(folder: Path, nodes: int = 1) -> System:
    found: list[Daemon] = []
    try:
        for number in range(nodes):
            peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in found]
            found.append(Daemon(folder / str(number), workers=1, store="none", peers=peers, zmq_req_port=0))
        for node in found:
            wait_for(lambda node=node: node.json("/-/ready")["peers"] == nodes - 1, "connected")  # type: ignore[misc]
        yield found[0].port, found[-1].port, [pid for node in found for pid in tree(node.pid)]
    finally:
        stop_all(found)


@contextmanager
def raiden_zmq(folder: Path) -> System:
    with raiden(folder) as (_, _, pids):
        banner = (folder / "0" / "stdout").read_text()
        port = int(re.findall(r"\bREQ tcp://[\d.]+:(\d+)", banner)[0])
        yield port, port, pids


@contextmanager
def nats(folder: Path) -> System:
    with server(folder, lambda port: [str(NATS_SERVER), "-a", "127.0.0.1", "-p", str(port)]) as target:
        yield target.port, target.port, tree(target.processes["server"])


WAYS: dict[str, tuple[Callable[..., Any], Callable[[int, int], Way]]] = {
    "NATS": (nats, Nats),
    "Raiden, `/-/websocket`": (raiden, ByWebSocket),
    "Raiden, HTTP asks": (raiden, ByHttp),
    "Raiden, REQ door": (raiden_zmq, ByZmq),
    "Raiden, two nodes": (lambda folder: raiden(folder, 2), ByWebSocket),
}


def measure(name: str, requests: int, samples: dict[str, Samples]) -> None:
    system, kind = WAYS[name]
    with tempfile.TemporaryDirectory() as folder, system(Path(folder)) as (port, other, pids):
        way = kind(port, other)
        try:
            run(way, requests // 10, 1)
            seconds = sorted(run(way, requests, 1))
            before, began = cpu_of(*pids), time.perf_counter()
            run(way, requests, 1 if kind is ByHttp else WINDOW)
            took = time.perf_counter() - began
            found = samples[name]
            found["p50"].append(statistics.median(seconds) * 1e6)
            found["p99"].append(seconds[len(seconds) * 99 // 100] * 1e6)
            found["rate"].append(requests / took)
            found["cpu"].append((cpu_of(*pids) - before) / requests * 1e6)
        finally:
            way.close()


def measure_open(count: int) -> None:
    """Print the memory of a worker that so many open requests take, with the servers that have them."""
    with tempfile.TemporaryDirectory() as folder:
        node = Daemon(Path(folder), workers=1, store="none", max_requests=count)
        way = ByWebSocket(node.port, node.port)
        pid = node.workers()["worker 0"]
        try:
            others = [ByWebSocket(node.port, node.port) for _ in range(count // 1000)]  # servers, 1,000 requests each
            clients = [way.socket(node.port) for _ in range(count // EACH + 10)]
            before = memory(pid)
            for client in clients:
                client.socket.sendall(way.ask(EACH))
            wait_for(lambda: node.metric("raiden_requests_asked") == count, "they are open")
            print(f"{count:,} open requests: {(memory(pid) - before) / 1e6:.0f} MB")
            for peer in (way, *others):
                peer.close()
        finally:
            stop_all([node])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--open", type=int, help="measure the memory of so many open requests instead")
    options = parser.parse_args()
    if options.open:
        measure_open(options.open)
        return
    missing = no_nats()
    if missing:
        print(f"without {missing}", file=sys.stderr)
    names = [name for name in WAYS if name != "NATS" or not missing]
    samples: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.rounds):
        for name in names:
            measure(name, options.requests, samples)
    head = ("", "latency p50 (us)", "p99 (us)", f"requests/s, {WINDOW} under way", "CPU of the system a request (us)")
    rows = [
        [name, *[cell(samples[name][figure], "{:,.0f}") for figure in ("p50", "p99", "rate", "cpu")]] for name in names
    ]
    print_rows(head, rows)


if __name__ == "__main__":
    main()
