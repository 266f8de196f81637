"""Messages that a thinned subscription is not sent, and those that it is sent instead. Pure."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from raiden.model.encoding import Encoding
from raiden.model.message import Cursor, Message

Sink = TypeVar("Sink")
Member = TypeVar("Member")

# A channel, and the value of the key in its messages, as text (None: it has none, or is not told apart by any).
Value: TypeAlias = tuple[str, str | None]


class Skipped(NamedTuple):
    """Messages that are not sent: their number, and the cursors of the first and the last (None: without history).
    ``behind`` is the place before the first."""

    number: int
    first: Cursor | None
    last: Cursor | None
    behind: Cursor | None

    @classmethod
    def of(cls, message: Message) -> Skipped:
        return cls(1, message.cursor, message.cursor, before(message))

    def and_then(self, later: Skipped | None) -> Skipped:
        """These and later ones."""
        return self if later is None else Skipped(self.number + later.number, self.first, later.last, self.behind)

    def among(self, others: Skipped | None) -> Skipped:
        """These and others of the same channel, of which any may be the first and the last."""
        if others is None or self.first is None or others.first is None or self.last is None or others.last is None:
            return self.and_then(others)
        begin = self if self.first.offset < others.first.offset else others
        last = max(self.last, others.last, key=lambda each: each.offset)
        return Skipped(self.number + others.number, begin.first, last, begin.behind)

    def told(self) -> dict[str, Any]:
        """The fields that tell a client of them."""
        cursors = {} if self.first is None else {"first": str(self.first), "last": str(self.last)}
        return {"count": self.number, **cursors}


class Put(NamedTuple, Generic[Sink, Member]):
    """A message to put before the sinks of a group, behind a notice of what is ``skipped``. ``place`` is where a client
    goes on that comes back after it (None: it is the message's own cursor)."""

    sinks: dict[Sink, Member]
    message: Message
    skipped: Skipped | None
    place: Cursor | None
    value: Value


def before(message: Message) -> Cursor | None:
    """The place before a message; None without history."""
    cursor = message.cursor
    return None if cursor is None else Cursor(cursor.epoch, cursor.offset - 1, message.before)


def with_notices(encoding: Encoding, message: Message, skipped: Skipped | None, place: Cursor | None) -> bytes:
    """The bytes of a message, behind a notice of what is skipped before it, and before one of the place after it."""
    data, notice = encoding(message), encoding.notice
    if notice is None:
        return data
    if skipped is not None:
        data = notice(message.channel, "skipped", skipped.told()) + data
    return data if place is None else data + notice(message.channel, "cursor", str(place))
