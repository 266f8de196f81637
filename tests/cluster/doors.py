"""Clients of the ZeroMQ doors: publishers that repeat a request that was not answered, and a subscriber that asks the
history for what it missed.

libzmq connects from threads of its context, so a context is of the host that it was made on (`context_on`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import ujson
import zmq

from raiden.model.message import EARLIEST, Cursor
from raiden.model.page import Gap
from tests.cluster.checker import Checker
from tests.cluster.load import RETRY, Client, Refused, at_random
from tests.cluster.network import Host
from tests.cluster.offsets import Follower, Offsets

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

IN_FORCE = b"-/in-force/"
# Seconds until a request is repeated; what a test waits at most for a frame that must come.
PATIENCE, TIMEOUT = 1.0, 20.0
# Messages of history that are asked for at once.
PAGE = 1000


class Identity(NamedTuple):
    """The keys of a client, and the doors' public one."""

    public: bytes
    secret: bytes
    server: bytes


@contextmanager
def context_on(host: Host) -> Iterator[Context]:
    """A context whose sockets are the host's, whoever uses them; threads that do must have ended before it does."""
    with host.inside():
        context = zmq.Context()
        context.socket(zmq.PAIR).close()  # its threads start with its first socket
    try:
        yield context
    finally:
        context.destroy(linger=0)


def connect(context: Context, kind: int, *endpoints: str, identity: Identity | None = None) -> Socket:
    """A socket that connects, and connects again at once; it waits for as long as a test would, and no longer."""
    sock = context.socket(kind)
    sock.linger = 0
    sock.sndtimeo = sock.rcvtimeo = int(TIMEOUT * 1000)
    sock.sndhwm = sock.rcvhwm = 0
    sock.reconnect_ivl = 20
    sock.reconnect_ivl_max = 200
    if identity:
        sock.curve_publickey, sock.curve_secretkey, sock.curve_serverkey = identity
    for endpoint in endpoints:
        sock.connect(endpoint)
    return sock


def wait_until_in_force(sub: Socket, text: str = "1") -> str:
    """Wait until all that it subscribes to holds, leaving out what else comes; the nodes where it may not."""
    topic = IN_FORCE + text.encode()
    sub.subscribe(topic)
    while True:
        frames = sub.recv_multipart()
        if frames[0] == topic:
            sub.unsubscribe(topic)
            return frames[1].decode()


class Asker:
    """A REQ client that gives a request up when no answer comes in time, and may make the next one then."""

    def __init__(self, context: Context, *endpoints: str, identity: Identity | None = None) -> None:
        self._sock = connect(context, zmq.REQ, *endpoints, identity=identity)
        self._sock.req_relaxed = self._sock.req_correlate = 1

    def ask(self, *frames: bytes, patience: float = PATIENCE) -> list[bytes] | None:
        """The answer's frames behind its status; None: there was none, or it was to try again later."""
        self._sock.send_multipart(frames)
        if not self._sock.poll(int(patience * 1000)):
            return None
        status, *answer = self._sock.recv_multipart()
        if status == b"503":
            return None
        if status[:1] != b"2":
            raise Refused(int(status), b" ".join(answer))
        return answer

    def close(self) -> None:
        self._sock.close()


class AskingPublisher(Client):
    """Publishes ``total`` messages by REQ, one a request and ``rate`` a second, or until it is stopped. A request that
    was not answered, or with 503, is repeated under its key."""

    _serial = itertools.count(1)

    def __init__(
        self, checker: Checker, context: Context, endpoints: Sequence[str], channels: Sequence[str], *,
        total: int = 1_000_000, rate: float | None = None, identity: Identity | None = None,
    ) -> None:  # fmt: skip
        number = next(self._serial)
        super().__init__(f"req{number}", rate)
        self.acknowledged = 0
        self.repeated = 0
        self.error: Exception | None = None
        self._publication = checker.publisher(self.name, "any")
        self._channels = at_random(channels, number)
        self._total = total
        self._asker = Asker(context, *endpoints, identity=identity)

    def run(self) -> None:
        started = time.monotonic()
        try:
            for number in range(self._total):
                self._pace(started, number)
                if self._stopping.is_set():
                    break
                batch = self._publication.send(next(self._channels), 1)
                frames = batch.channel.encode(), batch.payloads[0].encode(), b"", f"{self.name}-{number}".encode()
                while (answer := self._asker.ask(b"publish", *frames)) is None:
                    self.repeated += 1
                    if self._stopping.wait(RETRY):
                        return
                batch.acknowledged([answer[0].decode()])
                self.acknowledged += 1
        except (Refused, zmq.ZMQError) as error:
            self.error = error
        finally:
            self._asker.close()


