"""Clients of a cluster, many at once, that tell a `Checker` all they do.

`Subscribers` holds any number of HTTP streams and serves them in one thread; a `Publisher` is a thread that publishes
on one node, batch after batch; a `Churn` is one that subscribes and leaves. What ends them is an event that all their
waiting heeds, and what goes wrong is theirs to remember (`error`, `failures`, a subscription's `ended`) and the test's
to judge: killing a node under them may be what it is about.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Protocol, Self
from urllib.parse import quote

from tests.cluster.checker import Checker, Subscription

# Seconds until what a node has refused is tried again.
RETRY = 0.05
# What a thread may take to end, once it was told to.
ENDING = 60.0

_serial = itertools.count(1)


class Node(Protocol):
    """What can be published on and subscribed to."""

    @property
    def name(self) -> str: ...

    def connect(self) -> socket.socket:
        """A new connection to its HTTP port, with a timeout."""


class Refused(Exception):
    """A node has answered a request with an error."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body.decode(errors='replace')}")
        self.status = status
        self.body = body


class Lines:
    """The lines of a chunked body (RFC 9112, section 7.1), which comes in pieces and whose chunks begin anywhere."""

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""
        self._line = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete by now, without keep-alives. Raises ValueError if this is no chunked body."""
        buffer, at = self._rest + data, 0
        content = [self._line]
        while not self.ended and (size_end := buffer.find(b"\r\n", at)) >= 0:
            start = size_end + 2
            end = start + int(buffer[at:size_end], 16)
            if len(buffer) < end + 2:
                break
            if buffer[end : end + 2] != b"\r\n":
                raise ValueError(f"a chunk that does not end where it should: {buffer[at : end + 2][:100]!r}")
            self.ended = start == end
            content.append(buffer[start:end])
            at = end + 2
        self._rest = buffer[at:]
        *lines, self._line = b"".join(content).split(b"\n")
        return [line for line in lines if line]


class _Stream:
    """A subscription and its connection."""

    __slots__ = ("lines", "sock", "subscription")

    def __init__(self, subscription: Subscription, sock: socket.socket, lines: Lines) -> None:
        self.subscription = subscription
        self.sock = sock
        self.lines = lines


class Subscribers:
    """All subscriptions of a test. Its methods may be called by any thread."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._streams: dict[int, _Stream] = {}
        self._fds: dict[Subscription, int] = {}
        self._poller = select.epoll()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC)
        self._poller.register(self._closing, select.EPOLLIN)
        # Whoever holds it may read from streams, add and remove them.
        self._reading = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="subscribers")
        self._thread.start()

    def add(self, node: Node, channel: str) -> Subscription:
        """Subscribe; it is in force. Raises `Refused`, or OSError where the node can't be reached."""
        sock = node.connect()
        try:
            sock.sendall(f"GET {path(channel)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            body = _head(sock)
            subscription = self._checker.subscription(channel, node.name)
            subscription.in_force()
            lines = Lines()
            for line in lines.feed(body):
                subscription.received(line)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        with self._reading:
            self._streams[sock.fileno()] = _Stream(subscription, sock, lines)
            self._fds[subscription] = sock.fileno()
            self._poller.register(sock, select.EPOLLIN)
        return subscription

    def remove(self, *subscriptions: Subscription, timeout: float = 20.0) -> None:
        """Leave, and close when all that is owed has come or the time is up: what is missing then, is lost."""
        for subscription in subscriptions:
            subscription.leaving()
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while any(s.owed() for s in subscriptions if s in self._fds) and time.monotonic() < deadline:
            pause.wait(0.005)
        with self._reading:
            for subscription in subscriptions:
                if subscription in self._fds:
                    stream = self._streams[self._fds[subscription]]
                    self._read(stream)  # what should not have come either
                    self._drop(stream)

    def owed(self) -> int:
        """How many messages must still come, for all that are subscribed now."""
        return sum(subscription.owed() for subscription in list(self._fds))

    def close(self) -> None:
        """Leave at once, whatever is owed."""
        os.eventfd_write(self._closing, 1)
        self._thread.join()
        for stream in list(self._streams.values()):
            stream.subscription.leaving()
            self._drop(stream)
        self._poller.close()
        os.close(self._closing)

    def __enter__(self) -> Subscribers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            events = self._poller.poll()
            with self._reading:
                for fd, _ in events:
                    if fd == self._closing:
                        return
                    if fd in self._streams:  # else it was removed meanwhile
                        self._read(self._streams[fd])

    def _read(self, stream: _Stream) -> None:
        ended = None
        try:
            data = stream.sock.recv(1 << 18)
            for line in stream.lines.feed(data):
                stream.subscription.received(line)
            if not data or stream.lines.ended:
                ended = "the end of the stream"
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            ended = str(error)
        if ended is not None:
            stream.subscription.leaving(ended)
            self._drop(stream)

    def _drop(self, stream: _Stream) -> None:
        fd = self._fds.pop(stream.subscription, None)
        if fd is not None:
            del self._streams[fd]
            self._poller.unregister(fd)
            stream.sock.close()


def _head(sock: socket.socket) -> bytes:
    """Wait for the head of the answer to a subscription; the beginning of its body, which came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(1 << 16)
        if not more:
            raise ConnectionError(f"the connection was closed before the answer had come: {data!r}")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split(None, 2)[1])
    if status != 200 or b"transfer-encoding: chunked" not in head.lower():
        raise Refused(status, body)
    return body


def path(channel: str) -> str:
    return f"/{quote(channel, safe='')}"


class Client(threading.Thread):
    """A thread that does one thing after the other, ``rate`` of them a second (None: as fast as it can); as a context,
    it is started, and stopped in the end."""

    def __init__(self, name: str, rate: float | None) -> None:
        super().__init__(name=name, daemon=True)
        self._rate = rate
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Finish what is under way, and end."""
        self._stopping.set()
        self.join(ENDING)
        assert not self.is_alive(), f"{self.name} does not end"

    def _pace(self, since: float, done: int) -> None:
        """Wait until the next thing is due."""
        if self._rate is not None:
            self._stopping.wait(max(since + done / self._rate - time.monotonic(), 0))


class Publisher(Client):
    """Publishes ``total`` messages on a node, or until it is stopped: ``batch`` of them a request, on one connection,
    to one channel after the other, or with a ``seed``, at random.

    What is refused with 503 is sent again, as a new batch. Where the connection breaks or can't be made, it ends with
    its ``error``, or being ``persistent``, goes on with a new batch on a new connection. Other answers end it always.
    """

    def __init__(
        self, checker: Checker, node: Node, channels: Sequence[str], *, batch: int = 10, total: int | None = None,
        rate: float | None = None, seed: int | None = None, persistent: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(f"p{next(_serial)}", rate)
        self.node = node
        # Messages, by what became of them.
        self.acknowledged = 0
        self.refused = 0
        self.unanswered = 0
        self.error: Exception | None = None
        self._publication = checker.publisher(self.name, node.name)
        self._channels = itertools.cycle(channels) if seed is None else at_random(channels, seed)
        self._batch = batch
        self._total = total
        self._persistent = persistent

    def run(self) -> None:
        connection = HTTPConnection("localhost")
        connection.auto_open = 0  # only the node knows how to connect
        started = time.monotonic()
        try:
            while self._left() and not self._stopping.is_set():
                self._pace(started, self.acknowledged + self.unanswered)
                try:
                    if connection.sock is None:
                        connection.sock = self.node.connect()
                        # The head and the body of a request are sent one after the other.
                        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._publish(connection)
                except (OSError, HTTPException) as error:
                    connection.close()
                    if not self._persistent:
                        self.error = error
                        return
                    self._stopping.wait(RETRY)
        except Refused as error:
            self.error = error
        finally:
            connection.close()

    def _left(self) -> int:
        return self._batch if self._total is None else self._total - self.acknowledged - self.unanswered

    def _publish(self, connection: HTTPConnection) -> None:
        batch = self._publication.send(next(self._channels), min(self._batch, self._left()))
        count = len(batch.payloads)
        self.unanswered += count
        body = "\n".join(batch.payloads).encode()
        connection.request("POST", path(batch.channel), body, {"Content-Type": "application/x-ndjson"})
        response = connection.getresponse()
        answer = response.read()
        if response.status in (200, 202):
            batch.acknowledged()
            self.unanswered -= count
            self.acknowledged += count
        elif response.status == 503 or response.status < 500:
            batch.refused()
            self.unanswered -= count
            self.refused += count
        if response.status == 503:
            self._stopping.wait(RETRY)
        elif response.status not in (200, 202):
            raise Refused(response.status, answer)


class Churn(Client):
    """Subscribes and leaves at random, until it is stopped; then it leaves what it still has. It has up to ``keep``
    subscriptions at a time. Where it can't subscribe, it counts why, and goes on."""

    def __init__(
        self, subscribers: Subscribers, nodes: Sequence[Node], channels: Sequence[str], *, keep: int = 20,
        rate: float | None = None, seed: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(f"churn{next(_serial)}", rate)
        self.added = 0
        self.failures: Counter[str] = Counter()
        self._subscribers = subscribers
        self._nodes = nodes
        self._channels = channels
        self._keep = keep
        self._random = random.Random(seed)

    def run(self) -> None:
        mine: list[Subscription] = []
        started = time.monotonic()
        for done in itertools.count():
            self._pace(started, done)
            if self._stopping.is_set():
                break
            if self._random.randrange(self._keep) >= len(mine):
                node, channel = self._random.choice(self._nodes), self._random.choice(self._channels)
                try:
                    mine.append(self._subscribers.add(node, channel))
                    self.added += 1
                except (OSError, Refused) as error:
                    self.failures[f"{node.name}: {error}"] += 1
                    self._stopping.wait(RETRY)
            else:
                self._subscribers.remove(mine.pop(self._random.randrange(len(mine))))
        self._subscribers.remove(*mine)


def at_random(channels: Sequence[str], seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    while True:
        yield chance.choice(channels)
