"""The order in which an endpoint gets its events. Pure.

The events of one key stand in a lane, in the order of their offsets in the queue. Only the first of a lane is sent; the
next one follows when that has been taken, or given up. A lane whose first event has failed waits until that is due
again, and the other lanes go on.

    added --> (behind others of its key) --> ready --taken--> under way --done--> gone
                                               ^                 |
                                               +---- waits <--failed

`progress` tells all that another process needs to go on from here: events that were under way are sent again.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

# Events, and bytes of them, that are read ahead of the first one that is not done.
AHEAD: Final = 1000
AHEAD_BYTES: Final = 8 << 20


class Item:
    """An event at an ``offset`` of the queue, with its ``id``, which was tried ``attempts`` times, and is not due
    before ``due`` (Unix time)."""

    __slots__ = ("attempts", "body", "due", "id", "key", "offset")

    def __init__(self, offset: int, id: str, key: str, body: bytes) -> None:
        self.offset = offset
        self.id = id
        self.key = key
        self.body = body
        self.attempts = 0
        self.due = 0.0


class Lanes:
    """The events of a queue that were read and are not done. ``progress`` is that of an earlier one."""

    def __init__(self, progress: Mapping[str, Any] | None = None) -> None:
        # The offset up to which all is done; the offset up to which events were tried, and those of the latter that are
        # not done, with their attempts and the time when they are due.
        self.base: int = 0
        self._tried = 0
        self._known: dict[int, tuple[int, float]] = {}
        if progress is not None:
            self.base, self._tried = progress["base"], progress["tried"]
            self._known = {offset: (attempts, due) for offset, attempts, due in progress["left"]}
        self.end = self.base  # the offset up to which the queue was read
        self._lanes: dict[str, deque[Item]] = {}
        self._ready: deque[str] = deque()
        self._later: list[tuple[float, int, str]] = []
        # Offsets that are not done, in order; some that are done may still be among them.
        self._order: deque[int] = deque()
        self._open: dict[int, Item] = {}
        self._bytes = 0

    @property
    def room(self) -> int:
        """The number of events that may be read now."""
        return AHEAD - (self.end - self.base) if self._bytes < AHEAD_BYTES else 0

    @property
    def open(self) -> int:
        """The number of events that were read and are not done."""
        return len(self._open)

    def skip_to(self, offset: int) -> None:
        """Note that there is nothing in the queue up to this offset but what was read."""
        self.end = max(self.end, offset)
        self._advance()

    def add(self, item: Item) -> None:
        """Take the next event of the queue; one that was done before is ignored."""
        self.end = item.offset
        if item.offset <= self._tried:
            known = self._known.pop(item.offset, None)
            if known is None:
                self._advance()
                return
            item.attempts, item.due = known
        self._order.append(item.offset)
        self._open[item.offset] = item
        self._bytes += len(item.body)
        lane = self._lanes.get(item.key)
        if lane is None:
            self._lanes[item.key] = deque([item])
            self._line_up(item)
        else:
            lane.append(item)

    def take(self, now: float) -> Item | None:
        """The next event to send at the Unix time ``now``; None: there is none."""
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        if not self._ready:
            return None
        item = self._lanes[self._ready.popleft()][0]
        self._tried = max(self._tried, item.offset)
        return item

    def next_due(self) -> float | None:
        """The Unix time when the next event is due; None: none waits for its time."""
        return self._later[0][0] if self._later else None

    def done(self, item: Item) -> None:
        """Note that an event was taken by the receiver, or given up."""
        del self._open[item.offset]
        self._bytes -= len(item.body)
        lane = self._lanes[item.key]
        lane.popleft()
        if lane:
            self._line_up(lane[0])
        else:
            del self._lanes[item.key]
        self._advance()

    def failed(self, item: Item, due: float) -> None:
        """Note that an event was not taken, and is to be tried again at the Unix time ``due``."""
        item.attempts += 1
        item.due = due
        self._line_up(item)

    def progress(self) -> dict[str, Any]:
        """The progress, as JSON has it."""
        left: list[tuple[int, int, float]] = []
        for offset in self._order:
            if offset > self._tried:
                break
            item = self._open.get(offset)
            if item is not None:
                left.append((offset, item.attempts, round(item.due, 1)))
        left += [(offset, *known) for offset, known in self._known.items() if offset > self.end]
        return {"base": self.base, "tried": max(self._tried, self.base), "left": left}

    def _line_up(self, item: Item) -> None:
        if item.due:
            heapq.heappush(self._later, (item.due, item.offset, item.key))
        else:
            self._ready.append(item.key)

    def _advance(self) -> None:
        while self._order and self._order[0] not in self._open:
            self._order.popleft()
        self.base = self._order[0] - 1 if self._order else self.end
