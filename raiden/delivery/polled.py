"""The clients of long-polls that were just answered: they are probably about to ask again. Pure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

# Clients that are remembered, in all; and the number of names that count as much as a client.
MOST: Final = 10_000
NAMES: Final = 10


class Answered(NamedTuple):
    """Polls for the same channels and patterns (``names``) that were answered at a Unix time. Of each, the connection
    and its client (`raiden.access.clients.Client`, or None) are known: a proxy may send somebody else's request by the
    same connection."""

    time: float
    names: Sequence[str]
    polls: Sequence[tuple[Any, Any]]

    @property
    def size(self) -> int:
        """What this takes, in names."""
        return len(self.polls) * NAMES + len(self.names)

    def brought(self, channel: str) -> bool:
        """Whether the polls were for messages of a channel."""
        return any([name == channel or (name[-1] == "*" and channel.startswith(name[:-1])) for name in self.names])


class Polled:
    """The clients between two polls, each for at most ``linger`` seconds. A client that asks again at once is still in
    here: whoever looks knows its connection."""

    def __init__(self, linger: Callable[[], float]) -> None:
        self.linger = linger
        self._answered: deque[Answered] = deque()
        self._size = 0

    def note(self, names: Sequence[str], polls: Sequence[tuple[Any, Any]]) -> None:
        """Note that polls for these names were answered."""
        # The hot path of long-polls: nothing is done for each connection.
        answered = Answered(time.time(), names, polls)
        self._answered.append(answered)
        self._size += answered.size
        self._forget()

    def all(self) -> list[Answered]:
        """The polls that were answered, the latest last."""
        self._forget()
        return list(self._answered)

    def _forget(self) -> None:
        answered = self._answered
        end = time.time() - self.linger()
        while answered and (self._size > MOST * NAMES or answered[0].time <= end):
            self._size -= answered.popleft().size
