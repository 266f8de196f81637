"""Token buckets in a table of fixed size, which the processes of a node may share. Pure.

A bucket is one number: the time at which it will be full again (the generic cell rate algorithm of ITU-T I.371, as a
virtual scheduler). So nothing needs to be done while time passes, and a bucket that nobody knows is a full one. It
stands in one of `WAYS` rows, which its key gives. Where these are taken, the bucket that will be full first is
forgotten, which gives its owner least. So a flood of keys that are used once pushes out its own buckets, which are
nearly full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

# Rows in which a bucket may stand: the 64 bytes that a processor reads at once.
WAYS: Final = 8
# Bytes of a row: the hash of its key, and a time.
ROW: Final = 16
# Seconds by which rounding may make a bucket seem emptier than it is.
_ROUNDING: Final = 1e-6


class Lock(Protocol):
    """The lock of a part of the table, by a number, against other processes."""

    def acquire(self, part: int) -> None: ...

    def release(self, part: int) -> None: ...


class Buckets:
    """Token buckets by key in ``memory``, a buffer of zeros at first, with `ROW` bytes for each. ``clock`` gives
    seconds from some time on, the same to all who share the memory; ``lock`` keeps these apart. A key is a number of 64
    bits, a hash of whatever the bucket is of."""

    def __init__(self, memory: Any, clock: Callable[[], float], lock: Lock | None = None) -> None:
        view = memoryview(memory).cast("B")
        self.parts = len(view) // (WAYS * ROW)
        half = self.parts * WAYS * ROW // 2
        self._keys = view[:half].cast("q")
        self._full_at = view[half : 2 * half].cast("d")
        self._clock = clock
        self._lock = lock

    def take(self, key: int, per_second: float, at_once: float, count: float) -> float:
        """Take ``count`` tokens from a bucket of ``at_once``, into which ``per_second`` come. Returns 0, or where there
        are too few and none is taken, the seconds until there are enough."""
        return self._take(key, per_second, at_once, count, count)

    def owe(self, key: int, per_second: float, at_once: float, count: float) -> float:
        """`take` from a bucket that need not have more than one token: the rest is owed, and comes first."""
        return self._take(key, per_second, at_once, count, 1.0)

    def give_back(self, key: int, per_second: float, count: float) -> None:
        """Give back tokens that were taken just now."""
        part = key % self.parts
        lock = self._lock
        if lock is not None:
            lock.acquire(part)
        try:
            self._full_at[self._row(key, part)] -= count / per_second
        finally:
            if lock is not None:
                lock.release(part)

    def left(self, key: int, per_second: float, at_once: float) -> float:
        """The tokens in a bucket; less than 0: owed."""
        at = key % self.parts * WAYS
        keys = self._keys[at : at + WAYS].tolist()
        if key not in keys:
            return at_once
        missing = self._full_at[at + keys.index(key)] - self._clock()
        return at_once if missing <= 0.0 else at_once - missing * per_second

    def _take(self, key: int, per_second: float, at_once: float, count: float, needed: float) -> float:
        part = key % self.parts
        lock = self._lock
        if lock is not None:
            lock.acquire(part)
        try:
            row = self._row(key, part)
            now = self._clock()
            full_at = max(self._full_at[row], now)
            wait = full_at + (needed - at_once) / per_second - now
            if wait > _ROUNDING:
                return wait
            self._full_at[row] = full_at + count / per_second
            return 0.0
        finally:
            if lock is not None:
                lock.release(part)

    def _row(self, key: int, part: int) -> int:
        """The row of a bucket; that of another one, which is forgotten, where it has none."""
        at = part * WAYS
        keys = self._keys[at : at + WAYS].tolist()
        if key in keys:
            return at + keys.index(key)
        times = self._full_at[at : at + WAYS].tolist()
        row = at + times.index(min(times))
        self._keys[row] = key
        self._full_at[row] = 0.0
        return row


def whole(tokens: float) -> int:
    """The whole tokens among these."""
    return max(0, math.floor(tokens + _ROUNDING))
