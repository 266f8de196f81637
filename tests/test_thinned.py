"""Thinned groups: whatever comes when, each subscription gets the newest, and is told of the others."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from raiden.delivery.laggards import MAX_KEPT, MAX_KEPT_BYTES
from raiden.delivery.skipped import Put
from raiden.delivery.thinned import MAX_VALUES, MAX_WAITING, MAX_YOUNG, Room, Thinned, of_past
from raiden.model.filters import Filters
from raiden.model.message import Cursor, Kind, Message
from raiden.model.refusals import Invalid
from raiden.model.thinning import Thinning, of


class Reader:
    """A subscription that began behind the ``begin``th message: the numbers of the messages that it was sent, with the
    times, and of those that it was told of as skipped."""

    def __init__(self, begin: int) -> None:
        self.begin = self.position = begin
        self.behind = False
        self.got: list[tuple[int, float]] = []
        self.told: set[int] = set()


class Group:
    """A thinned group, and what its subscriptions have got. ``values`` are those of the messages, by number."""

    def __init__(self, thinning: Thinning) -> None:
        self.thinning = thinning
        self.thinned: Thinned[Reader, Reader] = Thinned(thinning, lambda reader: reader.behind)
        self.readers: list[Reader] = []
        self.values: list[str] = []
        self.now = 0.0

    def join(self) -> Reader:
        reader = Reader(len(self.values))
        self.readers.append(reader)
        self.thinned.join(reader, reader)
        return reader

    def leave(self, reader: Reader) -> None:
        self.readers.remove(reader)
        self.thinned.leave(reader, reader)

    def publish(self, value: str) -> None:
        self.values.append(value)
        self.put(self.thinned.offer(message(len(self.values), value), self.now))

    def tick(self, *, all_of_them: bool = False) -> None:
        self.put(self.thinned.tick(self.now, all_of_them=all_of_them))

    def of_value(self, number: int) -> set[int]:
        """The messages that it is the newest of."""
        own = self.values[number - 1]
        return {at for at, value in enumerate(self.values, 1) if value == own or not self.thinning.key}

    def put(self, puts: Iterable[Put[Reader, Reader]]) -> None:
        for put in puts:
            number = put.message.cursor.offset if put.message.cursor else 0
            for reader in put.sinks:
                assert reader in self.readers and not (reader.behind and self.thinning.latest)
                skipped = set[int]()
                if put.skipped is not None and put.skipped.first and put.skipped.last:
                    first, last = put.skipped.first.offset, put.skipped.last.offset
                    skipped = {at for at in self.of_value(number) if first <= at <= last}
                    assert len(skipped) == put.skipped.number and max(skipped) < number
                known = {at for at, _ in reader.got} | reader.told
                assert number not in known and not skipped & known, "nothing comes, or is told, twice"
                assert min({number, *skipped}) > reader.begin, "nothing comes from before the beginning"
                reader.got.append((number, self.now))
                reader.told |= skipped
                reader.position = number if put.place is None else put.place.offset

    def check(self) -> None:
        for reader in self.readers:
            place = self.thinned.place(reader)
            missing = set(range(reader.begin + 1, len(self.values) + 1)) - {at for at, _ in reader.got} - reader.told
            expected = max(min(missing) - 1, reader.begin) if missing else len(self.values)
            found = len(self.values) if place is None else place.offset
            # With a key, one that has just begun may be told a place before the last one that is good.
            is_exact = not self.thinning.key or not any(reader in group for group in self.thinned.young.values())
            assert found == expected if is_exact else reader.begin <= found <= expected, "up to there it knows all"
            assert reader.position <= expected, "so it is up to where it was told that it is"

    def check_rates(self) -> None:
        for reader in self.readers:
            last: dict[str, float] = {}
            for number, at in reader.got[1:]:  # it begins at once, then keeps step with the others
                value = self.values[number - 1] if self.thinning.key else ""
                assert at - last.get(value, -9e9) >= self.thinning.every - 1e-9
                last[value] = at


def message(number: int, value: str, size: int = 1) -> Message:
    payload = b'{"symbol":"%b","x":"%b"}' % (value.encode(), b"x" * size)
    return Message("a", Kind.JSON, payload, Cursor("e", number, f"{number:012x}"), number, f"{number - 1:012x}")


@pytest.mark.parametrize("options", [("", False), ("symbol", False), ("", True), ("symbol", True)])
@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_when(seed: int, options: tuple[str, bool]) -> None:
    chance = random.Random(seed)
    rate = chance.choice([0.0, 0.5, 2.0, 2.0]) if options[1] else chance.choice([0.5, 2.0])
    group = Group(Thinning(rate, *options))
    values = "ABCDEFGH"[: 1 + seed % 8]
    for _ in range(150):
        action = chance.random()
        if action < 0.5:
            group.publish(chance.choice(values))
        elif action < 0.75:
            due = group.thinned.due
            group.now += chance.choice([0.0, 0.01, 0.1, 0.1, 0.7])
            if due is not None and due <= group.now:
                group.tick()
        elif action < 0.85 and len(group.readers) < 8:
            group.join()
        elif action < 0.9 and group.readers:
            group.leave(chance.choice(group.readers))
        elif group.readers:
            reader = chance.choice(group.readers)
            reader.behind = options[1] and not reader.behind
        group.check()
    for reader in group.readers:
        reader.behind = False
    while (due := group.thinned.due) is not None:
        group.now = max(due, group.now)
        group.tick()
    group.check()
    for reader in group.readers:
        later = set(range(reader.begin + 1, len(group.values) + 1))
        got = {at for at, _ in reader.got}
        assert got | reader.told == later
        assert not later or {max(group.of_value(at) & later) for at in later} <= got, "the newest always arrives"
        last = max(later, default=reader.begin)
        assert reader.position == last or (group.thinning.key and group.thinned.place(reader) is None)
    if not options[1]:
        group.check_rates()


def test_the_first_comes_at_once_then_the_newest() -> None:
    group = Group(Thinning(2.0))
    reader = group.join()
    group.publish("A")
    assert reader.got == [(1, 0.0)]
    for _ in range(5):
        group.now += 0.05
        group.publish("A")
    late = group.join()
    assert len(reader.got) == 1 and group.thinned.due == 0.5
    group.publish("A")
    assert late.got == [(7, 0.25)], "who begins later has its first message at once"
    group.now = 0.5
    group.tick()
    assert reader.got == [(1, 0.0), (7, 0.5)] and reader.told == {2, 3, 4, 5, 6} and not late.told
    group.now = 5.0
    assert group.thinned.due is None
    group.publish("A")
    assert reader.got[-1] == (8, 5.0) == late.got[-1]


def test_what_waits_may_be_sent_before_its_time() -> None:
    group = Group(Thinning(1.0, "symbol"))
    reader = group.join()
    for value in "ABB":
        group.publish(value)
    group.tick(all_of_them=True)
    assert [number for number, _ in reader.got] == [1, 2, 3]
    group.publish("A")
    assert len(reader.got) == 3 and group.thinned.due == 1.0, (
        "values that did not wait are closed for as long as before"
    )


def test_each_value_has_its_first_at_once() -> None:
    group = Group(Thinning(1.0, "symbol"))
    reader = group.join()
    for value in "AABBC":
        group.publish(value)
    assert [number for number, _ in reader.got] == [1, 3, 5]
    assert reader.position == 1, "the second, which waits, is not told by the cursor of a later one"
    group.now = 1.0
    group.tick()
    assert [number for number, _ in reader.got] == [1, 3, 5, 2, 4] and reader.position == 5


def test_values_that_are_remembered_are_bounded() -> None:
    group = Group(Thinning(0.01, "symbol"))
    reader = group.join()
    for number in range(MAX_VALUES + 50):
        group.publish(str(number))
        group.publish(str(number))
    assert len(group.thinned._states) == MAX_VALUES
    assert len(reader.got) == MAX_VALUES + 100, "of those that were forgotten the newest was sent before"
    group.now = 1000.0
    group.tick()
    group.now = 2000.0
    group.publish("new")
    assert len(group.thinned._states) == 1, "values that are open again are forgotten"
    group.check()


def test_subscriptions_that_begin_are_bounded() -> None:
    group = Group(Thinning(0.01, "symbol"))
    group.join()
    for number in range(500):
        group.publish("AB"[number % 2])
        group.join()
        group.check()
    assert len(group.thinned.young) <= MAX_YOUNG
    state = next(iter(group.thinned._states.values()))
    assert len(state.runs) <= MAX_YOUNG + 1
    group.publish("A")
    group.now = 1000.0
    group.tick()
    assert all(reader.got for reader in group.readers) and not group.thinned.young


def test_long_values_take_little() -> None:
    thinned: Thinned[int, int] = Thinned(Thinning(1.0, "symbol"), bool)
    for value in ("x" * 100_000 + "a", "x" * 100_000 + "b"):
        assert len(list(thinned.offer(message(1, value), 0.0))) == 1
    assert all(len(value or "") < 100 for _, value in thinned._states)


def test_bytes_that_wait_are_bounded() -> None:
    thinned: Thinned[int, int] = Thinned(Thinning(0.01, "symbol"), bool)
    size = MAX_WAITING // 4
    sent = 0
    for number in range(1, 21):
        sent += len(list(thinned.offer(message(number, str(number % 10), size), 0.0)))
    assert sent == 10 + 10 - 3, "each at once, then those that waited for the longest"


def test_messages_kept_for_who_reads_too_slowly_are_bounded() -> None:
    group = Group(Thinning(0.0, "symbol", True))
    reader = group.join()
    reader.behind = True
    for number in range(MAX_KEPT + 20):
        group.publish(str(number))
    group.check()
    reader.behind, group.now = False, 1.0
    puts = list(group.thinned.tick(group.now))
    assert [put.message.cursor.offset for put in puts if put.message.cursor] == list(range(21, MAX_KEPT + 21))
    assert puts[0].skipped is not None and puts[0].skipped.number == 20


def test_bytes_kept_for_who_reads_too_slowly_are_bounded() -> None:
    thinned: Thinned[int, int] = Thinned(Thinning(0.0, "symbol", True), bool)
    thinned.join(1, True)
    size = MAX_KEPT_BYTES // 4
    for number in range(1, 21):
        list(thinned.offer(message(number, str(number), size), 0.0))
    puts = list(thinned.tick(1.0, all_of_them=True))
    assert sum([len(put.message.payload) for put in puts]) <= MAX_KEPT_BYTES
    assert puts[0].skipped is not None and puts[0].skipped.number == 20 - len(puts)


def test_messages_kept_no_more_are_told_from_the_first_to_the_last() -> None:
    thinned: Thinned[int, int] = Thinned(Thinning(0.0, "symbol", True), bool)
    thinned.join(1, True)
    values = ["b", "a", "b", *map(str, range(MAX_KEPT - 1))]  # with the last one, a is kept no more
    for number, value in enumerate(values, 1):
        list(thinned.offer(message(number, value), 0.0))
    skipped = next(iter(thinned.tick(1.0, all_of_them=True))).skipped
    assert skipped is not None and skipped.first is not None and skipped.last is not None
    assert (skipped.number, skipped.first.offset, skipped.last.offset) == (2, 1, 2)


def test_subscriptions_that_begin_and_leave_take_nothing() -> None:
    group = Group(Thinning(0.01))
    group.join()
    for _ in range(20 * MAX_YOUNG):
        passing = group.join()
        group.publish("A")
        group.publish("A")
        group.leave(passing)
        group.check()
    (state,) = group.thinned._states.values()
    assert len(state.runs) <= 2 * MAX_YOUNG
    group.now = 1000.0
    group.tick()
    assert group.readers[0].got[-1][0] == len(group.values)
    group.check()


def test_messages_without_the_key_are_one_value() -> None:
    thinned: Thinned[int, int] = Thinned(Thinning(1.0, "symbol"), bool)
    others = [
        Message("a", Kind.TEXT, b"x"),
        Message("a", Kind.JSON, b'{"n":1}'),
        Message("a", Kind.JSON, b'{"symbol":[]}'),
    ]
    assert [len(list(thinned.offer(each, 0.0))) for each in others] == [1, 0, 0]


def test_each_channel_of_a_pattern_is_thinned_by_itself() -> None:
    thinned: Thinned[int, int] = Thinned(Thinning(1.0), bool)
    assert [len(list(thinned.offer(Message(name, Kind.TEXT, b"x"), 0.0))) for name in "abab"] == [1, 1, 0, 0]
    assert [put.message.channel for put in thinned.tick(1.0)] == ["a", "b"]


def test_a_page_of_the_past_is_thinned_by_the_times_of_publishing() -> None:
    messages = [message(number, "AB"[number % 2]) for number in range(1, 101)]
    for each in messages:
        each.published = 10**15 + (each.cursor.offset if each.cursor else 0) * 100_000  # ten a second
    found = of_past(messages, Filters(()).thinned(Thinning(1.0)))
    assert found is not None
    assert [cursor.offset for cursor in found if cursor] == [1, *range(10, 101, 10)]
    assert sum([skipped.number for skipped in found.values() if skipped]) == 100 - len(found)
    keyed = of_past(messages, Filters([("symbol", "A")]).thinned(Thinning(1.0, "symbol")))
    assert keyed is not None
    assert [cursor.offset for cursor in keyed if cursor] == [2, *range(10, 101, 10)]
    assert of_past(messages, Filters(())) is None and of_past(messages, None) is None
    assert of_past(messages, Filters(()).thinned(Thinning(0.0, "", True))) is None


@pytest.mark.parametrize(
    "asked",
    [(0, None, None), (0.009, None, None), (1000.1, None, None), (10**6, None, None), (True, None, None),
     ("2", None, None), (None, "a", None), (1, "", None), (1, "a..b", None), (1, 5, None), (1, "a" * 256, None),
     (1, "\ud800", None), (1, None, "newest"), (1, None, True), (float("nan"), None, None)],
)  # fmt: skip
def test_bad_options(asked: tuple[object, object, object]) -> None:
    with pytest.raises(Invalid):
        of(*asked)


def test_options() -> None:
    assert of(None, None, None) is None
    assert of(2, "a.b", None) == Thinning(2.0, "a.b")
    assert of(None, "a", "latest") == Thinning(0.0, "a", True)
    assert of(0.01, None, None) != of(1000, None, None)


def test_groups_share_room_for_their_values() -> None:
    """With many groups each remembers less, and its newest messages are sent before their time."""
    room, wanted = Room(10), of(1, "symbol", None)
    assert wanted is not None
    groups: list[Thinned[str, str]] = [Thinned(wanted, bool, room=room) for _ in range(8)]
    got: list[set[int]] = [set() for _ in groups]

    def note(at: int, puts: Iterable[Put[str, str]]) -> None:
        got[at] |= {put.message.published for put in puts if put.sinks}

    for at, group in enumerate(groups):
        group.join("a", "a")
        for number in range(1, 41):
            note(at, group.offer(message(number, str(number % 20)), 0.0))
        assert room.count <= 10 + len(groups)
    for at, group in enumerate(groups):
        note(at, group.tick(0.0, all_of_them=True))
        assert got[at] >= set(range(21, 41))
        group.close()
        assert group.due is None and not list(group.tick(9.0))
    assert room.count == 0
