"""Forks of streams in the embedded store: a new stream that begins with the messages of another one.

The messages are copied, so that a fork is read like any channel, and its source can go. A long beginning is copied in
pieces, each in a transaction of its own, to a channel's row with a name that no channel can have. The source counts
that as a fork from the first piece on.
"""

from __future__ import annotations

import sqlite3

from msgspec.structs import replace

from raiden.history import channel_row
from raiden.history.channel_row import ChannelRow
from raiden.history.stream_rows import NEVER, Row, StreamRows, lapse_of
from raiden.history.stream_terms import same_fork, same_life
from raiden.history.streams import DIFFERENT, IDLE_FORK, NO_SOURCE, POINT, SOURCE_DELETED, TYPE, Fork, Make, media_type
from raiden.model import attributes
from raiden.model.attributes import ENVELOPE, Attributes
from raiden.model.chain import link
from raiden.model.message import Kind

# Messages of a piece, and the bytes that end it.
PIECE, PIECE_BYTES = 5000, 4 << 20
# Microseconds for which a fork that is being made is kept, if nobody goes on making it; and those after which another
# one of its name takes its place.
_PATIENCE, _IDLE = 60_000_000, int(IDLE_FORK * 1_000_000)
_MAKING = "\x01making "


class Forks:
    """The forks in ``db``, where ``streams`` are the streams."""

    def __init__(self, db: sqlite3.Connection, streams: StreamRows) -> None:
        self._db = db
        self._streams = streams

    def make(self, name: str, terms: Make, epoch: str, now: int) -> ChannelRow | str | None:
        """Make a fork, or a piece of it. Returns the row of its channel, or the reason why it can't be made; None: it
        is not whole yet. ``epoch`` is that of its first messages."""
        fork = terms.fork
        assert fork is not None
        making, is_ours = self._making(name, terms, fork, now)
        channel = self._streams.find_channel(fork.source, now)
        source = self._streams.find(fork.source)
        if source is None or not source.channel or channel is None:
            if making is not None and is_ours:
                self._streams.end(making)
            return NO_SOURCE if source is None else SOURCE_DELETED
        if terms.content_type and media_type(terms.content_type) != media_type(source.content_type):
            return TYPE
        if making is not None:
            if not is_ours:
                return DIFFERENT
            row = self._streams.find(making.name)
            assert row is not None
            fork = row.state.fork
            assert fork is not None
        stream = source.stream(channel)
        at = stream.tail if fork.at is None else fork.at
        point, beginning = at.offset, b""
        if point > stream.tail.offset or (point and self._entry(channel, point)[2] != at.proof):
            return POINT
        if fork.sub and stream.is_json:
            point += fork.sub
        elif fork.sub and point < stream.tail.offset:
            kind, payload, _ = self._entry(channel, point + 1)
            beginning = attributes.taken_out(payload)[1] if kind & ENVELOPE else payload
        if point > stream.tail.offset or (fork.sub and not stream.is_json and len(beginning) < fork.sub):
            return POINT
        if making is None:
            making = self._begin(name, terms, fork._replace(at=at), source, epoch)
        self._copy(channel, making, point)
        if making.next <= point:
            self._streams.let_lapse(making, now + _PATIENCE)
            return None
        self._strip(making)
        if beginning:
            self._add(making, beginning[: fork.sub], now)
        return self._finish(name, making, now)

    def _making(self, name: str, terms: Make, fork: Fork, now: int) -> tuple[ChannelRow | None, bool]:
        """The row of the fork of this name that is being made, and whether it is this one. Others have to wait, unless
        nobody goes on making it: two that began anew in turns would never end."""
        making = self._streams.find_channel(_MAKING + name, now)
        row = None if making is None else self._streams.find(making.name)
        if making is None or row is None:
            return None, False
        is_ours = same_fork(fork, row.state.fork) and same_life(terms, row.ttl, row.expires)
        if not is_ours and making.lapses - _PATIENCE + _IDLE <= now:
            self._streams.end(making)
            return None, False
        return making, is_ours

    def _begin(self, name: str, terms: Make, fork: Fork, source: Row, epoch: str) -> ChannelRow:
        if terms.ttl < 0 and not terms.expires:
            terms = terms._replace(ttl=source.ttl, expires=source.expires, expires_text=source.expires_text)
        terms = terms._replace(content_type=terms.content_type or source.content_type)
        making = self._streams.add(_MAKING + name, terms, epoch, NEVER)
        at = fork.at
        assert at is not None
        self._db.execute(
            "UPDATE streams SET source = ?, fork_at = ?, sub = ? WHERE name = ?",
            (fork.source, f"{at.offset}:{at.proof}", fork.sub, making.name),
        )
        self._db.execute("UPDATE streams SET forks = forks + 1 WHERE name = ?", (fork.source,))
        return making

    def _entry(self, channel: ChannelRow, offset: int) -> tuple[int, bytes, str]:
        """Kind, payload and proof of a message that is there."""
        command = "SELECT kind, payload, proof FROM messages WHERE channel = ? AND position = ?"
        found: tuple[int, bytes, str] = self._db.execute(command, (channel.id, offset)).fetchone()
        return found

    def _copy(self, source: ChannelRow, making: ChannelRow, point: int) -> None:
        """Copy the next messages, up to the offset ``point``."""
        sizes = self._db.execute(
            "SELECT position, length(payload) FROM messages WHERE channel = ? AND position >= ? AND position <= ?"
            " ORDER BY position LIMIT ?",
            (source.id, making.next, point, PIECE),
        )
        size, last = 0, making.next - 1
        for position, length in sizes:
            size, last = size + length, position
            if size > PIECE_BYTES:
                break
        if last < making.next:
            return
        self._db.execute(
            "INSERT INTO messages SELECT ?, position, kind, published, expires, payload, proof FROM messages"
            " WHERE channel = ? AND position >= ? AND position <= ?",
            (making.id, source.id, making.next, last),
        )
        making.next, making.proof = last + 1, self._entry(making, last)[2]
        self._db.execute("UPDATE channels SET next = ?, proof = ? WHERE id = ?", (last + 1, making.proof, making.id))

    def _strip(self, making: ChannelRow) -> None:
        """Let the last message, which may be the source's end, be none."""
        last = making.next - 1
        kind, payload, _ = self._entry(making, last) if last else (0, b"", "")
        if not kind & ENVELOPE:
            return
        said, payload = attributes.taken_out(payload)
        if said.end:
            said, kind = replace(said, end=False), kind & ~ENVELOPE
            if said != Attributes():
                payload, kind = attributes.put_in(said, payload), kind | ENVELOPE
            command = "UPDATE messages SET kind = ?, payload = ? WHERE channel = ? AND position = ?"
            self._db.execute(command, (kind, payload, making.id, last))

    def _add(self, making: ChannelRow, payload: bytes, now: int) -> None:
        """Add a message of the fork's own."""
        making.proof = link(making.proof, Kind.BYTES, now, payload)
        values = making.id, making.next, Kind.BYTES, now, NEVER, payload, making.proof
        self._db.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        making.next += 1

    def _finish(self, name: str, making: ChannelRow, now: int) -> ChannelRow:
        """Give a fork that is whole its name, and its time."""
        row = self._streams.find(making.name)
        assert row is not None
        self._db.execute(
            "UPDATE channels SET name = ?, next = ?, proof = ?, lapses = ?, life = ? WHERE id = ?",
            (name, making.next, making.proof, lapse_of(row.ttl, row.expires, now), making.lives_in, making.id),
        )
        self._db.execute("UPDATE streams SET name = ? WHERE name = ?", (name, making.name))
        made = channel_row.find(self._db, name)
        assert made is not None
        return made
