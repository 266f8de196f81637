"""What a worker holds of requests and messages that have not come whole: how much it is together, and for how long one
may take.

A connection that has a part of something has a `Share` until the rest has come. Each message is bounded by itself; this
bounds the sum, which is what thousands of clients could make large that send all but a last byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# A large message may take longer than others, as long as its bytes come at this rate (bytes a second).
MIN_RATE = 4096

FULL = "the server holds too much that has not come whole: try again later, or send less at once"
SLOW = "it took too long to arrive: send it faster"


class Full(Exception):
    """Together it would be more than it may be."""


class Share:
    """A connection's part: how many bytes it holds of one message, which began when this was made."""

    __slots__ = ("_began", "size")

    def __init__(self) -> None:
        self._began: Final = time.monotonic()
        self.size = 0

    def left(self, timeout: float) -> float:
        """For how many seconds the rest may still be waited for: ``timeout`` from the first byte, and longer for what
        has come at `MIN_RATE`."""
        return self._began + timeout + self.size / MIN_RATE - time.monotonic()


class Unfinished:
    """The sum of all shares in bytes, which may be ``limit()``; None: anything."""

    __slots__ = ("_limit", "size")

    def __init__(self, limit: Callable[[], int] | None = None) -> None:
        self._limit: Final = limit
        self.size = 0

    def hold(self, share: Share | None, size: int) -> Share | None:
        """The connection that had this share holds so many bytes now, none if its message is whole or given up. Returns
        its share from now on; raises Full, and then it has none."""
        before = 0 if share is None else share.size
        self.size += size - before
        if not size:
            return None
        if size > before and self._limit is not None and self.size > self._limit():
            self.size -= size
            raise Full
        if share is None:
            share = Share()
        share.size = size
        return share
