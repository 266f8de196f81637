"""Log lines that many requests would write: each is written once a minute for each thing that it is about."""

from __future__ import annotations

import time
from collections.abc import Callable

# Things that are remembered, and the seconds for which they are.
MOST, WINDOW = 100, 60.0


class Seldom:
    """The things that were said within the last `WINDOW` seconds. Beyond `MOST` things in that time nothing more is
    said, so that neither the log nor this grows with the inventions of clients."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def may_say(self, what: str) -> bool:
        """Return True once in a window for each thing, which counts as said then."""
        now = self._clock()
        while self._said and now - next(iter(self._said.values())) >= WINDOW:
            del self._said[next(iter(self._said))]  # they stand in the order in which they were said
        if what in self._said or len(self._said) >= MOST:
            return False
        self._said[what] = now
        return True
