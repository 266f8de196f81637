"""Members of a channel, put together from what workers tell: pure."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raiden.presence.members import Part, Remembered, Row, answer
from raiden.presence.watch import CROWDED, Event, Listed, Watch


def row(sub: str, info: Any = None, connections: int = 1, since: float = 1.0, newest: float = 1.0, **more: Any) -> Row:
    return Row(sub, info, connections, since, newest, more.get("proved", 5.0), more.get("is_here", True))


def test_a_member_on_several_workers_counts_once() -> None:
    parts = [
        Part(2, 3, (row("bob"), row("ann", "old", 2, 4.0, 5.0, proved=6.0, is_here=False))),
        Part(1, 1, (row("ann", "new", 1, 3.0, 7.0, proved=8.0),)),
        Part(0, 0, ()),
    ]
    told = answer("a", parts, most=2, complete=True)
    assert told == {
        "channel": "a", "count": 2, "anonymous": 4, "complete": True,
        "members": [
            {"sub": "ann", "info": "new", "connections": 3, "state": "here", "since": 3.0, "proved": 8.0},
            {"sub": "bob", "info": None, "connections": 1, "state": "here", "since": 1.0, "proved": 5.0},
        ],
    }  # fmt: skip
    few = answer("a", parts, most=1, complete=False)
    assert (few["members"], few["count"], few["anonymous"], few["complete"]) == (None, 2, 4, False)
    some = answer("a", [*parts, Part(7, 1, None)], most=100, complete=True)
    assert (some["members"], some["count"], some["anonymous"]) == (None, 9, 5)


def test_last_answers_are_unsure_and_forgotten() -> None:
    known = Remembered(seconds=10, most=1500)
    known.note("a", {"one": Part(1, 0, (row("ann"),)), "two": Part(1, 0, (row("bob"),))}, ["one", "two"], 100)
    found = known.missing("a", ["two", "three"], 105)
    assert list(found) == ["two"] and found["two"].members == (row("bob", is_here=False),)
    known.note("a", {"one": Part(1, 0, (row("ann"),))}, ["one", "two"], 108)
    assert list(known.missing("a", ["two"], 109)) == ["two"] and not known.missing("a", ["two"], 110)
    assert list(known.missing("a", ["one"], 110)) == ["one"], "each by the age of its own answer"
    known.note("a", {"one": Part(0, 0, ())}, ["one"], 111)
    assert not known.missing("a", ["one", "two"], 111), "a node that is gone is forgotten"
    for number in range(10):
        known.note(f"b{number}", {"one": Part(1, 0, (row("ann"),))}, ["one"], 120)
    kept = [number for number in range(10) if known.missing(f"b{number}", ["one"], 121)]
    assert kept == [8, 9], "the oldest are forgotten first"
    known.note("large", {"one": Part(1, 0, (row("ann", "x" * 1000),))}, ["one"], 122)
    assert not known.missing("large", ["one"], 123) and not known.missing("b9", ["one"], 123), "by their bytes"


def names(events: list[Event]) -> list[tuple[str, Any]]:
    return [(name, what.get("sub")) for name, what in events]


def members(*subs: str, info: Any = None) -> dict[str, Listed]:
    return {sub: Listed(info, 1.0, 1.0) for sub in subs}


def test_joins_and_leaves_are_told_once() -> None:
    watch = Watch()
    watch.take("one", "a", 0, members("ann", "bob"), 2, 5)
    watch.take("two", "b", 0, members("bob"), 1, 5)
    assert names(watch.settle(0, 10)) == [("join", "ann"), ("join", "bob")]
    assert watch.hear("one", "a", 1, [["eve", None, 2.0, 2.0]], ["bob"])
    assert names(watch.settle(1, 10)) == [("join", "eve")], "bob is still on the other worker"
    assert watch.hear("two", "b", 1, [["eve", None, 2.0, 2.0]], ["bob"])
    assert names(watch.settle(2, 10)) == [("leave", "bob")], "its worker has waited"
    assert watch.hear("two", "b", 2, [["eve", "new", 3.0, 3.0]], [])
    ((name, what),) = watch.settle(3, 10)
    assert (name, what) == ("join", {"sub": "eve", "info": "new", "since": 2.0}), "since it came, with its new info"
    assert watch.hear("two", "b", 2, [], ["eve"]) and not watch.settle(4, 10), "an old change changes nothing"


def test_members_of_a_worker_that_is_gone_may_come_back() -> None:
    watch = Watch()
    watch.take("one", "a", 0, members("ann", "bob"), 2, 5)
    watch.take("two", "b", 0, members("eve"), 1, 5)
    watch.settle(0, 10)
    watch.only(["two"], 5)
    assert not watch.settle(1, 10) and watch.waits
    watch.take("two", "b", 1, members("eve", "ann"), 2, 5)
    assert not watch.settle(5.9, 10)
    assert names(watch.settle(6, 10)) == [("leave", "bob")] and not watch.waits
    assert [each["sub"] for each in watch.listing()["members"]] == ["ann", "eve"]


def test_a_change_that_does_not_follow_is_noticed() -> None:
    watch = Watch()
    assert not watch.hear("one", "a", 1, [], []), "of a worker whose list is not known"
    watch.take("one", "a", 3, members("ann"), 1, 5)
    assert watch.knows("one", "a", 3, 1)
    assert not (watch.knows("one", "b", 3, 1) or watch.knows("two", "a", 3, 1) or watch.knows("one", "a", 4, 1))
    assert not watch.hear("one", "a", 5, [["bob", None, 1.0, 1.0]], []), "one was lost"
    assert not watch.hear("one", "b", 1, [], []), "another list"
    watch.take("one", "a", 2, members(), 0, 5)
    assert names(watch.settle(0, 10)) == [("join", "ann")], "an older list changes nothing"


def test_too_many_members_are_only_counted() -> None:
    watch = Watch()
    watch.take("one", "a", 0, members(*map(str, range(10))), 10, 5)
    assert len(watch.settle(0, 10)) == 10
    assert watch.hear("one", "a", 1, [["x", None, 2.0, 2.0]], [])
    crowd = ("presence", {"members": None, "count": 11, "complete": False})
    assert watch.settle(1, 10) == [crowd] and watch.digest == CROWDED
    assert watch.hear("one", "a", 2, [["y", None, 2.0, 2.0]], ["0"])
    assert watch.settle(2, 10) == []
    assert watch.hear("one", "a", 3, [], ["1"])
    assert watch.settle(3, 10) == [], "not before some more have left"
    assert watch.hear("one", "a", 4, [], ["2"])
    ((name, what),) = watch.settle(4, 10)
    assert name == "presence" and [each["sub"] for each in what["members"]] == sorted("3456789xy")
    watch.take("two", "b", 0, None, 5000, 5)
    assert watch.settle(5, 10) == [("presence", {"members": None, "count": 5009, "complete": False})]
    assert watch.knows("two", "b", 0, 6000) and watch.listing()["count"] == 6009


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_the_list_comes_right(seed: int) -> None:
    """Workers change their lists, and a part of these changes is lost. A client that goes by the events has the same
    members as one that comes late, and both have those of the workers."""
    dice = random.Random(seed)
    watch, other, now = Watch(), Watch(), 0.0
    truth: dict[str, tuple[str, int, dict[str, Listed]]] = {str(n): ("0", 0, {}) for n in range(3)}
    shown: dict[str, Any] = {}
    for _ in range(400):
        now += 1
        worker = dice.choice(list(truth))
        life, version, have = truth[worker]
        if dice.random() < 0.05:
            truth[worker] = str(now), 0, {}
        else:
            sub, info = dice.choice("abcdefgh"), dice.choice([None, {"n": 1}])
            on, off = ([[sub, info, now, now]], []) if dice.random() < 0.5 else ([], [sub])
            have = {name: each for name, each in have.items() if name != sub}
            have |= {sub: Listed(info, now, now)} if on else {}
            truth[worker] = life, version + 1, have
            if dice.random() < 0.8 and not watch.hear(worker, life, version + 1, on, off):
                watch.take(worker, life, version + 1, dict(have), len(have), 3.0)
        if dice.random() < 0.05:
            watch.only([each for each in truth if each != worker], 3.0)
        follow(shown, watch.settle(now, 100))
    for worker, (life, version, have) in truth.items():
        for each in (watch, other):
            if not each.knows(worker, life, version, len(have)):
                each.take(worker, life, version, dict(have), len(have), 3.0)
    follow(shown, watch.settle(now, 100))
    follow(shown, watch.settle(now + 4, 100))
    other.settle(now, 100)
    listed = {each["sub"]: each["info"] for each in watch.listing()["members"]}
    late = {each["sub"]: each["info"] for each in other.listing()["members"]}
    assert shown == listed == late and watch.digest == other.digest
    assert set(listed) == {sub for _, _, have in truth.values() for sub in have}


def follow(shown: dict[str, Any], events: list[Event]) -> None:
    for name, what in events:
        if name == "join":
            assert shown.get(what["sub"], ...) != what["info"], "once"
            shown[what["sub"]] = what["info"]
        else:
            del shown[what["sub"]]