class LateJoiner(threading.Thread):
    """A SUB client that follows channels without a gap: docs/zeromq.md, 'A late joiner, without a gap'. With several
    ``sub`` endpoints each message comes several times. What happens is told to an `Offsets`."""

    def __init__(
        self, offsets: Offsets, context: Context, channels: Sequence[str], *, sub: Sequence[str], req: Sequence[str],
        identity: Identity | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name="late joiner", daemon=True)
        self.followers = {channel: offsets.follower(channel) for channel in channels}
        # How often its subscriptions were confirmed, what the history brought, and what came a second time.
        self.confirmed = 0
        self.fetched = 0
        self.again = 0
        self.error: Exception | None = None
        self._asker = Asker(context, *req, identity=identity)
        self._sub = connect(context, zmq.SUB, *sub, identity=identity)
        for channel in channels:
            self._sub.subscribe(channel.encode())
        self._sub.subscribe(IN_FORCE + b"1")
        # Channels that may have missed something, each with whether it is about a confirmation.
        self._behind: dict[str, bool] = {}
        self._closing = threading.Event()

    def behind(self) -> list[Follower]:
        """Those that something acknowledged has not come to yet."""
        return [follower for follower in self.followers.values() if follower.is_behind()]

    def __enter__(self) -> LateJoiner:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.join(TIMEOUT)
        assert not self.is_alive(), "the late joiner does not end"

    def run(self) -> None:
        try:
            while not self._closing.is_set():
                if self._sub.poll(10):
                    self._hear()
                for channel, begins in list(self._behind.items()):
                    if self._catch_up(channel, begins):
                        del self._behind[channel]
        except Exception as error:  # the test's to judge
            self.error = error
        finally:
            self._sub.close()
            self._asker.close()

    def _hear(self) -> None:
        for _ in range(1000):
            try:
                topic, payload, place = self._sub.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if topic.startswith(IN_FORCE):
                self.confirmed += 1
                self._behind = dict.fromkeys(self.followers, True)
                return
            channel, cursor = topic.decode(), Cursor.parse(place.decode())
            follower = self.followers[channel]
            position = follower.position
            if position is None:
                continue  # the history has it
            if position.epoch in (cursor.epoch, EARLIEST.epoch) and cursor.offset == position.offset + 1:
                follower.received(cursor, payload)
            elif position.epoch == cursor.epoch and cursor.offset <= position.offset:
                self.again += 1
            else:
                self._behind.setdefault(channel, False)
                return

    def _catch_up(self, channel: str, begins: bool) -> bool:
        """Get from the history what follows the last message; False: it doesn't answer now."""
        follower, more = self.followers[channel], True
        while more and not self._closing.is_set():
            position = follower.position or EARLIEST
            cursor = b"" if position == EARLIEST else str(position).encode()
            answer = self._asker.ask(b"history", channel.encode(), cursor, b"%d" % PAGE)
            if answer is None:
                return False
            summary = ujson.loads(answer[0])
            if begins:
                recovered = None if follower.position is None else "gap" not in summary
                follower.begins(follower.position, position, recovered, "its node")
                begins = False
                if channel in self._behind:
                    self._behind[channel] = False
            if "gap" in summary:
                missing = summary["gap"]["missing"]
                follower.missed(Gap(**missing) if missing else None)
            for place, payload in zip(answer[1::2], answer[2::2], strict=True):
                follower.received(Cursor.parse(place.decode()), payload)
                self.fetched += 1
            more = summary["more"]
        return True
