"""Places of channels without a history, in the embedded store: each has an epoch, which its first message will begin.

The epoch follows from the store's life, the channel's name, and a count of histories that were forgotten. There is a
count for all names with the same hash, so that there are not more than `COUNTS`: where another channel's history was
forgotten, too, the epoch changes in vain, and a reader that comes back from there is told of a gap that is none. The
counts end with the store's life.
"""

from __future__ import annotations

import zlib
from array import array

from raiden.model.chain import first_epoch
from raiden.model.message import Cursor

COUNTS = 1 << 16


class Beginnings:
    """The places in one life of a store."""

    def __init__(self, life: str) -> None:
        self._life = life
        self._forgotten = array("L", [0]) * COUNTS

    def place(self, channel: str) -> Cursor:
        """The place of a channel that has no history."""
        return Cursor(first_epoch(self._life, channel, self._forgotten[_hash(channel)]), 0)

    def forget(self, channel: str) -> None:
        """Note that a channel's history was forgotten: it will begin anew."""
        self._forgotten[_hash(channel)] += 1


def _hash(channel: str) -> int:
    return zlib.crc32(channel.encode()) % COUNTS
