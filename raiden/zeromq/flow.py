"""Flow control for publishers without acknowledgements: they publish no more than the node's workers take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gevent
from gevent.event import Event

from raiden.backend import Backend
from raiden.model.message import Message
from raiden.runtime import faults

# Bytes under way, and bytes that a message counts besides its payload.
WINDOW, OVERHEAD = 16 << 20, 256
# Seconds until the workers are asked again, where none has answered.
RETRY = 0.1


class Flow:
    """The window of messages under way. A worker that falls behind would lose messages at the uplink, once its queue
    there is full, and nobody would know. So every half a window all workers of the node, this one included, are asked a
    question, which comes to them behind all messages that were published before it. Until they have answered, or a
    second has passed and some have, no more than a window is under way."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._load = 0
        # A queue has at most as many messages as its high-water mark, whatever their size.
        self._overhead = max(OVERHEAD, 2 * WINDOW // backend.high_water)
        self._wake = Event()
        self._waiters: list[Callable[[], None]] = []

    @property
    def full(self) -> bool:
        return self._load >= WINDOW

    def add(self, messages: Sequence[Message]) -> None:
        """Count messages that were published."""
        self._load += self._overhead * len(messages) + sum([len(message.payload) for message in messages])
        if self._load >= WINDOW // 2:
            self._wake.set()

    def wait(self, call: Callable[[], None]) -> None:
        """Call the function when there is room again."""
        self._waiters.append(call)

    def run(self) -> None:
        """Make room; endless, for a greenlet."""
        while True:
            self._wake.wait()
            asked = self._load
            if not self._backend.ask(b"reached"):
                gevent.sleep(RETRY)  # the uplink takes nothing now
                continue
            self._load -= asked
            if self._load < WINDOW // 2:
                self._wake.clear()
            waiters, self._waiters = self._waiters, []
            for call in waiters:
                faults.call("a publish that waited", call)
