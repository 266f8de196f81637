"""What is known of a channel from all events together, and what follows from its options and the times."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import NamedTuple

from tests.independent.events import Kept

NOWHERE = "0"  # the epoch of a channel that has no history yet


class Place(NamedTuple):
    epoch: str
    offset: int


def place(cursor: str) -> Place:
    epoch, offset = cursor.split(":")[:2]
    return Place(epoch, int(offset))


def matches(message: str) -> bool:
    return int(message.rpartition(".")[2]) % 2 == 1


class Truth:
    """What is known of a channel from all events together, whoever told it."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.ids: dict[int, str] = {}  # by offset
        self.offsets: dict[str, int] = {}
        self.epochs: dict[int, str] = {}  # by offset
        self.begun: dict[str, float] = {}  # when the publish of an id began
        self.stored: list[tuple[float, int, str]] = []  # acknowledged: when, offset, id

    def seal(self) -> None:
        """All is known: prepare the questions."""
        self.stored.sort()
        self._acks = [at for at, _, _ in self.stored]
        self._acked = list(accumulate((offset for _, offset, _ in self.stored), max))
        begins = sorted((self.begun[message], offset) for offset, message in self.ids.items() if message in self.begun)
        self._begins = [at for at, _ in begins]
        self._highest = list(accumulate((offset for _, offset in begins), max))
        self._lowest = list(accumulate((offset for _, offset in reversed(begins)), min))[::-1]

    def acknowledged(self, at: float) -> int:
        """The highest offset that was acknowledged before."""
        index = bisect_left(self._acks, at)
        return self._acked[index - 1] if index else 0

    def highest(self, at: float) -> int:
        """The highest offset that can have been there."""
        index = bisect_right(self._begins, at)
        return self._highest[index - 1] if index else 0

    def unseen(self, offset: int) -> int:
        """How many messages follow this one that nobody ever saw, so that nobody knows when they were there."""
        most = max(self.ids, default=0)
        return next((n for n in range(most - offset) if offset + n + 1 in self.ids), 0)

    def next_published(self, at: float) -> int | None:
        """The lowest offset whose publish began after that."""
        index = bisect_right(self._begins, at)
        return self._lowest[index] if index < len(self._lowest) else None

    def may_be_gone(self, offset: int, at: float) -> bool:
        if self.highest(at) >= offset + self.kept.size:
            return True
        message = self.ids.get(offset)
        return self.kept.ttl < 600 and (message not in self.begun or self.begun[message] + self.kept.ttl <= at)

    def must_be_there(self, offset: int, acked: float, at: float) -> bool:
        """If it was acknowledged then, of ``at`` seconds' reading."""
        return self.highest(at) < offset + self.kept.size and self.begun[self.ids[offset]] + self.kept.ttl > at
