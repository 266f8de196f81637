"""The table of channels and patterns, and what stands in order in it."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from raiden.delivery.prefixes import Prefixes
from raiden.delivery.sorted_names import LONGEST_PIECE, SortedNames
from raiden.delivery.table import FEW, LOOKS, REMEMBERED, Subscription, Table, TooManyChannels
from raiden.model import encoding

LINE = encoding.line(False, False)


@pytest.fixture
def table() -> Table:
    return Table(max_channels=100_000, max_bytes=10_000_000)


def attach(table: Table, name: str) -> None:
    """A subscriber of a name."""
    found = table.find(name) or table.add(name, rounds=0)
    sink = cast(Any, object())
    found.attach(Subscription(name, found, sink, sink, LINE, None))


def test_names_stand_in_order() -> None:
    """However they come and go, the same as a set that is sorted."""
    chance = random.Random(7)
    names, model = SortedNames(), set[bytes]()
    for step in range(12 * LONGEST_PIECE):
        name = b"%d" % chance.randrange(5 * LONGEST_PIECE)
        if chance.random() < (0.7 if step < 8 * LONGEST_PIECE else 0.2):
            names.add(name)
            model.add(name)
        else:
            names.discard(name)
            model.discard(name)
        assert (name in names) == (name in model) and len(names) == len(model)
    for begin in (b"", b"3", b"49", b"9", b":"):
        expected = sorted(name for name in model if name >= begin)
        assert list(names.since(begin)) == expected
        assert names.first(begin) == (expected[0] if expected else None)
    for name in model:
        names.discard(name)
    assert len(names) == 0 and names.first(b"") is None and list(names.since(b"")) == []


def test_prefixes_of_a_name() -> None:
    prefixes: Prefixes[str] = Prefixes()
    for prefix in ("", "a", "b", "ab", "abcd"):
        prefixes.add(prefix.encode(), prefix)
    assert prefixes.matching(b"abc") == ["", "a", "ab"]
    assert prefixes.remove(b"a") == "a"
    assert prefixes.matching(b"abcde") == ["", "ab", "abcd"] and prefixes.matching(b"b") == ["", "b"]


@pytest.mark.parametrize("lengths", [0, FEW])
def test_a_channel_is_brought_by_its_name_and_by_patterns(table: Table, lengths: int) -> None:
    for size in range(lengths):  # then what was found is remembered
        table.add(f"other{'x' * size}*", rounds=0)
    names = ["a.b", "a.*", "*", "b"]
    made = {name: table.add(name, rounds=0) for name in names}
    for _ in range(2):
        assert table.matching(b"a.b") == [made["a.b"], made["*"], made["a.*"]]
        assert table.matching(b"c") == [made["*"]]
    table.remove("*")
    assert table.matching(b"a.b") == [made["a.b"], made["a.*"]] and table.matching(b"c") == []
    made["a*"] = table.add("a*", rounds=0)
    assert table.matching(b"a.b") == [made["a.b"], made["a*"], made["a.*"]]
    table.remove("a.b")
    assert table.matching(b"a.b") == [made["a*"], made["a.*"]]
    assert len(table) == 3 + lengths


def test_what_is_remembered_of_channels_is_bounded(table: Table) -> None:
    everything = table.add("*", rounds=0)
    for size in range(FEW):
        table.add(f"other{'x' * size}*", rounds=0)
    for number in range(2 * REMEMBERED + 1):
        assert table.matching(b"%d" % number) == [everything]
    assert 0 < len(table._brought_by) <= REMEMBERED


def test_the_bytes_of_names_are_bounded() -> None:
    table = Table(max_channels=100, max_bytes=20)
    table.add("ä" * 5, rounds=0)
    table.add("b" * 9 + "*", rounds=0)
    with pytest.raises(TooManyChannels, match="max_channel_bytes"):
        table.add("c", rounds=0)
    assert table.find("c") is None and table.bytes == 20
    table.remove("b" * 9 + "*")
    table.add("d" * 10, rounds=0)
    table.max_channels = 2
    with pytest.raises(TooManyChannels, match="max_channels"):
        table.add("e", rounds=0)


def test_pages_of_the_table(table: Table) -> None:
    names = sorted([f"{kind}.{number:03}" for kind in "ab" for number in range(100)] + ["a.*", "*"])
    for name in names:
        attach(table, name)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        rows, after = table.page("", after, 7)
        assert len(rows) <= 7 and all(row == {"subscribers": 1, "messages": 0} for row in rows.values())
        found += rows
    assert found == names
    assert list(table.page("a.", "a.097", 10)[0]) == ["a.098", "a.099"]
    assert table.page("c", "", 10) == ({}, None)


def test_a_page_looks_at_few_names_that_have_no_subscriber_now(table: Table) -> None:
    for number in range(100):
        table.add(f"{number:03}", rounds=0)
    attach(table, "100")
    rows, after = table.page("", "", 10)
    assert rows == {} and after == f"{LOOKS * 10 - 1:03}"
    looks = 1
    while after is not None:
        rows, after = table.page("", after, 10)
        looks += 1
    assert list(rows) == ["100"] and looks == 4
