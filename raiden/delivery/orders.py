"""The orders of the channels that a router carries, and repair: the search for messages that the backbone lost.

A message that others overtook is waited for during ``gap_time``, then fetched from the history. The last messages of a
channel are overtaken by none: so every ``check_every`` seconds, and when the store begins a new life, the positions are
compared with the history's. A `Gap` tells of messages that can't be had any more.

Channels that only a pattern brings begin with the first message that was stored after the pattern was subscribed to.
That need not be the first message that comes: other workers publish to the channel too, and another's message may be on
its way yet. So where a message comes that is not its channel's very first, the history tells what stands before it.
Both times are the history's: it has one clock, whatever those of the nodes say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import gevent
from gevent.event import Event

from raiden.backend import Backend
from raiden.delivery.brought import Brought
from raiden.delivery.order import Order
from raiden.delivery.table import Table, Topic
from raiden.history.store import StoreFailed
from raiden.model.chain import ROOT_DIGITS
from raiden.model.message import EARLIEST, Cursor, Message
from raiden.model.page import Gap
from raiden.runtime.turns import pause

# Messages of a page of the history; positions that are asked for in one go, and compared in one look.
PAGE, POSITIONS, CHECKED = 500, 500, 10_000
# Channels whose beginnings are looked for in one go.
BEGINNINGS = 100
# Seconds until a history that failed is asked again; seconds that a pattern waits for the history's time.
RETRY, DATED = 0.5, 1.0
# The time of a pattern that got none from the history: its channels begin with the first message that comes.
NEVER = 1 << 62


class Repaired(NamedTuple):
    """Messages of a channel to deliver next, and the gap before them; ``fetched`` of them came from the history, the
    others had waited for them."""

    channel: bytes
    gap: Gap | None
    messages: list[Message]
    fetched: int = 0


class Orders:
    """The orders of a worker's channels, by name in bytes. ``table`` tells which patterns bring a channel; ``limit``
    bounds the orders of channels that only patterns bring."""

    def __init__(self, backend: Backend, table: Table, *, gap_time: float, check_every: float, limit: int) -> None:
        self._backend = backend
        self._table = table
        self._brought = Brought(table)
        self._left = Event()
        self.gap_time = gap_time
        self.check_every = check_every
        self._limit = limit
        self._orders: dict[bytes, Order] = {}
        self._late: dict[bytes, float] = {}
        # Channels that only patterns bring, with messages and without an open order: the history is asked for their
        # beginnings.
        self._beginning: set[bytes] = set()
        # Patterns whose time is not known.
        self._undated: list[Topic] = []
        self._wake = Event()
        self._checked = 0
        self._check_at = time.monotonic() + check_every
        if backend.history is not None:
            backend.history.renewed = self._check_soon

    def __len__(self) -> int:
        return len(self._orders)

    def carry(self, name: str) -> None:
        """Keep the order of a channel, if it has a history; `open` it before anything is delivered."""
        if self._backend.keeps(name):
            channel = name.encode()
            self._lasting(channel)
            self._brought.discard(channel)
            self._orders.setdefault(channel, Order())

    def drop(self, channel: bytes) -> None:
        """Drop the order of a channel that nobody wants any more."""
        self._orders.pop(channel, None)
        self._brought.discard(channel)

    def forsake(self, channel: bytes) -> None:
        """Note that only patterns bring the channel from now on. Nobody else will open an order that is not open: with
        messages held back, the history is asked for its beginning; without any, it is dropped."""
        order = self._orders.get(channel)
        if order is None:
            return
        self._brought.add(channel)
        if order.next:
            return
        if order.first is None:
            self.drop(channel)
        else:
            self._begin(channel)

    def follow(self, pattern: Topic) -> None:
        """Follow a pattern that was added to the table; `date` it before it is in force."""
        if self._backend.history is not None:
            self._undated.append(pattern)
            self._wake.set()

    def date(self) -> None:
        """Ask the history for its time, for the patterns that have none."""
        patterns = list(self._undated)
        history = self._backend.history
        if not patterns or history is None:
            return
        now = NEVER
        try:
            with gevent.Timeout(DATED, False):
                now = history.now()
        except StoreFailed:
            pass  # patterns may be of channels that need no history
        for pattern in patterns:
            pattern.since = pattern.since or now
        self._undated = [pattern for pattern in self._undated if not pattern.since]

    def leave(self, pattern: Topic) -> None:
        """A pattern was removed from the table. The orders that only it brought are dropped soon, by `sweep`."""
        self._brought.leave(pattern)
        self._left.set()

    def sweep(self) -> None:
        """Drop the orders that patterns which left have brought; endless, for a greenlet."""
        while True:
            self._left.wait()
            self._left.clear()
            for channels in self._brought.forsaken():
                for channel in channels:
                    self._orders.pop(channel, None)
                pause()

    def _lasting(self, channel: bytes) -> Order | None:
        """A channel's order. A forsaken order is dropped: present subscribers did not want the messages that it
        missed."""
        if self._brought.leaving and self._brought.is_forsaken(channel):
            self.drop(channel)
        return self._orders.get(channel)

    def position(self, name: str) -> Cursor | None:
        """The cursor of the last message of a channel that was delivered; None where no order is kept, or it is not
        open yet."""
        order = self._orders.get(name.encode())
        return order.position if order else None

    def at_end(self, name: str) -> Cursor | None:
        """The cursor of a channel's end, where all was delivered up to that."""
        order = self._orders.get(name.encode())
        return order.position if order is not None and order.end and not order.behind else None

    def are_open(self, names: Sequence[str]) -> bool:
        """Whether `date` and `open` have nothing to find out."""
        if self._undated and any([name.endswith("*") for name in names]):
            return False
        return not self._orders or all(
            [name.encode() not in self._orders or self._orders[name.encode()].next for name in names]
        )

    def open(self, names: Sequence[str]) -> Iterator[Repaired]:
        """Ask for the positions of channels, in one go, and open their orders; raises StoreFailed. Yields the messages
        that have come meanwhile."""
        opening = [name for name in names if (order := self._orders.get(name.encode())) and not order.next]
        if not opening:
            return
        assert self._backend.history is not None
        stands = self._backend.history.open(opening)
        for name in opening:
            order = self._orders.get(name.encode())
            if order is not None:
                position, end = stands.get(name) or (None, False)
                yield Repaired(name.encode(), None, order.open(position, end=end))

    def take(self, channel: bytes, message: Message) -> Sequence[Message]:
        """Take a message, which has a cursor, and return the messages that may be delivered now."""
        order = self._lasting(channel) if self._brought.leaving else self._orders.get(channel)
        if order is None:
            if not self._backend.keeps(message.channel) or len(self._orders) >= self._limit:
                return (message,)
            assert message.cursor is not None
            order = self._orders[channel] = Order()
            self._brought.add(channel)
            if message.cursor.offset == 1:
                order.open(Cursor(message.cursor.epoch, 0))
            else:
                self._begin(channel)
        ready = order.take(message)
        if not ready and order.next and order.behind:
            self._suspect(channel)
        return ready

    def begin(self, name: str, epoch: str) -> Cursor | None:
        """Begin the history of a channel that had none: it began with this epoch, though no message of it has come yet.
        Returns the channel's position."""
        order = self._orders.get(name.encode())
        if order is None:
            return None
        order.begin(epoch)
        return order.position

    def foresee(self, name: str) -> None:
        """Begin the history of a channel that has none with the epoch that its first message will have. Waits; raises
        StoreFailed."""
        assert self._backend.history is not None
        order = self._orders.get(name.encode())
        over = order.over if order is not None else ""
        stand = self._backend.history.open([name])[name]
        if order is not None and order.over == over:  # else the channel was deleted, and the answer may be too old
            order.begin(stand.position.epoch[:ROOT_DIGITS])

    def compare(self, name: str, place: Cursor | None, position: Cursor | None) -> None:
        """Compare an order with the end of its channel's history, ``position`` (None: there is none), which was asked
        for when the order was at ``place``."""
        order = self._orders.get(name.encode())
        if order is not None:
            order.compare(place, position)
            if order.behind:
                self._suspect(name.encode())

    def ended(self, channel: bytes, epoch: str) -> bool:
        """End a channel that was deleted, and with it this epoch of its history (empty: the present one; that of
        `EARLIEST`: it had none). Returns False where its subscribers are in a later epoch already."""
        order = self._orders.get(channel)
        if order is None:
            return True
        is_empty = epoch == EARLIEST.epoch and order.next <= 1
        if epoch and order.epoch and order.epoch[:ROOT_DIGITS] != epoch[:ROOT_DIGITS] and not is_empty:
            return False
        order.vanished(epoch)
        return True

    def vanished(self, name: str, place: Cursor, known: Cursor = EARLIEST) -> bool:
        """Note that a channel had no history when its order was in the epoch of ``place``; somebody knows the place
        ``known``. Messages of either epoch that are on their way come too late. Returns whether the order's epoch has
        ended with that."""
        order = self._orders.get(name.encode())
        position = order.position if order else None
        if order is None or position is None or position.epoch != place.epoch:
            return False  # its history began meanwhile
        order.vanished("" if order.epoch or known == EARLIEST else known.epoch)
        return place != EARLIEST

    def repairs(self) -> Iterator[Repaired]:
        """Wait for gaps, and yield the messages that fill them; endless."""
        while True:
            if self._late:
                gevent.sleep(max(self.gap_time / 2, 0.001))
            else:
                self._wake.wait(max(0.0, self._check_at - time.monotonic()))
            self._wake.clear()
            self.date()
            while self._beginning:
                yield from self._find_beginnings()
            now = time.monotonic()
            for channel in [channel for channel, since in self._late.items() if now - since >= self.gap_time]:
                yield from self._repair(channel)
            if time.monotonic() >= self._check_at:
                self._check_at = time.monotonic() + self.check_every
                self._check()

    def _suspect(self, channel: bytes) -> None:
        if channel not in self._late:
            self._late[channel] = time.monotonic()
            self._wake.set()

    def _begin(self, channel: bytes) -> None:
        self._beginning.add(channel)
        self._wake.set()

    def _find_beginnings(self) -> Iterator[Repaired]:
        """Open orders of channels that only patterns bring."""
        found: list[tuple[str, Order, Cursor]] = []
        while self._beginning and len(found) < BEGINNINGS:
            channel = self._beginning.pop()
            order = self._lasting(channel)
            if order is not None and not order.next and order.first:
                found.append((channel.decode(), order, order.first))
        firsts = {name: first for name, _, first in found}
        try:
            # Mostly the one message before it is older than the pattern, and that is all.
            earlier = self._earlier(firsts, 1)
            firsts |= earlier
            firsts |= self._earlier(earlier, PAGE)
        except StoreFailed:
            pass  # then they begin with the messages that have come
        for name, order, _ in found:
            channel, first = name.encode(), firsts[name]
            if self._orders.get(channel) is order and not order.next:
                yield Repaired(channel, None, order.open(Cursor(first.epoch, first.offset - 1)))
                if order.behind:
                    self._suspect(channel)

    def _earlier(self, places: dict[str, Cursor], limit: int) -> dict[str, Cursor]:
        """The first message of each channel that was stored before its place here, but after a pattern for it was made;
        ``limit`` messages of each are looked at."""
        assert self._backend.history is not None
        found = {}
        pages = self._backend.history.before_each(list(places.items()), limit) if places else []
        for (name, place), page in zip(places.items(), pages, strict=True):
            since = min([topic.since or NEVER for topic in self._table.matching(name.encode())], default=NEVER)
            offsets = [record.offset for record in page.records if record.published >= since]
            if offsets and page.lives.holds(place):
                first = min(place.offset, *offsets)
                found[name] = Cursor(page.lives.epoch_of(first), first)
        return found

    def _repair(self, channel: bytes) -> Iterator[Repaired]:
        """Fetch the messages that a channel misses, if it still does."""
        assert self._backend.history is not None
        del self._late[channel]
        order = self._lasting(channel)
        name, more = channel.decode(), True
        while more and order is not None and order.behind:
            known, place, epoch = order.newest, order.position, order.epoch
            try:
                page = self._backend.history.after(name, place, PAGE)
            except StoreFailed:
                self._late[channel] = time.monotonic() + RETRY
                return
            if self._orders.get(channel) is not order:
                return
            lost = page.gap is not None and not page.gap.first
            if order.epoch != epoch or (lost and order.position != place):
                break  # the order is elsewhere by now: this page does not follow it
            held, more = order.held, page.more
            for gap, messages in order.fill(name, page, known):
                yield Repaired(channel, gap, messages, sum(message.cursor not in held for message in messages))
        if order is not None and order.behind:
            self._suspect(channel)

    def _check_soon(self) -> None:
        self._check_at = 0.0
        self._wake.set()

    def _check(self) -> None:
        """Compare positions with the history's; some of the channels, if there are many."""
        assert self._backend.history is not None
        opened = [channel for channel, order in self._orders.items() if order.next]
        if len(opened) > CHECKED:
            at = self._checked % len(opened)
            opened = (opened[at:] + opened[:at])[:CHECKED]
            self._checked = at + CHECKED
        for start in range(0, len(opened), POSITIONS):
            asked = opened[start : start + POSITIONS]
            names = [channel.decode() for channel in asked]
            places = [self.position(name) for name in names]
            try:
                stands = self._backend.history.positions(names)
            except StoreFailed:
                return  # the next look is soon
            for name, place in zip(names, places, strict=True):
                stand = stands.get(name)
                self.compare(name, place, None if stand is None else stand.position)
