"""A worker's line to the backbone: a socket that publishes, and a socket that subscribes and receives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import gevent
import zmq

from raiden.backbone import frames
from raiden.backbone.addresses import Addresses
from raiden.backbone.refusals import BackboneFull
from raiden.model.message import Message

# Bytes of topics to subscribe to, or to unsubscribe from, within the seconds after them. A forwarder works through all
# of these that have come before it brings another message, and makes a node of a trie for each byte: a thousand names
# of 255 bytes in one go would hold up everybody's messages for a tenth of a second, in each forwarder on the way.
PACE, WITHIN = 16384, 0.005

# A plain number: an operation on pyzmq's enumerations takes longer than sending.
NOBLOCK: Final = int(zmq.NOBLOCK)


class Line:
    """A worker's line, with its two sockets. ``high_water`` is in frames that a socket queues. Nothing here blocks."""

    def __init__(self, addresses: Addresses, *, high_water: int) -> None:
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._sub = self._context.socket(zmq.SUB)
        for socket in (self._push, self._sub):
            socket.linger = 0
            socket.sndhwm = socket.rcvhwm = high_water
        self._sub.sndhwm = 0  # subscriptions are messages too, and none may be dropped (libzmq issue 2258)
        self._push.connect(addresses.publish)
        self._sub.connect(addresses.uplink)
        self._sub.connect(addresses.downlink)
        # A call on a ZeroMQ socket may swallow the edge of its descriptor: this watcher asks for another look.
        self.touched = gevent.get_hub().loop.async_(ref=False)
        # Receives a frame, called with `NOBLOCK`; raises zmq.Again where none has come.
        self.recv: Callable[[int], bytes] = self._sub.recv
        # The number of messages that were published.
        self.pushed = 0
        # The subscriptions to make or end later, in this order; and the bytes of topics that are left now.
        self._later: deque[tuple[int, bytes]] = deque()
        self._left = PACE
        self._paced = gevent.get_hub().loop.timer(WITHIN)

    @property
    def fileno(self) -> int:
        """Readable when there may be something to receive. Edge-triggered (ZMQ_FD): receive until nothing comes, and
        again after any other call."""
        return self._sub.fileno()

    @property
    def readable(self) -> bool:
        """Whether a frame waits to be received."""
        return bool(int(self._sub.get(zmq.EVENTS)) & zmq.POLLIN)

    def close(self) -> None:
        self._paced.stop()
        self._paced.close()
        self.touched.close()
        self._context.destroy(linger=0)

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish messages of one channel and one kind in one frame; raises BackboneFull."""
        try:
            self._push.send(frames.to_frame(messages), NOBLOCK)  # as `send`: the hot path has no call to spare
        except zmq.Again:
            raise BackboneFull from None
        self.pushed += len(messages)

    def send(self, frame: bytes) -> None:
        """Publish a frame; raises BackboneFull."""
        try:
            self._push.send(frame, NOBLOCK)
        except zmq.Again:
            raise BackboneFull from None

    def subscribe(self, topic: bytes) -> None:
        """Subscribe to a topic, behind all earlier calls: now, or where these are many, soon."""
        self._ask(zmq.SUBSCRIBE, topic)

    def unsubscribe(self, topic: bytes) -> None:
        self._ask(zmq.UNSUBSCRIBE, topic)

    def _ask(self, option: int, topic: bytes) -> None:
        if self._left > 0:
            self._set(option, topic)
        else:
            self._later.append((option, topic))

    def _set(self, option: int, topic: bytes) -> None:
        if not self._paced.active:
            self._paced.start(self._go_on)
        self._left -= len(topic)
        self._sub.setsockopt(option, topic)
        self.touched.send()

    def _go_on(self) -> None:
        self._left = PACE
        while self._later and self._left > 0:
            self._set(*self._later.popleft())
