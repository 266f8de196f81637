"""Streams in the embedded store: their rows, and what becomes of them. The caller has begun a transaction.

A stream's messages are those of its channel's row. The row says which kinds it takes, and when its time is over. The
rest of its state is a row of ``streams``, which has the name, and outlives the channel's row where the stream is
deleted in name. Two other channels' rows have names that no channel can have: a fork that is being made, which gets its
name when it is whole; and the remains of a stream that is gone, until its messages are removed.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from raiden.history import channel_row
from raiden.history.beginnings import Beginnings
from raiden.history.channel_row import ChannelRow
from raiden.history.share import Share
from raiden.history.store import TOUCH
from raiden.history.stream_terms import State
from raiden.history.streams import FORGET_PRODUCERS, Fork, Make, Producer, Stream, kinds
from raiden.model.message import Cursor

# A time that does not come.
NEVER: Final = 1 << 62
# Seconds that the end of a stream's ttl may be put off, so that not each use must write it: this part, and at most so
# many.
LATE, LATEST = 1 / 20, 60.0

SCHEMA = """
CREATE INDEX channels_by_lapse ON channels (lapses) WHERE lapses > 0;
CREATE TABLE streams (
    name TEXT PRIMARY KEY,
    channel INTEGER NOT NULL,    -- 0: it is deleted in name
    content_type TEXT NOT NULL,
    ttl INTEGER NOT NULL,        -- seconds; -1: none
    expires INTEGER NOT NULL,    -- 0: never
    expires_text TEXT NOT NULL,
    tail TEXT NOT NULL DEFAULT '',  -- the proof of the last message before a hollow end
    seq TEXT,                    -- the last sequence
    closer TEXT,                 -- epoch, number and id of the producer that closed it
    source TEXT,                 -- the stream that it is a fork of
    fork_at TEXT,                -- the place in that: offset and proof
    sub INTEGER NOT NULL DEFAULT 0,
    forks INTEGER NOT NULL DEFAULT 0  -- how many are there
) WITHOUT ROWID;
CREATE INDEX streams_over ON streams (name) WHERE channel = 0 AND forks = 0;
CREATE TABLE producers (
    channel INTEGER NOT NULL,
    id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,     -- the last one
    used INTEGER NOT NULL,       -- when it added something last, at the earliest
    PRIMARY KEY (channel, id)
) WITHOUT ROWID;
CREATE INDEX producers_by_use ON producers (used);
"""
# The change from the schema without streams.
MIGRATION: str = (
    """
ALTER TABLE channels ADD COLUMN kinds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE channels ADD COLUMN lapses INTEGER NOT NULL DEFAULT 0;
"""
    + SCHEMA
)

# The bytes that a row takes on the disk, besides its texts.
_ROW = 128
SIZE = f"SELECT count(*) * {_ROW} + coalesce(sum(length(CAST(name AS BLOB)) + length(content_type)), 0) FROM streams"
PRODUCERS_SIZE = f"SELECT count(*) * {_ROW} + 2 * sum(length(CAST(id AS BLOB))) FROM producers"

_COLUMNS = "name, channel, content_type, ttl, expires, expires_text, tail, seq, closer, source, fork_at, sub, forks"
# The streams that are deleted in name and have no forks any more.
_OVER = f"SELECT {_COLUMNS} FROM streams WHERE channel = 0 AND forks = 0"
# No channel's name has a control character.
_GONE = "\x01gone "
# The streams that are ended, or dropped, at once: the others when the store is tidied.
_AT_ONCE = 100
_TOUCH = int(TOUCH * 1_000_000)


class Row(NamedTuple):
    """A row of ``streams``."""

    name: str
    channel: int
    content_type: str
    ttl: int
    expires: int
    expires_text: str
    tail: str
    seq: str | None
    closer: str | None
    source: str | None
    fork_at: str | None
    sub: int
    forks: int

    @property
    def state(self) -> State:
        closer = fork = None
        if self.closer:
            epoch, number, id = self.closer.split(" ", 2)
            closer = Producer(id, int(epoch), int(number))
        if self.source is not None:
            offset, _, proof = (self.fork_at or "0:").partition(":")
            fork = Fork(self.source, Cursor("", int(offset), proof), self.sub)
        return State(self.seq, closer, fork)

    def stream(self, channel: ChannelRow | None) -> Stream:
        """The stream with this channel's row; None: it is deleted in name."""
        if channel is None:
            return Stream(self.content_type, Cursor("", 0), deleted=True)
        hollow = channel.ended == channel_row.HOLLOW
        offset, proof = channel.next - 1 - hollow, self.tail if hollow else channel.proof
        tail = Cursor(channel.lives.epoch_of(offset), offset, proof if offset else "")
        return Stream(self.content_type, tail, bool(channel.ended), self.ttl, self.expires, self.expires_text)


