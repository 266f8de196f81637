"""Connections and their deadlines: what has ended is let go of."""

from __future__ import annotations

import gc
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import gevent
import pytest

from raiden.connection import RECEIVE_BYTES, Connection, Feedable, Wheel
from raiden.door import PORTION, SLICE, Door
from raiden.stats import Stats


class Deaf:
    """A protocol that understands nothing."""

    def feed(self, data: bytes) -> Iterator[object]:
        return iter(())

    def forget(self) -> None:
        pass


@contextmanager
def pair(stats: Stats, **bounds: int) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the socket of its peer, whose window is small."""
    with socket.socket() as peer, socket.create_server(("127.0.0.1", 0)) as server:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(server.getsockname())
        sock, _ = server.accept()
        sock.setblocking(False)
        connection = Connection(sock, "", Deaf(), "http", stats=stats, **bounds)
        yield connection, peer
        connection.close()


class Hall(Door):
    """A door whose connections are due late, then soon, as those are that are asked to leave."""

    def protocol(self, remote: str) -> Feedable:
        return Deaf()

    def opened(self, connection: Connection) -> None:
        self._wheel.schedule(connection, 75.0)
        self._wheel.schedule(connection, 30.0)

    def readable(self, connection: Connection) -> None:
        for _ in connection.receive():
            self.close(connection)

    def due(self, connection: Connection) -> None:
        raise AssertionError("none is due")


@pytest.fixture
def hall() -> Iterator[Hall]:
    limits = SimpleNamespace(max_connections=10, max_connections_per_address=10, max_outbox=1000, keepalive=25.0)
    hall = Hall(socket.create_server(("127.0.0.1", 0)), limits, Stats(), "http")
    hall.start()
    yield hall
    hall.stop()


@pytest.fixture
def without_gc() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_connection_that_has_ended_is_let_go_of(hall: Hall, without_gc: None) -> None:
    with socket.create_connection(hall._listener.getsockname()):
        with gevent.Timeout(5):
            while not hall.connections:
                gevent.sleep(0.001)
        (connection,) = hall.connections
        known = weakref.ref(connection)
        del connection
    with gevent.Timeout(5):
        while hall.connections:
            gevent.sleep(0.001)
    assert known() is None


def test_a_deadline_may_be_told_anew() -> None:
    wheel, stats = Wheel(), Stats()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours, "", Deaf(), "http", max_outbox=1000, stats=stats)
        for seconds in (75.0, 0.0, 0.3):
            wheel.schedule(connection, seconds)
        due: list[Connection] = []
        with gevent.Timeout(5):
            while not due:
                gevent.sleep(0.05)
                due = list(wheel.due())
        assert due == [connection]
        connection.close()


# What waits for the peer.

PIECE = b"x" * 12_000_000


def take(peer: socket.socket, size: int, pause: float = 0.001) -> None:
    """Receive so many bytes, some at a time."""
    peer.settimeout(0)
    while size:
        try:
            size -= len(peer.recv(1 << 20))
        except BlockingIOError:
            gevent.sleep(pause)


def test_what_comes_behind_a_large_piece_has_the_same_room() -> None:
    with pair(Stats(), max_outbox=1000) as (connection, _):
        connection.send(PIECE)
        for _ in range(10):
            connection.send(b"y" * 100)
        assert connection.outbox_size > 1_000_000 and not connection.overflown
        connection.send(b"y")
        assert connection.overflown


def test_a_large_piece_may_come_behind_others_once() -> None:
    with pair(Stats(), max_outbox=10_000_000) as (connection, _):
        connection.send(PIECE)  # some of it goes at once: this is no large piece any more
        connection.send(PIECE)
        assert connection.outbox_size > 12_000_000 and not connection.overflown
        connection.send(PIECE)
        assert connection.overflown


def test_who_may_miss_something_misses_nothing_behind_a_large_piece_that_has_room() -> None:
    with pair(Stats(), max_outbox=1000) as (connection, _):
        dropped: list[bytes] = []
        connection.drop = dropped.append
        connection.send(PIECE)
        connection.send(b"y" * 1000)
        assert not dropped
        connection.send(b"z")
        assert dropped == [b"z"] and not connection.overflown


def test_the_room_is_as_before_once_a_large_piece_is_sent() -> None:
    with pair(Stats(), max_outbox=1000) as (connection, peer):
        connection.send(PIECE)
        with gevent.Timeout(20):
            take(peer, len(PIECE))
        with gevent.Timeout(5):
            while connection.outbox_size:
                gevent.sleep(0.001)
        while not connection.outbox_size:  # until the kernel takes no more
            connection.send(b"x" * 1000)
        while not connection.overflown:
            assert connection.outbox_size <= 1000
            connection.send(b"x" * 100)


def test_patience_is_for_a_peer_that_takes_something() -> None:
    with pair(Stats(), max_outbox=1000) as (connection, peer):
        connection.send(PIECE)
        assert not connection.wait_until_sent(0.2), "it takes nothing"
        reader = gevent.spawn(take, peer, len(PIECE), 0.003)
        with gevent.Timeout(60):
            assert connection.wait_until_sent(1.0), "it takes some all the time, and all of it in more than a second"
            reader.join()


def test_something_moves_while_it_is_taken() -> None:
    with pair(Stats(), max_outbox=1000) as (connection, peer):
        assert not connection.is_moving(), "nothing is under way"
        connection.send(PIECE)
        with gevent.Timeout(5):
            while connection.is_moving():  # until the peer's window is full
                gevent.sleep(0.05)
        peer.recv(65536)
        with gevent.Timeout(5):
            while not connection.is_moving():
                peer.recv(65536)
                gevent.sleep(0.05)


def test_a_long_turn_reads_in_small_portions(hall: Hall) -> None:
    """A turn of the event loop that has taken its time gives the others theirs; the next one begins anew."""
    gevent.sleep(0)
    while time.time() - gevent.get_hub().loop.now() < SLICE:
        pass
    assert hall.portion() == PORTION
    with pair(Stats(), max_outbox=1000) as (connection, peer):
        peer.sendall(b"." * 3 * PORTION)
        assert connection.read(hall.portion()) == b"." * PORTION
    found = set()
    for _ in range(50):  # this process may have to wait for the processor
        gevent.sleep(0.001)
        found.add(hall.portion())
    assert RECEIVE_BYTES in found


def test_who_goes_in_a_long_turn_is_closed_in_one_of_the_next(hall: Hall) -> None:
    """One in each, whatever else there is to do."""
    with pair(Stats(), max_outbox=1000) as (one, _), pair(Stats(), max_outbox=1000) as (two, _):
        gevent.sleep(0)
        while time.time() - gevent.get_hub().loop.now() < SLICE:
            pass
        hall._addresses[""] = 2
        hall.leave(one)
        hall.leave(two)
        assert one.closed and not two.closed
        gevent.sleep(0.001)
        hall.leave(two)
        assert two.closed
