"""The search for what the backbone lost, with a history that answers what the test says, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import gevent
import pytest

from raiden.backend import Backend
from raiden.delivery.orders import Orders, Repaired
from raiden.delivery.table import Table
from raiden.history.store import StoreFailed
from raiden.model.message import Cursor, Kind, Message
from raiden.model.page import Gap, Page, Record, Stand


class Answers:
    """A backend whose history has these offsets of each channel's epoch, each published at the time that is its number;
    ``meanwhile`` happens between a question and its answer, and ``since`` says when patterns were subscribed to."""

    def __init__(self) -> None:
        self.history = self
        self.channels: dict[str, tuple[str, list[int]]] = {}
        self.meanwhile: list[Callable[[], object]] = []
        self.failures = 0
        self.asked = 0
        self.time = 0
        self.table = Table(max_channels=1000, max_bytes=10_000)
        self.since(0)

    def since(self, time: int) -> None:
        """The one pattern that there is was subscribed to then (the table tells microseconds)."""
        pattern = self.table.find("*") or self.table.add("*", rounds=0)
        pattern.since = time

    def keeps(self, channel: str) -> bool:
        return channel != "none"

    def positions(self, names: Sequence[str]) -> dict[str, Stand]:
        return self._answer({
            name: Stand(Cursor(epoch, offsets[-1]))
            for name, (epoch, offsets) in self.channels.items() if name in names
        })  # fmt: skip

    def open(self, names: Sequence[str]) -> dict[str, Stand]:
        return self.positions(names)

    def after(self, name: str, cursor: Cursor | None, limit: int) -> Page:
        epoch, offsets = self.channels.get(name, ("", []))
        begin = cursor.offset if cursor and cursor.epoch == epoch else 0
        records = [Record(offset, Kind.JSON, b"%d" % offset, offset) for offset in offsets if offset > begin]
        if not epoch:
            return self._answer(Page())
        return self._answer(Page(records[:limit], epoch, Cursor(epoch, offsets[-1]), more=len(records) > limit))

    def before_each(self, places: Sequence[tuple[str, Cursor]], limit: int) -> list[Page]:
        pages = []
        for name, place in places:
            epoch, offsets = self.channels[name]
            found = [Record(offset, Kind.JSON, b"%d" % offset, offset) for offset in offsets if offset < place.offset]
            pages.append(Page(found[-limit:], epoch, Cursor(epoch, offsets[-1])))
        return self._answer(pages)

    def now(self) -> int:
        return self._answer(self.time)

    def _answer(self, answer: Any) -> Any:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise StoreFailed("away")
        for happen in self.meanwhile:
            happen()
        self.meanwhile.clear()
        return answer


@pytest.fixture
def backend() -> Answers:
    return Answers()


@pytest.fixture
def orders(backend: Answers) -> Orders:
    return Orders(cast(Backend, backend), backend.table, gap_time=0.0, check_every=0.1, limit=3)


def message(offset: int, epoch: str = "e", channel: str = "a") -> Message:
    return Message(channel, Kind.JSON, b"%d" % offset, Cursor(epoch, offset), 7)


def take(orders: Orders, *offsets: int, epoch: str = "e", channel: str = "a") -> list[int]:
    taken = [orders.take(channel.encode(), message(offset, epoch, channel)) for offset in offsets]
    return [int(each.payload) for messages in taken for each in messages]


def opened(orders: Orders, *names: str) -> None:
    for name in names:
        orders.carry(name)
    assert not any(repaired.messages for repaired in orders.open(names))


def told(repaired: Repaired) -> tuple[bytes, Gap | None, list[int]]:
    return repaired.channel, repaired.gap, [int(each.payload) for each in repaired.messages]


def until(repairs: Iterator[Repaired], messages: int) -> list[tuple[bytes, Gap | None, list[int]]]:
    """The repairs that say something, up to so many messages."""
    found: list[tuple[bytes, Gap | None, list[int]]] = []
    while sum(len(each[2]) for each in found) < messages:
        repaired = told(next(repairs))
        found += [repaired] if repaired[1] or repaired[2] else []
    return found


def test_a_gap_is_filled(backend: Answers, orders: Orders) -> None:
    opened(orders, "a")
    backend.channels["a"] = ("e", [1, 2, 3])
    assert take(orders, 3) == []
    assert until(orders.repairs(), 3) == [(b"a", None, [1, 2, 3])]


def test_a_lost_last_message_is_found(backend: Answers, orders: Orders) -> None:
    backend.channels["a"] = ("e", [1, 2])
    opened(orders, "a")
    backend.channels["a"] = ("e", [1, 2, 3, 4])
    assert until(orders.repairs(), 2) == [(b"a", None, [3, 4])]


def test_what_is_missing_is_asked_for_until_the_history_answers(backend: Answers, orders: Orders) -> None:
    opened(orders, "a")
    backend.channels["a"] = ("e", [1, 2])
    take(orders, 2)
    backend.failures = 1
    assert until(orders.repairs(), 2) == [(b"a", None, [1, 2])]
    assert backend.asked >= 2


def test_more_than_a_page(backend: Answers, orders: Orders) -> None:
    opened(orders, "a")
    backend.channels["a"] = ("e", list(range(1, 2001)))
    take(orders, 2000)
    found = until(orders.repairs(), 2000)
    assert [offset for _, gap, offsets in found for offset in offsets if not gap] == list(range(1, 2001))


def test_a_gap_that_cannot_be_filled(backend: Answers, orders: Orders) -> None:
    opened(orders, "a")
    backend.channels["a"] = ("e", [4, 5])
    take(orders, 5)
    assert until(orders.repairs(), 2) == [(b"a", Gap("e", 1, 3), [4, 5])]


def test_what_comes_while_the_page_is_read(backend: Answers, orders: Orders) -> None:
    opened(orders, "a")
    backend.channels["a"] = ("e", [1, 2, 3])
    take(orders, 3)
    early: list[int] = []
    backend.meanwhile.append(lambda: early.extend(take(orders, 1, 4)))
    assert until(orders.repairs(), 3) == [(b"a", None, [2, 3, 4])]
    assert early == [1]


def test_a_page_of_a_channel_that_was_deleted_meanwhile(backend: Answers, orders: Orders) -> None:
    """What is read of the old history is not delivered as the new one's."""
    backend.channels["a"] = ("e", [1, 2, 3])
    opened(orders, "a")
    backend.channels["a"] = ("e", [1, 2, 3, 4, 5])
    take(orders, 5)

    def delete() -> None:
        orders.ended(b"a", "e")
        backend.channels["a"] = ("f", [1, 2])

    backend.meanwhile.append(delete)
    assert until(orders.repairs(), 2) == [(b"a", None, [1, 2])]
    assert orders.position("a") == Cursor("f", 2)


