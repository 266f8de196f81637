"""Subscriptions that read too slowly, and get the newest messages once they have read what was sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from raiden.delivery.skipped import Put, Skipped, Value, before
from raiden.model.message import Cursor, Message

# Seconds between two looks whether they have. So nothing is called from where bytes are sent, for each connection.
LOOK: Final = 0.05
# Values of the key, and bytes of their messages, that are kept for a subscription; one message may have more bytes.
MAX_KEPT: Final = 1000
MAX_KEPT_BYTES: Final = 1 << 20

Sink = TypeVar("Sink")
Member = TypeVar("Member")


class _Lag(Generic[Member]):
    """The messages that are kept for one subscription, each with what is skipped before it: the newest of each value,
    in the order in which they came. ``size`` is the bytes of these, ``place`` the place before all that it was not
    sent."""

    __slots__ = ("kept", "member", "place", "size")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.kept: dict[Value, tuple[Message, Skipped | None]] = {}
        self.place: Cursor | None = None
        self.size = 0

    def keep(self, put: Put[Sink, Member]) -> None:
        skipped = put.skipped
        place = before(put.message) if skipped is None else skipped.behind
        if self.place is None or (place is not None and place.offset < self.place.offset):
            self.place = place  # of several values, the one that comes first may have skipped the least
        older = self.kept.pop(put.value, None)
        if older is not None:
            self.size -= len(older[0].payload)
            skipped = _and_itself(*older).and_then(skipped)
        self.kept[put.value] = put.message, skipped
        self.size += len(put.message.payload)
        while len(self.kept) > MAX_KEPT or (self.size > MAX_KEPT_BYTES and len(self.kept) > 1):
            oldest = self.kept.pop(next(iter(self.kept)))
            self.size -= len(oldest[0].payload)
            value, (message, others) = next(iter(self.kept.items()))
            self.kept[value] = message, _and_itself(*oldest).among(others)


def _and_itself(message: Message, skipped: Skipped | None) -> Skipped:
    """The messages skipped before a message, and that itself."""
    own = Skipped.of(message)
    return own if skipped is None else skipped.and_then(own)


class Laggards(Generic[Sink, Member]):
    """The subscriptions of a group that read too slowly, as ``is_behind`` says. Times are seconds."""

    __slots__ = ("_is_behind", "_lags", "due")

    def __init__(self, is_behind: Callable[[Member], bool]) -> None:
        self._is_behind = is_behind
        self._lags: dict[Sink, _Lag[Member]] = {}
        # The time of the next look at them.
        self.due: float | None = None

    def leave(self, sink: Sink) -> None:
        self._lags.pop(sink, None)

    def place(self, sink: Sink) -> Cursor | None:
        """The place up to which a subscription was sent everything; None: it reads fast enough."""
        lag = self._lags.get(sink)
        return None if lag is None else lag.place

    def passed(self, puts: Iterable[Put[Sink, Member]], now: float) -> Iterator[Put[Sink, Member]]:
        """Yield what is put before those that read fast enough, and keep it for the others."""
        for put in puts:
            ready = {}
            for sink, member in put.sinks.items():
                lag = self._lags.get(sink)
                if lag is None and not self._is_behind(member):
                    ready[sink] = member
                    continue
                if lag is None:
                    lag = self._lags[sink] = _Lag(member)
                lag.keep(put)
            if self._lags and self.due is None:
                self.due = now + LOOK
            yield put._replace(sinks=ready)

    def tick(self, now: float, all_of_them: bool) -> Iterator[tuple[Put[Sink, Member], bool]]:
        """Yield what was kept for those that have read all, or for all of them; with each message, whether it is the
        last one of its subscription."""
        if not all_of_them and (self.due is None or now < self.due):
            return
        for sink, lag in list(self._lags.items()):
            if all_of_them or not self._is_behind(lag.member):
                del self._lags[sink]
                left = len(lag.kept)
                for value, (message, skipped) in lag.kept.items():
                    left -= 1
                    yield Put({sink: lag.member}, message, skipped, None, value), not left
        self.due = now + LOOK if self._lags else None
