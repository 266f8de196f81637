"""Clients of channels with history: publishers that send again what was not answered, followers that come back.

`Followers` are served by one thread. Each holds one connection at a time, of a transport and to a node that chance
chooses, for a while that chance chooses, and then comes back from its last cursor on; so it does when the connection
breaks or is refused. What happens is told to an `Offsets`. A `KeyedPublisher` sends each batch under a key of its own,
to one node after the other, until it is acknowledged.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple, Self

import ujson

from raiden.model.message import Cursor
from raiden.model.page import Gap
from tests.cluster.checker import Checker
from tests.cluster.load import ENDING, RETRY, Client, Lines, Node, Refused, at_random, path
from tests.cluster.offsets import Follower, Offsets

TRANSPORTS = ("lines", "events", "socket")
# Seconds that a node may take to answer a subscriber.
PATIENCE = 20.0


class Said(NamedTuple):
    """A message, or a gap where there is no cursor."""

    cursor: Cursor | None
    data: bytes


class Wrapped:
    """Reads wrapped messages of one channel, without decoding what the checker takes as it is."""

    def __init__(self, channel: str) -> None:
        self._prefix = b'{"channel":%b,"data":' % json.dumps(channel, ensure_ascii=False).encode()

    def read(self, line: bytes) -> Iterator[Said]:
        """What is said, where it is more than a position."""
        if line.startswith(self._prefix):
            end = line.rindex(b',"cursor":"')
            yield Said(Cursor.parse(line[end + 11 : -2].decode()), line[len(self._prefix) : end])
        elif not line.startswith(b'{"cursor":'):
            yield Said(None, line)


class LinesOf:
    """The wrapped lines of an HTTP stream."""

    def __init__(self, channel: str) -> None:
        self._lines = Lines()
        self._wrapped = Wrapped(channel)

    def feed(self, data: bytes) -> Iterator[Said]:
        for line in self._lines.feed(data):
            yield from self._wrapped.read(line)


class Events:
    """Server-sent events."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._id: Cursor | None = None

    def feed(self, data: bytes) -> Iterator[Said]:
        for line in self._lines.feed(data):
            field, _, value = line.partition(b": ")
            if field == b"id":
                self._id = Cursor.parse(value.decode())
            elif field == b"event":
                self._id = None  # that was of an event without data, which told a position
            elif field == b"data":
                found, self._id = self._id, None
                yield Said(found, value)


class Frames:
    """The wrapped messages of a WebSocket: whole, unmasked text frames (RFC 6455, section 5.2). Pings are not answered:
    nobody stays for so long."""

    def __init__(self, channel: str) -> None:
        self._rest = b""
        self._wrapped = Wrapped(channel)

    def feed(self, data: bytes) -> Iterator[Said]:
        buffer, at = self._rest + data, 0
        while len(buffer) >= at + 2:
            start, size = at + 2, buffer[at + 1]
            if size >= 126:
                start, width = (at + 4, 2) if size == 126 else (at + 10, 8)
                size = int.from_bytes(buffer[start - width : start])
            if len(buffer) < start + size:
                break
            if buffer[at] == 0x81:
                yield from self._wrapped.read(buffer[start : start + size])
            at = start + size
        self._rest = buffer[at:]


