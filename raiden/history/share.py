"""Shares of a store's room: a bound on the rows of one kind, which leaves the rest to others."""

from __future__ import annotations

import time
from collections.abc import Callable

from raiden.history.store import StoreFailed

COUNT_EVERY = 1.0  # seconds
SHORT = 3 / 4


class Share:
    """A share of ``most`` bytes (0: any number) for rows; ``count`` measures the bytes that they take now. Between two
    counts these are estimated: added bytes are told, removed bytes are not. So where the room seems to be used up the
    rows are counted again, at most every `COUNT_EVERY` seconds. ``why`` says what is full, and what to do."""

    def __init__(self, most: float, count: Callable[[], int], why: str) -> None:
        self.most = int(most)
        self.why = why
        self._count = count
        self._used = count() if self.most else 0
        self._counted = time.monotonic()

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes may be added."""
        if self._used + size > self.most and self.most and time.monotonic() - self._counted > COUNT_EVERY:
            self._recount()
        return not self.most or self._used + size <= self.most

    def take(self, size: int) -> None:
        """Add ``size`` bytes; raises StoreFailed where there is no room for them."""
        if not self.has_room(size):
            raise StoreFailed(self.why)
        self._used += size

    @property
    def short(self) -> bool:
        """Whether there is little room left."""
        return bool(self.most) and self._used > self.most * SHORT

    def recount(self) -> None:
        """Count the rows, where there seems to be little room left."""
        if self.short and time.monotonic() - self._counted > COUNT_EVERY:
            self._recount()

    def _recount(self) -> None:
        self._used = self._count()
        self._counted = time.monotonic()
