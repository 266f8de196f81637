"""What the protocols of other servers cost beside Raiden's own WebSocket: the CPU of a worker for a delivery, its
memory for an idle connection, and its CPU for connections that are only pinged.

    python benchmarks/dialects.py --subscribers 1000 --messages 2000 --rounds 5
    python benchmarks/dialects.py --size 1000 --kinds centrifuge centrifuge-delta
    python benchmarks/dialects.py --idle 5000
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import selectors
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.daemons import Daemon, memory, wait_for

CHANNEL = "board"
CABLE = json.dumps({"channel": "$pubsub", "stream_name": CHANNEL})
SETTINGS: dict[str, Any] = {
    "dialects": ["cable", "centrifuge", "pusher"], "cable_public": True,
    "pusher_apps": [{"id": "1", "key": "key", "secret": "secret"}], "centrifuge_anonymous": True, "max_outbox": 1 << 26,
    "store": "none", "drain_window": 0, "drain_timeout": 1,
}  # fmt: skip


class Kind(NamedTuple):
    """A kind of subscriber: the path that it connects to, its subprotocol, the commands that it sends, and a part of
    the last thing that it hears before it is subscribed."""

    path: str
    subprotocol: str
    commands: list[dict[str, Any]]
    heard: bytes


KINDS = {
    "pusher": Kind(
        "/app/key?protocol=7", "", [{"event": "pusher:subscribe", "data": {"channel": CHANNEL}}], b"succeeded"
    ),
    "websocket": Kind(f"/{CHANNEL}", "", [], b"101"),
    "multiplex": Kind("/-/websocket", "", [{"id": 1, "cmd": "subscribe", "channel": CHANNEL}], b'"id":1'),
    "cable": Kind("/cable", "actioncable-v1-json", [{"command": "subscribe", "identifier": CABLE}], b"confirm"),
    "cable-ext": Kind("/cable", "actioncable-v1-ext-json", [{"command": "subscribe", "identifier": CABLE}], b"confirm"),
    "centrifuge": Kind(
        "/connection/websocket", "",
        [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": CHANNEL}}], b'"subscribe"',
    ),
    "centrifuge-delta": Kind(
        "/connection/websocket", "",
        [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": CHANNEL, "delta": "fossil"}}], b'"subscribe"',
    ),
}  # fmt: skip


def seconds_of(node: Daemon) -> float:
    """The CPU that the worker has taken, by the scheduler's own count, which is in nanoseconds."""
    return int(Path(f"/proc/{node.workers()['worker 0']}/schedstat").read_text().split()[0]) / 1e9


def frame(*values: Any) -> bytes:
    """A client's text frame of JSON values, a line each, masked with zeros (RFC 6455 section 5.3)."""
    data = "\n".join(map(json.dumps, values)).encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0x80 | 126, len(data))
    return b"\x81" + size + bytes(4) + data


def subscribe(node: Daemon, kind: Kind) -> socket.socket:
    sock = node.connect()
    key = base64.b64encode(os.urandom(16)).decode()
    offered = f"Sec-WebSocket-Protocol: {kind.subprotocol}\r\n" if kind.subprotocol else ""
    sock.sendall(
        f"GET {kind.path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offered}\r\n".encode()
        + (frame(*kind.commands) if kind.commands else b"")
    )
    answer = b""
    while kind.heard not in answer:
        more = sock.recv(65536)
        assert more, answer
        answer += more
    return sock


