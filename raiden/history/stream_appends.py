"""Appends to streams in the embedded store: what each is judged to be, and what it leaves besides its messages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from raiden.history import stream_terms
from raiden.history.beginnings import Beginnings
from raiden.history.channel_row import ChannelRow
from raiden.history.forks import Forks
from raiden.history.share import Share
from raiden.history.store import Append
from raiden.history.stream_rows import Row, StreamRows, lapse_of, size_of
from raiden.history.stream_terms import GOOD
from raiden.history.streams import ABSENT, CROWDED, DELETED, ORDINARY, RESERVED, Add, Make, Outcome


class Verdict(NamedTuple):
    """What is to be done with an append to a stream: ``what`` is one of `raiden.history.stream_terms`, or the reason of
    a refusal. ``channel`` and ``row`` are those of the stream, if it is there now, and ``known`` is its producer as it
    was before. ``more``: a fork is not whole yet."""

    what: str
    channel: ChannelRow | None = None
    row: Row | None = None
    known: tuple[int, int, int] | None = None
    more: bool = False

    def outcome(self) -> Outcome:
        stream = None if self.row is None else self.row.stream(self.channel)
        return Outcome(stream, self.known and self.known[:2], self.more)


class StreamAppends:
    """The part of appending to streams; ``flush`` writes the messages and rows that are not written yet."""

    def __init__(
        self, db: sqlite3.Connection, names: Share, producers: Share, beginnings: Beginnings, flush: Callable[[], None]
    ) -> None:
        self.rows = StreamRows(db, names, producers, beginnings)
        self._forks = Forks(db, self.rows)
        self._beginnings = beginnings
        self._flush = flush

    def judge(self, append: Append, channel: ChannelRow | None, now: int) -> Verdict:
        """The verdict on an append with terms, to the channel with this row. A stream that is to be made is made."""
        name, terms = append.channel, append.terms
        row = self.rows.find(name)
        if row is not None and not row.channel:
            if isinstance(terms, Make):
                return Verdict(RESERVED if channel is None else ORDINARY, None, row)
            return Verdict(DELETED, None, row)
        if isinstance(terms, Make) and row is None:
            return Verdict(ORDINARY) if channel is not None else self._make(name, terms, now)
        if row is None or channel is None:
            return Verdict(ABSENT)
        self.rows.touch(channel, row.ttl, now)
        stream, state = row.stream(channel), row.state
        if isinstance(terms, Make):
            return Verdict(stream_terms.of_make(terms, stream, state, closes=append.ends), channel, row)
        assert isinstance(terms, Add)
        producer = terms.producer
        known = None if producer is None else self.rows.producer(row.channel, producer.id)
        what = stream_terms.of_add(terms, stream, state, known and known[:2], hollow=append.hollow)
        if not what and producer is not None and known is None and not self.rows.has_room_for(producer):
            what = CROWDED
        return Verdict(what, channel, row, known)

    def _make(self, name: str, terms: Make, now: int) -> Verdict:
        if not self.rows.names.has_room(size_of(name, terms.content_type)):
            return Verdict(CROWDED)
        epoch = self._beginnings.place(name).epoch
        if terms.fork is None:
            channel = self.rows.add(name, terms, epoch, lapse_of(terms.ttl, terms.expires, now))
        else:
            self._flush()
            made = self._forks.make(name, terms, epoch, now)
            if made is None or isinstance(made, str):
                return Verdict(made or GOOD, more=made is None)
            channel = made
        return Verdict(GOOD, channel, self.rows.find(name))

    def outcome(self, channel: ChannelRow) -> Outcome:
        """The outcome of an append without terms to a stream."""
        row = self.rows.find(channel.name)
        return Outcome(None if row is None else row.stream(channel))

    def note(self, append: Append, verdict: Verdict, now: int) -> Verdict:
        """Note what an append leaves besides its messages; return the verdict with the state as it is then."""
        terms, row = append.terms, verdict.row
        if append.ends:
            verdict = verdict._replace(row=self.rows.find(append.channel))
        if not isinstance(terms, Add) or row is None:
            return verdict
        if terms.seq is not None:
            self.rows.note_seq(row.name, terms.seq)
        if terms.producer is None:
            return verdict
        _, epoch, number = terms.producer
        self.rows.note_producer(row.channel, terms.producer, now, verdict.known and verdict.known[2])
        return verdict._replace(known=(epoch, number, now))
