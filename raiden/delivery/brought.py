"""The channels that only patterns bring, and those of them that nobody wants any more when patterns have left. Pure.

A worker keeps the order of each channel with history that its patterns brought (`raiden.delivery.orders`). When
patterns leave, only channels that begin with their prefixes are looked at, once for all patterns that left meanwhile,
some hundred at a time: 100,000 channels take 0.3 seconds, and the worker does other things in between.

Until a channel was looked at, its order may be `forsaken`: for a while no pattern brought the channel, so its messages
were not heard, and a pattern that was made later must not get them. Topics and leavings are numbered. So an order is
not forsaken where patterns form a chain without a break from its making until now.
"""

from __future__ import annotations

from collections.abc import Iterator

from raiden.delivery.prefixes import Prefixes
from raiden.delivery.sorted_names import SortedNames
from raiden.delivery.table import Table, Topic

# Channels that are looked at before others have their turn.
AT_ONCE = 250
# A byte that sorts behind all names with a prefix: no UTF-8 has it.
_END = b"\xff"
_NEVER = 1 << 62


class Brought:
    """Channels that only patterns of ``table`` bring."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._names = SortedNames()
        # Prefixes of patterns that have left and whose channels were not all looked at; for each the changes at which
        # it was made and left.
        self._left: Prefixes[list[tuple[int, int]]] = Prefixes()
        self._todo: set[bytes] = set()
        # The change of the table at which all channels were brought by some pattern; channels that came later have a
        # change of their own.
        self._base = 0
        self._came: dict[bytes, int] = {}
        self.leaving = False

    def __len__(self) -> int:
        return len(self._names)

    def add(self, channel: bytes) -> None:
        """Note that only patterns bring the channel from now on."""
        self._names.add(channel)
        if self.leaving:
            self._came[channel] = self._table.changes

    def discard(self, channel: bytes) -> None:
        self._names.discard(channel)
        self._came.pop(channel, None)

    def leave(self, pattern: Topic) -> None:
        """Note that a pattern was removed from the table."""
        if not self.leaving:
            if not len(self._names):
                return
            self.leaving = True
            self._base = self._table.changes - 1
        times = self._left.values.get(pattern.key)
        if times is None:
            times = []
            self._left.add(pattern.key, times)
        times.append((pattern.made, self._table.changes))
        self._todo.add(pattern.key)

    def is_forsaken(self, channel: bytes) -> bool:
        """Whether no pattern brought the channel for a while, or none does now; False where more than patterns bring
        it."""
        if channel not in self._names:
            return False
        patterns = self._table.patterns.matching(channel)
        until = self._came.get(channel, self._base)
        if not patterns or min([pattern.made for pattern in patterns]) <= until:
            return not patterns
        times = [time for of_prefix in self._left.matching(channel) for time in of_prefix]
        for made, left in sorted(times + [(pattern.made, _NEVER) for pattern in patterns]):
            if made > until:
                return True
            until = max(until, left)
        return False

    def forsaken(self) -> Iterator[list[bytes]]:
        """Yield the channels that are forsaken, a few at a time, and discard each. More patterns may leave
        meanwhile."""
        while self._todo:
            begun, todo = self._table.changes, sorted(self._todo)
            self._todo.clear()
            looked_at: bytes | None = None
            for prefix in todo:
                if looked_at is None or not prefix.startswith(looked_at):
                    looked_at = prefix
                    yield from self._look(prefix)
            self._settle(begun)
        self.leaving = False
        self._came.clear()

    def _look(self, prefix: bytes) -> Iterator[list[bytes]]:
        found: list[bytes] = []
        looks = 0
        channel = self._names.first(prefix)
        while channel is not None and channel.startswith(prefix):
            go_on = channel + b"\0"
            if self.is_forsaken(channel):
                self.discard(channel)
                found.append(channel)
            else:
                lasting = [pattern for pattern in self._table.patterns.matching(channel) if pattern.made <= self._base]
                if lasting:  # brings all that begin like it, too
                    go_on = lasting[0].key + _END
            looks += 1
            if looks >= AT_ONCE:
                yield found
                found, looks = [], 0
            channel = self._names.first(go_on)
        yield found

    def _settle(self, begun: int) -> None:
        """Settle the patterns that had left when the look began: all their channels were looked at."""
        self._base = begun
        for prefix, times in list(self._left.values.items()):
            later = [time for time in times if time[1] > begun]
            if later:
                times[:] = later
            else:
                self._left.remove(prefix)
        self._came = {channel: at for channel, at in self._came.items() if at > begun}