class Readers:
    """Reads what many sockets get."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._selector = selectors.DefaultSelector()
        self._count = len(sockets)
        self.bytes = 0
        for sock in sockets:
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def read(self, last: bytes) -> None:
        """Read until each has got the last message."""
        left = self._count
        while left:
            for key, _ in self._selector.select(60):
                data = key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
                assert data, "a subscriber was closed"
                self.bytes += len(data)
                left -= data.count(last)

    def longest_silence(self, seconds: float) -> float:
        """The longest of these seconds for which one of them got nothing."""
        end = time.monotonic() + seconds
        heard = dict.fromkeys([key.fd for key in self._selector.get_map().values()], time.monotonic())
        longest = 0.0
        while time.monotonic() < end:
            for key, _ in self._selector.select(1):
                key.fileobj.recv(65536)  # type: ignore[union-attr]
                now = time.monotonic()
                longest, heard[key.fd] = max(longest, now - heard[key.fd]), now
        return max(longest, *[time.monotonic() - last for last in heard.values()])


def word(number: int) -> str:
    """A word for a message that has no letter in common with that of the message before: it is in each delta."""
    return f"{number:06d}".translate({} if number % 2 else {48 + digit: 97 + digit for digit in range(10)})


def delivery(node: Daemon, kind: Kind, subscribers: int, messages: int, size: int) -> tuple[float, float]:
    """Microseconds of CPU and bytes for a delivery; each message is one of its own, and has a text of ``size``."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(subscribe(node, kind)) for _ in range(subscribers)]
        readers = Readers(sockets)
        text = ("text " * size)[:size]
        node.publish(CHANNEL, {"n": word(0), "text": text})
        readers.read(word(0).encode())
        before, came = seconds_of(node), readers.bytes
        for number in range(1, messages + 1):
            node.publish(CHANNEL, {"n": word(number), "text": text})
            readers.read(word(number).encode())
        took, count = seconds_of(node) - before, subscribers * messages
    wait_for(lambda: node.json(f"/-/channels/{CHANNEL}")["subscribers"] == 0, "all have left")
    return 1e6 * took / count, (readers.bytes - came) / count


def idle(start: Callable[[], Daemon], kind: Kind, count: int) -> tuple[float, float, float]:
    """Bytes of an idle connection, the part of a processor that all take, and the longest silence in seconds."""
    node = start()
    with ExitStack() as stack:
        stack.callback(node.stop)
        for sock in [subscribe(node, kind) for _ in range(100)]:
            sock.close()
        pid = node.workers()["worker 0"]
        before = memory(pid)
        sockets = [stack.enter_context(subscribe(node, kind)) for _ in range(count)]
        took, seconds, began = seconds_of(node), 15.0, time.monotonic()
        silence = Readers(sockets).longest_silence(seconds)
        share = (seconds_of(node) - took) / (time.monotonic() - began)
        return (memory(pid) - before) / count, share, silence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=80, help="bytes of each message's text")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--idle", type=int, default=0, help="measure so many idle connections instead")
    parser.add_argument("--root", type=Path, default=None, help="the checkout, or the folder of a wheel, that runs")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as folder:

        def start() -> Daemon:
            place = Path(tempfile.mkdtemp(dir=folder))
            # Readers of deliveries answer no pings.
            settings = {**SETTINGS, **({} if asked.idle else {"keepalive": 3600})}
            return Daemon(place, **settings) if asked.root is None else Daemon(place, root=asked.root, **settings)

        if asked.idle:
            for name in asked.kinds:
                size, share, silence = idle(start, KINDS[name], asked.idle)
                print(f"{name:>16}: {size:6.0f} bytes each, {100 * share:5.2f} % CPU, longest silence {silence:.2f} s")
            return
        node = start()
        found: dict[str, list[float]] = {name: [] for name in asked.kinds}
        sizes: dict[str, float] = {}
        try:
            for _ in range(asked.rounds):
                for name in asked.kinds:
                    took, sizes[name] = delivery(node, KINDS[name], asked.subscribers, asked.messages, asked.size)
                    found[name].append(took)
        finally:
            node.stop()
        own = statistics.median(found.get("websocket", found[asked.kinds[0]]))
        for name, each in found.items():
            middle = statistics.median(each)
            print(
                f"{name:>16}: {middle:.2f} us a delivery ({min(each):.2f} to {max(each):.2f}), {middle / own:.2f} "
                f"times, {sizes[name]:.0f} bytes"
            )


if __name__ == "__main__":
    main()
