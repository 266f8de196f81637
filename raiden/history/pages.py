"""Pages of a channel's history, read from the embedded store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from raiden.history import channel_row, stream_rows
from raiden.history.channel_row import ChannelRow
from raiden.history.streams import StreamPage
from raiden.model.message import Cursor
from raiden.model.page import PAGE_BYTES, Page, Record, as_far_as


def read(
    db: sqlite3.Connection, name: str, cursor: Cursor | None, limit: int, now: Callable[[], int], *, forward: bool
) -> Page:
    """A page of a channel's history, after a cursor or before it, as `Store` has it."""
    db.execute("BEGIN")  # the channel's row and its messages as of one moment
    try:
        channel = channel_row.find_now(db, name, now())
        if channel is None:
            return Page.nothing(cursor, forward=forward)
        lives = channel.lives
        if not forward:
            high = cursor.offset if cursor and lives.holds(cursor) else channel.next
            records = _records(db, channel, 1, high, limit, now(), "DESC")
            page = Page.found(records, lives, channel.proof, cursor, limit, forward=False)
            page.ended = bool(channel.ended)
            return page
        records = _records(db, channel, lives.stand(cursor) + 1, channel.next, limit, now(), "ASC")
        page = Page.found(records, lives, channel.proof, cursor, limit, forward=True)
        if cursor is not None and cursor.proof and not page.is_proved(cursor, _proof(db, channel, cursor.offset)):
            records = _records(db, channel, 1, channel.next, limit, now(), "ASC")
            page = Page.disproved(records, lives, channel.proof, cursor, limit)
        page.ended = bool(channel.ended)
        return page
    finally:
        db.execute("COMMIT")


def read_stream(
    db: sqlite3.Connection, name: str, place: Cursor | None, limit: int, now: int
) -> tuple[StreamPage, ChannelRow | None]:
    """A stream and a page of its messages, as `Streams.stream` has it, and the row of its channel."""
    db.execute("BEGIN")  # all as of one moment
    try:
        channel = channel_row.find_now(db, name, now)
        row = stream_rows.find(db, name)
        if row is None or (channel is None and row.channel and not row.forks):
            return StreamPage(), None
        if not row.channel or channel is None:
            return StreamPage(row.stream(None)), None
        stream = row.stream(channel)
        offset = stream.tail.offset if place is None else place.offset
        if offset > stream.tail.offset or (place and offset and _proof(db, channel, offset) != place.proof):
            return StreamPage(stream), channel
        begin = (
            stream.tail
            if place is None
            else Cursor(channel.lives.epoch_of(offset), offset, place.proof if offset else "")
        )
        found = _records(db, channel, offset + 1, stream.tail.offset + 1, limit, now, "ASC") if limit else []
        records = as_far_as(found, limit)
        return StreamPage(stream, begin, records, offset + len(records) < stream.tail.offset), channel
    finally:
        db.execute("COMMIT")


def _records(
    db: sqlite3.Connection, channel: ChannelRow, low: int, high: int, limit: int, now: int, order: str
) -> list[Record]:
    """Read records of a channel. One more than the limit, or than `PAGE_BYTES` allows, tells that there is more."""
    records, size = [], 0
    for row in db.execute(
        "SELECT position, kind, payload, published, proof FROM messages"
        " WHERE channel = ? AND position >= ? AND position < ? AND expires > ?"
        f" ORDER BY position {order} LIMIT ?",
        (channel.id, max(low, channel.first), high, now, limit + 1),
    ):
        records.append(Record(*row))
        if size > PAGE_BYTES:
            break
        size += len(records[-1].payload)
    return records


def _proof(db: sqlite3.Connection, channel: ChannelRow, offset: int) -> str | None:
    """The proof of the message at an offset, if it is there."""
    command = "SELECT proof FROM messages WHERE channel = ? AND position = ?"
    row = db.execute(command, (channel.id, offset)).fetchone()
    return row[0] if row else None
