"""The pace of turns: messages wait for each other, so that one send to a subscriber carries several.

The kernel's send is most of the time of a delivery, however little it carries. A worker with time to spare fans each
message out as it comes. A worker that would be busy for most of the time lets the next message come first: with one
more in each send it has half of its time for other things, and the messages of a burst don't queue behind the sends.
"""

from __future__ import annotations

# Seconds; the event loop's timers are no finer, and a shorter turn is not worth the wait.
SHORTEST = 0.001
# The share of the time that turns may take before messages gather.
BUSY = 0.5
# A message may be late by so much of the time between two.
SPARE = 1.1
# The weight of the last turn among all before it; and the longest time between two messages that counts, in seconds.
SMOOTHING, LONGEST = 0.125, 0.1


class Pace:
    """The mean time of turns, and between messages for the same subscribers. A turn is put off for ``most`` seconds at
    the longest; 0: never."""

    def __init__(self, most: float) -> None:
        self.most = most
        self._began = 0.0
        self._took = 0.0
        self._interval = LONGEST

    def turn(self, began: float, ended: float, messages: float) -> None:
        """Record a finished turn; ``messages`` is the mean number per subscriber served."""
        interval = min((began - self._began) / messages, LONGEST)
        self._began = began
        self._took += SMOOTHING * (ended - began - self._took)
        self._interval += SMOOTHING * (interval - self._interval)

    def wait(self) -> float:
        """The seconds for which to put the next turn off, now that a message has come: until there is another one, and
        so that turns take no more than half of the time."""
        if self._took < BUSY * self._interval:
            return 0.0
        wait = min(max(self._took, SPARE * self._interval), self.most)
        return wait if wait >= SHORTEST else 0.0
