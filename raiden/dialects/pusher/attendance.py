"""Webhooks about the members of presence channels, told by one worker of the cluster: the one that sends webhooks.

It looks which presence channels have subscribers, and watches their members as a client does. A worker that begins to
send takes members as told that have been there for long; the others were perhaps told, and the store knows that.
"""

from __future__ import annotations

import time
from typing import Any, Final

import gevent

from raiden.delivery.census import Census
from raiden.dialects.pusher.names import kind_of
from raiden.dialects.pusher.opened import OpenApp
from raiden.dialects.pusher.webhooks import ADDED, REMOVED
from raiden.gateway import Gateway
from raiden.model.refusals import Refusal
from raiden.presence.watches import Notice
from raiden.runtime import faults
from raiden.runtime.service import Service

# Seconds between two looks at the channels; looks that a channel may be missing before it is watched no longer: its
# last members are told as gone until then.
EVERY: Final = 0.5
PATIENCE: Final = 60
# Seconds for which a member must have been there to be taken as told; the store remembers for longer what was told.
KNOWN: Final = 200.0


class Attendance(Service):
    """The webhooks about members of an app's channels."""

    def __init__(self, gateway: Gateway, app: OpenApp) -> None:
        super().__init__()
        self._gateway = gateway
        self._app = app
        self._census = Census(gateway.router.backend)
        self._watched: dict[str, _Watch] = {}
        self._leads = False

    def do_start(self) -> None:
        self.spawn(self._run)

    def _run(self) -> None:
        while True:
            gevent.sleep(EVERY)
            webhooks = self._gateway.webhooks
            if webhooks is not None and webhooks.leads:
                faults.call("a look at presence channels", self._look)
            else:
                self._end()

    def _end(self) -> None:
        for watch in self._watched.values():
            watch.topic = None
        self._watched.clear()
        self._leads = False

    def _look(self) -> None:
        """Watch the channels that have subscribers now."""
        found: set[str] = set()
        after: str | None = ""
        try:
            while after is not None:
                page = self._census.page(f"{self._app.prefix}presence-", after)
                found.update(page["channels"])
                after = page.get("next")
        except Refusal:
            return  # the next look is soon
        for channel in found - self._watched.keys():
            if kind_of(channel[len(self._app.prefix) :]).presence and not channel.endswith("*"):
                self._begin(channel)
        for channel, watch in list(self._watched.items()):
            watch.missing = 0 if channel in found else watch.missing + 1
            if watch.missing > PATIENCE:
                watch.topic = None
                del self._watched[channel]
        self._leads = True

    def _begin(self, channel: str) -> None:
        try:
            (watched,) = self._gateway.presence.watch((channel,), fresh=True)
        except Refusal:
            return  # it is tried again
        watch = self._watched[channel] = _Watch(self._app)
        self._gateway.presence.listen(watched, watch)  # type: ignore[arg-type]
        for row in watched.watch.listing()["members"] or ():
            if self._leads or row["since"] > time.time() - KNOWN:
                watch.added(channel, row)


class _Watch:
    """A watch of a channel's members, in the place of a subscription and its owner."""

    def __init__(self, app: OpenApp) -> None:
        self._app = app
        self.topic: object | None = app
        self.missing = 0

    @property
    def owner(self) -> _Watch:
        return self

    def presence(self, _: object, notice: Notice) -> None:
        """Tell webhooks who has come and gone."""
        for name, what in notice.events:
            if name == "join":
                self.added(notice.channel, what)
            elif name == "leave":
                self._app.tell(REMOVED, notice.channel, user_id=what["sub"])

    def added(self, channel: str, row: dict[str, Any]) -> None:
        """Tell webhooks of a member, if no worker has done so."""
        self._app.tell(ADDED, channel, once=f"{channel} {row['since']} {row['sub']}", user_id=row["sub"])
