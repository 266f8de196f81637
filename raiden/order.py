"""The order of a channel with history: what may be delivered next, what is held back, what is missing. Pure.

     opening --open--> live --a later offset--> behind --the missing ones, or their loss--> live

Messages of a channel may overtake each other on the backbone, come twice or not at all; their cursors tell. A router
keeps an `Order` for each channel that it carries, and delivers only what that lets through: each offset once, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from raiden.history import EARLIEST, Gap, Page, is_in
from raiden.message import Cursor, Message

# Messages that are held back; what is beyond can be fetched like what is missing.
MAX_HELD = 1000


class Step(NamedTuple):
    """Messages that are next, and what is missing before the first of them."""

    gap: Gap | None
    messages: list[Message]


class Order:
    """Where a channel stands for the subscribers of this worker. Offset ``next`` of ``epoch`` is the next to deliver;
    an empty epoch: the channel has no history yet. ``over`` is the epoch that ended last: its messages come too
    late."""

    __slots__ = ("_held", "_newest", "epoch", "next", "over")

    def __init__(self) -> None:
        self.epoch = ""
        self.over = ""
        self.next = 0  # opening
        self._held: dict[Cursor, Message] = {}
        self._newest: Cursor | None = None

    @property
    def position(self) -> Cursor | None:
        """The last message that was delivered, or a place before the first; None while opening."""
        if not self.next:
            return None
        return Cursor(self.epoch, self.next - 1) if self.epoch else EARLIEST

    @property
    def behind(self) -> bool:
        """Messages are known of that were not delivered."""
        newest = self._newest
        return newest is not None and (newest.epoch != self.epoch or newest.offset >= self.next)

    def open(self, position: Cursor | None) -> list[Message]:
        """The channel's position is this one (None: it has no history): go on behind it, or from the first message that
        has come meanwhile. Returns what may be delivered."""
        if self.next:
            return []
        self.epoch, self.next = (position.epoch, position.offset + 1) if position else ("", 1)
        if not self.epoch and self._newest:
            self.epoch = self._newest.epoch
        held = [cursor.offset for cursor in self._held if cursor.epoch == self.epoch]
        self.next = min([self.next, *held])
        return self._release()

    def take(self, message: Message) -> list[Message]:
        """What may be delivered now that this message, which has a cursor, has come."""
        cursor = message.cursor
        assert cursor is not None
        epoch, offset = cursor
        if not self.epoch and self.next and epoch != self.over:
            self.epoch = epoch
        if epoch == self.epoch:
            if offset == self.next:
                self.next = offset + 1
                return [message, *self._release()] if self._held else [message]
            if offset < self.next:
                return []
        elif epoch == self.over:
            return []
        self.expect(cursor)
        if len(self._held) < MAX_HELD:
            self._held[cursor] = message
        return []

    def expect(self, newest: Cursor) -> None:
        """The channel's history goes as far as this."""
        if self._newest is None or newest.epoch != self._newest.epoch or newest.offset > self._newest.offset:
            self._newest = newest

    def vanished(self, epoch: str = "") -> None:
        """The channel's history has ended with this epoch, or with the one that it was in; whatever comes next begins
        anew."""
        self.over = epoch or self.epoch or self.over
        self.epoch, self.next = "", 1
        self._held.clear()
        self._newest = None

    @property
    def newest(self) -> Cursor | None:
        """The furthest place that is known of, by what was overtaken or by `expect`."""
        return self._newest

    @property
    def first(self) -> Cursor | None:
        """The first message of the newest epoch that was held back."""
        newest = self._newest
        return min([cursor for cursor in self._held if newest and cursor.epoch == newest.epoch], default=None)

    @property
    def held(self) -> frozenset[Cursor]:
        """The messages that were held back, and can be delivered once those before them are there."""
        return frozenset(self._held)

    def fill(self, channel: str, page: Page, known: Cursor | None) -> Iterator[Step]:
        """A page of the history after `position`, and `newest` as it was when the page was asked for. Yields what may
        be delivered; a gap is told of what neither the page nor what was held has. Take all of it at once: `position`
        is behind the step that was yielded last."""
        if page.position is None:
            self.vanished()
            return
        gap: Gap | None = None
        if page.epoch != self.epoch:
            gap = Gap(self.epoch, 0, 0) if self.epoch else None
            self.over = self.epoch or (self.over if self.over != page.epoch else "")
            self.epoch, self.next = page.epoch, 1
        messages: list[Message] = []
        records = {record.offset: record for record in page.records if record.offset >= self.next}
        end = page.records[-1].offset if page.more and page.records else page.position.offset
        held = [at.offset for at in self._held if at.epoch == self.epoch and self.next <= at.offset <= end]
        for offset in [*sorted({*records, *held}), end + 1]:
            if messages and offset > self.next:
                yield Step(gap, messages)
                gap, messages = None, []
            gap = self._lose(offset, gap)
            if offset <= end:
                came = self._held.pop(Cursor(self.epoch, offset), None)
                messages.append(came or records[offset].to_message(channel, page.epoch))
                self.next = offset + 1
        messages += self._release()
        if not page.more and known and not is_in(known, page.epoch, page.position.offset + 1) and self.behind:
            # A message of an epoch that is over was late; or the store lost its last ones, and what is held is real.
            self._held = {cursor: held for cursor, held in self._held.items() if cursor.epoch == self.epoch}
            self._newest = max(self._held, default=None)
            if self._held and known.epoch == self.epoch:
                if messages:
                    yield Step(gap, messages)
                    gap, messages = None, []
                gap = self._lose(min(self._held).offset, gap)
                messages += self._release()
        if gap or messages:
            yield Step(gap, messages)

    def _lose(self, offset: int, gap: Gap | None) -> Gap | None:
        """What comes before this offset, and was not delivered, is lost; returns the gap with it. Where that is one of
        the epoch before, nobody knows how much was lost, and this is a part of it."""
        if offset > self.next:
            if gap is None:
                gap = Gap(self.epoch, self.next, offset - 1)
            elif gap.first:
                gap = gap._replace(last=offset - 1)
            self.next = offset
        return gap

    def _release(self) -> list[Message]:
        released = []
        while (message := self._held.pop(Cursor(self.epoch, self.next), None)) is not None:
            released.append(message)
            self.next += 1
        if self._held and not self.behind:
            self._held.clear()
        return released
