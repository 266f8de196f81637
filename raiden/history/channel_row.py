"""A channel's row in the embedded store, while a transaction works on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from raiden.model.chain import Lives, read_past, write_past
from raiden.model.message import Cursor

# The value of ``ended`` where the last message is an end and says nothing besides.
HOLLOW: Final = 2


class ChannelRow:
    """A row of the table channels, as this transaction leaves it; ``last`` is the row of its last message, if that is
    new. ``lives_in`` is the file's life. Messages from the offset ``stored`` on are new. ``kinds`` are those of a
    stream's messages, as bits (0: it is no stream), and ``lapses`` is when its time is over (0: never)."""

    __slots__ = (
        "begun", "ended", "ends", "epoch", "fades", "first", "id", "kinds", "lapses", "last", "life", "lives_in",
        "name", "next", "past", "proof", "removed", "stored", "touched",
    )  # fmt: skip
    COLUMNS: ClassVar = (
        "id, name, epoch, next, first, removed, fades, ends, proof, life, past, ended, kinds, lapses,"
        " (SELECT name FROM life LIMIT 1)"
    )

    def __init__(self, row: Sequence[Any]) -> None:
        (
            self.id, self.name, self.epoch, self.next, self.first, self.removed, self.fades, self.ends, self.proof,
            self.life, self.past, self.ended, self.kinds, self.lapses, self.lives_in,
        ) = row  # fmt: skip
        self.stored = self.next
        self.last: list[Any] | None = None
        self.touched = self.begun = False

    @property
    def lives(self) -> Lives:
        return Lives(self.epoch, self.next, read_past(self.past), self.life != self.lives_in)

    @property
    def position(self) -> Cursor:
        return Cursor(self.epoch, self.next - 1, self.proof)

    def has_lapsed(self, now: int) -> bool:
        """Whether it is a stream whose time is over."""
        return 0 < self.lapses <= now

    def enter(self) -> None:
        """Enter the file's life: the next message begins an epoch, unless it is the channel's first message."""
        if self.next > 1:
            self.epoch, past = self.lives.begin()
            self.past = write_past(past)
        self.life, self.begun = self.lives_in, True


def find(db: sqlite3.Connection, name: str) -> ChannelRow | None:
    """The row of a channel, if it has a history; of a stream also if its time is over."""
    row = db.execute(f"SELECT {ChannelRow.COLUMNS} FROM channels WHERE name = ?", (name,)).fetchone()
    return ChannelRow(row) if row else None


def find_now(db: sqlite3.Connection, name: str, now: int) -> ChannelRow | None:
    """The row of a channel, if it has a history now."""
    row = find(db, name)
    return None if row is None or row.has_lapsed(now) else row
