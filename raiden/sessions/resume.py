"""Sessions of ``/-/websocket``: subscriptions that outlive their socket.

The subscriptions are kept in the store with the places up to which the client has surely got everything. A pong tells
these, because it comes behind all that was sent before its ping. A client with the session's id gets the subscriptions
back in one round trip, on any node; it knows better what it got last, and may say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from raiden.delivery.table import Subscription
from raiden.history.client import History
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.message import Cursor
from raiden.model.page import Start
from raiden.model.refusals import NotFound, Refusal
from raiden.router import Router
from raiden.sessions.asks import Resume
from raiden.sessions.kept import Held, Row, Taken


class Wanted(NamedTuple):
    """Subscriptions that a command asks for, by name: their filters, and the starts of those with some of their past.
    ``taken`` is the session that they are of, if any. Of channels that are ``watched``, the client is told who joins
    and leaves."""

    filters: Mapping[str, Filters]
    starts: Mapping[str, Start]
    taken: Taken | None = None
    watched: Sequence[str] = ()


class Places:
    """The places up to which the client of a socket has got each of its subscriptions."""

    __slots__ = ("_ended", "_got", "_opening", "_sent")

    def __init__(self) -> None:
        # The places up to which the client has surely got everything, and those up to which it had been sent everything
        # when it was pinged last.
        self._got: dict[str, Cursor] = {}
        self._sent: dict[str, Cursor] = {}
        # The places of subscriptions that are not attached yet, as far as known; the others are at the router's
        # positions.
        self._opening: dict[str, Cursor | None] = {}
        # The rows of subscriptions that are over, because their channels have ended, until the client has surely heard
        # of that; and whether it was pinged since.
        self._ended: dict[str, tuple[Row, bool]] = {}

    def begin(self, name: str) -> None:
        """Note a subscription that is not attached yet."""
        self._opening[name] = None
        self._ended.pop(name, None)

    def known(self, places: Mapping[str, Cursor]) -> None:
        """Note places up to which the client has got everything."""
        self._got.update(places)

    def reached(self, name: str, place: Cursor) -> None:
        """Note that missed messages were sent up to this place."""
        self._opening[name] = place

    def attached(self, name: str) -> None:
        self._opening.pop(name, None)

    def forget(self, name: str) -> None:
        for table in (self._got, self._sent, self._opening):
            table.pop(name, None)

    def end(self, name: str, row: Row) -> None:
        """Note that a subscription with this row will be over, because its channel has ended."""
        self._ended[name] = row, False

    def pinged(self, router: Router, subscriptions: Mapping[str, Subscription]) -> dict[str, Cursor]:
        """Note that the client has got all that was sent before the last ping, and that the next ping comes now.
        Returns the places to tell: nothing else tells of messages that filters hide."""
        self._got.update(self._sent)
        self._ended = {name: (row, True) for name, (row, pinged) in self._ended.items() if not pinged}
        places = {name: each.place or router.position(name) for name, each in subscriptions.items()} | self._opening
        self._sent = {name: place for name, place in places.items() if place}
        return {
            name: place for name, place in self._sent.items()
            if subscriptions[name].filters and name not in self._opening and self._got.get(name) != place
        }  # fmt: skip

    def rows(self, subscriptions: Mapping[str, Subscription], asked: Mapping[str, Filters]) -> dict[str, Row]:
        """The rows to keep for the subscriptions, with the filters in ``asked``, or else their own."""
        ended = {name: row for name, (row, _) in self._ended.items()}
        return ended | {
            name: Row(asked.get(name, subscription.filters or NO_FILTERS), self._got.get(name))
            for name, subscription in subscriptions.items()
        }


class Resumable:
    """The session of a socket, which can be resumed for ``window`` seconds after the socket's end; until then, the kept
    rows are renewed within ``keepalive`` seconds. ``subscriptions`` are the socket's, by name, ``asked`` the
    filters that the client asked for where it got others, and ``places`` those of their client."""

    __slots__ = ("_asked", "_held", "_keepalive", "_over", "_places", "_subscriptions", "resuming", "window")

    def __init__(
        self, history: History, subscriptions: Mapping[str, Subscription], asked: Mapping[str, Filters],
        places: Places, *, window: float, keepalive: float, owner: str = "",
    ) -> None:  # fmt: skip
        self._held = Held(history, owner)
        self._subscriptions = subscriptions
        self._asked = asked
        self._places = places
        self._keepalive = keepalive
        self._over = False
        # Whether another session is being taken, or brought back.
        self.resuming = False
        self.window = window

    @property
    def is_open(self) -> bool:
        """Whether the socket has a session that no other socket has taken."""
        return self._held.id is not None

    def open(self) -> str:
        """Return the id of the present session, or of a new one. Waits; raises StoreFailed."""
        rows: dict[str, Row] = {}

        def now() -> dict[str, Row]:
            nonlocal rows
            rows = self._rows()
            return rows

        session = self._held.open(now, self._seconds)
        if self._rows() != rows:
            # Subscriptions that were made meanwhile were replied to without waiting for this session.
            self.keep()
        return session

    def check(self) -> None:
        """Raise TooLargeToKeep where the session could not be kept with the present subscriptions."""
        self._held.check(self._rows())

    def keep(self) -> None:
        """Keep the present subscriptions, if there is a session. Waits; raises StoreFailed."""
        if self._keeps:
            self._held.keep(self._rows(), self._seconds)

    def try_to_keep(self) -> None:
        """`keep`; where that fails, the log says so."""
        if self._keeps:
            self._held.try_to_keep(self._rows(), self._seconds)

    def keep_soon(self) -> None:
        """`try_to_keep`, without waiting for it."""
        if self._keeps:
            self._held.keep_soon(self._rows(), self._seconds)

    def take(self, session: str) -> Taken:
        """Take a session with its subscriptions; from now on no other socket keeps it. Waits; raises NotFound and
        StoreFailed."""
        taken = self._held.take(session)
        if taken is None:
            raise NotFound("no such session, or it is over: subscribe anew")
        return taken

    def bring_back(self, ask: Resume, check: Callable[[Taken], None]) -> Wanted:
        """Take a session, and return the subscriptions to make; where ``check`` refuses that, it is given back. Waits;
        raises what `take` raises."""
        taken = self.take(ask.session)
        try:
            check(taken)
        except Refusal:
            self.give_back(taken)
            raise
        starts = {name: Start(row.place) for name, row in taken.rows.items() if row.place}
        starts.update({name: Start(place) for name, place in ask.since.items() if name in taken.rows})
        return Wanted({name: row.filters for name, row in taken.rows.items()}, starts, taken)

    def give_back(self, taken: Taken) -> None:
        """Give a session back that was not brought back."""
        self._held.give_back(taken)

    def resumed(self, taken: Taken) -> None:
        """Make a taken session this socket's."""
        self.resuming = False
        self._held.id = taken.session
        self.keep_soon()

    def end(self, subscription: Subscription) -> None:
        """Keep a subscription whose channel has ended, until the client has surely heard of that."""
        if self._keeps:
            self._places.end(subscription.name, self._rows()[subscription.name])

    def close(self) -> None:
        """Keep the subscriptions of a socket that ends, for the socket that resumes them; it must still have them."""
        rows = self._rows() if self._keeps else {}
        if rows:
            self._held.keep_soon(rows, self.window)
        self._over = True

    @property
    def _keeps(self) -> bool:
        # Once the socket is over its subscriptions are kept, or being kept, and it has none any more.
        return self._held.id is not None and not self._over

    @property
    def _seconds(self) -> float:
        return self.window + self._keepalive

    def _rows(self) -> dict[str, Row]:
        return self._places.rows(self._subscriptions, self._asked)
