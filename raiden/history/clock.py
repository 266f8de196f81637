"""The time by which a store counts: how old messages are, until when claims hold.

It goes on by what has passed, whatever becomes of the machine's wall clock meanwhile: that may be set by a day, and
nothing expires sooner or later for it. It is kept in the store, so it does not go back over a restart either. A wall
clock that is ahead when a store is opened can't be told from time that has passed since it was closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# Time that a machine sleeps has passed, too, where the system counts it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> Callable[[], int]:
    """A clock that gives microseconds since 1970 as the wall clock tells them now, and goes on by what has passed."""
    began = time.time_ns() - time.clock_gettime_ns(_CLOCK)
    return lambda: (began + time.clock_gettime_ns(_CLOCK)) // 1000


class Clock:
    """Microseconds that never go back: where ``source`` does, it goes on from there."""

    def __init__(self, source: Callable[[], int]) -> None:
        self._source = source
        self._ahead = 0
        self._last = 0

    def __call__(self) -> int:
        now = self._source() + self._ahead
        if now < self._last:
            self._ahead += self._last - now
            now = self._last
        self._last = now
        return now

    def go_on_from(self, then: int) -> None:
        """It was so late already."""
        self._last = max(self._last, then)
