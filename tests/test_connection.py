"""Connections and their deadlines: what has ended is let go of."""

from __future__ import annotations

import gc
import socket
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import gevent
import pytest

from raiden.access.rates import Rates
from raiden.connections.connection import RECEIVE_BYTES, Connection, Feedable
from raiden.connections.door import LONG, PORTION, SLICE, Door
from raiden.connections.wheel import TICK, Wheel
from raiden.runtime.stats import Stats


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
        self.wheel.schedule(connection, 75.0)
        self.wheel.schedule(connection, 30.0)

    def readable(self, connection: Connection) -> None:
        for _ in connection.receive():
            self.close(connection)

    def due(self, connection: Connection) -> None:
        raise AssertionError("none is due")


Kind = TypeVar("Kind", bound="Hall")


@contextmanager
def running(kind: type[Kind]) -> Iterator[Kind]:
    """A door that is open."""
    limits = SimpleNamespace(max_connections=100, max_connections_per_address=100, max_outbox=1000, keepalive=25.0)
    door = kind(socket.create_server(("127.0.0.1", 0)), limits, Stats(), "http", Rates())
    door.start()
    yield door
    door.stop()


@pytest.fixture
def hall() -> Iterator[Hall]:
    with running(Hall) as door:
        yield door


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


def test_what_is_sent_in_one_go_is_large_whatever_its_pieces_are() -> None:
    with pair(Stats(), max_outbox=1000) as (connection, peer):
        connection.pending += [b"x" * 40_000] * 300
        connection.flush()
        assert connection.outbox_size > 1_000_000 and not connection.overflown
        for _ in range(10):
            connection.send(b"y" * 100)
        assert not connection.overflown
        with gevent.Timeout(20):
            take(peer, 12_001_000)
            while connection.outbox_size:
                gevent.sleep(0.001)
        while not connection.outbox_size:  # until the kernel takes no more
            connection.send(b"x" * 1000)
        assert not connection.has_room(1000)


def test_who_may_miss_something_misses_the_pieces_that_have_no_room() -> None:
    with pair(Stats(), max_outbox=100_000) as (connection, _):
        dropped: list[bytes] = []
        connection.drop = dropped.append
        connection.send(PIECE)
        connection.pending += [b"x" * 60_000, b"y" * 60_000, b"z" * 30_000]
        connection.flush()
        assert dropped == [b"y" * 60_000]


def test_a_slow_consumer_gets_nothing_that_comes_behind_what_was_given_up() -> None:
    """Else it would go on behind what it misses, and not know."""
    with pair(Stats(), max_outbox=1000) as (connection, peer):
        connection.send(PIECE)
        connection.send(b"y" * 1001)
        assert connection.overflown
        connection.pending.append(b"z")
        connection.finish(b"bye")
        got = b""
        peer.settimeout(0)
        with gevent.Timeout(20):
            while not got.endswith(b"bye"):
                try:
                    got = got[-9:] + peer.recv(1 << 20)
                except BlockingIOError:
                    gevent.sleep(0.001)
        assert got.strip(b"x") == b"bye"


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


class Busy:
    """What a connection becomes; to end it takes as long as those in the line have of a turn."""

    def close(self) -> None:
        spend(SLICE)


class Crowded(Hall):
    """A door to which each read takes its time. It notes from whom it read, and how much, and who went."""

    takes = SLICE

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.noted: list[tuple[str, int]] = []
        self.dued: list[Connection] = []

    def opened(self, connection: Connection) -> None:
        connection.session = Busy()

    def due(self, connection: Connection) -> None:
        self.dued.append(connection)

    def readable(self, connection: Connection) -> None:
        who = str(connection.socket.getpeername()[1])
        data = connection.read(self.portion)
        if data is None:
            self.leave(connection)
            if connection.closed:
                self.noted.append((who, 0))
            return
        self.much = len(data) >= PORTION
        self.noted.append((who, len(data)))
        spend(self.takes)


