"""The messages that a client missed, which stand in the reply to its subscription."""

from __future__ import annotations

from typing import Final

from raiden.connections.connection import Connection
from raiden.model.filters import Filters
from raiden.model.message import Cursor, Message
from raiden.model.page import Start
from raiden.router import Router
from raiden.sessions.recovery import Recovery

# Messages that a reply may have (centrifugo: client.recovery_max_publication_limit).
MOST: Final = 300
# Bytes of an epoch.
_MAX_EPOCH: Final = 64


def may_be(place: Cursor) -> bool:
    """Whether a place that a client names may be one of a history."""
    epoch = place.epoch
    return epoch.isascii() and epoch.isalnum() and len(epoch) <= _MAX_EPOCH and 0 <= place.offset < 1 << 63


class Past:
    """The messages of a channel behind the place that a client names, for a subscription that is in force. `read` until
    this `is_over`. ``lost``: they can't be had, or are more than a reply may have, so that it has none."""

    def __init__(
        self, router: Router, connection: Connection, name: str, epoch: str, offset: int, filters: Filters | None,
        most_bytes: int,
    ) -> None:  # fmt: skip
        self._router = router
        self._connection = connection
        self._name = name
        self._filters = filters
        self._room = most_bytes
        self._has_read = False
        self.messages: list[Message] = []
        live = router.position(name)
        # Without an epoch, the present one is meant.
        self._place = Cursor(epoch or ("" if live is None else live.epoch), offset)
        self.lost = live is None or not may_be(self._place)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to read, at this moment."""
        if self.lost:
            return True
        live = self._router.position(self._name)
        return live is None or (live.place == self._place.place and (self._has_read or self._router.is_fresh))

    def read(self) -> None:
        """Read up to the live messages. Waits; raises StoreFailed."""
        for batch in Recovery(self._router, self._name, Start(self._place)).batches():
            if batch.gap is not None or not self._take(batch.messages):
                self.lost = True
                self.messages.clear()
                return
        # Nothing has yielded since the last batch.
        self._has_read = True
        self._place = self._router.position(self._name) or self._place

    def _take(self, messages: list[Message]) -> bool:
        """Take messages, and return whether there was room for them."""
        for message in messages:
            wanted = self._filters is None or self._filters.match(message)
            if wanted and not message.is_empty_end and not self._router.ids.is_excluded(self._connection, message):
                self.messages.append(message)
                self._room -= len(message.payload)
        return len(self.messages) <= MOST and self._room >= 0
