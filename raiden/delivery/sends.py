"""The end of a turn: each sink sends its pending bytes, and large sends share the event loop with others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import gevent

from raiden.backend import TURN_BYTES
from raiden.delivery.table import Sink
from raiden.runtime import faults

# Where a turn puts more bytes than the first number before its sinks, the sinks with more than the second number send
# in slices of so many seconds, between which others have their turn: with hundreds of subscribers who don't read, the
# kernel may need tenths of a second to take all. With more bytes behind than LAG, no turn begins: more than a turn's
# bytes in one go would make a slow consumer of a sink that reads what it is sent.
MUCH: Final = 1 << 20
LARGE: Final = 16 << 10
SLICE: Final = 0.005
LAG: Final = TURN_BYTES


class Sends:
    """The sinks that have something to send. While there are more bytes to send than `LAG`, they are ``behind``, and no
    turn may begin; ``caught_up`` is called when turns may begin again."""

    def __init__(self, caught_up: Callable[[], None]) -> None:
        self._caught_up = caught_up
        # Sinks that have yet to send; bytes that came since there are such sinks; and whether these are too many.
        self._unsent: deque[Sink] = deque()
        self._lag = 0
        self.behind = False
        self._slice = gevent.get_hub().loop.timer(0)

    def close(self) -> None:
        self._slice.stop()
        self._slice.close()

    def send(self, dirty: list[Sink], size: int, most: int) -> None:
        """Let sinks send the bytes that a turn has put before them: ``size`` in all, at most ``most`` for each."""
        if size > MUCH:
            small: list[Sink] = []
            for sink in dirty:
                large = sum([len(data) for data in sink.pending]) > LARGE
                (self._unsent if large else small).append(sink)
            dirty = small
        flush(dirty)
        if self._unsent:
            self._lag += most
            if self._lag > LAG:
                self.behind = True
            if not self._slice.active:
                self._slice.start(self._send_some)

    def _send_some(self) -> None:
        until = time.perf_counter() + SLICE
        while self._unsent and time.perf_counter() < until:
            flush((self._unsent.popleft(),))
        if self._unsent:
            self._slice.start(self._send_some)
        else:
            self._sent_all()

    def send_all(self) -> None:
        """Let all sinks send at once, because they are to be closed."""
        while self._unsent:
            flush((self._unsent.popleft(),))
        self._sent_all()

    def _sent_all(self) -> None:
        self._lag = 0
        if self.behind:
            self.behind = False
            self._caught_up()


def flush(sinks: Iterable[Sink]) -> None:
    """Let each sink send its pending bytes; a failure at one does not stop the others."""
    for sink in sinks:
        try:
            sink.flush()
        except Exception:  # whatever it is
            faults.report("a delivery to a client")
