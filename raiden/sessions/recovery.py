"""Recovery: the messages that a subscriber missed, from its start up to the live messages, without gap or duplicate.

The backbone's subscription comes first, then the pages of the history, up to the position that the channel's order has
on this worker (`raiden.delivery.orders`); there the subscription is attached, and nothing yields in between. Messages
that are in the history already and not yet delivered here are left for the live ones. So a subscriber gets each offset
after its cursor once and in order, or is told once that it is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gevent

from raiden.delivery.orders import PAGE
from raiden.history.store import StoreFailed
from raiden.model.message import EARLIEST, Cursor, Message
from raiden.model.page import Gap, Page, Start
from raiden.router import Router

# Seconds within which this worker must have got the messages that the history has.
CATCH_UP = 5.0
# Bytes of first pages that are kept for a subscriber until their turn; larger ones are read again.
KEPT = 65536


class Batch(NamedTuple):
    """Messages in their order, the gap before them, and the place behind them."""

    messages: list[Message]
    gap: Gap | None
    cursor: Cursor


class Recovery:
    """The messages of a channel from ``start`` on; the router carries it, and its position is known. The first page is
    read at once: ``gap`` is the gap before it, ``begin`` the place behind which the messages begin. A page of more than
    ``keep`` bytes is let go of, and read again by `batches`. Raises StoreFailed, as `batches` does."""

    def __init__(self, router: Router, name: str, start: Start, keep: int | None = None) -> None:
        self._router = router
        self._name = name
        self._asked = start.cursor
        first = self._read(start, PAGE)
        self.gap = first.gap
        place = first.messages[0].cursor if first.messages else None
        self.begin = self._behind(place) if place else first.cursor
        self._limit = max(PAGE, start.last or 0)
        if keep is not None and sum([len(message.payload) for message in first.messages]) > keep:
            first = Batch([], first.gap, self.begin)
        self._first: Batch | None = first
        self._place = self.begin

    def _behind(self, first: Cursor) -> Cursor:
        """The place behind which the message at ``first`` is the next one."""
        asked = self._asked
        if asked is not None and asked != EARLIEST and self.gap is None and asked.offset == first.offset - 1:
            return asked
        return Cursor(first.epoch, first.offset - 1)

    @property
    def known(self) -> Cursor:
        """The place up to which the client knows the history: not behind a gap before it is told of that."""
        return self._asked if self.gap is not None and self._asked is not None else self.begin

    def batches(self) -> Iterator[Batch]:
        """Yield all missed messages. After the last batch, attach the subscription before anything yields."""
        batch, self._first = self._first, None
        while batch is not None:
            self._place = batch.cursor
            if batch.messages or batch.gap:
                yield batch
            live = self._router.position(self._name)
            if live is None or self._place.place == live.place:
                return
            batch = self._read(Start(self._place), self._limit)
            self._limit = PAGE

    def read_again(self, place: Cursor, limit: int) -> None:
        """Let go of the last batch's messages behind this place; the next batch begins with them, and has at most
        ``limit`` messages."""
        self._place, self._limit = place, limit

    def _read(self, start: Start, limit: int) -> Batch:
        """Read the next messages, up to a hole or to the live ones. This waits until this worker has come to the
        beginning of the page: messages that the history lost before that may still be on their way to this worker, and
        would be delivered after they were told as lost."""
        live = self._router.position(self._name)
        if start.cursor is not None and start.cursor == live and self._router.is_fresh:
            return Batch([], None, live)
        before, page = live, self._page(start, limit)
        deadline = time.monotonic() + CATCH_UP
        while True:
            live = self._router.position(self._name)
            if live is None or before is None:
                return Batch([], page.gap, EARLIEST)  # the subscription has ended
            if page.position is None and not live.offset and live != EARLIEST:
                return Batch([], page.gap, live)  # no message has come yet
            if _share_a_history(live, page) and page.begin <= live.offset and not _is_lost(before, page):
                if live == EARLIEST:
                    # No message of the history has come yet. A subscriber that comes back with the place before all
                    # epochs is not told which messages are gone with this epoch.
                    live = self._router.begin(self._name, page.lives.epoch_of(1)) or live
                return self._due(page, live)
            if live.epoch != before.epoch or live.offset < before.offset:
                # This worker has gone on to another life of the channel than the page's, or went back with it.
                before, page = live, self._page(start, limit)
                continue
            if page.position is None:
                known = start.cursor or EARLIEST
                if live == EARLIEST != known and page.gap is None:
                    # The subscriber knows the epoch that the channel's first message will have.
                    return Batch([], None, self._router.begin(self._name, known.epoch) or live)
                self._router.vanished(self._name, live, known)
                return Batch([], page.gap, EARLIEST)
            # This worker is behind the history, or behind the messages that the subscriber got elsewhere; or the
            # history went back.
            self._router.compare(self._name, before, page.position)
            if time.monotonic() > deadline:
                raise StoreFailed("this node is behind the history: try again later")
            gevent.sleep(0.01)

    def _page(self, start: Start, limit: int) -> Page:
        history = self._router.history
        assert history is not None
        if start.last is not None:
            return history.before(self._name, None, start.last)
        return history.after(self._name, start.cursor, limit)

    def _due(self, page: Page, live: Cursor) -> Batch:
        """The part of a page that comes before the live messages."""
        assert page.position is not None
        messages: list[Message] = []
        for at, message in enumerate(page.messages(self._name), page.begin + 1):
            assert message.cursor is not None
            if message.cursor.offset > min(at, live.offset):
                break
            messages.append(message)
        if messages:
            return Batch(messages, page.gap, messages[-1].cursor or live)
        return Batch([], page.gap, live if page.records else page.position)


def _share_a_history(live: Cursor, page: Page) -> bool:
    """Whether the message that this worker delivered last is in the history of a page, or will be once more was
    appended in its epoch."""
    position = page.position
    if position is None:
        return False
    if live.proof and position.proof and live.offset == position.offset:
        return live.proof == position.proof
    return live.epoch == page.epoch or page.lives.holds(live)


def _is_lost(before: Cursor, page: Page) -> bool:
    """Whether the store has lost the message that this worker had delivered last when the page was asked for."""
    return page.position is not None and page.position.offset < before.offset


def _catch_up(router: Router, names: Iterable[str]) -> None:
    """Wait until this worker has delivered the messages that the history of these channels has now, for at most
    `CATCH_UP` seconds; raises StoreFailed."""
    history = router.history
    places = {name: place for name in names if (place := router.position(name)) is not None}
    goals = history.positions(list(places)) if history is not None and places else {}
    deadline = time.monotonic() + CATCH_UP
    for name, (goal, _) in goals.items():
        place = places[name]
        router.compare(name, place, goal)
        # A lower place than before belongs to another life of the channel.
        while (live := router.position(name)) is not None and place.offset <= live.offset < goal.offset:
            if time.monotonic() > deadline:
                return
            gevent.sleep(0.001)


class Beginning:
    """The beginning of subscriptions to ``names``: making it waits until they are in force, and reads the messages that
    those with an earlier start (``starts``) miss. Raises NotInForce and StoreFailed. ``unconfirmed`` are the nodes that
    did not say so. ``soon``: the messages of a single channel are sent next. ``whole``: the missed messages are all
    that the history has now, also those that this worker has not delivered yet."""

    def __init__(
        self, router: Router, names: Sequence[str], starts: Mapping[str, Start], *, soon: bool = True,
        whole: bool = False,
    ) -> None:  # fmt: skip
        self._router = router
        self._starts = starts
        self.names = names
        self.unconfirmed = router.in_force(names) if names else ()
        if whole:
            _catch_up(router, starts)
        keep = None if soon and len(starts) <= 1 else KEPT // 8
        self.recoveries = {
            name: Recovery(router, name, start, keep)
            for name, start in starts.items()
            if router.position(name) is not None
        }

    @staticmethod
    def is_known(router: Router, names: Sequence[str], starts: Mapping[str, Start]) -> bool:
        """Whether there is nothing to wait for, and nothing was missed. The worker knows that while the store answers:
        a worker that is cut off from it may be cut off from new messages, too."""
        if not router.is_in_force(names):
            return False
        if not starts:
            return True
        if not router.is_fresh:
            return False
        places = [(start.cursor, router.position(name)) for name, start in starts.items()]
        return all([cursor is not None and cursor == place for cursor, place in places])

    def place(self, name: str) -> Cursor | None:
        """The cursor of the message behind which a subscription begins; None without history."""
        recovery = self.recoveries.get(name)
        return recovery.begin if recovery else self._router.position(name)

    def known(self, names: Iterable[str]) -> dict[str, Cursor]:
        """The places up to which the client knows the history, for names that have one."""
        places = {name: (found.known if (found := self.recoveries.get(name)) else self.place(name)) for name in names}
        return {name: place for name, place in places.items() if place is not None}

    def recovered(self, name: str) -> bool | None:
        """Whether a subscription gets all of the past that it asked for; None where it asked for nothing."""
        if name not in self._starts:
            return None
        return name in self.recoveries and self.recoveries[name].gap is None

    def told(self, name: str) -> dict[str, Any]:
        """The fields that tell a client of commands where a subscription begins."""
        place, recovered = self.place(name), self.recovered(name)
        told: dict[str, Any] = {} if place is None else {"cursor": str(place)}
        if recovered is not None:
            told["recovered"] = recovered
        return told