def size_of(name: str, content_type: str) -> int:
    """The bytes that a stream without messages takes."""
    return 2 * _ROW + 4 * len(name.encode()) + len(content_type)


def find(db: sqlite3.Connection, name: str) -> Row | None:
    """The row of a stream; of one that is deleted in name, only while it has forks."""
    row = db.execute(f"SELECT {_COLUMNS} FROM streams WHERE name = ?", (name,)).fetchone()
    return Row(*row) if row and (row[1] or row[-1]) else None


def lapse_of(ttl: int, expires: int, now: int) -> int:
    """The time when a stream is over that is used now; 0: never. A ttl that begins now may end a little later."""
    if ttl < 0:
        return expires
    late = min(ttl * LATE, LATEST)
    return max(1, now + int((ttl + late) * 1_000_000)) if ttl else max(1, now)


def is_due(ttl: int, lapses: int, now: int) -> bool:
    """Whether a use of a stream has to be noted now, so that its ttl begins anew."""
    return ttl > 0 and lapses < now + ttl * 1_000_000


class StreamRows:
    """The rows of streams in ``db``. ``names`` is the room for streams, ``producers`` that for producers."""

    def __init__(self, db: sqlite3.Connection, names: Share, producers: Share, beginnings: Beginnings) -> None:
        self._db = db
        self.names = names
        self.producers = producers
        self._beginnings = beginnings

    def find_channel(self, name: str, now: int) -> ChannelRow | None:
        """The row of a channel; a stream whose time is over is ended."""
        row = channel_row.find(self._db, name)
        return None if row is None else self.still(row, now)

    def still(self, channel: ChannelRow, now: int) -> ChannelRow | None:
        """The channel, unless it is a stream whose time is over, which is ended."""
        if not channel.has_lapsed(now):
            return channel
        self.end(channel)
        return None

    def find(self, name: str) -> Row | None:
        return find(self._db, name)

    def producer(self, channel: int, id: str) -> tuple[int, int, int] | None:
        """The epoch and the last number of a producer that is known, and when it was used, at the earliest."""
        command = "SELECT epoch, number, used FROM producers WHERE channel = ? AND id = ?"
        found: tuple[int, int, int] | None = self._db.execute(command, (channel, id)).fetchone()
        return found

    def has_room_for(self, producer: Producer) -> bool:
        return self.producers.has_room(_size_of(producer))

    # Changes.

    def add(self, name: str, terms: Make, epoch: str, lapses: int) -> ChannelRow:
        """Add the rows of a new stream."""
        self.names.take(size_of(name, terms.content_type))
        values = name, epoch, NEVER, kinds(terms.content_type), lapses
        row = self._db.execute(
            "INSERT INTO channels (name, epoch, next, first, removed, fades, ends, kinds, lapses)"
            f" VALUES (?, ?, 1, 1, 1, 0, ?, ?, ?) RETURNING {ChannelRow.COLUMNS}", values
        ).fetchone()  # fmt: skip
        channel = ChannelRow(row)
        self._db.execute(
            "INSERT INTO streams (name, channel, content_type, ttl, expires, expires_text) VALUES (?, ?, ?, ?, ?, ?)",
            (name, channel.id, *terms[:-1]),
        )
        return channel

    def note_producer(self, channel: int, producer: Producer, now: int, used: int | None) -> None:
        """Note the last number of a producer, which was ``used`` before; None: it is new."""
        values = producer.epoch, producer.number
        if used is None:
            self.producers.take(_size_of(producer))
            self._db.execute("INSERT INTO producers VALUES (?, ?, ?, ?, ?)", (channel, producer.id, *values, now))
            return
        # The time is in an index, so it is not written each time.
        new, times = (", used = ?", (now,)) if now - used > _TOUCH else ("", ())
        command = f"UPDATE producers SET epoch = ?, number = ?{new} WHERE channel = ? AND id = ?"
        self._db.execute(command, (*values, *times, channel, producer.id))

    def note_seq(self, name: str, seq: str) -> None:
        self._db.execute("UPDATE streams SET seq = ? WHERE name = ?", (seq, name))

    def close(self, name: str, tail: str, closer: Producer | None) -> None:
        """Note how a stream was closed: ``tail`` is the proof of the message before a hollow end."""
        written = closer and f"{closer.epoch} {closer.number} {closer.id}"
        self._db.execute("UPDATE streams SET tail = ?, closer = ? WHERE name = ?", (tail, written, name))

    def touch(self, channel: ChannelRow, ttl: int, now: int) -> None:
        """Note a use of a stream, if that has to be noted."""
        if is_due(ttl, channel.lapses, now):
            self.let_lapse(channel, lapse_of(ttl, 0, now))

    def let_lapse(self, channel: ChannelRow, lapses: int) -> None:
        channel.lapses = lapses
        self._db.execute("UPDATE channels SET lapses = ? WHERE id = ?", (lapses, channel.id))

    def end(self, channel: ChannelRow) -> None:
        """End a stream: its name is free, unless it has forks. Its messages are removed by `tidy`."""
        row = self.find(channel.name)
        self._db.execute("UPDATE channels SET name = ?, lapses = 1 WHERE id = ?", (f"{_GONE}{channel.id}", channel.id))
        self._beginnings.forget(channel.name)
        if row is not None and row.forks:
            self._db.execute("UPDATE streams SET channel = 0 WHERE name = ?", (row.name,))
        elif row is not None:
            self._drop(row)

    def _drop(self, row: Row) -> None:
        """Remove the row of a stream without forks, and tell its source; a source that only this one kept goes, too."""
        for _ in range(_AT_ONCE):
            self._db.execute("DELETE FROM streams WHERE name = ?", (row.name,))
            if row.source is None:
                return
            self._db.execute("UPDATE streams SET forks = forks - 1 WHERE name = ?", (row.source,))
            source = self._db.execute(f"{_OVER} AND name = ?", (row.source,)).fetchone()
            if source is None:
                return
            row = Row(*source)

    # Removing.

    def tidy(self, limit: int, now: int) -> int:
        """End streams whose time is over, and remove up to ``limit`` messages, and as many producers, of those that are
        gone; return how many were removed."""
        removed = 0
        for row in self._db.execute(f"{_OVER} LIMIT {_AT_ONCE}").fetchall():
            self._drop(Row(*row))
            removed += 1
        # The index is of channels with lapses > 0, and is used by queries that say so in these words.
        past = "lapses > 0 AND lapses > 1 AND lapses <= ?"
        command = f"SELECT {ChannelRow.COLUMNS} FROM channels WHERE {past} LIMIT {_AT_ONCE}"
        for row in self._db.execute(command, (now,)).fetchall():
            self.end(ChannelRow(row))
            removed += 1
        command = "SELECT id FROM channels WHERE lapses > 0 AND lapses = 1 LIMIT 1"
        while removed < limit and (found := self._db.execute(command).fetchone()):
            left = limit - removed
            for each in ("messages", "position"), ("producers", "id"), ("keys", "key"):
                removed += self._remove(*each, found[0], left)
            if removed < limit:
                removed += self._db.execute("DELETE FROM channels WHERE id = ?", found).rowcount
        removed += self._db.execute(
            "DELETE FROM producers WHERE (channel, id) IN"
            " (SELECT channel, id FROM producers WHERE used <= ? ORDER BY used LIMIT ?)",
            (now - int(FORGET_PRODUCERS * 1_000_000) - _TOUCH, limit),
        ).rowcount  # fmt: skip
        return removed

    def _remove(self, table: str, column: str, channel: int, limit: int) -> int:
        """Remove rows of a channel from a table."""
        command = (
            f"DELETE FROM {table} WHERE channel = ? AND {column} IN"
            f" (SELECT {column} FROM {table} WHERE channel = ? LIMIT ?)"
        )
        return self._db.execute(command, (channel, channel, limit)).rowcount


def _size_of(producer: Producer) -> int:
    return _ROW + 2 * len(producer.id.encode())
