"""A door: a listening socket, and the connections that came in by it."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, deque
from typing import Final, Protocol

import gevent

from raiden.access.rates import Rates
from raiden.connections import tcp
from raiden.connections.connection import RECEIVE_BYTES, Connection, Feedable
from raiden.connections.states import CLOSING
from raiden.connections.wheel import TICK, Wheel
from raiden.model.refusals import Refusal, TooFast, Unavailable
from raiden.runtime import audit, descriptors, faults
from raiden.runtime.service import Service
from raiden.runtime.stats import Stats

log = logging.getLogger(__name__)

ACCEPT_AT_ONCE: Final = 64
# Seconds after which a turn of the event loop is long; seconds of each turn for the connections in the line.
LONG: Final = 0.01
SLICE: Final = 0.005
# Connections that are read from before the clock is looked at again.
UNSEEN: Final = 16
# Bytes that are read at once from a connection in the line, or in a long turn.
PORTION: Final = 2048

# Bytes that the kernel takes besides those under way to the peer. Bytes in outboxes are shared by all their
# connections. The kernel copies what it takes for each, and for hundreds of peers that don't read at all it would copy
# 2 MB each.
UNSENT: Final = 128 << 10


class DoorLimits(Protocol):
    """The bounds of a door's connections; they are read anew for each, so that a reload may change them."""

    max_connections: int
    max_connections_per_address: int
    max_outbox: int
    keepalive: float


class Watcher(Protocol):
    """A listener to clients that come and go: connections that last for longer than a request."""

    def came(self, connection: Connection) -> None:
        """Hear that a connection has become a client's."""

    def left(self, connection: Connection) -> None:
        """Hear that a connection ends, which may not have been a client's."""


