"""The embedded store: SQLite in WAL mode, one file that all workers of a node share.

Any number of processes may append: a transaction takes the write lock first (``BEGIN IMMEDIATE``), reads where the
channels stand, and so gives out offsets in one order. But a process that finds the lock taken sleeps before it looks
again: with two writers the slowest commits took 330 ms, so let one process write for all. Readers see the last commit
and never wait. The caller makes groups: one `append` is one commit, however many messages it has.

Messages beyond a channel's size are hidden at once and removed some at a time (`raiden.history.appending`). Messages
beyond their age are hidden at once and removed by `tidy`.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from raiden.history import channel_row, durables, figures, pages, schema, stream_rows
from raiden.history.appending import ROW, Appending, size_of_name
from raiden.history.beginnings import Beginnings
from raiden.history.channel_row import ChannelRow
from raiden.history.clock import Clock, steady
from raiden.history.file import File
from raiden.history.share import Share
from raiden.history.store import (
    NEVER,
    Append,
    Appended,
    Claimed,
    FiguresAsked,
    FiguresPage,
    GiveUp,
    Letters,
    StoreFailed,
)
from raiden.history.streams import StreamPage
from raiden.model.message import Cursor, Kind
from raiden.model.names import MAX_CHANNEL_BYTES
from raiden.model.options import Durability
from raiden.model.page import Page, Stand

# The parts of the largest size that channels, besides their messages, kept values, and producers of streams may take.
# So messages always have more than half of it.
NAMES, KEPT, PRODUCERS = 1 / 4, 1 / 8, 1 / 32
# Channels that are looked at, for each row that `tidy` may remove, while there is little room for more.
LOOKED_AT = 5
# Microseconds after which a transaction that writes writes the time, too.
SAVE_TIME = 10_000_000


def _with_holder(value: bytes, holder: str) -> bytes:
    """A value as it is kept: behind the name of its holder."""
    return holder.encode() + b"\0" + value


_MOST_OF_A_NAME = ROW + 3 * MAX_CHANNEL_BYTES
_NAMES_SIZE = (
    f"SELECT (SELECT count(*) * {ROW} + 3 * coalesce(sum(length(CAST(name AS BLOB))), 0) FROM channels)"
    f" + ({stream_rows.SIZE})"
)
_KEPT_SIZE = f"SELECT count(*) * {ROW} + sum(length(value)) FROM kept"


class Sqlite:
    """The store in the file ``path``, which is a `File`. It may take ``max_size`` bytes (0: the disk is the limit), and
    an append that needs more fails. ``clock`` gives microseconds; the store goes by a `Clock` of it."""

    def __init__(self, path: Path, max_size: int = 0, *, clock: Callable[[], int] | None = None) -> None:
        self._file = File(path, schema.SCHEMA + durables.SCHEMA + stream_rows.SCHEMA, schema.MIGRATIONS, max_size)
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
        self._beginnings = Beginnings(self.life)
        producers = self._share(PRODUCERS * max_size, stream_rows.PRODUCERS_SIZE, "there are too many producers")
        self._appending = Appending(self._db, self._names, producers, self._beginnings)
        self._streams = self._appending.stream_rows
        # The channel up to which channels without messages were looked for.
        self._looked = (0, 0)

    def _share(self, most: float, sizes: str, what: str) -> Share:
        def count() -> int:
            return int(self._file.read(lambda: self._db.execute(sizes).fetchone()[0] or 0))

        return Share(most, count, f"{what} for max_data: raise it, or wait until some are forgotten")

    # The methods of `Store`.

    def append(self, appends: Sequence[Append], calls: Sequence[int] | None = None) -> list[Appended]:
        synced = any(append.durability == Durability.SYNCED for append in appends)
        return self._file.write(lambda: self._appending.append(appends, calls, self._now()), synced=synced, grows=True)

    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        page = self._file.read(lambda: pages.read(self._db, channel, cursor, limit, self._clock, forward=True))
        if page.position is None and cursor == self._beginnings.place(channel):
            page.gap = None
        return page

    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._file.read(lambda: pages.read(self._db, channel, cursor, limit, self._clock, forward=False))

    def positions(self, channels: Sequence[str]) -> dict[str, Stand]:
        found = self._file.read(lambda: [(name, self._find(name)) for name in channels])
        return {name: Stand(row.position, bool(row.ended)) for name, row in found if row}

    def begin(self, channels: Sequence[str]) -> dict[str, Cursor]:
        return {name: self._beginnings.place(name) for name in channels}

    def refused(self, channels: Sequence[str]) -> dict[str, str]:
        if self._names.has_room(len(channels) * _MOST_OF_A_NAME):
            return {}
        new = {name for name in channels if self._file.read(lambda: self._find(name)) is None}  # noqa: B023
        room = self._names.has_room(sum(map(size_of_name, new)))
        return {} if room else dict.fromkeys(new, self._names.why)

    def clear(self, channel: str) -> str:
        def clear() -> str:
            row = self._streams.find_channel(channel, self._now())
            if row and row.kinds:
                self._streams.end(row)
            elif row:
                self._db.execute("DELETE FROM messages WHERE channel = ?", (row.id,))
                self._db.execute("DELETE FROM keys WHERE channel = ?", (row.id,))
                self._db.execute("DELETE FROM channels WHERE id = ?", (row.id,))
                self._beginnings.forget(channel)
            return row.epoch if row else ""

        return self._file.write(clear)

    def stream(self, channel: str, place: Cursor | None = None, limit: int = 0, *, touch: bool = False) -> StreamPage:
        now = self._clock()
        page, row = self._file.read(lambda: pages.read_stream(self._db, channel, place, limit, now))
        stream = page.stream
        if touch and stream is not None and row is not None and stream_rows.is_due(stream.ttl, row.lapses, now):
            with contextlib.suppress(StoreFailed):  # it is read all the same
                self._file.write(lambda: self._streams.touch(row, stream.ttl, self._now()))
        return page

    def delete(self, channel: str) -> str:
        def delete() -> str:
            row = self._streams.find_channel(channel, self._now())
            if row is None or not row.kinds:
                return ""
            self._streams.end(row)
            return row.epoch

        return self._file.write(delete)

    def claim(
        self, channel: str, durable: str, limit: int, wait: float, since: Cursor | None = None,
        give_up: GiveUp = NEVER, *, make: bool = True,
    ) -> Claimed:  # fmt: skip
        now = self._clock()
        if place := self._file.read(lambda: durables.idle(self._db, channel, durable, now)):
            return Claimed([], place)
        most, dead = give_up
        room = dead is None or (self._file.has_room() and self._takes(dead.channel))

        def claim() -> Claimed:
            claimed, letters = durables.claim(
                self._db, channel, durable, limit, wait, since, self._now(), self._durables, most,
                room=room, make=make,
            )  # fmt: skip
            if not letters or dead is None:
                return claimed
            # This need not be flushed to the disk: a failure that loses a letter brings the claim back.
            written = replace(dead, messages=[(int(Kind.JSON), letter) for letter in letters])
            (appended,) = self._appending.append([written], None, self._now())
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
            self._kept.take(len(stored) - row[0] if row else len(stored) + ROW)
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
            removed += self._forgotten(
                "DELETE FROM channels WHERE id IN (SELECT id FROM channels WHERE ends <= ?"
                " AND NOT EXISTS (SELECT 1 FROM messages WHERE channel = channels.id) LIMIT ?) RETURNING name",
                (now, limit),
            )
            removed += self._streams.tidy(limit, now)
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

    def _find(self, channel: str) -> ChannelRow | None:
        return channel_row.find_now(self._db, channel, self._clock())

    def _takes(self, channel: str) -> bool:
        """Whether there is room for a channel, and it has not come to its end."""
        row = self._file.read(lambda: self._find(channel))
        return not row.ended if row else not self.refused([channel])

    def _now(self) -> int:
        """The time, for a transaction that writes; now and then it is stored."""
        now = self._clock()
        if now - self._saved >= SAVE_TIME:
            self._saved = now
            self._db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (now,))
        return now

    def _forget_empty(self, limit: int) -> int:
        """Forget the channels without messages and keys among the next ``limit`` ones, least used first; not those that
        have come to their end, for then they would take messages again."""
        found = self._db.execute(
            "SELECT ends, id FROM channels WHERE (ends, id) > (?, ?) ORDER BY ends, id LIMIT ?", (*self._looked, limit)
        ).fetchall()
        self._looked = found[-1] if len(found) == limit else (0, 0)
        command = (
            "DELETE FROM channels WHERE id = ? AND NOT ended AND NOT kinds"
            " AND NOT EXISTS (SELECT 1 FROM messages WHERE channel = channels.id)"
            " AND NOT EXISTS (SELECT 1 FROM keys WHERE channel = channels.id) RETURNING name"
        )
        return sum([self._forgotten(command, (id,)) for _, id in found])

    def _forgotten(self, command: str, values: Sequence[int]) -> int:
        """Remove channels by a command that returns their names; their number."""
        names = self._db.execute(command, values).fetchall()
        for (name,) in names:
            self._beginnings.forget(name)
        return len(names)
