"""The order of a channel: each offset once and in order, whatever comes, comes twice, comes late or never comes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from raiden.delivery import order
from raiden.delivery.order import Order
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.page import Gap, Page, Record


def message(offset: int, epoch: str = "e") -> Message:
    return Message("a", Kind.JSON, b"%d" % offset, Cursor(epoch, offset), 7)


def page(offsets: Sequence[int], *, newest: int, epoch: str = "e", more: bool = False, gap: Gap | None = None) -> Page:
    records = [Record(offset, Kind.JSON, b"%d" % offset, 7) for offset in offsets]
    return Page(records, epoch, Cursor(epoch, newest), gap, more)


def take(of: Order, *offsets: int, epoch: str = "e") -> list[int]:
    """The offsets that may be delivered when these have come."""
    return offsets_of([each for offset in offsets for each in of.take(message(offset, epoch))])


def offsets_of(messages: Sequence[Message]) -> list[int]:
    for each in messages:
        assert each.cursor and each.payload == b"%d" % each.cursor.offset and each.channel == "a"
    return [each.cursor.offset for each in messages if each.cursor]


def fill(of: Order, filled: Page, known: Cursor | None) -> tuple[Gap | None, list[Message]]:
    """What a page brings that has no more than one gap, before all messages."""
    steps = list(of.fill("a", filled, known))
    assert len(steps) <= 1
    return steps[0] if steps else (None, [])


def opened(at: int = 0) -> Order:
    """An order whose channel stands at an offset."""
    found = Order()
    assert found.open(Cursor("e", at)) == []
    return found


# What comes.


def test_messages_that_are_lost_at_the_beginning_are_a_gap() -> None:
    """The place of an empty channel is in an epoch that never got a message, and no longer names its history."""
    found = opened(0)
    filled = page([3, 4], newest=4, epoch="f", gap=Gap("e", 0, 0))
    gap, messages = fill(found, filled, Cursor("f", 4))
    assert gap == Gap("f", 1, 2) and offsets_of(messages) == [3, 4] and found.position == Cursor("f", 4)
    found = opened(0)
    gap, messages = fill(found, page([1, 2], newest=2, epoch="f", gap=Gap("e", 0, 0)), Cursor("f", 2))
    assert gap is None and offsets_of(messages) == [1, 2]


def test_the_next_is_delivered() -> None:
    found = opened(5)
    assert found.position == Cursor("e", 5)
    assert take(found, 6, 7, 8) == [6, 7, 8]
    assert found.position == Cursor("e", 8) and not found.behind


def test_what_was_delivered_is_dropped() -> None:
    found = opened()
    assert take(found, 1, 2, 2, 1, 3, 3) == [1, 2, 3]
    assert not found.behind


def test_what_overtook_others_waits_for_them() -> None:
    found = opened()
    assert take(found, 1, 4, 3, 3) == [1]
    assert found.behind and found.newest == Cursor("e", 4) and found.position == Cursor("e", 1)
    assert take(found, 2) == [2, 3, 4]
    assert not found.behind


def test_two_gaps_are_closed_one_by_one() -> None:
    found = opened()
    assert take(found, 2, 5, 4) == []
    assert take(found, 1) == [1, 2]
    assert found.behind
    assert take(found, 3) == [3, 4, 5]
    assert not found.behind


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "MAX_HELD", 3)
    found = opened()
    assert take(found, 2, 3, 4, 5, 6) == []
    assert take(found, 1) == [1, 2, 3, 4]
    assert found.behind and found.newest == Cursor("e", 6)
    known = found.newest
    gap, messages = fill(found, page([5, 6], newest=6), known)
    assert gap is None and offsets_of(messages) == [5, 6] and not found.behind


# Opening.


def test_nothing_is_delivered_before_it_is_open() -> None:
    found = Order()
    assert found.position is None and take(found, 3) == []
    assert offsets_of(found.open(Cursor("e", 2))) == [3]
    assert found.position == Cursor("e", 3)
    assert found.open(Cursor("e", 9)) == [] and found.position == Cursor("e", 3), "it is opened once"


def test_messages_that_came_before_the_answer_are_delivered() -> None:
    """The position was read after them, but nobody here has got them."""
    found = Order()
    assert take(found, 4, 3) == []
    assert offsets_of(found.open(Cursor("e", 9))) == [3, 4]
    assert found.position == Cursor("e", 4) and not found.behind
    assert take(found, 6) == [] and found.behind
    gap, messages = fill(found, page([5, 6, 7, 8, 9], newest=9), found.newest)
    assert gap is None and offsets_of(messages) == [5, 6, 7, 8, 9]


def test_opening_with_a_hole() -> None:
    found = Order()
    take(found, 3, 5)
    assert offsets_of(found.open(Cursor("e", 5))) == [3]
    assert found.behind and take(found, 4) == [4, 5] and not found.behind


def test_a_channel_without_history_begins_with_its_first_message() -> None:
    found = Order()
    assert found.open(None) == []
    assert found.position == EARLIEST
    assert take(found, 1, 2) == [1, 2] and found.position == Cursor("e", 2)


def test_a_first_message_that_is_not_the_first() -> None:
    found = Order()
    found.open(None)
    assert take(found, 2) == [] and found.behind and found.position == Cursor("e", 0)
    gap, messages = fill(found, page([1, 2], newest=2), found.newest)
    assert gap is None and offsets_of(messages) == [1, 2]


def test_a_history_that_began_while_its_position_was_asked_for() -> None:
    found = Order()
    take(found, 1)
    assert offsets_of(found.open(None)) == [1]
    assert take(found, 2) == [2]


# Pages of the history.


def test_a_page_fills_the_gap() -> None:
    found = opened()
    assert take(found, 1, 4) == [1]
    gap, messages = fill(found, page([2, 3, 4, 5], newest=5), found.newest)
    assert gap is None and offsets_of(messages) == [2, 3, 4, 5]
    assert take(found, 5, 4, 6) == [6]


def test_a_page_joins_what_is_held() -> None:
    found = opened()
    take(found, 3, 4)
    gap, messages = fill(found, page([1, 2], newest=4, more=True), found.newest)
    assert gap is None and offsets_of(messages) == [1, 2, 3, 4] and not found.behind


def test_a_page_that_is_cut_short_leaves_more_to_ask_for() -> None:
    found = opened()
    take(found, 9)
    gap, messages = fill(found, page([1, 2, 3], newest=9, more=True), found.newest)
    assert gap is None and offsets_of(messages) == [1, 2, 3] and found.behind
    gap, messages = fill(found, page([4, 5, 6, 7, 8, 9], newest=9), found.newest)
    assert gap is None and offsets_of(messages) == [4, 5, 6, 7, 8, 9] and not found.behind


def test_what_came_while_the_page_was_read_is_not_delivered_again() -> None:
    found = opened()
    take(found, 3)
    known = found.newest
    assert take(found, 1, 2) == [1, 2, 3]
    gap, messages = fill(found, page([1, 2, 3], newest=3), known)
    assert gap is None and messages == [] and found.position == Cursor("e", 3)


def test_what_the_history_does_not_have_any_more_is_a_gap() -> None:
    found = opened()
    assert take(found, 1, 9) == [1]
    gap, messages = fill(found, page([6, 7, 8, 9], newest=9), found.newest)
    assert gap == Gap("e", 2, 5) and offsets_of(messages) == [6, 7, 8, 9] and not found.behind


def test_all_that_was_missed_has_expired() -> None:
    found = opened()
    found.expect(Cursor("e", 4))
    assert found.behind
    gap, messages = fill(found, page([], newest=4), found.newest)
    assert gap == Gap("e", 1, 4) and messages == []
    assert not found.behind and take(found, 5) == [5]


def test_a_lost_last_message_is_expected() -> None:
    found = opened(3)
    found.expect(Cursor("e", 3))
    assert not found.behind
    found.expect(Cursor("e", 4))
    found.expect(Cursor("e", 2))
    assert found.behind and found.newest == Cursor("e", 4)
    gap, messages = fill(found, page([4], newest=4), found.newest)
    assert gap is None and offsets_of(messages) == [4] and not found.behind


# Epochs.


def test_another_epoch_is_a_gap_of_unknown_size() -> None:
    found = opened(5)
    assert take(found, 1, epoch="f") == [] and found.behind
    gap, messages = fill(found, page([1], newest=1, epoch="f", gap=Gap("e", 0, 0)), found.newest)
    assert gap == Gap("e", 0, 0) and offsets_of(messages) == [1]
    assert found.position == Cursor("f", 1) and not found.behind
    assert take(found, 2, epoch="f") == [2]


def test_messages_of_another_epoch_are_held_for_its_page() -> None:
    found = opened(5)
    take(found, 2, 3, epoch="f")
    gap, messages = fill(found, page([1], newest=3, epoch="f", more=True, gap=Gap("e", 0, 0)), found.newest)
    assert gap == Gap("e", 0, 0) and offsets_of(messages) == [1, 2, 3]


def test_a_late_message_of_an_old_epoch_is_dropped() -> None:
    found = Order()
    found.open(Cursor("f", 3))
    assert take(found, 99, epoch="e") == [] and found.behind
    gap, messages = fill(found, page([], newest=3, epoch="f"), found.newest)
    assert (gap, messages) == (None, []) and not found.behind
    assert found.position == Cursor("f", 3) and take(found, 4, epoch="f") == [4]


def test_a_late_message_does_not_hide_a_gap() -> None:
    found = Order()
    found.open(Cursor("f", 3))
    take(found, 5, epoch="f")
    take(found, 99, epoch="e")
    gap, messages = fill(found, page([4, 5], newest=5, epoch="f"), found.newest)
    assert gap is None and offsets_of(messages) == [4, 5] and not found.behind


def test_a_store_that_lost_its_last_messages() -> None:
    """It goes on with offsets that were given out before; what is held is all that there will ever be."""
    found = opened(5)
    assert take(found, 8, 9) == []
    gap, messages = fill(found, page([], newest=5), found.newest)
    assert gap == Gap("e", 6, 7) and offsets_of(messages) == [8, 9] and not found.behind


def test_a_store_that_lost_what_was_only_heard_of() -> None:
    found = opened(5)
    found.expect(Cursor("e", 9))
    gap, messages = fill(found, page([], newest=5), found.newest)
    assert (gap, messages) == (None, []) and not found.behind and take(found, 6) == [6]


def test_vanished() -> None:
    found = opened(5)
    take(found, 9)
    found.vanished()
    assert found.position == EARLIEST and not found.behind
    assert take(found, 1, 2, epoch="f") == [1, 2] and found.position == Cursor("f", 2)


def test_a_page_of_nothing() -> None:
    found = opened(5)
    take(found, 9)
    assert fill(found, Page(), found.newest) == (None, [])
    assert found.position == EARLIEST and not found.behind


def test_what_is_held_amid_a_gap_is_delivered() -> None:
    found = opened()
    assert take(found, 1, 4, 5) == [1]
    steps = found.fill("a", page([8, 9], newest=9), found.newest)
    assert [(gap, offsets_of(messages)) for gap, messages in steps] == [
        (Gap("e", 2, 3), [4, 5]), (Gap("e", 6, 7), [8, 9]),
    ]  # fmt: skip
    assert not found.behind


def test_gaps_are_told_in_their_places() -> None:
    found = opened()
    found.expect(Cursor("e", 9))
    steps = found.fill("a", page([1, 2, 6, 7], newest=9), found.newest)
    assert [(gap, offsets_of(messages)) for gap, messages in steps] == [
        (None, [1, 2]), (Gap("e", 3, 5), [6, 7]), (Gap("e", 8, 9), []),
    ]  # fmt: skip
    assert not found.behind and take(found, 10) == [10]


def test_what_comes_of_an_epoch_that_is_over() -> None:
    """It was deleted before this worker had got it."""
    found = opened(5)
    found.vanished()
    assert take(found, 6, 7) == [] and not found.behind and found.position == EARLIEST
    assert take(found, 1, epoch="f") == [1]
    assert take(found, 8) == [] and not found.behind
    found = Order()
    found.open(None)
    found.vanished("e")
    assert take(found, 1) == [] and not found.behind


# All of it at once.


@pytest.mark.parametrize("seed", range(200))
def test_each_offset_once_and_in_order(seed: int) -> None:
    """Messages swap places, come twice and get lost; pages of any size, some read before what came meanwhile, bring
    what is missing. What the history has is delivered, and what came; the rest is told as gaps, each in its place."""
    random = Random(seed)
    count = random.choice([1, 2, 10, 60])
    begin = random.randrange(count + 1)
    kept_from = random.choice([0, 0, random.randrange(count + 1)])
    kept = {offset for offset in range(kept_from, count + 1) if random.random() < random.choice([1, 1, 0.7])}
    arrivals = [offset for offset in range(1, count + 1) for _ in range(random.choice([0, 1, 1, 1, 2, 3]))]
    reach = random.choice([1, 3, count])
    arrivals.sort(key=lambda offset: offset + random.uniform(0, reach))
    found = Order()
    delivered: list[int] = []
    missing: list[int] = []
    came: set[int] = set()
    early = random.randrange(len(arrivals) + 1)
    first = arrivals[:early] if random.random() < 0.3 else []
    for offset in first:
        assert found.take(message(offset)) == []
        came.add(offset)
    delivered += offsets_of(found.open(Cursor("e", begin)))
    start = min([begin + 1, *first])

    def read() -> tuple[Page, Cursor | None]:
        position = found.position
        assert position is not None
        limit = random.choice([1, 3, 100])
        have = [offset for offset in range(position.offset + 1, count + 1) if offset in kept]
        return page(have[:limit], newest=count, more=len(have) > limit), found.newest

    def repair(asked: tuple[Page, Cursor | None]) -> None:
        for gap, messages in found.fill("a", *asked):
            if gap:
                assert gap.first == max([start - 1, *delivered, *missing]) + 1, "after all that was told before"
                lost = range(gap.first, gap.last + 1)
                assert not (kept | came).intersection(lost), "it can't be had"
                missing.extend(lost)
            delivered.extend(offsets_of(messages))

    asked = None
    for offset in arrivals[len(first) :]:
        delivered += offsets_of(found.take(message(offset)))
        came.add(offset)
        if asked and random.random() < 0.5:
            repair(asked)
            asked = None
        elif not asked and found.behind and random.random() < 0.5:
            asked = read()
    if asked:
        repair(asked)
    found.expect(Cursor("e", count))
    while found.behind:
        before = found.position
        repair(read())
        assert found.position != before, "each page brings it forward"
    assert delivered == sorted(set(delivered)), "once and in order"
    assert sorted(delivered + missing) == list(range(start, count + 1)), "each is delivered or told as missing"
