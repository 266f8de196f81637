"""Log lines that many requests would write are written once a minute for each thing that they are about."""

from __future__ import annotations

import time
from collections.abc import Callable

# Things that are remembered, and for how many seconds.
MOST, WINDOW = 100, 60.0


class Seldom:
    """What was said within the last `WINDOW` seconds. Of more than `MOST` things in that time the others go unsaid, so
    that neither the log nor this grows with what clients think of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def may_say(self, what: str) -> bool:
        """True, once in a window, for each thing; it counts as said then."""
        now = self._clock()
        while self._said and now - next(iter(self._said.values())) >= WINDOW:
            del self._said[next(iter(self._said))]  # they stand in the order in which they were said
        if what in self._said or len(self._said) >= MOST:
            return False
        self._said[what] = now
        return True
