"""A link to a known node."""

from __future__ import annotations

import logging
import time

from gevent.event import Event

from raiden.backbone.candidates import Candidate
from raiden.backbone.roster import CLOCK_SKEW, Beat

logger = logging.getLogger(__name__)


class Link:
    """The link to a known node: `broken` is set when the node is suspected, `gone` when it is forgotten."""

    __slots__ = ("broken", "candidate", "connected", "gone", "skewed")

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.connected = False
        self.broken = Event()
        self.gone = Event()
        self.skewed = False

    def check_clock(self, beat: Beat, address: str) -> None:
        """Log, once, that the clock of the node at this address is off."""
        ahead = beat.clock - time.time()
        if beat.clock and abs(ahead) > CLOCK_SKEW and not self.skewed:
            self.skewed = True
            text = "a node's clock is off: synchronise it, or its messages' latencies are wrong"
            logger.warning(text, extra={"peer": address, "seconds": round(ahead)})
