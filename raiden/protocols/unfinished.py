"""Requests and messages that have not come whole: a bound on the bytes that a worker holds of all of them, and on the
time of each.

A connection that has received a part of something has a `Share` until the rest has come. Each message is bounded by
itself; this bounds the sum, which thousands of clients could make large by sending all but a last byte.
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
    """The sum of all shares would exceed its limit."""


class Share:
    """A connection's part of the sum: the bytes that it holds of one message. The share is made when the message
    begins."""

    __slots__ = ("_began", "size")

    def __init__(self) -> None:
        self._began: Final = time.monotonic()
        self.size = 0

    def left(self, timeout: float) -> float:
        """The seconds for which to wait for the rest: ``timeout`` from the first byte, and longer for bytes that came
        at `MIN_RATE`."""
        return self._began + timeout + self.size / MIN_RATE - time.monotonic()


class Unfinished:
    """The sum of all shares in bytes, at most ``limit()``; None: unlimited."""

    __slots__ = ("_limit", "size")

    def __init__(self, limit: Callable[[], int] | None = None) -> None:
        self._limit: Final = limit
        self.size = 0

    def hold(self, share: Share | None, size: int) -> Share | None:
        """Set the bytes that a connection with this share holds now; 0: its message is whole or given up. Returns its
        share from now on; raises Full, and then it has none."""
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
