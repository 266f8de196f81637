"""A circuit breaker: after some failures in a row nothing is tried for a while, then one thing. Pure.

closed --FAILURES in a row--> open --PAUSE seconds--> half open --success--> closed
                                ^------------------- failure ----'
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Failures in a row, and the seconds after them in which nothing is tried.
FAILURES: Final = 5
PAUSE: Final = 5.0


class Breaker:
    """The state of one thing that may fail."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._again = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last `FAILURES` tries have failed."""
        return self._failures >= FAILURES

    def admit(self) -> bool:
        """Whether to try now. Once a pause is over one caller may, and the next one `PAUSE` seconds later."""
        if not self.is_open:
            return True
        if self._clock() < self._again:
            return False
        self._again = self._clock() + PAUSE
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> bool:
        """Note a failure; return whether this one has opened the breaker."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._again = self._clock() + PAUSE
        return self._failures == FAILURES
