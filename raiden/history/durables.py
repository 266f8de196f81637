"""Durables in SQLite: their places, and their claims. The caller has begun a transaction.

A durable refers to its channel by name, so it outlives the channel's row; its epoch tells whether the history is
another one. Its place is `EARLIEST` until the channel has a history. A message that is gone while it is claimed may
still be acknowledged; it is lost when its claim is over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from raiden.history.share import Share
from raiden.history.store import FORGET, LOOKED, MAX_PENDING, TOUCH, Claimed
from raiden.model import encoding
from raiden.model.chain import Lives, read_past
from raiden.model.message import EARLIEST, Cursor
from raiden.model.page import PAGE_BYTES, Gap, Record

# The parts of the largest size of a file that durables and claims may take; the part that growing work leaves to others
# (`raiden.history.file.RESERVE`) is enough for both.
DURABLES, CLAIMS = 1 / 32, 1 / 32
# Bytes that a row of each takes on the disk, besides its texts.
_DURABLE, _CLAIM = 128, 48

SCHEMA = """
CREATE TABLE durables (
    id INTEGER PRIMARY KEY,
    channel TEXT NOT NULL,
    name TEXT NOT NULL,
    epoch TEXT NOT NULL,
    next INTEGER NOT NULL,       -- the first offset that was never claimed
    ends INTEGER NOT NULL,       -- when it is forgotten
    redelivered INTEGER NOT NULL DEFAULT 0,  -- how many claims were of messages that had been claimed before
    dead INTEGER NOT NULL DEFAULT 0,         -- how many messages were given up
    UNIQUE (channel, name)
);
CREATE INDEX durables_by_end ON durables (ends);
CREATE TABLE claims (
    durable INTEGER NOT NULL,
    position INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    deadline INTEGER NOT NULL,   -- 0: it has passed, so that those come by their position
    PRIMARY KEY (durable, position)
) WITHOUT ROWID;
CREATE INDEX claims_by_deadline ON claims (durable, deadline);
"""
# The change from the schema without these columns.
COUNTERS = """
ALTER TABLE durables ADD COLUMN redelivered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE durables ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
"""

_FORGET, _TOUCH = int(FORGET * 1_000_000), int(TOUCH * 1_000_000)
_Row = tuple[int, str, int, int]
_NO_HISTORY = (0, EARLIEST.epoch, 1, 1, "")
_COLUMNS = "position, kind, payload, published, proof"


def idle(db: sqlite3.Connection, channel: str, name: str, now: int) -> str | None:
    """The epoch of a durable, if a claim would change nothing: the durable is there, and there is nothing for it."""
    row = db.execute(
        "SELECT durables.epoch FROM durables LEFT JOIN channels ON channels.name = durables.channel"
        " WHERE durables.channel = ? AND durables.name = ? AND durables.ends >= ?"
        " AND durables.epoch = coalesce(channels.epoch, ?) AND durables.next = coalesce(channels.next, 1)"
        " AND NOT EXISTS (SELECT 1 FROM claims WHERE durable = durables.id AND deadline <= ?)",
        (channel, name, now + _FORGET, EARLIEST.epoch, now),
    ).fetchone()
    return row[0] if row else None


class Shares:
    """The room for durables, and for claims. ``share`` makes a `Share` from its size, the query that counts it, and a
    text for the error."""

    def __init__(self, share: Callable[[float, str, str], Share], max_size: int) -> None:
        texts = "length(CAST(channel AS BLOB)) + length(CAST(name AS BLOB))"
        sizes = f"SELECT count(*) * {_DURABLE} + 3 * sum({texts}) FROM durables"
        self.durables = share(DURABLES * max_size, sizes, "there are too many durable subscriptions")
        sizes = f"SELECT count(*) * {_CLAIM} FROM claims"
        self.claims = share(CLAIMS * max_size, sizes, "too many messages are handed out and not acknowledged")


def need(
    db: sqlite3.Connection, name: str, channel: int, lives: Lives, first: int, stored: int, below: int, now: int
) -> bool:
    """Whether a durable of the channel (of this name and id) still needs an acknowledgement for a message with an
    offset from ``first`` on and below ``below``. Messages from ``stored`` on are not in the file yet, so nobody has had
    them."""
    command = "SELECT id, epoch, next FROM durables WHERE channel = ? AND ends > ?"
    for durable, epoch, next_ in db.execute(command, (name, now)).fetchall():
        if below > stored:
            return True
        place = Cursor(epoch, next_ - 1)
        never_claimed = next_ if lives.holds(place) else lives.stand(place) + 1
        (found,) = db.execute(
            "SELECT EXISTS (SELECT 1 FROM messages WHERE channel = ? AND position >= ? AND position < ? AND expires > ?"
            " AND (position >= ? OR EXISTS"
            " (SELECT 1 FROM claims WHERE durable = ? AND claims.position = messages.position)))",
            (channel, first, below, now, never_claimed, durable),
        ).fetchone()
        if found:
            return True
    return False


class _Durable:
    """A row of the table durables, as this transaction leaves it, with the gap that it has lost."""

    def __init__(
        self, db: sqlite3.Connection, channel: str, name: str, since: Cursor | None, now: int, shares: Shares
    ) -> None:
        """Find the durable, or make it; a durable whose time is over is made anew. Raises StoreFailed where there is no
        room for it."""
        self._db = db
        self._now = now
        self._shares = shares
        command = "SELECT id, epoch, next, ends FROM durables WHERE channel = ? AND name = ?"
        known: _Row = db.execute(command, (channel, name)).fetchone() or (0, "", 0, 0)
        self.id, self._epoch, self._next, self._ends = known
        if self.id and self._ends <= now:
            forget(db, channel, name)
            self.id = 0
        # A channel without a history begins at offset 1.
        command = "SELECT id, epoch, next, first, past FROM channels WHERE name = ?"
        history: tuple[int, str, int, int, str] = db.execute(command, (channel,)).fetchone() or _NO_HISTORY
        self.channel, self.epoch, self._end, self._first, past = history
        self.lives = Lives(self.epoch, self._end, read_past(past))
        place = Cursor(self._epoch, self._next - 1) if self.id else since or Cursor(self.epoch, self._end - 1)
        self.next = place.offset + 1
        self.gap: Gap | None = None
        self.dead: list[tuple[Record, int]] = []
        self._size = self._looked = 0
        if not self.lives.holds(place):
            self.next, self.gap = self.lives.stand(place) + 1, Gap(place.epoch, 0, 0)
            db.execute("DELETE FROM claims WHERE durable = ? AND position >= ?", (self.id, self.next))
        if not self.id:
            shares.durables.take(_DURABLE + 3 * (len(channel.encode()) + len(name.encode())))
            values = (channel, name, self.epoch, self.next, now)
            command = "INSERT INTO durables (channel, name, epoch, next, ends) VALUES (?, ?, ?, ?, ?) RETURNING id"
            (self.id,) = db.execute(command, values).fetchone()

    def overdue(self, limit: int, most: int, *, room: bool) -> list[tuple[Record, int]]:
        """Records whose claims are over, each with its next attempt. Claims of messages that are gone end. Claims that
        were made ``most`` times (0: any number) end, too, if there is ``room`` for the messages elsewhere."""
        self._db.execute(
            "UPDATE claims SET deadline = 0 WHERE durable = ? AND deadline > 0 AND deadline <= ?", (self.id, self._now)
        )
        found: list[tuple[Record, int]] = []
        position = 0
        while len(found) < limit and not self.more:
            rows = self._db.execute(
                "SELECT claims.position, attempt, kind, payload, published, proof FROM claims LEFT JOIN messages"
                " ON channel = ? AND messages.position = claims.position AND messages.position >= ? AND expires > ?"
                " WHERE durable = ? AND deadline = 0 AND claims.position > ? ORDER BY claims.position LIMIT ?",
                (self.channel, self._first, self._now, self.id, position, min(limit - len(found), 100)),
            ).fetchall()
            if not rows:
                break
            for position, attempt, *message in rows:
                if self.more:
                    break
                record = None if message[0] is None else Record(position, *message)
                if record is None:
                    self._end_claim(position)
                    self._lose(position, position)
                elif not most or attempt < most:
                    found.append((record, attempt + 1))
                elif room:
                    self._end_claim(position)
                    self.dead.append((record, attempt))
                else:
                    continue  # the claim stays, and holds up nothing
                self._looked += 1
                self._size += len(record.payload) if record else 0
        return found

    @property
    def more(self) -> bool:
        """Whether messages were not looked at that may be claimed: the next claim does that."""
        return self._size > PAGE_BYTES or self._looked >= LOOKED

    def _end_claim(self, position: int) -> None:
        self._db.execute("DELETE FROM claims WHERE durable = ? AND position = ?", (self.id, position))

    def new(self, limit: int) -> list[tuple[Record, int]]:
        """Records that were never claimed."""
        if self.next == self._end or limit <= 0 or self.more:
            return []
        (pending,) = self._db.execute("SELECT count(*) FROM claims WHERE durable = ?", (self.id,)).fetchone()
        limit = min(limit, MAX_PENDING - pending)
        if limit <= 0:
            return []
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM messages WHERE channel = ? AND position >= ? AND expires > ?"
            " ORDER BY position LIMIT ?",
            (self.channel, max(self.next, self._first), self._now, limit),
        )
        found: list[tuple[Record, int]] = []
        for record in map(Record._make, rows):
            self._lose(self.next, record.offset - 1)
            self.next = record.offset + 1
            found.append((record, 1))
            self._size += len(record.payload)
            if self._size > PAGE_BYTES:
                return found
        if len(found) < limit:
            self._lose(self.next, self._end - 1)
            self.next = self._end
        return found

    def _lose(self, first: int, last: int) -> None:
        if first <= last and (self.gap is None or self.gap.first):
            known = self.gap or Gap(self.epoch, first, last)
            last = max(known.last, last)
            self.gap = Gap(self.lives.epoch_of(last), min(known.first, first), last)

    def write(self, records: Sequence[tuple[Record, int]], deadline: int) -> None:
        if records:
            self._shares.claims.take(_CLAIM * sum([attempt == 1 for _, attempt in records]))
        self._db.executemany(
            "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
            [(self.id, record.offset, attempt, deadline) for record, attempt in records],
        )
        again = sum([attempt > 1 for _, attempt in records])
        if again or self.dead:
            self._db.execute(
                "UPDATE durables SET redelivered = redelivered + ?, dead = dead + ? WHERE id = ?",
                (again, len(self.dead), self.id),
            )
        if (self.epoch, self.next) != (self._epoch, self._next) or self._ends < self._now + _FORGET:
            self._db.execute(
                "UPDATE durables SET epoch = ?, next = ?, ends = ? WHERE id = ?",
                (self.epoch, self.next, self._now + _FORGET + _TOUCH, self.id),
            )


def claim(
    db: sqlite3.Connection, channel: str, name: str, limit: int, wait: float, since: Cursor | None, now: int,
    shares: Shares, most: int, *, room: bool, make: bool,
) -> tuple[Claimed, list[bytes]]:  # fmt: skip
    """Claim messages, and return the dead letters, too. A message is claimed ``most`` times; then it becomes a dead
    letter, if there is ``room`` for these. ``make``: the durable is made if it is not there."""
    if not make:
        known = db.execute("SELECT 1 FROM durables WHERE channel = ? AND name = ? AND ends > ?", (channel, name, now))
        if known.fetchone() is None:
            return Claimed([], EARLIEST.epoch, ended=True), []
    durable = _Durable(db, channel, name, since, now, shares)
    records = durable.overdue(limit, most, room=room)
    records += durable.new(limit - len(records))
    durable.write(records, now + int(wait * 1_000_000))
    letters = [
        encoding.dead_letter(name, record.to_message(channel, durable.lives.epoch_of(record.offset)), attempts)
        for record, attempts in durable.dead
    ]
    return Claimed(records, durable.epoch, durable.gap, durable.lives.past, more=durable.more), letters


def acknowledge(
    db: sqlite3.Connection, channel: str, name: str, epoch: str, claims: Sequence[tuple[int, int]],
    proofs: Sequence[str],
) -> list[int]:  # fmt: skip
    command = "DELETE FROM claims WHERE durable = ? AND position = ? AND ? IN (0, attempt)"
    id, claims = _find(db, channel, name, epoch, claims, proofs)
    return [offset for offset, attempt in claims if db.execute(command, (id, offset, attempt)).rowcount]


def release(
    db: sqlite3.Connection, channel: str, name: str, epoch: str, claims: Sequence[tuple[int, int]],
    proofs: Sequence[str], until: int,
) -> list[int]:  # fmt: skip
    """Let claims end at the time ``until`` (0: now)."""
    command = "UPDATE claims SET deadline = ? WHERE durable = ? AND position = ? AND ? IN (0, attempt)"
    id, claims = _find(db, channel, name, epoch, claims, proofs)
    return [offset for offset, attempt in claims if db.execute(command, (until, id, offset, attempt)).rowcount]


def forget(db: sqlite3.Connection, channel: str, name: str) -> None:
    db.execute(
        "DELETE FROM claims WHERE durable = (SELECT id FROM durables WHERE channel = ? AND name = ?)", (channel, name)
    )
    db.execute("DELETE FROM durables WHERE channel = ? AND name = ?", (channel, name))


def tidy(db: sqlite3.Connection, limit: int, now: int) -> int:
    removed = db.execute(
        "DELETE FROM claims WHERE (durable, position) IN"
        " (SELECT durable, position FROM durables JOIN claims ON durable = id WHERE ends <= ? LIMIT ?)",
        (now, limit),
    ).rowcount
    removed += db.execute(
        "DELETE FROM durables WHERE id IN (SELECT id FROM durables WHERE ends <= ?"
        " AND NOT EXISTS (SELECT 1 FROM claims WHERE durable = durables.id) LIMIT ?)",
        (now, limit),
    ).rowcount
    return removed


def _find(
    db: sqlite3.Connection, channel: str, name: str, epoch: str, claims: Sequence[tuple[int, int]],
    proofs: Sequence[str],
) -> tuple[int, Sequence[tuple[int, int]]]:  # fmt: skip
    """The id of a durable, and the claims that are of this epoch, and of messages with these proofs; 0 and none where
    there is no such durable."""
    row: tuple[int, str, str | None, str | None, int | None] | None = db.execute(
        "SELECT durables.id, durables.epoch, channels.epoch, past, channels.id"
        " FROM durables LEFT JOIN channels ON channels.name = durables.channel"
        " WHERE durables.channel = ? AND durables.name = ?",
        (channel, name),
    ).fetchone()
    if row is None:
        return 0, ()
    id, known, present, past, history = row
    lives = Lives(present or known, 0, read_past(past or ""))
    if known not in (lives.epoch, *[each for each, _ in lives.past]):
        # The history is a new one, where no claim has been made yet.
        return id, claims if epoch == known else ()
    command = "SELECT proof FROM messages WHERE channel = ? AND position = ?"
    good = []
    for (offset, attempt), proof in zip(claims, proofs or [""] * len(claims), strict=True):
        stored = db.execute(command, (history, offset)).fetchone() if proof else None
        if lives.epoch_of(offset) == epoch and (stored is None or stored[0] in ("", proof)):
            good.append((offset, attempt))
    return id, good
