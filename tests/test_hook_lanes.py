"""The order in which an endpoint gets its events: random receivers, and processes that take over."""

from __future__ import annotations

import json
import random

import pytest

from raiden.hooks import lanes
from raiden.hooks.lanes import Item, Lanes


def read(one: Lanes, queue: list[str], most: int = 50) -> None:
    """Let it read on in a queue, whose event at offset n + 1 has the key ``queue[n]``."""
    for offset in range(one.end + 1, min(len(queue), one.end + min(one.room, most)) + 1):
        one.add(Item(offset, "", queue[offset - 1], b"%d" % offset))


@pytest.mark.parametrize("seed", range(20))
def test_each_arrives_in_the_order_of_its_key_whoever_takes_over(seed: int) -> None:
    chance = random.Random(seed)
    queue = [chance.choice("abcdef") for _ in range(2500)]
    now, one = 1000.0, Lanes()
    under_way: list[Item] = []
    arrived: dict[str, list[int]] = {}
    kept = one.progress()
    while one.base < len(queue):
        now += 0.1
        read(one, queue)
        while len(under_way) < 8 and (item := one.take(now)) is not None:
            assert not any(each.key == item.key for each in under_way), "one of a key at a time"
            under_way.append(item)
        chance.shuffle(under_way)
        for item in under_way[: chance.randrange(9)]:
            under_way.remove(item)
            if chance.random() < 0.3:
                one.failed(item, now + chance.random() * item.attempts)
            else:
                if item.offset not in arrived.get(item.key, []):
                    arrived.setdefault(item.key, []).append(item.offset)
                one.done(item)
        if chance.random() < 0.2:
            kept = json.loads(json.dumps(one.progress()))
        if chance.random() < 0.01:
            one, under_way = Lanes(kept), []
    for key, offsets in arrived.items():
        assert offsets == [at for at, each in enumerate(queue, 1) if each == key]


def test_a_lane_that_fails_holds_up_no_other() -> None:
    one = Lanes()
    queue = ["bad"] + ["bad", "good"] * 200
    read(one, queue, most=1000)
    bad = one.take(0.0)
    assert bad is not None and bad.key == "bad"
    one.failed(bad, 50.0)
    passed = []
    while (item := one.take(1.0)) is not None:
        passed.append(item.key)
        one.done(item)
    assert passed == ["good"] * 200 and one.base == 0 and one.next_due() == 50.0
    again = one.take(50.0)
    assert again is bad and again.attempts == 1
    one.done(again)
    assert one.base == 1


def test_what_is_read_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Lanes()
    read(one, ["a"] * 5000, most=5000)
    assert one.end == lanes.AHEAD and one.room == 0
    large = Lanes()
    while large.room:
        large.add(Item(large.end + 1, "", "a", b"x" * 1_000_000))
    assert large.open == 9, "as many as go over the bytes"


def test_progress_is_small_and_has_what_waits() -> None:
    one = Lanes()
    read(one, [str(number) for number in range(1000)], most=1000)
    while (item := one.take(0.0)) is not None:
        one.failed(item, 1_700_000_000.0)
    assert len(json.dumps(one.progress())) < 50_000
    other = Lanes(one.progress())
    read(other, [str(number) for number in range(1000)], most=1000)
    assert other.take(0.0) is None and other.next_due() == 1_700_000_000.0
    item = other.take(1_700_000_001.0)
    assert item is not None and item.attempts == 1


def test_holes_in_the_queue_are_no_matter() -> None:
    one = Lanes()
    one.add(Item(5, "", "a", b""))
    item = one.take(0.0)
    assert item is not None
    one.skip_to(9)
    assert one.base == 4
    one.done(item)
    assert one.base == 9
