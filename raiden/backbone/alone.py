"""The state of a worker that is alone: its node has no other worker, and the roster has heard of no other node.

Nobody else can want its messages. So they go straight to its router, and not by the backbone, which costs more than all
else about a small message; and subscriptions are only noted.

    by the backbone ──the roster says so; nothing went by it yet──▶ alone
    alone ──another node comes──▶ joining ──a round──▶ by the backbone, for good

While it joins, the worker makes the subscriptions that were noted, and then a round of its own. Only then it publishes
by the backbone, and tells the roster that it goes by the new state. Until then the roster tells no other node that its
subscriptions are in force here. So nothing is lost or overtaken on the way.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import gevent

from raiden.backbone.line import Line
from raiden.backbone.nodes import Nodes
from raiden.backbone.refusals import BackboneFull, NotInForce
from raiden.backbone.rounds import NODE_PATIENCE, Rounds
from raiden.model.message import Message
from raiden.runtime import faults

log = logging.getLogger(__name__)

# Subscriptions that are made before others have their turn.
AT_ONCE = 1000


class Alone:
    """The messages and subscriptions of a worker while it is alone. ``sole``: it is its node's only worker; otherwise
    it is never alone. ``high_water`` bounds the number of messages that wait."""

    def __init__(self, line: Line, nodes: Nodes, rounds: Rounds, *, sole: bool, high_water: int) -> None:
        self._line = line
        self._nodes = nodes
        self._rounds = rounds
        self._sole = sole
        self._high_water = high_water
        self._loop = gevent.get_hub().loop
        # The worker is alone, or joins: its messages do not go by the backbone.
        self.on = False
        # The worker is alone, and does not join: its subscriptions are only noted, and in force at once.
        self.apart = False
        self._joined = False
        # Called soon when there is something to receive.
        self.heard: Callable[[], None] = line.touched.send
        # Runs of messages that wait, and the number of their messages; the receiver of a run takes it off both.
        self.runs: deque[Sequence[Message]] = deque()
        self.count = 0
        self._noted: set[bytes] = set()

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand a run to the worker's own router; raises BackboneFull."""
        if self.count >= self._high_water:
            raise BackboneFull
        if not self.runs:
            self._loop.run_callback(self.heard)
        self.runs.append(messages)
        self.count += len(messages)

    def note(self, topic: bytes) -> None:
        """Note a topic, to subscribe to it when other nodes come; the worker is `apart`."""
        self._noted.add(topic)

    def forget(self, topic: bytes) -> bool:
        """Take back a `note`; False if there is none."""
        if topic not in self._noted:
            return False
        self._noted.discard(topic)
        return True

    def go_by(self, *, alone: bool) -> None:
        """Go by the roster's newest state, in which the node is alone, or not."""
        if self.on and not alone:
            if self.apart:
                self.apart = False
                faults.spawn("to go by the backbone", self._join)
            return
        # Messages that went by the backbone already must not be overtaken.
        if alone and self._sole and not self._line.pushed and not self.on and not self._joined:
            self.on = self.apart = True
        self._nodes.go_by_newest()

    def _join(self) -> None:
        """Go by the backbone, as soon as this worker's subscriptions are in force there."""
        while self._noted:
            for _ in range(min(len(self._noted), AT_ONCE)):
                self._line.subscribe(self._noted.pop())
            gevent.sleep(0)
        while self.on:
            try:
                self._rounds.run(NODE_PATIENCE, others=False)
                self.on, self._joined = False, True
            except NotInForce:
                log.error("the backbone does not answer, and other nodes wait for it")
        self._nodes.go_by_newest()
