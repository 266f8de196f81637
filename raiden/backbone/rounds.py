"""Rounds, which tell when subscriptions are in force.

A subscription travels to the forwarders of all nodes by itself, so some time passes before it holds. A round finds out
when it does: the round subscribes, behind the subscriptions, to a topic that nobody used before, a nonce. This worker
publishes the nonce until it comes back, and so does each other node when it hears of the nonce's subscription, with its
id. Pipes are first in, first out. So when the nonce has come from a node, everything subscribed earlier holds there
too. One round serves all that wait. Nodes that are suspected, or don't answer in time, are not waited for but named.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time

import gevent
from gevent.event import AsyncResult

from raiden.backbone import frames
from raiden.backbone.line import Line
from raiden.backbone.nodes import Nodes
from raiden.backbone.refusals import BackboneFull, NotInForce
from raiden.backbone.waiting import Waiting
from raiden.runtime import faults

log = logging.getLogger(__name__)

# Seconds that a round waits for the other nodes, for those that did not answer the last one, and for this node.
WAIT_FOR_NODES, WAIT_FOR_LATE_NODES, NODE_PATIENCE = 3.0, 0.3, 5.0


class Rounds:
    """The rounds of the worker that is called ``worker`` in nonces; one at a time."""

    def __init__(self, line: Line, nodes: Nodes, *, worker: bytes) -> None:
        self._line = line
        self._nodes = nodes
        self._worker = worker
        self._numbers = itertools.count(1)
        # The number of rounds that were begun; the number of the last round that all nodes answered.
        self.begun = 0
        self._confirmed = 0
        self._round: AsyncResult | None = None
        self._next: AsyncResult | None = None
        # The waiting round, by nonce.
        self._waiting: dict[bytes, Waiting] = {}
        # The nodes that did not answer the last round, and the addresses that it named.
        self._late: set[bytes] = set()
        self._unconfirmed: tuple[str, ...] = ()

    def hold(self, begun: int) -> bool:
        """Whether subscriptions from when ``begun`` rounds were begun hold everywhere, as far as is known without
        another round."""
        # A node that comes later is connected only when all present subscriptions hold there.
        return begun < self._confirmed and self._nodes.settled

    def in_force(self, timeout: float) -> tuple[str, ...]:
        """Wait until every subscription made before this call holds at all nodes. Returns the addresses of the nodes
        where that could not be found out; raises NotInForce after ``timeout`` seconds without an answer of this node.
        """
        # A round under way began before this call, so it proves nothing for us: wait for the one after it.
        if self._next is None:
            self._next = AsyncResult()
            if self._round is None:
                gevent.spawn(self._run_all, timeout)
        try:
            unconfirmed: tuple[str, ...] = self._next.get(timeout=2 * timeout)
        except gevent.Timeout:
            raise NotInForce("the backbone does not answer") from None
        return unconfirmed

    def hear(self, topic: bytes, node: bytes) -> bool:
        """Take the answer of a node, if a round waits for this nonce."""
        waiting = self._waiting.get(topic)
        if waiting is not None:
            waiting.hear(node)
        return waiting is not None

    def nodes_changed(self) -> None:
        """Let the round under way look anew which nodes it waits for."""
        for waiting in self._waiting.values():
            waiting.more.set()

    def _run_all(self, timeout: float) -> None:
        while self._next is not None:
            self._round, self._next = self._next, None
            self.begun += 1
            number = self.begun
            try:
                unconfirmed = self.run(timeout)
            except NotInForce as error:
                self._round.set_exception(error)
            except Exception as fault:  # any exception: those that wait must hear, and the next round must come
                faults.report("a round")
                self._round.set_exception(NotInForce(f"the node failed; its log says why: {fault}"))
            else:
                self._round.set(unconfirmed)
                if not unconfirmed:
                    self._confirmed = number
                if unconfirmed != self._unconfirmed and unconfirmed:
                    log.warning("subscriptions are not confirmed by all nodes", extra={"nodes": ", ".join(unconfirmed)})
                self._unconfirmed = unconfirmed
            self._round = None

    def run(self, timeout: float, *, others: bool = True) -> tuple[str, ...]:
        """Wait until a nonce has come from this node, and from the ``others``. Returns the addresses of those that did
        not answer; raises NotInForce where this node did not."""
        topic = frames.NONCE + b"%b %d" % (self._worker, next(self._numbers))
        waiting = self._waiting[topic] = Waiting()
        started, wait = time.monotonic(), 0.001
        self._line.subscribe(topic + b"\0")
        nodes = self._nodes
        try:
            while True:
                waiting.more.clear()
                # The nodes to wait for are looked up anew each time: they come and go meanwhile.
                missing = nodes.others("connecting", "connected", "leaving") if others else {}
                for node in waiting.answers:
                    missing.pop(node, None)
                passed = time.monotonic() - started
                patience = WAIT_FOR_LATE_NODES if missing.keys() <= self._late else WAIT_FOR_NODES
                if nodes.own in waiting.answers and nodes.serial and (not missing or passed > patience):
                    self._late = set(missing)
                    return (*missing.values(), *nodes.others("suspected").values())
                if passed > timeout:
                    raise NotInForce("the backbone does not answer")
                if nodes.own not in waiting.answers:
                    # The nonce may overtake its own subscription and be dropped at the forwarder: repeat it. Where the
                    # backbone is full now, it may have room then.
                    with contextlib.suppress(BackboneFull):
                        self._line.send(topic + b"\0" + nodes.own)
                if not nodes.serial:
                    nodes.report({})  # the roster answers a worker whose state is old
                waiting.more.wait(wait)
                wait = min(2 * wait, 0.25)
        finally:
            del self._waiting[topic]
            self._line.unsubscribe(topic + b"\0")