def spend(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.fixture
def crowded() -> Iterator[Crowded]:
    with running(Crowded) as door:
        yield door


def come(door: Door, stack: ExitStack, count: int) -> list[socket.socket]:
    """So many clients, who have been read from once."""
    socks = [stack.enter_context(socket.create_connection(door._listener.getsockname())) for _ in range(count)]
    for sock in socks:
        sock.sendall(b".")
    with gevent.Timeout(20):
        while not (len(door.connections) == count and all(connection.seen for connection in door.connections)):
            gevent.sleep(0.01)
    return socks


def name_of(sock: socket.socket) -> str:
    return str(sock.getsockname()[1])


MANY = 30


def test_who_sends_little_does_not_wait_for_those_who_send_much(crowded: Crowded) -> None:
    """A turn of the event loop reads 64 KiB of a few, then portions, and from then on one in the line."""
    with ExitStack() as stack:
        *many, one = come(crowded, stack, MANY + 1)
        crowded.noted.clear()
        for sock in many:
            sock.sendall(b"." * 16 * PORTION)
        with gevent.Timeout(20):
            while len({who for who, _ in crowded.noted}) < MANY:
                gevent.sleep(0)
        assert {size for _, size in crowded.noted} <= {16 * PORTION, PORTION}
        assert PORTION in {size for _, size in crowded.noted}
        seen = len(crowded.noted)
        one.sendall(b".")
        with gevent.Timeout(20):
            while (name_of(one), 1) not in crowded.noted:
                gevent.sleep(0)
        assert crowded.noted.index((name_of(one), 1)) - seen <= 4, "a few turns, and one in each"


def test_those_who_send_much_are_read_from_in_turns(crowded: Crowded) -> None:
    with ExitStack() as stack:
        many = come(crowded, stack, MANY)
        crowded.noted.clear()
        for sock in many:
            sock.sendall(b"." * 8 * PORTION)
        with gevent.Timeout(20):
            while sum(size for _, size in crowded.noted) < MANY * 8 * PORTION:
                gevent.sleep(0)
            while crowded._line or crowded.portion != RECEIVE_BYTES:  # until it goes on as it was
                gevent.sleep(0)
        portions = [who for who, size in crowded.noted if size == PORTION]
        counts = Counter[str]()
        for who in portions:
            counts[who] += 1
            assert counts[who] - min(counts[each] for each in set(portions)) <= 2, "nobody is overtaken twice"


def test_after_a_long_turn_all_is_as_before(crowded: Crowded) -> None:
    with ExitStack() as stack:
        come(crowded, stack, 1)
        (connection,) = crowded.connections
        crowded.takes = 2 * LONG
        crowded.noted.clear()
        crowded._put_off(connection, crowded._line)
        with gevent.Timeout(20):
            while not crowded.noted or crowded.portion != RECEIVE_BYTES:
                gevent.sleep(0)


def test_who_is_known_does_not_wait_for_those_who_come_in(crowded: Crowded) -> None:
    with ExitStack() as stack:
        (one,) = come(crowded, stack, 1)
        many = [stack.enter_context(socket.create_connection(crowded._listener.getsockname())) for _ in range(MANY)]
        with gevent.Timeout(20):
            while len(crowded.connections) < MANY + 1:
                gevent.sleep(0)
        crowded.noted.clear()
        for sock in (one, *many):  # libev looks at what came first last
            sock.sendall(b".")
        with gevent.Timeout(20):
            while len(crowded.noted) < MANY + 1:
                gevent.sleep(0)
        assert crowded.noted.index((name_of(one), 1)) < MANY - 5


def test_who_sends_does_not_wait_for_those_who_leave(crowded: Crowded) -> None:
    with ExitStack() as stack:
        *many, one = come(crowded, stack, MANY + 1)
        crowded.noted.clear()
        one.sendall(b".")  # libev looks at what came first last
        for sock in many:
            sock.close()
        with gevent.Timeout(20):
            while len(crowded.noted) < MANY + 1:
                gevent.sleep(0)
        assert len(crowded.connections) == 1
        # The clock is looked at after each of them, so few go in a turn before it is long.
        assert crowded.noted.index((name_of(one), 1)) < MANY // 2


def test_who_stands_in_the_line_stands_in_it_once(crowded: Crowded) -> None:
    """Whoever serves a connection may pause it and let it go on at any time: then that holds, in its turn."""
    with ExitStack() as stack:
        many = come(crowded, stack, MANY)
        crowded.noted.clear()
        for sock in many:
            sock.sendall(b"." * 16 * PORTION)
        with gevent.Timeout(20):
            while not crowded._line:
                gevent.sleep(0)
            while crowded._line:
                for connection in crowded.connections:
                    connection.pause()
                    connection.resume()
                gevent.sleep(0)
                assert max(Counter(map(id, crowded._line)).values(), default=1) == 1
            while sum(size for _, size in crowded.noted) < MANY * 16 * PORTION:
                gevent.sleep(0)


def test_who_is_paused_in_the_line_is_not_read_from(crowded: Crowded) -> None:
    with ExitStack() as stack:
        many = come(crowded, stack, MANY)
        for sock in many:
            sock.sendall(b"." * 16 * PORTION)
        with gevent.Timeout(20):
            while not crowded._line:
                gevent.sleep(0)
            first = crowded._line[-1]
            who = str(first.socket.getpeername()[1])
            first.pause()
            crowded.noted.clear()
            while crowded._line:
                gevent.sleep(0)
            assert who not in [name for name, _ in crowded.noted]
            first.resume()
            while who not in [name for name, _ in crowded.noted]:
                gevent.sleep(0)


def test_the_time_of_who_comes_in_begins_when_it_is_read_from(crowded: Crowded) -> None:
    with ExitStack() as stack:
        come(crowded, stack, 1)
        (connection,) = crowded.connections
        connection.seen = False
        crowded._put_off(connection, crowded._new)
        crowded.wheel.schedule(connection, 0.0)
        until = time.monotonic() + 3 * TICK
        while time.monotonic() < until:  # it is still in the line when the time has passed
            pass
        crowded._tick()
        assert connection.in_line and crowded.dued == []
        with gevent.Timeout(20):
            while not crowded.dued:
                gevent.sleep(0.01)
