"""A client's socket: received bytes come up as events, sent bytes go through a bounded outbox.

A connection costs no greenlet: it is a slotted object on a libev watcher. Bytes go straight to the socket. Only those
that the kernel doesn't take wait in the outbox, and a write watcher is armed for as long. Over the bound the connection
is a slow consumer: `receive` says so, and its owner ends it; or, if the connection may miss something (`drop`), the
bytes over the bound are dropped. Bytes that are sent in one go may be more than the bound: they do not count until they
are sent, so the bytes behind them have the same room as always. A deadline for a peer that is being sent something
checks whether that moves, and not only the clock. Nothing here knows the meaning of the bytes: `protocol.feed` turns
them into events.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import gevent
from gevent.event import Event

from raiden.connections import tcp
from raiden.connections.pieces import LARGE, parts
from raiden.connections.states import CLOSED, CLOSING, IDLE
from raiden.runtime.receive import receive
from raiden.runtime.stats import Stats

READ: Final = 1
WRITE: Final = 2
RECEIVE_BYTES: Final = 65536


class Feedable(Protocol):
    """A protocol core: bytes in, events out. `forget` is called when nothing more will be fed, perhaps twice:
    incomplete input may be large, and must not wait for the peer to close, nor for the garbage collector in a cycle."""

    def feed(self, data: bytes) -> Iterator[object]: ...

    def forget(self) -> None: ...


class Gone:
    """The peer has closed its end, or the connection broke."""


class Overflow:
    """The outbox is over its bound: the client is a slow consumer."""


class Connection:
    """The connection of one client. ``max_outbox`` bounds the bytes that wait for the peer, without those that were
    sent in one go and are more than that by themselves: the bytes of a turn, or an answer."""

    __slots__ = (
        "__weakref__", "_acknowledged", "_ahead", "_callback", "_large", "_outbox", "_paused", "_reader", "_sent",
        "_stats", "_writer", "address", "drop", "due", "in_line", "max_outbox", "outbox_size", "overflown", "own_id",
        "pending", "permit", "protocol", "remote", "scheme", "seen", "session", "slot", "socket", "state", "transport",
        "unread",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, remote: str, protocol: Feedable, transport: str, *, max_outbox: int, stats: Stats
    ) -> None:  # fmt: skip
        self.socket = sock
        # The address of the other end; and that of the client, which is another where a trusted proxy is between them.
        self.remote = remote
        self.address = remote
        # The scheme by which the client came, "http" or "https"; None: nobody knows.
        self.scheme: str | None = None
        self.protocol = protocol
        self.session: Any = None
        self.state = IDLE
        # Whether it was read from before.
        self.seen = False
        # Reasons not to read from it: it stands in a line (`raiden.connections.door`), or its session has paused it.
        self.in_line = self._paused = False
        self.unread = b""  # what was put back
        self.pending: list[bytes] = []
        self.overflown = False
        # What its client may do, and until when (`raiden.access.permit`); None: all that anyone may.
        self.permit: Any = None
        # The part of its id that is its own (`raiden.delivery.connection_ids`); b"": nobody has asked for its id.
        self.own_id = b""
        # Called with the bytes that were dropped.
        self.drop: Callable[[bytes], None] | None = None
        self.due = 0
        self.slot = 0
        self.max_outbox = max_outbox
        self.outbox_size = 0
        self.transport = transport
        self._outbox: deque[bytes | memoryview] | None = None
        # Bytes left in the outbox of a piece that was larger than the bound, and bytes that stand before them.
        self._large = 0
        self._ahead = 0
        self._acknowledged = 0
        self._reader = gevent.get_hub().loop.io(sock.fileno(), READ)
        # The callback is kept here because a stopped watcher forgets it.
        self._callback: Callable[[Connection], None] = _nothing
        self._writer: Any = None
        self._sent: Event | None = None
        self._stats = stats
        stats.connections[transport] += 1

    @property
    def closing(self) -> bool:
        return self.state == CLOSING

    @property
    def closed(self) -> bool:
        return self.state == CLOSED

    @property
    def has_gone(self) -> bool:
        """Whether the peer closed its end, even if `receive` did not say so yet. This takes a system call."""
        return self.state == CLOSED or tcp.has_ended(self.socket)

    def start(self, callback: Callable[[Connection], None]) -> None:
        """Call ``callback(connection)`` whenever `receive` may have something."""
        self._callback = callback
        self._reader.start(callback, self)

    def become(self, transport: str) -> None:
        """Count this connection under another transport from now on."""
        self._stats.connections[self.transport] -= 1
        self._stats.connections[transport] += 1
        self.transport = transport

    def pause(self) -> None:
        """Read no more until `resume`: bytes that the peer sends meanwhile wait in the kernel, then in the peer."""
        self._paused = True
        self._stop_reading()

    def resume(self) -> None:
        self._paused = False
        self._read_again()

    def join_line(self) -> None:
        """Read no more until `leave_line`."""
        self.in_line = True
        self._stop_reading()

    def leave_line(self) -> None:
        self.in_line = False
        self._read_again()

    def _stop_reading(self) -> None:
        if not self.overflown:  # to stop the watcher would take back the event that it was fed
            self._reader.stop()

    def _read_again(self) -> None:
        if not (self._paused or self.in_line or self.state == CLOSED or self._reader.active):
            self._reader.start(self._callback, self)
            self.put_back(self.unread)

    def put_back(self, data: bytes) -> None:
        """Keep bytes that were read, for the next who look; these come soon."""
        self.unread = data
        if data and self.is_read:
            self._reader.feed(READ, self._callback, self)

    @property
    def is_read(self) -> bool:
        """Whether it was started, and is neither paused, nor in a line, nor closed."""
        return self.state != CLOSED and bool(self._reader.active)

    def receive(self, most: int = RECEIVE_BYTES) -> Iterable[object]:
        """Return the events of what has come since the last call, at most ``most`` bytes: the protocol's events,
        `Overflow`, and as the last one `Gone`."""
        if self.state == CLOSED:
            return ()
        if self.overflown and self.state != CLOSING:
            return (Overflow,)
        data = self.read(most)
        if data is None:
            return (Gone,)
        return () if self.state == CLOSING or not data else self.protocol.feed(data)

    def read(self, most: int = RECEIVE_BYTES) -> bytes | None:
        """Return the bytes that have come since the last call, at most ``most``; None where the peer has closed its
        end, or the connection broke."""
        try:
            return receive(self.socket, most) or None
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            return None

    def send(self, data: bytes) -> None:
        """Send these bytes, after those that already wait."""
        if self.pending:
            self.pending.append(data)
            self.flush()
        else:
            self._put(data)

    def send_soon(self, data: bytes) -> None:
        """`send`, at the end of this turn of the event loop, in one go with what else is sent so until then."""
        if not self.pending:
            gevent.get_hub().loop.run_callback(self.flush)
        self.pending.append(data)

    def flush(self) -> None:
        """Send the pending bytes in one go: as one piece, or where they are many, in pieces that other connections may
        share. Never raises, never yields to another greenlet."""
        pending = self.pending
        if len(pending) == 1:
            self._put(pending.pop())
        elif pending:
            data = b"".join(pending)
            if len(data) <= LARGE:
                pending.clear()
                self._put(data)
                return
            # A copy of all that waits for each of a thousand slow readers would fill the memory.
            pieces = pending[:]
            pending.clear()
            joined = list(parts(pieces))
            for number, part in enumerate(joined, 1):
                self._put(part, joined[number:])
                if self._outbox:
                    return

    def _put(self, data: bytes, behind: Sequence[bytes] = ()) -> None:
        """Send ``data``; if that is not possible now, it waits, together with the pieces ``behind`` it."""
        # The hot path of all sending: nothing is called but the kernel.
        if self._outbox or self.state >= CLOSING:
            if self.state < CLOSING:
                self._keep(data, behind)
            return
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return  # broken: receive() finds it out
        self._stats.bytes_out += sent
        if sent != len(data):
            self._keep(memoryview(data)[sent:], behind)

    def wait_until_sent(self, patience: float | None = None) -> bool:
        """Wait in the calling greenlet until nothing waits for the peer any more. Returns False where the peer has
        taken nothing for ``patience`` seconds, and where the connection has ended."""
        acknowledged = tcp.acknowledged(self.socket) if self._outbox and self.state != CLOSED else 0
        while self._outbox and self.state != CLOSED:
            if self._sent is None:
                self._sent = Event()
            self._sent.clear()
            if not self._sent.wait(patience):
                before, acknowledged = acknowledged, tcp.acknowledged(self.socket)
                if acknowledged == before:
                    return False
        return self.state < CLOSING

    def is_moving(self) -> bool:
        """Whether bytes are under way to the peer, and the peer has taken some since the last call. This takes a system
        call or two: it is for deadlines, not for each message."""
        if self.state == CLOSED or not (self._outbox or tcp.under_way(self.socket)):
            return False
        before, self._acknowledged = self._acknowledged, tcp.acknowledged(self.socket)
        return self._acknowledged != before

    def end_of_sent(self) -> int:
        """The number of bytes that the peer will have acknowledged when it has got all that was sent so far."""
        return tcp.acknowledged(self.socket) + tcp.under_way(self.socket) + self.outbox_size

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes more may wait for the peer."""
        if not self._outbox:
            return True
        return self.outbox_size - self._large + size <= self.max_outbox

    def overflow(self) -> None:
        """Treat the client as a slow consumer: let `receive` say so."""
        if self.state != CLOSED:
            self.overflown = True
            if not self._reader.active:  # what a stopped one is fed in its own callback is lost behind that
                self._reader.start(self._callback, self)
            self._reader.feed(READ, self._callback, self)

    def finish(self, goodbye: bytes = b"") -> None:
        """Send the bytes that wait and ``goodbye``, then close. For a slow consumer, only the piece that it has begun
        to get is kept."""
        if self.state >= CLOSING:
            return
        if self.overflown and self._outbox:
            first = self._outbox[0]
            self._outbox.clear()
            self.pending.clear()
            if isinstance(first, memoryview):
                self._outbox.append(first)
            self.outbox_size = sum(map(len, self._outbox))
            self._large = 0 if self._ahead else min(self._large, self.outbox_size)
            self._ahead = 0
        self.overflown = False
        self.send(goodbye)
        self.state = CLOSING
        self.protocol.forget()  # nothing more is fed to it, and the peer may take its time to close
        if not self._outbox:
            self._shut()

    def close(self) -> None:
        """Close now."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self._stats.connections[self.transport] -= 1
        self._reader.stop()
        self._reader.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
            self._writer = None
        self.socket.close()
        if self._sent is not None:
            self._sent.set()
        self._outbox = None
        self.outbox_size = self._large = self._ahead = 0
        self.pending.clear()
        # The session and its connection refer to each other: without this they would wait for the garbage collector.
        self.session = self.drop = None
        self.protocol.forget()

    def describe(self) -> str:
        """Describe the connection for a log line."""
        return f"{self.transport} {self.address} outbox={self.outbox_size}"

    def _keep(self, data: bytes | memoryview, behind: Sequence[bytes] = ()) -> None:
        size = len(data) + sum(map(len, behind))
        fits = self.has_room(size)
        if not fits and self.drop is not None:
            if behind:  # some of the pieces may fit
                for piece in (data, *behind):
                    self._keep(piece)
            else:
                self.drop(bytes(data))
            return
        if self._outbox is None:
            self._outbox = deque()
        if size > self.max_outbox and not self._large:
            self._large, self._ahead, fits = size, self.outbox_size, True
        self._outbox.append(data)
        self._outbox.extend(behind)
        self.outbox_size += size
        if self._writer is None:
            self._writer = gevent.get_hub().loop.io(self.socket.fileno(), WRITE)
            self._writer.start(self._drain)
        if not fits and not self.overflown:
            self.overflow()

    def _drain(self) -> None:
        if self.state == CLOSED:
            return
        outbox = self._outbox
        while outbox:
            data = outbox[0]
            try:
                sent = self.socket.send(data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                outbox.clear()
                self.outbox_size = 0
                break
            self._stats.bytes_out += sent
            self.outbox_size -= sent
            self._ahead -= sent
            if self._ahead < 0:
                self._large = max(0, self._large + self._ahead)
                self._ahead = 0
            if sent != len(data):
                outbox[0] = memoryview(data)[sent:]
                break
            outbox.popleft()
        if outbox:
            if self._writer is None:
                self._writer = gevent.get_hub().loop.io(self.socket.fileno(), WRITE)
                self._writer.start(self._drain)
            return
        self._outbox = None
        self._large = self._ahead = 0
        if self._sent is not None:
            self._sent.set()
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
            self._writer = None
        if self.state == CLOSING:
            self._shut()

    def _shut(self) -> None:
        # Half-close and read on until the peer closes too: closing with unread data would reset the connection and
        # might destroy the answer on its way (RFC 9112 section 9.6).
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster


def _nothing(*_: object) -> None:
    """Stand in for a callback that was never set."""
