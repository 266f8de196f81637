"""A bad cable: ``python -m tests.cluster.wire A B LOSS DELAY SEED`` carries ethernet frames between two TAP devices.

A and B are the devices' open file descriptors, inherited from the parent: they belong to the network namespaces they
were opened in, so the wire needs none of its own, and the devices are gone once it has ended. Each direction loses a
frame with probability LOSS and delivers the others, in order, DELAY seconds after it has read them. TAP devices
without a virtio header hand out whole frames with their checksums made, so nothing in a frame needs to be looked at.

It ends when its standard input does: with the parent, however that ends.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time
from collections import deque

FRAME = 1 << 16
# Frames that are taken in one go, so that one direction does not keep the other waiting.
AT_ONCE = 256
# Frames under way per direction; more are lost, as on any link that is too slow.
ROOM = 50_000


class Direction:
    """From one device to the other."""

    def __init__(self, source: int, sink: int, *, loss: float, delay: float, seed: int) -> None:
        self.source = source
        self.sink = sink
        self.loss = loss
        self.delay = delay
        self.under_way: deque[tuple[float, bytes]] = deque()
        self._random = random.Random(seed).random

    def take(self) -> None:
        """Read what waits at the source; what is left is there at the next turn."""
        for _ in range(AT_ONCE):
            try:
                frame = os.read(self.source, FRAME)
            except BlockingIOError:
                return
            if self._random() >= self.loss and len(self.under_way) < ROOM:
                self.under_way.append((time.monotonic() + self.delay, frame))

    def deliver(self) -> float | None:
        """Write what is due; the time when the next frame is, None where there is none."""
        now = time.monotonic()
        while self.under_way:
            due, frame = self.under_way[0]
            if due > now:
                return due
            self.under_way.popleft()
            try:
                os.write(self.sink, frame)
            except OSError:
                pass  # the device is down: the frame is lost, as it is on a cable
        return None


def carry(directions: list[Direction], until_closed: int) -> None:
    by_source = {direction.source: direction for direction in directions}
    with select.epoll() as poller:
        for fd in (*by_source, until_closed):
            poller.register(fd, select.EPOLLIN)
        while True:
            dues = [due for direction in directions if (due := direction.deliver()) is not None]
            for fd, _ in poller.poll(max(min(dues) - time.monotonic(), 0) if dues else None):
                if fd == until_closed:
                    return
                by_source[fd].take()


if __name__ == "__main__":
    a, b = int(sys.argv[1]), int(sys.argv[2])
    loss, delay, seed = float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
    for fd in (a, b):
        os.set_blocking(fd, False)
    carry(
        [
            Direction(a, b, loss=loss, delay=delay, seed=seed),
            Direction(b, a, loss=loss, delay=delay, seed=seed + 1),
        ],
        until_closed=sys.stdin.fileno(),
    )