class Door(Service):
    """A server of the clients that come in at ``listener``, which is listening already. A subclass gives the protocol
    of its clients (`protocol`), and what happens to a connection (`opened`, `readable`, `due`, `refuse`).

    **The line.** In one turn the event loop serves all connections that have sent something, and 64 KiB of the smallest
    requests take milliseconds. Where hundreds send that, every other client would wait for all of them, in each of the
    turns that a request takes. So once a turn is long, a connection is read from in portions, and a connection that may
    have sent more stands in a line. The first in the line are read from in each of the next turns, for `SLICE` seconds.
    New connections stand in another line before that one. A connection that sends little never stands in either
    again."""

    def __init__(
        self, listener: socket.socket, limits: DoorLimits, stats: Stats, transport: str, rates: Rates
    ) -> None:  # fmt: skip
        super().__init__()
        self.stats = stats
        self.rates = rates
        self.connections: set[Connection] = set()
        self.draining = False
        self.watcher: Watcher | None = None
        self._bounds = limits
        self._transport = transport
        self._addresses: Counter[str] = Counter()
        self._listener = listener
        self._said_full = 0.0
        self.wheel = Wheel()
        loop = gevent.get_hub().loop
        self._turn_began = loop.now
        self._new: deque[Connection] = deque()
        self._line: deque[Connection] = deque()
        self._next_turn = loop.timer(0)
        self._in_line = False  # the lines are being served
        self._reads = 0
        # Bytes to read from a connection at once.
        self.portion = RECEIVE_BYTES
        # Whether the connection that was read from last may have more.
        self.much = False
        self._accepting = loop.io(listener.fileno(), 1)
        self._ticking = loop.timer(TICK, repeat=TICK)

    def protocol(self, remote: str) -> Feedable:
        """Make the protocol of a client at this address."""
        raise NotImplementedError

    def opened(self, connection: Connection) -> None:
        """Take a client that has come in."""
        raise NotImplementedError

    def readable(self, connection: Connection) -> None:
        """Read from a connection, which may have something to receive."""
        raise NotImplementedError

    def due(self, connection: Connection) -> None:
        """Act on a connection whose scheduled time has passed."""
        raise NotImplementedError

    def refuse(self, sock: socket.socket, refusal: Refusal) -> None:
        """Tell a client why it is not let in; its socket is closed after this."""

    def wire(self, sock: socket.socket) -> socket.socket:
        """Return the socket of a connection that was accepted: itself, or one that has it below."""
        return sock

    def is_proxy(self, address: str) -> bool:
        """Whether connections from this address are those of many clients."""
        return False

    def comes_from(self, connection: Connection, address: str) -> bool:
        """Let a connection be that of a client at this address, as its proxy has told before all else. Returns False
        where that client may have no other one, or not yet."""
        self._forget(connection.remote)
        connection.remote = connection.address = address
        self._addresses[address] += 1
        if self.is_proxy(address):
            return True
        fits = self._addresses[address] <= self._bounds.max_connections_per_address
        return fits and self.too_fast(address) is None

    def _forget(self, address: str) -> None:
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def bound_silence(self) -> None:
        """Cut off clients that come in from now on when nothing is heard of them for about 2 x `keepalive` seconds."""
        tcp.bound_silence(self._listener, self._bounds.keepalive)

    def do_start(self) -> None:
        self._listener.setblocking(False)
        self.bound_silence()
        tcp.bound_unsent(self._listener, UNSENT)
        self._accepting.start(self._accept)
        self._ticking.start(self._tick)

    def do_stop(self) -> None:
        for watcher in (self._accepting, self._ticking, self._next_turn):
            watcher.stop()
            watcher.close()
        for connection in list(self.connections):
            self.close(connection)
        self._listener.close()

    def shut(self) -> None:
        """Let in the clients that are waiting, and then nobody any more: the kernel refuses later ones at once. (A
        client that comes between the last look and the end of the socket is reset, unless net.ipv4.tcp_migrate_req
        hands it to another socket of the same port.)"""
        self.draining = True
        while self._accept():
            pass
        self._accepting.stop()
        self._listener.close()

    def close(self, connection: Connection) -> None:
        """End a connection now, with its session."""
        if connection.closed:
            return
        if self.watcher is not None:
            self.watcher.left(connection)
        if connection.session is not None:
            connection.session.close()
        connection.close()
        self.wheel.forget(connection)
        self.connections.discard(connection)
        self._forget(connection.remote)

    def _accept(self) -> bool:
        """Let in some of the waiting clients; return whether there may be more."""
        end = descriptors.end_for_clients()
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                self._pause(str(error))
                return False
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            remote = str(address[0])
            limits = self._bounds
            refusal = self._refusal(sock, remote, end)
            if refusal is not None:
                self.stats.refused_connections += 1
                # An answer takes four times as long as to close without one: in a flood others would wait for that.
                if not (isinstance(refusal, TooFast) and self._is_long()):
                    self.refuse(sock, refusal)
                sock.close()
                continue
            connection = Connection(
                self.wire(sock), remote, self.protocol(remote), self._transport, max_outbox=limits.max_outbox,
                stats=self.stats,
            )  # fmt: skip
            self.connections.add(connection)
            self._addresses[remote] += 1
            self.opened(connection)
            connection.start(self._readable)
        return True

    def _refusal(self, sock: socket.socket, remote: str, end: int) -> Refusal | None:
        """The reason why a client is not let in; None: there is none. ``end``: descriptors from here on are not for
        clients."""
        limits = self._bounds
        full = sock.fileno() >= end
        if full:
            self._say_full()
        if (
            full
            or len(self.connections) >= limits.max_connections
            or (self._addresses[remote] >= limits.max_connections_per_address and not self.is_proxy(remote))
        ):
            return Unavailable("too many connections: try again later")
        return None if self.is_proxy(remote) else self.too_fast(remote)

    def too_fast(self, address: str) -> TooFast | None:
        """Count a connection of a client at this address. Returns the refusal, where it comes too fast."""
        if self.rates.on:
            try:
                self.rates.connect(address)
            except TooFast as refusal:
                audit.refused(refusal.status, refusal.detail, action="connect", address=address, door=self._transport)
                return refusal
        return None

    def _say_full(self) -> None:
        now = time.monotonic()
        if now - self._said_full > 1.0:
            self._said_full = now
            log.error("too few descriptors are left, so clients are refused: raise the limit (ulimit -n)")

    def _pause(self, reason: str) -> None:
        """Accept nobody for a moment. Present connections go on; the kernel keeps the clients that wait."""
        log.error("cannot accept a connection", extra={"reason": reason})
        self._accepting.stop()
        gevent.spawn_later(1.0, self._go_on)

    def _go_on(self) -> None:
        if self.state == "running" and not self.draining:
            self._accepting.start(self._accept)

    def leave(self, connection: Connection) -> None:
        """Close a connection whose peer has gone: now, or in a long turn, when it comes first in the line.
        Subscriptions take their time to give back, and hundreds of clients with a hundred each may go at once."""
        if self._in_line or not self._is_long():
            self.close(connection)
        else:
            self.much = True

    def _is_long(self) -> bool:
        return time.time() - self._turn_began() >= LONG

    def _readable(self, connection: Connection) -> None:
        self._reads += 1
        if not self._reads % UNSEEN and self._is_long():
            self._hurry()
        if self.portion == PORTION and not connection.seen:
            self._put_off(connection, self._new)
            return
        self._read(connection)
        if self.much:
            self.much = False
            if self._line or self._is_long():
                self._put_off(connection, self._line)

    def read_packed(self, connection: Connection) -> None:
        """Read from a connection whose messages are packed, each perhaps a thousand times as long as what is read of
        it: in portions, until these have taken long."""
        until, left = time.monotonic() + SLICE, self.portion
        while left > 0 and connection.is_read and connection.state < CLOSING:
            data = connection.unread or connection.read(PORTION)
            if data is None:
                self.leave(connection)
                return
            if not data:
                self.much = getattr(connection.socket, "took", 0) >= PORTION  # TLS, whose records had no bytes for us
                return
            if connection.unread or len(data) > PORTION:  # of TLS, whole records come, though one was read in pieces
                connection.put_back(data[PORTION:])
                data = data[:PORTION]
            connection.session.receive(data)
            left -= PORTION
            if time.monotonic() >= until:
                break
            if len(data) < PORTION:
                return
        self.much = True

    def _put_off(self, connection: Connection, line: deque[Connection]) -> None:
        """Let a connection stand at the end of a line, unless it is not being read from anyway."""
        if connection.is_read and not connection.overflown:
            connection.join_line()
            line.append(connection)
            self._hurry()

    def _hurry(self) -> None:
        """Read in portions, until a later turn is short and finds the lines empty."""
        self.portion = PORTION
        if not self._next_turn.active:
            self._next_turn.start(self._serve_lines)

    def _serve_lines(self) -> None:
        """Read from the first of each line. However many are new, at least one of the other line is served."""
        until = time.monotonic() + SLICE
        self._in_line = True
        while self._new and time.monotonic() < until:
            self._serve_first(self._new)
        while self._line:
            self._serve_first(self._line)
            if time.monotonic() >= until:
                break
        self._in_line = False
        # A connection of the line may have taken long: then no other may in this turn.
        if self._line or self._new or self._is_long():
            self._hurry()
        else:
            self.portion = RECEIVE_BYTES

    def _serve_first(self, line: deque[Connection]) -> None:
        connection = line.popleft()
        connection.leave_line()
        if connection.is_read:
            self._read(connection)
            if self.much:
                self.much = False
                self._put_off(connection, self._line)

    # A fault of ours at one connection ends only that one: its state is not known any more.

    def _read(self, connection: Connection) -> None:
        connection.seen = True
        try:
            self.readable(connection)
        except Exception:  # any exception
            faults.report("reading from a client")
            self.close(connection)

    def _tick(self) -> None:
        for connection in self.wheel.due():
            if connection.in_line and not connection.seen:
                self.wheel.schedule(connection, TICK)  # the bytes that it has sent by now were not looked at
            elif not faults.call("a timer of a client's connection", self.due, connection):
                self.close(connection)
