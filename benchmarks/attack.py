"""What attacks on a node are made of: connections, requests, frames, and what each `Attack` tells of itself."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

from benchmarks.bystanders import handshake

MIB = 1 << 20
PATIENCE = 20.0  # seconds for any answer
NAME_BYTES = 255  # the most that a channel's name may have
SUBSCRIPTIONS = 128  # names on a connection, and channels of one publish: max_subscriptions
JSON_TYPE = "Content-Type: application/json"
TEXT = 1  # opcodes of WebSocket frames (RFC 6455 section 5.2)
CONTINUED = 0


class Target(NamedTuple):
    """Where the nodes listen: their HTTP ports, and the addresses of the first one's ZeroMQ doors and backbone."""

    ports: list[int]
    doors: dict[str, str]
    backbone: str


class Attack(ABC):
    """What a node is struck with. `done` counts what was sent and how it was answered, for the report."""

    label: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}  # of the nodes, besides the defaults
    nodes: ClassVar[int] = 1
    descriptors: ClassVar[int | None] = None  # the node's limit
    history_stops: ClassVar[float] = 0.0  # seconds for which the history process stands still meanwhile
    # MB that each of the node's processes takes more than before at most, by the table "What is bounded".
    bounds: ClassVar[Mapping[str, float]] = {}

    def __init__(self, target: Target) -> None:
        self.target = target
        self.done: Counter[str] = Counter()

    def prepare(self) -> None:
        """Make what must be there before; nobody is measured meanwhile."""
        return

    @abstractmethod
    def strike(self, until: float) -> None:
        """Go on until `time.monotonic` is ``until``."""

    # What attacks are made of.

    def connect(self, *, buffer: int | None = None) -> socket.socket:
        """A connection to the first node's HTTP door; ``buffer`` bounds what the kernel keeps of what nobody reads."""
        sock = socket.socket()
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.target.ports[0]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def websocket(self, path: str = "/-/websocket", *fields: str, buffer: int | None = None) -> socket.socket:
        """A WebSocket that is open; frames for it are made by `frame`."""
        sock = self.connect(buffer=buffer)
        sock.sendall(handshake(path, *fields))
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(4096)
            if not data:
                raise ConnectionResetError("the handshake was not answered")
            head += data
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionResetError(f"no WebSocket: {head[:60]!r}")
        return sock

    def count(self, status: int) -> None:
        self.done[str(status)] += 1

    def ask(self, until: float, requests: Iterable[tuple[str, str, bytes, dict[str, str]]], node: int = 0) -> None:
        """Requests one after the other, each when the one before was answered: method, path, body, fields."""
        connection = http.client.HTTPConnection("127.0.0.1", self.target.ports[node], timeout=PATIENCE)
        for method, path, body, fields in requests:
            if time.monotonic() >= until:
                break
            try:
                connection.request(method, path, body, fields)
                answer = connection.getresponse()
                answer.read()
                self.count(answer.status)
            except (OSError, http.client.HTTPException):
                self.done["cut off"] += 1
                connection.close()
        connection.close()

    def at_once(self, works: Sequence[Callable[[], None]]) -> None:
        """Works at the same time, until all are done."""
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def feed(self, until: float, open_one: Callable[[], socket.socket], pieces: Sequence[bytes], limit: int) -> None:
        """Connections, one for each of ``pieces`` and ``limit`` bytes of it sent at a time, as the node takes them;
        nothing is read. When all is sent they are held until the end."""
        left: dict[socket.socket, memoryview] = {}
        with selectors.DefaultSelector() as selector:
            for piece in pieces:
                try:
                    sock = open_one()
                except OSError:
                    self.done["refused"] += 1
                    continue
                sock.setblocking(False)
                left[sock] = memoryview(piece)
                selector.register(sock, selectors.EVENT_WRITE)
            self.done["connections"] = len(left)
            while time.monotonic() < until:
                ready = selector.select(0.1) if selector.get_map() else []
                if not ready:
                    time.sleep(0.05)
                for key, _ in ready:
                    sock = cast(socket.socket, key.fileobj)
                    rest = left[sock]
                    try:
                        sent = sock.send(rest[:limit])
                    except BlockingIOError:
                        continue
                    except OSError:
                        self.done["cut off"] += 1
                        sent = len(rest)
                    self.done["bytes"] += sent
                    left[sock] = rest[sent:]
                    if not left[sock]:
                        selector.unregister(sock)
        for sock in left:
            sock.close()


def request(method: str, path: str, body: bytes, *fields: str) -> bytes:
    head = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *fields, "", "")
    return "\r\n".join(head).encode() + body


def frame(payload: bytes, opcode: int = TEXT, *, last: bool = True, compressed: bool = False) -> bytes:
    """A client's frame (RFC 6455 section 5.2); its mask is zeros, so the payload stays as it is."""
    first = opcode | (0x80 if last else 0) | (0x40 if compressed else 0)
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def command(**members: Any) -> bytes:
    return frame(json.dumps(members).encode())


def long_names(prefix: str, count: int, size: int = NAME_BYTES) -> list[str]:
    """Names with little in common behind their prefix."""
    chance = random.Random(prefix)
    return [f"{prefix}{chance.getrandbits(4 * size):0{size}x}"[:size] for _ in range(count)]


def post(path: str, body: bytes, content_type: str) -> tuple[str, str, bytes, dict[str, str]]:
    return "POST", path, body, {"Content-Type": content_type}


def to_many(names: Iterable[str]) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Publishes to as many channels at a time as one may name."""
    names = iter(names)
    while some := list(itertools.islice(names, SUBSCRIPTIONS)):
        yield post("/-/publish", json.dumps({"channels": some, "data": 1}).encode(), "application/json")
