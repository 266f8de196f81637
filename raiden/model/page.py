"""Values of a history: the start of a reader, the page that it gets, and the gap in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from raiden.model.attributes import NoEnvelope
from raiden.model.chain import Lives, Past, is_proved
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.message import EARLIEST, Cursor, InvalidCursor, Kind, Message
from raiden.model.refusals import Invalid

# Bytes of payloads in a page, and in what is claimed at once: it ends with the record that goes over them.
PAGE_BYTES = 1 << 20
# Messages of the past that a subscriber or a page may ask for; messages of a page for which no limit is asked.
MAX_LAST, PAGE = 1000, 100


class Record(NamedTuple):
    """A message as it is stored: kind and payload are its `Message.entry`; ``published`` is the time when the store
    took it, in microseconds since 1970 by its clock. ``proof`` is "" where it was stored by a release that knew
    none."""

    offset: int
    kind: int
    payload: bytes
    published: int
    proof: str = ""

    def to_message(self, channel: str, epoch: str) -> Message:
        message = Message(channel, self.kind, self.payload, Cursor(epoch, self.offset, self.proof), self.published)
        try:
            message.open()
        except NoEnvelope:  # no release of Raiden wrote this
            message.kind = Kind.BYTES
        return message


class Gap(NamedTuple):
    """The messages that were asked for and can't be had: offsets from ``first`` to ``last``, which is of ``epoch``.
    ``first`` is 0 where another history was asked for than the present one: then nobody knows how many."""

    epoch: str
    first: int
    last: int


class Stand(NamedTuple):
    """Where a channel stands: the cursor of its newest message, and whether that is its end."""

    position: Cursor
    ended: bool = False


class Start(NamedTuple):
    """The start of a reader: behind a cursor, or with the ``last`` messages; neither: with the earliest."""

    cursor: Cursor | None = None
    last: int | None = None


class Read(NamedTuple):
    """Read a page of a channel's history, ``limit`` messages at most: those behind a cursor (None: the earliest), or
    ``backwards``, those before it (None: the newest); of these, the ones that ``filters`` let through."""

    channel: str
    cursor: Cursor | None
    backwards: bool
    limit: int
    filters: Filters = NO_FILTERS


def as_far_as(records: list[Record], limit: int) -> list[Record]:
    """The first records of these, up to the limit, or the one that goes over `PAGE_BYTES`."""
    size = 0
    for number, record in enumerate(records[:limit]):
        if size > PAGE_BYTES:
            return records[:number]
        size += len(record.payload)
    return records[:limit]


def parse_since(text: str) -> Cursor:
    """Return the cursor behind which a subscription or a page begins; raise Invalid, which says what else is
    possible."""
    if text == "earliest":  # among others
        raise Invalid("'earliest' stands for all channels: give it once, by itself")
    try:
        return Cursor.parse(text)
    except InvalidCursor as error:
        raise Invalid(f"{error}, or 'earliest'; leave it out to begin with what comes next") from None


@dataclass(slots=True)
class Page:
    """Records in the order of their offsets. ``position`` is the cursor of the channel's newest message (None: it has
    no history), and ``past`` the channel's epochs before ``epoch``. ``gap`` is missing before the first record.
    ``more``: the limit, or `PAGE_BYTES`, cut the page short. ``ended``: the channel has come to its end."""

    records: list[Record] = field(default_factory=list)
    epoch: str = ""
    position: Cursor | None = None
    gap: Gap | None = None
    more: bool = False
    past: Past = ()
    ended: bool = False

    @property
    def lives(self) -> Lives:
        return Lives(self.epoch, self.position.offset + 1 if self.position else 1, self.past)

    def messages(self, channel: str) -> list[Message]:
        lives = self.lives
        return [record.to_message(channel, lives.epoch_of(record.offset)) for record in self.records]

    @property
    def begin(self) -> int:
        """The offset behind which the records stand; without records, that of the channel's last message."""
        if self.records:
            return self.records[0].offset - 1
        return self.position.offset if self.position else 0

    @classmethod
    def nothing(cls, cursor: Cursor | None, *, forward: bool) -> Page:
        """The page of a channel that has no history."""
        return cls(gap=Gap(cursor.epoch, 0, 0) if cursor and cursor != EARLIEST and forward else None)

    @classmethod
    def found(
        cls, records: list[Record], lives: Lives, proof: str, cursor: Cursor | None, limit: int, *, forward: bool
    ) -> Page:
        """The page of records that an engine found from a cursor on, or from where its reader stands (`Lives.stand`).
        There may be one record more than the limit, or than `PAGE_BYTES` allows; backwards, they come newest first.
        ``proof`` is that of the channel's last message."""
        cut = as_far_as(records, limit)
        position = Cursor(lives.epoch, lives.next - 1, proof)
        page = cls(cut, lives.epoch, position, more=len(records) > len(cut), past=lives.past)
        if not forward:
            page.records.reverse()
        elif cursor is not None and not lives.holds(cursor):
            page.gap = Gap(cursor.epoch, 0, 0)
        elif cursor is not None:
            begin = page.records[0].offset if page.records else lives.next
            if begin > cursor.offset + 1:
                page.gap = Gap(lives.epoch_of(begin - 1), cursor.offset + 1, begin - 1)
        return page

    @classmethod
    def disproved(cls, records: list[Record], lives: Lives, proof: str, cursor: Cursor, limit: int) -> Page:
        """The page for a reader whose cursor has another proof than the message at its place: the history went back
        within one life of the store. Nobody knows how far, so ``records`` begin with the earliest."""
        page = cls.found(records, lives, proof, None, limit, forward=True)
        page.gap = Gap(cursor.epoch, 0, 0)
        return page

    def is_proved(self, cursor: Cursor, at: str | None) -> bool:
        """Whether ``cursor``, from which this page was read, has the proof of this history. ``at`` is the proof of the
        message at the cursor (None: it is gone)."""
        if self.position is None or (self.gap is not None and not self.gap.first):
            return True
        return is_proved(cursor, self.position, at, self.records[0] if self.records else None)
