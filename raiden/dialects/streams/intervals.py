"""Stream cursors: numbers of intervals of time, by which a cache tells a client's later requests from earlier ones.

A client sends the cursor that it was told last, and is told a greater one. So it never comes back to a URL that a cache
has an answer for (PROTOCOL.md of durable-streams, section 10.1).
"""

from __future__ import annotations

import random
import time
from typing import Final

# Seconds of an interval; the Unix time at which the first one began, 2024-10-09T00:00:00Z.
INTERVAL: Final = 20
_EPOCH: Final = 1_728_432_000
# The most seconds by which a client is sent ahead that has come back within an interval.
_MAX_AHEAD: Final = 3600
_MAX_DIGITS: Final = 15

# The interval for which the worker has drawn how many intervals clients are sent ahead, and that number. It is the same
# for all clients, so that those that read events together are told the same cursors, and one encoding serves them all.
_drawn = (0, 0)


def now() -> int:
    """The present interval."""
    return (int(time.time()) - _EPOCH) // INTERVAL


def behind(cursor: str | None) -> int:
    """The cursor that a client is told at the least which has sent this one; 0: that of the present interval is greater
    than it."""
    global _drawn
    if cursor is None or not cursor.isascii() or not cursor.isdigit() or len(cursor) > _MAX_DIGITS:
        return 0
    present = now()
    if int(cursor) < present:
        return 0
    if _drawn[0] != present:
        _drawn = present, -(-random.randint(1, _MAX_AHEAD) // INTERVAL)
    return int(cursor) + _drawn[1]


def at_least(floor: int) -> int:
    """The present interval, or ``floor`` if that is greater."""
    return max(now(), floor)
