"""The room that rows of names take in the embedded store's file, and the time that it counts by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from raiden.history.clock import Clock as Steady
from raiden.history.clock import steady
from raiden.history.share import COUNT_EVERY, Share
from raiden.history.sqlite import Sqlite
from raiden.history.store import Append, Store, StoreFailed
from raiden.history.streams import CROWDED, Add, Make, Producer
from raiden.model.message import Cursor, Kind
from tests.daemons import wait_for
from tests.stores import Clock, append, payloads

SIZE = 1 << 20
HOUR, DAY = 3600.0, 86400.0
NEW = "new" * 80


@pytest.fixture
def small(tmp_path: Path, clock: Clock) -> Iterator[Sqlite]:
    """A store that may take a megabyte."""
    store = Sqlite(tmp_path / "history.sqlite", SIZE, clock=clock)
    yield store
    store.close()


def fill_with_channels(store: Store) -> int:
    """Make channels, each with a message that lives for a second, until there is no room for more."""
    number = 0
    while True:
        name = f"{number:06}" + "n" * 40
        if store.refused([name]):
            with pytest.raises(StoreFailed, match="too many channels"):
                append(store, name, b"1")
            return number
        append(store, name, b"1", ttl=1)
        number += 1


def tidied(store: Store) -> None:
    while store.tidy(1000):
        pass


def has_room(store: Store) -> bool:
    """Whether there is room for many channels, after the store was tidied."""
    tidied(store)
    return not store.refused([f"{number}{NEW}"[:200] for number in range(100)])


# Room.


def test_channels_leave_room_for_messages(small: Sqlite, tmp_path: Path, clock: Clock) -> None:
    old = append(small, "old", b"1", ttl=HOUR)
    made = fill_with_channels(small)
    assert made > 500
    for _ in range(100):
        append(small, "old", b"x" * 500, ttl=HOUR, size=1000)
    small.check()
    with closing(Sqlite(tmp_path / "history.sqlite", SIZE, clock=clock)) as again:
        assert again.refused([NEW, "old"]).keys() == {NEW}, "after a restart, too"
        again.check()
    clock.pass_by(2)
    tidied(small)
    # Those without messages are forgotten: what comes with their cursors is told of a gap.
    wait_for(lambda: has_room(small), "there is room again")
    assert append(small, NEW, b"1").offsets == range(1, 2)
    # It was opened a second time meanwhile, so another epoch has begun; the history is the same.
    assert append(small, "old", b"2", ttl=HOUR, size=1000).offsets == range(102, 103)
    page = small.after("old", Cursor(old.epoch, 1), 1000)
    assert page.gap is None and len(page.records) == 101
    small.check()


def test_a_channel_with_a_key_is_not_forgotten(small: Sqlite, clock: Clock) -> None:
    """What was published once is not published again within its time, however short the room is."""
    first = append(small, "keyed", b"1", ttl=1, key="k")
    fill_with_channels(small)
    clock.pass_by(2)
    wait_for(lambda: has_room(small), "there is room again")
    again = append(small, "keyed", b"1", ttl=1, key="k")
    assert (again.epoch, again.offsets, again.repeated) == (first.epoch, first.offsets, True)


def test_durables_are_bounded(small: Sqlite) -> None:
    append(small, "a", b"1")
    small.claim("a", "mine", 0, 30)
    with pytest.raises(StoreFailed, match="too many durable"):
        for number in range(10_000):
            small.claim("b", f"{number}" + "d" * 100, 0, 30)
    append(small, "a", b"2")
    assert len(small.claim("a", "mine", 10, 30).records) == 1
    small.check()


def test_claims_are_bounded(small: Sqlite, clock: Clock) -> None:
    small.append([Append("a", [(0, b"")] * 500, 1000)])
    taken = 0
    with pytest.raises(StoreFailed, match="handed out"):
        for number in range(100):
            taken += len(small.claim("a", f"d{number}", 500, 30, Cursor("0", 0)).records)
    assert taken >= 500
    append(small, "a", b"2")
    small.acknowledge("a", "d0", small.positions(["a"])["a"].position.epoch, [(offset, 0) for offset in range(1, 501)])
    wait_for(lambda: small.claim("a", "d0", 1, 30).records, "there is room again")


def test_streams_and_their_producers_are_bounded(small: Sqlite) -> None:
    """One that is refused spoils nothing for others that are appended together with it."""
    terms = Make("text/plain" + "t" * 200)
    text = [(int(Kind.BYTES), b"1")]
    small.append([Append("s", text, terms=terms)])

    def refused(append: Callable[[int], Append]) -> bool:
        for number in range(20_000):
            one, other = small.append([append(number), Append("log", text)])
            assert other.unmet is None
            if one.unmet is not None:
                assert one.unmet.what == CROWDED and one.unmet.refusal().status == 503
                return True
        return False

    def producer(number: int) -> Append:
        return Append("s", text, terms=Add(terms.content_type, Producer(f"{number}" + "p" * 200, 0, 0)))

    assert refused(producer)
    (again,) = small.append([Append("s", text, terms=Add(terms.content_type, Producer("0" + "p" * 200, 0, 1)))])
    assert again.unmet is None, "a producer that is known goes on"
    assert refused(lambda number: Append(f"{number}", [], terms=terms))
    small.check()


def test_kept_values_are_bounded(small: Sqlite, clock: Clock) -> None:
    append(small, "a", b"1")
    with pytest.raises(StoreFailed, match="kept for sessions"):
        for number in range(1000):
            small.keep(f"session {number}", b"x" * 5000, 60, "me")
    for number in range(20):
        small.keep("session 0", b"x" * (5000 - number), 60, "me")  # in place of itself
    assert small.take("session 1", "you") == (b"x" * 5000, "me")
    append(small, "a", b"2")
    small.check()
    clock.pass_by(61)
    tidied(small)
    wait_for(lambda: kept(small), "there is room again")


def kept(store: Store) -> bool:
    try:
        store.keep("new", b"x" * 5000, 60, "me")
    except StoreFailed:
        return False
    return True


def test_a_share_is_counted_again_now_and_then() -> None:
    used = 0
    counts: list[float] = []

    def count() -> int:
        counts.append(time.monotonic())
        return used

    share = Share(100, count, "full")
    share.take(100)
    with pytest.raises(StoreFailed, match="full"):
        share.take(1)
    wait_for(lambda: share.has_room(1), "it is counted again")
    assert len(counts) == 2 and counts[1] - counts[0] >= COUNT_EVERY
    assert Share(0, count, "full").has_room(1 << 60), "without a bound"


# Time.


def test_claims_hold_as_long_as_they_should_whatever_the_wall_clock_does(sqlite_store: Sqlite, clock: Clock) -> None:
    append(sqlite_store, "a", b"1")
    sqlite_store.claim("a", "d", 1, 30, Cursor("0", 0))
    clock.pass_by(-HOUR)
    assert not sqlite_store.claim("a", "d", 1, 30).records
    clock.pass_by(31)
    [(record, attempt)] = sqlite_store.claim("a", "d", 1, 30).records
    assert (record.payload, attempt) == (b"1", 2)


def test_messages_grow_old_while_the_wall_clock_is_set_back(sqlite_store: Sqlite, clock: Clock) -> None:
    append(sqlite_store, "a", b"1", ttl=100)
    clock.pass_by(-DAY)
    assert payloads(sqlite_store.after("a", None, 9)) == [b"1"]
    clock.pass_by(101)
    assert payloads(sqlite_store.after("a", None, 9)) == []


def test_time_does_not_go_back_over_a_restart(tmp_path: Path, clock: Clock) -> None:
    clock.pass_by(DAY)
    with closing(Sqlite(tmp_path / "history", clock=clock)) as store:
        append(store, "a", b"1", ttl=100)
        store.claim("a", "d", 1, 30, Cursor("0", 0))
    clock.pass_by(-DAY)
    with closing(Sqlite(tmp_path / "history", clock=clock)) as store:
        assert not store.claim("a", "d", 1, 30).records
        clock.pass_by(31)
        assert len(store.claim("a", "d", 1, 30).records) == 1
        clock.pass_by(100)
        assert payloads(store.after("a", None, 9)) == []


def test_the_wall_clock_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day forward: what has passed is what counts."""
    clock = steady()
    before = time.time_ns() // 1000
    assert abs(clock() - before) < 10_000_000
    now = clock()
    monkeypatch.setattr(time, "time_ns", lambda: (before + int(DAY * 1_000_000)) * 1000)
    assert clock() - now < 10_000_000


def test_a_clock_never_goes_back() -> None:
    told = iter([10, 20, 5, 6, 100, 7])
    clock = Steady(lambda: next(told))
    assert [clock() for _ in range(6)] == [10, 20, 20, 21, 115, 115]
    clock = Steady(lambda: 3)
    clock.go_on_from(50)
    assert clock() == 50


def test_a_file_from_before_the_store_kept_its_time(tmp_path: Path, clock: Clock) -> None:
    with closing(Sqlite(tmp_path / "history", clock=clock)) as store:
        append(store, "a", b"1")
        store._db.execute("DROP TABLE clock")
    with closing(Sqlite(tmp_path / "history", clock=clock)) as store:
        assert payloads(store.after("a", None, 9)) == [b"1"]
        append(store, "a", b"2")
