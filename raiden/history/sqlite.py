"""The embedded store: SQLite in WAL mode, one file that all workers of a node share.

Any number of processes may append: a transaction takes the write lock first (``BEGIN IMMEDIATE``), reads where the
channels stand, and so gives out offsets in one order. But one that finds the lock taken sleeps before it looks again:
with two writers the slowest commits took 330 ms, so let one process write for all. Readers see the last commit and
never wait. A commit is written to the WAL: with ``synchronous = NORMAL`` that survives the end of every process, with
``FULL`` it is flushed to the disk first and survives the end of the machine
(sqlite.org/pragma.html#pragma_synchronous). The caller makes groups: one `append` is one commit, whatever it holds.

Messages beyond a channel's size are hidden at once and removed some at a time (`SLACK`), those beyond their age are
hidden at once and removed by `tidy`.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from raiden.history import FORGET, KEY_WINDOW, Append, Appended, Durability, Page, Record, StoreFailed, is_in
from raiden.message import Cursor

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
APPLICATION_ID = 0x52616964  # "Raid", so that `file` knows it
BUSY_TIMEOUT = 5.0  # seconds that a commit waits for other processes' commits
# Messages over a channel's size that are left until it is worth removing them.
SLACK = 64

_SCHEMA = """
CREATE TABLE channels (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    next INTEGER NOT NULL,       -- the offset that the next message gets
    first INTEGER NOT NULL,      -- offsets below are hidden
    removed INTEGER NOT NULL,    -- offsets below are removed
    used INTEGER NOT NULL        -- when something was appended last: microseconds since 1970, by this machine's clock
);
CREATE INDEX channels_by_use ON channels (used);
CREATE TABLE messages (
    channel INTEGER NOT NULL,
    position INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    published INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (channel, position)
) WITHOUT ROWID;
CREATE INDEX messages_by_age ON messages (expires);
CREATE TABLE keys (
    channel INTEGER NOT NULL,
    key TEXT NOT NULL,
    epoch TEXT NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (expires);
"""

T = TypeVar("T")


class _Channel:
    """A row of channels, as this transaction leaves it."""

    __slots__ = ("epoch", "first", "id", "next", "removed")

    def __init__(self, row: Sequence[Any]) -> None:
        self.id, self.epoch, self.next, self.first, self.removed = row


class Sqlite:
    """The store in the file ``path``, which is made if it is not there; raises StoreFailed where that can't be. A file
    that is damaged is set aside, and said so; one of a later schema is left alone. ``clock`` gives microseconds."""

    def __init__(self, path: Path, *, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._path = path
        self._clock = clock
        self._synchronous = -1
        self._db = self._guarded(self._open)

    # What `Store` promises.

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        self._synchronize(any(append.durability == Durability.SYNCED for append in appends))
        return self._guarded(lambda: self._append(appends))

    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._guarded(lambda: self._page(channel, cursor, limit, forward=True))

    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._guarded(lambda: self._page(channel, cursor, limit, forward=False))

    def positions(self, channels: Sequence[str]) -> dict[str, Cursor]:
        found = self._guarded(lambda: [(name, self._channel(name)) for name in channels])
        return {name: Cursor(row.epoch, row.next - 1) for name, row in found if row}

    def clear(self, channel: str) -> None:
        def clear() -> None:
            row = self._channel(channel)
            if row:
                self._db.execute("DELETE FROM messages WHERE channel = ?", (row.id,))
                self._db.execute("DELETE FROM keys WHERE channel = ?", (row.id,))
                self._db.execute("DELETE FROM channels WHERE id = ?", (row.id,))

        self._guarded(lambda: self._transaction(clear))

    def tidy(self, limit: int) -> int:
        def tidy() -> int:
            now = self._clock()
            removed = self._db.execute(
                "DELETE FROM messages WHERE (channel, position) IN"
                " (SELECT channel, position FROM messages WHERE expires <= ? ORDER BY expires LIMIT ?)",
                (now, limit),
            ).rowcount
            removed += self._db.execute(
                "DELETE FROM keys WHERE (channel, key) IN (SELECT channel, key FROM keys WHERE expires <= ? LIMIT ?)",
                (now, limit),
            ).rowcount
            removed += self._db.execute(
                "DELETE FROM channels WHERE id IN (SELECT id FROM channels WHERE used <= ?"
                " AND NOT EXISTS (SELECT 1 FROM messages WHERE channel = channels.id) LIMIT ?)",
                (now - int(FORGET * 1_000_000), limit),
            ).rowcount
            return removed

        return self._guarded(lambda: self._transaction(tidy))

    def close(self) -> None:
        self._db.close()

    # Appending.

    def _append(self, appends: Sequence[Append]) -> list[Appended]:
        def work() -> list[Appended]:
            now = self._clock()
            channels: dict[str, _Channel] = {}
            rows: list[tuple[Any, ...]] = []
            results = [self._place(append, channels, rows, now) for append in appends]
            self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)
            for channel in channels.values():
                self._trim(channel, now)
            return results

        return self._transaction(work)

    def _place(self, append: Append, channels: dict[str, _Channel], rows: list[tuple[Any, ...]], now: int) -> Appended:
        """Give an append its offsets, and add its rows."""
        channel = channels.get(append.channel)
        if channel is None:
            channel = channels[append.channel] = self._channel(append.channel) or self._new_channel(append.channel)
        if append.key is not None:
            known = self._db.execute(
                "SELECT epoch, first, count FROM keys WHERE channel = ? AND key = ? AND expires > ?",
                (channel.id, append.key, now),
            ).fetchone()
            if known:
                epoch, first, count = known
                return Appended(epoch, range(first, first + count), repeated=True)
        first, expires = channel.next, now + int(append.ttl * 1_000_000)
        for kind, payload, published in append.messages:
            rows.append((channel.id, channel.next, kind, published, expires, payload))
            channel.next += 1
        channel.first = max(channel.first, channel.next - append.size)
        offsets = range(first, channel.next)
        if append.key is not None:
            window = now + int(KEY_WINDOW * 1_000_000)
            values = (channel.id, append.key, channel.epoch, first, len(offsets), window)
            self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)", values)
        return Appended(channel.epoch, offsets)

    def _trim(self, channel: _Channel, now: int) -> None:
        """Write where a channel stands, and remove what is hidden, once that is worth it."""
        if channel.first - channel.removed >= SLACK:
            self._db.execute("DELETE FROM messages WHERE channel = ? AND position < ?", (channel.id, channel.first))
            channel.removed = channel.first
        self._db.execute(
            "UPDATE channels SET next = ?, first = ?, removed = ?, used = ? WHERE id = ?",
            (channel.next, channel.first, channel.removed, now, channel.id),
        )

    def _channel(self, name: str) -> _Channel | None:
        row = self._db.execute(
            "SELECT id, epoch, next, first, removed FROM channels WHERE name = ?", (name,)
        ).fetchone()
        return _Channel(row) if row else None

    def _new_channel(self, name: str) -> _Channel:
        epoch = secrets.token_hex(4)
        row = self._db.execute(
            "INSERT INTO channels (name, epoch, next, first, removed, used) VALUES (?, ?, 1, 1, 1, 0)"
            " RETURNING id, epoch, next, first, removed",
            (name, epoch),
        ).fetchone()
        return _Channel(row)

    def _transaction(self, work: Callable[[], T]) -> T:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            self._db.execute("COMMIT")
        except BaseException:  # raised again: what was begun must not stay open
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return result

    # Reading.

    def _page(self, name: str, cursor: Cursor | None, limit: int, *, forward: bool) -> Page:
        self._db.execute("BEGIN")  # the channel's row and its messages as of one moment
        try:
            channel = self._channel(name)
            if channel is None:
                return Page.nothing(cursor, forward=forward)
            offset = cursor.offset if cursor and is_in(cursor, channel.epoch, channel.next) else None
            if forward:
                low, high, order = (offset or 0) + 1, channel.next, "ASC"
            else:
                low, high, order = 1, channel.next if offset is None else offset, "DESC"
            rows = self._db.execute(
                "SELECT position, kind, payload, published FROM messages"
                " WHERE channel = ? AND position >= ? AND position < ? AND expires > ?"
                f" ORDER BY position {order} LIMIT ?",
                (channel.id, max(low, channel.first), high, self._clock(), limit + 1),
            ).fetchall()
        finally:
            self._db.execute("COMMIT")
        records = [Record(*row) for row in rows]
        return Page.found(records, channel.epoch, channel.next, cursor, limit, forward=forward)

    # The file.

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite's other files get the mode of this one.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # it can't be opened or written; that does not make it damaged
            self._set_aside(error)
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StoreFailed(
                    f"{self._path} was written by a later release (schema {version}, this one knows {SCHEMA_VERSION}): "
                    "run that release, or give this one another data_dir"
                )
            if version == 0:
                self._create(db)
        except BaseException:  # raised again: nobody else will close it
            db.close()
            raise
        return db

    @staticmethod
    def _create(db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was faster
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")

    def _set_aside(self, error: Exception) -> None:
        """Keep a damaged file for who wants to look at it, and begin anew: with other epochs, so that nobody takes the
        new offsets for the old ones."""
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                os.replace(part, aside.with_name(aside.name + suffix))
        log.error(
            "the history was damaged and set aside; a new one begins", extra={"file": str(aside), "why": str(error)}
        )

    def _synchronize(self, synced: bool) -> None:
        wanted = 2 if synced else 1  # FULL, NORMAL
        if wanted != self._synchronous:
            self._guarded(lambda: self._db.execute(f"PRAGMA synchronous = {wanted}"))
            self._synchronous = wanted

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"the history at {self._path} fails: {error}") from error