class _Connection:
    """A follower's connection; its answer's head has come when it has a ``body``."""

    def __init__(self, follower: Follower, transport: str, node: str, sock: socket.socket, until: float) -> None:
        self.follower = follower
        self.transport = transport
        self.node = node
        self.sock = sock
        self.since = follower.position
        self.until = until
        self.head = b""
        self.body: LinesOf | Events | Frames | None = None

    def request(self) -> bytes:
        query, fields = "_wrap=1", ""
        since = self.since
        if self.transport == "events":
            query, fields = "", "Accept: text/event-stream\r\n"
            fields += f"Last-Event-ID: {since}\r\n" if since else ""
        elif since:
            query += f"&_since={since}"
        if self.transport == "socket":
            fields += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            fields += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        return f"GET {path(self.follower.channel)}?{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode()

    def feed(self, data: bytes) -> None:
        """Tell the follower what has come; raises `Refused`."""
        if self.body is None:
            self.head += data
            if b"\r\n\r\n" not in self.head:
                return
            data = self._begin()
        assert self.body is not None
        for cursor, said in self.body.feed(data):
            if cursor is not None:
                self.follower.received(cursor, said)
            else:
                missing = ujson.loads(said)["missing"]
                self.follower.missed(Gap(**missing) if missing else None)

    def _begin(self) -> bytes:
        head, _, rest = self.head.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if int(status.split()[1]) != (101 if self.transport == "socket" else 200):
            raise Refused(int(status.split()[1]), rest)
        channel = self.follower.channel
        if self.transport == "events":
            self.body = Events()
        else:
            self.body = (LinesOf if self.transport == "lines" else Frames)(channel)
        if "raiden-cursor" not in fields:
            raise Refused(503, rest)  # an event stream that ends at once, so that a browser comes back
        told = fields.get("raiden-recovered")
        recovered = None if told is None else told == "true"
        self.follower.begins(self.since, Cursor.parse(fields["raiden-cursor"]), recovered, self.node)
        return rest


class Followers:
    """Followers of these channels, ``each`` of every channel, on whichever of ``nodes`` there are at the time. They
    stay for ``stay`` seconds, at the least and at the most."""

    def __init__(
        self, offsets: Offsets, nodes: Iterable[Node], channels: Sequence[str], *, each: int = 1,
        stay: tuple[float, float] = (0.5, 8.0), seed: int = 1,
    ) -> None:  # fmt: skip
        self.followers = [offsets.follower(channel) for channel in channels for _ in range(each)]
        # How often each transport was begun with, and why connections ended that should not have.
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.error: Exception | None = None
        self._nodes = nodes
        self._stay = stay
        self._random = random.Random(seed)
        self._staying = threading.Event()
        self._connections: dict[int, _Connection] = {}
        self._attached: set[Follower] = set()
        self._due: list[tuple[float, int, Follower]] = [(0.0, n, each) for n, each in enumerate(self.followers)]
        self._poller = select.epoll()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC)
        self._poller.register(self._closing, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="followers", daemon=True)

    def attached(self) -> int:
        """How many are subscribed."""
        return len(self._attached)

    def stay(self) -> None:
        """From now on, nobody leaves by itself."""
        self._staying.set()

    def behind(self) -> list[Follower]:
        """Those that something acknowledged has not come to, or that are not subscribed."""
        return [each for each in self.followers if each.is_behind() or each not in self._attached]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._closing, 1)
        self._thread.join(ENDING)
        assert not self._thread.is_alive(), "the followers do not end"
        for connection in self._connections.values():
            connection.sock.close()
        self._poller.close()
        os.close(self._closing)

    def _run(self) -> None:
        try:
            while True:
                for fd, _ in self._poller.poll(0.02):
                    if fd == self._closing:
                        return
                    self._read(self._connections[fd])
                now = time.monotonic()
                for connection in [each for each in self._connections.values() if each.until < now]:
                    if connection.body is None:
                        self._end(connection, "no answer in time")
                    elif not self._staying.is_set():
                        self._end(connection)
                while self._due and self._due[0][0] < now:
                    self._connect(heapq.heappop(self._due)[2])
        except Exception as error:  # the test's to judge
            self.error = error

    def _connect(self, follower: Follower) -> None:
        nodes = list(self._nodes)
        node, transport = self._random.choice(nodes), self._random.choice(TRANSPORTS)
        try:
            sock = node.connect()
        except OSError as error:
            self.ended[f"{type(error).__name__} for a connection"] += 1
            self._later(follower)
            return
        connection = _Connection(follower, transport, node.name, sock, time.monotonic() + PATIENCE)
        sock.setblocking(False)
        try:
            sock.send(connection.request())  # it fits, for nothing else was sent
        except OSError:
            pass  # reading tells, too
        self._connections[sock.fileno()] = connection
        self._poller.register(sock, select.EPOLLIN)

    def _read(self, connection: _Connection) -> None:
        begun = connection.body is not None
        try:
            data = connection.sock.recv(1 << 18)
            connection.feed(data)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(connection, str(error))
            return
        except Refused as error:
            self._end(connection, f"refused with {error.status}")
            return
        if not data:
            self._end(connection, "the end of the stream")
        elif not begun and connection.body is not None:
            self.begun[connection.transport] += 1
            self._attached.add(connection.follower)
            connection.until = time.monotonic() + self._random.uniform(*self._stay)

    def _end(self, connection: _Connection, why: str | None = None) -> None:
        if why is not None:
            self.ended[why] += 1
        self._poller.unregister(connection.sock)
        del self._connections[connection.sock.fileno()]
        connection.sock.close()
        self._attached.discard(connection.follower)
        self._later(connection.follower)

    def _later(self, follower: Follower) -> None:
        due = time.monotonic() + self._random.uniform(RETRY, 10 * RETRY)
        heapq.heappush(self._due, (due, id(follower), follower))


