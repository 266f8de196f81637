"""The channels that are occupied in a cluster: workers that tell their changes, one that follows them, and the journal
of what it has told."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raiden.delivery import occupancy
from raiden.delivery.occupancy import Occupancy
from raiden.hooks import occupied
from raiden.hooks.journal import Journal
from raiden.hooks.occupied import Occupied

SETTLE, PATIENCE = 3.0, 10.0


def follower(told: set[str] | None = None, now: float = 0.0) -> Occupied:
    return Occupied(told or set(), lambda name: not name.startswith("-"), settle=SETTLE, patience=PATIENCE, now=now)


def follow(one: Occupied, workers: dict[str, Occupancy], now: float) -> None:
    for name, worker in workers.items():
        one.hear(name, worker.since(*one.known().get(name, ("", 0))), now)


def told(one: Occupied, now: float) -> tuple[list[str], list[str]]:
    on, off = one.occupied(), one.vacated(now)
    one.tell(on, off)
    return sorted(on), sorted(off)


def test_occupied_at_once_and_vacated_when_it_has_settled() -> None:
    a, b, one = Occupancy(["x"]), Occupancy([]), follower()
    follow(one, {"a": a, "b": b}, 0.0)
    assert told(one, 0.0) == (["x"], []) and told(one, 0.0) == ([], [])
    b.note("x", occupied=True)
    a.note("x", occupied=False)
    follow(one, {"a": a, "b": b}, 1.0)
    assert told(one, 100.0) == ([], []), "another worker has it"
    b.note("x", occupied=False)
    follow(one, {"a": a, "b": b}, 101.0)
    assert told(one, 103.9) == ([], [])
    a.note("x", occupied=True)
    follow(one, {"a": a, "b": b}, 103.95)
    assert told(one, 200.0) == ([], []), "it was back in time"
    a.note("x", occupied=False)
    follow(one, {"a": a, "b": b}, 201.0)
    assert told(one, 204.0) == ([], ["x"]) and told(one, 300.0) == ([], [])


def test_patterns_and_channels_that_nobody_wants_are_not_told() -> None:
    one = follower()
    follow(one, {"a": Occupancy(["-own", "all.*", "y"])}, 0.0)
    assert told(one, 0.0) == (["y"], [])


def test_a_worker_that_is_gone_or_begins_anew_takes_its_channels_along() -> None:
    one = follower()
    workers = {"a": Occupancy(["x", "y"]), "b": Occupancy(["y"])}
    follow(one, workers, 0.0)
    told(one, 0.0)
    one.only(["b"], 1.0)
    assert one.knows(["b"]) and not one.knows(["a", "b"])
    assert told(one, 4.0) == ([], ["x"])
    follow(one, {"b": Occupancy(["z"])}, 5.0)  # another life
    assert told(one, 8.0) == (["z"], ["y"])


def test_a_follower_that_missed_too_much_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "MAX_LEFT", 5)
    names = [f"c{number}" for number in range(10)]
    one, a = follower(), Occupancy(names)
    follow(one, {"a": a}, 0.0)
    assert told(one, 0.0) == (names, [])
    for name in names[1:]:
        a.note(name, occupied=False)
    follow(one, {"a": a}, 1.0)
    assert told(one, 4.0) == ([], names[1:])


def test_what_takes_over_waits_for_clients_to_come_back() -> None:
    one = follower({"x", "y"}, now=50.0)
    follow(one, {"a": Occupancy(["x"])}, 50.0)
    assert told(one, 59.9) == ([], [])
    assert told(one, 60.0) == ([], ["y"])


def test_many_changes_are_told_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied, "AT_ONCE", 5)
    one = follower()
    follow(one, {"a": Occupancy([f"c{number}" for number in range(33)])}, 0.0)
    found: list[str] = []
    while names := told(one, 0.0)[0]:
        assert len(names) <= 5
        found += names
    assert sorted(found) == sorted(f"c{number}" for number in range(33))


def test_more_channels_than_are_bounded_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied, "MAX_CHANNELS", 3)
    one, a = follower(), Occupancy(["a", "b", "c", "d"])
    follow(one, {"a": a}, 0.0)
    assert told(one, 0.0) == (["a", "b", "c"], []) and told(one, 0.0) == ([], [])
    a.note("a", occupied=False)
    follow(one, {"a": a}, 1.0)
    assert told(one, 4.0) == ([], ["a"]) and told(one, 4.0) == (["d"], [])


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_all_is_told_in_turns(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers come, go, and lose changes; those that count take over from each other by the journal. Each channel is
    told as occupied and as vacated in turns, and at the end the truth."""
    chance = random.Random(seed)
    monkeypatch.setattr(occupancy, "MAX_LEFT", 5)
    names = [f"c{number}" for number in range(12)]
    workers: dict[str, Occupancy] = {}
    here: dict[str, set[str]] = {}
    state = dict.fromkeys(names, False)
    stored: list[bytes] = []
    one, journal, now = follower(), Journal(), 0.0

    def write(append: Any) -> None:
        stored.extend(payload for _, payload in append.messages)
        del stored[: len(stored) - append.size]

    def step() -> None:
        on, off = one.occupied(), one.vacated(now)
        for name in on:
            assert not state[name]
            state[name] = True
        for name in off:
            assert state[name]
            state[name] = False
        if on or off:
            write(journal.change(on, off))
            one.tell(on, off)
        if chance.random() < 0.05:
            write(journal.anew(one.told))

    for _ in range(600):
        now += chance.random()
        what = chance.random()
        if what < 0.03 or not workers:
            name = chance.choice("xyz")
            workers[name], here[name] = Occupancy([]), set()
        elif what < 0.05:
            name = chance.choice(sorted(workers))
            del workers[name], here[name]
        elif what < 0.8:
            name, channel = chance.choice(sorted(workers)), chance.choice(names)
            here[name] ^= {channel}
            workers[name].note(channel, occupied=channel in here[name])
        elif what < 0.95:
            follow(one, {each: workers[each] for each in workers if chance.random() < 0.8}, now)
            one.only(workers.keys(), now)
            step()
        else:
            journal = Journal()
            journal.read(stored)
            one = follower(journal.told, now)
            write(journal.anew(journal.told))
    for _ in range(3):
        follow(one, workers, now)
        one.only(workers.keys(), now)
        now += 2 * PATIENCE
        step()
    assert {name for name in names if state[name]} == {channel for each in here.values() for channel in each}
