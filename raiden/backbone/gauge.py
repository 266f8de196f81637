"""A worker's measurement of the backbone: whether it passes messages, the time that takes, and the messages under
way."""

from __future__ import annotations

import time

from raiden.backbone.asking import Asking
from raiden.backbone.line import Line
from raiden.backbone.refusals import BackboneFull, NotInForce


class Gauge:
    """The figures of the last `check`: ``round_trip`` in seconds; ``depth`` is the number of messages that were
    published while it was under way."""

    def __init__(self, line: Line, asking: Asking) -> None:
        self._line = line
        self._asking = asking
        self.depth = 0
        self.round_trip = 0.0

    def check(self, timeout: float) -> None:
        """Send a message to this worker itself through the node's uplink, and wait for it in the calling greenlet;
        raises NotInForce if it does not come back within ``timeout`` seconds."""
        started, pushed = time.monotonic(), self._line.pushed
        try:
            back = self._asking.echo(timeout)
        except BackboneFull as error:
            raise NotInForce(str(error)) from None
        finally:
            self.depth = self._line.pushed - pushed
        if not back:
            raise NotInForce("the backbone does not pass messages")
        self.round_trip = time.monotonic() - started