def test_a_history_that_begins_while_positions_are_compared(backend: Answers, orders: Orders) -> None:
    """Its first message is not delivered again."""
    opened(orders, "a")

    def begin() -> None:
        backend.channels["a"] = ("e", [1, 2])
        assert take(orders, 1) == [1]

    backend.meanwhile.append(begin)
    assert until(orders.repairs(), 1) == [(b"a", None, [2])]


def test_a_history_that_is_forgotten(backend: Answers, orders: Orders) -> None:
    backend.channels["a"] = ("e", [1])
    opened(orders, "a")
    del backend.channels["a"]

    def begin_anew() -> None:
        backend.channels["b"] = ("e", [1])

    opened(orders, "b")
    backend.meanwhile.append(begin_anew)
    assert until(orders.repairs(), 1) == [(b"b", None, [1])]
    assert take(orders, 1, 2, epoch="f") == [1, 2]


def test_channels_that_only_a_pattern_brings(backend: Answers, orders: Orders) -> None:
    assert take(orders, 1, 2, 2) == [1, 2]
    assert take(orders, 9, channel="none") == [9]
    assert len(orders) == 1 and orders.position("a") == Cursor("e", 2) and not backend.asked


@pytest.mark.parametrize(("since", "asked"), [(9, 1), (8, 3), (7, 3), (1, 3)])
def test_a_pattern_brings_what_was_published_since_it_is_there(
    backend: Answers, orders: Orders, since: int, asked: int
) -> None:
    """Though something later overtook it."""
    backend.channels["a"] = ("e", list(range(1, 11)))
    backend.since(since)
    assert take(orders, 9, 10) == []
    found = until(orders.repairs(), 11 - since)
    assert [offset for _, gap, offsets in found for offset in offsets if not gap] == list(range(since, 11))
    assert backend.asked == asked


