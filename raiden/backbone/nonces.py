"""Nonces: texts that come back over a link prove that all subscriptions made before them hold there.

A nonce is a topic that nobody used before. Its subscriber hears from each node, on this topic, as soon as the
subscription holds at that node's uplink; pipes are first in, first out, so all earlier subscriptions hold, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import gevent
import zmq.green
from gevent.event import Event

from raiden.backbone import frames

MAX_NONCES = 10_000
LONGEST_NONCE = 100


class Answers:
    """The answers of this node to the nonces of others. ``say`` publishes an answer on a topic; ``task`` runs a
    function in a greenlet. Nothing is answered before ``all_know`` is set: until then a worker may not go by the
    roster."""

    def __init__(self, say: Callable[[bytes], None], task: Callable[..., object]) -> None:
        self._say = say
        self._task = task
        self._nonces: set[bytes] = set()
        self.all_know = Event()

    def subscribed(self, topic: bytes) -> None:
        """Answer a nonce until its subscription goes; above `MAX_NONCES`, not at all."""
        # The answer goes through the uplink and is dropped there until the subscription has arrived: then it holds.
        if len(self._nonces) < MAX_NONCES and len(topic) < LONGEST_NONCE and topic not in self._nonces:
            self._nonces.add(topic)
            if self.all_know.is_set():
                self._say(topic[:-1])
            self._task(self._answer_again, topic)

    def unsubscribed(self, topic: bytes) -> None:
        self._nonces.discard(topic)

    def _answer_again(self, topic: bytes) -> None:
        pause = 0.001
        self.all_know.wait()
        while topic in self._nonces:
            gevent.sleep(pause)
            if topic in self._nonces:
                self._say(topic[:-1])
            pause = min(2 * pause, 0.25)


class Proofs:
    """The nonces of this node, ``own`` by its id; ``sub`` subscribes to them."""

    def __init__(self, sub: zmq.green.Socket, own: str) -> None:
        self._sub = sub
        self._own = own.encode()
        self._numbers = itertools.count(1)
        self._rounds: dict[bytes, tuple[set[str], Event]] = {}

    def hear(self, topic: bytes, node: bytes) -> None:
        """Take what a node has said on a topic."""
        if topic in self._rounds:
            answered, event = self._rounds[topic]
            answered.add(node.decode("ascii", "replace"))
            event.set()

    def prove(self, node: str, gone: Event) -> bool:
        """Wait until all of this node's subscriptions hold at a node: a nonce subscribed after them comes back. False
        if the node is ``gone`` before that."""
        topic = frames.NONCE + b"%b %d" % (self._own, next(self._numbers))
        answered, event = self._rounds[topic] = set(), Event()
        self._sub.subscribe(topic + b"\0")
        try:
            while node not in answered and not gone.is_set():
                event.wait(0.25)
                event.clear()
            return not gone.is_set()
        finally:
            del self._rounds[topic]
            self._sub.unsubscribe(topic + b"\0")