class KeyedPublisher(Client):
    """Publishes ``total`` messages, ``batch`` of them a request and ``rate`` a second, each batch until it is
    acknowledged: what was refused with 503, or not answered, is sent again under the same key, at whichever node."""

    _serial = itertools.count(1)

    def __init__(
        self, checker: Checker, nodes: Iterable[Node], channels: Sequence[str], *, total: int, batch: int = 50,
        rate: float | None = None, seed: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(f"k{next(self._serial)}", rate)
        self.acknowledged = 0
        self.error: Exception | None = None
        # How often it was told to try later, got no answer, and could not connect.
        self.unavailable = 0
        self.unanswered = 0
        self.unconnected = 0
        self._publication = checker.publisher(self.name, "any")
        self._nodes = nodes
        self._channels = at_random(channels, seed)
        self._total = total
        self._batch = batch
        self._random = random.Random(seed)
        self._connection: HTTPConnection | None = None

    def run(self) -> None:
        started = time.monotonic()
        try:
            for number in itertools.count():
                self._pace(started, self.acknowledged)
                count = min(self._batch, self._total - self.acknowledged)
                if not count or self._stopping.is_set():
                    break
                batch = self._publication.send(next(self._channels), count)
                body = "\n".join(batch.payloads).encode()
                while (cursors := self._publish(batch.channel, body, f"{self.name}-{number}")) is None:
                    if self._stopping.wait(RETRY):
                        return
                batch.acknowledged(cursors)
                self.acknowledged += count
        except (Refused, ValueError, KeyError) as error:
            self.error = error
        finally:
            self._close()

    def _publish(self, channel: str, body: bytes, key: str) -> list[str] | None:
        """The cursors; None: it is to be tried again."""
        try:
            if self._connection is None:
                self._connect()
        except OSError:
            self.unconnected += 1
            return None
        assert self._connection is not None
        try:
            fields = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key}
            self._connection.request("POST", path(channel), body, fields)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException):
            self.unanswered += 1
            self._close()
            return None
        if response.status == 503:
            self.unavailable += 1
            self._close()
            return None
        if response.status != 200:
            raise Refused(response.status, answer)
        cursors: list[str] = ujson.loads(answer)["cursors"]
        return cursors

    def _connect(self) -> None:
        node = self._random.choice(list(self._nodes))
        connection = HTTPConnection("localhost")
        connection.auto_open = 0  # only the node knows how to connect
        connection.sock = node.connect()
        # The head and the body of a request are sent one after the other.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
