"""The clients of long-polls that were just answered: they are probably about to ask again. Pure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

# Clients that are remembered, in all.
MOST: Final = 10_000


class Polled:
    """The connections of clients between two polls, each for at most ``linger`` seconds. A client that asks again at
    once is still in here: whoever looks knows its connection."""

    def __init__(self, linger: Callable[[], float]) -> None:
        self.linger = linger
        # The time of each answer, the channels and patterns that were asked for, and the connections.
        self._answered: deque[tuple[float, Sequence[str], Sequence[Any]]] = deque()
        self._size = 0

    def note(self, names: Sequence[str], connections: Sequence[Any]) -> None:
        """Note that polls for these names were answered."""
        # The hot path of long-polls: nothing is done for each connection.
        self._answered.append((time.time(), names, connections))
        self._size += len(connections)
        self._forget()

    def at(self, channel: str) -> Iterator[tuple[Any, float]]:
        """Yield the connections whose polls brought the channel, each with the time when it was answered."""
        self._forget()
        for answered, names, connections in self._answered:
            if any([_brings(name, channel) for name in names]):
                for connection in connections:
                    yield connection, answered

    def _forget(self) -> None:
        answered = self._answered
        end = time.time() - self.linger()
        while answered and (self._size > MOST or answered[0][0] <= end):
            self._size -= len(answered.popleft()[2])


def _brings(name: str, channel: str) -> bool:
    """Whether a channel or pattern brings the messages of a channel."""
    return name == channel or (name.endswith("*") and channel.startswith(name[:-1]))
