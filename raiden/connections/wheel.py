"""Deadlines of connections: one timer for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from raiden.connections.connection import Connection

# Seconds between two looks at the clock.
TICK: Final = 0.25


class Wheel:
    """The deadlines of all connections, in ticks of `TICK` seconds."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Connection]] = {}
        self._done = int(time.monotonic() / TICK)

    def schedule(self, connection: Connection, seconds: float) -> None:
        """Let the connection be due after ``seconds``, instead of at the time that was scheduled before."""
        connection.due = max(int((time.monotonic() + seconds) / TICK) + 1, self._done + 1)
        # A later deadline is noticed when the slot that holds the connection comes up.
        if not connection.slot or connection.due < connection.slot:
            self.forget(connection)
            connection.slot = connection.due
            self._slots.setdefault(connection.due, set()).add(connection)

    def forget(self, connection: Connection) -> None:
        """Drop the deadline of a connection that has ended: it may be minutes away, and would keep the connection's
        memory until then."""
        self._slots.get(connection.slot, set()).discard(connection)

    def due(self) -> Iterator[Connection]:
        """Yield the connections that are due by now."""
        now = int(time.monotonic() / TICK)
        while self._done < now:
            self._done += 1
            for connection in self._slots.pop(self._done, ()):
                if connection.closed:  # closed while an earlier one was served
                    continue
                connection.slot = 0
                if connection.due <= self._done:
                    yield connection
                else:
                    connection.slot = connection.due
                    self._slots.setdefault(connection.due, set()).add(connection)
