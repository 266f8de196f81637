"""Lifetimes of the streams that are read live on a worker.

A live read is a use of its stream as long as it lasts, so the worker uses the stream now and then, for all its readers.
A stream whose time is over at last is found in the same way, and its readers are told.
"""

from __future__ import annotations

import time
from typing import Any

import gevent

from raiden.history.store import StoreFailed
from raiden.history.streams import Stream
from raiden.router import Router
from raiden.runtime.service import Service

# Seconds between two looks at the streams; the part of a ttl after which its stream is used, and the most seconds.
LOOK, PART, MOST = 0.2, 1 / 4, 60.0


class _Held:
    """A stream and its readers; ``due`` is the monotonic time of its next use."""

    __slots__ = ("due", "every", "readers")

    def __init__(self, stream: Stream) -> None:
        self.every = LOOK if stream.ttl < 0 else min(stream.ttl * PART, MOST)
        # A fixed time is compared with the store's clock, which is near this machine's.
        left = stream.expires / 1e6 - time.time() if stream.ttl < 0 else self.every
        self.due = time.monotonic() + max(0.0, left)
        self.readers: set[Any] = set()


class Lifetimes(Service):
    """The streams with a ttl, or a time at which they end, that have readers here."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self._router = router
        self._held: dict[str, _Held] = {}
        self._looks = False

    def hold(self, name: str, stream: Stream, reader: Any) -> None:
        """Use the stream while the reader reads, until `release`; call its ``gone`` if there is no such stream any
        more."""
        if stream.ttl < 0 and not stream.expires:
            return
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = _Held(stream)
        held.readers.add(reader)
        if not self._looks:
            self._looks = True
            self.task(self._look)

    def release(self, name: str, reader: Any) -> None:
        held = self._held.get(name)
        if held is not None:
            held.readers.discard(reader)
            if not held.readers:
                del self._held[name]

    def _look(self) -> None:
        try:
            while self._held:
                gevent.sleep(LOOK)
                now = time.monotonic()
                for name in [name for name, held in self._held.items() if held.due <= now]:
                    self._use(name)
        finally:
            self._looks = False

    def _use(self, name: str) -> None:
        history = self._router.history
        assert history is not None
        try:
            stream = history.stream(name, touch=True).stream
        except StoreFailed:
            return  # it is asked again soon
        held = self._held.get(name)
        if held is None:
            return
        if stream is None or stream.deleted:
            for reader in list(held.readers):
                reader.gone()
        else:
            held.due = time.monotonic() + held.every
