"""The rate of the events that one connection may publish to others. Pure."""

from __future__ import annotations


class EventRate:
    """At most ``per_second`` events a second, and as many at once, but at least one."""

    __slots__ = ("_left", "_time")

    def __init__(self, per_second: float, now: float) -> None:
        self._left = max(1.0, per_second)
        self._time = now

    def take(self, per_second: float, now: float) -> bool:
        """Whether there may be another event ``now``, by monotonic seconds; it is counted then."""
        self._left = min(max(1.0, per_second), self._left + (now - self._time) * per_second)
        self._time = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
