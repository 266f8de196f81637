"""Webhooks about the members of presence channels, told by one worker of the cluster: the one that sends webhooks.

It looks which presence channels have subscribers, and watches their members as a client does. From then on a member's
coming and its going are told in pairs, in their order. Who comes to a channel that is not watched yet, and goes before
the next look, is told as neither.

A worker that begins to send takes members as told that have been there for long; the others were perhaps told, and the
store knows that. Who goes while no worker sends is not told as gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
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
# Channels whose watches begin at once.
AT_ONCE: Final = 100
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
        # The channels that were there when this worker began to send, and are not watched yet; None: it does not send.
        self._inherited: set[str] | None = None

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
        self._inherited = None

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
        found = {each for each in found if kind_of(each[len(self._app.prefix) :]).presence and not each.endswith("*")}
        if self._inherited is None:
            self._inherited = set(found)
        self._inherited &= found
        new = list(found - self._watched.keys())
        for at in range(0, len(new), AT_ONCE):
            some = new[at : at + AT_ONCE]
            gevent.joinall([gevent.spawn(faults.call, "a watch of members", self._begin, each) for each in some])
        for channel, watch in list(self._watched.items()):
            watch.missing = 0 if channel in found else watch.missing + 1
            if watch.missing > PATIENCE:
                watch.topic = None
                del self._watched[channel]

    def _begin(self, channel: str) -> None:
        try:
            (watched,) = self._gateway.presence.watch((channel,), fresh=True)
        except Refusal:
            return  # it is tried again
        watch = self._watched[channel] = _Watch(self._app)
        self._gateway.presence.listen(watched, watch)  # type: ignore[arg-type]
        rows = watched.watch.listing()["members"] or ()
        if self._inherited is not None and channel in self._inherited:
            self._inherited.discard(channel)
            watch.inherit(channel, rows)
        else:
            watch.become(channel, rows)


class _Watch:
    """A watch of a channel's members, in the place of a subscription and its owner. Each of its ``members`` is told as
    added, and will be told as removed."""

    def __init__(self, app: OpenApp) -> None:
        self._app = app
        self.topic: object | None = app
        self.missing = 0
        self.members: set[str] = set()

    @property
    def owner(self) -> _Watch:
        return self

    def presence(self, _: object, notice: Notice) -> None:
        """Tell webhooks who has come and gone."""
        for name, what in notice.events:
            if name == "join":
                self._add(notice.channel, what["sub"])
            elif name == "leave":
                self._remove(notice.channel, what["sub"])
            elif what["members"] is not None:  # they were too many to be listed
                self.become(notice.channel, what["members"])

    def become(self, channel: str, rows: Iterable[dict[str, Any]]) -> None:
        """Take a list of the members: tell who has come, and who has gone."""
        now = dict.fromkeys([row["sub"] for row in rows])
        for user in self.members - now.keys():
            self._remove(channel, user)
        for user in now:
            self._add(channel, user)

    def inherit(self, channel: str, rows: Iterable[dict[str, Any]]) -> None:
        """Take the first list, of members that another worker has perhaps told."""
        for row in rows:
            self.members.add(row["sub"])
            if row["since"] > time.time() - KNOWN:
                self._app.tell(ADDED, channel, once=f"{channel} {row['since']} {row['sub']}", user_id=row["sub"])

    def _add(self, channel: str, user: str) -> None:
        if user not in self.members:
            self.members.add(user)
            self._app.tell(ADDED, channel, user_id=user)

    def _remove(self, channel: str, user: str) -> None:
        if user in self.members:
            self.members.discard(user)
            self._app.tell(REMOVED, channel, user_id=user)
