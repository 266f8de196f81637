"""Deltas of a channel: whoever comes, goes, or is excluded, each gets a change of what it has."""

from __future__ import annotations

import random

import pytest

from raiden.delivery import deltas
from raiden.delivery.deltas import MOST, MOST_OF_RUN, Deltas, Kept
from raiden.model.encoding import Encoding
from raiden.model.message import Kind, Message


def encoding() -> Encoding:
    """Writes messages as lines: whole, or as what they are behind which other one."""

    def change(message: Message, before: Message) -> bytes:
        return b"%b<%b\n" % (message.payload, before.payload)

    return Encoding("test", lambda message: message.payload + b"\n", change=change)


def message(text: str) -> Message:
    return Message("c", Kind.JSON, text.encode())


class Reader:
    """A subscriber: the last message that it has."""

    def __init__(self) -> None:
        self.has = b""
        self.whole = self.changes = 0

    def read(self, data: bytes) -> list[bytes]:
        """Read lines; the messages."""
        found = []
        for line in data.splitlines():
            payload, is_change, before = line.partition(b"<")
            if is_change:
                assert before == self.has, "a change of a message that it has not got"
                self.changes += 1
            else:
                self.whole += 1
            self.has = payload
            found.append(payload)
        return found


Group = dict[Reader, Reader]


def put(state: Deltas[Reader, Reader], groups: dict[Encoding, Group], run: list[Message], without: Group) -> None:
    for each, group in groups.items():
        kept = {reader: reader for reader in group if reader not in without}
        got = set()
        for part, data in state.parts(each, group, kept, run):
            for reader in part:
                assert reader.read(data) == [each.payload for each in run]
                got.add(reader)
        assert got == kept.keys()
    state.delivered(run)


def test_each_gets_a_change_of_what_it_has() -> None:
    chance = random.Random(5)
    kept = Kept()
    state: Deltas[Reader, Reader] = Deltas(kept)
    encodings = [encoding(), encoding()]
    groups: dict[Encoding, Group] = {}
    number = changes = whole = 0
    for _ in range(5000):
        act = chance.random()
        everybody = [(each, reader) for each, group in groups.items() for reader in group]
        if act < 0.2 or not everybody:
            each, reader = chance.choice(encodings), Reader()
            groups.setdefault(each, {})[reader] = reader
            state.join(each, reader, reader)
        elif act < 0.38:
            each, reader = chance.choice(everybody)
            del groups[each][reader]
            state.leave(each, reader, is_last=not groups[each])
            if not groups[each]:
                del groups[each]
            assert bool(state) == bool(groups)
            changes, whole = changes + reader.changes, whole + reader.whole
        else:
            run = [message(f"m{number + at}") for at in range(chance.choice([1, 1, 1, 2, 5]))]
            number += len(run)
            left_out = [reader for _, reader in everybody if chance.random() < 0.1][: chance.randrange(2)]
            put(state, groups, run, {reader: reader for reader in left_out})
            assert state.before is not None and kept.bytes == len(state.before.payload)
    assert changes > 5 * whole > 0
    for each, group in groups.items():
        for reader in list(group):
            del group[reader]
            state.leave(each, reader, is_last=not group)
    assert not state and state.before is None and kept.bytes == 0


@pytest.fixture
def one() -> tuple[Deltas[Reader, Reader], dict[Encoding, Group], Reader]:
    state: Deltas[Reader, Reader] = Deltas(Kept())
    each, reader = encoding(), Reader()
    state.join(each, reader, reader)
    return state, {each: {reader: reader}}, reader


@pytest.mark.parametrize("is_one", [False, True])
def test_a_large_message_is_not_kept(
    one: tuple[Deltas[Reader, Reader], dict[Encoding, Group], Reader], is_one: bool
) -> None:  # fmt: skip
    """They come one by one, or as one run."""
    state, groups, reader = one
    messages = [message("x" * size) for size in (10, MOST, MOST + 1, 10, 10)]
    for run in [messages] if is_one else [[each] for each in messages]:
        put(state, groups, run, {})
    assert (reader.whole, reader.changes) == (3, 2)


def test_a_long_run_has_a_bound(one: tuple[Deltas[Reader, Reader], dict[Encoding, Group], Reader]) -> None:
    state, groups, reader = one
    size = 1000
    run = [message(f"{at:0{size}}") for at in range(3 * MOST_OF_RUN // size)]
    put(state, groups, run, {})
    assert reader.changes == MOST_OF_RUN // size and reader.whole == len(run) - reader.changes


def test_what_all_channels_keep_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "MOST_IN_ALL", 100)
    kept = Kept()
    channels = []
    for _ in range(3):
        state: Deltas[Reader, Reader] = Deltas(kept)
        each, reader = encoding(), Reader()
        state.join(each, reader, reader)
        channels.append((state, each, reader))
        for _ in range(2):
            put(state, {each: {reader: reader}}, [message("x" * 40)], {})
    assert [reader.changes for _, _, reader in channels] == [1, 1, 0] and kept.bytes == 80
    state, each, reader = channels[0]
    state.leave(each, reader, is_last=True)
    assert kept.bytes == 40
    state, each, reader = channels[2]
    for _ in range(2):
        put(state, {each: {reader: reader}}, [message("x" * 40)], {})
    assert reader.changes == 1
