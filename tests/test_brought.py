"""Channels that only patterns bring, and which nobody wants any more when patterns have left."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raiden.delivery.brought import AT_ONCE, Brought
from raiden.delivery.table import Table, Topic


@pytest.fixture
def table() -> Table:
    return Table(max_channels=100_000, max_bytes=10_000_000)


@pytest.fixture
def brought(table: Table) -> Brought:
    return Brought(table)


def leave(table: Table, brought: Brought, *patterns: str) -> None:
    for pattern in patterns:
        brought.leave(table.remove(pattern))


def all_forsaken(brought: Brought) -> list[bytes]:
    return sorted(channel for channels in brought.forsaken() for channel in channels)


def test_what_no_pattern_brings_any_more_is_forsaken(table: Table, brought: Brought) -> None:
    for pattern in ("a.*", "a.b*", "c*"):
        table.add(pattern, rounds=0)
    for channel in (b"a.a", b"a.b", b"a.bc", b"c"):
        brought.add(channel)
    leave(table, brought, "a.*")
    assert brought.is_forsaken(b"a.a") and not brought.is_forsaken(b"a.b") and not brought.is_forsaken(b"never.there")
    assert all_forsaken(brought) == [b"a.a"] and not brought.leaving
    leave(table, brought, "a.b*", "c*")
    assert all_forsaken(brought) == [b"a.b", b"a.bc", b"c"] and len(brought) == 0


def test_a_pattern_that_is_made_later_does_not_bring_what_was_not_heard(table: Table, brought: Brought) -> None:
    table.add("a*", rounds=0)
    for channel in (b"a.1", b"a.2"):
        brought.add(channel)
    leave(table, brought, "a*")
    table.add("*", rounds=0)
    assert brought.is_forsaken(b"a.1")
    brought.discard(b"a.1")
    brought.add(b"a.1")  # it begins anew
    assert not brought.is_forsaken(b"a.1") and all_forsaken(brought) == [b"a.2"]


def test_a_chain_of_patterns_has_no_break(table: Table, brought: Brought) -> None:
    table.add("a*", rounds=0)
    brought.add(b"abc")
    brought.add(b"axx")
    table.add("ab*", rounds=0)
    leave(table, brought, "a*")
    table.add("abc*", rounds=0)
    leave(table, brought, "ab*")
    table.add("*", rounds=0)
    assert not brought.is_forsaken(b"abc") and brought.is_forsaken(b"axx")
    assert all_forsaken(brought) == [b"axx"]


def test_who_brings_it_is_looked_up_for_few_that_stay(table: Table, brought: Brought) -> None:
    """What an older pattern brings is passed over as a whole."""
    for pattern in ("a*", "a.1*", "*", "b*"):
        table.add(pattern, rounds=0)
    for number in range(3 * AT_ONCE):
        brought.add(b"a.%d" % number)
    leave(table, brought, "a*", "b*")
    assert [len(channels) for channels in brought.forsaken()] == [0, 0]
    leave(table, brought, "*")
    slices = list(brought.forsaken())
    assert len(slices) <= 4 and max(map(len, slices)) <= AT_ONCE
    assert all(channel.startswith(b"a.1") for channel in brought._names.since(b""))


@pytest.mark.parametrize("seed", range(20))
def test_as_if_every_channel_were_looked_at_each_time(seed: int) -> None:
    """Patterns and channels come and go, also while it is looked."""
    chance, table = random.Random(seed), Table(max_channels=1000, max_bytes=10_000)
    brought, names = Brought(table), ["".join(chance.choices("ab", k=chance.randrange(5))) for _ in range(30)]
    patterns: dict[str, Topic] = {}
    heard: dict[bytes, bool] = {}  # whether the channel was always brought since it came
    look: Iterator[list[bytes]] = iter(())

    def change() -> None:
        name = chance.choice(names)
        if chance.random() < 0.6:
            if name in patterns:
                del patterns[name]
                brought.leave(table.remove(name + "*"))
                for channel in heard:
                    heard[channel] &= bool(table.patterns.matching(channel))
            else:
                patterns[name] = table.add(name + "*", rounds=0)
        elif name:
            channel = name.encode()
            if heard.get(channel) is False:
                assert brought.is_forsaken(channel)
                brought.discard(channel)
                del heard[channel]
            elif channel in heard:
                assert not (brought.leaving and brought.is_forsaken(channel))
            if channel not in heard and table.patterns.matching(channel):
                brought.add(channel)
                heard[channel] = True

    for _ in range(400):
        change()
        if chance.random() < 0.3:
            for found in look:
                for channel in found:
                    assert heard.pop(channel) is False
                if chance.random() < 0.5:
                    break
            else:
                look = brought.forsaken()
    for _ in (1, 2):
        for found in look:
            for channel in found:
                assert heard.pop(channel) is False
        look = brought.forsaken()
    assert all(heard.values()) and set(brought._names.since(b"")) == set(heard) and not brought.leaving
