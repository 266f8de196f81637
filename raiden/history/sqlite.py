"""The embedded store: SQLite in WAL mode, one file that all workers of a node share.

Any number of processes may append: a transaction takes the write lock first (``BEGIN IMMEDIATE``), reads where the
channels stand, and so gives out offsets in one order. But a process that finds the lock taken sleeps before it looks
again: with two writers the slowest commits took 330 ms, so let one process write for all. Readers see the last commit
and never wait. The caller makes groups: one `append` is one commit, however many messages it has.

Messages beyond a channel's size are hidden at once and removed some at a time (`SLACK`). Messages beyond their age are
hidden at once and removed by `tidy`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raiden.history import channel_row, durables, figures, pages, schema
from raiden.history.channel_row import ChannelRow
from raiden.history.clock import Clock, steady
from raiden.history.file import File
from raiden.history.share import Share
from raiden.history.store import (
    FORGET,
    KEY_WINDOW,
    NEVER,
    TOUCH,
    Append,
    Appended,
    Claimed,
    FiguresAsked,
    FiguresPage,
    GiveUp,
    Letters,
    StoreFailed,
    full,
)
from raiden.model.chain import Lives, chained, link, new_epoch
from raiden.model.message import EARLIEST, Cursor, Kind
from raiden.model.names import MAX_CHANNEL_BYTES
from raiden.model.options import Durability
from raiden.model.page import Page

# Messages over a channel's size that are left until it is worth removing them.
SLACK = 64
# The parts of the largest size that channels, besides their messages, and kept values may take. So messages always have
# more than half of it.
NAMES, KEPT = 1 / 4, 1 / 8
# Channels that are looked at, for each row that `tidy` may remove, while there is little room for more.
LOOKED_AT = 5
# Microseconds after which a transaction that writes writes the time, too.
SAVE_TIME = 10_000_000

_EXPIRES = 4  # the column of messages


def _with_holder(value: bytes, holder: str) -> bytes:
    """A value as it is kept: behind the name of its holder."""
    return holder.encode() + b"\0" + value


# Bytes that rows take on the disk besides their texts, with their indexes and the room that pages leave. A channel's
# name is stored twice.
_ROW = 128
_MOST_OF_A_NAME = _ROW + 3 * MAX_CHANNEL_BYTES
_NAMES_SIZE = f"SELECT count(*) * {_ROW} + 3 * sum(length(CAST(name AS BLOB))) FROM channels"
_KEPT_SIZE = f"SELECT count(*) * {_ROW} + sum(length(value)) FROM kept"


def _size_of_name(name: str) -> int:
    return _ROW + 3 * len(name.encode())


class Sqlite:
    """The store in the file ``path``, which is a `File`. It may take ``max_size`` bytes (0: the disk is the limit), and
    an append that needs more fails. ``clock`` gives microseconds; the store goes by a `Clock` of it."""

    def __init__(self, path: Path, max_size: int = 0, *, clock: Callable[[], int] | None = None) -> None:
        self._file = File(path, schema.SCHEMA + durables.SCHEMA, schema.MIGRATIONS, max_size)
        self._db = self._file.db
        # Nobody can tell whether this file is as it was left, so each opening begins a new life.
        self.life = secrets.token_hex(8)
        self._file.write(lambda: self._db.execute("UPDATE life SET name = ?", (self.life,)))
        self._clock = Clock(clock or steady())
        self._file.write(lambda: self._db.execute(schema.CLOCK))
        saved = self._file.read(lambda: self._db.execute("SELECT now FROM clock").fetchone())
        self._clock.go_on_from(saved[0] if saved else 0)
        self._saved = 0
        self._names = self._share(NAMES * max_size, _NAMES_SIZE, "there are too many channels")
        self._kept = self._share(KEPT * max_size, _KEPT_SIZE, "too much is kept for sessions")
        self._durables = durables.Shares(self._share, max_size)
        # The channel up to which channels without messages were looked for.
        self._looked = (0, 0)

    def _share(self, most: float, sizes: str, what: str) -> Share:
        def count() -> int:
            return int(self._file.read(lambda: self._db.execute(sizes).fetchone()[0] or 0))

        return Share(most, count, f"{what} for max_data: raise it, or wait until some are forgotten")

    # The methods of `Store`.

    def append(self, appends: Sequence[Append], calls: Sequence[int] | None = None) -> list[Appended]:
        synced = any(append.durability == Durability.SYNCED for append in appends)
        return self._file.write(lambda: self._append(appends, calls), synced=synced, grows=True)

    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._file.read(lambda: pages.read(self._db, channel, cursor, limit, self._clock, forward=True))

    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._file.read(lambda: pages.read(self._db, channel, cursor, limit, self._clock, forward=False))

    def positions(self, channels: Sequence[str]) -> dict[str, Cursor]:
        found = self._file.read(lambda: [(name, channel_row.find(self._db, name)) for name in channels])
        return {name: row.position for name, row in found if row}

    def refused(self, channels: Sequence[str]) -> dict[str, str]:
        if self._names.has_room(len(channels) * _MOST_OF_A_NAME):
            return {}
        new = {name for name in channels if self._file.read(lambda: channel_row.find(self._db, name)) is None}  # noqa: B023
        room = self._names.has_room(sum(map(_size_of_name, new)))
        return {} if room else dict.fromkeys(new, self._names.why)

    def clear(self, channel: str) -> str:
        def clear() -> str:
            row = channel_row.find(self._db, channel)
            if row:
                self._db.execute("DELETE FROM messages WHERE channel = ?", (row.id,))
                self._db.execute("DELETE FROM keys WHERE channel = ?", (row.id,))
                self._db.execute("DELETE FROM channels WHERE id = ?", (row.id,))
            return row.epoch if row else ""

        return self._file.write(clear)

    def claim(
        self, channel: str, durable: str, limit: int, wait: float, since: Cursor | None = None,
        give_up: GiveUp = NEVER, *, make: bool = True,
    ) -> Claimed:  # fmt: skip
        now = self._clock()
        if place := self._file.read(lambda: durables.idle(self._db, channel, durable, now)):
            return Claimed([], place)
        most, dead = give_up
        room = dead is None or (self._file.has_room() and not self.refused([dead.channel]))

        def claim() -> Claimed:
            claimed, letters = durables.claim(
                self._db, channel, durable, limit, wait, since, self._now(), self._durables, most,
                room=room, make=make,
            )  # fmt: skip
            if not letters or dead is None:
                return claimed
            # This need not be flushed to the disk: a failure that loses a letter brings the claim back.
            (appended,) = self._append([replace(dead, messages=[(int(Kind.JSON), letter) for letter in letters])], None)
            return claimed._replace(letters=Letters(appended, letters))

        try:
            return self._file.write(claim)
        except StoreFailed:
            if dead is None or not room:
                raise
        room = False  # perhaps there is none for these letters: the claims go on without giving up
        return self._file.write(claim)

    def acknowledge(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]],
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        return self._file.write(lambda: durables.acknowledge(self._db, channel, durable, epoch, claims, proofs))

    def release(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]], delay: float = 0.0,
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        until = self._clock() + int(delay * 1_000_000) if delay else 0
        return self._file.write(lambda: durables.release(self._db, channel, durable, epoch, claims, proofs, until))

    def forget(self, channel: str, durable: str) -> None:
        self._file.write(lambda: durables.forget(self._db, channel, durable))

    def figures(self, asked: FiguresAsked) -> FiguresPage:
        return self._file.read(lambda: figures.read(self._db, asked, self._clock()))

    def keep(self, name: str, value: bytes, ttl: float, holder: str) -> bool:
        def keep() -> bool:
            kept = self._kept_value(name)
            if kept is not None and kept[1] != holder:
                return False
            stored = _with_holder(value, holder)
            row = self._db.execute("SELECT length(value) FROM kept WHERE name = ?", (name,)).fetchone()
            self._kept.take(len(stored) - row[0] if row else len(stored) + _ROW)
            expires = self._now() + int(ttl * 1_000_000)
            self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (name, expires, stored))
            return True

        return self._file.write(keep, grows=True)

    def take(self, name: str, holder: str, only_from: str = "") -> tuple[bytes, str] | None:
        def take() -> tuple[bytes, str] | None:
            kept = self._kept_value(name)
            if kept is None or only_from not in ("", kept[1]):
                return None
            self._db.execute("UPDATE kept SET value = ? WHERE name = ?", (_with_holder(kept[0], holder), name))
            return kept

        return self._file.write(take)

    def _kept_value(self, name: str) -> tuple[bytes, str] | None:
        """The value that is kept under a name, and its holder."""
        command = "SELECT value FROM kept WHERE name = ? AND expires > ?"
        row = self._db.execute(command, (name, self._clock())).fetchone()
        if row is None:
            return None
        holder, _, value = row[0].partition(b"\0")
        return value, holder.decode()

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
                "DELETE FROM channels WHERE id IN (SELECT id FROM channels WHERE ends <= ?"
                " AND NOT EXISTS (SELECT 1 FROM messages WHERE channel = channels.id) LIMIT ?)",
                (now, limit),
            ).rowcount
            removed += self._db.execute(
                "DELETE FROM kept WHERE name IN (SELECT name FROM kept WHERE expires <= ? LIMIT ?)", (now, limit)
            ).rowcount
            self._names.recount()
            if self._names.short:
                removed += self._forget_empty(LOOKED_AT * limit)
            return removed + durables.tidy(self._db, limit, now)

        return self._file.write(tidy)

    def now(self) -> int:
        return self._clock()

    def check(self) -> None:
        self._file.check()

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()

    def _now(self) -> int:
        """The time, for a transaction that writes; now and then it is stored."""
        now = self._clock()
        if now - self._saved >= SAVE_TIME:
            self._saved = now
            self._db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (now,))
        return now

    def _forget_empty(self, limit: int) -> int:
        """Forget the channels without messages and keys among the next ``limit`` ones, least used first."""
        found = self._db.execute(
            "SELECT ends, id FROM channels WHERE (ends, id) > (?, ?) ORDER BY ends, id LIMIT ?", (*self._looked, limit)
        ).fetchall()
        self._looked = found[-1] if len(found) == limit else (0, 0)
        return self._db.executemany(
            "DELETE FROM channels WHERE id = ? AND NOT EXISTS (SELECT 1 FROM messages WHERE channel = channels.id)"
            " AND NOT EXISTS (SELECT 1 FROM keys WHERE channel = channels.id)",
            [(id,) for _, id in found],
        ).rowcount

    # Appending.

    def _append(self, appends: Sequence[Append], calls: Sequence[int] | None) -> list[Appended]:
        now = self._now()
        channels: dict[str, ChannelRow] = {}
        rows: list[list[Any]] = []
        results: list[Appended] = []
        if not any([append.discard_new for append in appends]):
            results = [self._place(append, channels, rows, now) for append in appends]
        else:
            for count in calls or [1] * len(appends):
                call = appends[len(results) : len(results) + count]
                why = self._full(call, channels, now)
                if why:
                    results += [Appended("", range(0), full=why)] * count
                else:
                    results += [self._place(append, channels, rows, now) for append in call]
        self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        for channel in channels.values():
            self._trim(channel)
        return results

    def _full(self, call: Sequence[Append], channels: dict[str, ChannelRow], now: int) -> str:
        """The reason why a call is not done: it would push out a message that a durable still needs. "": it may be
        done."""
        for append in call:
            if not append.discard_new:
                continue
            size, _, _ = append.limits()
            channel = channels.get(append.channel) or channel_row.find(self._db, append.channel)
            id, first, stored, next_, lives = 0, 1, 1, 1, Lives(EARLIEST.epoch, 1)
            if channel is not None:
                if append.key is not None and self._appended(channel, append.key, now):
                    continue
                id, first, stored, next_ = channel.id, channel.first, channel.stored, channel.next
                lives = channel.lives
            below = next_ + len(append.messages) - size
            if below > first and durables.need(self._db, append.channel, id, lives, first, stored, below, now):
                return full(append.channel, size)
        return ""

    def _appended(self, channel: ChannelRow, key: str, now: int) -> Appended | None:
        """The result of the append that was made under a key before, if there was one."""
        known = self._db.execute(
            "SELECT epoch, first, count, chain FROM keys WHERE channel = ? AND key = ? AND expires > ?",
            (channel.id, key, now),
        ).fetchone()
        if known is None:
            return None
        epoch, first, count, chain = known
        return Appended(epoch, range(first, first + count), True, chain)

    def _place(self, append: Append, channels: dict[str, ChannelRow], rows: list[list[Any]], now: int) -> Appended:
        """Give an append its offsets, and add its rows."""
        channel = channels.get(append.channel)
        if channel is None:
            name = append.channel
            channel = channels[name] = channel_row.find(self._db, name) or self._new_channel(name)
        if append.key is not None:
            known = self._appended(channel, append.key, now)
            if known is not None:
                return known
        size, ttl, retain = append.limits()
        first, expires = channel.next, now + int(ttl * 1_000_000)
        before, proofs = channel.proof, []
        if append.messages:
            if channel.life != channel.lives_in:
                channel.enter()
            self._fade(channel)
            for kind, payload in append.messages:
                channel.proof = link(channel.proof, kind, now, payload)
                rows.append([channel.id, channel.next, kind, now, expires, payload, channel.proof])
                proofs.append(channel.proof)
                channel.next += 1
            channel.last = rows[-1]
            if retain > ttl:
                channel.fades, channel.last[_EXPIRES] = expires, now + int(retain * 1_000_000)
            ends = max(now + int(FORGET * 1_000_000), channel.last[_EXPIRES])
            if not ends <= channel.ends <= ends + int(TOUCH * 1_000_000):
                channel.ends, channel.touched = ends + int(TOUCH * 1_000_000), True
        channel.first = max(channel.first, channel.next - size)
        offsets, chain = range(first, channel.next), chained(before, proofs)
        if append.key is not None:
            window = now + int(KEY_WINDOW * 1_000_000)
            values = (channel.id, append.key, channel.epoch, first, len(offsets), window, chain)
            self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return Appended(channel.epoch, offsets, False, chain)

    def _fade(self, channel: ChannelRow) -> None:
        """Let the message that is the last no more expire as all others do."""
        if channel.fades and channel.last:
            channel.last[_EXPIRES] = channel.fades
        elif channel.fades:
            self._db.execute(
                "UPDATE messages SET expires = ? WHERE channel = ? AND position = ?",
                (channel.fades, channel.id, channel.next - 1),
            )
        channel.fades = 0

    def _trim(self, channel: ChannelRow) -> None:
        """Write a channel's row, and remove its hidden messages, once that is worth it."""
        if channel.first - channel.removed >= SLACK:
            self._db.execute("DELETE FROM messages WHERE channel = ? AND position < ?", (channel.id, channel.first))
            channel.removed = channel.first
        self._db.execute(
            "UPDATE channels SET next = ?, first = ?, removed = ?, fades = ?, proof = ? WHERE id = ?",
            (channel.next, channel.first, channel.removed, channel.fades, channel.proof, channel.id),
        )
        if channel.begun:
            self._db.execute(
                "UPDATE channels SET epoch = ?, life = ?, past = ? WHERE id = ?",
                (channel.epoch, channel.life, channel.past, channel.id),
            )
        if channel.touched:  # this changes an index too, so it is not done each time
            self._db.execute("UPDATE channels SET ends = ? WHERE id = ?", (channel.ends, channel.id))

    def _new_channel(self, name: str) -> ChannelRow:
        self._names.take(_size_of_name(name))
        row = self._db.execute(
            "INSERT INTO channels (name, epoch, next, first, removed, fades, ends) VALUES (?, ?, 1, 1, 1, 0, ?)"
            f" RETURNING {ChannelRow.COLUMNS}",
            (name, new_epoch(), self._clock() + int((FORGET + TOUCH) * 1_000_000)),
        ).fetchone()
        return ChannelRow(row)
