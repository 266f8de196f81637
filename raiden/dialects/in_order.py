"""The commands of one client, done one after the other, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import gevent

from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.protocols.limits import HttpLimits
from raiden.runtime import faults

# Commands that may wait, and their bytes, before the connection is not read from.
PAUSE: Final = 64
PAUSE_BYTES: Final = 65536

Rest: TypeAlias = "Callable[[], None]"
"""The part of a command that waits."""
Command: TypeAlias = "Callable[[], Rest | None]"


class InOrder:
    """The commands of one connection. One that need not wait is done at once, if nothing waits before it; the others
    are done in a greenlet, which lasts as long as there are any. While many wait, or are answered later (`hold`), the
    connection is not read from; one whose last read inflates to more than may wait for a client, or than two messages,
    is a slow consumer."""

    __slots__ = ("_bytes", "_commands", "_connection", "_held", "_limits", "paused")

    def __init__(self, connection: Connection, limits: HttpLimits) -> None:
        self._connection = connection
        self._limits = limits
        # The commands that wait, with their bytes; None: none is being done.
        self._commands: deque[tuple[Command, int]] | None = None
        self._bytes = 0
        # The number of commands that are answered later.
        self._held = 0
        self.paused = False
        """Whether the connection is not read from."""

    def hold(self, size: int) -> None:
        """Count a command of ``size`` bytes that is done, and answered later: until `release`."""
        self._held += 1
        self._bytes += size
        self._pause()

    def release(self, size: int) -> None:
        """A command that was held is answered."""
        self._held -= 1
        self._bytes -= size
        self._pause()

    def do(self, command: Command, size: int) -> None:
        """Do a command of ``size`` bytes, once those before it are done. It returns what is left to do where that
        waits. Both must answer their own failures."""
        if self._commands is not None:
            if self._bytes >= max(self._limits.max_outbox, 2 * self._limits.max_ws_message):
                self._bytes -= sum([size for _, size in self._commands])
                self._commands.clear()
                self._connection.overflow()
            if self._connection.overflown:
                return
            self._commands.append((command, size))
            self._bytes += size
            self._pause()
            return
        rest = command()
        if rest is not None:
            self._commands = deque()
            # The greenlet ends by itself: what commands wait for is bounded in time.
            gevent.spawn(self._go_on, self._commands, rest)

    def _go_on(self, commands: deque[tuple[Command, int]], rest: Rest | None) -> None:
        while rest is not None or commands:
            if rest is not None:
                faults.call("a command", rest)
                rest = None
                continue
            command, size = commands.popleft()
            self._bytes -= size
            self._pause()
            if self._connection.state < CLOSING:
                rest = self._begin(command)
        self._commands = None

    def _begin(self, command: Command) -> Rest | None:
        found: list[Rest | None] = []
        faults.call("a command", lambda: found.append(command()))
        return found[0] if found else None

    @property
    def waits(self) -> bool:
        """Whether a command is being done, so that those behind it wait; or so many are answered later that the
        connection is not read from."""
        return self.paused or self._commands is not None

    def has(self, commands: int, size: int) -> bool:
        """Whether so many commands wait or are answered later, or so many bytes of them."""
        return len(self._commands or ()) + self._held >= commands or self._bytes >= size

    def _pause(self) -> None:
        full = self.has(PAUSE, PAUSE_BYTES)
        if full != self.paused and not self._connection.closed:
            self.paused = full
            if full:
                self._connection.pause()
            else:
                self._connection.resume()
