"""The order of a channel with history: the messages to deliver next, those held back, and those missing. Pure.

     opening --open--> live --a later offset, or a doubt--> behind --the missing ones, or their loss--> live

Messages of a channel may overtake each other on the backbone, come twice or not at all; their cursors tell. A router
keeps an `Order` for each channel that it carries, and delivers only messages that the order lets through: each offset
once, in order.

A message has the proof of the message before it (`raiden.model.chain`). A message with the next offset is delivered if
that is the proof of the message that was delivered last; so it may be of another epoch of the same history. Where it is
not, the history went back, and a page of it tells what is there now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from raiden.model.chain import Lives
from raiden.model.message import EARLIEST, Cursor, Message
from raiden.model.page import Gap, Page

# Messages that are held back; further ones can be fetched as missing ones are.
MAX_HELD = 1000


class Step(NamedTuple):
    """Messages to deliver next, and the gap before the first of them."""

    gap: Gap | None
    messages: list[Message]


class Order:
    """The order of a channel for the subscribers of this worker. Offset ``next`` of ``epoch`` is the next to deliver;
    an empty epoch: the channel has no history yet. ``over`` is the epoch that ended last: its messages come too late.
    ``proof`` is that of the message before; "": it is not known. ``end``: that message was the channel's end."""

    __slots__ = ("_doubted", "_held", "_newest", "end", "epoch", "next", "over", "proof")

    def __init__(self) -> None:
        self.epoch = ""
        self.over = ""
        self.end = False
        self.next = 0  # opening
        self.proof = ""
        # Messages held back, by offset; of two with the same offset, the one that came last.
        self._held: dict[int, Message] = {}
        self._newest: Cursor | None = None
        self._doubted = False

    @property
    def position(self) -> Cursor | None:
        """The cursor of the last message that was delivered, or a place before the first; None while opening."""
        if not self.next:
            return None
        return Cursor(self.epoch, self.next - 1, self.proof) if self.epoch else EARLIEST

    @property
    def behind(self) -> bool:
        """Whether messages are known that were not delivered, or the history may be another one."""
        newest = self._newest
        return self._doubted or (newest is not None and (newest.epoch != self.epoch or newest.offset >= self.next))

    def open(self, position: Cursor | None, *, end: bool = False) -> list[Message]:
        """Open the order at the channel's position (None: it has no history), which may be its ``end``: go on behind
        it, or from the first message that has come meanwhile. Returns the messages that may be delivered."""
        if self.next:
            return []
        self.end = end
        self.epoch, last, self.proof = position or ("", 0, "")
        self.next = last + 1
        if not self.epoch and self._newest:
            self.epoch = self._newest.epoch
        earlier = [at for at, message in self._held.items() if _cursor(message).epoch == self.epoch and at < self.next]
        if earlier:
            self.next = min(earlier)
            self.proof = self._held[self.next].before
            self.end = False
        return self._release()

    def begin(self, epoch: str) -> None:
        """Begin the history of a channel that had none: it began with this epoch, and `position` is a place in it."""
        if not self.epoch and self.next and epoch != self.over:
            self.epoch = epoch

    def take(self, message: Message) -> list[Message]:
        """Take a message, which has a cursor, and return the messages that may be delivered now."""
        cursor = message.cursor
        assert cursor is not None
        epoch, offset, proof = cursor
        if not self.epoch:
            self.begin(epoch)
        if offset == self.next:
            if self._follows(message):
                if epoch == self.epoch:
                    self.next, self.proof = offset + 1, proof
                else:
                    self._reach(cursor)
                self.end = message.attributes is not None and message.attributes.end
                return [message, *self._release()] if self._held else [message]
        elif offset < self.next and epoch == self.epoch:
            if offset == self.next - 1 and proof and self.proof and proof != self.proof:
                self.doubt()
            return []
        if epoch == self.over:
            return []
        self.expect(cursor)
        if len(self._held) < MAX_HELD:
            self._held[offset] = message
        return []

    def _follows(self, message: Message) -> bool:
        """Whether a message with the next offset belongs to the history that was delivered so far."""
        if message.before and self.proof:
            return message.before == self.proof
        return _cursor(message).epoch == self.epoch

    def expect(self, newest: Cursor) -> None:
        """Note that the channel's history goes as far as this."""
        if self._newest is None or newest.epoch != self._newest.epoch or newest.offset > self._newest.offset:
            self._newest = newest

    def compare(self, place: Cursor | None, position: Cursor | None) -> None:
        """Compare with the end of the channel's history, ``position`` (None: there is none). It was asked for when this
        order was at ``place``, which was in the history then."""
        if position is None:
            if place is not None and place.offset and place == self.position:
                self.doubt()
        elif place is None or place == EARLIEST or position.offset > place.offset:
            self.expect(position)
        elif place != position and (place.place != position.place or (place.proof and position.proof)):
            self.doubt()

    def doubt(self) -> None:
        """Doubt that the message delivered last is still in the history: a page of it will tell."""
        self._doubted = True

    def vanished(self, epoch: str = "") -> None:
        """End the channel's history with this epoch, or with the one that it was in; the next message begins anew."""
        self.over = epoch or self.epoch or self.over
        self.epoch, self.next, self.proof = "", 1, ""
        self._held.clear()
        self._newest = None
        self._doubted = self.end = False

    @property
    def newest(self) -> Cursor | None:
        """The furthest place that is known, from messages that were overtaken or by `expect`."""
        return self._newest

    @property
    def first(self) -> Cursor | None:
        """The first message of the newest epoch that was held back."""
        newest = self._newest
        cursors = [_cursor(message) for message in self._held.values()]
        return min([cursor for cursor in cursors if newest and cursor.epoch == newest.epoch], default=None)

    @property
    def held(self) -> frozenset[Cursor]:
        """The messages that were held back, and can be delivered once those before them are there."""
        return frozenset([_cursor(message) for message in self._held.values()])

    def fill(self, channel: str, page: Page, known: Cursor | None) -> Iterator[Step]:
        """Fill the order from a page of the history after `position`; ``known`` is `newest` as it was when the page was
        asked for. Yields the messages that may be delivered, with a gap for those that are neither in the page nor held
        back. Take all steps at once: `position` is behind the step that was yielded last."""
        position, lives = page.position, page.lives
        if position is None:
            lost = page.gap if self.epoch and self.next > 1 else None
            self.vanished()
            if lost is not None:
                yield Step(lost, [])
            return
        self._doubted = self.end = False
        gap: Gap | None = None
        if page.gap is not None and not page.gap.first:
            # The history that was delivered is not the one that is there. Where nothing of that was delivered, the
            # present one is expected from its first message on.
            if self.epoch and self.next > 1:
                gap, self.next = page.gap, page.begin + 1
            else:
                self.next = 1
            self.proof = ""
        messages: list[Message] = []
        found = {_cursor(message).offset: message for message in page.messages(channel)}
        end = page.records[-1].offset if page.more and page.records else position.offset
        for at, message in self._held.items():
            cursor = _cursor(message)
            if at <= end and lives.epoch_of(at) == cursor.epoch and (at not in found or found[at].cursor == cursor):
                found[at] = message
        for offset in [*sorted([at for at in found if at >= self.next]), end + 1]:
            if messages and offset > self.next:
                yield Step(gap, messages)
                gap, messages = None, []
            gap = self._lose(offset, gap, lives)
            if offset <= end:
                self._reach(_cursor(found[offset]))
                messages.append(found[offset])
        if not page.more and self.next == position.offset + 1:
            self._reach(position)
        self.end = page.ended and not page.more
        self._held = {at: message for at, message in self._held.items() if at >= self.next}
        messages += self._release()
        late = known is not None and (known.epoch != self.epoch or not lives.holds(known))
        if not page.more and known and late and self.behind:
            # A message of an epoch that is over was late; or the store lost the last ones of it, and the held ones are
            # real.
            self._held = {at: held for at, held in self._held.items() if _cursor(held).epoch == self.epoch}
            self._newest = _cursor(self._held[max(self._held)]) if self._held else None
            if self._held and known.epoch == self.epoch:
                if messages:
                    yield Step(gap, messages)
                    gap, messages = None, []
                gap = self._lose(min(self._held), gap, lives)
                messages += self._release()
        if gap or messages:
            yield Step(gap, messages)

    def _lose(self, offset: int, gap: Gap | None, lives: Lives) -> Gap | None:
        """Lose the messages before this offset that were not delivered; returns the gap with them. Where the gap is one
        of another history, nobody knows how much was lost, and these are a part of it."""
        if offset > self.next:
            epoch = lives.epoch_of(offset - 1)
            if gap is None:
                gap = Gap(epoch, self.next, offset - 1)
            elif gap.first:
                gap = Gap(epoch, gap.first, offset - 1)
            self._reach(Cursor(epoch, offset - 1))
        return gap

    def _reach(self, cursor: Cursor) -> None:
        """Go on behind this message, which was delivered, or will never be."""
        if cursor.epoch != self.epoch:
            self.over = self.epoch or (self.over if self.over != cursor.epoch else "")
        self.epoch, self.next, self.proof = cursor.epoch, cursor.offset + 1, cursor.proof

    def _release(self) -> list[Message]:
        released: list[Message] = []
        while (message := self._held.get(self.next)) is not None and self._follows(message):
            del self._held[self.next]
            self._reach(_cursor(message))
            self.end = message.ends
            released.append(message)
        if self._held and not self.behind:
            self._held.clear()
        return released


def _cursor(message: Message) -> Cursor:
    assert message.cursor is not None
    return message.cursor
