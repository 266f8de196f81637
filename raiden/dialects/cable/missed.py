"""What a client says that it has got of a stream, and the start from which it gets the rest."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from raiden.history.client import History
from raiden.model import strict_json
from raiden.model.message import Cursor
from raiden.model.page import Start
from raiden.model.strict_json import InvalidPayload

# Messages that are read at first, and at most, to find those since a time.
_FIRST: Final = 8
_MOST: Final = 1000
# A place that no history has.
_UNKNOWN: Final = Cursor("0", 1)


class Missed(NamedTuple):
    """The messages that a client asks for: those behind ``cursor``; or where it knows none, those since a Unix time in
    seconds (0: none)."""

    cursor: Cursor | None
    since: int

    @classmethod
    def read(cls, history: bytes, name: str) -> Missed | None:
        """Read what a client says of a stream, ``{"since": ..., "streams": {NAME: {"epoch": ..., "offset": ...}}}``;
        None: it asks for nothing."""
        try:
            told = strict_json.value(history, most=strict_json.MAX_SLOW) if history else None
        except InvalidPayload:
            return None
        if not isinstance(told, dict):
            return None
        streams, since = told.get("streams"), _number(told.get("since"))
        place = streams.get(name) if isinstance(streams, dict) else None
        return cls(None if place is None else _cursor(place), since)

    def start(self, history: History, name: str, live: Cursor | None) -> Start | None:
        """The start of what is missed; None: nothing is. ``live`` is the place where this worker is: a client that says
        that it is there, too, needs nothing of the store. Waits; raises StoreFailed."""
        if self.cursor is not None:
            return Start(live if live is not None and self.cursor.place == live.place else self.cursor)
        return _since(history, name, 1_000_000 * self.since) if self.since else None


def _number(since: Any) -> int:
    return int(since) if isinstance(since, int | float) and 0 < since < 1e11 else 0


def _cursor(place: Any) -> Cursor:
    epoch, offset = (place.get("epoch"), place.get("offset")) if isinstance(place, dict) else (None, None)
    if not isinstance(epoch, str) or not (epoch.isascii() and epoch.isalnum()) or len(epoch) > 64:
        return _UNKNOWN
    if type(offset) is not int or not 0 <= offset < 1 << 63:
        return _UNKNOWN
    return Cursor(epoch, offset)


def _since(history: History, name: str, time: int) -> Start:
    """The start with the first message that was stored at this time, in microseconds since 1970, or later. Most clients
    have missed little, so the search begins with the newest."""
    limit, before = _FIRST, None
    while True:
        page = history.before(name, before, limit)
        messages = page.messages(name)
        for message in reversed(messages):
            if message.published < time:
                return Start(message.cursor)
        if not page.more or not messages:
            return Start(None)
        limit, before = min(4 * limit, _MOST), messages[0].cursor
