"""Long work in slices."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import gevent
import pytest

from raiden.runtime.turns import Turn, pause


class Readable:
    """A socket that something is sent to, and whether the event loop has seen that."""

    def __init__(self) -> None:
        self.seen = False
        self._near, self._far = socket.socketpair()
        self._watcher = gevent.get_hub().loop.io(self._near.fileno(), 1)
        self._watcher.start(self._see)

    def _see(self) -> None:
        self.seen = True
        self._watcher.stop()

    def send(self) -> None:
        self._far.send(b"x")

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._near.close()
        self._far.close()


@pytest.fixture
def readable() -> Iterator[Readable]:
    found = Readable()
    yield found
    found.close()


@pytest.mark.parametrize("before", range(0, 60, 7))
def test_sockets_are_looked_at_between_slices(readable: Readable, before: int) -> None:
    for _ in range(before):
        pause()
    readable.send()
    for _ in range(2):  # both may come in one look, and be told in either order
        pause()
    assert readable.seen


def test_long_work_is_paused(readable: Readable) -> None:
    """Whether its steps are short or long."""
    turn, end = Turn(), time.monotonic() + 20
    readable.send()
    while not readable.seen and time.monotonic() < end:
        turn.step()
    assert readable.seen
    turn = Turn()
    before = time.monotonic()
    others = gevent.spawn(lambda: None)
    while not others.dead and time.monotonic() < before + 20:
        turn.look()
    assert others.dead
