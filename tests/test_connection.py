"""Connections and their deadlines: what has ended is let go of."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import gevent
import pytest

from raiden.connection import Connection, Feedable, Wheel
from raiden.door import Door
from raiden.stats import Stats


class Deaf:
    """A protocol that understands nothing."""

    def feed(self, data: bytes) -> Iterator[object]:
        return iter(())

    def forget(self) -> None:
        pass


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
