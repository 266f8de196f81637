"""The clock of a store: it gives the age of messages, and the end of claims.

The clock goes on by the time that has passed, whatever happens to the machine's wall clock: that may be set by a day,
and nothing expires sooner or later for it. The time is kept in the store, so the clock does not go back over a restart
either. A wall clock that is ahead when a store is opened can't be told from time that has passed since it was closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# Time that a machine sleeps has passed, too, where the system counts it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> Callable[[], int]:
    """A clock that begins with the wall clock's microseconds since 1970, and goes on by the time that has passed."""
    began = time.time_ns() - time.clock_gettime_ns(_CLOCK)
    return lambda: (began + time.clock_gettime_ns(_CLOCK)) // 1000


class Clock:
    """A clock of microseconds that never goes back: where ``source`` does, this clock goes on from its last time."""

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
        """Let the clock give no time before ``then``."""
        self._last = max(self._last, then)
