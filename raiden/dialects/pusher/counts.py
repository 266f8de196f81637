"""The numbers of subscribers of an app's channels, as these are told of them.

A worker whose clients subscribe or leave says so to all workers, on a topic of the app's own. Each of these that has
subscribers of the channel counts those of the whole cluster, and tells its own.
"""

from __future__ import annotations

import time
from typing import Final

import gevent
import ujson

from raiden.backbone.frames import DIALECTS
from raiden.backend import BackboneFull
from raiden.delivery.census import Census
from raiden.dialects.pusher import frames
from raiden.dialects.pusher.opened import OpenApp
from raiden.dialects.pusher.webhooks import COUNT
from raiden.gateway import Gateway
from raiden.model.encoding import dumps
from raiden.model.refusals import Refusal
from raiden.runtime import faults
from raiden.runtime.service import Service

# Seconds between two looks; subscribers from which on a channel is told its number seldom, and the seconds between.
LOOK: Final = 0.1
MANY: Final = 100
SELDOM: Final = 5.0


class Counts(Service):
    """The counts of an app's channels on a worker."""

    def __init__(self, gateway: Gateway, app: OpenApp) -> None:
        super().__init__()
        self._router = gateway.router
        self._app = app
        self._census = Census(gateway.router.backend)
        self._topic = DIALECTS + f"pusher {app.app.id}".encode()
        # Channels whose subscribers have changed here; those that are to be counted; and for each that was counted the
        # time from which on it may be counted again.
        self._changed: set[str] = set()
        self._due: set[str] = set()
        self._next: dict[str, float] = {}
        self._workers: set[str] = set()

    def do_start(self) -> None:
        self._router.backend.follow(self._topic, self._hear)
        self.spawn(self._run)

    def do_stop(self) -> None:
        self._router.backend.unfollow(self._topic)

    def changed(self, channel: str) -> None:
        """Note that a client has subscribed, or left."""
        self._changed.add(channel)

    def _hear(self, text: bytes) -> None:
        for name in ujson.loads(text):
            if self._router.table.find(name) is not None:
                self._due.add(name)
            else:
                self._next.pop(name, None)

    def _run(self) -> None:
        while True:
            gevent.sleep(LOOK)
            faults.call("a look at counts", self._look)

    def _look(self) -> None:
        if self._changed:
            changed, self._changed = self._changed, set()
            try:
                self._router.backend.tell(self._topic, dumps(list(changed)))
            except BackboneFull:
                self._changed |= changed
        workers = set(self._router.backend.all_workers())
        if workers != self._workers:
            # Nobody tells of the subscribers of a worker that has gone.
            self._workers = workers
            self._due.update(self._next)
        now = time.monotonic()
        ready = [name for name in self._due if self._next.get(name, 0.0) <= now]
        self._due.difference_update(ready)
        if ready:
            gevent.joinall([gevent.spawn(faults.call, "a count", self._count, name) for name in ready])

    def _count(self, channel: str) -> None:
        try:
            count = self._census.row(channel)["subscribers"]
        except Refusal:
            self._due.add(channel)
            return
        found = self._router.table.find(channel)
        if found is None:
            self._next.pop(channel, None)
            return
        self._next[channel] = time.monotonic() + (SELDOM if count > MANY else 0.0)
        frame = frames.told(
            "pusher_internal:subscription_count", {"subscription_count": count}, channel[len(self._app.prefix) :]
        )  # fmt: skip
        for deflate in (False, True) if self._app.app.subscription_count else ():
            for sink in list(found.groups.get(frames.live(self._app.prefix, deflate), ())):
                sink.pending.append(frame)
                sink.flush()
        self._app.tell(COUNT, channel, once=f"{channel} {count} {int(time.time())}", subscription_count=count)
