"""Appending to the embedded store, in the transaction of its caller.

Each call is looked at as a whole (`raiden.history.conditions`) before its messages get their offsets, and after the
calls before it. The channels' rows are written once, when all calls are done, or a fork has to see them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from raiden.history import channel_row, durables
from raiden.history.beginnings import Beginnings
from raiden.history.channel_row import HOLLOW, ChannelRow
from raiden.history.conditions import ELSEWHERE, ENDED, FULL, Unmet, stands_at
from raiden.history.share import Share
from raiden.history.store import FORGET, KEY_WINDOW, TOUCH, Append, Appended
from raiden.history.stream_appends import StreamAppends, Verdict
from raiden.history.stream_rows import NEVER
from raiden.history.stream_terms import GOOD, REPEATED
from raiden.history.streams import KIND, Add
from raiden.model.attributes import ENVELOPE
from raiden.model.chain import Lives, chained, link
from raiden.model.message import EARLIEST, Cursor

# Messages over a channel's size that are left until it is worth removing them.
SLACK = 64
# Bytes that rows take on the disk besides their texts, with their indexes and the room that pages leave. A channel's
# name is stored twice.
ROW = 128

_EXPIRES = 4  # the column of messages


def size_of_name(name: str) -> int:
    """The bytes that a channel without messages takes."""
    return ROW + 3 * len(name.encode())


class Appending:
    """Appends to the tables of ``db``; ``names`` is the room for names of channels, ``producers`` that for producers of
    streams, and ``beginnings`` has the places of new channels."""

    def __init__(self, db: sqlite3.Connection, names: Share, producers: Share, beginnings: Beginnings) -> None:
        self._db = db
        self._names = names
        self._beginnings = beginnings
        self._streams = StreamAppends(db, names, producers, beginnings, self._flush)
        self.stream_rows = self._streams.rows
        # The rows of the channels that are appended to, and of messages, as this transaction will leave them.
        self._channels: dict[str, ChannelRow] = {}
        self._rows: list[list[Any]] = []

    def append(self, appends: Sequence[Append], calls: Sequence[int] | None, now: int) -> list[Appended]:
        """Append, as `Store.append` has it; ``now`` is the time of the messages."""
        self._channels, self._rows = {}, []
        results: list[Appended] = []
        for count in calls or [1] * len(appends):
            call = appends[len(results) : len(results) + count]
            unmet = self._unmet(call, now)
            if unmet is None:
                terms = call[0].terms
                results += [self._place(append, now) for append in call] if terms is None else self._stream(call, now)
            else:
                results += [Appended("", range(0), unmet=unmet)] * count
        self._flush()
        return results

    def _flush(self) -> None:
        """Write the messages, and the rows of their channels."""
        self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", self._rows)
        for channel in self._channels.values():
            self._trim(channel)
        self._channels, self._rows = {}, []

    def _stream(self, call: Sequence[Append], now: int) -> list[Appended]:
        """Do a call whose first append is to a stream, or not at all."""
        append = call[0]
        verdict = self._streams.judge(append, self._find(append.channel, now), now)
        channel = verdict.channel
        if channel is not None:
            self._channels[append.channel] = channel
        if verdict.what not in (GOOD, REPEATED):
            position = self._beginnings.place(append.channel) if channel is None else channel.position
            unmet = Unmet(verdict.what, append.channel, 0, position, verdict.outcome())
            return [Appended("", range(0), unmet=unmet)] * len(call)
        if verdict.what == REPEATED or verdict.more or (not append.messages and isinstance(append.terms, Add)):
            others = [Appended("", range(0), True)] * (len(call) - 1)
            return [self._nothing(channel, verdict), *others]
        assert channel is not None and verdict.row is not None
        placed = [self._place(each, now) if each.messages else self._nothing(channel, verdict) for each in call]
        outcome = self._streams.note(append, verdict, now).outcome()
        return [placed[0]._replace(outcome=outcome), *placed[1:]]

    def _nothing(self, channel: ChannelRow | None, verdict: Verdict) -> Appended:
        """The result of an append to a stream that adds nothing."""
        repeated = verdict.what == REPEATED
        if channel is None:
            return Appended("", range(0), repeated, outcome=verdict.outcome())
        end = channel.next
        return Appended(
            channel.epoch, range(end, end), repeated, chained(channel.proof, ()), outcome=verdict.outcome()
        )  # fmt: skip

    def _find(self, name: str, now: int) -> ChannelRow | None:
        found = self._channels.get(name) or channel_row.find(self._db, name)
        if found is not None and found.lapses:
            return self.stream_rows.still(found, now)
        return found

    def _unmet(self, call: Sequence[Append], now: int) -> Unmet | None:
        """The condition because of which a call is not done; None: it may be done."""
        for append in call:
            channel = self._find(append.channel, now)
            if channel is not None:
                self._channels[append.channel] = channel
            elif append.at is None and not append.discard_new:
                continue
            position = self._beginnings.place(append.channel) if channel is None else channel.position
            what = self._what_is_unmet(append, channel, position, now)
            if what:
                outcome = self._streams.outcome(channel) if what == KIND and channel is not None else None
                return Unmet(what, append.channel, append.limits()[0], position, outcome)
        return None

    def _what_is_unmet(self, append: Append, channel: ChannelRow | None, position: Cursor, now: int) -> str:
        if channel is not None and append.key is not None and self._appended(channel, append.key, now):
            return ""
        if channel is not None and (channel.ended or channel.kinds) and append.terms is None:
            if channel.ended:
                return ENDED
            if not _fits(append, channel.kinds):
                return KIND
        if append.at is not None and not stands_at(position, append.at):
            return ELSEWHERE
        return FULL if append.discard_new and self._is_full(append, channel, now) else ""

    def _is_full(self, append: Append, channel: ChannelRow | None, now: int) -> bool:
        """Whether an append would push out a message that a durable still needs."""
        size, _, _ = append.limits()
        id, first, stored, next_, lives = 0, 1, 1, 1, Lives(EARLIEST.epoch, 1)
        if channel is not None:
            id, first, stored, next_ = channel.id, channel.first, channel.stored, channel.next
            lives = channel.lives
            if channel.kinds:
                return False  # its history has no bound
        below = next_ + len(append.messages) - size
        return below > first and durables.need(self._db, append.channel, id, lives, first, stored, below, now)

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

    def _place(self, append: Append, now: int) -> Appended:
        """Give an append its offsets, and add its rows."""
        channel = self._channels.get(append.channel)
        if channel is None:
            channel = self._channels[append.channel] = self._new_channel(append.channel, now)
        if append.key is not None:
            known = self._appended(channel, append.key, now)
            if known is not None:
                return known
        size, ttl, retain = append.limits()
        first, expires = channel.next, now + int(ttl * 1_000_000)
        if channel.kinds:  # a stream's history has no bound
            size, retain, expires = NEVER, ttl, NEVER
        before, proofs = channel.proof, []
        if append.messages:
            if channel.life != channel.lives_in:
                channel.enter()
            self._fade(channel)
            for kind, payload in append.messages:
                channel.proof = link(channel.proof, kind, now, payload)
                self._rows.append([channel.id, channel.next, kind, now, expires, payload, channel.proof])
                proofs.append(channel.proof)
                channel.next += 1
            channel.last = self._rows[-1]
            if retain > ttl:
                channel.fades, channel.last[_EXPIRES] = expires, now + int(retain * 1_000_000)
            ends = max(now + int(FORGET * 1_000_000), channel.last[_EXPIRES])
            if not ends <= channel.ends <= ends + int(TOUCH * 1_000_000):
                channel.ends, channel.touched = ends + int(TOUCH * 1_000_000), True
            channel.ended = 0
            if append.ends:
                channel.ended = HOLLOW if append.hollow else 1
                if channel.kinds:
                    closer = append.terms.producer if isinstance(append.terms, Add) else None
                    self.stream_rows.close(channel.name, proofs[-2] if len(proofs) > 1 else before, closer)
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
        """Write a channel's row, if messages have come, and remove its hidden messages, once that is worth it."""
        if channel.next == channel.stored:
            return
        if channel.first - channel.removed >= SLACK:
            self._db.execute("DELETE FROM messages WHERE channel = ? AND position < ?", (channel.id, channel.first))
            channel.removed = channel.first
        self._db.execute(
            "UPDATE channels SET next = ?, first = ?, removed = ?, fades = ?, proof = ?, ended = ? WHERE id = ?",
            (
                channel.next, channel.first, channel.removed, channel.fades, channel.proof, channel.ended, channel.id,
            ),
        )  # fmt: skip
        if channel.begun:
            self._db.execute(
                "UPDATE channels SET epoch = ?, life = ?, past = ? WHERE id = ?",
                (channel.epoch, channel.life, channel.past, channel.id),
            )
        if channel.touched:  # this changes an index too, so it is not done each time
            self._db.execute("UPDATE channels SET ends = ? WHERE id = ?", (channel.ends, channel.id))

    def _new_channel(self, name: str, now: int) -> ChannelRow:
        self._names.take(size_of_name(name))
        row = self._db.execute(
            "INSERT INTO channels (name, epoch, next, first, removed, fades, ends) VALUES (?, ?, 1, 1, 1, 0, ?)"
            f" RETURNING {ChannelRow.COLUMNS}",
            (name, self._beginnings.place(name).epoch, now + int((FORGET + TOUCH) * 1_000_000)),
        ).fetchone()
        return ChannelRow(row)


def _fits(append: Append, kinds: int) -> bool:
    """Whether a stream of these kinds takes an append's messages."""
    messages = append.messages[:-1] if append.hollow else append.messages
    return all([1 << (kind & ~ENVELOPE) & kinds for kind, _ in messages])
