"""A door: a listening socket, and the connections that came in by it."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from typing import Protocol

import gevent

from raiden import descriptors, faults, tcp
from raiden.connection import RECEIVE_BYTES, TICK, Connection, Feedable, Wheel
from raiden.service import Service
from raiden.stats import Stats

log = logging.getLogger(__name__)

ACCEPT_AT_ONCE = 64
# Seconds of a turn of the event loop after which each connection is read from in smaller portions, of so many bytes.
SLICE, PORTION = 0.01, 512


class DoorLimits(Protocol):
    """What bounds a door's connections; read anew for each, so that a reload may change it."""

    max_connections: int
    max_connections_per_address: int
    max_outbox: int
    keepalive: float


class Door(Service):
    """Serves who comes in at ``listener``, which is listening already. A subclass says what its clients speak
    (`protocol`), and what happens to a connection (`opened`, `readable`, `due`, `refuse`)."""

    def __init__(self, listener: socket.socket, limits: DoorLimits, stats: Stats, transport: str) -> None:
        super().__init__()
        self.stats = stats
        self.connections: set[Connection] = set()
        self.draining = False
        self._bounds = limits
        self._transport = transport
        self._addresses: Counter[str] = Counter()
        self._listener = listener
        self._said_full = 0.0
        self._wheel = Wheel()
        loop = gevent.get_hub().loop
        self._turn_began = loop.now
        # The turn that was long already when a connection was last closed in it.
        self._long_turn = 0.0
        self._accepting = loop.io(listener.fileno(), 1)
        self._ticking = loop.timer(TICK, repeat=TICK)

    def protocol(self, remote: str) -> Feedable:
        """What a client at this address speaks."""
        raise NotImplementedError

    def opened(self, connection: Connection) -> None:
        """A client has come in."""
        raise NotImplementedError

    def readable(self, connection: Connection) -> None:
        """The connection may have something to receive."""
        raise NotImplementedError

    def due(self, connection: Connection) -> None:
        """The time that was scheduled for the connection has passed."""
        raise NotImplementedError

    def refuse(self, sock: socket.socket) -> None:
        """There are too many connections for this one; it is closed after this."""

    def bound_silence(self) -> None:
        """Who comes in from now on is cut off when nothing is heard of it for about 2 x `keepalive` seconds."""
        tcp.bound_silence(self._listener, self._bounds.keepalive)

    def do_start(self) -> None:
        self._listener.setblocking(False)
        self.bound_silence()
        self._accepting.start(self._accept)
        self._ticking.start(self._tick)

    def do_stop(self) -> None:
        for watcher in (self._accepting, self._ticking):
            watcher.stop()
            watcher.close()
        for connection in list(self.connections):
            self.close(connection)
        self._listener.close()

    def shut(self) -> None:
        """Let in who is waiting, and then nobody any more: who comes now is refused by the kernel at once. (Who has
        come between the last look and the end of the socket is reset, unless net.ipv4.tcp_migrate_req hands it to
        another socket of the same port.)"""
        self.draining = True
        while self._accept():
            pass
        self._accepting.stop()
        self._listener.close()

    def close(self, connection: Connection) -> None:
        """End a connection now, with what it has become."""
        if connection.closed:
            return
        if connection.session is not None:
            connection.session.close()
        connection.close()
        self._wheel.forget(connection)
        self.connections.discard(connection)
        self._addresses[connection.remote] -= 1
        if not self._addresses[connection.remote]:
            del self._addresses[connection.remote]

    def _accept(self) -> bool:
        """Let in some of those who wait; whether there may be more."""
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
            full = sock.fileno() >= end
            if full:
                self._say_full()
            if (
                full
                or len(self.connections) >= limits.max_connections
                or self._addresses[remote] >= limits.max_connections_per_address
            ):
                self.stats.refused_connections += 1
                self.refuse(sock)
                sock.close()
                continue
            connection = Connection(
                sock, remote, self.protocol(remote), self._transport, max_outbox=limits.max_outbox, stats=self.stats
            )  # fmt: skip
            self.connections.add(connection)
            self._addresses[remote] += 1
            self.opened(connection)
            connection.start(self._readable)
        return True

    def _say_full(self) -> None:
        now = time.monotonic()
        if now - self._said_full > 1.0:
            self._said_full = now
            log.error("too few descriptors are left, so clients are refused: raise the limit (ulimit -n)")

    def _pause(self, reason: str) -> None:
        """Accept nobody for a moment: those that are in go on; the kernel keeps who waits."""
        log.error("cannot accept a connection", extra={"reason": reason})
        self._accepting.stop()
        gevent.spawn_later(1.0, self._go_on)

    def _go_on(self) -> None:
        if self.state == "running" and not self.draining:
            self._accepting.start(self._accept)

    def portion(self) -> int:
        """How many bytes to read from a connection now. In one turn the event loop serves all connections that have
        sent something, and 64 KiB of the smallest things there are take milliseconds. So where hundreds send that, the
        others would wait for seconds."""
        return RECEIVE_BYTES if time.time() - self._turn_began() < SLICE else PORTION

    def leave(self, connection: Connection) -> None:
        """Close a connection whose peer has gone: now, or if the turn is long already, in one of the next, when it is
        reported again. One is closed in each turn, so all will be. Subscriptions take their time to give back, and when
        hundreds of clients with a hundred each go at once, the others would wait for a second."""
        began = self._turn_began()
        if time.time() - began >= SLICE:
            if self._long_turn == began:
                return
            self._long_turn = began
        self.close(connection)

    # A fault of ours at one connection ends that one, and no other: what state it is in is not known any more.

    def _readable(self, connection: Connection) -> None:
        try:
            self.readable(connection)
        except Exception:  # whatever it is
            faults.report("reading from a client")
            self.close(connection)

    def _tick(self) -> None:
        for connection in self._wheel.due():
            if not faults.call("a timer of a client's connection", self.due, connection):
                self.close(connection)
