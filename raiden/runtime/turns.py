"""Long work in slices, between which all others have their turn."""

from __future__ import annotations

import time
from typing import Final

import gevent

# Seconds of work before others have their turn; steps of it before the clock is looked at.
SLICE: Final = 0.005
STEPS: Final = 64
# Seconds of a pause: as short as a timer's can be.
_SHORTEST: Final = 1e-6


def pause() -> None:
    """Let all others have their turn, those included whose sockets are readable. ``gevent.sleep(0)`` would not: gevent
    goes on with callbacks, of which that is one, until none is left or 50 were called (its CALLBACK_CHECK_COUNT), and
    only then looks at sockets: after 50 slices. A timer is looked at together with them."""
    gevent.sleep(_SHORTEST)


class Turn:
    """The turn of work that takes long: `step` or `look` pauses it after `SLICE`."""

    __slots__ = ("_began", "_steps")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._steps = 0

    def step(self) -> None:
        """Note a short step of the work. This may wait."""
        self._steps += 1
        if self._steps % STEPS == 0:
            self.look()

    def look(self) -> None:
        """Note a step that may be long. This may wait."""
        if time.monotonic() - self._began > SLICE:
            pause()
            self._began = time.monotonic()