def test_a_pattern_is_told_the_time_of_the_history(backend: Answers, orders: Orders) -> None:
    """Nobody else's says which messages were there before it."""
    backend.channels["a"] = ("e", list(range(1, 11)))
    pattern = backend.table.find("*")
    assert pattern is not None
    orders.follow(pattern)
    assert not orders.are_open(["*"]) and orders.are_open(["a"])
    backend.time = 8
    orders.date()
    backend.time = 9
    orders.date()
    assert orders.are_open(["*"]) and pattern.since == 8
    assert take(orders, 10) == []
    assert [offset for _, _, offsets in until(orders.repairs(), 3) for offset in offsets] == [8, 9, 10]


def test_a_pattern_whose_history_is_away(backend: Answers, orders: Orders) -> None:
    """Its channels begin with what comes."""
    backend.channels["a"] = ("e", list(range(1, 11)))
    pattern = backend.table.find("*")
    assert pattern is not None
    orders.follow(pattern)
    backend.failures = 1
    orders.date()
    assert orders.are_open(["*"])
    assert take(orders, 9) == []
    assert until(orders.repairs(), 1) == [(b"a", None, [9])]


def test_the_orders_that_patterns_bring_are_bounded(orders: Orders) -> None:
    for channel in ("a", "b", "c", "d"):
        assert take(orders, 1, channel=channel) == [1]
    assert len(orders) == 3
    orders.drop(b"b")
    assert orders.position("b") is None
    assert take(orders, 1, channel="e") == [1] and orders.position("e") == Cursor("e", 1)


def test_an_order_that_nobody_opens_any_more(backend: Answers, orders: Orders) -> None:
    """It begins with what has come, or with what comes; one that is open goes on."""
    backend.since(7)
    backend.channels["a"] = backend.channels["b"] = ("e", [6, 7, 8])
    orders.carry("a")
    assert take(orders, 8, 7) == []
    orders.forsake(b"a")
    assert until(orders.repairs(), 2) == [(b"a", None, [7, 8])]
    orders.forsake(b"a")
    assert take(orders, 9, 11, 10) == [9, 10, 11]
    orders.carry("b")
    orders.forsake(b"b")
    assert take(orders, 7, channel="b") == []
    assert until(orders.repairs(), 1) == [(b"b", None, [7])]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_channel_of_a_pattern_whose_history_is_away(backend: Answers, orders: Orders, failures: int) -> None:
    """It begins with what came, and goes on."""
    backend.channels["a"] = ("e", [6, 7, 8])
    assert take(orders, 7) == []
    backend.failures = failures
    assert until(orders.repairs(), 1)[0] == (b"a", None, [7])
    assert take(orders, 8) == [8]


def test_a_channel_of_a_pattern_that_is_deleted_meanwhile(backend: Answers, orders: Orders) -> None:
    backend.channels["a"] = ("e", [6, 7])
    assert take(orders, 7) == []

    def delete() -> None:
        orders.ended(b"a", "e")
        backend.channels["a"] = ("f", [1])

    backend.meanwhile.append(delete)
    assert until(orders.repairs(), 1) == [(b"a", None, [1])]
    assert take(orders, 1, 2, epoch="f") == [2]


def test_what_was_published_while_no_pattern_was_there_is_not_delivered(backend: Answers, orders: Orders) -> None:
    """Though the order of before is dropped a little later than its pattern leaves."""
    backend.channels["a"] = ("e", [1, 2, 3, 4, 5])
    assert take(orders, 1, 2) == [1, 2]
    orders.leave(backend.table.remove("*"))
    backend.since(4)
    assert take(orders, 5) == []
    assert until(orders.repairs(), 2) == [(b"a", None, [4, 5])]
    orders.leave(backend.table.remove("*"))
    backend.channels["a"] = ("e", [1, 2, 3, 4, 5, 6, 7])
    backend.table.add("a", rounds=0)
    opened(orders, "a")
    assert orders.position("a") == Cursor("e", 7)


def test_orders_go_when_patterns_leave(backend: Answers, orders: Orders) -> None:
    sweep = gevent.spawn(orders.sweep)
    for channel in ("a", "b", "c"):
        assert take(orders, 1, channel=channel) == [1]
    for pattern in ("b*", "c"):
        backend.table.add(pattern, rounds=0)
    orders.carry("c")
    orders.leave(backend.table.remove("*"))
    with gevent.Timeout(10):
        while len(orders) > 2:
            gevent.sleep(0)
    assert orders.position("a") is None and orders.position("c") == Cursor("e", 1)
    assert take(orders, 2, channel="b") == [2] and take(orders, 2, channel="c") == [2]
    sweep.kill()
